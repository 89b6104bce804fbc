//! The one place that writes: data to standard output or `--output`, all else to standard error. Colours only where there is
//! a terminal that wants them (NO_COLOR, TERM), and never as the only sign of something.

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
/// The cursor's line, empty. Sent without regard to colours: it moves, it does not paint.
const FRESH_LINE: &str = "\r\x1b[K";

#[derive(Clone)]
pub struct Printer {
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
    pub fn new(options: &OutputOptions) -> Self {
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

    pub fn is_json(&self) -> bool {
        self.form == Form::Json
    }

    /// Whether the data is to have another form or place than standard output's text.
    pub fn is_redirected(&self) -> bool {
        self.is_json() || self.file.is_some()
    }

    /// The command's result: the API's own type, or `render`'s text of it, which may be painted.
    pub fn answer<T: Serialize>(&self, answer: &T, render: impl FnOnce(&T) -> String) -> Result<()> {
        match (self.form, &self.file) {
            (Form::Json, _) => self.data(&serde_json::to_string_pretty(&Success::of(answer))?),
            (Form::Text, Some(_)) => self.data(&strip_str(&render(answer)).to_string()),
            (Form::Text, None) => written(anstream::stdout().lock(), &render(answer)),
        }
    }

    /// Data that has no other form, such as a completion script.
    pub fn data(&self, text: &str) -> Result<()> {
        let Some(path) = &self.file else {
            return written(io::stdout().lock(), text);
        };
        // It may hold a password.
        let opened = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path);
        let written = opened.and_then(|mut file| file.write_all(ended(text).as_bytes()));
        written.with_context(|| format!("cannot write {}", path.display()))
    }

    /// For people, beside the data.
    pub fn note(&self, text: &str) {
        if self.volume >= Volume::Normal {
            say(text);
        }
    }

    /// Whether a line can be drawn over: there is a terminal, and somebody who wants to see it.
    pub fn draws(&self) -> bool {
        let moves = env::var_os("TERM").is_some_and(|name| name != "dumb");
        self.volume >= Volume::Normal && moves && io::stderr().is_terminal()
    }

    /// Replaces the line that the cursor is on.
    pub fn draw(&self, line: &str) {
        // Standard error may be closed; there is nobody left to tell.
        let mut stderr = io::stderr().lock();
        let _ = write!(stderr, "{FRESH_LINE}");
        let _ = write!(AutoStream::auto(stderr), "{line}");
    }

    pub fn verbose(&self, text: &str) {
        if self.volume >= Volume::Verbose {
            say(text);
        }
    }

    pub fn error(&self, text: &str) {
        say(&format!("{ERROR}error:{ERROR:#} {text}"));
    }

    pub fn hint(&self, text: &str) {
        say(&format!("{HINT}hint:{HINT:#} {text}"));
    }

    pub fn warn(&self, text: &str) {
        self.note(&format!("{WARNING}warning:{WARNING:#} {text}"));
    }

    pub fn error_document<T: Serialize>(&self, document: &T) {
        match serde_json::to_string_pretty(document) {
            Ok(text) => say(&text),
            Err(error) => self.error(&error.to_string()),
        }
    }
}

fn written(mut stdout: impl Write, text: &str) -> Result<()> {
    match stdout.write_all(ended(text).as_bytes()) {
        // The reader has seen enough (`| head`).
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to standard output"),
    }
}

fn ended(text: &str) -> String {
    format!("{}\n", text.trim_end_matches('\n'))
}

/// Standard error may be closed; there is nobody left to tell.
fn say(text: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}
