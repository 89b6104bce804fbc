-- The beginning of a query: the server's extensions in their default versions, and what each one requires, directly or
-- indirectly. `restricted` are those that only a superuser can create, and untrusted ones that anyone can create but that
-- require one of these: their scripts may need the rights of its creator (PostGIS' geocoder alters the database).
WITH RECURSIVE latest AS (
  SELECT v.name::text, v.requires::text[], v.schema::text, v.trusted, v.superuser AND NOT v.trusted AS closed
    FROM pg_available_extensions a JOIN pg_available_extension_versions v ON v.name = a.name AND v.version = a.default_version
), needs(name, needed) AS (
  SELECT name, unnest(requires) FROM latest
  UNION
  SELECT n.name, q FROM needs n JOIN latest l ON l.name = n.needed, unnest(l.requires) q
), restricted AS (
  SELECT name FROM latest WHERE closed
  UNION
  SELECT n.name FROM needs n JOIN latest l ON l.name = n.name JOIN latest r ON r.name = n.needed WHERE NOT l.trusted AND r.closed
)
