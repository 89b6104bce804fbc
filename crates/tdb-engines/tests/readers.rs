//! Grants for reading while clients change the definitions of what is granted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::Duration;

use secrecy::ExposeSecret;
use support::World;
use tdb_engines::postgres::readers::{self, GrantProgress, Readers};
use tokio::time::timeout;

/// While one table's definition is being changed, changes of another one go on.
#[tokio::test]
async fn admitting_readers_makes_no_ddl_of_a_client_fail() {
    let world = World::with_template().await;
    let acme = world.tenant("app__acme", "app_v1").await;
    let [first, second] = [world.session(&acme).await, world.session(&acme).await];
    let tables = "CREATE TABLE a_first (id serial); CREATE TABLE b_second (id int)";
    first.batch_execute(tables).await.unwrap();
    first
        .batch_execute("BEGIN; ALTER TABLE b_second ADD COLUMN more int")
        .await
        .unwrap();
    let clients = async {
        let waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'b_second'::regclass)";
        let waits = async { while !second.query_one(waiting, &[]).await.unwrap().get::<_, bool>(0) {} };
        timeout(Duration::from_secs(60), waits).await.unwrap();
        second
            .batch_execute("ALTER TABLE a_first ADD COLUMN more int")
            .await
            .unwrap();
        first.batch_execute("ROLLBACK").await.unwrap();
    };
    tokio::join!(clients, world.admit_readers(&acme));
    world.admit_readers(&acme).await;
}

#[tokio::test]
async fn relations_that_a_client_changes_are_admitted_later() {
    let world = World::with_template().await;
    let acme = world.tenant("app__acme", "app_v1").await;
    let session = world.session(&acme).await;
    let sql = "CREATE TABLE early (id serial); CREATE VIEW seen AS SELECT * FROM early;
         CREATE MATERIALIZED VIEW kept AS SELECT * FROM early; CREATE TABLE guarded (id int);
         COMMENT ON VIEW seen IS 'it''s \\kept'; COMMENT ON TABLE early IS 'kept'";
    session.batch_execute(sql).await.unwrap();
    let comments = "SELECT obj_description('seen'::regclass) || obj_description('early'::regclass)";
    session
        .batch_execute("BEGIN; LOCK TABLE guarded IN SHARE ROW EXCLUSIVE MODE")
        .await
        .unwrap();
    let admit = || readers::admit(&world.server, &acme.name, &acme.roles, Readers::Admitted);
    assert_eq!(admit().await.unwrap(), GrantProgress::SomeBusy);
    let secret = acme.secrets.readonly.expose_secret();
    let reader = world.cluster.connect_as(&acme.roles.readonly, secret, &acme.name).await;
    let reader = reader.unwrap();
    reader
        .batch_execute("SELECT * FROM early, seen, kept, early_id_seq")
        .await
        .unwrap();
    session
        .batch_execute("COMMIT; BEGIN; SELECT nextval('early_id_seq')")
        .await
        .unwrap();
    assert_eq!(admit().await.unwrap(), GrantProgress::Complete);
    reader.batch_execute("SELECT * FROM guarded").await.unwrap();
    session.batch_execute("COMMIT").await.unwrap();
    let kept: String = session.query_one(comments, &[]).await.unwrap().get(0);
    assert_eq!(kept, "it's \\keptkept");
}

/// The read-only role can take on the group's role, and DROP OWNED removes the group's default privileges.
#[tokio::test]
async fn default_privileges_that_a_client_removed_are_found_and_granted_again() {
    let world = World::with_template().await;
    let acme = world.tenant("app__acme", "app_v1").await;
    let globex = world.tenant("app__globex", "app_v1").await;
    let owner = world.session(&acme).await;
    owner.batch_execute("CREATE TABLE early (id int)").await.unwrap();
    let nothing: [String; 0] = [];
    let both = [acme.name.as_str(), globex.name.as_str()];
    let lacking = || readers::lacking(&world.server, &both);
    assert_eq!(lacking().await.unwrap().len(), 2);
    for database in [&acme, &globex] {
        world.admit_readers(database).await;
    }
    assert_eq!(lacking().await.unwrap(), nothing);
    let secret = acme.secrets.readonly.expose_secret();
    let reader = world.cluster.connect_as(&acme.roles.readonly, secret, &acme.name).await;
    let reader = reader.unwrap();
    let removed = "BEGIN READ WRITE; SET LOCAL ROLE tdb_readers; DROP OWNED BY CURRENT_USER; COMMIT";
    reader.batch_execute(removed).await.unwrap();
    assert_eq!(lacking().await.unwrap(), std::slice::from_ref(&acme.name));
    world.admit_readers(&acme).await;
    assert_eq!(lacking().await.unwrap(), nothing);
    owner.batch_execute("CREATE TABLE late (id int)").await.unwrap();
    reader.batch_execute("SELECT * FROM early, late").await.unwrap();

    // No other privilege of a group can be removed so.
    for group in ["tdb_writers", "tdb_readers"] {
        let session = if group == "tdb_writers" { &owner } else { &reader };
        let removed = format!("BEGIN READ WRITE; SET LOCAL ROLE {group}; DROP OWNED BY CURRENT_USER; COMMIT");
        session.batch_execute(&removed).await.unwrap();
    }
    owner.batch_execute("SELECT lo_create(0)").await.unwrap();
    reader.batch_execute("SELECT * FROM early, late").await.unwrap();
}
