//! `tdb psql`: runs psql as a child process, with a credential that is deleted when psql ends. The password is passed in the
//! environment, not on the command line, which other users of the machine can read.

use std::env;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::thread;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, gethostname, getuid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use tdb_client::connections::Connection;
use tdb_client::credentials::{CreateCredential, CreatedCredential, Rights};
use tdb_client::http::{Client, ClientError};
use tdb_names::DatabaseName;
use tdb_problems::ProblemCode;
use time::{Duration, OffsetDateTime};

use super::Outcome;
use super::credentials::rfc3339;
use crate::errors::Advised;
use crate::printer::Printer;
use crate::signals::caught;

/// The credential's default lifetime, a working day. It ends the session too. It limits credentials that a killed tdb did
/// not delete.
const LIFETIME: Duration = Duration::hours(8);
/// The longest name of a credential, in characters.
const NAME_LEN_MAX: usize = 64;
/// The variables of libpq that psql inherits. Those for the server, database, user and password are removed; encryption and
/// its checks are left to the user.
const KEPT: [&str; 12] = [
    "PGAPPNAME",
    "PGCHANNELBINDING",
    "PGCLIENTENCODING",
    "PGCONNECT_TIMEOUT",
    "PGDATESTYLE",
    "PGOPTIONS",
    "PGSSLCRL",
    "PGSSLCRLDIR",
    "PGSSLMODE",
    "PGSSLNEGOTIATION",
    "PGSSLROOTCERT",
    "PGTZ",
];

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  tdb psql myapp_dev\n  tdb psql myapp__acme --read-only -- -c 'select count(*) from users'\n  tdb psql myapp_dev < schema.sql\n\nThe credential is deleted when psql ends. The exit status is psql's."
)]
pub(crate) struct Psql {
    /// The database: BLUEPRINT_dev for a workspace, BLUEPRINT__TENANT for a tenant
    database: DatabaseName,
    /// Read only
    #[arg(long)]
    read_only: bool,
    /// When the credential expires and the session ends, such as 2030-01-31T00:00:00Z (RFC 3339); by default in 8 hours
    #[arg(long, value_name = "TIME", value_parser = rfc3339)]
    expires_at: Option<OffsetDateTime>,
    /// Arguments of psql, after "--"
    #[arg(last = true, value_name = "PSQL_ARGUMENT")]
    arguments: Vec<OsString>,
}

pub(crate) fn run(psql: Psql, connect: &dyn Fn() -> Result<Client>, printer: &Printer) -> Result<Outcome> {
    if printer.is_redirected() {
        return Err(Advised {
            said: "--json and --output cannot be used with \"tdb psql\", because psql prints its results".to_owned(),
            hint: "Use options of psql after \"--\", such as --csv or -o FILE; \"tdb query\" prints JSON.".to_owned(),
        }
        .into());
    }
    let client = connect()?;
    let credential = credential(&psql, &client)?;
    let ended = session(&psql, &credential.connection);
    if let Err(error) = client.delete_credential(&credential.id)
        && !is_unknown(&error)
    {
        printer.error(&format!("credential {} could not be deleted: {error}", credential.id));
        printer.hint(&format!("Delete it with \"tdb credentials delete {}\".", credential.id));
    }
    Ok(Outcome::Exited(exit_code(ended?)))
}

fn credential(psql: &Psql, client: &Client) -> Result<CreatedCredential> {
    let (tenant, workspace) = match &psql.database {
        DatabaseName::Workspace(blueprint) => (None, Some(blueprint.to_string())),
        DatabaseName::Tenant { blueprint, tenant } => {
            has_database(tenant.as_str(), blueprint.as_str(), psql, client)?;
            (Some(tenant.to_string()), None)
        }
    };
    let request = CreateCredential {
        tenant_id: tenant,
        workspace,
        project: false,
        name: Some(name()),
        rights: Some(if psql.read_only {
            Rights::ReadOnly
        } else {
            Rights::ReadWrite
        }),
        expires_at: Some(psql.expires_at.unwrap_or_else(|| OffsetDateTime::now_utc() + LIFETIME)),
    };
    let created = client.create_credential(&request);
    Ok(created.map_err(|error| named(error, &psql.database))?.body)
}

