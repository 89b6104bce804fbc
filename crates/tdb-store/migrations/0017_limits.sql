-- What the clients of each database of a tenant may use in one proxy. NULL: what the proxy's configuration says.
ALTER TABLE tenants
    ADD COLUMN pool_mode              text CHECK (pool_mode IN ('session', 'auto')),
    ADD COLUMN clients_max            integer CHECK (clients_max > 0),
    ADD COLUMN server_connections_max integer CHECK (server_connections_max > 0),
    -- Seconds.
    ADD COLUMN queue_timeout          integer CHECK (queue_timeout > 0);
-- Never set.
ALTER TABLE tenant_databases DROP COLUMN clients_max;
ALTER TABLE workspaces DROP COLUMN clients_max;

DROP FUNCTION route(text, text, text, text);
-- the_tenant NULL: the blueprint's workspace. Two statuses: the tenant's (what its owner wants) and the database's.
CREATE FUNCTION route(the_project text, the_blueprint text, the_tenant text, the_rights text)
RETURNS TABLE (id uuid, engine text, server text, host text, port integer, tls text, physical_database text, role text,
               secret bytea, status text, tenant_status text, pool_mode text, clients_max integer,
               server_connections_max integer, queue_timeout integer)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT h.id, h.engine, s.name, s.host, s.port, s.tls, p.name,
           CASE the_rights WHEN 'ro' THEN g.readonly_role ELSE g.owner_role END,
           CASE the_rights WHEN 'ro' THEN g.readonly_secret ELSE g.owner_secret END,
           h.status, h.tenant_status, h.pool_mode, h.clients_max, h.server_connections_max, h.queue_timeout
    FROM (SELECT d.id, d.engine, d.status, NULL::uuid AS workspace, d.id AS tenant_database,
                 t.status AS tenant_status, t.pool_mode, t.clients_max, t.server_connections_max, t.queue_timeout
            FROM control_plane.tenant_databases d
            JOIN control_plane.tenants t ON t.project_id = d.project_id AND t.name = d.tenant
           WHERE d.project_id = the_project AND d.blueprint = the_blueprint AND d.tenant = the_tenant
          UNION ALL
          SELECT w.id, w.engine, w.status, w.id, NULL::uuid, NULL, NULL, NULL, NULL, NULL
            FROM control_plane.workspaces w
           WHERE w.project_id = the_project AND w.blueprint = the_blueprint AND the_tenant IS NULL) AS h
    JOIN control_plane.physical_databases p
      ON (p.workspace_id = h.workspace OR p.tenant_database_id = h.tenant_database) AND p.part = 'serving'
    JOIN control_plane.postgres_databases g ON g.id = p.id
    JOIN control_plane.servers s ON s.name = p.server
$$;
