-- The settings of new sessions of role $1 in this database that are set for the role or the database. carried: whether it is
-- part of the schema. These are settings that any role can set, except those with effects outside the schema (code, tablespaces,
-- names of sessions) and TenantsDB's own.
WITH found AS (
  SELECT DISTINCT ON (name) name, value
    FROM (SELECT split_part(setting, '=', 1) AS name, regexp_replace(substr(setting, strpos(setting, '=') + 1), CASE WHEN setting ~ '^search_path=' THEN ',\s*' ELSE '^$' END,
                   CASE WHEN setting ~ '^search_path=' THEN ', ' ELSE '' END, 'g') AS value,
                 (setrole <> 0)::int * 2 + (setdatabase <> 0)::int AS precedence
            FROM pg_db_role_setting, unnest(setconfig) setting
           WHERE setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
             AND setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = $1))
             AND (setdatabase <> 0 OR setrole <> 0)) every
   ORDER BY name, precedence DESC
)
SELECT name, value,
       name NOT IN ('application_name', 'default_tablespace', 'local_preload_libraries', 'temp_tablespaces')
         AND name !~ '^tdb\.'
         AND (EXISTS (SELECT FROM pg_settings s WHERE s.name = found.name AND s.context = 'user') OR name ~ '\.') AS carried
  FROM found ORDER BY name
