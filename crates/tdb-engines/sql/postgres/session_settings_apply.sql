-- Sets the session settings of this database's schema (tdb.setting, rows 'set NAME') for its roles, except deployers and the
-- administrator, whose work must not depend on them.
DO $$
DECLARE r record; s record; database name := current_database();
BEGIN
  IF to_regclass('tdb.setting') IS NULL THEN RETURN; END IF;
  FOR r IN SELECT a.oid, a.rolname, has_database_privilege(a.oid, d.oid, 'CREATE') AS writes
             FROM pg_database d, aclexplode(d.datacl) x JOIN pg_roles a ON a.oid = x.grantee
            WHERE d.datname = database AND x.privilege_type = 'CONNECT' AND a.oid <> d.datdba AND a.rolcanlogin AND NOT a.rolsuper
              AND NOT pg_has_role(a.oid, 'tdb_migrators', 'MEMBER') LOOP
    IF EXISTS (SELECT FROM pg_db_role_setting
                WHERE setrole = r.oid AND setdatabase = (SELECT oid FROM pg_database WHERE datname = database)) THEN
      EXECUTE format('ALTER ROLE %I IN DATABASE %I RESET ALL', r.rolname, database);
    END IF;
    FOR s IN SELECT substr(name, 5) AS name, value FROM tdb.setting WHERE name ~ '^set ' LOOP
      -- Read-only credentials must stay read-only.
      CONTINUE WHEN NOT r.writes AND s.name IN ('default_transaction_read_only', 'transaction_read_only');
      EXECUTE format('ALTER ROLE %I IN DATABASE %I SET %I TO %s', r.rolname, database, s.name, s.value);
    END LOOP;
  END LOOP;
END $$;