/// The credential's name. The diff shows it as the author of changes, also after the credential is deleted.
fn name() -> String {
    let user = User::from_uid(getuid()).ok().flatten().map(|user| user.name);
    let host = gethostname().ok().and_then(|host| host.into_string().ok());
    let name = format!(
        "psql of {}@{}",
        user.as_deref().unwrap_or("unknown"),
        host.as_deref().unwrap_or("unknown")
    );
    name.chars().filter(|c| !c.is_control()).take(NAME_LEN_MAX).collect()
}

/// Checks that the tenant has this database. A tenant's credential opens all its databases, so creating one would succeed
/// even if this database does not exist.
fn has_database(tenant: &str, blueprint: &str, psql: &Psql, client: &Client) -> Result<()> {
    let answer = client.tenant(tenant).map_err(|error| named(error, &psql.database))?;
    if answer.databases.iter().any(|database| database.blueprint == blueprint) {
        return Ok(());
    }
    let others: Vec<String> = answer
        .databases
        .iter()
        .map(|database| format!("{}__{tenant}", database.blueprint))
        .collect();
    Err(Advised {
        said: format!("tenant \"{tenant}\" has no database of a blueprint \"{blueprint}\""),
        hint: format!("It has {}.", others.join(", ")),
    }
    .into())
}

fn named(error: ClientError, database: &DatabaseName) -> anyhow::Error {
    if !is_unknown(&error) {
        return error.into();
    }
    let list = match database {
        DatabaseName::Workspace(_) => "workspaces",
        DatabaseName::Tenant { .. } => "tenants",
    };
    Advised {
        said: format!("there is no database \"{database}\""),
        hint: format!("\"tdb {list} list\" shows the existing {list}."),
    }
    .into()
}

fn is_unknown(error: &ClientError) -> bool {
    matches!(error, ClientError::Problem(problem) if problem.code == ProblemCode::NotFound)
}

/// Runs psql and waits for its end. The terminal sends SIGINT and SIGQUIT to both processes, and psql handles them; SIGTERM
/// and SIGHUP are sent to tdb and forwarded.
fn session(psql: &Psql, connection: &Connection) -> Result<ExitStatus> {
    let mut command = Command::new("psql");
    command.args(&psql.arguments);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("PG") && !KEPT.contains(&text.as_ref()) {
            command.env_remove(&name);
        }
    }
    command
        .env("PGHOST", &connection.host)
        .env("PGPORT", connection.port.to_string())
        .env("PGUSER", &connection.user)
        .env("PGDATABASE", psql.database.to_string())
        .env("PGPASSWORD", connection.password.as_deref().unwrap_or_default());
    // The signals are caught, not ignored, because exec resets caught signals to their default for psql.
    let mut signals = caught(&[SIGINT, SIGQUIT, SIGTERM, SIGHUP])?;
    let mut child = command.spawn().map_err(not_started)?;
    let pid = pid_of(&child)?;
    let handle = signals.handle();
    let passing = thread::spawn(move || {
        for signal in signals.forever().filter(|signal| [SIGTERM, SIGHUP].contains(signal)) {
            if let Ok(signal) = Signal::try_from(signal) {
                // Fails if psql has ended.
                let _ = kill(pid, signal);
            }
        }
    });
    let ended = child.wait().context("cannot wait for psql");
    handle.close();
    let _ = passing.join();
    ended
}

fn pid_of(child: &Child) -> Result<Pid> {
    Ok(Pid::from_raw(
        i32::try_from(child.id()).context("psql has no process id")?,
    ))
}

fn not_started(error: std::io::Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::NotFound => Advised {
            said: "psql was not found in PATH".to_owned(),
            hint: "Install PostgreSQL's client: apt-get install postgresql-client (Debian, Ubuntu), dnf install postgresql (Fedora), brew install libpq (macOS).".to_owned(),
        }
        .into(),
        _ => anyhow::Error::new(error).context("cannot start psql"),
    }
}

/// The exit status that a shell would report: 128 plus the signal's number for a program that a signal ended.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| Some(128 + status.signal()?));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}
