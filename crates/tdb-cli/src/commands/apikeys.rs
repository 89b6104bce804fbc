//! `tdb apikeys`.

use anyhow::Result;
use clap::{Subcommand, ValueEnum};
use tdb_client::accounts::{ApiKeyList, CreateApiKey, Scope};
use tdb_client::http::Client;

use super::{Confirmation, message, optional_time, time_text};
use crate::printer::Printer;
use crate::table::Table;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List keys, with the prefix of each
    #[command(after_help = "Example:\n  tdb apikeys list")]
    List,
    /// Create a key; it is shown only once
    #[command(after_help = "Example:\n  tdb apikeys create --name ci --scope read --scope write")]
    Create {
        /// The key's name, such as its purpose; by default "key"
        #[arg(long)]
        name: Option<String>,
        /// What it can do, can be repeated; by default read and write
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<ScopeWord>,
    },
    /// Delete a key
    #[command(after_help = "Example:\n  tdb apikeys delete ci")]
    Delete {
        /// The key's name or id, as in the list
        id: String,
        #[command(flatten)]
        confirmation: Confirmation,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ScopeWord {
    Read,
    Write,
    Admin,
}

impl ScopeWord {
    fn scope(self) -> Scope {
        match self {
            ScopeWord::Read => Scope::Read,
            ScopeWord::Write => Scope::Write,
            ScopeWord::Admin => Scope::Admin,
        }
    }
}

pub(crate) fn run(command: Command, client: &Client, printer: &Printer) -> Result<()> {
    match command {
        Command::List => printer.answer(&client.api_keys()?, render_list),
        Command::Create { name, scopes } => {
            let scopes = (!scopes.is_empty()).then(|| scopes.into_iter().map(ScopeWord::scope).collect());
            let request = CreateApiKey {
                name,
                project_name: None,
                scopes,
            };
            printer.answer(&client.create_api_key(&request)?, |created| {
                created.body.api_key.clone()
            })?;
            printer.note("The key is shown only once.");
            Ok(())
        }
        Command::Delete { id, confirmation } => {
            confirmation.ask(&format!("Delete API key \"{id}\"?"))?;
            printer.answer(&client.delete_api_key(&id)?, message)
        }
    }
}

fn render_list(list: &ApiKeyList) -> String {
    let mut table = Table::new(&["id", "name", "prefix", "scopes", "created (UTC)", "last used (UTC)"]);
    for key in &list.api_keys {
        let scopes: Vec<&str> = key.scopes.iter().map(|scope| scope.as_str()).collect();
        table.row([
            key.id.clone(),
            key.name.clone(),
            key.prefix.clone(),
            scopes.join(","),
            time_text(key.created_at),
            optional_time(key.last_used_at),
        ]);
    }
    table.render_or("no API keys")
}
