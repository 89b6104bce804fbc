//! `tdb roles`.

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use tdb_client::http::Client;
use tdb_client::roles::{CreateRole, RoleList};

use super::{Confirmation, message, time_text};
use crate::printer::Printer;
use crate::table::Table;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the roles that a project declares
    #[command(after_help = "Example:\n  tdb roles list")]
    List {
        #[command(flatten)]
        of: OfProject,
    },
    /// Declare a role without login, such as anon: schemas can grant to it, and clients can SET ROLE to it
    #[command(
        after_help = "Example:\n  tdb roles create anon\n  tdb roles create authenticated --project \"Second shop\"\n\nDeclare it before the schema names it."
    )]
    Create {
        /// The role's name, also on the database servers
        name: String,
        #[command(flatten)]
        of: OfProject,
    },
    /// Delete a declared role that no change and no database uses
    #[command(after_help = "Example:\n  tdb roles delete anon")]
    Delete {
        /// The role's name, as in the list
        name: String,
        #[command(flatten)]
        of: OfProject,
        #[command(flatten)]
        confirmation: Confirmation,
    },
}

#[derive(Args, Clone, Debug)]
pub(crate) struct OfProject {
    /// The project's name or id; by default the API key's project
    #[arg(long)]
    project: Option<String>,
}

impl OfProject {
    fn id(self, client: &Client) -> Result<String> {
        if let Some(project) = self.project {
            return Ok(project);
        }
        // The list has the key that asks at least.
        let keys = client.api_keys()?.api_keys;
        let own = keys.into_iter().next().context("the API key's project is not known")?;
        Ok(own.project_id)
    }
}

pub(crate) fn run(command: Command, client: &Client, printer: &Printer) -> Result<()> {
    match command {
        Command::List { of } => {
            let list = client.roles(&of.id(client)?)?;
            printer.answer(&list, render_list)?;
            let warnings = list.roles.iter().flat_map(|role| &role.warnings);
            warnings.for_each(|warning| printer.note(warning));
            Ok(())
        }
        Command::Create { name, of } => {
            let created = client.create_role(&of.id(client)?, &CreateRole { name })?;
            printer.answer(&created, |created| created.message.clone())?;
            for warning in &created.body.warnings {
                printer.note(warning);
            }
            Ok(())
        }
        Command::Delete { name, of, confirmation } => {
            confirmation.ask(&format!("Delete the declared role \"{name}\"?"))?;
            printer.answer(&client.delete_role(&of.id(client)?, &name)?, message)
        }
    }
}

fn render_list(list: &RoleList) -> String {
    let mut table = Table::new(&["name", "created (UTC)"]);
    for role in &list.roles {
        table.row([role.name.clone(), time_text(role.created_at)]);
    }
    table.render_or("no roles")
}
