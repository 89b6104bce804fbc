-- Whole transactions only: a limit in the middle of one would make two changes of it.
WITH first AS (
  SELECT xid FROM tdb.ddl_event GROUP BY xid ORDER BY max(seq) LIMIT $1
)
SELECT e.seq, e.xid::text AS xid, e.pid, e.backend_start, e.stmt_at, e.event, e.tag, e.objects, e.dropped, e.query,
       e.search_path, e.session_role, e.settings
  FROM tdb.ddl_event e JOIN first USING (xid)
 ORDER BY e.seq
