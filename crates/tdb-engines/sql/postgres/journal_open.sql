-- Lets the trigger, which runs with the rights of the role that runs the statement, capture DDL of declared roles too. Rows can
-- still not be forged, and the tables stay closed. The objects leave plpgsql for the GRANT: privileges that an object has when
-- it becomes a member of an extension are not in dumps.
DO $$
DECLARE
  -- Journals of older versions have another signature, or both.
  logging CONSTANT regprocedure[] := ARRAY(SELECT oid FROM pg_proc WHERE pronamespace = 'tdb'::regnamespace AND proname = 'log_event');
  f regprocedure;
BEGIN
  IF has_schema_privilege('public', 'tdb', 'USAGE') THEN RETURN; END IF;
  ALTER EXTENSION plpgsql DROP SCHEMA tdb;
  GRANT USAGE ON SCHEMA tdb TO PUBLIC;
  ALTER EXTENSION plpgsql ADD SCHEMA tdb;
  FOREACH f IN ARRAY logging LOOP
    EXECUTE format('ALTER EXTENSION plpgsql DROP FUNCTION %s', f);
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO PUBLIC', f);
    EXECUTE format('ALTER EXTENSION plpgsql ADD FUNCTION %s', f);
  END LOOP;
END $$
