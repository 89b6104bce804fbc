//! `tdb credentials`.

use anyhow::Result;
use clap::{Subcommand, ValueEnum};
use tdb_client::credentials::{CreateCredential, CreatedCredential, CredentialList, Rights};
use tdb_client::http::Client;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Confirmation, message, optional, optional_time, time_text};
use crate::printer::Printer;
use crate::table::Table;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List credentials
    #[command(after_help = "Example:\n  tdb credentials list")]
    List,
    /// Create a credential of a tenant, a workspace or the whole project
    #[command(
        after_help = "Example:\n  tdb credentials create --tenant acme\n  tdb credentials create --tenant acme --read-only --name reports\n  tdb credentials create --project\n  tdb credentials create --workspace myapp --expires-at 2030-01-31T00:00:00Z\n\nA connection string for each database is printed; the password is shown only once. A project's credential opens all databases of the project, so its connection string contains no database: append one, such as /myapp__acme."
    )]
    #[command(group(clap::ArgGroup::new("opens").required(true).args(["tenant", "workspace", "project"])))]
    Create {
        /// The tenant whose databases it opens
        #[arg(long)]
        tenant: Option<String>,
        /// The workspace that it opens
        #[arg(long)]
        workspace: Option<String>,
        /// It opens all workspaces and tenants of the project, including later ones
        #[arg(long)]
        project: bool,
        /// The credential's name, such as that of an application; by default its user name
        #[arg(long)]
        name: Option<String>,
        /// rw: read and write; ro: read only
        #[arg(long, default_value = "rw")]
        rights: RightsWord,
        /// The same as --rights ro
        #[arg(long, conflicts_with = "rights")]
        read_only: bool,
        /// When it expires, such as 2030-01-31T00:00:00Z (RFC 3339); by default never
        #[arg(long, value_name = "TIME", value_parser = rfc3339)]
        expires_at: Option<OffsetDateTime>,
    },
    /// Delete a credential and end its sessions
    #[command(after_help = "Example:\n  tdb credentials delete reports")]
    Delete {
        /// The credential's name, user name or id, as in the list
        id: String,
        #[command(flatten)]
        confirmation: Confirmation,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RightsWord {
    Rw,
    Ro,
}

impl RightsWord {
    fn rights(self) -> Rights {
        match self {
            RightsWord::Rw => Rights::ReadWrite,
            RightsWord::Ro => Rights::ReadOnly,
        }
    }
}

pub(crate) fn run(command: Command, client: &Client, printer: &Printer) -> Result<()> {
    match command {
        Command::List => printer.answer(&client.credentials()?, render_list),
        Command::Create {
            tenant,
            workspace,
            project,
            name,
            rights,
            read_only,
            expires_at,
        } => {
            let rights = if read_only { RightsWord::Ro } else { rights };
            let request = CreateCredential {
                tenant_id: tenant,
                workspace,
                project,
                name,
                rights: Some(rights.rights()),
                expires_at,
            };
            printer.answer(&client.create_credential(&request)?, |created| strings(&created.body))?;
            printer.note(if project {
                "The password is shown only once. Append the name of a database, such as /myapp__acme."
            } else {
                "The password is shown only once."
            });
            Ok(())
        }
        Command::Delete { id, confirmation } => {
            confirmation.ask(&format!("Delete credential \"{id}\"?"))?;
            printer.answer(&client.delete_credential(&id)?, message)
        }
    }
}

/// The connection strings of the databases that it opens, one in each line.
fn strings(created: &CreatedCredential) -> String {
    if created.databases.is_empty() {
        return created.connection_string.clone();
    }
    let strings = created
        .databases
        .iter()
        .map(|database| database.connection_string.as_str());
    strings.collect::<Vec<_>>().join("\n")
}

/// Parses the value of `--expires-at`.
pub(crate) fn rfc3339(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|_| "not a time such as 2030-01-31T00:00:00Z".to_owned())
}

fn render_list(list: &CredentialList) -> String {
    let mut table = Table::new(&[
        "id",
        "name",
        "user",
        "scope",
        "opens",
        "rights",
        "created (UTC)",
        "expires (UTC)",
    ]);
    for credential in &list.credentials {
        table.row([
            credential.id.clone(),
            credential.name.clone(),
            credential.user.clone(),
            credential.scope.to_string(),
            optional(credential.opens.as_ref()),
            credential.rights.to_string(),
            time_text(credential.created_at),
            optional_time(credential.expires_at),
        ]);
    }
    table.render_or("no credentials")
}
