-- Names by which people refer to what has only an id otherwise. They need not be unique: where two match, the id decides.

-- NULL: the credential is called as its user.
ALTER TABLE credentials ADD COLUMN name text CHECK (char_length(name) BETWEEN 1 AND 64);

-- With the key's name, which authors of changes, versions and deployments are called by.
DROP FUNCTION key_by_prefix(text);
CREATE FUNCTION key_by_prefix(the_prefix text)
RETURNS TABLE (id uuid, project_id text, name text, hash bytea, scopes text[], last_used_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.id, k.project_id, k.name, k.hash, k.scopes, k.last_used_at
    FROM control_plane.api_keys k WHERE k.prefix = the_prefix
$$;

-- How many API keys projects have, for lists of an account's projects: no role sees the keys of more than one project.
CREATE FUNCTION api_key_counts(the_projects text[]) RETURNS TABLE (project_id text, keys integer)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.project_id, count(*)::integer FROM control_plane.api_keys k
    WHERE k.project_id = ANY (the_projects) GROUP BY k.project_id
$$;

-- Names of API keys that sessions of the API were opened with; the worker that reads the journal sees no keys.
CREATE FUNCTION api_key_name(the_key uuid) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.name FROM control_plane.api_keys k WHERE k.id = the_key
$$;
