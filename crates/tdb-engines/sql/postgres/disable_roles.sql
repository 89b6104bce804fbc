-- Roles that cannot be dropped now: nobody logs in as one any more, and a role of the old name can be made.
DO $$
DECLARE r name;
BEGIN
  FOR r IN SELECT rolname FROM pg_roles WHERE rolname IN (:names) LOOP
    EXECUTE format('ALTER ROLE %I NOLOGIN PASSWORD NULL', r);
    EXECUTE format('ALTER ROLE %I RENAME TO %I', r, 'tdb_gone_' || r);
  END LOOP;
END $$
