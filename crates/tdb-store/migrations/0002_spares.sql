-- Spare clones of templates; which deployments were meant for every tenant, so that one that comes back can catch up;
-- and columns that nothing ever used.
ALTER TABLE templates DROP CONSTRAINT templates_status_check;
ALTER TABLE templates ADD CONSTRAINT templates_status_check
    CHECK (status IN ('building', 'publishing', 'published', 'spare', 'dropping'));
ALTER TABLE deployments ADD COLUMN all_tenants boolean NOT NULL DEFAULT false;
ALTER TABLE workspaces DROP COLUMN lease_owner, DROP COLUMN lease_until;
ALTER TABLE tenant_databases DROP COLUMN lease_owner, DROP COLUMN lease_until;
