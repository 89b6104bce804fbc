SELECT current_setting('server_version_num')::int4,
       current_setting('max_connections')::int4,
       current_setting('superuser_reserved_connections')::int4,
       (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
       (SELECT count(*) FROM pg_database WHERE NOT datistemplate)
