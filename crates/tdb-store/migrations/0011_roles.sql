-- What is known of a database's roles beside their secrets; no row: nobody reads it, and its roles are as they were set.
-- database_id is a workspace's or a tenant database's id; a row outlives its database until the next sweep.
CREATE TABLE database_roles (
    database_id  uuid PRIMARY KEY,
    project_id   text NOT NULL REFERENCES projects ON DELETE CASCADE,
    -- 'old': as the first programs made the read-only role, with pg_read_all_data.
    readers      text NOT NULL DEFAULT 'none' CHECK (readers IN ('old', 'none', 'admitted')),
    attempts     integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    not_before   timestamptz NOT NULL DEFAULT now(),
    -- What a client changed of the roles, since when; NULL once they are set again. And how often that was.
    fault        text,
    fault_since  timestamptz,
    repairs      integer NOT NULL DEFAULT 0 CHECK (repairs >= 0),
    repaired_at  timestamptz
);
CREATE INDEX ON database_roles (project_id);

INSERT INTO database_roles (database_id, project_id, readers)
    SELECT id, project_id, 'old' FROM workspaces UNION ALL SELECT id, project_id, 'old' FROM tenant_databases
    UNION ALL SELECT id, project_id, 'old' FROM templates WHERE status = 'spare';
