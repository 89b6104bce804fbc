-- Disables roles that cannot be dropped now: they cannot log in, and their old names are free for new roles.
DO $$
DECLARE r name;
BEGIN
  FOR r IN SELECT rolname FROM pg_roles WHERE rolname IN (:names) LOOP
    EXECUTE format('ALTER ROLE %I NOLOGIN PASSWORD NULL', r);
    EXECUTE format('ALTER ROLE %I RENAME TO %I', r, 'tdb_gone_' || r);
  END LOOP;
END $$
