-- The extensions that $1 requires and the database lacks, each after those that it requires itself.
SELECT l.name, l.name IN (SELECT name FROM restricted) AS restricted, l.schema AS fixed_schema
  FROM needs n JOIN latest l ON l.name = n.needed
 WHERE n.name = $1 AND n.needed <> $1 AND n.needed NOT IN (SELECT extname FROM pg_extension)
 ORDER BY (SELECT count(*) FROM needs d WHERE d.name = l.name), l.name
