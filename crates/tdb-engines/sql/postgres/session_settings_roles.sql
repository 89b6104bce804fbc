-- The roles other than the owner $1 that clients of this database use: they can log in and connect, and are not deployers.
SELECT a.rolname::text
  FROM pg_database d, aclexplode(d.datacl) x JOIN pg_roles a ON a.oid = x.grantee
 WHERE d.datname = current_database() AND x.privilege_type = 'CONNECT' AND a.oid <> d.datdba AND a.rolname <> $1
   AND a.rolcanlogin AND NOT a.rolsuper AND NOT pg_has_role(a.oid, 'tdb_migrators', 'MEMBER')
