-- Restricted too: one that its user may create but that requires a restricted one. Its script may expect the rights of
-- whoever created that (PostGIS' geocoder alters the database).
SELECT v.version, v.schema::text AS fixed_schema,
       NOT v.trusted AND (v.superuser OR EXISTS (
         SELECT FROM pg_available_extensions a JOIN pg_available_extension_versions q ON q.name = a.name AND q.version = a.default_version
          WHERE a.name = ANY (v.requires) AND q.superuser AND NOT q.trusted)) AS restricted,
       (SELECT e.extversion FROM pg_extension e WHERE e.extname = v.name) AS installed
  FROM pg_available_extension_versions v
 WHERE v.name = $1 AND v.version = coalesce($2, (SELECT default_version FROM pg_available_extensions WHERE name = $1))
