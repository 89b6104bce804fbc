-- What sessions of a workspace's owner began with when that was last captured: name → value.
ALTER TABLE workspaces ADD COLUMN session_settings jsonb NOT NULL DEFAULT '{}';
