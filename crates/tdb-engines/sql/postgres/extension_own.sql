-- Makes the database's owner role the owner of an extension, as for a trusted one; the administrator keeps its objects. SQL has
-- no statement for this.
CREATE FUNCTION pg_temp.own_extension(made name, owner name) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE extension oid; role oid; database oid;
BEGIN
  SELECT oid INTO STRICT role FROM pg_roles WHERE rolname = owner;
  SELECT oid INTO STRICT database FROM pg_database WHERE datname = current_database();
  UPDATE pg_extension SET extowner = role WHERE extname = made RETURNING oid INTO STRICT extension;
  DELETE FROM pg_shdepend WHERE dbid = database AND classid = 'pg_extension'::regclass AND objid = extension AND deptype = 'o';
  INSERT INTO pg_shdepend (dbid, classid, objid, objsubid, refclassid, refobjid, deptype)
  VALUES (database, 'pg_extension'::regclass, extension, 0, 'pg_authid'::regclass, role, 'o');
END $$;
