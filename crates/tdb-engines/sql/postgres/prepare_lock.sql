SELECT pg_advisory_lock(1952735588, 1)
