//! Repairs of a head that cannot become a version: the error says what to do, and doing that works.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test fails by panicking

mod support;

use support::{World, blueprint};
use tdb_control::model::{ChangeState, DeploymentStatus, Reverted};
use tdb_control::{ControlError, Page};

/// The change numbers in the skip request that a text recommends.
fn recommended(text: &str) -> Vec<u32> {
    let before = "DELETE /workspaces/app/diff {\"ddl_ids\": [";
    let (_, after) = text.split_once(before).unwrap_or_else(|| panic!("{text}"));
    let (numbers, _) = after.split_once(']').unwrap_or_else(|| panic!("{text}"));
    numbers.split(", ").map(|number| number.parse().unwrap()).collect()
}

async fn states(world: &World) -> Vec<(u32, ChangeState)> {
    world
        .diff("app")
        .await
        .iter()
        .map(|change| (change.id, change.state))
        .collect()
}

async fn completed(world: &World) {
    let job = world.deploy("app").await;
    assert_eq!(job.summary.status, DeploymentStatus::Completed, "{job:#?}");
    world.no_drift("app").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_broken_changes_is_skipped_though_a_later_one_needs_another() {
    let world = World::start().await;
    world.workspace("app").await;
    let session = world.session("app_dev").await;
    session.batch_execute("PREPARE p AS SELECT 1 AS n").await.unwrap();
    for sql in [
        "CREATE TABLE one AS EXECUTE p",
        "CREATE TABLE two AS EXECUTE p",
        "ALTER TABLE two ADD COLUMN more int",
        "CREATE TABLE fine (id int)",
    ] {
        session.batch_execute(sql).await.unwrap();
    }
    assert_eq!(states(&world).await[0], (1, ChangeState::Broken));
    world.skip("app", &[1]).await.unwrap();
    let expected = [
        (2, ChangeState::Broken),
        (3, ChangeState::Broken),
        (4, ChangeState::Pending),
    ];
    assert_eq!(states(&world).await, expected);
    let refused = world.refused_deployment("app").await;
    assert_eq!(refused.code().as_str(), "head_broken");
    let said = "; changes 2 and 3 cannot be replayed";
    assert!(refused.to_string().contains(said), "{refused}");
    assert_eq!(recommended(refused.hint().unwrap()), [2, 3]);
    let shown = world.diff("app").await;
    assert_eq!(recommended(shown[0].repair.as_deref().unwrap()), [2, 3]);
    assert_eq!(shown[2].repair, None);
    assert_eq!(world.skip("app", &[2, 3]).await.unwrap().len(), 2);
    world.tenant("acme", "app").await;
    world.no_drift("app").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_skip_names_all_that_need_it_and_skips_none() {
    let world = World::start().await;
    world.workspace("app").await;
    for sql in [
        "CREATE TABLE base (id int PRIMARY KEY)",
        "CREATE TABLE apart (id int)",
        "CREATE TABLE derived (id int REFERENCES base)",
        "ALTER TABLE derived ADD COLUMN more int",
    ] {
        world.ddl("app", sql).await;
    }
    let refused = world.skip("app", &[1, 2]).await.unwrap_err();
    assert_eq!(refused.code().as_str(), "change_needed");
    assert!(
        refused
            .to_string()
            .starts_with("changes 3 and 4 need changes 1 and 2: without them, change 3 fails with"),
        "{refused}"
    );
    assert_eq!(world.diff("app").await.len(), 4);
    let all = recommended(refused.hint().unwrap());
    assert_eq!(all, [1, 2, 3, 4]);
    assert!(matches!(
        world.skip("app", &[1, 9]).await,
        Err(ControlError::NotFound { .. })
    ));
    assert!(matches!(
        world.skip("app", &[]).await,
        Err(ControlError::Invalid { .. })
    ));
    assert_eq!(world.diff("app").await.len(), 4);
    world.skip("app", &all).await.unwrap();
    assert_eq!(states(&world).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_replay_differs_is_named_with_the_reason_and_can_be_replaced() {
    let world = World::start().await;
    world.workspace("app").await;
    world.ddl("app", "CREATE TABLE kept (id int)").await;
    world.tenant("acme", "app").await;
    let random = "DO $$ BEGIN EXECUTE 'CREATE TABLE r_' || (random() * 1e15)::bigint || ' (id int)'; END $$";
    world.ddl("app", random).await;
    let refused = world.refused_deployment("app").await;
    assert_eq!(refused.code().as_str(), "head_broken", "{refused}");
    let said = refused.to_string();
    assert!(said.contains("change 2 ") && said.contains("random()"), "{said}");
    assert_eq!(recommended(refused.hint().unwrap()), [2]);
    // As the hint says: drop the table that it created, create one with a fixed name, and skip both changes.
    let session = world.session("app_dev").await;
    let sql = "SELECT relname FROM pg_class WHERE relname ~ '^r_[0-9]+$'";
    let made: String = session.query_one(sql, &[]).await.unwrap().get(0);
    session.batch_execute(&format!("DROP TABLE {made}")).await.unwrap();
    session.batch_execute("CREATE TABLE r_1 (id int)").await.unwrap();
    let refused = world.refused_deployment("app").await;
    world
        .skip("app", &[2, 3])
        .await
        .unwrap_or_else(|error| panic!("{error}: {refused}"));
    completed(&world).await;
    let tenant = world.session("app__acme").await;
    tenant.batch_execute("SELECT FROM r_1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_depends_on_a_change_whose_replay_differs_is_not_blamed_alone() {
    let world = World::start().await;
    world.workspace("app").await;
    world
        .ddl("app", "CREATE TABLE kept (id int); INSERT INTO kept VALUES (1), (2)")
        .await;
    let by_data = "DO $$ DECLARE k record; BEGIN FOR k IN SELECT id FROM kept LOOP
                     EXECUTE format('CREATE TABLE part_%s (id int)', k.id); END LOOP; END $$";
    world.ddl("app", by_data).await;
    world.ddl("app", "ALTER TABLE part_2 ADD COLUMN more int").await;
    let refused = world.refused_deployment("app").await;
    assert_eq!(recommended(refused.hint().unwrap()), [2, 3], "{refused}");
    assert!(refused.to_string().contains("depends on data"), "{refused}");
    world.skip("app", &[2, 3]).await.unwrap();
    world.tenant("acme", "app").await;
    let versions = world
        .control
        .versions
        .list(&world.identity, &blueprint("app"), &Page::default())
        .await;
    assert_eq!(versions.unwrap().last().unwrap().change_ids, [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn times_evaluated_at_parse_time_are_named() {
    let world = World::start().await;
    world.workspace("app").await;
    world.ddl("app", "CREATE TABLE t (id int)").await;
    world
        .ddl(
            "app",
            "ALTER TABLE t ADD COLUMN at timestamptz DEFAULT 'now'::timestamptz",
        )
        .await;
    let refused = world.refused_deployment("app").await;
    assert!(
        refused.to_string().contains("change 2 ") && refused.to_string().contains("'now'"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revert_names_the_change_that_needs_it_whatever_others_are_called() {
    let world = World::start().await;
    world.workspace("app").await;
    for sql in [
        "CREATE SCHEMA app_public",
        "CREATE TABLE base (id int PRIMARY KEY)",
        // In PostgreSQL's detail, its name is the end of another name.
        "CREATE TABLE orders (id int)",
        "CREATE TABLE app_public.orders (id int REFERENCES base)",
    ] {
        world.ddl("app", sql).await;
    }
    let refused = world
        .control
        .reverts
        .revert(&world.identity, &blueprint("app"), 2)
        .await
        .unwrap_err();
    assert_eq!(refused.code().as_str(), "change_needed", "{refused}");
    assert!(
        refused.to_string().starts_with("change 4 needs change 2: "),
        "{refused}"
    );
    for id in [4, 2] {
        world
            .control
            .reverts
            .revert(&world.identity, &blueprint("app"), id)
            .await
            .unwrap();
    }
    let session = world.session("app_dev").await;
    session.batch_execute("SELECT FROM orders").await.unwrap();
}

/// Another name each time, with a value and with a time.
const OTHER_NAMES: [&str; 2] = [
    "DO $$ BEGIN EXECUTE 'CREATE TABLE r_' || (random() * 1e15)::bigint || ' (i int)'; END $$",
    "DO $$ BEGIN EXECUTE 'CREATE TABLE r_' || (extract(epoch FROM clock_timestamp()) * 1e6)::bigint || ' (i int)'; END $$",
];

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_skip_left_does_not_hide_that_another_change_differs() {
    let world = World::start().await;
    world.workspace("app").await;
    for (at, sql) in OTHER_NAMES.into_iter().chain(OTHER_NAMES).enumerate() {
        world.ddl("app", sql).await;
        let id = u32::try_from(at).unwrap() + 1;
        let refused = world.try_tenant("acme", "app").await.unwrap_err();
        assert_eq!(refused.code().as_str(), "head_broken", "{id}: {refused}");
        assert_eq!(states(&world).await, [(id, ChangeState::Broken)]);
        world.skip("app", &[id]).await.unwrap();
    }
    let column = "DO $$ BEGIN EXECUTE 'ALTER TABLE t ADD COLUMN c_' || (random() * 1e15)::bigint || ' int'; END $$";
    world.ddl("app", "CREATE TABLE t (id int)").await;
    world.tenant("acme", "app").await;
    for id in [6, 7] {
        world.ddl("app", column).await;
        let refused = world.refused_deployment("app").await;
        assert_eq!(recommended(refused.hint().unwrap()), [id], "{refused}");
        world.skip("app", &[id]).await.unwrap();
    }
    world.ddl("app", "ALTER TABLE t ADD COLUMN fine int").await;
    completed(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_was_skipped_before_its_replay_differed_blocks_nothing() {
    let world = World::start().await;
    world.workspace("app").await;
    for (sql, id) in OTHER_NAMES.into_iter().zip([1, 3]) {
        world.ddl("app", sql).await;
        world.skip("app", &[id]).await.unwrap();
        world.ddl("app", &format!("CREATE TABLE z_{id} (i int)")).await;
        let made = world.tenant(&format!("t{id}"), "app").await;
        assert_eq!(made.warnings, Vec::<String>::new());
        completed(&world).await;
    }
    let admin = world.cluster.connect("app_dev").await.unwrap();
    admin
        .batch_execute("ALTER TABLE z_1 ADD COLUMN smuggled int")
        .await
        .unwrap();
    let refused = world.refused_deployment("app").await;
    assert_eq!(refused.code().as_str(), "head_differs", "{refused}");
    assert!(refused.to_string().contains("smuggled"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_skipped_change_of_a_table_hides_no_column_that_it_does_not_name() {
    let world = World::start().await;
    world.workspace("app").await;
    let before = "CREATE TABLE t (id int); CREATE TABLE kept (id int); INSERT INTO kept VALUES (1), (2)";
    world.ddl("app", before).await;
    world.tenant("acme", "app").await;
    let unreplayable = "ALTER TABLE t ADD COLUMN other int; GRANT SELECT ON t TO pg_monitor";
    world.ddl("app", unreplayable).await;
    world.skip("app", &[2]).await.unwrap();
    let by_data = "DO $$ DECLARE k record; BEGIN FOR k IN SELECT id FROM kept LOOP
                     EXECUTE format('ALTER TABLE t ADD COLUMN c_%s int', k.id); END LOOP; END $$";
    world.ddl("app", by_data).await;
    let refused = world.refused_deployment("app").await;
    assert_eq!(recommended(refused.hint().unwrap()), [3], "{refused}");
    assert!(refused.to_string().contains("depends on data"), "{refused}");
    world.skip("app", &[3]).await.unwrap();
    world.ddl("app", "ALTER TABLE t ADD COLUMN fine int").await;
    completed(&world).await;
}

async fn revert(world: &World, id: u32) -> Result<Reverted, ControlError> {
    world
        .control
        .reverts
        .revert(&world.identity, &blueprint("app"), id)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_reverted_beside_changes_that_are_not_known_to_be_broken() {
    let world = World::start().await;
    world.workspace("app").await;
    world.ddl("app", "CREATE TABLE apart (id int)").await;
    let session = world.session("app_dev").await;
    session.batch_execute("PREPARE p AS SELECT 1 AS n").await.unwrap();
    session.batch_execute("CREATE TABLE l AS EXECUTE p").await.unwrap();
    session.batch_execute("ALTER TABLE l ADD COLUMN m int").await.unwrap();
    let refused = revert(&world, 3).await.unwrap_err();
    assert_eq!(refused.code().as_str(), "change_not_pending", "{refused}");
    session.batch_execute("CREATE VIEW v AS SELECT m FROM l").await.unwrap();
    let reverted = revert(&world, 1).await.unwrap();
    assert_eq!(reverted.change.state, ChangeState::Reverted, "{reverted:#?}");
    session.batch_execute("SELECT FROM apart").await.unwrap_err();
    let broken = [2, 3, 4].map(|id| (id, ChangeState::Broken));
    assert_eq!(states(&world).await, broken);
    world.skip("app", &[2, 3, 4]).await.unwrap();
    world.ddl("app", "CREATE TABLE fine (id int)").await;
    world.tenant("acme", "app").await;
    world.no_drift("app").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reverted_change_that_every_tenant_has_is_deployed() {
    let world = World::start().await;
    world.workspace("app").await;
    world.ddl("app", "CREATE TABLE t (id int)").await;
    world.tenant("one", "app").await;
    world.ddl("app", "ALTER TABLE t ADD COLUMN a int").await;
    world.tenant("two", "app").await;
    let states = |reverted: Reverted| (reverted.change.state, reverted.inverse.state);
    // Only one of two tenants has it.
    let part = states(revert(&world, 2).await.unwrap());
    assert_eq!(part, (ChangeState::Pending, ChangeState::Pending));
    world.ddl("app", "ALTER TABLE t ADD COLUMN b int").await;
    completed(&world).await;
    let all = states(revert(&world, 4).await.unwrap());
    assert_eq!(all, (ChangeState::Deployed, ChangeState::Pending));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_creates_less_at_its_replay_is_blamed_for_what_fails_without_it() {
    let world = World::start().await;
    world.workspace("app").await;
    let parts = "CREATE TABLE parts (name text); INSERT INTO parts VALUES ('p1')";
    world.ddl("app", parts).await;
    let by_data = "DO $$ DECLARE k record; BEGIN FOR k IN SELECT name FROM parts LOOP
                     EXECUTE format('CREATE TABLE %I (x int)', k.name); END LOOP; END $$";
    world.ddl("app", by_data).await;
    // Creates the same at each replay, and something later drops it.
    let repeatable = "DO $$ BEGIN CREATE SCHEMA s; CREATE TABLE s.t (i int); END $$";
    world.ddl("app", repeatable).await;
    world.ddl("app", "DROP SCHEMA s CASCADE").await;
    world.ddl("app", "CREATE VIEW pv AS SELECT x FROM p1").await;
    let refused = world.try_tenant("acme", "app").await.unwrap_err();
    assert!(refused.to_string().contains("does not create public.p1"), "{refused}");
    assert_eq!(recommended(refused.hint().unwrap()), [2, 5], "{refused}");
    world.skip("app", &[2, 5]).await.unwrap();
    world.tenant("acme", "app").await;
    world.no_drift("app").await;
}

/// Kinds of objects: the statement that creates one, and one that needs it, if such a statement is possible.
const KINDS: [(&str, &str, &str); 24] = [
    ("TYPE", "CREATE TYPE mood AS ENUM ('a')", "CREATE TABLE n1 (m mood)"),
    ("TYPE", "CREATE TYPE pair AS (a int)", "CREATE TABLE n2 (p pair)"),
    ("DOMAIN", "CREATE DOMAIN age AS int", "CREATE TABLE n3 (a age)"),
    (
        "FUNCTION",
        "CREATE FUNCTION fn(int) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE TABLE n4 (a int DEFAULT fn(1))",
    ),
    ("PROCEDURE", "CREATE PROCEDURE pr() LANGUAGE sql AS 'SELECT 1'", ""),
    (
        "AGGREGATE",
        "CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int)",
        "CREATE VIEW n6 AS SELECT total(id) FROM t",
    ),
    ("SCHEMA", "CREATE SCHEMA app", "CREATE TABLE app.n7 (i int)"),
    (
        "SEQUENCE",
        "CREATE SEQUENCE sq",
        "CREATE TABLE n8 (a bigint DEFAULT nextval('sq'))",
    ),
    (
        "TABLE",
        "CREATE TABLE tb (id serial PRIMARY KEY)",
        "CREATE TABLE n9 (r int REFERENCES tb)",
    ),
    (
        "VIEW",
        "CREATE VIEW vw AS SELECT 1 AS a",
        "CREATE VIEW n10 AS SELECT a FROM vw",
    ),
    (
        "MATERIALIZED VIEW",
        "CREATE MATERIALIZED VIEW mv AS SELECT 1 AS a",
        "CREATE VIEW n11 AS SELECT a FROM mv",
    ),
    (
        "INDEX",
        "CREATE UNIQUE INDEX ix ON t (id)",
        "CREATE TABLE n12 (r int REFERENCES t (id))",
    ),
    (
        "COLLATION",
        "CREATE COLLATION plain (provider = libc, locale = 'C')",
        "CREATE TABLE n13 (a text COLLATE plain)",
    ),
    (
        "OPERATOR",
        "CREATE OPERATOR ==== (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq)",
        "CREATE VIEW n14 AS SELECT id ==== 2 AS same FROM t",
    ),
    (
        "TEXT SEARCH DICTIONARY",
        "CREATE TEXT SEARCH DICTIONARY dict (TEMPLATE = simple)",
        "CREATE TEXT SEARCH CONFIGURATION n15 (COPY = simple); \
         ALTER TEXT SEARCH CONFIGURATION n15 ALTER MAPPING FOR word WITH dict",
    ),
    (
        "TEXT SEARCH CONFIGURATION",
        "CREATE TEXT SEARCH CONFIGURATION cfg (COPY = simple)",
        "CREATE VIEW n16 AS SELECT to_tsvector('cfg', word) FROM t",
    ),
    ("EXTENSION", "CREATE EXTENSION hstore", "CREATE TABLE n17 (h hstore)"),
    (
        "CONVERSION",
        "CREATE CONVERSION cv FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8",
        "",
    ),
    ("CAST", "CREATE CAST (kept AS text) WITH INOUT", ""),
    ("STATISTICS", "CREATE STATISTICS st ON id, word FROM t", ""),
    (
        "TRIGGER",
        "CREATE TRIGGER tg BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "",
    ),
    ("RULE", "CREATE RULE ru AS ON DELETE TO t DO INSTEAD NOTHING", ""),
    ("POLICY", "CREATE POLICY po ON t USING (true)", ""),
    ("PUBLICATION", "CREATE PUBLICATION pb FOR TABLE t", ""),
];

/// Does what the diff says until no change is broken: skips the changes and runs the statements that it prints.
async fn repair_as_printed(world: &World) -> String {
    let mut printed = String::new();
    loop {
        let shown = world.diff("app").await;
        let Some(repair) = shown.into_iter().find_map(|change| change.repair) else {
            return printed;
        };
        printed.push_str(&repair);
        world.skip("app", &recommended(&repair)).await.unwrap();
        if let Some((_, drops)) = repair.split_once("app_dev: ") {
            let (drops, _) = drops.split_once("; followed").unwrap();
            world.ddl("app", drops).await;
        }
    }
}

/// Each kind of object is created by a DO that commits, and then needed by another change.
#[tokio::test(flavor = "multi_thread")]
async fn the_printed_repair_works_for_each_kind_of_object() {
    let world = World::start().await;
    world.workspace("app").await;
    let before = "CREATE TABLE t (id int, word text); CREATE TYPE kept AS (a int)";
    world.ddl("app", before).await;
    world.tenant("acme", "app").await;
    for (n, (_, creates, needs)) in KINDS.iter().enumerate() {
        let text = format!("DO $b$ BEGIN {creates}; COMMIT; CREATE TABLE rest_{n} (i int); END $b$");
        world.ddl("app", &text).await;
        world.ddl("app", needs).await;
    }
    let printed = repair_as_printed(&world).await;
    for (n, (kind, creates, needs)) in KINDS.iter().enumerate() {
        assert!(
            printed.contains(&format!("DROP {kind} IF EXISTS ")),
            "{kind}: {printed}"
        );
        world.ddl("app", creates).await;
        world.ddl("app", &format!("CREATE TABLE rest_{n} (i int)")).await;
        world.ddl("app", needs).await;
    }
    completed(&world).await;
    let tenant = world.session("app__acme").await;
    tenant.batch_execute("INSERT INTO n1 VALUES ('a')").await.unwrap();
}

/// The names at the end: a table can be renamed in the block that created it, and by a later broken change.
#[tokio::test(flavor = "multi_thread")]
async fn the_printed_repair_uses_the_names_that_renames_in_blocks_gave() {
    let world = World::start().await;
    world.workspace("app").await;
    world.ddl("app", "CREATE TABLE t (id int)").await;
    world.tenant("acme", "app").await;
    for block in [
        "CREATE TABLE a1 (i int); ALTER TABLE a1 RENAME TO a2; COMMIT; CREATE TYPE m1 AS (a int)",
        "CREATE TABLE b1 (i int); COMMIT; ALTER TABLE b1 RENAME TO b2; EXECUTE 'ALTER TYPE m1 RENAME TO m2'",
    ] {
        world.ddl("app", &format!("DO $b$ BEGIN {block}; END $b$")).await;
    }
    let printed = repair_as_printed(&world).await;
    for drop in [
        "TABLE IF EXISTS public.a2 ",
        "TABLE IF EXISTS public.b2 ",
        "TYPE IF EXISTS public.m2 ",
    ] {
        assert!(printed.contains(&format!("DROP {drop}")), "{printed}");
    }
    assert!(
        !printed.contains("1 CASCADE") && !printed.contains("Also undo"),
        "{printed}"
    );
    let again = "CREATE TABLE a2 (i int); CREATE TABLE b2 (i int); CREATE TYPE m2 AS (a int)";
    world.ddl("app", again).await;
    completed(&world).await;
}

/// A function that an earlier change created is replaced by a broken one: to drop it would drop what needs it in tenants.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_broken_change_replaced_is_not_dropped() {
    let world = World::start().await;
    world.workspace("app").await;
    let before = "CREATE FUNCTION fn() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE TABLE t (a int DEFAULT fn())";
    world.ddl("app", before).await;
    world.tenant("acme", "app").await;
    let replaces = "CREATE OR REPLACE FUNCTION fn() RETURNS int LANGUAGE sql AS 'SELECT 2'";
    let text = format!("DO $b$ BEGIN {replaces}; COMMIT; CREATE TABLE rest (i int); END $b$");
    world.ddl("app", &text).await;
    let printed = repair_as_printed(&world).await;
    assert!(!printed.contains("DROP FUNCTION"), "{printed}");
    assert!(
        printed.contains("Also undo what they changed in public.fn()"),
        "{printed}"
    );
    world.ddl("app", replaces).await;
    world.ddl("app", "CREATE TABLE rest (i int)").await;
    completed(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_may_be_the_cause_of_a_difference_are_named_with_ddl_that_repairs_it() {
    let world = World::start().await;
    let by_row =
        "DO $$ DECLARE r record; BEGIN FOR r IN SELECT * FROM cfg LOOP EXECUTE format('_', r.n); END LOOP; END $$";
    let (drop, alter) = (
        by_row.replace('_', "DROP TABLE %I"),
        by_row.replace('_', "ALTER TABLE %I ALTER i SET DEFAULT 5"),
    );
    let rows = "CREATE TABLE a (i int); CREATE TABLE cfg (n text); INSERT INTO cfg VALUES ('a')";
    let cases: [(&str, &[&str], &str, &[&str]); 3] = [
        (
            "times",
            &["CREATE TABLE kept ()", "CREATE TABLE t (at timestamptz DEFAULT 'now')"],
            "change 2 may be the cause, because 'now' in it",
            &["ALTER TABLE t ALTER at SET DEFAULT now()"],
        ),
        (
            "drops",
            &[rows, &drop],
            "change 2 may be the cause, because what it does depends on data",
            &["CREATE TABLE IF NOT EXISTS a (i int)", "DROP TABLE a"],
        ),
        (
            "alters",
            &[rows, &alter],
            "change 2 may be the cause, because what it does depends on data",
            &["ALTER TABLE a ALTER i SET DEFAULT 5"],
        ),
    ];
    for (name, made, told, repairs) in cases {
        world.workspace(name).await;
        for sql in made {
            world.ddl(name, sql).await;
        }
        is_repaired(&world, name, told, repairs).await;
    }
    world.workspace("mixed").await;
    world.ddl("mixed", "CREATE TABLE a (i int)").await;
    let session = world.session("mixed_dev").await;
    let all = "BEGIN; DO $$ DECLARE r record; BEGIN FOR r IN SELECT * FROM pg_tables WHERE schemaname = 'public' LOOP
                 EXECUTE format('ALTER TABLE %I ADD u int', r.tablename); END LOOP; END $$";
    session.batch_execute(all).await.unwrap();
    world.ddl("mixed", "CREATE TABLE mid (i int)").await;
    session.batch_execute("CREATE TABLE last (); COMMIT").await.unwrap();
    let repairs = ["ALTER TABLE mid ADD IF NOT EXISTS u int", "ALTER TABLE mid DROP u"];
    is_repaired(&world, "mixed", "change 3 may be the cause", &repairs).await;
}

/// Whether the refusal of a version says `told`, and `repairs` permits one.
async fn is_repaired(world: &World, name: &str, told: &str, repairs: &[&str]) {
    let refused = world.refused_deployment(name).await;
    assert_eq!(refused.code().as_str(), "head_differs", "{name}: {refused}");
    assert!(refused.to_string().contains(told), "{name}: {refused}");
    assert!(refused.hint().unwrap().contains("IF NOT EXISTS"), "{name}: {refused}");
    for sql in repairs {
        world.ddl(name, sql).await;
    }
    let job = world.deploy(name).await;
    assert_eq!(job.summary.status, DeploymentStatus::Completed, "{name}: {job:#?}");
}
