//! The SQL of the scripts. Every row contains the tag of its client. No statement waits for another client, and no answer contains
//! what another client or the time determines.

use super::random::Random;
use super::script::{Listening, Tag};

/// Transactions and savepoints.
const TRANSACTION: [&str; 12] = [
    "BEGIN",
    "BEGIN",
    "START TRANSACTION READ ONLY",
    "COMMIT",
    "COMMIT",
    "ROLLBACK",
    "COMMIT AND CHAIN",
    "SAVEPOINT a",
    "SAVEPOINT b",
    "ROLLBACK TO a",
    "RELEASE a",
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
];
/// Settings: reported ones, others, and those that end with the transaction.
const SETTINGS: [&str; 18] = [
    "SET TimeZone = 'Asia/Tokyo'",
    "SET TimeZone = 'America/Lima'",
    "SET DateStyle = ISO",
    "SET DateStyle = 'SQL, DMY'",
    "SET LOCAL TimeZone = 'UTC'",
    "SET IntervalStyle = 'iso_8601'",
    "SET client_encoding = 'LATIN1'",
    "SET standard_conforming_strings = off",
    "SET search_path = public, pg_temp",
    "SET work_mem = '1MB'",
    "SET client_min_messages = error",
    "RESET client_min_messages",
    "RESET TimeZone",
    "RESET ALL",
    "SET SESSION AUTHORIZATION DEFAULT",
    "SET ROLE NONE",
    "SET nonsense.setting = 'x'",
    "SET no_such_setting = 1",
];
/// State that outlives a transaction.
const STATE: [&str; 22] = [
    "CREATE TEMP TABLE kept (x text)",
    "CREATE TEMP TABLE IF NOT EXISTS kept (x text)",
    "CREATE TEMP TABLE brief (x text) ON COMMIT DROP",
    "DROP TABLE IF EXISTS kept",
    "INSERT INTO kept SELECT current_setting('application_name')",
    "CREATE TEMP SEQUENCE counter",
    "SELECT nextval('counter')",
    "SELECT currval('counter'), lastval()",
    "DEALLOCATE q",
    "DEALLOCATE ALL",
    "EXECUTE q(3)",
    "FETCH 3 FROM held",
    "MOVE 2 FROM held",
    "CLOSE held",
    "CLOSE ALL",
    "DEALLOCATE s1",
    "DISCARD PLANS",
    "DISCARD SEQUENCES",
    "DISCARD TEMP",
    "SELECT pg_advisory_unlock_all()",
    "LISTEN own",
    "UNLISTEN own",
];

#[derive(Clone, Debug)]
pub struct Statements {
    tag: String,
    /// For advisory locks, which the clients of a database share.
    lock: u64,
    table: String,
    listening: Listening,
    notified: u32,
    copied: u32,
}

impl Statements {
    pub fn new(tag: &Tag, listening: Listening) -> Self {
        Self {
            tag: tag.to_string(),
            lock: tag.script * 100 + tag.client as u64,
            table: tag.table(),
            listening,
            notified: 0,
            copied: 0,
        }
    }

    pub fn any(&mut self, random: &mut Random) -> String {
        match random.below(20) {
            0..6 => self.rows(random),
            6..8 => self.write(random),
            8..11 => self.setting(random),
            11..14 => self.state(random),
            14..16 => (*random.pick(&TRANSACTION)).to_owned(),
            16 => self.notify(),
            17 => self.noticed(random),
            _ => self.failing(random),
        }
    }

    /// A statement that returns rows.
    pub fn rows(&mut self, random: &mut Random) -> String {
        let tag = &self.tag;
        match random.below(8) {
            0..3 => format!("SELECT '{tag}' AS tag, id, pad FROM item WHERE owner = '{tag}' ORDER BY id"),
            3 => format!("SELECT '{tag}', i, 'happy'::mood, NULL::int FROM generate_series(1, 5) i"),
            4 => format!(
                "SELECT '{tag}', i FROM generate_series(1, {}) i",
                200 + random.below(2000)
            ),
            5 => format!(
                "SELECT '{tag}', repeat('x', {}) FROM generate_series(1, 2)",
                1 + random.below(150_000)
            ),
            6 => format!("VALUES ('{tag}', current_setting('application_name'))"),
            _ => format!("SELECT '{tag}' WHERE false"),
        }
    }

