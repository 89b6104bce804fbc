-- The text of a client's message, stored once for all rows that refer to it. Each transaction that writes such rows holds a
-- lock on the message until it ends, so that confirming never removes a message that an open transaction refers to.
CREATE TABLE tdb.ddl_message (
  pid int NOT NULL,
  stmt_at timestamptz NOT NULL,
  backend_start timestamptz,
  query text,
  -- Of the last row: its transaction, and the values of all settings that are recorded.
  xid xid8 NOT NULL,
  settings text NOT NULL,
  PRIMARY KEY (pid, stmt_at)
);
:log_event
-- Runs with the caller's search_path and role, so all names and operators are qualified.
CREATE OR REPLACE FUNCTION tdb.capture() RETURNS event_trigger LANGUAGE plpgsql SET client_min_messages = notice AS $$
DECLARE s bigint; context text;
BEGIN
  GET DIAGNOSTICS context = PG_CONTEXT;
  s := tdb.log_event(TG_EVENT, TG_TAG, pg_catalog.current_setting('search_path'), CURRENT_USER::pg_catalog.text, context);
  IF s IS NOT NULL AND pg_catalog.current_setting('tdb.session', true) OPERATOR(pg_catalog.<>) '' THEN
    RAISE NOTICE USING ERRCODE = 'TD001', MESSAGE = 'ddl ' OPERATOR(pg_catalog.||) s::pg_catalog.text;
  END IF;
END $$;
REVOKE ALL ON ALL TABLES IN SCHEMA tdb FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA tdb FROM PUBLIC;
GRANT USAGE ON SCHEMA tdb TO :owner;
GRANT EXECUTE ON FUNCTION tdb.log_event(text, text, text, text, text) TO :owner;
ALTER EXTENSION plpgsql ADD TABLE tdb.ddl_message;
ALTER EXTENSION plpgsql ADD FUNCTION tdb.log_event(text, text, text, text, text);
