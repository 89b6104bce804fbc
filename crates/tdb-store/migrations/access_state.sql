-- An expression: what the catalog has of the grants and policies, as one text that differs where they do.
md5((SELECT string_agg(line, E'\n' ORDER BY line) FROM (
    SELECT concat_ws(' ', 'database', datdba::regrole, datacl::text) AS line FROM pg_database WHERE datname = current_database()
    UNION ALL SELECT concat_ws(' ', 'schema', nspowner::regrole, nspacl::text) FROM pg_namespace WHERE nspname = 'control_plane'
    UNION ALL SELECT concat_ws(' ', 'relation', oid::regclass, relkind, relowner::regrole, relrowsecurity, relforcerowsecurity, relacl::text)
                FROM pg_class WHERE relnamespace = 'control_plane'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'S')
    UNION ALL SELECT concat_ws(' ', 'column', attrelid::regclass, attname, attacl::text)
                FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
               WHERE relnamespace = 'control_plane'::regnamespace AND attacl IS NOT NULL
    UNION ALL SELECT concat_ws(' ', 'function', oid::regprocedure, proowner::regrole, proacl::text)
                FROM pg_proc WHERE pronamespace = 'control_plane'::regnamespace
    UNION ALL SELECT concat_ws(' ', 'policy', polrelid::regclass, polname, polcmd, polpermissive, polroles::regrole[]::text,
                               pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))
                FROM pg_policy JOIN pg_class ON pg_class.oid = polrelid WHERE relnamespace = 'control_plane'::regnamespace) AS lines))
