WITH t AS (
  SELECT c.oid, CASE WHEN n.nspname = 'public' THEN '' ELSE quote_ident(n.nspname) || '.' END || quote_ident(c.relname) AS name
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
     AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'tdb') AND n.nspname !~ '^pg_toast'
     AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
)
SELECT jsonb_agg(jsonb_build_object(
  'name', t.name,
  'columns', (SELECT coalesce(jsonb_agg(jsonb_build_object('name', attname, 'type_name', format_type(atttypid, atttypmod),
                'nullable', NOT attnotnull, 'default', pg_get_expr(adbin, adrelid)) ORDER BY attnum), '[]')
                FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
               WHERE attrelid = t.oid AND attnum > 0 AND NOT attisdropped),
  'indexes', (SELECT coalesce(jsonb_agg(jsonb_build_object('name', relname, 'definition', pg_get_indexdef(indexrelid)) ORDER BY relname), '[]')
                FROM pg_index JOIN pg_class ic ON ic.oid = indexrelid WHERE indrelid = t.oid),
  'constraints', (SELECT coalesce(jsonb_agg(jsonb_build_object('name', conname, 'definition', pg_get_constraintdef(k.oid)) ORDER BY conname), '[]')
                FROM pg_constraint k WHERE conrelid = t.oid AND contype <> 't')
  ) ORDER BY t.name)
  FROM t
