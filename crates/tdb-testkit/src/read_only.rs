//! Attacks by clients that may only read. The proxy and the queries of API keys must refuse the same texts.

/// The schema that the texts use. The attacker can call its functions.
pub const SCHEMA: &str = "CREATE TABLE t (id int); CREATE INDEX i ON t (id); CREATE SEQUENCE s;
    CREATE FUNCTION put() RETURNS void LANGUAGE sql SECURITY DEFINER AS 'INSERT INTO t VALUES (1)';
    CREATE FUNCTION run(what text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN EXECUTE what; END';
    CREATE PROCEDURE later(what text) LANGUAGE plpgsql AS 'BEGIN COMMIT; SET TRANSACTION READ WRITE; EXECUTE what; END';
    CREATE FUNCTION turn() RETURNS bool LANGUAGE plpgsql AS
      $$ BEGIN PERFORM set_config('default_transaction_read_only', 'off', false); RETURN true; END $$;
    CREATE FUNCTION loosen() RETURNS bool LANGUAGE plpgsql AS
      $$ BEGIN PERFORM set_config('transaction_read_only', 'off', false); RETURN true; END $$;
    CREATE DOMAIN turning AS int CHECK (turn()); CREATE DOMAIN loosening AS int CHECK (loosen())";

/// Texts that must fail in every session that may only read, whatever the protocol. Those that the scanner of
/// `tdb-wire-postgres` refuses must fail with SQLSTATE 25006.
pub const REFUSED: &[&str] = &[
    "BEGIN READ WRITE",
    "begin/**/read--x\n/* /* nested */ */write",
    "START TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ WRITE",
    "BEGIN; SET TRANSACTION READ WRITE",
    "SET LOCAL TRANSACTION READ WRITE; INSERT INTO t VALUES (1)",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
    "SET default_transaction_read_only = off",
    "SET \"DEFAULT_transaction_read_only\" TO no",
    "SET U&\"transaction\\005fread_only\" = off; INSERT INTO t VALUES (1)",
    "SET transaction_read_only TO DEFAULT; INSERT INTO t VALUES (1)",
    "RESET transaction_read_only; INSERT INTO t VALUES (1)",
    "SET standard_conforming_strings = off; SELECT 'a\\'; BEGIN READ WRITE; SELECT '",
    "SELECT E'a\\'; BEGIN READ WRITE; --'; BEGIN READ WRITE",
    "SELECT E'a'\n'\\''; BEGIN READ WRITE; --'",
    "SELECT $a$ ; $$ $a$; BEGIN READ WRITE",
    "SELECT 1 AS a$$; BEGIN READ WRITE; --$$",
    "DO $$ BEGIN COMMIT; SET TRANSACTION READ WRITE; INSERT INTO t VALUES (1); END $$",
    "DO $$ BEGIN PERFORM turn(); COMMIT; INSERT INTO t VALUES (1); END $$",
    "do 'begin reset transaction_read_only; perform nextval(''s''); end'",
    "DO $$ BEGIN PERFORM set_config('transaction_read_only', NULL, false); INSERT INTO t VALUES (1); END $$",
    "CALL later('INSERT INTO t VALUES (1)')",
    "BEGIN; PREPARE TRANSACTION 'x'",
    "VACUUM FULL t",
    "ANALYZE t",
    "CLUSTER t USING i",
    "REINDEX TABLE t",
    "SELECT turn(); COMMIT; INSERT INTO t VALUES (1)",
    "BEGIN; SELECT turn(); END; INSERT INTO t VALUES (1)",
    "SELECT turn(); ROLLBACK; INSERT INTO t VALUES (1)",
    "SELECT turn(); ABORT; INSERT INTO t VALUES (1)",
    "SELECT turn(); ROLLBACK PREPARED 'x'; INSERT INTO t VALUES (1)",
    "SELECT turn(); DISCARD ALL; INSERT INTO t VALUES (1)",
    "INSERT INTO t VALUES (1)",
    "WITH x AS (INSERT INTO t VALUES (1) RETURNING *) SELECT * FROM x",
    "COPY t FROM STDIN",
    "SELECT put()",
    "SELECT run('SET TRANSACTION READ WRITE')",
    "SELECT run('CREATE TABLE x ()')",
    "SELECT loosen()",
    "SELECT 1::loosening",
    "SELECT nextval('s')",
    "UPDATE pg_settings SET setting = 'off' WHERE name = 'default_transaction_read_only'",
    "ALTER ROLE CURRENT_USER PASSWORD 'x'",
    "ALTER ROLE CURRENT_USER SET search_path = x",
    "CREATE TEMPORARY TABLE x ()",
    "GRANT SELECT ON t TO PUBLIC",
    "COMMENT ON TABLE t IS 'x'",
    "SELECT set_config('transaction_' || 'read_only', NULL, false), put()",
    "SELECT pg_catalog . \"set_config\" /**/ ('Transaction_read_only', NULL, false), put()",
    "SELECT U&\"set\\005fconfig\"('transaction_read_only', NULL, false), put()",
    "SELECT set_config(U&'transaction\\005fread_only', NULL, false), put()",
    "SELECT set_config(E'transaction\\x5fread_only', NULL, false), put()",
    "SELECT set_config('transaction_'\n'read_only', NULL, false), put()",
    "SELECT set_config(n, NULL, false), put() FROM (VALUES ('transaction_read_only')) v (n)",
    "SELECT query_to_xml('SELECT set_config(''transaction_read_only'', NULL, false)', true, true, ''), put()",
    "SELECT ts_stat('SELECT set_config(''transaction_read_only'', NULL, false)::tsvector'), put()",
    "SELECT ('SELECT set_config(''transaction_read_only'', NULL, false)::tsvector'::text).ts_stat, put()",
    "SELECT x /**/ . \"ts_stat\", put() FROM unnest(ARRAY['SELECT set_config(''transaction_read_only'', NULL, false)::tsvector']) x",
    "SELECT x.U&\"ts\\005fstat\", put() FROM unnest(ARRAY['SELECT set_config(''transaction_read_only'', NULL, false)::tsvector']) x",
    "SELECT ((ARRAY['SELECT set_config(''transaction_read_only'', NULL, false)::tsvector'])[1] COLLATE \"C\").TS_STAT.*, put()",
];
