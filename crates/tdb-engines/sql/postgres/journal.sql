-- The journal of a workspace. :owner is its owner role. GRANT first, then ALTER EXTENSION: dumps do not contain members of
-- plpgsql, but would contain privileges that are granted later.
BEGIN;
CREATE SCHEMA tdb;
CREATE TABLE tdb.ddl_event (
  seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
  -- Process and time identify the client's message.
  pid int NOT NULL DEFAULT pg_backend_pid(),
  stmt_at timestamptz NOT NULL DEFAULT statement_timestamp(),
  event text NOT NULL,
  tag text NOT NULL,
  objects jsonb,
  dropped jsonb,
  search_path text NOT NULL,
  role_name text NOT NULL,
  session_role text NOT NULL,
  -- NULL: the same as in the previous row of the same message and transaction.
  settings jsonb,
  -- NULL: the text is in tdb.ddl_message.
  backend_start timestamptz,
  query text,
  -- When its transaction began.
  xact_at timestamptz,
  -- The calls, if a function or a DO ran the statement.
  context text,
  -- The names of the session's temporary relations, if a table was created.
  temporary text[],
  -- The functions of the calls that have a SET clause or set something in their body, and others of their names.
  functions jsonb,
  -- Whether the change log has it. Such a row is kept until its message can have no further transaction.
  drained boolean NOT NULL DEFAULT false
);
:functions
CREATE EVENT TRIGGER tdb_capture_end ON ddl_command_end EXECUTE FUNCTION tdb.capture();
CREATE EVENT TRIGGER tdb_capture_drop ON sql_drop EXECUTE FUNCTION tdb.capture();
ALTER EVENT TRIGGER tdb_capture_end ENABLE ALWAYS;
ALTER EVENT TRIGGER tdb_capture_drop ENABLE ALWAYS;
ALTER EXTENSION plpgsql ADD SCHEMA tdb;
ALTER EXTENSION plpgsql ADD TABLE tdb.ddl_event;
ALTER EXTENSION plpgsql ADD FUNCTION tdb.capture();
ALTER EXTENSION plpgsql ADD EVENT TRIGGER tdb_capture_end;
ALTER EXTENSION plpgsql ADD EVENT TRIGGER tdb_capture_drop;
COMMIT;
