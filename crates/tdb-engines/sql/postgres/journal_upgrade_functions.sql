-- Upgrades the form of the journal that did not record functions. The lock waits for transactions with DDL for a short time only;
-- the next drain tries again.
BEGIN;
SET LOCAL lock_timeout = '500ms';
ALTER TABLE tdb.ddl_event ADD functions jsonb;
:log_event
COMMIT;
