//! `tdb tenants`.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use tdb_client::http::{Client, Deletion};
use tdb_client::limits::{LIMIT_MAX, PoolMode, QUEUE_TIMEOUT_MAX, SetTenantLimits, TenantLimits};
use tdb_client::tenants::{CreateTenant, CreateTenantDatabase, Tenant, TenantList, TenantStatus};
use tdb_client::versions::VersionNumber;

use super::deployments::render_jobs;
use super::{Confirmation, optional, time_text};
use crate::printer::Printer;
use crate::table::{Table, facts};

/// How long to wait for a tenant that the API is still creating, and how often to ask.
const CREATION_TIME_MAX: Duration = Duration::from_secs(120);
const CREATION_POLL: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List tenants
    #[command(after_help = "Example:\n  tdb tenants list")]
    List,
    /// Create a tenant, or add a database of another blueprint to an existing one
    #[command(
        after_help = "Example:\n  tdb tenants create --name acme --blueprint myapp\n\nThe connection string contains the password, which is shown only once."
    )]
    Create {
        /// The tenant's name
        #[arg(long)]
        name: String,
        /// The blueprint that its database is created from
        #[arg(long)]
        blueprint: String,
        /// A version of the blueprint; by default its present schema
        #[arg(long, value_name = "N")]
        version: Option<VersionNumber>,
        /// 1: a separate database, on a server with databases of other tenants
        #[arg(long, value_name = "LEVEL", default_value_t = 1, value_parser = isolation_level)]
        isolation: u32,
    },
    /// Show one tenant
    #[command(after_help = "Example:\n  tdb tenants get acme")]
    Get {
        /// The tenant's name
        name: String,
    },
    /// Delete a tenant so that it can be restored, or permanently with --hard
    #[command(after_help = "Example:\n  tdb tenants delete acme\n  tdb tenants delete acme --hard --yes")]
    Delete {
        /// The tenant's name
        name: String,
        /// Drop its databases, roles and credentials permanently
        #[arg(long)]
        hard: bool,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Refuse a tenant's clients, and end their sessions
    #[command(after_help = "Example:\n  tdb tenants suspend acme")]
    Suspend {
        /// The tenant's name
        name: String,
    },
    /// Accept the clients of a suspended tenant again
    #[command(after_help = "Example:\n  tdb tenants resume acme")]
    Resume {
        /// The tenant's name
        name: String,
    },
    /// Restore a tenant that was deleted without --hard
    #[command(after_help = "Example:\n  tdb tenants restore acme")]
    Restore {
        /// The tenant's name
        name: String,
    },
    /// Show what a tenant's clients may use in a proxy, or change it
    #[command(
        after_help = "Example:\n  tdb tenants limits acme\n  tdb tenants limits acme --pool-mode auto --server-connections-max 5\n  tdb tenants limits acme --clients-max default"
    )]
    Limits {
        /// The tenant's name
        name: String,
        #[command(flatten)]
        given: GivenLimits,
    },
    /// List the deployments that included a tenant
    #[command(after_help = "Example:\n  tdb tenants deployments acme")]
    Deployments {
        /// The tenant's name
        name: String,
    },
}

/// The limits to change; the others stay as they are.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct GivenLimits {
    /// Whether clients share server connections: auto, session, or default (as the proxy's configuration says)
    #[arg(long, value_name = "MODE", value_parser = pool_mode)]
    pool_mode: Option<Given<PoolMode>>,
    /// How many clients can be connected to each of its databases, or default
    #[arg(long, value_name = "N", value_parser = limit)]
    clients_max: Option<Given<u32>>,
    /// How many server connections the clients of each of its databases share, or default
    #[arg(long, value_name = "N", value_parser = limit)]
    server_connections_max: Option<Given<u32>>,
    /// How long a client waits for a shared server connection, or default
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    queue_timeout: Option<Given<u32>>,
}

/// A value of an option that can also be "default".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Given<T> {
    Default,
    Value(T),
}

impl<T> Given<T> {
    /// The new value; `None` for the default. `present` if the option is absent.
    fn or(given: Option<Self>, present: Option<T>) -> Option<T> {
        match given {
            None => present,
            Some(Given::Default) => None,
            Some(Given::Value(value)) => Some(value),
        }
    }
}

pub(crate) fn run(command: Command, client: &Client, printer: &Printer) -> Result<()> {
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
        Command::Limits { name, given } => printer.answer(&limits(&name, given, client)?, render_limits),
        Command::Deployments { name } => {
            printer.answer(&client.tenant_deployments(&name)?, |list| render_jobs(&list.jobs))
        }
    }
}

fn pool_mode(text: &str) -> Result<Given<PoolMode>, String> {
    let mode = PoolMode::ALL.iter().find(|mode| mode.as_str() == text);
    match (text, mode) {
        ("default", _) => Ok(Given::Default),
        (_, Some(mode)) => Ok(Given::Value(*mode)),
        (_, None) => Err("must be auto, session or default".to_owned()),
    }
}

fn limit(text: &str) -> Result<Given<u32>, String> {
    number_or_default(text, LIMIT_MAX)
}

