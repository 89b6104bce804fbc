-- Lets the trigger, which runs with the rights of the role that runs the statement, capture DDL of declared roles too. Rows can
-- still not be forged, and the tables stay closed. The objects leave plpgsql for the GRANT: privileges that an object has when
-- it becomes a member of an extension are not in dumps.
DO $$
BEGIN
  IF has_schema_privilege('public', 'tdb', 'USAGE') THEN RETURN; END IF;
  ALTER EXTENSION plpgsql DROP SCHEMA tdb;
  ALTER EXTENSION plpgsql DROP FUNCTION tdb.log_event(text, text, text, text, text);
  GRANT USAGE ON SCHEMA tdb TO PUBLIC;
  GRANT EXECUTE ON FUNCTION tdb.log_event(text, text, text, text, text) TO PUBLIC;
  ALTER EXTENSION plpgsql ADD SCHEMA tdb;
  ALTER EXTENSION plpgsql ADD FUNCTION tdb.log_event(text, text, text, text, text);
END $$
