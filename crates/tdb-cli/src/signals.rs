//! Signals that tdb handles.

use std::fs;

use anyhow::{Context, Result};
use signal_hook::iterator::Signals;

/// Catches the signals in `wanted`, except those that are ignored: the process that started tdb (nohup, for example) set
/// this, and catching them would undo it.
pub(crate) fn caught(wanted: &[i32]) -> Result<Signals> {
    let ignored = ignored();
    let handled = wanted.iter().filter(|signal| ignored & (1 << (**signal - 1)) == 0);
    Signals::new(handled).context("cannot catch signals")
}

/// The ignored signals, one bit each: proc(5), `SigIgn`.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default()
}
