-- Names of roles, relations and privileges are compared and printed under an empty search_path.
CREATE FUNCTION pg_temp.adopt(from_role name, to_role name) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE r record; 
BEGIN
  FOR r IN SELECT p.polname, p.polrelid::regclass AS rel, (SELECT string_agg(CASE WHEN x = 0 THEN 'PUBLIC' WHEN x::regrole::text = quote_ident(from_role) THEN quote_ident(to_role) ELSE x::regrole::text END, ',') FROM unnest(p.polroles) x) AS roles
             FROM pg_policy p WHERE (SELECT oid FROM pg_roles WHERE rolname = from_role) = ANY (p.polroles) LOOP
    EXECUTE format('ALTER POLICY %I ON %s TO %s', r.polname, r.rel, r.roles);
  END LOOP;
  FOR r IN SELECT d.defaclnamespace AS ns, d.defaclobjtype AS t, d.defaclacl AS acl, d.oid FROM pg_default_acl d WHERE d.defaclrole = (SELECT oid FROM pg_roles WHERE rolname = from_role) LOOP
    DECLARE kind text := CASE r.t WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS' WHEN 'T' THEN 'TYPES' ELSE 'SCHEMAS' END;
            scope text := CASE WHEN r.ns = 0 THEN '' ELSE format(' IN SCHEMA %I', (SELECT nspname FROM pg_namespace WHERE oid = r.ns)) END; a record;
    BEGIN
      IF r.ns = 0 THEN  -- a global entry replaces the built-in defaults: start from nothing
        EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE %I REVOKE ALL ON %s FROM PUBLIC', to_role, kind);
        EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE %I REVOKE ALL ON %s FROM %I', to_role, kind, to_role);
      END IF;
      FOR a IN SELECT grantee, privilege_type, is_grantable FROM aclexplode(r.acl) LOOP
        EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE %I%s GRANT %s ON %s TO %s%s', to_role, scope, a.privilege_type, kind,
          CASE WHEN a.grantee = 0 THEN 'PUBLIC' WHEN a.grantee::regrole::text = quote_ident(from_role) THEN quote_ident(to_role) ELSE a.grantee::regrole::text END,
          CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
      END LOOP;
    END;
  END LOOP;
  EXECUTE format('REASSIGN OWNED BY %I TO %I', from_role, to_role);
  -- Privileges that extensions granted at their creation, which dumps leave out.
  UPDATE pg_init_privs SET initprivs = ARRAY(
           SELECT regexp_replace(right_of::text, format('(^|/)%s(?==|$)', from_role), '\1' || to_role, 'g')::aclitem FROM unnest(initprivs) right_of)
   WHERE classoid = 'pg_namespace'::regclass AND EXISTS (SELECT FROM aclexplode(initprivs) WHERE from_role::regrole IN (grantee, grantor));
  -- The schema that CREATE SCHEMA AUTHORIZATION CURRENT_USER created; "$user" in a search_path refers to it.
  IF EXISTS (SELECT FROM pg_namespace WHERE nspname = from_role) THEN
    EXECUTE format('ALTER SCHEMA %I RENAME TO %I', from_role, to_role);
  END IF;
  -- Only default privileges can remain; skipping the statement without them saves 10 ms.
  IF EXISTS (SELECT FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = (SELECT oid FROM pg_roles WHERE rolname = from_role)
               AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())) THEN
    EXECUTE format('DROP OWNED BY %I', from_role);
  END IF;
  PERFORM pg_temp.grant_extensions(to_role);
END $$;
