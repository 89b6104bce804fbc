-- Lets the read-only role of this database use every schema, and read everything that its owner creates later. :owner is a
-- literal. What is already granted is left alone, since a second update of a catalog row can make a client's fail. Members of
-- extensions are left out, since their scripts decide who can read them. Existing tables: readers_relations.sql, afterwards.
DO $$
DECLARE o record; owner name := :owner;
BEGIN
  FOR o IN SELECT nspname AS name FROM pg_namespace n
            WHERE nspname NOT IN ('pg_catalog', 'information_schema', 'tdb') AND nspname !~ '^pg_(toast|temp)'
              AND NOT has_schema_privilege('tdb_readers', n.oid, 'USAGE')
              AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_namespace'::regclass AND d.objid = n.oid AND d.deptype = 'e') LOOP
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO tdb_readers', o.name);
  END LOOP;
  FOR o IN SELECT * FROM (VALUES ('n', 'USAGE', 'SCHEMAS'), ('r', 'SELECT', 'TABLES'), ('S', 'SELECT', 'SEQUENCES')) AS v (kind, privilege, objects)
            WHERE NOT EXISTS (SELECT FROM pg_default_acl d, aclexplode(d.defaclacl) a
                               WHERE d.defaclrole = (SELECT oid FROM pg_roles WHERE rolname = owner) AND d.defaclnamespace = 0 AND d.defaclobjtype::text = v.kind
                                 AND a.grantee = 'tdb_readers'::regrole AND a.privilege_type = v.privilege) LOOP
    EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE %I GRANT %s ON %s TO tdb_readers', owner, o.privilege, o.objects);
  END LOOP;
END $$;
