//! Determines which source files of a crate use which others, from the paths in their text.
//!
//! These are the paths of `use`, and those written out (`crate::…`, `super::…`, `self::…`, and those that begin with a
//! module that the file declares). An `impl` of a type that another file defines counts in both directions, since code that
//! has the type can call it. Not detected are calls on values whose type a file never names, trait objects, and the output
//! of macros. A `mod` alone does not count, and tests are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The files of a crate by module path (`lifecycle/tenants`; `lib` is the root), with the files that each uses.
pub fn uses(src: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut texts = BTreeMap::new();
    read(src, "", &mut texts);
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, text) in &texts {
        let found = paths(text).into_iter().filter_map(|path| resolved(file, &path, &texts));
        graph.entry(file.clone()).or_default().extend(found);
    }
    for (file, text) in &texts {
        for name in implemented(text).into_iter().filter(|name| !defines(text, name)) {
            let used = graph.get(file).cloned().unwrap_or_default();
            for other in used.iter().filter(|other| defines(&texts[*other], &name)) {
                graph.entry(other.clone()).or_default().insert(file.clone());
            }
        }
    }
    for (file, used) in &mut graph {
        used.remove(file);
    }
    graph
}

/// The files of a cycle, in order; `None` if the graph has no cycle.
pub fn circle(graph: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    let mut done = BTreeSet::new();
    graph
        .keys()
        .find_map(|file| visit(file, graph, &mut Vec::new(), &mut done))
}

fn visit(
    file: &str,
    graph: &BTreeMap<String, BTreeSet<String>>,
    way: &mut Vec<String>,
    done: &mut BTreeSet<String>,
) -> Option<Vec<String>> {
    if let Some(at) = way.iter().position(|before| before == file) {
        return Some(way[at..].to_vec());
    }
    if done.contains(file) {
        return None;
    }
    way.push(file.to_owned());
    let found = graph.get(file).into_iter().flatten();
    let circle = found.into_iter().find_map(|used| visit(used, graph, way, done));
    way.pop();
    done.insert(file.to_owned());
    circle
}

fn read(dir: &Path, under: &str, texts: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).expect("read a source directory") {
        let path = entry.expect("a directory entry").path();
        let name = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .expect("a name")
            .to_owned();
        if path.is_dir() {
            read(&path, &format!("{under}{name}/"), texts);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("read a source file");
            texts.insert(format!("{under}{name}"), without_tests(&code(&text)));
        }
    }
}

/// The code without comments and with empty literals.
fn code(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(next) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with("r\"") || rest.starts_with("r#") && raw_hashes(rest).is_some() {
            let end = format!("\"{}", "#".repeat(raw_hashes(rest).unwrap_or(0)));
            let begin = end.len() + 1;
            rest[begin..].find(&end).map_or(rest.len(), |at| begin + at + end.len())
        } else if next == '"' {
            string_len(rest)
        } else if next == '\'' {
            character_len(rest)
        } else {
            0
        };
        match skipped {
            0 => out.push(next),
            _ => out.push(' '),
        }
        rest = &rest[skipped.max(next.len_utf8())..];
    }
    out
}

/// The number of `#` of a raw string that begins here.
fn raw_hashes(text: &str) -> Option<usize> {
    let hashes = text[1..].chars().take_while(|c| *c == '#').count();
    text[1 + hashes..].starts_with('"').then_some(hashes)
}

/// The length of a character literal; 0 for a lifetime.
fn character_len(text: &str) -> usize {
    let mut after = text.char_indices().skip(1);
    match (after.next(), after.next()) {
        (Some((_, '\\')), Some((at, escaped))) => {
            let from = at + escaped.len_utf8();
            text[from..].find('\'').map_or(text.len(), |end| from + end + 1)
        }
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 0,
    }
}

fn string_len(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

fn without_tests(text: &str) -> String {
    let Some(at) = text.find("#[cfg(test)]") else {
        return text.to_owned();
    };
    let rest = &text[at..];
    let mut depth = 0;
    for (end, c) in rest.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return format!("{}{}", &text[..at], without_tests(&rest[end + 1..])),
            '}' => depth -= 1,
            ';' if depth == 0 => return format!("{}{}", &text[..at], without_tests(&rest[end + 1..])),
            _ => {}
        }
    }
    text[..at].to_owned()
}

