//! Signals that tdb answers itself.

use std::fs;

use anyhow::{Context, Result};
use signal_hook::iterator::Signals;

/// Catches those of `wanted` that who started tdb does not have ignored, as nohup does: catching would undo it.
pub fn caught(wanted: &[i32]) -> Result<Signals> {
    let ignored = ignored();
    let heard = wanted.iter().filter(|signal| ignored & (1 << (**signal - 1)) == 0);
    Signals::new(heard).context("cannot catch signals")
}

/// A bit for each signal: proc(5), `SigIgn`.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default()
}
