//! The commands. Each has a module with its arguments, its request to the API and the rendering of the answer.

pub(crate) mod apikeys;
pub(crate) mod blueprints;
pub(crate) mod config;
pub(crate) mod credentials;
pub(crate) mod deployments;
pub(crate) mod drift;
pub(crate) mod projects;
pub(crate) mod psql;
pub(crate) mod query;
pub(crate) mod roles;
pub(crate) mod servers;
pub(crate) mod signup;
pub(crate) mod tenants;
pub(crate) mod workspaces;

use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::{Result, bail};
use clap::CommandFactory;
use serde::Serialize;
use tdb_client::http::Client;
use tdb_client::lists::Done;
use time::OffsetDateTime;
use time::macros::format_description;

use crate::arguments::{Arguments, Command, TargetOptions};
use crate::errors::Advised;
use crate::instance::Instance;
use crate::printer::Printer;

/// The result of a command whose requests were answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Fine,
    /// The answer is a failure, for example a failed deployment.
    Failed,
    /// A child program ended with this exit status.
    Exited(u8),
}

/// Whether a destructive command asks for confirmation.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct Confirmation {
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
}

pub(crate) fn run(arguments: Arguments, printer: &Printer) -> Result<Outcome> {
    let connect = || connect(&arguments.target, printer);
    let done = |result: Result<()>| result.map(|()| Outcome::Fine);
    match arguments.command {
        Command::Version => done(print_version(printer)),
        Command::Completions { shell } => done(print_completions(shell, printer)),
        Command::Signup(command) => done(signup::sign_up(command, &arguments.target, printer)),
        Command::Login(command) => done(signup::log_in(command, &arguments.target, printer)),
        Command::Logout => done(signup::log_out(printer)),
        Command::Config(command) => done(config::run(command, &arguments.target, printer)),
        Command::Projects(command) => done(projects::run(command, &connect()?, printer)),
        Command::Roles(command) => done(roles::run(command, &connect()?, printer)),
        Command::Apikeys(command) => done(apikeys::run(command, &connect()?, printer)),
        Command::Workspaces(command) => done(workspaces::run(command, &connect()?, printer)),
        Command::Blueprints(command) => done(blueprints::run(command, &connect()?, printer)),
        Command::Tenants(command) => done(tenants::run(command, &connect()?, printer)),
        Command::Deployments(command) => deployments::run(command, &connect()?, printer),
        Command::Query(query) => query::run(query, &connect()?, printer),
        Command::Psql(psql) => psql::run(psql, &connect, printer),
        Command::Servers(command) => done(servers::run(command, &connect()?, printer)),
        Command::Credentials(command) => done(credentials::run(command, &connect()?, printer)),
        Command::Drift(drift) => done(drift::run(drift, &connect()?, printer)),
    }
}

fn connect(target: &TargetOptions, printer: &Printer) -> Result<Client> {
    let instance = Instance::find(target)?;
    printer.verbose(&format!("using {} (from {})", instance.url, instance.found));
    Ok(instance.client())
}

#[derive(Serialize)]
struct Version {
    name: &'static str,
    version: &'static str,
}

fn print_version(printer: &Printer) -> Result<()> {
    let version = Version {
        name: "tdb",
        version: env!("CARGO_PKG_VERSION"),
    };
    printer.answer(&version, |version| format!("{} {}", version.name, version.version))
}

fn print_completions(shell: clap_complete::Shell, printer: &Printer) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "tdb", &mut script);
    printer.data(&String::from_utf8_lossy(&script))
}

impl Confirmation {
    /// Asks on a terminal, unless `--yes` is given. Without a terminal the command runs without a question.
    fn ask(self, question: &str) -> Result<()> {
        if self.yes || !on_terminal() {
            return Ok(());
        }
        write!(io::stderr(), "{question} [y/N] ")?;
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line)?;
        match line.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => bail!("not confirmed; nothing was changed"),
        }
    }

    /// Like [`Self::ask`], but an error without a terminal and `--yes`. For commands that delete a customer's data.
    fn demand(self, question: &str) -> Result<()> {
        if self.yes || on_terminal() {
            return self.ask(question);
        }
        Err(Advised {
            said: "this deletes data permanently, and there is no terminal to ask for confirmation".to_owned(),
            hint: "Add --yes to run it without confirmation.".to_owned(),
        }
        .into())
    }
}

fn on_terminal() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// A time in UTC, to the second.
fn time_text(time: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    // Formatting fails only if a component is missing; an OffsetDateTime has all of them.
    time.to_offset(time::UtcOffset::UTC).format(format).unwrap_or_default()
}

fn optional_time(time: Option<OffsetDateTime>) -> String {
    time.map_or_else(|| "-".to_owned(), time_text)
}

fn optional(text: Option<impl ToString>) -> String {
    text.map_or_else(|| "-".to_owned(), |text| text.to_string())
}

fn counted(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// The author of a change or a version: the name of a credential, an API key, or a session that did not come through the
/// proxy. The role's name of the latter is not shown, because it means nothing to users.
fn author(name: &str) -> String {
    match name.split_once(':') {
        Some(("direct", _)) => "a direct session".to_owned(),
        Some(("key", name)) => format!("API key \"{name}\""),
        _ => name.to_owned(),
    }
}

fn message(done: &Done) -> String {
    done.message.clone()
}
