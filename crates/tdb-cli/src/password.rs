//! Passwords: from the environment, from a terminal without echo, or the first line of standard input. The
//! command line, which other users of the machine can read, is offered for clients of the hosted product only.

use std::env;
use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::{Context, Result, bail};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

/// Turns the terminal's echo on again, however the reading ends.
struct Silence(Termios);

impl Silence {
    fn fall() -> Result<Self> {
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

/// `variable` where it is set, else asked for as `what`.
pub fn ask(variable: &str, what: &str) -> Result<String> {
    if let Ok(password) = env::var(variable) {
        return Ok(password);
    }
    let terminal = io::stdin().is_terminal();
    let silence = match terminal {
        true => {
            write!(io::stderr(), "{what}: ")?;
            Some(Silence::fall()?)
        }
        false => None,
    };
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    drop(silence);
    match line.trim_end_matches(['\r', '\n']) {
        "" => bail!("no password was given; set {variable}, or type it or pipe it in"),
        password => Ok(password.to_owned()),
    }
}
