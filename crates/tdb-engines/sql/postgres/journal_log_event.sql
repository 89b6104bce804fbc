-- Calls functions that work only in an event trigger, so a direct call by a user fails (39P03) and rows cannot be forged. Only
-- a transaction that the same message has prepared can hold the lock on the message's row; without a timeout the session would
-- wait for itself.
-- It reads the context itself, since only with a superuser's rights can a function set lc_messages, and the reader of the journal
-- needs the context's lines untranslated.
CREATE OR REPLACE FUNCTION tdb.log_event(p_event text, p_tag text, p_path text, p_role text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' SET lc_messages = 'C' AS $$
DECLARE
  o jsonb; d jsonb; s bigint; message tid; is_new boolean; set_here jsonb; temporary text[]; called jsonb; calls text;
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
  GET DIAGNOSTICS calls = PG_CONTEXT;
  -- Its first lines are this function and the trigger function, and the assignment between them after an error here.
  calls := nullif(regexp_replace(calls, E'^[^\n]*\n(PL/pgSQL assignment [^\n]*\n)?[^\n]*\n?', ''), '');
  IF calls IS NOT NULL THEN
    -- Now, since the rest of the transaction can alter or drop them.
    SELECT coalesce(jsonb_agg(jsonb_build_object('schema', quote_ident(nspname), 'name', proname, 'sets', sets, 'body', body)), '[]')
      INTO called FROM (
        SELECT n.nspname, p.proname, ARRAY(SELECT split_part(c, '=', 1) FROM unnest(p.proconfig) c) AS sets,
               CASE WHEN p.prosrc ~* (E'\\m(set_config|authorization|commit|rollback)\\M|\\mset\\s+((local|session)\\s+)?"?(role|authorization|search_path|time\\s+zone|'
                                      || array_to_string(:names::text[], '|') || E')\\M') THEN p.prosrc END AS body,
               bool_or(p.proconfig IS NOT NULL OR p.prosrc ~* E'\\m(set|set_config|authorization|commit|rollback)\\M') OVER (PARTITION BY p.proname) AS any_sets
          FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
         WHERE n.nspname NOT IN ('tdb', 'pg_catalog')
           AND p.proname = ANY (ARRAY(SELECT replace(coalesce(m[1], m[2]), '""', '"')
                                        FROM regexp_matches(right(calls, 4000), E'"((?:[^"]|"")+)"[( ]|([^\\s."()]+)\\(', 'g') m)::name[])) f
     WHERE any_sets;
  END IF;
  INSERT INTO tdb.ddl_event(xact_at, event, tag, objects, dropped, search_path, role_name, session_role, settings, context,
                            temporary, functions)
  VALUES (transaction_timestamp(), p_event, p_tag, o, d, p_path, p_role, session_user, set_here,
          -- A long one is that of a long statement in a function.
          CASE WHEN length(calls) > 4000 THEN right(calls, 1000) ELSE calls END,
          nullif(temporary, '{}'), called)
  RETURNING seq INTO s;
  RETURN s;
END $$;
-- Runs with the caller's search_path and role, so all names and operators are qualified.
CREATE OR REPLACE FUNCTION tdb.capture() RETURNS event_trigger LANGUAGE plpgsql SET client_min_messages = notice AS $$
DECLARE s pg_catalog.int8;
BEGIN
  s := tdb.log_event(TG_EVENT, TG_TAG, pg_catalog.current_setting('search_path'), CURRENT_USER::pg_catalog.text);
  IF s IS NOT NULL AND pg_catalog.current_setting('tdb.session', true) OPERATOR(pg_catalog.<>) '' THEN
    RAISE NOTICE USING ERRCODE = 'TD001', MESSAGE = 'ddl ' OPERATOR(pg_catalog.||) s::pg_catalog.text;
  END IF;
END $$;
REVOKE ALL ON FUNCTION tdb.capture() FROM PUBLIC;
-- The trigger function runs with the rights of the role that runs the statement, which can be a declared role.
GRANT EXECUTE ON FUNCTION tdb.log_event(text, text, text, text) TO PUBLIC;
ALTER EXTENSION plpgsql ADD FUNCTION tdb.log_event(text, text, text, text);
