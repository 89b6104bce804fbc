//! Messages of several statements, as migration tools send them: kinds of DDL combined with forms of transactions. Each is run
//! in a workspace; the captured changes are replayed, and the fingerprints compared.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use support::{Database, World, numbered};
use tdb_engines::postgres::capture::CapturedChange;
use tokio_postgres::Client;

/// They are valid in this order; `#` is replaced by the number of the message.
const KINDS: [&[&str]; 20] = [
    &[
        "CREATE TABLE t# (id int)",
        "ALTER TABLE t# ADD a int",
        "ALTER TABLE t# ADD b int DEFAULT 1",
        "ALTER TABLE t# DROP COLUMN a",
        "ALTER TABLE t# ALTER b SET DEFAULT 2",
    ],
    &[
        "CREATE TABLE t# (id int, a text)",
        "CREATE INDEX ON t# (a)",
        "CREATE INDEX IF NOT EXISTS t#_a_idx ON t# (a)",
        "CREATE UNIQUE INDEX u# ON t# (id)",
        "DROP INDEX IF EXISTS t#_a_idx, nowhere",
    ],
    &[
        "CREATE TYPE e# AS ENUM ('a')",
        "ALTER TYPE e# ADD VALUE IF NOT EXISTS 'a'",
        "CREATE TABLE t# (e e#)",
        "ALTER TYPE e# RENAME VALUE 'a' TO 'b'",
    ],
    &[
        "CREATE VIEW v# AS SELECT 1 AS a",
        "CREATE OR REPLACE VIEW v# AS SELECT 1 AS a, 2 AS b",
        "COMMENT ON VIEW v# IS 'v; #'",
        "COMMENT ON COLUMN v#.a IS 'a'",
        "DROP VIEW IF EXISTS nowhere",
    ],
    &[
        "CREATE FUNCTION f#(a int) RETURNS int LANGUAGE sql AS 'SELECT a; SELECT a'",
        "CREATE OR REPLACE FUNCTION f#(a int) RETURNS int LANGUAGE plpgsql AS $f$ BEGIN RETURN a; END; $f$",
        "ALTER FUNCTION f#(int) IMMUTABLE",
        "CREATE TABLE t# (a int DEFAULT f#(1))",
    ],
    &[
        "CREATE TABLE t# (id int)",
        "GRANT SELECT ON t# TO PUBLIC",
        "GRANT SELECT ON t# TO PUBLIC",
        "REVOKE ALL ON t# FROM PUBLIC",
        "GRANT INSERT ON t# TO CURRENT_USER",
        "ALTER TABLE t# OWNER TO SESSION_USER",
    ],
    &[
        "CREATE TABLE t# (id int)",
        "CREATE FUNCTION g#() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER g BEFORE INSERT ON t# FOR EACH ROW EXECUTE FUNCTION g#()",
        "INSERT INTO t# VALUES (1)",
        "ALTER TABLE t# DISABLE TRIGGER g",
        "ALTER TRIGGER g ON t# RENAME TO h",
    ],
    &[
        "CREATE TABLE t# (id int)",
        "ALTER TABLE t# ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY p ON t# USING (true)",
        "ALTER POLICY p ON t# USING (id > 0)",
        "CREATE RULE r AS ON DELETE TO t# DO INSTEAD NOTHING",
    ],
    &[
        "CREATE SEQUENCE s#",
        "ALTER SEQUENCE s# INCREMENT 2",
        "SELECT nextval('s#')",
        "ALTER SEQUENCE s# RESTART WITH 9",
        "CREATE TABLE t# (id int DEFAULT nextval('s#'))",
        "ALTER SEQUENCE s# OWNED BY t#.id",
    ],
    &[
        "CREATE DOMAIN d# AS int CHECK (VALUE > 0)",
        "ALTER DOMAIN d# ADD CONSTRAINT few CHECK (VALUE < 9)",
        "ALTER DOMAIN d# DROP CONSTRAINT IF EXISTS many",
        "ALTER DOMAIN d# SET DEFAULT 3",
        "COMMENT ON CONSTRAINT few ON DOMAIN d# IS 'few'",
    ],
    &[
        "CREATE SCHEMA n# CREATE TABLE a (id serial PRIMARY KEY) CREATE VIEW b AS SELECT id FROM a",
        "CREATE SCHEMA IF NOT EXISTS n#",
        "SET search_path = n#, public",
        "CREATE TABLE c# (LIKE n#.a INCLUDING ALL)",
        "ALTER TABLE c# SET SCHEMA public",
        "ALTER TABLE public.c# RENAME TO d#",
        "RESET search_path",
    ],
    &[
        "CREATE TABLE t# (a int) PARTITION BY RANGE (a)",
        "CREATE TABLE t#_1 PARTITION OF t# FOR VALUES FROM (0) TO (9)",
        "CREATE TABLE t#_2 (a int)",
        "ALTER TABLE t# ATTACH PARTITION t#_2 FOR VALUES FROM (9) TO (20)",
        "CREATE INDEX i# ON ONLY t# (a)",
        "CREATE INDEX i#_1 ON t#_1 (a)",
        "ALTER INDEX i# ATTACH PARTITION i#_1",
        "ALTER TABLE t# DETACH PARTITION t#_1",
    ],
    &[
        "CREATE TABLE t# (id int, r int)",
        "ALTER TABLE ONLY t# ADD CONSTRAINT k# PRIMARY KEY (id)",
        "ALTER TABLE ONLY t# ADD CONSTRAINT r# FOREIGN KEY (r) REFERENCES t# NOT VALID",
        "ALTER TABLE t# ADD CONSTRAINT c# CHECK (r > 0) NOT VALID",
        "ALTER TABLE t# VALIDATE CONSTRAINT r#",
        "ALTER TABLE t# DROP CONSTRAINT IF EXISTS nowhere",
    ],
    &[
        "CREATE TABLE t# (id int)",
        "CREATE MATERIALIZED VIEW m# AS SELECT id FROM t#",
        "CREATE UNIQUE INDEX ON m# (id)",
        "REFRESH MATERIALIZED VIEW m#",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY m#",
        "ALTER MATERIALIZED VIEW m# RENAME TO n#",
    ],
    &[
        "CREATE TABLE t# AS SELECT 1 AS a",
        "CREATE TABLE u# AS SELECT a FROM t#",
        "SELECT a INTO v# FROM t#",
        "UPDATE t# SET a = 2",
        "DELETE FROM u#",
        "TRUNCATE t#",
        "ALTER TABLE u# RENAME a TO b",
        "DROP TABLE t#",
    ],
    &[
        "CREATE TEMP TABLE tt# (a int)",
        "ALTER TABLE tt# ADD b int",
        "CREATE TABLE t# (a int)",
        "CREATE INDEX ON tt# (a)",
        "CREATE INDEX ON t# (a)",
        "DROP TABLE tt#",
    ],
    &[
        "CREATE TABLE IF NOT EXISTS t# (a int)",
        "CREATE TABLE IF NOT EXISTS t# (a int)",
        "ALTER TABLE IF EXISTS t# ADD COLUMN IF NOT EXISTS b int",
        "ALTER TABLE IF EXISTS nowhere ADD c int",
        "ALTER TABLE t# ADD COLUMN IF NOT EXISTS b int",
        "DROP TABLE IF EXISTS nowhere",
    ],
    &[
        "DO $do$ BEGIN CREATE TYPE a# AS ENUM ('x'); EXCEPTION WHEN duplicate_object THEN NULL; END $do$",
        "DO $do$ BEGIN CREATE TYPE b# AS ENUM ('x'); EXCEPTION WHEN duplicate_object THEN NULL; END $do$",
        "DO $do$ BEGIN CREATE TYPE a# AS ENUM ('x'); EXCEPTION WHEN duplicate_object THEN NULL; END $do$",
        "CREATE TABLE t# (a a#)",
        "DO $do$ BEGIN EXECUTE format('ALTER TABLE %I ADD b b#', 't#'); END $do$",
    ],
    &[
        "CREATE FUNCTION mk#(name text) RETURNS void LANGUAGE plpgsql AS $f$ BEGIN EXECUTE format('CREATE TABLE %I ()', name); END $f$",
        "SELECT mk#('one#')",
        "SELECT count(*) FROM one#",
        "SELECT mk#('two#')",
        "ALTER TABLE two# ADD a int",
    ],
    &[
        "CREATE EXTENSION IF NOT EXISTS pgcrypto",
        "CREATE TABLE t# (id uuid DEFAULT gen_random_uuid(), a int GENERATED BY DEFAULT AS IDENTITY)",
        "CREATE STATISTICS st# ON id, a FROM t#",
        "ALTER TABLE t# ALTER a RESTART WITH 7",
        "COMMENT ON TABLE t# IS NULL",
        "DROP EXTENSION IF EXISTS nowhere",
    ],
];

