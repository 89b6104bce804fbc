-- The text of a client's message, stored once for all rows that refer to it. Each transaction that writes such rows holds a
-- lock on the message until it ends, so that confirming never removes a message that an open transaction refers to.
CREATE TABLE tdb.ddl_message (
  pid int NOT NULL,
  stmt_at timestamptz NOT NULL,
  backend_start timestamptz,
  query text,
  -- Of the last row: its transaction, and the values of all settings that are recorded.
  xid xid8 NOT NULL,
  settings text NOT NULL,
  PRIMARY KEY (pid, stmt_at)
);
-- Calls functions that work only in an event trigger, so a direct call by a user fails (39P03) and rows cannot be forged. Only
-- a transaction that the same message has prepared can hold the lock on the message's row; without a timeout the session would
-- wait for itself.
CREATE FUNCTION tdb.log_event(p_event text, p_tag text, p_path text, p_role text, p_context text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
  o jsonb; d jsonb; s bigint; message tid; is_new boolean; set_here jsonb; temporary text[];
BEGIN
  -- These maintain data. The administrator's own work is no change either.
  IF p_tag IN ('REFRESH MATERIALIZED VIEW', 'REINDEX')
     OR (SELECT rolsuper FROM pg_authid WHERE rolname = session_user) THEN RETURN NULL; END IF;
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
  -- Returns a row for the first event of a transaction in this message, and where settings have changed since the last.
  INSERT INTO tdb.ddl_message AS m (pid, stmt_at, xid, settings)
  VALUES (pg_backend_pid(), statement_timestamp(), pg_current_xact_id(), concat_ws('|', :values))
  ON CONFLICT (pid, stmt_at) DO UPDATE SET xid = excluded.xid, settings = excluded.settings
     WHERE m.xid <> excluded.xid OR m.settings <> excluded.settings
  RETURNING m.ctid, m.backend_start IS NULL INTO message, is_new;
  IF is_new THEN
    UPDATE tdb.ddl_message SET query = coalesce(current_query(), ''),
           backend_start = (SELECT a.backend_start FROM pg_stat_get_activity(pg_backend_pid()) a)
     WHERE ctid = message;
  END IF;
  IF message IS NOT NULL THEN
    SELECT coalesce(jsonb_object_agg(name, setting), '{}') INTO set_here FROM pg_settings
     WHERE source = ANY ('{client,session,user,database,"database user"}') AND name = ANY (:names);
  END IF;
  IF p_tag IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO') AND pg_my_temp_schema() <> 0 THEN
    temporary := ARRAY(SELECT relname FROM pg_class WHERE relnamespace = pg_my_temp_schema() AND relkind <> 'i');
  END IF;
  INSERT INTO tdb.ddl_event(xact_at, event, tag, objects, dropped, search_path, role_name, session_role, settings, context,
                            temporary)
  VALUES (transaction_timestamp(), p_event, p_tag, o, d, p_path, p_role, session_user, set_here,
          -- Its first line is the trigger function itself. A long one is that of a long statement in a function.
          CASE WHEN strpos(p_context, E'\n') > 0 THEN
            CASE WHEN length(p_context) > 4000 THEN right(p_context, 1000) ELSE substr(p_context, strpos(p_context, E'\n') + 1) END
          END,
          nullif(temporary, '{}'))
  RETURNING seq INTO s;
  RETURN s;
END $$;
-- Runs with the caller's search_path and role, so all names and operators are qualified.
CREATE OR REPLACE FUNCTION tdb.capture() RETURNS event_trigger LANGUAGE plpgsql SET client_min_messages = notice AS $$
DECLARE s bigint; context text;
BEGIN
  GET DIAGNOSTICS context = PG_CONTEXT;
  s := tdb.log_event(TG_EVENT, TG_TAG, pg_catalog.current_setting('search_path'), CURRENT_USER::pg_catalog.text, context);
  IF s IS NOT NULL AND pg_catalog.current_setting('tdb.session', true) OPERATOR(pg_catalog.<>) '' THEN
    RAISE NOTICE USING ERRCODE = 'TD001', MESSAGE = 'ddl ' OPERATOR(pg_catalog.||) s::pg_catalog.text;
  END IF;
END $$;
REVOKE ALL ON ALL TABLES IN SCHEMA tdb FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA tdb FROM PUBLIC;
GRANT USAGE ON SCHEMA tdb TO :owner;
GRANT EXECUTE ON FUNCTION tdb.log_event(text, text, text, text, text) TO :owner;
ALTER EXTENSION plpgsql ADD TABLE tdb.ddl_message;
ALTER EXTENSION plpgsql ADD FUNCTION tdb.log_event(text, text, text, text, text);
