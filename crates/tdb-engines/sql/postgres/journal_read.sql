-- Reads whole transactions, since a part of one would become a separate change. Also reads the drained rows of the same
-- messages, which are needed to determine the statements that the new transactions ran. Fails if an older version installed the
-- journal: a table, a column or the logging function is then missing.
WITH first AS (
  SELECT xid FROM tdb.ddl_event WHERE NOT drained AND 'tdb.log_event(text,text,text,text)'::regprocedure IS NOT NULL GROUP BY xid ORDER BY max(seq) LIMIT $1
), message AS (
  SELECT DISTINCT pid, stmt_at FROM tdb.ddl_event JOIN first USING (xid)
), setting AS MATERIALIZED (
  -- The functions with a SET clause, and those with the same name, for rows of an older journal.
  SELECT p.proname, jsonb_build_object('schema', quote_ident(n.nspname), 'name', p.proname, 'sets',
           ARRAY(SELECT split_part(s, '=', 1) FROM unnest(p.proconfig) s)) AS described
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
   WHERE n.nspname <> 'tdb'
     AND p.proname IN (SELECT o.proname FROM pg_proc o JOIN pg_namespace s ON s.oid = o.pronamespace
                        WHERE o.proconfig IS NOT NULL AND s.nspname <> 'tdb')
)
SELECT e.seq, e.xid::text AS xid, e.pid, coalesce(e.backend_start, m.backend_start) AS backend_start, e.stmt_at, e.xact_at,
       e.event, e.tag, e.objects, e.dropped,
       coalesce(e.query, CASE WHEN row_number() OVER (PARTITION BY e.pid, e.stmt_at ORDER BY e.seq) = 1 THEN m.query END) AS query,
       e.search_path, e.role_name, coalesce(r.rolsuper, false) AS by_superuser, e.session_role, e.settings, e.context,
       e.temporary, e.drained,
       coalesce(e.functions, (SELECT jsonb_agg(s.described) FROM setting s WHERE strpos(e.context, s.proname) > 0)) AS functions
  FROM tdb.ddl_event e LEFT JOIN tdb.ddl_message m ON m.pid = e.pid AND m.stmt_at = e.stmt_at
  LEFT JOIN pg_roles r ON r.rolname = e.role_name
 WHERE e.xid IN (SELECT xid FROM first) OR e.drained AND (e.pid, e.stmt_at) IN (SELECT pid, stmt_at FROM message)
 ORDER BY e.seq
