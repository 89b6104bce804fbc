DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tdb_template') THEN CREATE ROLE tdb_template NOLOGIN; END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tdb_migrators') THEN CREATE ROLE tdb_migrators NOLOGIN; END IF;
END $$;
REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC;
