//! A page of the documentation: fenced blocks, each with the annotations above it. An annotation is an HTML comment, so it
//! is not visible to readers: `<!-- not run: REASON -->`, `<!-- prints: TEXT -->`, `<!-- fails: TEXT -->`, `<!-- client:
//! NAME -->`.

use std::fs;

use crate::workspace_root;

/// An annotation of the following part of the page, not of a block.
const GENERATED: &str = "generated";

#[derive(Debug)]
pub struct Page {
    /// The path relative to the repository.
    pub file: String,
    pub text: String,
    pub blocks: Vec<Block>,
}

#[derive(Debug)]
pub struct Block {
    /// The line of the opening fence; the first line is 1.
    pub line: usize,
    pub language: String,
    pub text: String,
    marks: Vec<(String, String)>,
}

impl Page {
    pub fn read(file: &str) -> Self {
        let path = workspace_root().join(file);
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{file}: {e}"));
        Self {
            file: file.to_owned(),
            blocks: blocks(&text),
            text,
        }
    }

    /// The README and every page under `docs/`.
    pub fn all() -> Vec<Self> {
        let found = fs::read_dir(workspace_root().join("docs")).expect("docs/");
        let found = found.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"));
        let pages = found.filter(|name| name.ends_with(".md"));
        let mut files: Vec<String> = pages.map(|name| format!("docs/{name}")).collect();
        files.push("README.md".to_owned());
        files.sort();
        files.iter().map(|file| Self::read(file)).collect()
    }
}

impl Block {
    /// The texts of all annotations of this kind.
    pub fn marks<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a str> {
        self.marks
            .iter()
            .filter_map(move |(found, text)| (found == kind).then_some(text.as_str()))
    }

    pub fn mark<'a>(&'a self, kind: &'a str) -> Option<&'a str> {
        self.marks(kind).next()
    }

    pub fn kinds_of_marks(&self) -> impl Iterator<Item = &str> {
        self.marks.iter().map(|(kind, _)| kind.as_str())
    }
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut marks = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let mark = line.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->"));
        let mark = mark.and_then(|mark| mark.split_once(": "));
        if let Some((kind, text)) = mark.filter(|(kind, _)| *kind != GENERATED) {
            marks.push((kind.to_owned(), text.to_owned()));
        } else if let Some(language) = line.strip_prefix("```") {
            let mut text = String::new();
            loop {
                match lines.next() {
                    Some((_, "```")) => break,
                    Some((_, line)) => text.extend([line, "\n"]),
                    None => panic!("the block of line {} has no end", at + 1),
                }
            }
            blocks.push(Block {
                line: at + 1,
                language: language.to_owned(),
                text,
                marks: std::mem::take(&mut marks),
            });
        } else {
            assert!(marks.is_empty(), "line {} has a mark above it and is no block", at + 1);
            assert!(!line.trim_start().starts_with("```"), "line {} is indented", at + 1);
        }
    }
    blocks
}

/// Checks that the part of a page between its markers equals `wanted`; with `TDB_REWRITE=1`, writes it.
#[track_caller]
pub fn is_generated(file: &str, name: &str, wanted: &str) {
    let path = workspace_root().join(file);
    let page = fs::read_to_string(&path).expect("the page");
    let (before, rest) = page
        .split_once(&format!("<!-- generated: {name} -->\n"))
        .expect("the mark of the generated part");
    let (_, after) = rest.split_once("<!-- end -->\n").expect("the mark of its end");
    let wanted = format!("{before}<!-- generated: {name} -->\n{wanted}<!-- end -->\n{after}");
    if std::env::var_os("TDB_REWRITE").is_some() {
        fs::write(&path, &wanted).expect("write the page");
    } else {
        assert!(
            page == wanted,
            "{file} is out of date: TDB_REWRITE=1 cargo test -p tdb-tests"
        );
    }
}
