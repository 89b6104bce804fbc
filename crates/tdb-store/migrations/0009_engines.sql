-- A second engine has a place: what a server speaks, and where a database is, apart from what it is for. A physical
-- database is the one that serves its holder, or one of the two of a move: the one that is coming or the one that is going.
ALTER TABLE servers ADD COLUMN engine text NOT NULL DEFAULT 'PostgreSQL' CHECK (engine IN ('PostgreSQL'));
ALTER TABLE workspaces ADD COLUMN engine text NOT NULL DEFAULT 'PostgreSQL' CHECK (engine IN ('PostgreSQL'));
ALTER TABLE tenant_databases ADD COLUMN engine text NOT NULL DEFAULT 'PostgreSQL' CHECK (engine IN ('PostgreSQL'));

ALTER TABLE templates ADD UNIQUE (project_id, id);
ALTER TABLE tenant_databases ADD UNIQUE (project_id, id);

-- While it is created its name on the server carries its id: a database without a row can be told by its name.
CREATE TABLE physical_databases (
    id                  uuid PRIMARY KEY,
    project_id          text NOT NULL,
    workspace_id        uuid,
    template_id         uuid,
    tenant_database_id  uuid,
    part                text NOT NULL CHECK (part IN ('serving', 'coming', 'going')),
    server              text NOT NULL REFERENCES servers,
    -- What it is called or about to be called on its server; NULL until that is decided.
    name                text,
    CHECK (num_nonnulls(workspace_id, template_id, tenant_database_id) = 1),
    UNIQUE (workspace_id, part),
    UNIQUE (template_id, part),
    UNIQUE (tenant_database_id, part),
    UNIQUE (server, name),
    FOREIGN KEY (project_id, workspace_id) REFERENCES workspaces (project_id, id) ON DELETE CASCADE,
    FOREIGN KEY (project_id, template_id) REFERENCES templates (project_id, id) ON DELETE CASCADE,
    FOREIGN KEY (project_id, tenant_database_id) REFERENCES tenant_databases (project_id, id) ON DELETE CASCADE
);

-- What PostgreSQL needs of it. Seal of a secret: role:<name>. A published template's roles are gone from the server.
CREATE TABLE postgres_databases (
    id               uuid PRIMARY KEY REFERENCES physical_databases ON DELETE CASCADE,
    project_id       text NOT NULL,
    oid              bigint CHECK (oid BETWEEN 0 AND 4294967295),
    owner_role       text NOT NULL UNIQUE,
    owner_secret     bytea NOT NULL,
    deployer_role    text NOT NULL UNIQUE,
    deployer_secret  bytea NOT NULL,
    readonly_role    text NOT NULL UNIQUE,
    readonly_secret  bytea NOT NULL
);

INSERT INTO physical_databases (id, project_id, workspace_id, template_id, tenant_database_id, part, server, name)
    SELECT id, project_id, id, NULL::uuid, NULL::uuid, 'serving', server, physical_database FROM workspaces
    UNION ALL SELECT id, project_id, NULL::uuid, id, NULL::uuid, 'serving', server, physical_database FROM templates
    UNION ALL SELECT id, project_id, NULL::uuid, NULL::uuid, id, 'serving', server, physical_database FROM tenant_databases;
INSERT INTO postgres_databases
    SELECT id, project_id, database_oid, owner_role, owner_secret, deployer_role, deployer_secret, readonly_role, readonly_secret
      FROM workspaces
    UNION ALL
    SELECT id, project_id, database_oid, owner_role, owner_secret, deployer_role, deployer_secret, readonly_role, readonly_secret
      FROM templates
    UNION ALL
    SELECT id, project_id, database_oid, owner_role, owner_secret, deployer_role, deployer_secret, readonly_role, readonly_secret
      FROM tenant_databases;

DROP FUNCTION route(text, text, text, text);
-- Columns and words that nothing uses go too.
ALTER TABLE workspaces DROP COLUMN server, DROP COLUMN physical_database, DROP COLUMN database_oid, DROP COLUMN owner_role,
    DROP COLUMN owner_secret, DROP COLUMN deployer_role, DROP COLUMN deployer_secret, DROP COLUMN readonly_role,
    DROP COLUMN readonly_secret, DROP COLUMN drained_at, DROP CONSTRAINT workspaces_status_check,
    ADD CHECK (status IN ('provisioning', 'ready', 'deleting')),
    ADD CHECK (step IN ('intent', 'cloned', 'ready', 'deleting'));
ALTER TABLE templates DROP COLUMN server, DROP COLUMN physical_database, DROP COLUMN database_oid, DROP COLUMN owner_role,
    DROP COLUMN owner_secret, DROP COLUMN deployer_role, DROP COLUMN deployer_secret, DROP COLUMN readonly_role,
    DROP COLUMN readonly_secret, ADD CHECK (step IN ('intent', 'adopted', 'replayed', 'published', 'retired'));
ALTER TABLE tenant_databases DROP COLUMN server, DROP COLUMN physical_database, DROP COLUMN database_oid,
    DROP COLUMN owner_role, DROP COLUMN owner_secret, DROP COLUMN deployer_role, DROP COLUMN deployer_secret,
    DROP COLUMN readonly_role, DROP COLUMN readonly_secret, DROP COLUMN isolation_level,
    DROP CONSTRAINT tenant_databases_status_check, ADD CHECK (status IN ('provisioning', 'ready', 'deleting')),
    ADD CHECK (step IN ('intent', 'cloned', 'adopted', 'ready', 'deleting'));
ALTER TABLE tenants DROP CONSTRAINT tenants_status_check,
    ADD CHECK (status IN ('ready', 'suspended', 'deleted', 'deleting'));
ALTER TABLE deployments DROP CONSTRAINT deployments_status_check,
    ADD CHECK (status IN ('running', 'completed', 'failed'));
CREATE INDEX ON templates (workspace_id);
CREATE INDEX ON deployments (status) WHERE status = 'running';

-- the_tenant NULL: the blueprint's workspace. Two statuses: the tenant's (what its owner wants) and the database's.
CREATE FUNCTION route(the_project text, the_blueprint text, the_tenant text, the_rights text)
RETURNS TABLE (id uuid, engine text, server text, host text, port integer, tls text, physical_database text, role text,
               secret bytea, status text, tenant_status text, clients_max integer)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT h.id, h.engine, s.name, s.host, s.port, s.tls, p.name,
           CASE the_rights WHEN 'ro' THEN g.readonly_role ELSE g.owner_role END,
           CASE the_rights WHEN 'ro' THEN g.readonly_secret ELSE g.owner_secret END,
           h.status, h.tenant_status, h.clients_max
    FROM (SELECT d.id, d.engine, d.status, t.status AS tenant_status, d.clients_max, NULL::uuid AS workspace, d.id AS tenant_database
            FROM control_plane.tenant_databases d
            JOIN control_plane.tenants t ON t.project_id = d.project_id AND t.name = d.tenant
           WHERE d.project_id = the_project AND d.blueprint = the_blueprint AND d.tenant = the_tenant
          UNION ALL
          SELECT w.id, w.engine, w.status, NULL, w.clients_max, w.id, NULL::uuid
            FROM control_plane.workspaces w
           WHERE w.project_id = the_project AND w.blueprint = the_blueprint AND the_tenant IS NULL) AS h
    JOIN control_plane.physical_databases p
      ON (p.workspace_id = h.workspace OR p.tenant_database_id = h.tenant_database) AND p.part = 'serving'
    JOIN control_plane.postgres_databases g ON g.id = p.id
    JOIN control_plane.servers s ON s.name = p.server
$$;
