-- The databases among $1 that lack some of the three default privileges of tdb_readers. A member of the group can remove them with
-- DROP OWNED, but no other privilege, since the group did not grant them. pg_shdepend covers all databases.
SELECT d.datname::text FROM pg_database d
 WHERE d.datname::text = ANY ($1)
   AND (SELECT count(*) FROM pg_shdepend s
         WHERE s.dbid = d.oid AND s.classid = 'pg_default_acl'::regclass AND s.deptype = 'a'
           AND s.refclassid = 'pg_authid'::regclass AND s.refobjid = 'tdb_readers'::regrole) < 3
