SELECT pid FROM pg_catalog.pg_locks
 WHERE locktype = 'advisory' AND classid = 1952735588 AND objid = 2 AND objsubid = 2 AND granted
   AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
