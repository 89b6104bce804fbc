//! `tdb projects`.

use anyhow::Result;
use clap::Subcommand;
use tdb_client::accounts::{CreateProject, CreatedProject, ProjectList};
use tdb_client::http::Client;

use super::{Confirmation, message, time_text};
use crate::printer::Printer;
use crate::table::{Table, facts};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List projects
    #[command(after_help = "Example:\n  tdb projects list")]
    List,
    /// Create a project, with its first API key and its database credential
    #[command(after_help = "Example:\n  tdb projects create --name \"Second shop\"")]
    Create {
        /// The project's name
        #[arg(long)]
        name: String,
    },
    /// Delete a project that has no workspaces and no tenants
    #[command(after_help = "Example:\n  tdb projects delete prj_abcdefgh27")]
    Delete {
        /// The project's name or id, as in the list
        id: String,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Set a new password for the project's database credential; the old one stops working
    #[command(after_help = "Example:\n  tdb projects rotate-credential prj_abcdefgh27")]
    RotateCredential {
        /// The project's name or id, as in the list
        id: String,
    },
}

pub(crate) fn run(command: Command, client: &Client, printer: &Printer) -> Result<()> {
    match command {
        Command::List => printer.answer(&client.projects()?, render_list),
        Command::Create { name } => {
            printer.answer(&client.create_project(&CreateProject { name })?, |created| {
                render_created(&created.body)
            })?;
            printer.note(
                "The key and the password are shown only once. Append the name of a database, such as /myapp__acme.",
            );
            Ok(())
        }
        Command::Delete { id, confirmation } => {
            confirmation.ask(&format!("Delete project \"{id}\"?"))?;
            printer.answer(&client.delete_project(&id)?, message)
        }
        Command::RotateCredential { id } => {
            printer.answer(&client.rotate_project_credential(&id)?, |rotated| {
                rotated.connection_string.clone()
            })?;
            printer.note("The password is shown only once. Append the name of a database, such as /myapp__acme.");
            Ok(())
        }
    }
}

fn render_list(list: &ProjectList) -> String {
    let mut table = Table::new(&["id", "name", "created (UTC)"]);
    for project in &list.projects {
        table.row([project.id.clone(), project.name.clone(), time_text(project.created_at)]);
    }
    table.render_or("no projects")
}

fn render_created(created: &CreatedProject) -> String {
    facts(&[
        ("project", created.project.id.clone()),
        ("name", created.project.name.clone()),
        ("api key", created.api_key.clone()),
        ("connection", created.connection_string.clone()),
    ])
}