/// The messages to send. One that ends in `!` fails.
type Shape = fn(&[String], &str) -> Vec<String>;

const SHAPES: [(&str, Shape); 14] = [
    ("implicit", |all, _| vec![all.join("; ")]),
    ("block", |all, _| vec![format!("BEGIN; {}; COMMIT;", all.join(";\n"))]),
    ("each in its block", |all, _| {
        vec![all.iter().map(|one| format!("BEGIN; {one}; COMMIT; ")).collect()]
    }),
    ("block, then implicit", |all, _| {
        let (one, two) = halves(all);
        vec![format!("BEGIN; {one}; COMMIT; {two};")]
    }),
    ("begin in the middle", |all, _| {
        let (one, two) = halves(all);
        vec![format!("{one}; BEGIN; {two}; COMMIT; SELECT 1")]
    }),
    ("chained", |all, _| {
        let (one, two) = halves(all);
        vec![format!(
            "BEGIN; {one}; COMMIT AND CHAIN; {two}; COMMIT AND CHAIN; ROLLBACK"
        )]
    }),
    ("rolled back first", |all, n| {
        vec![format!("BEGIN; CREATE TABLE lost{n} (); ROLLBACK; {}", all.join("; "))]
    }),
    ("savepoints", |all, n| {
        let (one, two) = halves(all);
        vec![format!(
            "BEGIN; {one}; SAVEPOINT a; CREATE TABLE lost{n} (); SAVEPOINT a; CREATE TABLE lost2{n} (); RELEASE a; \
             ROLLBACK TO a; {two}; RELEASE a; COMMIT"
        )]
    }),
    ("in DO blocks", |all, _| {
        vec![all.iter().filter_map(|one| in_block(one)).collect()]
    }),
    ("error in the middle", |all, n| {
        let (one, two) = halves(all);
        vec![
            format!("{one}; COMMIT; CREATE TABLE lost{n} (); SELECT 1/0; {two}!"),
            two,
        ]
    }),
    ("error in a block", |all, n| {
        let (one, two) = halves(all);
        vec![
            format!("BEGIN; {one}; COMMIT; BEGIN; CREATE TABLE lost{n} (); SELECT 1/0; {two}; COMMIT!"),
            "COMMIT".to_owned(),
            format!("{two}; COMMIT"),
        ]
    }),
    ("error after a savepoint", |all, n| {
        let (one, two) = halves(all);
        vec![
            format!("BEGIN; {one}; SAVEPOINT a; CREATE TABLE lost{n} (); SELECT 1/0; COMMIT!"),
            format!("ROLLBACK TO a; {two}; COMMIT"),
        ]
    }),
    ("over several messages", |all, n| {
        let (one, two) = halves(all);
        vec![
            format!("CREATE TABLE zero{n} (); COMMIT; BEGIN; {one}"),
            "SELECT 1".to_owned(),
            format!("{two}; COMMIT; ALTER TABLE zero{n} ADD a int"),
        ]
    }),
    ("back to a savepoint of an earlier message", |all, n| {
        let (one, two) = halves(all);
        vec![
            format!("BEGIN; {one}; SAVEPOINT a; CREATE TABLE lost{n} ()"),
            format!("CREATE TABLE lost2{n} (); SELECT 1; ROLLBACK TO a; {two}; SAVEPOINT b"),
            "COMMIT".to_owned(),
        ]
    }),
];

