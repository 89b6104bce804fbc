-- Upgrades the forms of the journal that did not record functions, or that recorded a context which the server had translated. The old
-- logging function stays, since a session may be about to call it. The lock waits for transactions with DDL for a short time only;
-- the next drain tries again.
BEGIN;
SET LOCAL lock_timeout = '500ms';
ALTER TABLE tdb.ddl_event ADD COLUMN IF NOT EXISTS functions jsonb;
-- The function may have today's signature already.
DO $$
BEGIN
  IF pg_catalog.to_regprocedure('tdb.log_event(text,text,text,text)') IS NOT NULL THEN
    ALTER EXTENSION plpgsql DROP FUNCTION tdb.log_event(text, text, text, text);
  END IF;
END $$;
:log_event
COMMIT;
