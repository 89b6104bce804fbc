-- Lets the read-only role of this database read everything that its owner has, or creates later. :owner is a literal. Members
-- of extensions are left out, since their scripts decide who can read them.
DO $$
DECLARE o record; owner name := :owner;
BEGIN
  FOR o IN SELECT nspname AS name FROM pg_namespace n
            WHERE nspname NOT IN ('pg_catalog', 'information_schema', 'tdb') AND nspname !~ '^pg_(toast|temp)'
              AND NOT has_schema_privilege('tdb_readers', n.oid, 'USAGE')
              AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_namespace'::regclass AND d.objid = n.oid AND d.deptype = 'e') LOOP
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO tdb_readers', o.name);
  END LOOP;
  FOR o IN SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind, nspname AS schema, relname AS name
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND relpersistence <> 't'
              AND nspname NOT IN ('pg_catalog', 'information_schema', 'tdb') AND nspname !~ '^pg_(toast|temp)'
              AND NOT has_table_privilege('tdb_readers', c.oid, 'SELECT')
              AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') LOOP
    EXECUTE format('GRANT SELECT ON %s %I.%I TO tdb_readers', o.kind, o.schema, o.name);
  END LOOP;
  EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE %I GRANT USAGE ON SCHEMAS TO tdb_readers', owner);
  EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE %I GRANT SELECT ON TABLES TO tdb_readers', owner);
  EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE %I GRANT SELECT ON SEQUENCES TO tdb_readers', owner);
END $$;
