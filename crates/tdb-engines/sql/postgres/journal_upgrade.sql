-- Upgrades the oldest form of the journal, which stored the message's text in each row. Its rows stay, and so does the old
-- logging function, since a session may be about to call it. The lock waits for transactions with DDL for a short time only;
-- the next drain tries again.
BEGIN;
SET LOCAL lock_timeout = '500ms';
ALTER TABLE tdb.ddl_event
  ALTER settings DROP NOT NULL, ALTER backend_start DROP NOT NULL, ALTER query DROP NOT NULL,
  ADD xact_at timestamptz, ADD context text, ADD temporary text[], ADD functions jsonb, ADD drained boolean NOT NULL DEFAULT false;
:functions
COMMIT;
