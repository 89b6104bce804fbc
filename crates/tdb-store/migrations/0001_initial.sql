-- The metadata of an installation. Runs as the schema's owner, within schema control_plane, in one transaction.
-- Who may do what (grants, row-level security) is not here but in access.sql, which is applied after every migration:
-- a table with a column project_id is protected by having it. Statuses are words; who may move from which to which is
-- the control plane's, by compare-and-set. A secret is sealed (bytea) or a verifier or a hash, never itself.

-- One row: what this installation is called on shared servers.
CREATE TABLE system_config (
    one           boolean PRIMARY KEY DEFAULT true CHECK (one),
    installation  text NOT NULL CHECK (installation ~ '^[a-z2-7]{8}$'),
    created_at    timestamptz NOT NULL DEFAULT now()
);

-- The store's own login roles; context of the seal: store-role:<name>.
CREATE TABLE store_roles (
    purpose  text PRIMARY KEY CHECK (purpose IN ('api', 'data_plane', 'jobs')),
    name     text NOT NULL UNIQUE,
    secret   bytea NOT NULL
);

CREATE TABLE projects (
    project_id  text PRIMARY KEY CHECK (project_id ~ '^prj_[a-z2-7]{10}$'),
    -- Whoever holds an admin key of one project of an account sees its other projects, and no more.
    account     uuid NOT NULL,
    name        text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 64),
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE api_keys (
    id            uuid PRIMARY KEY,
    project_id    text NOT NULL REFERENCES projects ON DELETE CASCADE,
    name          text NOT NULL,
    prefix        text NOT NULL,
    hash          bytea NOT NULL CHECK (length(hash) = 32),
    scopes        text[] NOT NULL CHECK (scopes <@ ARRAY['read', 'write', 'admin'] AND cardinality(scopes) > 0),
    created_at    timestamptz NOT NULL DEFAULT now(),
    last_used_at  timestamptz
);
CREATE INDEX ON api_keys (prefix);
CREATE INDEX ON api_keys (project_id, created_at);

-- Database servers of the data plane, of the whole installation. Seal: server:<name>.
CREATE TABLE servers (
    name          text PRIMARY KEY,
    host          text NOT NULL,
    port          integer NOT NULL CHECK (port BETWEEN 1 AND 65535),
    tls           text NOT NULL CHECK (tls IN ('disable', 'prefer', 'require', 'verify-ca', 'verify-full')),
    admin_user    text NOT NULL,
    admin_secret  bytea NOT NULL,
    opaque_names  boolean NOT NULL DEFAULT false,
    -- What the last contact found; server_version_num, and facts such as "may create event triggers".
    version       integer,
    facts         jsonb NOT NULL DEFAULT '{}',
    created_at    timestamptz NOT NULL DEFAULT now()
);

-- A workspace's row is the intent of its creation and of its deletion too: step, attempts, last_error.
CREATE TABLE workspaces (
    id                 uuid PRIMARY KEY,
    project_id         text NOT NULL REFERENCES projects,
    blueprint          text NOT NULL,
    status             text NOT NULL CHECK (status IN ('provisioning', 'ready', 'deleting', 'error')),
    step               text NOT NULL DEFAULT 'intent',
    attempts           integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    last_error         text,
    lease_owner        uuid,
    lease_until        timestamptz,
    not_before         timestamptz NOT NULL DEFAULT now(),
    server             text NOT NULL REFERENCES servers,
    physical_database  text,
    database_oid       bigint CHECK (database_oid BETWEEN 0 AND 4294967295),
    owner_role         text NOT NULL UNIQUE,
    owner_secret       bytea NOT NULL,
    deployer_role      text NOT NULL UNIQUE,
    deployer_secret    bytea NOT NULL,
    readonly_role      text NOT NULL UNIQUE,
    readonly_secret    bytea NOT NULL,
    clients_max        integer CHECK (clients_max > 0),
    settings           jsonb NOT NULL DEFAULT '{}',
    created_at         timestamptz NOT NULL DEFAULT now(),
    drained_at         timestamptz,
    UNIQUE (project_id, blueprint),
    UNIQUE (project_id, id),
    UNIQUE (server, physical_database)
);
CREATE INDEX ON workspaces (not_before) WHERE status IN ('provisioning', 'deleting');

