//! SIGTERM, SIGINT and SIGHUP (a closed terminal): the first signal starts a drain, the second ends it.

use std::fs;

use anyhow::Result;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals of this process, caught from the creation of this value on.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// `None` if SIGHUP is ignored, as under nohup.
    hangup: Option<Signal>,
}

impl Signals {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: if ignores_hangup() {
                None
            } else {
                Some(signal(SignalKind::hangup())?)
            },
        })
    }

    /// Waits for the next signal. Cancel safe.
    pub(crate) async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = hangup => {}
        }
    }
}

/// Whether the parent process has set SIGHUP to be ignored, so that this process survives the terminal. Catching the signal
/// would undo that. Source: proc(5), `SigIgn`.
fn ignores_hangup() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 1 == 1))
}
