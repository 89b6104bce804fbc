-- Drops the role only if it has no members. If objects or privileges refer to it, PostgreSQL refuses with 2BP01.
DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid WHERE r.rolname = :name) THEN
    EXECUTE format('DROP ROLE IF EXISTS %I', :name);
  END IF;
END $$