-- Who sits behind a server process of a workspace: the author of what its journal records.
CREATE TABLE workspace_sessions (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    workspace_id      uuid NOT NULL,
    project_id        text NOT NULL,
    server            text NOT NULL REFERENCES servers,
    server_pid        integer NOT NULL,
    -- By the server's clock; NULL where the process had gone when we looked. Pids are used again, the pair is not.
    backend_start     timestamptz,
    credential_id     uuid NOT NULL,
    client_address    text NOT NULL,
    application_name  text NOT NULL DEFAULT '',
    started_at        timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (project_id, workspace_id) REFERENCES workspaces (project_id, id) ON DELETE CASCADE
);
CREATE INDEX ON workspace_sessions (workspace_id, server_pid, backend_start);
CREATE INDEX ON workspace_sessions (started_at);

-- The change log: one row per committed DDL transaction of a workspace, numbered from 1.
CREATE TABLE changes (
    workspace_id  uuid NOT NULL,
    project_id    text NOT NULL,
    id            integer NOT NULL CHECK (id > 0),
    -- The transaction in the workspace's database: a drain that repeats itself adds nothing.
    xid           bigint NOT NULL,
    statements    jsonb NOT NULL,
    tags          jsonb NOT NULL DEFAULT '[]',
    objects       jsonb NOT NULL DEFAULT '[]',
    left_out      jsonb NOT NULL DEFAULT '[]',
    -- The change as the engine replays it.
    body          jsonb NOT NULL,
    checksum      bytea NOT NULL,
    author        text NOT NULL,
    -- 'deployed' is not among them: it follows from what tenants hold.
    state         text NOT NULL CHECK (state IN ('pending', 'skipped', 'reverted', 'broken')),
    reason        text,
    committed_at  timestamptz NOT NULL,
    PRIMARY KEY (workspace_id, id),
    UNIQUE (workspace_id, xid),
    FOREIGN KEY (project_id, workspace_id) REFERENCES workspaces (project_id, id) ON DELETE CASCADE
);

-- Immutable: a number once shown never changes its content.
CREATE TABLE versions (
    workspace_id  uuid NOT NULL,
    project_id    text NOT NULL,
    number        integer NOT NULL CHECK (number > 0),
    change_ids    integer[] NOT NULL,
    content_hash  bytea NOT NULL,
    author        text NOT NULL,
    statements    integer NOT NULL CHECK (statements >= 0),
    verified      boolean NOT NULL,
    reason        text,
    created_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (workspace_id, number),
    UNIQUE (workspace_id, content_hash),
    FOREIGN KEY (project_id, workspace_id) REFERENCES workspaces (project_id, id) ON DELETE CASCADE
);

-- What a version's schema is, object by object, per PostgreSQL major version.
CREATE TABLE version_facts (
    workspace_id  uuid NOT NULL,
    project_id    text NOT NULL,
    version       integer NOT NULL,
    pg_major      integer NOT NULL,
    hash          text NOT NULL,
    facts         jsonb NOT NULL,
    PRIMARY KEY (workspace_id, version, pg_major),
    FOREIGN KEY (workspace_id, version) REFERENCES versions (workspace_id, number) ON DELETE CASCADE,
    FOREIGN KEY (project_id, workspace_id) REFERENCES workspaces (project_id, id) ON DELETE CASCADE
);

