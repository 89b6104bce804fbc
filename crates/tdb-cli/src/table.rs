//! Tables for people: columns two spaces apart, nothing drawn, so that they can be cut and grepped. Text from databases
//! is made harmless for terminals.

const GAP: &str = "  ";

pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(header: &[&str]) -> Self {
        Self {
            header: header.iter().map(|name| name.to_uppercase()).collect(),
            rows: Vec::new(),
        }
    }

    /// With column names as they are.
    pub fn of_columns(header: impl Iterator<Item = String>) -> Self {
        Self {
            header: header.map(|name| harmless(&name)).collect(),
            rows: Vec::new(),
        }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| harmless(&cell)).collect());
    }

    /// The table, or `empty` where it has no rows.
    pub fn render_or(&self, empty: &str) -> String {
        match self.rows.is_empty() {
            true => empty.to_owned(),
            false => self.render(),
        }
    }

    pub fn render(&self) -> String {
        let lines = || std::iter::once(&self.header).chain(&self.rows);
        let width = |column: usize| {
            lines()
                .filter_map(|line| line.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let mut text = String::new();
        for line in lines() {
            let cells: Vec<String> = line
                .iter()
                .zip(&widths)
                .map(|(cell, &width)| format!("{cell:width$}"))
                .collect();
            text.push_str(cells.join(GAP).trim_end());
            text.push('\n');
        }
        text
    }
}

/// Facts about one thing, one a line.
pub fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    facts
        .iter()
        .map(|(name, value)| format!("{name:width$}{GAP}{}\n", harmless(value)))
        .collect()
}

/// One line without control characters: what a database says must not steer a terminal.
pub fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' | '\r' => ' ',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// As [`harmless`], but lines stay lines; each is indented.
pub fn indented(text: &str, indent: &str) -> String {
    text.lines()
        .map(|line| format!("{indent}{}\n", harmless(&line.replace('\t', "    "))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_trailing_space() {
        let mut table = Table::new(&["name", "status"]);
        table.row(["a".to_owned(), "ready".to_owned()]);
        table.row(["längere".to_owned(), String::new()]);
        assert_eq!(table.render(), "NAME     STATUS\na        ready\nlängere\n");
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
