-- Records change :id with checksum :checksum. Inserts nothing if this transaction has written to the table before: code in a change can
-- take on tdb_migrators as the deployer does. The row of a subtransaction has a higher number than the transaction's.
INSERT INTO tdb.deployed_change (change_id, checksum, state)
SELECT :id, :checksum, 'done'
 WHERE NOT EXISTS (SELECT FROM tdb.deployed_change WHERE age(xmin) <= age(pg_current_xact_id()::xid))
