-- Grants writing to the tables of PostGIS that its users change: reference systems and topologies. The privileges are recorded
-- as the extension's initial ones, so that dumps do not contain them.
CREATE FUNCTION pg_temp.grant_extensions(to_role name) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE r record;
BEGIN
  FOR r IN
    SELECT c.oid, c.relkind FROM pg_extension e
      JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
      JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
     WHERE e.extname IN ('postgis', 'postgis_topology') AND (c.oid = ANY (e.extconfig) OR c.relkind = 'S')
  LOOP
    EXECUTE format('GRANT %s ON %s TO %I', CASE r.relkind WHEN 'S' THEN 'SELECT, USAGE, UPDATE' ELSE 'INSERT, UPDATE, DELETE' END,
                   r.oid::regclass, to_role);
    DELETE FROM pg_init_privs WHERE classoid = 'pg_class'::regclass AND objoid = r.oid AND objsubid = 0;
    INSERT INTO pg_init_privs (objoid, classoid, objsubid, privtype, initprivs)
    SELECT oid, 'pg_class'::regclass, 0, 'e', relacl FROM pg_class WHERE oid = r.oid;
  END LOOP;
END $$;
