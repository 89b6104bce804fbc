//! Statements with CONCURRENTLY: replaying them in another form would give a different catalog, and a failure leaves objects.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::Duration;

use support::{Replay, numbered};
use tdb_engines::postgres::apply::TimeLimits;

const PARTITIONS: &str = "CREATE TABLE p (a int) PARTITION BY RANGE (a); CREATE TABLE c1 PARTITION OF p FOR VALUES FROM (0) TO (9); \
     CREATE SCHEMA s; CREATE TABLE s.\"C2\" PARTITION OF p FOR VALUES FROM (9) TO (20); \
     CREATE TABLE c3 PARTITION OF p FOR VALUES FROM (20) TO (30)";

#[tokio::test]
async fn a_partition_detached_concurrently_keeps_its_constraint_on_tenants_too() {
    let mut replay = Replay::start().await;
    let session = replay.world.session(&replay.workspace).await;
    session.batch_execute(PARTITIONS).await.unwrap();
    replay.prove().await;
    session
        .batch_execute("ALTER TABLE p DETACH PARTITION c1 CONCURRENTLY")
        .await
        .unwrap();
    replay.prove().await;

    // If it fails in its second half, the partition is pending, and FINALIZE completes it.
    let reader = replay.world.session(&replay.workspace).await;
    reader.batch_execute("BEGIN; SELECT FROM p").await.unwrap();
    session
        .batch_execute("SET statement_timeout = '1s'; SET search_path = s, public")
        .await
        .unwrap();
    session
        .batch_execute("ALTER TABLE p DETACH PARTITION \"C2\" CONCURRENTLY")
        .await
        .unwrap_err();
    reader.batch_execute("COMMIT").await.unwrap();
    session
        .batch_execute("ALTER TABLE p DETACH PARTITION \"C2\" FINALIZE")
        .await
        .unwrap();
    session.batch_execute("RESET ALL").await.unwrap();
    replay.prove().await;

    // The same on a tenant: the next attempt completes it.
    session
        .batch_execute("ALTER TABLE p DETACH PARTITION c3 CONCURRENTLY")
        .await
        .unwrap();
    replay.drain().await;
    let reader = replay.world.session(&replay.build).await;
    reader.batch_execute("BEGIN; SELECT FROM p").await.unwrap();
    let limits = TimeLimits {
        statement_timeout: Duration::from_secs(1),
        ..TimeLimits::default()
    };
    let changes = numbered(&replay.changes);
    replay
        .world
        .bring_up_within(&replay.build, &changes, limits)
        .await
        .unwrap_err();
    reader.batch_execute("COMMIT").await.unwrap();
    replay.prove().await;
}

#[tokio::test]
async fn what_a_failed_index_left_can_be_dropped() {
    let mut replay = Replay::start().await;
    let session = replay.world.session(&replay.workspace).await;
    session
        .batch_execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1), (1); CREATE INDEX i ON t (a)")
        .await
        .unwrap();
    for drop in [
        "DROP INDEX u",
        "DROP INDEX CONCURRENTLY u",
        "DROP INDEX u, i",
        "BEGIN; DROP INDEX u; CREATE TABLE x (); COMMIT",
    ] {
        session
            .batch_execute("CREATE UNIQUE INDEX CONCURRENTLY u ON t (a)")
            .await
            .unwrap_err();
        session.batch_execute(drop).await.unwrap();
        replay.prove().await;
    }
}

#[tokio::test]
async fn forms_with_only_not_valid_and_concurrently_replay_as_written() {
    let mut replay = Replay::start().await;
    let session = replay.world.session(&replay.workspace).await;
    session.batch_execute(PARTITIONS).await.unwrap();
    for sql in [
        "CREATE INDEX i ON ONLY p (a)",
        "CREATE INDEX i1 ON c1 (a)",
        "ALTER INDEX i ATTACH PARTITION i1",
        "CREATE INDEX CONCURRENTLY i3 ON c3 (a)",
        "ALTER INDEX i ATTACH PARTITION i3",
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS i3 ON c3 (a)",
        "CREATE INDEX CONCURRENTLY ON s.\"C2\" (a)",
        "ALTER TABLE ONLY p ADD CONSTRAINT k UNIQUE (a)",
        "CREATE UNIQUE INDEX CONCURRENTLY k1 ON c1 (a)",
        "ALTER TABLE c1 ADD CONSTRAINT k1 UNIQUE USING INDEX k1",
        "ALTER INDEX k ATTACH PARTITION k1",
        "CREATE TABLE o (a int, b int NOT NULL)",
        "ALTER TABLE o ADD CONSTRAINT few CHECK (a < 9) NOT VALID, ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES o NOT VALID",
        "CREATE TABLE kid () INHERITS (o)",
        "ALTER TABLE ONLY o ADD CONSTRAINT own CHECK (b > 0) NO INHERIT NOT VALID",
        "ALTER TABLE o VALIDATE CONSTRAINT few",
        "ALTER TABLE ONLY o ALTER b SET DEFAULT 3",
        "REINDEX TABLE CONCURRENTLY o",
        "CREATE INDEX ot ON o (a)",
        "ALTER TABLE o CLUSTER ON ot",
        "DROP INDEX CONCURRENTLY ot",
    ] {
        if session.batch_execute(sql).await.is_err() {
            assert!(sql.contains("REFERENCES o "), "{sql}");
            session
                .batch_execute("ALTER TABLE o ADD CONSTRAINT few CHECK (a < 9) NOT VALID")
                .await
                .unwrap();
        }
        replay.prove().await;
    }
}