-- Builds (version NULL) and the templates they become.
CREATE TABLE templates (
    id                 uuid PRIMARY KEY,
    workspace_id       uuid NOT NULL,
    project_id         text NOT NULL,
    server             text NOT NULL REFERENCES servers,
    version            integer,
    change_ids         integer[] NOT NULL DEFAULT '{}',
    status             text NOT NULL CHECK (status IN ('building', 'publishing', 'published', 'dropping')),
    step               text NOT NULL DEFAULT 'intent',
    attempts           integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    last_error         text,
    not_before         timestamptz NOT NULL DEFAULT now(),
    physical_database  text,
    database_oid       bigint CHECK (database_oid BETWEEN 0 AND 4294967295),
    -- The build's; a published template's roles are gone from the server.
    owner_role         text NOT NULL UNIQUE,
    owner_secret       bytea NOT NULL,
    deployer_role      text NOT NULL UNIQUE,
    deployer_secret    bytea NOT NULL,
    readonly_role      text NOT NULL UNIQUE,
    readonly_secret    bytea NOT NULL,
    created_at         timestamptz NOT NULL DEFAULT now(),
    UNIQUE (server, physical_database),
    FOREIGN KEY (project_id, workspace_id) REFERENCES workspaces (project_id, id)
);
CREATE INDEX ON templates (workspace_id, server);

CREATE TABLE tenants (
    project_id   text NOT NULL REFERENCES projects,
    name         text NOT NULL,
    status       text NOT NULL CHECK (status IN ('provisioning', 'ready', 'suspended', 'migrating', 'deleted', 'deleting', 'error')),
    environment  text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    deleted_at   timestamptz,
    PRIMARY KEY (project_id, name)
);

CREATE TABLE tenant_databases (
    id                 uuid PRIMARY KEY,
    project_id         text NOT NULL,
    tenant             text NOT NULL,
    blueprint          text NOT NULL,
    workspace_id       uuid NOT NULL,
    status             text NOT NULL CHECK (status IN ('provisioning', 'ready', 'suspended', 'migrating', 'deleted', 'deleting', 'error')),
    step               text NOT NULL DEFAULT 'intent',
    attempts           integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    last_error         text,
    lease_owner        uuid,
    lease_until        timestamptz,
    not_before         timestamptz NOT NULL DEFAULT now(),
    isolation_level    smallint NOT NULL DEFAULT 1 CHECK (isolation_level IN (1, 2)),
    server             text NOT NULL REFERENCES servers,
    physical_database  text,
    database_oid       bigint CHECK (database_oid BETWEEN 0 AND 4294967295),
    owner_role         text NOT NULL UNIQUE,
    owner_secret       bytea NOT NULL,
    deployer_role      text NOT NULL UNIQUE,
    deployer_secret    bytea NOT NULL,
    readonly_role      text NOT NULL UNIQUE,
    readonly_secret    bytea NOT NULL,
    -- The version that was asked for; NULL: head. What it is cloned from, and the version it has; NULL until that is known.
    wanted_version     integer,
    template_id        uuid,
    version            integer,
    clients_max        integer CHECK (clients_max > 0),
    created_at         timestamptz NOT NULL DEFAULT now(),
    UNIQUE (project_id, tenant, blueprint),
    UNIQUE (server, physical_database),
    FOREIGN KEY (project_id, tenant) REFERENCES tenants (project_id, name),
    FOREIGN KEY (project_id, workspace_id) REFERENCES workspaces (project_id, id)
);
CREATE INDEX ON tenant_databases (workspace_id, version);
CREATE INDEX ON tenant_databases (not_before) WHERE status IN ('provisioning', 'deleting');

CREATE TABLE deployments (
    id            text PRIMARY KEY CHECK (id ~ '^dep_[a-z2-7]{10}$'),
    project_id    text NOT NULL,
    workspace_id  uuid NOT NULL,
    blueprint     text NOT NULL,
    version       integer NOT NULL,
    from_versions integer[] NOT NULL DEFAULT '{}',
    status        text NOT NULL CHECK (status IN ('planned', 'running', 'paused', 'completed', 'failed', 'cancelled')),
    author        text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    started_at    timestamptz,
    completed_at  timestamptz,
    UNIQUE (project_id, id),
    FOREIGN KEY (project_id, workspace_id) REFERENCES workspaces (project_id, id) ON DELETE CASCADE,
    FOREIGN KEY (workspace_id, version) REFERENCES versions (workspace_id, number)
);
CREATE INDEX ON deployments (project_id, created_at);
CREATE INDEX ON deployments (status) WHERE status IN ('planned', 'running');

