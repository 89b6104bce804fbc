-- $5: the server process of the client that requested the extension, which identifies the author; NULL for this one.
INSERT INTO tdb.ddl_event(pid, backend_start, event, tag, objects, query, search_path, role_name, session_role, settings)
SELECT a.pid, a.backend_start, 'extension', 'CREATE EXTENSION',
       jsonb_build_array(jsonb_build_object('type', 'extension', 'id', $1::text, 'schema', $2::text, 'version', $3::text)),
       $4, 'pg_catalog', session_user, session_user, '{}'
  FROM pg_stat_get_activity(NULL) a WHERE a.pid IN ($5::int, pg_backend_pid()) ORDER BY a.pid = $5::int DESC NULLS LAST LIMIT 1
RETURNING pg_current_xact_id()::text
