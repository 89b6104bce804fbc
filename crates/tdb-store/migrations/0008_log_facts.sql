-- What a replay of all of a workspace's changes gives, when it was last seen to be the workspace's schema.
CREATE TABLE log_facts (
    workspace_id  uuid PRIMARY KEY,
    project_id    text NOT NULL,
    changes       integer NOT NULL,
    pg_major      integer NOT NULL,
    facts         jsonb NOT NULL,
    FOREIGN KEY (project_id, workspace_id) REFERENCES workspaces (project_id, id) ON DELETE CASCADE
);
