//! How far something is: on a terminal a bar that is drawn over and gone at the end, elsewhere a line for each twentieth.

use clap::builder::styling::{AnsiColor, Style};

use crate::printer::Printer;

const WIDTH: usize = 30;
const FULL: Style = AnsiColor::Green.on_default();

pub struct Progress<'a> {
    printer: &'a Printer,
    said: String,
    /// Twentieths of the whole that were told, where there is no bar.
    told: Option<u32>,
}

impl<'a> Progress<'a> {
    pub fn new(printer: &'a Printer) -> Self {
        Self {
            printer,
            said: String::new(),
            told: None,
        }
    }

    /// Shows `done` of `total`, with `text` behind it.
    pub fn show(&mut self, done: u32, total: u32, text: &str) {
        if text == self.said {
            return;
        }
        text.clone_into(&mut self.said);
        let twentieths = Some(done.saturating_mul(20) / total.max(1));
        if self.printer.draws() {
            self.printer.draw(&format!("  {} {text}", bar(done, total)));
        } else if self.told != twentieths || done >= total {
            self.told = twentieths;
            self.printer.note(&format!("  {text}"));
        }
    }

    /// A line of its own, above the bar.
    pub fn note(&mut self, text: &str) {
        self.clear();
        self.printer.note(text);
    }

    fn clear(&mut self) {
        if self.printer.draws() && !self.said.is_empty() {
            self.printer.draw("");
            self.said.clear();
        }
    }
}

impl Drop for Progress<'_> {
    /// What comes next, an error too, begins on a fresh line.
    fn drop(&mut self) {
        self.clear();
    }
}

fn bar(done: u32, total: u32) -> String {
    let share = f64::from(done.min(total)) / f64::from(total.max(1));
    let full = (0..WIDTH).filter(|at| (*at as f64) < share * WIDTH as f64).count();
    format!("[{FULL}{}{FULL:#}{}]", "#".repeat(full), ".".repeat(WIDTH - full))
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;

    use super::*;

    #[test]
    fn the_bar_is_as_full_as_what_is_done() {
        let plain = |done, total| strip_str(&bar(done, total)).to_string();
        assert_eq!(plain(0, 3), format!("[{}]", ".".repeat(30)));
        assert_eq!(plain(1, 3), format!("[{}{}]", "#".repeat(10), ".".repeat(20)));
        assert_eq!(plain(3, 3), format!("[{}]", "#".repeat(30)));
        assert_eq!(plain(0, 0), format!("[{}]", ".".repeat(30)));
    }
}
