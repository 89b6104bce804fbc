-- Whether the server accepts connections to a tenant's database. That of a deleted tenant has to be closed, any other has
-- to be open; workers complete what is left.
ALTER TABLE tenant_databases
    ADD COLUMN access text NOT NULL DEFAULT 'open' CHECK (access IN ('open', 'changing', 'closed'));
