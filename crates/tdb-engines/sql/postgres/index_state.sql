-- Compares names, since to_regclass needs USAGE on the owner's schemas, which the deployer's role does not have.
SELECT i.indisvalid AND i.indisready FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE ARRAY[n.nspname, c.relname]::text[] = pg_catalog.parse_ident($1::text)
   AND c.relname = (pg_catalog.parse_ident($1::text))[2]
