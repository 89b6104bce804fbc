-- Ends the sessions of the roles $1 that began before $2, except that of the process $3.
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE usename::text = ANY ($1) AND backend_start <= $2 AND pid <> $3 AND pid <> pg_backend_pid()
