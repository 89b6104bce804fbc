-- Only where no role is a member any more, and nothing refers to it: PostgreSQL refuses the latter itself, with 2BP01.
DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid WHERE r.rolname = :name) THEN
    EXECUTE format('DROP ROLE IF EXISTS %I', :name);
  END IF;
END $$
