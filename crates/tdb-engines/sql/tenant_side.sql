-- The tenant side of tdb. GRANT first, then ALTER EXTENSION: a later grant would show up in dumps as an ACL.
BEGIN;
CREATE SCHEMA tdb;
CREATE TABLE tdb.deployed_change(change_id bigint PRIMARY KEY, checksum bytea NOT NULL, state text NOT NULL CHECK (state IN ('started','done')), at timestamptz NOT NULL DEFAULT now());
CREATE TABLE tdb.setting(name text PRIMARY KEY, value text NOT NULL);  INSERT INTO tdb.setting VALUES ('tenant_ddl','allow');
CREATE FUNCTION tdb.guard() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF (SELECT value FROM tdb.setting WHERE name = 'tenant_ddl') = 'allow' OR pg_has_role(session_user, 'tdb_migrators', 'MEMBER') THEN RETURN; END IF;
  IF TG_EVENT = 'ddl_command_end' THEN
    IF NOT EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE coalesce(schema_name,'') <> 'pg_temp') THEN RETURN; END IF;
  ELSIF NOT EXISTS (SELECT FROM pg_event_trigger_dropped_objects() WHERE original AND NOT is_temporary) THEN RETURN; END IF;
  RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = format('%s is not allowed in a tenant database', TG_TAG), HINT = 'Change the schema in the workspace and deploy it.';
END $$;
REVOKE ALL ON ALL TABLES IN SCHEMA tdb FROM PUBLIC;  REVOKE ALL ON ALL FUNCTIONS IN SCHEMA tdb FROM PUBLIC;
GRANT USAGE ON SCHEMA tdb TO tdb_migrators;  GRANT SELECT, INSERT, UPDATE ON tdb.deployed_change TO tdb_migrators;
CREATE EVENT TRIGGER tdb_guard_end ON ddl_command_end EXECUTE FUNCTION tdb.guard();
CREATE EVENT TRIGGER tdb_guard_drop ON sql_drop EXECUTE FUNCTION tdb.guard();
ALTER EVENT TRIGGER tdb_guard_end ENABLE ALWAYS;  ALTER EVENT TRIGGER tdb_guard_drop ENABLE ALWAYS;
ALTER EXTENSION plpgsql ADD SCHEMA tdb;  ALTER EXTENSION plpgsql ADD TABLE tdb.deployed_change;  ALTER EXTENSION plpgsql ADD TABLE tdb.setting;
ALTER EXTENSION plpgsql ADD FUNCTION tdb.guard();
ALTER EXTENSION plpgsql ADD EVENT TRIGGER tdb_guard_end;  ALTER EXTENSION plpgsql ADD EVENT TRIGGER tdb_guard_drop;
COMMIT;
