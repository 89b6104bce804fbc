-- A tenant's owner role owns the extensions of its database, but must not drop those that only a superuser can create again
-- (pg_restore --clean, DROP SCHEMA … CASCADE). Deployers and the administrator are allowed to.
CREATE FUNCTION tdb.keep_extensions() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE dropped text;
BEGIN
  IF pg_has_role(session_user, 'tdb_migrators', 'MEMBER') THEN RETURN; END IF;
  SELECT min(d.address_names[1]) INTO dropped
    FROM pg_event_trigger_dropped_objects() d JOIN pg_available_extension_versions v ON v.name = d.address_names[1]
   WHERE d.object_type = 'extension' AND v.superuser AND NOT v.trusted;
  IF dropped IS NULL THEN RETURN; END IF;
  RAISE EXCEPTION USING ERRCODE = '42501',
    MESSAGE = format('%s is refused: it would drop extension "%s", which only an administrator can create again', TG_TAG, dropped),
    HINT = 'Leave extensions out of a restore: pg_restore --list lists its entries, --use-list takes the rest.';
END $$;
REVOKE ALL ON FUNCTION tdb.keep_extensions() FROM PUBLIC;
CREATE EVENT TRIGGER tdb_keep_extensions ON sql_drop WHEN TAG IN ('DROP EXTENSION', 'DROP SCHEMA', 'DROP OWNED')
  EXECUTE FUNCTION tdb.keep_extensions();
ALTER EVENT TRIGGER tdb_keep_extensions ENABLE ALWAYS;
ALTER EXTENSION plpgsql ADD FUNCTION tdb.keep_extensions();
ALTER EXTENSION plpgsql ADD EVENT TRIGGER tdb_keep_extensions;
