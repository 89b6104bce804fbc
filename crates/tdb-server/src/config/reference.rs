//! Generates the reference in `docs/configuration.md`: the keys and defaults of the reader, each with its comment in the
//! shipped `proxy.toml`. With `TDB_REWRITE=1` the page is rewritten, otherwise it is compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use toml::{Table, Value};

use super::reader::{Asked, Kind, Outside, Section};

const SHIPPED: &str = include_str!("../../../../proxy.toml");
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
const START: &str = "<!-- generated: options -->\n";
const END: &str = "<!-- end -->\n";

/// Every option.
pub(super) fn options() -> Vec<Asked> {
    let table: Table = "[[servers]]".parse().unwrap();
    let nothing = |_: &str| None;
    let outside = Outside::new(Path::new("."), &nothing);
    super::read_root(Section::root(table, &outside), Path::new("proxy.toml"), &mut Vec::new());
    outside.asked.into_inner()
}

/// The comment above each key of `proxy.toml`, by section and key; that of a section has the key "".
fn comments() -> BTreeMap<(String, String), String> {
    let mut found = BTreeMap::new();
    let (mut section, mut comment) = (String::new(), String::new());
    for line in SHIPPED.lines() {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        let key = bare.split_once(" = ").map(|(key, _)| key);
        let key = key.filter(|key| key.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase()));
        if let Some(key) = key {
            found.insert((section.clone(), key.to_owned()), std::mem::take(&mut comment));
        } else if bare.starts_with('[') {
            section = bare.trim_matches(['[', ']']).to_owned();
            found.insert((section.clone(), String::new()), std::mem::take(&mut comment));
        } else if line.is_empty() {
            comment.clear();
        } else {
            let space = if comment.is_empty() { "" } else { " " };
            comment = format!("{comment}{space}{bare}");
        }
    }
    found
}

fn render() -> String {
    let comments = comments();
    let mut page = String::new();
    let mut current = None;
    // The keys of the top level come first.
    let mut asked: Vec<Asked> = options()
        .into_iter()
        .filter(|asked| !matches!(asked.kind, Kind::Section))
        .collect();
    asked.sort_by_key(|asked| !asked.section.is_empty());
    for Asked { section, key, kind } in asked {
        let section = section.replace("[0]", "");
        if current.as_ref() != Some(&section) {
            let title = match section.as_str() {
                "" => "At the top level".to_owned(),
                "servers" => "`[[servers]]`".to_owned(),
                section => format!("`[{section}]`"),
            };
            let about = comments
                .get(&(section.clone(), String::new()))
                .cloned()
                .unwrap_or_default();
            let gap = if about.is_empty() { "" } else { "\n\n" };
            write!(
                page,
                "\n### {title}\n\n{about}{gap}| key | default | meaning |\n|---|---|---|\n"
            )
            .unwrap();
            current = Some(section.clone());
        }
        let absent = match kind {
            Kind::Default(Value::String(text)) => format!("`\"{text}\"`"),
            Kind::Default(value) => format!("`{value}`"),
            Kind::Required => "required".to_owned(),
            Kind::Optional | Kind::Section => "none".to_owned(),
        };
        let meaning = comments.get(&(section.clone(), key.clone()));
        let meaning = meaning.filter(|text| !text.is_empty());
        let meaning = meaning.unwrap_or_else(|| panic!("proxy.toml has no comment above {section}.{key}"));
        writeln!(page, "| `{key}` | {absent} | {meaning} |").unwrap();
    }
    page.push('\n');
    page
}

#[test]
fn the_page_has_every_option_as_the_reader_knows_it() {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let (before, rest) = page.split_once(START).expect("the page's mark");
    let (_, after) = rest.split_once(END).expect("the page's second mark");
    let wanted = format!("{before}{START}{}{END}{after}", render());
    if std::env::var_os("TDB_REWRITE").is_some() {
        std::fs::write(PAGE, &wanted).unwrap();
    } else {
        assert!(
            page == wanted,
            "docs/configuration.md does not match the reader; rewrite it with TDB_REWRITE=1 cargo test -p tdb-server"
        );
    }
}

#[test]
fn the_shipped_file_shows_the_keys_the_reader_knows_and_no_others() {
    let known = options()
        .into_iter()
        .filter(|asked| !matches!(asked.kind, Kind::Section));
    let known: BTreeSet<_> = known
        .map(|asked| (asked.section.replace("[0]", ""), asked.key))
        .collect();
    let shown: BTreeSet<_> = comments().into_keys().filter(|(_, key)| !key.is_empty()).collect();
    assert_eq!(shown, known);
}
