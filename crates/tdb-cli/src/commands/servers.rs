//! `tdb servers`.

use anyhow::Result;
use clap::Subcommand;
use tdb_client::http::Client;
use tdb_client::servers::{Server, ServerList};

use super::{optional, time_text};
use crate::printer::Printer;
use crate::table::{Table, facts};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List database servers
    #[command(after_help = "Example:\n  tdb servers list")]
    List,
    /// Show one database server
    #[command(after_help = "Example:\n  tdb servers get local")]
    Get { name: String },
}

pub fn run(command: Command, client: &Client, printer: &Printer) -> Result<()> {
    match command {
        Command::List => printer.answer(&client.servers()?, render_list),
        Command::Get { name } => printer.answer(&client.server(&name)?, render),
    }
}

fn render_list(list: &ServerList) -> String {
    let mut table = Table::new(&["name", "address", "version", "workspaces", "tenant databases"]);
    for server in &list.servers {
        table.row([
            server.name.clone(),
            format!("{}:{}", server.host, server.port),
            optional(server.version.as_ref()),
            server.workspaces.to_string(),
            server.tenant_databases.to_string(),
        ]);
    }
    table.render_or("no servers")
}

fn render(server: &Server) -> String {
    facts(&[
        ("server", server.name.clone()),
        ("address", format!("{}:{}", server.host, server.port)),
        ("version", optional(server.version.as_ref())),
        (
            "opaque names",
            if server.opaque_names { "yes" } else { "no" }.to_owned(),
        ),
        ("workspaces", server.workspaces.to_string()),
        ("tenant databases", server.tenant_databases.to_string()),
        ("created (UTC)", time_text(server.created_at)),
    ])
}
