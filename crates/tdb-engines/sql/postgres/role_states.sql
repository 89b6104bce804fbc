-- The state of roles. plain: it can log in without limits and has no server-wide attributes. settings: one text each, of the
-- database ('' for all databases), a line break, and name=value.
SELECT r.rolname::text AS name, r.rolpassword AS verifier,
       r.rolcanlogin AND r.rolconnlimit = -1 AND coalesce(r.rolvaliduntil = 'infinity', true)
         AND NOT (r.rolsuper OR r.rolcreatedb OR r.rolcreaterole OR r.rolreplication OR r.rolbypassrls) AS plain,
       r.rolinherit AS inherits,
       coalesce((SELECT array_agg(concat_ws(E'\n', coalesce(d.datname::text, ''), c) ORDER BY d.datname NULLS FIRST, c)
                   FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = s.setdatabase, unnest(s.setconfig) c
                  WHERE s.setrole = r.oid), '{}') AS settings,
       coalesce((SELECT array_agg(DISTINCT g.rolname::text) FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
                  WHERE m.member = r.oid), '{}') AS groups
  FROM pg_authid r WHERE r.rolname = ANY ($1)
