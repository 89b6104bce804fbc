-- The journal of a workspace. :owner is its owner role. GRANT first, then ALTER EXTENSION: members of plpgsql are in
-- nobody's dump, a later grant would show up there as an ACL.
BEGIN;
CREATE SCHEMA tdb;
CREATE TABLE tdb.ddl_event (
  seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
  pid int NOT NULL DEFAULT pg_backend_pid(),
  backend_start timestamptz NOT NULL,
  stmt_at timestamptz NOT NULL DEFAULT statement_timestamp(),
  event text NOT NULL,
  tag text NOT NULL,
  objects jsonb,
  dropped jsonb,
  query text NOT NULL,
  search_path text NOT NULL,
  role_name text NOT NULL,
  session_role text NOT NULL,
  settings jsonb NOT NULL
);
-- Reads the trigger's own context, so a direct call by a user fails (39P03) and nothing can be forged.
CREATE FUNCTION tdb.log_ddl(p_event text, p_tag text, p_path text, p_role text, p_settings jsonb) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE o jsonb; d jsonb; s bigint;
BEGIN
  -- The administrator's own work is no change.
  IF (SELECT rolsuper FROM pg_roles WHERE rolname = session_user) THEN RETURN NULL; END IF;
  IF p_event = 'ddl_command_end' THEN
    SELECT jsonb_agg(jsonb_build_object('tag', c.command_tag, 'type', c.object_type, 'id', c.object_identity,
             'schema', coalesce(c.schema_name, (SELECT e.extnamespace::regnamespace::text FROM pg_extension e
                                                 WHERE c.classid = 'pg_extension'::regclass AND e.oid = c.objid)),
             'version', (SELECT e.extversion FROM pg_extension e
                          WHERE c.classid = 'pg_extension'::regclass AND e.oid = c.objid)))
      INTO o FROM pg_event_trigger_ddl_commands() c
     WHERE NOT c.in_extension AND coalesce(c.schema_name, '') <> 'pg_temp';
    IF o IS NULL THEN RETURN NULL; END IF;  -- no-op, temporary object, member of an extension
  ELSE
    SELECT jsonb_agg(jsonb_build_object('type', object_type, 'schema', schema_name, 'id', object_identity))
      INTO d FROM pg_event_trigger_dropped_objects() WHERE original AND NOT is_temporary;
    IF d IS NULL THEN RETURN NULL; END IF;
  END IF;
  INSERT INTO tdb.ddl_event(backend_start, event, tag, objects, dropped, query, search_path, role_name, session_role,
                            settings)
  VALUES ((SELECT a.backend_start FROM pg_stat_get_activity(pg_backend_pid()) a), p_event, p_tag, o, d,
          coalesce(current_query(), ''), p_path, p_role, session_user, p_settings)
  RETURNING seq INTO s;
  RETURN s;
END $$;
-- An invoker function: sees the caller's search_path, role and settings; so qualified names and operators only.
CREATE FUNCTION tdb.capture() RETURNS event_trigger LANGUAGE plpgsql SET client_min_messages = notice AS $$
DECLARE s bigint;
BEGIN
  s := tdb.log_ddl(TG_EVENT, TG_TAG, pg_catalog.current_setting('search_path'), CURRENT_USER::pg_catalog.text,
    (SELECT coalesce(pg_catalog.jsonb_object_agg(name, setting), '{}'::pg_catalog.jsonb) FROM pg_catalog.pg_settings
      WHERE source OPERATOR(pg_catalog.=) ANY ('{client,session,user,database,"database user"}'::pg_catalog.text[])
        AND name OPERATOR(pg_catalog.=) ANY ('{DateStyle,IntervalStyle,TimeZone,check_function_bodies,default_tablespace,default_table_access_method,default_toast_compression,xmloption,xmlbinary,bytea_output,standard_conforming_strings,backslash_quote,array_nulls,row_security,extra_float_digits,transform_null_equals,quote_all_identifiers}'::pg_catalog.text[])));
  IF s IS NOT NULL AND pg_catalog.current_setting('tdb.session', true) OPERATOR(pg_catalog.<>) '' THEN
    RAISE NOTICE USING ERRCODE = 'TD001', MESSAGE = 'ddl ' OPERATOR(pg_catalog.||) s::pg_catalog.text;
  END IF;
END $$;
REVOKE ALL ON ALL TABLES IN SCHEMA tdb FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA tdb FROM PUBLIC;
GRANT USAGE ON SCHEMA tdb TO :owner;
GRANT EXECUTE ON FUNCTION tdb.log_ddl(text, text, text, text, jsonb) TO :owner;
CREATE EVENT TRIGGER tdb_capture_end ON ddl_command_end EXECUTE FUNCTION tdb.capture();
CREATE EVENT TRIGGER tdb_capture_drop ON sql_drop EXECUTE FUNCTION tdb.capture();
ALTER EVENT TRIGGER tdb_capture_end ENABLE ALWAYS;
ALTER EVENT TRIGGER tdb_capture_drop ENABLE ALWAYS;
ALTER EXTENSION plpgsql ADD SCHEMA tdb;
ALTER EXTENSION plpgsql ADD TABLE tdb.ddl_event;
ALTER EXTENSION plpgsql ADD FUNCTION tdb.log_ddl(text, text, text, text, jsonb);
ALTER EXTENSION plpgsql ADD FUNCTION tdb.capture();
ALTER EXTENSION plpgsql ADD EVENT TRIGGER tdb_capture_end;
ALTER EXTENSION plpgsql ADD EVENT TRIGGER tdb_capture_drop;
COMMIT;
