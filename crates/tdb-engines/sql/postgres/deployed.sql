-- At least one row: whether tdb.guard_record protects the table.
SELECT guard.is_there, d.change_id, d.checksum, d.state
  FROM (SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger
                        WHERE tgrelid = 'tdb.deployed_change'::pg_catalog.regclass AND tgname = 'guard_record') AS is_there) AS guard
  LEFT JOIN tdb.deployed_change d ON true
 ORDER BY d.change_id
