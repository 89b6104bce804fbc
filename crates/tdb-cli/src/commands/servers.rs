//! `tdb servers`.

use anyhow::Result;
use clap::{Subcommand, ValueEnum};
use tdb_client::http::Client;
use tdb_client::servers::{RegisterServer, Server, ServerList, ServerTest, TlsMode};

use super::{Confirmation, message, optional, time_text};
use crate::arguments::port;
use crate::password;
use crate::printer::Printer;
use crate::table::{Table, facts};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List database servers
    #[command(after_help = "Example:\n  tdb servers list")]
    List,
    /// Show one database server
    #[command(after_help = "Example:\n  tdb servers get local")]
    Get {
        /// The server's name
        name: String,
    },
    /// Register a database server
    #[command(
        after_help = "Example:\n  tdb servers register --name two --host 10.0.0.6 --admin-user postgres < password-file\n\nThe administrator's password is read from TDB_SERVER_PASSWORD, the terminal or standard input."
    )]
    Register {
        /// The server's name in TenantsDB
        #[arg(long)]
        name: String,
        /// Host name or IP address
        #[arg(long)]
        host: String,
        /// TCP port
        #[arg(long, default_value_t = 5432, value_parser = port)]
        port: u16,
        /// How connections use TLS, as libpq's sslmode
        #[arg(long, default_value = "prefer")]
        tls: TlsWord,
        /// A superuser of the server
        #[arg(long)]
        admin_user: String,
        /// Use names of databases and roles that reveal nothing about tenants
        #[arg(long)]
        opaque_names: bool,
        /// An extension that developers may create, can be repeated; "*" allows all that give no access beyond the database
        #[arg(long = "extension", value_name = "NAME")]
        extensions: Vec<String>,
    },
    /// Check that a server is reachable and suitable
    #[command(after_help = "Example:\n  tdb servers test two")]
    Test {
        /// The server's name
        name: String,
    },
    /// Place no new databases on a server; existing ones stay and continue to work
    #[command(after_help = "Example:\n  tdb servers drain two")]
    Drain {
        /// The server's name
        name: String,
    },
    /// Place new databases on a drained server again
    #[command(after_help = "Example:\n  tdb servers resume two")]
    Resume {
        /// The server's name
        name: String,
    },
    /// Remove a server that has no databases
    #[command(after_help = "Example:\n  tdb servers delete two")]
    Delete {
        /// The server's name
        name: String,
        #[command(flatten)]
        confirmation: Confirmation,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TlsWord {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl TlsWord {
    fn mode(self) -> TlsMode {
        match self {
            TlsWord::Disable => TlsMode::Disable,
            TlsWord::Prefer => TlsMode::Prefer,
            TlsWord::Require => TlsMode::Require,
            TlsWord::VerifyCa => TlsMode::VerifyCa,
            TlsWord::VerifyFull => TlsMode::VerifyFull,
        }
    }
}

pub(crate) fn run(command: Command, client: &Client, printer: &Printer) -> Result<()> {
    match command {
        Command::List => printer.answer(&client.servers()?, render_list),
        Command::Get { name } => printer.answer(&client.server(&name)?, render),
        Command::Register {
            name,
            host,
            port,
            tls,
            admin_user,
            opaque_names,
            extensions,
        } => {
            let what = format!("Password of {admin_user} on {host}");
            let request = RegisterServer {
                name,
                host,
                port: Some(port),
                tls: Some(tls.mode()),
                admin_user,
                admin_password: password::ask("TDB_SERVER_PASSWORD", &what)?,
                opaque_names: Some(opaque_names),
                extensions: Some(extensions),
            };
            printer.answer(&client.register_server(&request)?, |created| render(&created.body))
        }
        Command::Test { name } => printer.answer(&client.test_server(&name)?, render_test),
        Command::Drain { name } => printer.answer(&client.drain_server(&name)?, render),
        Command::Resume { name } => printer.answer(&client.resume_server(&name)?, render),
        Command::Delete { name, confirmation } => {
            confirmation.ask(&format!("Remove server \"{name}\"?"))?;
            printer.answer(&client.delete_server(&name)?, message)
        }
    }
}

fn render_list(list: &ServerList) -> String {
    let mut table = Table::new(&["name", "address", "status", "version", "workspaces", "tenant databases"]);
    for server in &list.servers {
        table.row([
            server.name.clone(),
            format!("{}:{}", server.host, server.port),
            status(server),
            optional(server.version.as_ref()),
            server.workspaces.to_string(),
            server.tenant_databases.to_string(),
        ]);
    }
    table.render_or("no servers")
}

/// Whether new databases are placed on it, and since when it has not answered.
fn status(server: &Server) -> String {
    match server.silent_since {
        Some(since) => format!("{}, no answer since {} UTC", server.status, time_text(since)),
        None => server.status.to_string(),
    }
}

fn render_test(test: &ServerTest) -> String {
    facts(&[
        ("server", test.name.clone()),
        ("version", test.version.clone()),
        (
            "connections",
            format!(
                "{}, {} of them reserved",
                test.max_connections, test.reserved_connections
            ),
        ),
        ("databases", test.databases.to_string()),
        ("took", format!("{} ms", test.took_ms)),
    ])
}

fn render(server: &Server) -> String {
    facts(&[
        ("server", server.name.clone()),
        ("address", format!("{}:{}", server.host, server.port)),
        ("status", status(server)),
        ("tls", server.tls.to_string()),
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
