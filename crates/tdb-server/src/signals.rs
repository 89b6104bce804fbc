//! SIGTERM, SIGINT and the SIGHUP of a terminal that was closed: the first asks for a drain, the second ends it.

use std::fs;

use anyhow::Result;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals of this process from now on.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// None under nohup.
    hangup: Option<Signal>,
}

impl Signals {
    pub fn new() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: match ignores_hangup() {
                true => None,
                false => Some(signal(SignalKind::hangup())?),
            },
        })
    }

    /// The next of them. Cancel safe.
    pub async fn next(&mut self) {
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

/// Whether who started us wants us to outlive the terminal: catching the signal would undo it. proc(5), `SigIgn`.
fn ignores_hangup() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 1 == 1))
}
