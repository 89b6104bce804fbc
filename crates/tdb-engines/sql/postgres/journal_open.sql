-- DDL of a declared role is captured too: the trigger runs with the rights of whoever runs the statement. Nothing can be
-- forged by that, and the tables stay closed. Taken out of plpgsql for the GRANT: what a member had when it became one is
-- in no dump.
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
