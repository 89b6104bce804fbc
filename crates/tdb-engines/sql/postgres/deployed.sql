SELECT change_id, checksum, state FROM tdb.deployed_change ORDER BY change_id
