//! The one place that writes: data to standard output or `--output`, all else to standard error.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;
use tdb_client::lists::Success;

use crate::arguments::OutputOptions;

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

    /// The command's result: the API's own type, or `render`'s text of it.
    pub fn answer<T: Serialize>(&self, answer: &T, render: impl FnOnce(&T) -> String) -> Result<()> {
        let text = match self.form {
            Form::Json => serde_json::to_string_pretty(&Success::of(answer))?,
            Form::Text => render(answer),
        };
        self.data(&text)
    }

    /// Data that has no other form, such as a completion script.
    pub fn data(&self, text: &str) -> Result<()> {
        let text = format!("{}\n", text.trim_end_matches('\n'));
        let Some(path) = &self.file else {
            return match io::stdout().lock().write_all(text.as_bytes()) {
                // The reader has seen enough (`| head`).
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                other => other.context("cannot write to standard output"),
            };
        };
        // It may hold a password.
        let opened = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path);
        let written = opened.and_then(|mut file| file.write_all(text.as_bytes()));
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
        self.volume >= Volume::Normal && io::stderr().is_terminal()
    }

    /// Replaces the line that the cursor is on.
    pub fn draw(&self, line: &str) {
        // Standard error may be closed; there is nobody left to tell.
        let _ = write!(io::stderr().lock(), "\r\x1b[K{line}");
    }

    pub fn verbose(&self, text: &str) {
        if self.volume >= Volume::Verbose {
            say(text);
        }
    }

    pub fn error(&self, text: &str) {
        say(&format!("error: {text}"));
    }

    pub fn hint(&self, text: &str) {
        say(&format!("hint: {text}"));
    }

    pub fn error_document<T: Serialize>(&self, document: &T) {
        match serde_json::to_string_pretty(document) {
            Ok(text) => say(&text),
            Err(error) => self.error(&error.to_string()),
        }
    }
}

/// Standard error may be closed; there is nobody left to tell.
fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
