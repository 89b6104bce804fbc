-- What several processes over one store need: leases instead of locks in memory, and what one of them leaves to another.

-- Who works on what, until when. The holder deletes the row when it is done; another process may take a row that has expired.
-- The token is unique so that changing it locks the row's key: a transaction that confirmed its token (FOR KEY SHARE)
-- ends before another holder begins, while the holder's own renewals do not wait for it.
CREATE TABLE leases (
    name         text PRIMARY KEY,
    token        uuid NOT NULL UNIQUE,
    -- The process.
    holder       uuid NOT NULL,
    lease_until  timestamptz NOT NULL
);

-- Processes of which only one can run at a time, because it locks something outside of the store (a data directory): what
-- the one before held is free when the next one starts.
CREATE TABLE processes (
    home      text PRIMARY KEY,
    instance  uuid NOT NULL
);

ALTER TABLE deployment_targets ADD COLUMN lease_holder uuid;

-- When some process last had an answer from it. New databases go where there are answers.
ALTER TABLE servers ADD COLUMN answered_at timestamptz;

-- Why the tenant got another version than the current schema.
ALTER TABLE tenant_databases ADD COLUMN warning text;

-- Lists are in the order of bytes, whatever the database's collation is.
CREATE INDEX ON tenants (project_id, name COLLATE "C");
CREATE INDEX ON deployments (project_id, created_at DESC, id DESC);

-- When changes were captured that are not yet built ahead. NULL if there are none.
ALTER TABLE workspaces ADD COLUMN unbuilt_since timestamptz;

-- What was committed before this is in the change log; nothing was before the workspace. NULL: older than this column, and not
-- drained on the timer yet.
ALTER TABLE workspaces ADD COLUMN drained_at timestamptz;
ALTER TABLE workspaces ALTER COLUMN drained_at SET DEFAULT now();

-- What the access rules were when they were applied last: they lock every table, and are applied only where they differ.
ALTER TABLE system_config ADD COLUMN access text;