    fn write(&mut self, random: &mut Random) -> String {
        let tag = &self.tag;
        let id = random.below(16);
        match random.below(5) {
            0 => format!("INSERT INTO item VALUES ('{tag}', {id}, 'new')"),
            1 => format!("INSERT INTO item VALUES ('{tag}', {id}, 'new') ON CONFLICT DO NOTHING RETURNING owner, id"),
            2 => format!("UPDATE item SET pad = pad || '!' WHERE owner = '{tag}' AND id <= {id}"),
            3 => format!("DELETE FROM item WHERE owner = '{tag}' AND id = {id} RETURNING owner, pad"),
            _ => format!(
                "WITH w AS (UPDATE item SET pad = 'w' WHERE owner = '{tag}' RETURNING id) SELECT '{tag}', count(*) FROM w"
            ),
        }
    }

    fn setting(&mut self, random: &mut Random) -> String {
        let tag = &self.tag;
        match random.below(24) {
            0 => format!("SET application_name = '{tag} renamed'"),
            1 => format!("SELECT set_config('application_name', '{tag} configured', false)"),
            2 => format!("SET LOCAL application_name = '{tag} local'"),
            3 => "SHOW application_name".to_owned(),
            4 => format!(
                "SELECT '{tag}', current_setting('TimeZone'), current_setting('work_mem'), current_setting('search_path')"
            ),
            _ => (*random.pick(&SETTINGS)).to_owned(),
        }
    }

    fn state(&mut self, random: &mut Random) -> String {
        if random.chance(20) {
            return self.ddl(random);
        }
        let (tag, lock) = (&self.tag, self.lock);
        match random.below(36) {
            0 | 1 => format!("PREPARE q AS SELECT '{tag}', $1 + 1"),
            2 => format!("DECLARE held CURSOR WITH HOLD FOR SELECT '{tag}', i FROM generate_series(1, 9) i"),
            3 => format!("DECLARE held SCROLL CURSOR FOR SELECT '{tag}', i FROM generate_series(1, 9) i"),
            4 | 5 => format!("SELECT '{tag}', x || '' FROM kept"),
            6 => format!("SELECT pg_advisory_lock({lock}), '{tag}'"),
            7 => format!("SELECT pg_advisory_unlock({lock}), '{tag}'"),
            8 => format!("SELECT pg_advisory_xact_lock({lock}), '{tag}'"),
            9 => {
                format!("SELECT '{tag}', count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()")
            }
            10 => format!("SELECT '{tag}', name FROM pg_prepared_statements ORDER BY name"),
            // These end the LISTEN that is compared.
            11 if self.listening == Listening::No => "DISCARD ALL".to_owned(),
            12 if self.listening == Listening::No => "UNLISTEN *".to_owned(),
            _ => (*random.pick(&STATE)).to_owned(),
        }
    }

    /// A change of the schema; a workspace journals it. The objects are those of this script only.
    fn ddl(&self, random: &mut Random) -> String {
        let table = &self.table;
        match random.below(8) {
            0..3 => format!("CREATE TABLE {table} (x int)"),
            3 => format!("ALTER TABLE {table} ADD COLUMN y text DEFAULT 'y'"),
            4 => format!("CREATE INDEX ON {table} (x)"),
            5 => format!("COMMENT ON TABLE {table} IS 'a comment'"),
            6 => format!("INSERT INTO {table} VALUES (1), (2) RETURNING '{}', x + 0", self.tag),
            _ => format!("DROP TABLE IF EXISTS {table}"),
        }
    }

    fn notify(&mut self) -> String {
        self.notified += 1;
        format!("NOTIFY everyone, '{} {}'", self.tag, self.notified)
    }

