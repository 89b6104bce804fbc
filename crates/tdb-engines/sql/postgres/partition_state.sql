-- The qualified name of the partition $2 of table $1, and whether its detaching is pending.
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), i.inhdetachpending
  FROM pg_catalog.pg_class p JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
  JOIN pg_catalog.pg_inherits i ON i.inhparent = p.oid
  JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE ARRAY[pn.nspname, p.relname]::text[] = pg_catalog.parse_ident($1::text)
   AND p.relname = (pg_catalog.parse_ident($1::text))[2] AND c.relname = $2::text
 ORDER BY i.inhdetachpending DESC LIMIT 1
