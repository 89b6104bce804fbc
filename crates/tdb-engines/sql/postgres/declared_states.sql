-- The roles that databases share: the declared roles, which are those with comment $1, and the groups $2. settings: the databases
-- for which a role has settings ('' for all databases). groups: of a group, only roles of databases, whose clients can grant them
-- on PostgreSQL 15. members: none of a group, since it has all databases of the server.
SELECT r.rolname::text AS name, s.is_group,
       r.rolpassword IS NULL AND r.rolconnlimit = -1 AND r.rolvaliduntil IS NULL AND r.rolinherit = s.is_group
         AND NOT (r.rolcanlogin OR r.rolsuper OR r.rolcreatedb OR r.rolcreaterole OR r.rolreplication OR r.rolbypassrls) AS plain,
       ARRAY(SELECT coalesce(d.datname::text, '') FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = s.setdatabase
              WHERE s.setrole = r.oid ORDER BY 1) AS settings,
       ARRAY(SELECT DISTINCT g.rolname::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
              WHERE m.member = r.oid AND (NOT s.is_group OR g.rolname ~ '^r_[a-z2-7]{13}(_dep|_ro)?$')) AS groups,
       ARRAY(SELECT DISTINCT g.rolname::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.member
              WHERE m.roleid = r.oid AND NOT s.is_group) AS members
  FROM pg_authid r LEFT JOIN pg_shdescription c ON c.classoid = 'pg_authid'::regclass AND c.objoid = r.oid,
       LATERAL (SELECT r.rolname = ANY ($2::text[]) AS is_group) s
 WHERE c.description = $1 OR s.is_group ORDER BY 1
