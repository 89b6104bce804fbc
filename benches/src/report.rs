//! Writes raw numbers as CSV and medians as Markdown tables, with a description of the machine.

use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, thread};

use anyhow::{Context, Result};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The directory `benches/results` of the source tree.
pub(crate) fn results_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("results")
}

/// Writes `DIR/NAME.csv`: the machine as comments, the column names, the rows.
pub(crate) fn write_csv(dir: &Path, name: &str, columns: &str, rows: impl Iterator<Item = String>) -> Result<()> {
    let mut text = format!("# {}\n{columns}\n", machine());
    for row in rows {
        text.push_str(&row);
        text.push('\n');
    }
    let file = dir.join(format!("{name}.csv"));
    fs::create_dir_all(dir)
        .and_then(|()| fs::write(&file, text))
        .with_context(|| format!("write {}", file.display()))?;
    eprintln!("raw numbers: {}", file.display());
    Ok(())
}

/// Describes the run: time, processor, cores, kernel, revision of the source.
pub(crate) fn machine() -> String {
    let time = OffsetDateTime::now_utc();
    let time = time
        .replace_nanosecond(0)
        .unwrap_or(time)
        .format(&Rfc3339)
        .unwrap_or_default();
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name\t: "))
        .unwrap_or("unknown processor");
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("unknown");
    let revision = Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR"), "rev-parse", "--short", "HEAD"])
        .output();
    let revision = revision
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default();
    format!(
        "{time}; {model}, {cores} cores; Linux {}; load {load}; revision {revision}",
        kernel.trim()
    )
}

/// A Markdown table with aligned columns, readable on a terminal.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: &[&str]) -> Self {
        Self {
            rows: vec![columns.iter().map(|&column| column.to_owned()).collect()],
        }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| -> usize {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (index, row) in self.rows.iter().enumerate() {
            for (cell, width) in row.iter().zip(&widths) {
                write!(f, "| {cell:width$} ")?;
            }
            writeln!(f, "|")?;
            if index == 0 {
                for width in &widths {
                    write!(f, "|{}", "-".repeat(width + 2))?;
                }
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_pads_to_the_widest_cell() {
        let mut table = Table::new(&["a", "long"]);
        table.row(["wide".to_owned(), "1".to_owned()]);
        assert_eq!(table.to_string(), "| a    | long |\n|------|------|\n| wide | 1    |\n");
    }
}
