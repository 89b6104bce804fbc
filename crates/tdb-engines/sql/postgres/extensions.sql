SELECT name::text, default_version, installed_version,
       (SELECT extnamespace::regnamespace::text FROM pg_extension e WHERE e.extname = a.name) AS schema
  FROM pg_available_extensions a WHERE name <> 'plpgsql' ORDER BY name
