-- Creates an extension as the administrator, in a session whose search_path is pg_catalog, and was public at login. The script
-- runs as a superuser and looks names up in the extension's own schema, in those of the extensions that it requires, and in
-- public if it resets search_path. If other roles can create objects in such a schema, the schema is renamed while the script
-- runs, and an empty schema of the administrator has its name: the script finds only the required extensions there, and no
-- objects of other roles. Other sessions see only the result, after COMMIT.
CREATE FUNCTION pg_temp.move_extension(moved name, into_schema name) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE relocatable bool;
BEGIN
  -- Fixed at creation are the texts that name the schema, and its name stays.
  SELECT extrelocatable INTO relocatable FROM pg_extension WHERE extname = moved;
  UPDATE pg_extension SET extrelocatable = true WHERE extname = moved AND NOT relocatable;
  EXECUTE format('ALTER EXTENSION %I SET SCHEMA %I', moved, into_schema);
  UPDATE pg_extension SET extrelocatable = false WHERE extname = moved AND NOT relocatable;
END $$;
-- Objects that a user's role added to an extension that it owns would be visible to the script too.
CREATE FUNCTION pg_temp.check_members(checked name, wanted name) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
  IF EXISTS (SELECT FROM pg_extension e
               JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
               JOIN pg_shdepend s ON s.classid = d.classid AND s.objid = d.objid AND s.objsubid = 0 AND s.deptype = 'o'
                AND s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
               JOIN pg_roles r ON r.oid = s.refobjid
              WHERE e.extname = checked AND NOT r.rolsuper) THEN
    RAISE EXCEPTION USING ERRCODE = '42501',
      MESSAGE = format('extension "%s" has members of another role, which the script of extension "%s" would read', checked, wanted),
      HINT = format('Remove them with ALTER EXTENSION %I DROP.', checked);
  END IF;
END $$;
-- Creates the schema if the extension prescribes it and it does not exist; any other schema must exist.
CREATE FUNCTION pg_temp.make_extension(made name, into_schema name, at_version text, owner name) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE required name[]; names name[] := '{}'; aside name[] := '{}'; s record; e name; settings text[]; here oid;
BEGIN
  SELECT coalesce(array_agg(DISTINCT q), '{}') INTO required
    FROM pg_available_extension_versions v, unnest(v.requires) q WHERE v.name = made;
  FOR s IN
    SELECT n.oid, n.nspname FROM pg_namespace n JOIN pg_roles o ON o.oid = n.nspowner
     WHERE (n.nspname IN (into_schema, 'public') OR n.oid IN (SELECT extnamespace FROM pg_extension WHERE extname = ANY (required)))
       AND (NOT o.rolsuper
            OR EXISTS (SELECT FROM aclexplode(n.nspacl) a LEFT JOIN pg_roles g ON g.oid = a.grantee
                        WHERE a.privilege_type = 'CREATE' AND NOT coalesce(g.rolsuper, false)))
     ORDER BY n.oid
  LOOP
    names := names || s.nspname;
    aside := aside || ('tdb_aside_' || s.oid)::name;
    EXECUTE format('ALTER SCHEMA %I RENAME TO %I', s.nspname, 'tdb_aside_' || s.oid);
    EXECUTE format('CREATE SCHEMA %I', s.nspname);
    FOR e IN SELECT extname FROM pg_extension WHERE extnamespace = s.oid AND extname = ANY (required) LOOP
      PERFORM pg_temp.check_members(e, made);
      PERFORM pg_temp.move_extension(e, s.nspname);
    END LOOP;
  END LOOP;
  SELECT oid INTO STRICT here FROM pg_database WHERE datname = current_database();
  SELECT setconfig INTO settings FROM pg_db_role_setting WHERE setdatabase = here AND setrole = 0;
  IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = into_schema)
     AND EXISTS (SELECT FROM pg_available_extension_versions v WHERE v.name = made AND v.schema = into_schema) THEN
    -- For its owner's default privileges: readers that were admitted before may use it.
    EXECUTE format('CREATE SCHEMA %I%s', into_schema, ' AUTHORIZATION ' || quote_ident(owner));
    EXECUTE format('ALTER SCHEMA %I OWNER TO CURRENT_USER', into_schema);
    EXECUTE format('CREATE EXTENSION %I SCHEMA %I VERSION %L', made, into_schema, at_version);
    IF owner IS NOT NULL THEN
      EXECUTE format('ALTER SCHEMA %I OWNER TO %I', into_schema, owner);
      -- What the script granted stays out of dumps.
      UPDATE pg_init_privs SET initprivs = nspacl FROM pg_namespace n
       WHERE classoid = 'pg_namespace'::regclass AND objoid = n.oid AND nspname = into_schema;
    END IF;
  ELSE
    EXECUTE format('CREATE EXTENSION %I SCHEMA %I VERSION %L', made, into_schema, at_version);
  END IF;
  -- PostGIS adds its schemas to the database's search_path, which is the user's.
  IF settings IS DISTINCT FROM (SELECT setconfig FROM pg_db_role_setting WHERE setdatabase = here AND setrole = 0) THEN
    DELETE FROM pg_db_role_setting WHERE setdatabase = here AND setrole = 0;
    IF settings IS NOT NULL THEN INSERT INTO pg_db_role_setting (setdatabase, setrole, setconfig) VALUES (here, 0, settings); END IF;
  END IF;
  FOR i IN 1 .. cardinality(names) LOOP
    FOR e IN SELECT extname FROM pg_extension WHERE extnamespace = (SELECT oid FROM pg_namespace WHERE nspname = names[i]) LOOP
      PERFORM pg_temp.move_extension(e, aside[i]);
    END LOOP;
    EXECUTE format('DROP SCHEMA %I', names[i]);
    EXECUTE format('ALTER SCHEMA %I RENAME TO %I', aside[i], names[i]);
  END LOOP;
END $$;
