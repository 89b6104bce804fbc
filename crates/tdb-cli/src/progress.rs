//! How far something is: a bar that is drawn over on a terminal, elsewhere a line for each step.

use crate::printer::Printer;

const WIDTH: usize = 30;

pub struct Progress<'a> {
    printer: &'a Printer,
    said: String,
}

impl<'a> Progress<'a> {
    pub fn new(printer: &'a Printer) -> Self {
        Self {
            printer,
            said: String::new(),
        }
    }

    /// Shows `done` of `total`, with `text` behind it.
    pub fn show(&mut self, done: u32, total: u32, text: &str) {
        if text == self.said {
            return;
        }
        text.clone_into(&mut self.said);
        match self.printer.draws() {
            true => self.printer.draw(&format!("  {} {text}", bar(done, total))),
            false => self.printer.note(&format!("  {text}")),
        }
    }

    /// A line of its own, above the bar.
    pub fn note(&mut self, text: &str) {
        if self.printer.draws() {
            self.printer.draw("");
            self.said.clear();
        }
        self.printer.note(text);
    }

    /// The bar as it is stays.
    pub fn end(self) {
        if self.printer.draws() && !self.said.is_empty() {
            self.printer.note("");
        }
    }
}

fn bar(done: u32, total: u32) -> String {
    let share = f64::from(done.min(total)) / f64::from(total.max(1));
    let full = (0..WIDTH).filter(|at| (*at as f64) < share * WIDTH as f64).count();
    format!("[{}{}]", "#".repeat(full), ".".repeat(WIDTH - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_as_full_as_what_is_done() {
        assert_eq!(bar(0, 3), format!("[{}]", ".".repeat(30)));
        assert_eq!(bar(1, 3), format!("[{}{}]", "#".repeat(10), ".".repeat(20)));
        assert_eq!(bar(3, 3), format!("[{}]", "#".repeat(30)));
        assert_eq!(bar(0, 0), format!("[{}]", ".".repeat(30)));
    }
}
