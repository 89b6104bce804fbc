//! `tdb tenants`.

use anyhow::Result;
use clap::Subcommand;
use tdb_client::http::{Client, Deletion};
use tdb_client::tenants::{CreateTenant, CreateTenantDatabase, Tenant, TenantList, TenantStatus};
use tdb_client::versions::VersionNumber;

use super::deployments::render_jobs;
use super::{Confirmation, optional, time_text};
use crate::printer::Printer;
use crate::table::{Table, facts};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List tenants
    #[command(after_help = "Example:\n  tdb tenants list")]
    List,
    /// Create a tenant, or a further blueprint's database for one that exists
    #[command(
        after_help = "Example:\n  tdb tenants create --name acme --blueprint myapp\n\nThe connection string has the password, which is shown this once."
    )]
    Create {
        /// The tenant's name
        #[arg(long)]
        name: String,
        /// What its database is made from
        #[arg(long)]
        blueprint: String,
        /// A version of the blueprint; by default its present schema
        #[arg(long, value_name = "N")]
        version: Option<VersionNumber>,
        /// 1: pooled with other tenants
        #[arg(long, value_name = "LEVEL", default_value_t = 1, value_parser = isolation_level)]
        isolation: u32,
    },
    /// Show one tenant
    #[command(after_help = "Example:\n  tdb tenants get acme")]
    Get {
        /// The tenant's name
        name: String,
    },
    /// Delete a tenant: softly, which "restore" undoes, or for good
    #[command(after_help = "Example:\n  tdb tenants delete acme\n  tdb tenants delete acme --hard --yes")]
    Delete {
        /// The tenant's name
        name: String,
        /// Drop its databases, roles and credentials
        #[arg(long)]
        hard: bool,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Refuse a tenant's clients and end its sessions
    #[command(after_help = "Example:\n  tdb tenants suspend acme")]
    Suspend {
        /// The tenant's name
        name: String,
    },
    /// Let a suspended tenant's clients in again
    #[command(after_help = "Example:\n  tdb tenants resume acme")]
    Resume {
        /// The tenant's name
        name: String,
    },
    /// Bring a softly deleted tenant back
    #[command(after_help = "Example:\n  tdb tenants restore acme")]
    Restore {
        /// The tenant's name
        name: String,
    },
    /// List deployments that had the tenant as a target
    #[command(after_help = "Example:\n  tdb tenants deployments acme")]
    Deployments {
        /// The tenant's name
        name: String,
    },
}

pub fn run(command: Command, client: &Client, printer: &Printer) -> Result<()> {
    match command {
        Command::List => printer.answer(&client.tenants()?, render_list),
        Command::Create {
            name,
            blueprint,
            version,
            isolation,
        } => {
            let database = CreateTenantDatabase {
                blueprint,
                isolation_level: Some(isolation),
                version,
            };
            create(
                &CreateTenant {
                    tenant_id: name,
                    databases: vec![database],
                },
                client,
                printer,
            )
        }
        Command::Get { name } => printer.answer(&client.tenant(&name)?, render),
        Command::Delete {
            name,
            hard,
            confirmation,
        } => delete(&name, hard, confirmation, client, printer),
        Command::Suspend { name } => printer.answer(&client.suspend_tenant(&name)?, render_status),
        Command::Resume { name } => printer.answer(&client.resume_tenant(&name)?, render_status),
        Command::Restore { name } => printer.answer(&client.restore_tenant(&name)?, render_status),
        Command::Deployments { name } => {
            printer.answer(&client.tenant_deployments(&name)?, |list| render_jobs(&list.jobs))
        }
    }
}

fn isolation_level(text: &str) -> Result<u32, String> {
    match text {
        "1" => Ok(1),
        _ => Err("the only level is 1, pooled with other tenants".to_owned()),
    }
}

fn create(request: &CreateTenant, client: &Client, printer: &Printer) -> Result<()> {
    let created = client.create_tenant(request)?;
    printer.answer(&created, |created| render(&created.body))?;
    let tenant = created.body;
    for warning in &tenant.warnings {
        printer.warn(warning);
    }
    match tenant.databases.first() {
        Some(database) => printer.note(&format!(
            "The password is shown this once; \"tdb psql {}\" needs none.",
            database.connection.database
        )),
        None => printer.note("The password is shown this once."),
    }
    if tenant.status == TenantStatus::Provisioning {
        printer.note(&format!(
            "It is still being made; \"tdb tenants get {}\" shows how far it is.",
            tenant.tenant_id
        ));
    }
    Ok(())
}

fn delete(name: &str, hard: bool, confirmation: Confirmation, client: &Client, printer: &Printer) -> Result<()> {
    let deletion = match hard {
        true => {
            confirmation.demand(&format!("Drop all databases of tenant \"{name}\"?"))?;
            Deletion::Hard
        }
        false => Deletion::Soft,
    };
    printer.answer(&client.delete_tenant(name, deletion)?, |deleted| {
        deleted.message.clone()
    })
}

fn render_list(list: &TenantList) -> String {
    let mut table = Table::new(&[
        "tenant",
        "status",
        "environment",
        "blueprint",
        "version",
        "server",
        "created (UTC)",
    ]);
    for tenant in &list.tenants {
        let blueprints: Vec<&str> = tenant
            .databases
            .iter()
            .map(|database| database.blueprint.as_str())
            .collect();
        let versions: Vec<String> = tenant
            .databases
            .iter()
            .map(|database| optional(database.version))
            .collect();
        let mut servers: Vec<&str> = tenant
            .databases
            .iter()
            .map(|database| database.server.as_str())
            .collect();
        servers.dedup();
        table.row([
            tenant.tenant_id.clone(),
            tenant.status.to_string(),
            tenant.environment.clone(),
            blueprints.join(","),
            versions.join(","),
            servers.join(","),
            time_text(tenant.created_at),
        ]);
    }
    table.render_or("no tenants")
}

fn render_status(tenant: &Tenant) -> String {
    format!("tenant \"{}\" is {}", tenant.tenant_id, tenant.status)
}

fn render(tenant: &Tenant) -> String {
    let mut lines = vec![
        ("tenant", tenant.tenant_id.clone()),
        ("status", tenant.status.to_string()),
        ("environment", tenant.environment.clone()),
        ("created (UTC)", time_text(tenant.created_at)),
    ];
    for database in &tenant.databases {
        let version = optional(database.version);
        let place = format!(
            "{} version {version} on {} ({})",
            database.blueprint, database.server, database.status
        );
        lines.push(("database", place));
        lines.push(("connection", database.connection.connection_string.clone()));
        if let Some(error) = &database.last_error {
            lines.push(("last error", error.clone()));
        }
    }
    facts(&lines)
}