/// All paths of a text, with the trees of `use` expanded.
fn paths(text: &str) -> Vec<Vec<String>> {
    let (mut found, mut rest) = (Vec::new(), String::new());
    for (at, part) in text.split("use ").enumerate() {
        let (statement, after) = match at {
            0 => ("", part),
            _ => part.split_once(';').unwrap_or((part, "")),
        };
        tree(statement, &[], &mut found);
        rest.push_str(after);
        rest.push(' ');
    }
    let words = rest.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
    found.extend(words.map(|word| word.split("::").map(str::to_owned).collect()));
    // `pub(crate)` and `self` are not paths.
    found.retain(|path| path.len() > 1);
    found
}

/// `a::{b, c::{d, e}}`: `a::b`, `a::c::d`, `a::c::e`.
fn tree(text: &str, before: &[String], found: &mut Vec<Vec<String>>) {
    let (path, inner) = match text.split_once('{') {
        Some((path, inner)) => (path, inner.trim_end().strip_suffix('}')),
        None => (text, None),
    };
    let path = path.split(" as ").next().unwrap_or(path);
    let names = path.split("::").map(|name| name.trim().to_owned());
    let whole: Vec<String> = before
        .iter()
        .cloned()
        .chain(names.filter(|name| !name.is_empty()))
        .collect();
    let Some(inner) = inner else {
        found.push(whole);
        return;
    };
    let (mut depth, mut begin) = (0, 0);
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                tree(&inner[begin..at], &whole, found);
                begin = at + 1;
            }
            _ => {}
        }
    }
    tree(&inner[begin..], &whole, found);
}

/// The file that a path in `file` refers to, if it is in this crate.
fn resolved(file: &str, path: &[String], texts: &BTreeMap<String, String>) -> Option<String> {
    let here: Vec<&str> = file.split('/').filter(|name| *name != "lib").collect();
    let mut names: Vec<&str> = path.iter().map(String::as_str).collect();
    let first = *names.first()?;
    let mut module = here.clone();
    match first {
        "crate" => module.clear(),
        "self" | "super" => {}
        _ if texts.contains_key(&[&here[..], &[first]].concat().join("/")) && declares(&texts[file], first) => {}
        _ => return None,
    }
    while let Some(up @ ("crate" | "self" | "super")) = names.first().copied() {
        if up == "super" {
            module.pop();
        }
        names.remove(0);
    }
    module.extend(names);
    while !module.is_empty() && !texts.contains_key(&module.join("/")) {
        module.pop();
    }
    Some(if module.is_empty() {
        "lib".to_owned()
    } else {
        module.join("/")
    })
}

fn declares(text: &str, module: &str) -> bool {
    text.contains(&format!("mod {module};"))
}

/// The names of the types for which a text has an inherent `impl`.
fn implemented(text: &str) -> BTreeSet<String> {
    let blocks = text.lines().filter_map(|line| line.strip_prefix("impl"));
    let inherent = blocks.filter(|line| !line.contains(" for "));
    let named = inherent.filter_map(|line| {
        let name = match line.strip_prefix('<') {
            Some(generic) => generic.split_once("> ")?.1,
            None => line.trim_start(),
        };
        Some(name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
    });
    named.collect()
}

fn defines(text: &str, name: &str) -> bool {
    ["struct", "enum"].iter().any(|kind| {
        let begin = format!("{kind} {name}");
        text.match_indices(&begin)
            .any(|(at, _)| !text[at + begin.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_code_alone() {
        let text = "pub(crate) use crate::a::{b::C, d}; // crate::e\nfn f() { let s = \"crate::g\"; h::i(super::j::K) }\n#[cfg(test)]\nmod tests { use crate::l; }\n";
        let found = paths(&without_tests(&code(text)));
        let has = |path: &str| found.iter().any(|found| found.join("::") == path);
        for path in ["crate::a::b::C", "crate::a::d", "h::i", "super::j::K"] {
            assert!(has(path), "{path}: {found:?}");
        }
        for path in ["crate::e", "crate::g", "crate::l"] {
            assert!(!has(path), "{path}: {found:?}");
        }
    }

    #[test]
    fn a_circle_is_found_and_an_order_is_none() {
        let graph = |arrows: &[(&str, &str)]| {
            let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for (from, to) in arrows {
                graph.entry((*from).to_owned()).or_default().insert((*to).to_owned());
            }
            graph
        };
        assert_eq!(circle(&graph(&[("a", "b"), ("b", "c"), ("a", "c")])), None);
        let found = circle(&graph(&[("a", "b"), ("b", "c"), ("c", "b")])).unwrap();
        assert_eq!(found, ["b", "c"]);
    }
}
