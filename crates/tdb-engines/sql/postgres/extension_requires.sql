-- Extensions that $1 requires, with what they require, and that are not installed: the ones that others need first.
WITH RECURSIVE required(name, depth) AS (
  SELECT q::text, 1 FROM pg_available_extensions a JOIN pg_available_extension_versions v ON v.name = a.name AND v.version = a.default_version,
         unnest(v.requires) q
   WHERE a.name = $1
  UNION
  SELECT q::text, depth + 1 FROM required r JOIN pg_available_extensions a ON a.name = r.name
    JOIN pg_available_extension_versions v ON v.name = a.name AND v.version = a.default_version, unnest(v.requires) q
   WHERE depth < 10
)
SELECT r.name, v.superuser AND NOT v.trusted
  FROM (SELECT name, max(depth) AS depth FROM required GROUP BY name) r
  JOIN pg_available_extensions a ON a.name = r.name
  JOIN pg_available_extension_versions v ON v.name = a.name AND v.version = a.default_version
 WHERE r.name NOT IN (SELECT extname FROM pg_extension)
 ORDER BY r.depth DESC, r.name
