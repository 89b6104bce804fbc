-- How often the creation of a tenant's database has failed: the data plane tells a client of one that is in error so.
CREATE FUNCTION creation_attempts(the_database uuid) RETURNS TABLE (attempts integer)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT d.attempts FROM control_plane.tenant_databases d WHERE d.id = the_database AND d.status = 'provisioning'
$$;
