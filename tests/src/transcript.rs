//! Snapshots: what a user sees who types these commands, compared with files under `tests/snapshots`. What differs from run
//! to run stands there as `<id>`, `<time>`…, as wide as it was where a table goes on behind it.
//!
//! `TDB_REWRITE=1 cargo test -p tdb-tests --test cli` writes the files anew; read the diff before you commit it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use regex::Regex;

use crate::{Ran, run};

/// Between columns of a table.
const GAP: usize = 2;
const VARIABLE: &str = "TDB_REWRITE";
/// In this order: what is part of another comes after it. The group, where there is one, is what is replaced.
const VARYING: [(&str, &str); 17] = [
    // Whether a look falls between the last tenant and the end.
    (r"! +running: [1-9][0-9]* of [^\n]*\n", ""),
    (r"tdb_sk_[A-Za-z0-9_-]+", "<key>"),
    (r"(?:dep|prj|req)_[a-z0-9]{8,}", "<id>"),
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<id>"),
    (r"postgresql://[^:@/]+:([^@]+)@", "<password>"),
    (
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?Z?",
        "<time>",
    ),
    (r"127\.0\.0\.1:([0-9]{5})", "<tcp>"),
    (r#""port": ([0-9]{5})"#, "<tcp>"),
    (r"[0-9a-f]{12,}", "<hash>"),
    (r"([0-9.]+ m?s)\n", "<duration>"),
    (r#""duration_ms": ([0-9]+)"#, "<n>"),
    (
        r"(?:myapp|scratch|acme|globex|initech|tdb)_([a-z2-7]{6})[@:\x22 ]",
        "<x>",
    ),
    (r"tdb_([a-z2-7]{10})[: ]", "<x>"),
    (r" (1[0-9]\.[0-9]+)[ \n]", "<pg>"),
    (r"psql of [^ @]+@[^ ,\n]+", "psql of <user>@<host>"),
    // Databases in stock and being made are counted too; connections are the cluster's.
    (r"\ndatabases +([0-9]+)\n", "<n>"),
    (r"\nconnections +([0-9]+, [0-9]+) of them reserved", "<n>, <n>"),
];

/// One file of commands with what they wrote.
#[derive(Debug)]
pub struct Transcript {
    name: &'static str,
    text: String,
    varying: Vec<(Regex, String)>,
}

impl Transcript {
    /// Of what is the same in each run.
    pub fn plain(name: &'static str) -> Self {
        Self {
            name,
            text: String::new(),
            varying: Vec::new(),
        }
    }

    pub fn new(name: &'static str) -> Self {
        let known = VARYING.map(|(pattern, shown)| (Regex::new(pattern).expect("a pattern"), shown.to_owned()));
        Self {
            varying: known.into(),
            ..Self::plain(name)
        }
    }

    /// Shows `text` as `shown`, such as a directory that is another in each run.
    pub fn hide(&mut self, text: &str, shown: &str) {
        let pattern = Regex::new(&regex::escape(text)).expect("escaped text");
        self.varying.insert(0, (pattern, shown.to_owned()));
    }

    /// Adds a command as a user would type it. No terminal is there, so there are no colours.
    #[track_caller]
    pub fn add(&mut self, line: &str, ran: &Ran) {
        for said in [&ran.stdout, &ran.stderr] {
            assert!(!said.contains('\u{1b}'), "{line} paints without a terminal: {said:?}");
        }
        self.text.push_str(&format!("$ {line}\n{}", ran.stdout));
        for said in ran.stderr.lines() {
            self.text.push_str(format!("! {said}").trim_end());
            self.text.push('\n');
        }
        if ran.code != 0 {
            self.text.push_str(&format!("[exit status {}]\n", ran.code));
        }
        self.text.push('\n');
    }

    /// Panics where the file has something else.
    #[track_caller]
    pub fn compare(self) {
        if let Some(difference) = self.difference() {
            panic!("{difference}");
        }
    }

    /// To what the file has, for people; or writes the file.
    pub fn difference(self) -> Option<String> {
        let found = self.normal();
        let file = directory().join(format!("{}.txt", self.name));
        if env::var_os(VARIABLE).is_some() {
            fs::create_dir_all(directory()).expect("make the directory");
            fs::write(&file, found).expect("write a snapshot");
            return None;
        }
        let expected = fs::read_to_string(&file).unwrap_or_default();
        (expected != found).then(|| {
            format!(
                "tdb says something else than {} has:\n{}\nIf it is right so: {VARIABLE}=1 cargo test -p tdb-tests --test cli",
                file.display(),
                difference(&file, &found)
            )
        })
    }

    fn normal(&self) -> String {
        let mut text = self.text.clone();
        for (pattern, shown) in &self.varying {
            text = replaced(&text, pattern, shown);
        }
        text
    }
}

/// Every match as `shown`; blanks behind it make up for another width where it stands in a table.
fn replaced(text: &str, pattern: &Regex, shown: &str) -> String {
    let (mut done, mut at) = (String::new(), 0);
    while let Some(captures) = pattern.captures_at(text, at) {
        let part = captures.get(1).or(captures.get(0)).expect("a match");
        let behind = &text[part.end()..];
        let blanks = behind.len() - behind.trim_start_matches(' ').len();
        let (lacks, is_over) = (
            part.len().saturating_sub(shown.len()),
            shown.len().saturating_sub(part.len()),
        );
        done.push_str(&text[at..part.start()]);
        done.push_str(shown);
        at = part.end();
        if blanks >= GAP {
            done.push_str(&" ".repeat(lacks));
            at += is_over.min(blanks - GAP);
        }
    }
    done + &text[at..]
}

fn difference(expected: &Path, found: &str) -> String {
    let mut command = Command::new("diff");
    command.args(["-u", "--label", "expected", "--label", "found"]);
    match expected.exists() {
        true => command.arg(expected),
        false => command.arg("/dev/null"),
    };
    command.arg("-");
    run(command, found).stdout
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("snapshots")
}
