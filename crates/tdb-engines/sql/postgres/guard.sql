-- Refuses DDL of a tenant's roles if tenant_ddl is not 'allow'. Allowed are deployers, the administrator (as a superuser),
-- temporary objects, and REFRESH and REINDEX, which do not change the schema.
CREATE OR REPLACE FUNCTION tdb.guard() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF (SELECT value FROM tdb.setting WHERE name = 'tenant_ddl') = 'allow' OR pg_has_role(session_user, 'tdb_migrators', 'MEMBER')
     OR TG_TAG IN ('REFRESH MATERIALIZED VIEW', 'REINDEX') THEN RETURN; END IF;
  IF TG_EVENT = 'ddl_command_end' THEN
    IF NOT EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE coalesce(schema_name, '') <> 'pg_temp') THEN RETURN; END IF;
  ELSIF NOT EXISTS (SELECT FROM pg_event_trigger_dropped_objects() WHERE original AND NOT is_temporary) THEN RETURN; END IF;
  RAISE EXCEPTION USING ERRCODE = '42501',
    MESSAGE = format('%s is refused in a tenant database: the workspace''s setting tenant_ddl is "deny"', TG_TAG),
    HINT = 'Change the schema in the workspace and deploy it; temporary tables are allowed.';
END $$;
