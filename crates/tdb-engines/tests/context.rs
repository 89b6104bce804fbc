//! The contexts in the journal: PostgreSQL's lines about the calls in which a statement ran.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use support::{Database, World};
use tdb_engines::postgres::journal::{self, Caller};

#[tokio::test]
async fn contexts_are_in_english_whatever_the_language_of_the_server_is() {
    let world = World::start().await;
    let workspace = world.workspace("app_dev").await;
    let admin = world.cluster.connect(&workspace.name).await.unwrap();
    // No other locale is on each machine.
    admin
        .batch_execute(
            "ALTER DATABASE app_dev SET lc_messages = 'C.UTF-8'; \
             ALTER TABLE tdb.ddl_event ADD language text DEFAULT current_setting('lc_messages')",
        )
        .await
        .unwrap();
    let session = world.session(&workspace).await;
    session
        .batch_execute("DO 'BEGIN CREATE TABLE a (); DROP TABLE a; END'")
        .await
        .unwrap();
    let kept: String = session.query_one("SHOW lc_messages", &[]).await.unwrap().get(0);
    assert_eq!(kept, "C.UTF-8");
    let languages = admin.query("SELECT language FROM tdb.ddl_event", &[]).await.unwrap();
    let languages: Vec<String> = languages.iter().map(|row| row.get(0)).collect();
    assert_eq!(languages, ["C", "C"]);
    assert_eq!(
        contexts(&world, &workspace).await,
        [block("CREATE TABLE a ()"), block("DROP TABLE a")]
    );
}

#[tokio::test]
async fn contexts_begin_at_the_call_after_an_error_in_the_journal_too() {
    let world = World::start().await;
    let workspace = world.workspace("app_dev").await;
    let admin = world.cluster.connect(&workspace.name).await.unwrap();
    let check = "ALTER TABLE tdb.ddl_event ADD CHECK (tag <> 'CREATE VIEW')";
    admin.batch_execute(check).await.unwrap();
    let session = world.session(&workspace).await;
    let text = "BEGIN; SAVEPOINT s; DO 'BEGIN BEGIN CREATE VIEW v AS SELECT; EXCEPTION WHEN check_violation THEN END; \
                CREATE TABLE a (); END'; CREATE TABLE b (); COMMIT";
    session.batch_execute(text).await.unwrap();
    let [of_block, of_client] = &contexts(&world, &workspace).await[..] else {
        panic!("a row for each table");
    };
    assert_eq!(of_block, &block("CREATE TABLE a ()"));
    assert_eq!(of_client, "");
}

#[tokio::test]
async fn a_journal_that_can_have_translated_contexts_is_upgraded() {
    let world = World::start().await;
    let workspace = world.workspace("app_dev").await;
    let admin = world.cluster.connect(&workspace.name).await.unwrap();
    admin.batch_execute(OLD).await.unwrap();
    let session = world.session(&workspace).await;
    session.batch_execute("CREATE TABLE a ()").await.unwrap();
    assert_eq!(world.drain(&workspace).await.len(), 1);
    let old = "DROP FUNCTION tdb.log_event(text, text, text, text, text)";
    let leave = "ALTER EXTENSION plpgsql DROP FUNCTION tdb.log_event(text, text, text, text, text)";
    admin.batch_execute(&format!("{leave}; {old}")).await.unwrap();
    session.batch_execute("CREATE TABLE b ()").await.unwrap();
    assert_eq!(world.drain(&workspace).await.len(), 1);
}

/// Gives the logging function the signature that it had before, with the context as its last parameter.
const OLD: &str = r"
DO $old$
DECLARE body text := (SELECT prosrc FROM pg_proc WHERE oid = 'tdb.log_event(text,text,text,text)'::regprocedure);
BEGIN
  EXECUTE format('CREATE FUNCTION tdb.log_event(p_event text, p_tag text, p_path text, p_role text, p_context text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS %L', body);
  ALTER EXTENSION plpgsql ADD FUNCTION tdb.log_event(text, text, text, text, text);
END $old$;
CREATE OR REPLACE FUNCTION tdb.capture() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE s bigint; context text;
BEGIN
  GET DIAGNOSTICS context = PG_CONTEXT;
  s := tdb.log_event(TG_EVENT, TG_TAG, pg_catalog.current_setting('search_path'), CURRENT_USER::pg_catalog.text, context);
END $$;
ALTER EXTENSION plpgsql DROP FUNCTION tdb.log_event(text, text, text, text);
DROP FUNCTION tdb.log_event(text, text, text, text)";

/// The context of a statement in a DO.
fn block(statement: &str) -> String {
    format!("SQL statement \"{statement}\"\nPL/pgSQL function inline_code_block line 1 at SQL statement")
}

/// The context of each row; empty if the client ran the statement itself.
async fn contexts(world: &World, workspace: &Database) -> Vec<String> {
    let rows = journal::read(&world.server, &workspace.name, &workspace.roles.owner).await;
    let context = |caller| match caller {
        Caller::Function(context) => context,
        Caller::Client => String::new(),
        Caller::Unknown => panic!("a journal of an older version"),
    };
    rows.unwrap().into_iter().map(|row| context(row.caller)).collect()
}
