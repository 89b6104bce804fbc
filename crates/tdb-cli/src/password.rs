//! Reads passwords from the environment, from a terminal without echo, or from the first line of standard input. `--password`
//! exists only for compatibility with clients of the hosted product, because other users can read a process's command line.

use std::env;
use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::{Context, Result, bail};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

/// Restores the terminal's settings when dropped.
struct Silence(Termios);

impl Silence {
    /// Turns the terminal's echo off.
    fn start() -> Result<Self> {
        let before = tcgetattr(io::stdin()).context("cannot read the terminal's settings")?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        silent.local_flags.insert(LocalFlags::ECHONL);
        tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &silent).context("cannot turn the terminal's echo off")?;
        Ok(Self(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &self.0);
    }
}

/// The value of the environment variable `variable`, else a line from the terminal, with `what` as the prompt, or from
/// standard input.
pub(crate) fn ask(variable: &str, what: &str) -> Result<String> {
    if let Ok(password) = env::var(variable) {
        return Ok(password);
    }
    let silence = if io::stdin().is_terminal() {
        write!(io::stderr(), "{what}: ")?;
        Some(Silence::start()?)
    } else {
        None
    };
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    drop(silence);
    match line.trim_end_matches(['\r', '\n']) {
        "" => bail!("no password was given; enter it on the terminal, set {variable}, or write it to standard input"),
        password => Ok(password.to_owned()),
    }
}
