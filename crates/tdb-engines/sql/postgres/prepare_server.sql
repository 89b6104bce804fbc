DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tdb_template') THEN CREATE ROLE tdb_template NOLOGIN; END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tdb_migrators') THEN CREATE ROLE tdb_migrators NOLOGIN; END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tdb_readers') THEN CREATE ROLE tdb_readers NOLOGIN; END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tdb_writers') THEN CREATE ROLE tdb_writers NOLOGIN; END IF;
END $$;
REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC;
