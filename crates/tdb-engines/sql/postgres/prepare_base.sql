-- By default pg_database_owner owns it, which would be the administrator.
ALTER SCHEMA public OWNER TO tdb_template;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO PUBLIC;
