-- What sessions of role $1 begin with in this database because it was set for the role or the database, and whether a schema
-- carries it: only what any role may set for itself, without what would reach past the schema (code, other roles, tablespaces,
-- how sessions are named, our own).
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
