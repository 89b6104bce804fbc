-- Deletes the rows $1 of the transactions $2, which the change log has, and their messages. Rows of a message are kept while it
-- runs, or while one of its transactions is open, prepared or not yet drained: they are needed to match its other transactions.
WITH confirmed AS MATERIALIZED (
  SELECT e.seq, e.pid, e.stmt_at FROM unnest($1::bigint[], $2::text[]) AS logged(seq, xid)
    JOIN tdb.ddl_event e ON e.seq = logged.seq AND e.xid = logged.xid::xid8
), over AS MATERIALIZED (
  SELECT m.pid, m.stmt_at FROM tdb.ddl_message m
   WHERE NOT EXISTS (SELECT FROM pg_stat_get_activity(m.pid) a
                      WHERE a.backend_start = m.backend_start AND coalesce(a.query_start <= m.stmt_at, true)
                        AND coalesce(a.state, '') NOT LIKE 'idle%')
     -- A transaction that this statement does not see yet may have committed in the meantime.
     AND EXISTS (SELECT FROM tdb.ddl_event e WHERE e.xid = m.xid AND e.pid = m.pid AND e.stmt_at = m.stmt_at)
     AND NOT EXISTS (SELECT FROM tdb.ddl_event e WHERE e.pid = m.pid AND e.stmt_at = m.stmt_at AND NOT e.drained
                        AND e.seq NOT IN (SELECT seq FROM confirmed))
     FOR UPDATE SKIP LOCKED
), message_gone AS (
  DELETE FROM tdb.ddl_message m USING over WHERE m.pid = over.pid AND m.stmt_at = over.stmt_at
), kept AS (
  UPDATE tdb.ddl_event e SET drained = true FROM confirmed c
   WHERE e.seq = c.seq AND EXISTS (SELECT FROM tdb.ddl_message m WHERE m.pid = c.pid AND m.stmt_at = c.stmt_at)
     AND NOT EXISTS (SELECT FROM over WHERE over.pid = c.pid AND over.stmt_at = c.stmt_at)
)
DELETE FROM tdb.ddl_event e
 WHERE EXISTS (SELECT FROM over WHERE over.pid = e.pid AND over.stmt_at = e.stmt_at)
    OR e.seq IN (SELECT seq FROM confirmed) AND NOT EXISTS (SELECT FROM tdb.ddl_message m WHERE m.pid = e.pid AND m.stmt_at = e.stmt_at)
