//! Ctrl-C while tdb follows a deployment: prints a note that the deployment continues, then ends tdb as the signal would.

use std::thread::{self, JoinHandle};

use anyhow::Result;
use signal_hook::consts::SIGINT;
use signal_hook::iterator::Handle;
use signal_hook::low_level::emulate_default_handler;

use crate::printer::Printer;
use crate::signals::caught;

/// While this guard exists, tdb prints a note before SIGINT ends it.
pub(crate) struct Farewell {
    signals: Handle,
    waiting: Option<JoinHandle<()>>,
}

impl Farewell {
    pub(crate) fn on_interrupt(farewell: String, printer: &Printer) -> Result<Self> {
        let mut signals = caught(&[SIGINT])?;
        let handle = signals.handle();
        let printer = printer.clone();
        let waiting = thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                if printer.draws() {
                    printer.draw("");
                }
                printer.note(&farewell);
                // Fails only for signals without a default action.
                let _ = emulate_default_handler(signal);
            }
        });
        Ok(Self {
            signals: handle,
            waiting: Some(waiting),
        })
    }
}

impl Drop for Farewell {
    fn drop(&mut self) {
        self.signals.close();
        if let Some(waiting) = self.waiting.take() {
            let _ = waiting.join();
        }
    }
}