fn seconds(text: &str) -> Result<Given<u32>, String> {
    number_or_default(text, QUEUE_TIMEOUT_MAX)
}

fn number_or_default(text: &str, max: u32) -> Result<Given<u32>, String> {
    if text == "default" {
        return Ok(Given::Default);
    }
    let number = text.parse().ok().filter(|number| (1..=max).contains(number));
    number
        .map(Given::Value)
        .ok_or_else(|| format!("must be a whole number from 1 to {max}, or default"))
}

/// The limits of a tenant, after those that are given have been changed.
fn limits(name: &str, given: GivenLimits, client: &Client) -> Result<TenantLimits> {
    let present = client.tenant_limits(name)?;
    let unchanged = SetTenantLimits {
        pool_mode: present.pool_mode,
        clients_max: present.clients_max,
        server_connections_max: present.server_connections_max,
        queue_timeout: present.queue_timeout,
    };
    let new = SetTenantLimits {
        pool_mode: Given::or(given.pool_mode, unchanged.pool_mode),
        clients_max: Given::or(given.clients_max, unchanged.clients_max),
        server_connections_max: Given::or(given.server_connections_max, unchanged.server_connections_max),
        queue_timeout: Given::or(given.queue_timeout, unchanged.queue_timeout),
    };
    if new == unchanged {
        return Ok(present);
    }
    Ok(client.set_tenant_limits(name, &new)?)
}

fn isolation_level(text: &str) -> Result<u32, String> {
    match text {
        "1" => Ok(1),
        _ => Err("the only supported level is 1".to_owned()),
    }
}

fn create(request: &CreateTenant, client: &Client, printer: &Printer) -> Result<()> {
    let created = client.create_tenant(request)?;
    printer.answer(&created, |created| render(&created.body))?;
    let tenant = created.body;
    for warning in &tenant.warnings {
        printer.warn(warning);
    }
    note_password(request, &tenant, printer);
    match created_in_time(tenant, client, printer)?.status {
        TenantStatus::Provisioning => printer.note(&format!(
            "The tenant is still being created; \"tdb tenants get {}\" shows its status.",
            request.tenant_id
        )),
        TenantStatus::Ready
        | TenantStatus::Suspended
        | TenantStatus::Migrating
        | TenantStatus::Deleted
        | TenantStatus::Error => {}
    }
    Ok(())
}

/// Only a new tenant has a new password; an existing one got a further database.
fn note_password(request: &CreateTenant, tenant: &Tenant, printer: &Printer) {
    let asked = |blueprint: &str| request.databases.iter().any(|one| one.blueprint == blueprint);
    let Some(database) = tenant.databases.iter().find(|one| asked(&one.blueprint)) else {
        return;
    };
    let (name, url) = (&database.connection.database, &database.connection.connection_string);
    let login = url.split_once("://").and_then(|(_, rest)| rest.split_once('@'));
    let fact = match login {
        Some((login, _)) if login.contains(':') => "The password is shown only once.",
        Some(_) | None => "The tenant keeps its password.",
    };
    printer.note(&format!("{fact} \"tdb psql {name}\" does not need it."));
}

/// Waits while the tenant is being created. An error with the reason if it cannot be created.
fn created_in_time(mut tenant: Tenant, client: &Client, printer: &Printer) -> Result<Tenant> {
    let begun = Instant::now();
    while tenant.status == TenantStatus::Provisioning && begun.elapsed() < CREATION_TIME_MAX {
        sleep(CREATION_POLL);
        tenant = client.tenant(&tenant.tenant_id)?;
    }
    if tenant.status != TenantStatus::Error {
        return Ok(tenant);
    }
    let name = &tenant.tenant_id;
    printer.note(&format!(
        "The tenant is created when the cause is fixed; \"tdb tenants delete {name} --hard --yes\" removes it."
    ));
    let mut reasons = tenant
        .databases
        .iter()
        .filter_map(|database| database.last_error.as_deref());
    bail!(
        "tenant \"{name}\" could not be created: {}",
        reasons.next().unwrap_or("the reason is not recorded")
    )
}

fn delete(name: &str, hard: bool, confirmation: Confirmation, client: &Client, printer: &Printer) -> Result<()> {
    let deletion = if hard {
        confirmation.demand(&format!("Drop all databases of tenant \"{name}\" permanently?"))?;
        Deletion::Hard
    } else {
        Deletion::Soft
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

fn render_limits(limits: &TenantLimits) -> String {
    let shown = |limit: Option<String>| limit.unwrap_or_else(|| "default".to_owned());
    let number = |limit: Option<u32>| shown(limit.map(|limit| limit.to_string()));
    let timeout = limits.queue_timeout.map(|seconds| format!("{seconds} s"));
    facts(&[
        ("tenant", limits.tenant_id.clone()),
        ("pool_mode", shown(limits.pool_mode.map(|mode| mode.to_string()))),
        ("clients_max", number(limits.clients_max)),
        ("server_connections_max", number(limits.server_connections_max)),
        ("queue_timeout", shown(timeout)),
    ])
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
