//! Snapshots: the output of these commands as a user sees it, compared with files under `tests/snapshots`. Values that
//! differ from run to run are replaced by `<id>`, `<time>`…, padded to their width within tables.
//!
//! `TDB_REWRITE=1 cargo test -p tdb-tests --test cli` rewrites the files; check the diff before committing it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use regex::Regex;

use crate::{Ran, run};

/// The gap between the columns of a table.
const GAP: usize = 2;
const VARIABLE: &str = "TDB_REWRITE";
/// The order matters: a pattern that matches a part of another comes after it. If there is a group, only the group is
/// replaced.
const VARYING: [(&str, &str); 17] = [
    // Depends on whether a check happens between the last tenant and the end.
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
    // Spares and databases being created are counted too; connections are those of the whole cluster.
    (r"\ndatabases +([0-9]+)\n", "<n>"),
    (r"\nconnections +([0-9]+, [0-9]+) of them reserved", "<n>, <n>"),
];

/// One file of commands with their output.
#[derive(Debug)]
pub struct Transcript {
    name: &'static str,
    text: String,
    varying: Vec<(Regex, String)>,
}

impl Transcript {
    /// For outputs that are the same in each run.
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

    /// Replaces `text` by `shown`, for example a directory that differs in each run.
    pub fn hide(&mut self, text: &str, shown: &str) {
        let pattern = Regex::new(&regex::escape(text)).expect("escaped text");
        self.varying.insert(0, (pattern, shown.to_owned()));
    }

    /// Adds a command as typed by a user. There is no terminal, so there are no colours.
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

    /// Panics if the file has different content.
    #[track_caller]
    pub fn compare(self) {
        if let Some(difference) = self.difference() {
            panic!("{difference}");
        }
    }

    /// The difference to the file, for display; with TDB_REWRITE=1, writes the file.
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

/// Replaces every match by `shown`, followed by spaces that keep the width within tables.
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
