//! All output of tdb: data to standard output or `--output`, everything else to standard error. Colours are used only on a
//! terminal that supports them (NO_COLOR, TERM), and never carry information alone.

use std::env;
use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use anstream::AutoStream;
use anstream::adapter::strip_str;
use anyhow::{Context, Result};
use clap::builder::styling::{AnsiColor, Style};
use serde::Serialize;
use tdb_client::lists::Success;

use crate::arguments::OutputOptions;

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default().bold();
/// Clears the cursor's line. It is sent even if colours are off.
const FRESH_LINE: &str = "\r\x1b[K";

#[derive(Clone)]
pub(crate) struct Printer {
    form: Form,
    volume: Volume,
    file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Volume {
    Quiet,
    Normal,
    Verbose,
}

impl Printer {
    pub(crate) fn new(options: &OutputOptions) -> Self {
        let volume = match (options.quiet, options.verbose) {
            (true, _) => Volume::Quiet,
            (false, true) => Volume::Verbose,
            (false, false) => Volume::Normal,
        };
        let form = if options.json { Form::Json } else { Form::Text };
        Self {
            form,
            volume,
            file: options.output.clone(),
        }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.form == Form::Json
    }

    /// Whether `--json` or `--output` is given.
    pub(crate) fn is_redirected(&self) -> bool {
        self.is_json() || self.file.is_some()
    }

    /// Prints the command's result: the API's type as JSON, or the text that `render` makes of it, which can have colours.
    pub(crate) fn answer<T: Serialize>(&self, answer: &T, render: impl FnOnce(&T) -> String) -> Result<()> {
        match (self.form, &self.file) {
            (Form::Json, _) => self.data(&serde_json::to_string_pretty(&Success::of(answer))?),
            (Form::Text, Some(_)) => self.data(&strip_str(&render(answer)).to_string()),
            (Form::Text, None) => written(anstream::stdout().lock(), &render(answer)),
        }
    }

    /// Prints data as it is, for example a completion script.
    pub(crate) fn data(&self, text: &str) -> Result<()> {
        let Some(path) = &self.file else {
            return written(io::stdout().lock(), text);
        };
        // The data can contain a password.
        let opened = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path);
        let written = opened.and_then(|mut file| file.write_all(ended(text).as_bytes()));
        written.with_context(|| format!("cannot write {}", path.display()))
    }

    /// Prints a note to standard error, unless `--quiet` is given.
    pub(crate) fn note(&self, text: &str) {
        if self.volume >= Volume::Normal {
            say(text);
        }
    }

    /// Whether lines can be redrawn: standard error is a terminal that can move its cursor, and `--quiet` is not given.
    pub(crate) fn draws(&self) -> bool {
        let moves = env::var_os("TERM").is_some_and(|name| name != "dumb");
        self.volume >= Volume::Normal && moves && io::stderr().is_terminal()
    }

    /// Replaces the line that the cursor is on.
    pub(crate) fn draw(&self, line: &str) {
        // If standard error is closed, the error cannot be reported.
        let mut stderr = io::stderr().lock();
        let _ = write!(stderr, "{FRESH_LINE}");
        let _ = write!(AutoStream::auto(stderr), "{line}");
    }

    pub(crate) fn verbose(&self, text: &str) {
        if self.volume >= Volume::Verbose {
            say(text);
        }
    }

    pub(crate) fn error(&self, text: &str) {
        say(&format!("{ERROR}error:{ERROR:#} {text}"));
    }

    pub(crate) fn hint(&self, text: &str) {
        say(&format!("{HINT}hint:{HINT:#} {text}"));
    }

    pub(crate) fn warn(&self, text: &str) {
        self.note(&format!("{WARNING}warning:{WARNING:#} {text}"));
    }

    pub(crate) fn error_document<T: Serialize>(&self, document: &T) {
        match serde_json::to_string_pretty(document) {
            Ok(text) => say(&text),
            Err(error) => self.error(&error.to_string()),
        }
    }
}

fn written(mut stdout: impl Write, text: &str) -> Result<()> {
    match stdout.write_all(ended(text).as_bytes()) {
        // The reader has closed the pipe (`| head`).
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to standard output"),
    }
}

fn ended(text: &str) -> String {
    format!("{}\n", text.trim_end_matches('\n'))
}

/// If standard error is closed, the error cannot be reported.
fn say(text: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}
