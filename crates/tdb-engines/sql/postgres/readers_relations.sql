-- Lets the read-only role read the tables, views and sequences that exist, each in a transaction for itself. GRANT takes no lock,
-- and DDL of a client that meets its update fails with "tuple concurrently updated". So the lock of DDL that excludes other DDL,
-- but no reading and writing, is taken first: by COMMENT, since LOCK TABLE takes no sequences, and the base tables of views.
-- The comment of a column that every table has is not set and stays so; views and sequences have none, and keep their comment:
-- for these, waiting would give time to change it. Fails with 55P03 after all others if a client held the lock of one.
DO $$
DECLARE o record; busy text;
BEGIN
  FOR o IN SELECT c.oid, CASE relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END AS kind, nspname AS schema, relname AS name
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND relpersistence <> 't'
              AND nspname NOT IN ('pg_catalog', 'information_schema', 'tdb') AND nspname !~ '^pg_(toast|temp)'
              AND NOT has_table_privilege('tdb_readers', c.oid, 'SELECT')
              AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') LOOP
    BEGIN
      IF o.kind = 'TABLE' THEN
        PERFORM set_config('lock_timeout', CASE WHEN busy IS NULL THEN '2s' ELSE '1ms' END, true);
        EXECUTE format('COMMENT ON COLUMN %I.%I.tableoid IS NULL', o.schema, o.name);
      ELSE
        PERFORM set_config('lock_timeout', '1ms', true);
        EXECUTE format('COMMENT ON %s %I.%I IS %L', o.kind, o.schema, o.name, obj_description(o.oid, 'pg_class'));
      END IF;
      EXECUTE format('GRANT SELECT ON %s %I.%I TO tdb_readers', CASE o.kind WHEN 'SEQUENCE' THEN 'SEQUENCE' ELSE 'TABLE' END, o.schema, o.name);
    EXCEPTION
      WHEN lock_not_available THEN busy := coalesce(busy, format('%I.%I', o.schema, o.name));
      -- Dropped, or replaced by another kind, meanwhile.
      WHEN undefined_table OR undefined_column OR undefined_object OR invalid_schema_name OR wrong_object_type THEN NULL;
    END;
    COMMIT;
  END LOOP;
  IF busy IS NOT NULL THEN
    RAISE lock_not_available USING MESSAGE = format('a client changes the definition of %s', busy);
  END IF;
END $$;
