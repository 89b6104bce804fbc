-- The disabled roles, each with the databases in which something refers to it and which accept connections.
SELECT r.rolname::text,
       coalesce(array_agg(DISTINCT d.datname::text) FILTER (WHERE d.datallowconn AND d.datconnlimit <> -2), '{}')
  FROM pg_roles r
  LEFT JOIN pg_shdepend s ON s.refclassid = 'pg_authid'::regclass AND s.refobjid = r.oid
  LEFT JOIN pg_database d ON d.oid = s.dbid
 WHERE starts_with(r.rolname::text, 'tdb_gone_')
 GROUP BY 1 ORDER BY 1
