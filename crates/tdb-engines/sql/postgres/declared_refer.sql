-- Those of the databases $2 (oids) that have objects of role $1, privileges granted to it or policies for it.
SELECT DISTINCT s.dbid FROM pg_shdepend s
 WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = (SELECT oid FROM pg_roles WHERE rolname = $1) AND s.dbid = ANY ($2)