-- One tenant database's part of a deployment; claimed with FOR UPDATE SKIP LOCKED under a lease. It outlives its database.
CREATE TABLE deployment_targets (
    deployment_id  text NOT NULL,
    project_id     text NOT NULL,
    workspace_id   uuid NOT NULL,
    database_id    uuid NOT NULL,
    tenant         text NOT NULL,
    server         text NOT NULL,
    status         text NOT NULL CHECK (status IN ('pending', 'running', 'retrying', 'done', 'skipped', 'failed')),
    from_version   integer NOT NULL,
    to_version     integer NOT NULL,
    changes_done   integer NOT NULL DEFAULT 0 CHECK (changes_done >= 0),
    changes_total  integer NOT NULL DEFAULT 0 CHECK (changes_total >= 0),
    drift          boolean,
    attempts       integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    lease_owner    uuid,
    lease_until    timestamptz,
    not_before     timestamptz NOT NULL DEFAULT now(),
    sqlstate       text,
    message        text,
    statement      text,
    started_at     timestamptz,
    completed_at   timestamptz,
    duration_ms    bigint CHECK (duration_ms >= 0),
    PRIMARY KEY (deployment_id, database_id),
    FOREIGN KEY (project_id, deployment_id) REFERENCES deployments (project_id, id) ON DELETE CASCADE
);
CREATE INDEX ON deployment_targets (server, not_before) WHERE status IN ('pending', 'running', 'retrying');
CREATE INDEX ON deployment_targets (project_id, tenant);

-- What clients log in with. Deleting a row is revoking it.
CREATE TABLE credentials (
    id          uuid PRIMARY KEY,
    project_id  text NOT NULL REFERENCES projects ON DELETE CASCADE,
    -- Unique over the installation: the project comes from the login.
    user_name   text NOT NULL UNIQUE,
    verifier    text NOT NULL CHECK (verifier LIKE 'SCRAM-SHA-256$%'),
    scope       text NOT NULL CHECK (scope IN ('project', 'workspace', 'tenant')),
    blueprint   text CHECK ((blueprint IS NOT NULL) = (scope = 'workspace')),
    tenant      text CHECK ((tenant IS NOT NULL) = (scope = 'tenant')),
    rights      text NOT NULL CHECK (rights IN ('rw', 'ro')),
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz,
    FOREIGN KEY (project_id, blueprint) REFERENCES workspaces (project_id, blueprint),
    FOREIGN KEY (project_id, tenant) REFERENCES tenants (project_id, name)
);
CREATE INDEX ON credentials (project_id, created_at);

