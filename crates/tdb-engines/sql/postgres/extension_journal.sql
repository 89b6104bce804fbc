INSERT INTO tdb.ddl_event(backend_start, event, tag, objects, query, search_path, role_name, session_role, settings)
SELECT a.backend_start, 'extension', 'CREATE EXTENSION',
       jsonb_build_array(jsonb_build_object('type', 'extension', 'id', $1::text, 'schema', $2::text, 'version', $3::text)),
       $4, 'pg_catalog', session_user, session_user, '{}'
  FROM pg_stat_get_activity(pg_backend_pid()) a
RETURNING pg_current_xact_id()::text
