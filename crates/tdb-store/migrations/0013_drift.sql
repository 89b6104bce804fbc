-- What the last look at a tenant's database found, against the version that it had then.
CREATE TABLE drift_checks (
    database_id   uuid PRIMARY KEY REFERENCES tenant_databases ON DELETE CASCADE,
    project_id    text NOT NULL,
    workspace_id  uuid NOT NULL,
    version       integer NOT NULL,
    checked_at    timestamptz NOT NULL,
    -- [{"object", "expected", "found"}], or why there was no look.
    differences   jsonb,
    error         text,
    CHECK ((differences IS NULL) <> (error IS NULL))
);

-- When a check was requested that has not run yet. NULL if there is none.
ALTER TABLE tenant_databases ADD COLUMN drift_asked_at timestamptz;
CREATE INDEX ON tenant_databases (drift_asked_at) WHERE drift_asked_at IS NOT NULL;

-- What the last look at a workspace found that no change accounts for.
CREATE TABLE workspace_drift_checks (
    workspace_id  uuid PRIMARY KEY REFERENCES workspaces ON DELETE CASCADE,
    project_id    text NOT NULL,
    checked_at    timestamptz NOT NULL,
    differences   jsonb NOT NULL
);

ALTER TABLE workspaces ADD COLUMN drift_asked_at timestamptz;
CREATE INDEX ON workspaces (drift_asked_at) WHERE drift_asked_at IS NOT NULL;
