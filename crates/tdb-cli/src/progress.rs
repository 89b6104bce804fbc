//! Progress: on a terminal a bar that is redrawn and removed at the end, otherwise a line for every 5 per cent.

use clap::builder::styling::{AnsiColor, Style};

use crate::printer::Printer;

const WIDTH: usize = 30;
const FULL: Style = AnsiColor::Green.on_default();

pub(crate) struct Progress<'a> {
    printer: &'a Printer,
    shown: String,
    /// The last printed progress in twentieths, if there is no bar.
    twentieths: Option<u32>,
}

impl<'a> Progress<'a> {
    pub(crate) fn new(printer: &'a Printer) -> Self {
        Self {
            printer,
            shown: String::new(),
            twentieths: None,
        }
    }

    /// Shows `done` of `total`, followed by `text`.
    pub(crate) fn show(&mut self, done: u32, total: u32, text: &str) {
        if text == self.shown {
            return;
        }
        text.clone_into(&mut self.shown);
        let twentieths = Some(done.saturating_mul(20) / total.max(1));
        if self.printer.draws() {
            self.printer.draw(&format!("  {} {text}", bar(done, total)));
        } else if self.twentieths != twentieths || done >= total {
            self.twentieths = twentieths;
            self.printer.note(&format!("  {text}"));
        }
    }

    /// Prints a line above the bar.
    pub(crate) fn note(&mut self, text: &str) {
        self.clear();
        self.printer.note(text);
    }

    fn clear(&mut self) {
        if self.printer.draws() && !self.shown.is_empty() {
            self.printer.draw("");
            self.shown.clear();
        }
    }
}

impl Drop for Progress<'_> {
    /// Removes the bar, so that the next output starts on an empty line.
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
