//! Sessions of workspaces: the journal's marker, and the drain before the reply.

use postgres_protocol::message::frontend;

use crate::support::{Lab, WORKSPACE, WORKSPACE_USER};
use crate::wire::{Frame, Wire};

/// An event trigger that raises the same notice as the real journal, which the control plane installs.
const MARKER: &str = "
    CREATE FUNCTION mark() RETURNS event_trigger LANGUAGE plpgsql SET client_min_messages = notice AS $$ BEGIN
      IF current_setting('tdb.session', true) <> '' THEN RAISE NOTICE USING ERRCODE = 'TD001', MESSAGE = 'ddl 1'; END IF;
    END $$;
    CREATE EVENT TRIGGER mark ON ddl_command_end EXECUTE FUNCTION mark()";

async fn marked() -> (Lab, Wire) {
    let lab = Lab::start().await;
    lab.cluster
        .connect("dr_dev")
        .await
        .unwrap()
        .batch_execute(MARKER)
        .await
        .unwrap();
    let wire = Wire::login(&lab, WORKSPACE_USER, WORKSPACE).await.unwrap();
    (lab, wire)
}

/// The types of the frames, with the messages of notices and the status of ReadyForQuery.
fn summary(frames: &[Frame]) -> Vec<String> {
    let types = frames.iter().map(|frame| match frame.tag {
        b'N' => frame.field(b'M').unwrap(),
        b'Z' => format!("Z{}", char::from(frame.body[0])),
        tag => char::from(tag).to_string(),
    });
    types.collect()
}

#[tokio::test]
async fn the_marker_is_removed_and_the_drain_runs_before_the_reply() {
    let (lab, mut wire) = marked().await;
    assert_eq!(summary(&wire.query("CREATE TABLE a ()").await), ["C", "drain 1", "ZI"]);
    assert_eq!(summary(&wire.query("SELECT 1").await), ["T", "D", "C", "ZI"]);
    let quiet = wire
        .query("DO $$ BEGIN RAISE NOTICE 'hello'; EXECUTE 'CREATE TABLE b ()'; END $$")
        .await;
    assert_eq!(summary(&quiet), ["hello", "C", "drain 2", "ZI"]);
    assert_eq!(lab.journal.drains(), 2);
}

#[tokio::test]
async fn a_marker_with_a_long_context_is_removed_too() {
    let (_lab, mut wire) = marked().await;
    let long = "x".repeat(200_000);
    let hidden = format!("DO $$ BEGIN EXECUTE 'CREATE VIEW v AS SELECT ''{long}'' AS a'; END $$");
    assert_eq!(summary(&wire.query(&hidden).await), ["C", "drain 1", "ZI"]);
    let spoken = format!("DO $$ BEGIN RAISE NOTICE '{long}'; END $$");
    assert_eq!(summary(&wire.query(&spoken).await), [&long, "C", "ZI"]);
}

#[tokio::test]
async fn a_transaction_is_drained_at_its_commit_and_not_before() {
    let (lab, mut wire) = marked().await;
    for sql in [
        "BEGIN",
        "CREATE TABLE a ()",
        "SAVEPOINT s",
        "SELECT 1/0",
        "ROLLBACK TO s",
    ] {
        wire.query(sql).await;
    }
    assert_eq!(lab.journal.drains(), 0);
    assert_eq!(summary(&wire.query("COMMIT AND CHAIN").await), ["C", "drain 1", "ZT"]);
    assert_eq!(summary(&wire.query("COMMIT").await).last().unwrap(), "ZI");
    let mixed = wire.query("BEGIN; CREATE TABLE b (); COMMIT; SELECT 1").await;
    assert_eq!(summary(&mixed).last_chunk::<2>().unwrap()[1], "ZI");
    assert!(lab.journal.drains() >= 2);
}

#[tokio::test]
async fn each_sync_of_a_pipeline_waits_for_its_own_drain() {
    let (_lab, mut wire) = marked().await;
    wire.send(|out| {
        for name in ["a", "b", "c"] {
            frontend::parse("", &format!("CREATE TABLE {name} ()"), [], out).unwrap();
            frontend::bind("", "", [], std::iter::empty::<()>(), |_, _| unreachable!(), [], out).unwrap_or_default();
            frontend::execute("", 0, out).unwrap();
            frontend::sync(out);
        }
    })
    .await;
    for number in 1..=3 {
        let frames = wire.until_ready().await.unwrap();
        assert_eq!(summary(&frames), ["1", "2", "C", &format!("drain {number}"), "ZI"]);
    }
}

#[tokio::test]
async fn a_drain_that_exceeds_its_time_limit_is_reported_and_not_waited_for() {
    let (lab, mut wire) = marked().await;
    lab.journal.hang();
    let frames = wire.query("CREATE TABLE a ()").await;
    assert_eq!(summary(&frames), ["C", "captured, not yet in the change log", "ZI"]);
    assert_eq!(lab.proxy.metric("drains_late_total"), 1.0);
}
