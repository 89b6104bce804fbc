SELECT v.version, v.schema::text AS fixed_schema,
       NOT v.trusted AND (v.superuser OR EXISTS (SELECT FROM restricted r WHERE r.name = ANY (v.requires))) AS restricted,
       (SELECT e.extversion FROM pg_extension e WHERE e.extname = v.name) AS installed
  FROM pg_available_extension_versions v
 WHERE v.name = $1 AND v.version = coalesce($2, (SELECT default_version FROM pg_available_extensions WHERE name = $1))