-- What proxies must forget, in the order it was committed: see number_route_event.
CREATE TABLE route_events (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    epoch          bigint UNIQUE,
    project_id     text NOT NULL,
    kind           text NOT NULL CHECK (kind IN ('workspace', 'tenant', 'database_closed', 'workspace_closed', 'credential', 'credential_revoked')),
    blueprint      text,
    tenant         text,
    workspace_id   uuid,
    database_id    uuid,
    user_name      text,
    credential_id  uuid,
    created_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON route_events (created_at);
CREATE SEQUENCE route_epoch;

-- Proxies that hold routes: what each has acted on, and until when its word counts.
CREATE TABLE proxies (
    instance     uuid PRIMARY KEY,
    acked_epoch  bigint NOT NULL,
    lease_until  timestamptz NOT NULL
);

-- Epochs are handed out at commit, under a lock held to its end: an epoch that can be seen has none below it still to
-- come, and a transaction holds the lock only when it asks for no other any more.
CREATE FUNCTION number_route_event() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    next_epoch bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(8390876222181731425);
    next_epoch := nextval('control_plane.route_epoch');
    UPDATE control_plane.route_events SET epoch = next_epoch WHERE id = NEW.id;
    PERFORM pg_notify('tdb_routes', next_epoch::text);
    RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER number_route_event AFTER INSERT ON route_events
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION number_route_event();

-- The data plane's door: it may execute these functions and touch no table.

CREATE FUNCTION credential_by_user(the_user text)
RETURNS TABLE (id uuid, project_id text, verifier text, scope text, blueprint text, tenant text, rights text, expires_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.id, c.project_id, c.verifier, c.scope, c.blueprint, c.tenant, c.rights, c.expires_at
    FROM control_plane.credentials c
    WHERE c.user_name = the_user AND (c.expires_at IS NULL OR c.expires_at > now())
$$;

CREATE FUNCTION key_by_prefix(the_prefix text)
RETURNS TABLE (id uuid, project_id text, hash bytea, scopes text[], last_used_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.id, k.project_id, k.hash, k.scopes, k.last_used_at FROM control_plane.api_keys k WHERE k.prefix = the_prefix
$$;

-- the_tenant NULL: the blueprint's workspace. Two statuses: the tenant's (what its owner wants) and the database's.
CREATE FUNCTION route(the_project text, the_blueprint text, the_tenant text, the_rights text)
RETURNS TABLE (id uuid, server text, host text, port integer, tls text, physical_database text, role text, secret bytea,
               status text, tenant_status text, clients_max integer)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT d.id, s.name, s.host, s.port, s.tls, d.physical_database,
           CASE the_rights WHEN 'ro' THEN d.readonly_role ELSE d.owner_role END,
           CASE the_rights WHEN 'ro' THEN d.readonly_secret ELSE d.owner_secret END,
           d.status, t.status, d.clients_max
    FROM control_plane.tenant_databases d
    JOIN control_plane.tenants t ON t.project_id = d.project_id AND t.name = d.tenant
    JOIN control_plane.servers s ON s.name = d.server
    WHERE d.project_id = the_project AND d.blueprint = the_blueprint AND d.tenant = the_tenant
    UNION ALL
    SELECT w.id, s.name, s.host, s.port, s.tls, w.physical_database,
           CASE the_rights WHEN 'ro' THEN w.readonly_role ELSE w.owner_role END,
           CASE the_rights WHEN 'ro' THEN w.readonly_secret ELSE w.owner_secret END,
           w.status, NULL, w.clients_max
    FROM control_plane.workspaces w
    JOIN control_plane.servers s ON s.name = w.server
    WHERE w.project_id = the_project AND w.blueprint = the_blueprint AND the_tenant IS NULL
$$;

CREATE FUNCTION newest_epoch() RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(max(epoch), 0) FROM control_plane.route_events
$$;

CREATE FUNCTION events_after(the_epoch bigint)
RETURNS TABLE (epoch bigint, project_id text, kind text, blueprint text, tenant text, workspace_id uuid, database_id uuid,
               user_name text, credential_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT e.epoch, e.project_id, e.kind, e.blueprint, e.tenant, e.workspace_id, e.database_id, e.user_name, e.credential_id
    FROM control_plane.route_events e WHERE e.epoch > the_epoch ORDER BY e.epoch LIMIT 1000
$$;

CREATE FUNCTION acknowledge(the_instance uuid, the_epoch bigint, the_lease interval) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO control_plane.proxies AS p (instance, acked_epoch, lease_until)
    VALUES (the_instance, the_epoch, clock_timestamp() + the_lease)
    ON CONFLICT (instance) DO UPDATE
        SET acked_epoch = greatest(p.acked_epoch, EXCLUDED.acked_epoch), lease_until = EXCLUDED.lease_until
$$;

CREATE FUNCTION retire_proxy(the_instance uuid) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM control_plane.proxies WHERE instance = the_instance
$$;
