-- TenantsDB's objects in templates and tenant databases. GRANT first, then ALTER EXTENSION: dumps would contain privileges that
-- are granted later. The guard's triggers are disabled while tenants may run DDL, since PostgreSQL reports each call of an event
-- trigger to clients with client_min_messages = debug1.
BEGIN;
CREATE SCHEMA tdb;
CREATE TABLE tdb.deployed_change(change_id bigint PRIMARY KEY, checksum bytea NOT NULL, state text NOT NULL CHECK (state IN ('started','done')), at timestamptz NOT NULL DEFAULT now());
CREATE TABLE tdb.setting(name text PRIMARY KEY, value text NOT NULL);  INSERT INTO tdb.setting VALUES ('tenant_ddl','allow');
:guard
REVOKE ALL ON ALL TABLES IN SCHEMA tdb FROM PUBLIC;  REVOKE ALL ON ALL FUNCTIONS IN SCHEMA tdb FROM PUBLIC;
GRANT USAGE ON SCHEMA tdb TO tdb_migrators;  GRANT SELECT, INSERT, UPDATE ON tdb.deployed_change TO tdb_migrators;
CREATE EVENT TRIGGER tdb_guard_end ON ddl_command_end EXECUTE FUNCTION tdb.guard();
CREATE EVENT TRIGGER tdb_guard_drop ON sql_drop EXECUTE FUNCTION tdb.guard();
ALTER EVENT TRIGGER tdb_guard_end DISABLE;  ALTER EVENT TRIGGER tdb_guard_drop DISABLE;
:record
ALTER EXTENSION plpgsql ADD SCHEMA tdb;  ALTER EXTENSION plpgsql ADD TABLE tdb.deployed_change;  ALTER EXTENSION plpgsql ADD TABLE tdb.setting;
ALTER EXTENSION plpgsql ADD FUNCTION tdb.guard();
ALTER EXTENSION plpgsql ADD EVENT TRIGGER tdb_guard_end;  ALTER EXTENSION plpgsql ADD EVENT TRIGGER tdb_guard_drop;
COMMIT;
