//! `tdb psql`: psql as a child, with a credential that lives as long as it does. The password is in the child's environment
//! and never on a command line, which other users of the machine can read.

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

/// A working day: sessions end with their credential, and a tdb that was killed deletes none.
const LIFETIME: Duration = Duration::hours(8);
/// Characters of a credential's name.
const NAME_LEN_MAX: usize = 64;
/// Of libpq's variables those that do not say where to and as whom. How safely is the user's to say.
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
pub struct Psql {
    /// The database: BLUEPRINT_dev is a workspace, BLUEPRINT__TENANT a tenant's
    database: DatabaseName,
    /// Only read
    #[arg(long)]
    read_only: bool,
    /// When the session ends at the latest, such as 2030-01-31T00:00:00Z (RFC 3339); by default in 8 hours
    #[arg(long, value_name = "TIME", value_parser = rfc3339)]
    expires_at: Option<OffsetDateTime>,
    /// Arguments of psql, after "--"
    #[arg(last = true, value_name = "PSQL_ARGUMENT")]
    arguments: Vec<OsString>,
}

pub fn run(psql: Psql, connect: &dyn Fn() -> Result<Client>, printer: &Printer) -> Result<Outcome> {
    if printer.is_redirected() {
        return Err(Advised {
            said: "--json and --output are not for \"tdb psql\": psql prints by itself".to_owned(),
            hint: "Give psql its own options after \"--\", such as --csv or -o FILE; \"tdb query\" prints JSON."
                .to_owned(),
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
        printer.hint(&format!("\"tdb credentials delete {}\" does it.", credential.id));
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

/// Who it was: what the diff shows as a change's author after the credential is gone.
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

/// A tenant's credential opens all its databases; whether this is one of them is known before it is made.
fn has_database(tenant: &str, blueprint: &str, psql: &Psql, client: &Client) -> Result<()> {
    let found = client.tenant(tenant).map_err(|error| named(error, &psql.database))?;
    if found.databases.iter().any(|database| database.blueprint == blueprint) {
        return Ok(());
    }
    let others: Vec<String> = found
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
        hint: format!("\"tdb {list} list\" shows what there is."),
    }
    .into()
}

fn is_unknown(error: &ClientError) -> bool {
    matches!(error, ClientError::Problem(problem) if problem.code == ProblemCode::NotFound)
}

/// Runs psql to its end. What the terminal sends to both is psql's to answer; what is sent to tdb alone is passed on.
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
    // Caught, not ignored: exec gives psql the default back.
    let mut signals = caught(&[SIGINT, SIGQUIT, SIGTERM, SIGHUP])?;
    let mut child = command.spawn().map_err(not_started)?;
    let pid = pid_of(&child)?;
    let handle = signals.handle();
    let passing = thread::spawn(move || {
        for signal in signals.forever().filter(|signal| [SIGTERM, SIGHUP].contains(signal)) {
            if let Ok(signal) = Signal::try_from(signal) {
                // It may have ended; then there is nobody to tell.
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
            said: "there is no psql on the PATH".to_owned(),
            hint: "Install PostgreSQL's client: apt-get install postgresql-client (Debian, Ubuntu), dnf install postgresql (Fedora), brew install libpq (macOS).".to_owned(),
        }
        .into(),
        _ => anyhow::Error::new(error).context("cannot start psql"),
    }
}

/// As a shell tells it: 128 and the signal's number for a program that a signal ended.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| Some(128 + status.signal()?));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}
