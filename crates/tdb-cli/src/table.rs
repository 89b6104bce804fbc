//! Tables: columns separated by two spaces, without lines, so that they can be processed with cut and grep. Control
//! characters in text from databases are replaced.

use clap::builder::styling::{AnsiColor, Style};

const GAP: &str = "  ";
const HEADER: Style = Style::new().bold();
/// Statuses that are shown in green, and in red.
const GOOD: [&str; 5] = ["active", "completed", "deployed", "done", "ready"];
const BAD: [&str; 3] = ["broken", "error", "failed"];

pub(crate) struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    status: Option<usize>,
}

impl Table {
    /// A table with these column names, in upper case. The column "status" is coloured.
    pub(crate) fn new(header: &[&str]) -> Self {
        Self {
            header: header.iter().map(|name| name.to_uppercase()).collect(),
            rows: Vec::new(),
            status: header.iter().position(|name| *name == "status"),
        }
    }

    /// A table with these column names, unchanged.
    pub(crate) fn of_columns(header: impl Iterator<Item = String>) -> Self {
        Self {
            header: header.map(|name| harmless(&name)).collect(),
            rows: Vec::new(),
            status: None,
        }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| harmless(&cell)).collect());
    }

    /// The table, or `empty` if it has no rows.
    pub(crate) fn render_or(&self, empty: &str) -> String {
        if self.rows.is_empty() {
            empty.to_owned()
        } else {
            self.render()
        }
    }

    pub(crate) fn render(&self) -> String {
        let lines = || std::iter::once(&self.header).chain(&self.rows);
        let width = |column: usize| {
            lines()
                .filter_map(|line| line.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let mut text = line(&self.header, &widths, |_, _| HEADER);
        for row in &self.rows {
            text.push_str(&line(row, &widths, |column, cell| {
                if self.status == Some(column) {
                    style(cell)
                } else {
                    Style::new()
                }
            }));
        }
        text
    }
}

fn line(cells: &[String], widths: &[usize], paint: impl Fn(usize, &str) -> Style) -> String {
    let mut text = String::new();
    let last = cells.iter().rposition(|cell| !cell.is_empty()).unwrap_or(0);
    for (column, (cell, width)) in cells.iter().zip(widths).enumerate().take(last + 1) {
        let pad = if column == last {
            0
        } else {
            width.saturating_sub(cell.chars().count()) + GAP.len()
        };
        let style = paint(column, cell);
        text.push_str(&format!("{style}{cell}{style:#}{:pad$}", ""));
    }
    text.push('\n');
    text
}

fn style(status: &str) -> Style {
    match status {
        good if GOOD.contains(&good) => AnsiColor::Green.on_default(),
        bad if BAD.contains(&bad) => AnsiColor::Red.on_default(),
        _ => AnsiColor::Yellow.on_default(),
    }
}

/// The properties of one object, one in each line.
pub(crate) fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let one = |(name, value): &(&str, String)| {
        let paint = if *name == "status" { style(value) } else { Style::new() };
        format!("{name:width$}{GAP}{paint}{}{paint:#}\n", harmless(value))
    };
    facts.iter().map(one).collect()
}

/// One line without control characters, so that text from a database cannot control the terminal.
pub(crate) fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' | '\r' => ' ',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// Like [`harmless`], but line breaks are kept and each line is indented.
pub(crate) fn indented(text: &str, indent: &str) -> String {
    text.lines()
        .map(|line| format!("{indent}{}\n", harmless(&line.replace('\t', "    "))))
        .collect()
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;

    use super::*;

    #[test]
    fn a_status_is_painted_and_nothing_else_of_a_row() {
        let mut table = Table::new(&["name", "status"]);
        table.row(["failed".to_owned(), "failed".to_owned()]);
        assert!(
            table.render().ends_with("\nfailed  \u{1b}[31mfailed\u{1b}[0m\n"),
            "{:?}",
            table.render()
        );
        let mut table = Table::of_columns(["status".to_owned()].into_iter());
        table.row(["failed".to_owned()]);
        assert!(table.render().ends_with("\nfailed\n"), "{:?}", table.render());
        assert!(facts(&[("status", "ready".to_owned())]).contains("\u{1b}[32mready"));
    }

    #[test]
    fn columns_line_up_and_lines_have_no_trailing_space() {
        let mut table = Table::new(&["name", "status"]);
        table.row(["a".to_owned(), "ready".to_owned()]);
        table.row(["längere".to_owned(), String::new()]);
        let plain = strip_str(&table.render()).to_string();
        assert_eq!(plain, "NAME     STATUS\na        ready\nlängere\n");
        assert_eq!(Table::new(&["x"]).render_or("nothing"), "nothing");
    }

    #[test]
    fn text_of_a_database_cannot_steer_the_terminal() {
        assert_eq!(harmless("a\u{1b}[2Jb\nc"), "a\u{fffd}[2Jb c");
        assert_eq!(indented("a\n\tb\u{7}", "  "), "  a\n      b\u{fffd}\n");
        assert_eq!(
            facts(&[("a", "1".to_owned()), ("long", "2".to_owned())]),
            "a     1\nlong  2\n"
        );
    }
}
