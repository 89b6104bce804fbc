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
REVOKE ALL ON ALL TABLES IN SCHEMA tdb FROM PUBLIC;
GRANT USAGE ON SCHEMA tdb TO :owner;
ALTER EXTENSION plpgsql ADD TABLE tdb.ddl_message;
