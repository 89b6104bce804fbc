SELECT current_setting('server_version_num')::int4,
       current_setting('max_connections')::int4,
       current_setting('superuser_reserved_connections')::int4,
       rolsuper,
       rolcreatedb OR rolsuper,
       rolcreaterole OR rolsuper,
       pg_is_in_recovery(),
       (SELECT count(*) FROM pg_database WHERE NOT datistemplate),
       (SELECT system_identifier::text FROM pg_control_system())
FROM pg_roles WHERE rolname = current_user
