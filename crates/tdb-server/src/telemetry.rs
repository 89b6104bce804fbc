//! The log: `tracing` to standard error, as text or as JSON lines. Standard output is only for data.

use std::io::{IsTerminal, stderr};

use anyhow::{Result, anyhow};
use tracing_subscriber::fmt;

use crate::config::{LEVEL_EXPECTED, Log, LogFormat, log_filter};

/// Starts logging for this process. Call it once.
pub(crate) fn start(log: &Log) -> Result<()> {
    let filter = log_filter(&log.level)
        .ok_or_else(|| anyhow!("the log level must be {LEVEL_EXPECTED}, not \"{}\"", log.level))?;
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        // If the log cannot be written, for example because the terminal is closed, the process must not fail.
        .log_internal_errors(false)
        .with_ansi(stderr().is_terminal());
    let started = match log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_ansi(false).try_init(),
    };
    started.map_err(|e| anyhow!("cannot start the log: {e}"))
}