    fn noticed(&mut self, random: &mut Random) -> String {
        let tag = &self.tag;
        match random.below(4) {
            0 | 1 => format!("SELECT say('{tag}')"),
            2 => format!("DO $$BEGIN FOR i IN 1..3 LOOP RAISE WARNING '{tag} %', i; END LOOP; END$$"),
            _ => format!("SELECT say('{tag} ' || i) FROM generate_series(1, 40) i"),
        }
    }

    /// A statement that fails: when it is parsed, analysed, begun, or after some rows.
    pub fn failing(&mut self, random: &mut Random) -> String {
        let tag = &self.tag;
        match random.below(8) {
            0 => "SELEC 1".to_owned(),
            1 => format!("SELECT 'äöü €', '{tag}', no_such_column FROM item"),
            2 => "SELECT * FROM no_such_table".to_owned(),
            3 => format!("SELECT '{tag}', 1 / (i - 4) FROM generate_series(1, 9) i"),
            4 => format!("SELECT fail('{tag}')"),
            5 => format!("INSERT INTO item VALUES ('{tag}', 1, 'twice'), ('{tag}', 1, 'twice')"),
            6 => format!("SELECT '{tag}', 'angry'::mood"),
            _ => format!("SELECT '{tag}', $1 + 1"),
        }
    }

    /// Runs until it is cancelled.
    pub fn long(&self) -> String {
        format!("SELECT '{}', pg_sleep(60)", self.tag)
    }

    /// Takes some milliseconds.
    pub fn short(&self) -> String {
        format!("SELECT '{}', count(*) FROM generate_series(1, 30000)", self.tag)
    }

    /// A statement that returns 10 MB.
    pub fn many_rows(&self) -> String {
        format!(
            "SELECT '{}', repeat('x', 100000) FROM generate_series(1, 100)",
            self.tag
        )
    }

    /// 5 MB for COPY.
    pub fn much_data(&self) -> Vec<String> {
        let tag = &self.tag;
        (0..50)
            .map(|row| format!("{tag}\t{}\t{}\n", 5000 + row, "z".repeat(100_000)))
            .collect()
    }

    pub fn copy_from(&mut self, random: &mut Random) -> String {
        match random.below(8) {
            0 => "COPY item FROM STDIN WITH (FORMAT csv)".to_owned(),
            1 => "COPY no_such_table FROM STDIN".to_owned(),
            2 => format!("COPY item FROM STDIN; SELECT '{}'", self.tag),
            _ => "COPY item FROM STDIN".to_owned(),
        }
    }

    pub fn copy_to(&mut self, random: &mut Random) -> String {
        let tag = &self.tag;
        match random.below(5) {
            0 => format!(
                "COPY (SELECT '{tag}', i FROM generate_series(1, {}) i) TO STDOUT",
                random.below(3000)
            ),
            1 => format!("COPY (SELECT '{tag}', 1 / (i - 30) FROM generate_series(1, 50) i) TO STDOUT"),
            2 => format!(
                "COPY (SELECT '{tag}', repeat('y', {})) TO STDOUT",
                random.below(100_000)
            ),
            3 => format!("COPY (SELECT * FROM item WHERE owner = '{tag}' ORDER BY id) TO STDOUT WITH (FORMAT binary)"),
            _ => format!("COPY (SELECT * FROM item WHERE owner = '{tag}' ORDER BY id) TO STDOUT"),
        }
    }

    /// Rows for COPY, which need not end with a message; one of ten is invalid.
    pub fn data(&mut self, random: &mut Random) -> String {
        let tag = &self.tag;
        self.copied += 1;
        let id = 1000 + self.copied;
        match random.below(12) {
            0 => format!("{tag}\tnot a number\tx\n"),
            1 => format!("{tag}\t1\tthere is one\n"),
            2 => format!("{tag}\t{id}\tin two"),
            3 => format!("{tag}\t{id}\t{}\n", "z".repeat(random.below(120_000))),
            4 => format!("{tag},{id},csv\n"),
            _ => format!("{tag}\t{id}\tcopied\n"),
        }
    }
}