/// Without statements that would take effect after the block, or that have a different meaning in a body.
fn in_block(statement: &str) -> Option<String> {
    if statement.contains("search_path") || statement.contains("SESSION_USER") || statement.contains(" INTO v") {
        return None;
    }
    let runs = match statement.strip_prefix("SELECT mk") {
        Some(call) => format!("PERFORM mk{call};"),
        None => format!("EXECUTE $y${statement}$y$;"),
    };
    Some(format!("DO $x$ BEGIN {runs} END $x$; "))
}

fn halves(all: &[String]) -> (String, String) {
    let (one, two) = all.split_at(all.len() / 2);
    (one.join("; "), two.join("; "))
}

#[tokio::test]
async fn every_shape_of_message_replays_to_the_workspaces_schema() {
    let world = World::start().await;
    let workspace = world.workspace("app_dev").await;
    world.base_template("app_v1").await;
    let build = world.tenant("app_build", "app_v1").await;
    let mut replay = Replay {
        world: &world,
        workspace,
        build,
        changes: Vec::new(),
    };
    let session = world.session(&replay.workspace).await;
    let mut number = 0;
    for (shape, messages) in SHAPES {
        for kind in KINDS {
            number += 1;
            let n = number.to_string();
            let statements: Vec<String> = kind.iter().map(|statement| statement.replace('#', &n)).collect();
            replay
                .check(&session, &messages(&statements, &n), &format!("{shape}: {}", kind[0]))
                .await;
        }
    }
}

struct Replay<'w> {
    world: &'w World,
    workspace: Database,
    build: Database,
    changes: Vec<CapturedChange>,
}

impl Replay<'_> {
    async fn check(&mut self, session: &Client, messages: &[String], what: &str) {
        for message in messages {
            let (text, fails) = message
                .strip_suffix('!')
                .map_or((message.as_str(), false), |text| (text, true));
            let ran = session.batch_execute(text).await;
            assert_eq!(ran.is_err(), fails, "{what}: {text}: {ran:?}");
        }
        let captured = self.world.drain(&self.workspace).await;
        for captured in &captured {
            assert_eq!(captured.change.broken, None, "{what}: {:?}", captured.change.texts());
        }
        self.changes.extend(captured);
        let applied = self.world.bring_up(&self.build, &numbered(&self.changes)).await;
        applied.unwrap_or_else(|error| panic!("{what}: {messages:#?}: {error:?}"));
        let workspace = self.world.fingerprint(&self.workspace).await;
        let difference = workspace.diff(&self.world.fingerprint(&self.build).await);
        assert_eq!(difference, vec![], "{what}: {messages:#?}");
    }
}
