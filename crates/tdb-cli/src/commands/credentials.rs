//! `tdb credentials`.

use anyhow::Result;
use clap::{Subcommand, ValueEnum};
use tdb_client::credentials::{CreateCredential, CredentialList, Rights};
use tdb_client::http::Client;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{message, optional, optional_time, time_text};
use crate::printer::Printer;
use crate::table::Table;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List credentials
    #[command(after_help = "Example:\n  tdb credentials list")]
    List,
    /// Create a credential of a tenant or a workspace
    #[command(
        after_help = "Example:\n  tdb credentials create --tenant acme\n  tdb credentials create --tenant acme --rights ro\n  tdb credentials create --workspace myapp --expires-at 2030-01-31T00:00:00Z\n\nThe connection string has the password, which is shown this once."
    )]
    Create {
        /// The tenant whose databases it opens
        #[arg(long, required_unless_present = "workspace")]
        tenant: Option<String>,
        /// The workspace that it opens
        #[arg(long, conflicts_with = "tenant")]
        workspace: Option<String>,
        /// rw: read and write; ro: only read
        #[arg(long, default_value = "rw")]
        rights: RightsWord,
        /// From when on it is refused, such as 2030-01-31T00:00:00Z (RFC 3339)
        #[arg(long, value_name = "TIME", value_parser = rfc3339)]
        expires_at: Option<OffsetDateTime>,
    },
    /// Delete a credential and end its sessions
    #[command(after_help = "Example:\n  tdb credentials delete 6b0e3d0c-1c59-4a3e-9f0e-0a8f6c3c2f11")]
    Delete {
        /// The credential's id, as in the list
        id: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RightsWord {
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

pub fn run(command: Command, client: &Client, printer: &Printer) -> Result<()> {
    match command {
        Command::List => printer.answer(&client.credentials()?, render_list),
        Command::Create {
            tenant,
            workspace,
            rights,
            expires_at,
        } => {
            let request = CreateCredential {
                tenant_id: tenant,
                workspace,
                rights: Some(rights.rights()),
                expires_at,
            };
            printer.answer(&client.create_credential(&request)?, |created| {
                created.connection_string.clone()
            })?;
            printer.note("The password is shown this once.");
            Ok(())
        }
        Command::Delete { id } => printer.answer(&client.delete_credential(&id)?, message),
    }
}

/// For `--expires-at`.
pub fn rfc3339(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|_| "not a time such as 2030-01-31T00:00:00Z".to_owned())
}

fn render_list(list: &CredentialList) -> String {
    let mut table = Table::new(&["id", "user", "scope", "of", "rights", "created (UTC)", "expires (UTC)"]);
    for credential in &list.credentials {
        table.row([
            credential.id.clone(),
            credential.user.clone(),
            credential.scope.to_string(),
            optional(credential.name.as_ref()),
            credential.rights.to_string(),
            time_text(credential.created_at),
            optional_time(credential.expires_at),
        ]);
    }
    table.render_or("no credentials")
}
