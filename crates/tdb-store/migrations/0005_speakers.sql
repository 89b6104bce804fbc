-- Sessions of the API in a workspace are those of an API key: they log in with no credential.
ALTER TABLE workspace_sessions ALTER COLUMN credential_id DROP NOT NULL;
ALTER TABLE workspace_sessions ALTER COLUMN client_address DROP NOT NULL;
ALTER TABLE workspace_sessions ADD COLUMN key_id uuid;
ALTER TABLE workspace_sessions ADD CHECK (num_nonnulls(credential_id, key_id) = 1);
