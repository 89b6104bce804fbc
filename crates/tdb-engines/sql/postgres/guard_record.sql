-- Refuses writes to tdb.deployed_change by code in a change, also by a trigger that runs at COMMIT, when the deployer's session
-- has the role tdb_migrators: then the context names the calling function too. It must not name anything else for the statements
-- that TenantsDB sends, so they have no parameters, which PostgreSQL can add to the context.
CREATE FUNCTION tdb.guard_record() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE context text;
BEGIN
  GET DIAGNOSTICS context = PG_CONTEXT;
  IF strpos(context, E'\n') > 0 THEN
    RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'code in the change wrote to tdb.deployed_change, which only TenantsDB may write';
  END IF;
  RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION tdb.guard_record() FROM PUBLIC;
CREATE TRIGGER guard_record BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON tdb.deployed_change
  FOR EACH STATEMENT EXECUTE FUNCTION tdb.guard_record();
ALTER TABLE tdb.deployed_change ENABLE ALWAYS TRIGGER guard_record;
ALTER EXTENSION plpgsql ADD FUNCTION tdb.guard_record();
