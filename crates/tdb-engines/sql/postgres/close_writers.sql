-- Functions of PostgreSQL that write without a privilege on an object (large objects, messages in the WAL) are revoked from
-- PUBLIC and granted to tdb_writers. GRANT first, then ALTER EXTENSION: privileges that an object has when it becomes a member
-- of plpgsql are not in dumps.
DO $$
DECLARE f regprocedure;
BEGIN
  FOR f IN SELECT oid FROM pg_catalog.pg_proc
            WHERE pronamespace = 'pg_catalog'::pg_catalog.regnamespace AND proacl IS NULL
              AND proname = ANY ('{lo_creat,lo_create,lo_from_bytea,lo_put,lowrite,lo_truncate,lo_truncate64,lo_unlink,pg_logical_emit_message}') LOOP
    EXECUTE pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);
    EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO tdb_writers', f);
    EXECUTE pg_catalog.format('ALTER EXTENSION plpgsql ADD FUNCTION %s', f);
  END LOOP;
END $$;
