-- The declared roles: those with comment $1. settings: the databases for which a role has settings ('' for all databases).
SELECT r.rolname::text AS name,
       r.rolpassword IS NULL AND r.rolconnlimit = -1 AND r.rolvaliduntil IS NULL
         AND NOT (r.rolcanlogin OR r.rolinherit OR r.rolsuper OR r.rolcreatedb OR r.rolcreaterole OR r.rolreplication OR r.rolbypassrls)
         AS plain,
       ARRAY(SELECT coalesce(d.datname::text, '') FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = s.setdatabase
              WHERE s.setrole = r.oid ORDER BY 1) AS settings,
       ARRAY(SELECT DISTINCT g.rolname::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid) AS groups,
       ARRAY(SELECT DISTINCT g.rolname::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.member WHERE m.roleid = r.oid) AS members
  FROM pg_authid r JOIN pg_shdescription c ON c.classoid = 'pg_authid'::regclass AND c.objoid = r.oid
 WHERE c.description = $1 ORDER BY 1
