-- Workspace settings that tenants' databases carry too: what each has (NULL: in doubt, somebody changes it), and how far
-- that is. Wanted is what workspaces.settings says.
ALTER TABLE tenant_databases
    ADD COLUMN tenant_ddl             text DEFAULT 'allow' CHECK (tenant_ddl IN ('allow', 'deny')),
    ADD COLUMN tenant_ddl_attempts    integer NOT NULL DEFAULT 0 CHECK (tenant_ddl_attempts >= 0),
    ADD COLUMN tenant_ddl_error       text,
    ADD COLUMN tenant_ddl_not_before  timestamptz NOT NULL DEFAULT now();

-- The change that an inverse undoes.
ALTER TABLE changes ADD COLUMN reverts integer;
ALTER TABLE changes ADD FOREIGN KEY (workspace_id, reverts) REFERENCES changes (workspace_id, id);

-- Extensions that the administrator makes for developers who ask; '*': all but those that reach files, code or networks.
ALTER TABLE servers ADD COLUMN extensions text[] NOT NULL DEFAULT '{}';

-- Which news of a deployment a watcher has seen: its targets are numbered as they change. Whoever changes one holds the
-- deployment's row to the end of the transaction, so that numbers become visible in their order.
ALTER TABLE deployment_targets ADD COLUMN news bigint NOT NULL DEFAULT 0;
CREATE INDEX ON deployment_targets (deployment_id, news);

CREATE FUNCTION number_target_news() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM control_plane.deployments WHERE id = NEW.deployment_id FOR NO KEY UPDATE;
    NEW.news := (SELECT max(news) + 1 FROM control_plane.deployment_targets WHERE deployment_id = NEW.deployment_id);
    RETURN NEW;
END $$;

CREATE TRIGGER number_target_news BEFORE UPDATE ON deployment_targets FOR EACH ROW
    WHEN ((OLD.status, OLD.changes_done, OLD.attempts) IS DISTINCT FROM (NEW.status, NEW.changes_done, NEW.attempts))
    EXECUTE FUNCTION number_target_news();
