//! `tdb blueprints`.

use anyhow::Result;
use clap::Subcommand;
use tdb_client::blueprints::{Blueprint, BlueprintList, VersionList};
use tdb_client::http::Client;

use super::workspaces::warn_of_stored;
use super::{author, optional, time_text};
use crate::printer::Printer;
use crate::table::{Table, facts};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List blueprints
    #[command(after_help = "Example:\n  tdb blueprints list")]
    List,
    /// Show a blueprint and the tenants that have it
    #[command(after_help = "Example:\n  tdb blueprints get myapp")]
    Get {
        /// The blueprint's name
        name: String,
    },
    /// List a blueprint's versions
    #[command(after_help = "Example:\n  tdb blueprints versions myapp")]
    Versions {
        /// The blueprint's name
        name: String,
    },
}

pub(crate) fn run(command: Command, client: &Client, printer: &Printer) -> Result<()> {
    match command {
        Command::List => printer.answer(&client.blueprints()?, render_list),
        Command::Get { name } => {
            let blueprint = client.blueprint(&name)?;
            warn_of_stored(printer, blueprint.server_error.as_deref(), blueprint.drained_at);
            printer.answer(&blueprint, render)
        }
        Command::Versions { name } => printer.answer(&client.versions(&name)?, render_versions),
    }
}

fn render_list(list: &BlueprintList) -> String {
    let mut table = Table::new(&["name", "database", "status", "version", "tenants", "changes to deploy"]);
    for blueprint in &list.blueprints {
        table.row([
            blueprint.name.clone(),
            blueprint.database.to_string(),
            blueprint.status.to_string(),
            blueprint.version.to_string(),
            blueprint.deployment_status.deployed_to_count.to_string(),
            blueprint.deployment_status.ready_to_deploy.to_string(),
        ]);
    }
    table.render_or("no blueprints")
}

fn render(blueprint: &Blueprint) -> String {
    let status = &blueprint.deployment_status;
    let mut text = facts(&[
        ("blueprint", blueprint.name.clone()),
        ("database", blueprint.database.to_string()),
        ("status", blueprint.status.to_string()),
        ("version", blueprint.version.to_string()),
        ("created (UTC)", time_text(blueprint.created_at)),
        ("statements", status.total_ddl_statements.to_string()),
        ("changes to deploy", status.ready_to_deploy.to_string()),
        ("tenants", status.deployed_to_count.to_string()),
    ]);
    if !blueprint.deployed_to.is_empty() {
        let mut table = Table::new(&["tenant", "version"]);
        for tenant in &blueprint.deployed_to {
            table.row([tenant.tenant_id.clone(), tenant.version.to_string()]);
        }
        text.push('\n');
        text.push_str(&table.render());
    }
    text
}

fn render_versions(list: &VersionList) -> String {
    let mut table = Table::new(&[
        "version",
        "changes",
        "statements",
        "verified",
        "fingerprint",
        "author",
        "created (UTC)",
    ]);
    for version in &list.versions {
        let verified = match (version.verified, &version.reason) {
            (true, _) => "yes".to_owned(),
            (false, Some(reason)) => format!("no: {reason}"),
            (false, None) => "no".to_owned(),
        };
        let fingerprint = version
            .fingerprint
            .as_ref()
            .map(|hash| hash.chars().take(12).collect::<String>());
        table.row([
            version.version.to_string(),
            version.change_ids.len().to_string(),
            version.statements.to_string(),
            verified,
            optional(fingerprint),
            author(&version.author),
            time_text(version.created_at),
        ]);
    }
    table.render_or("no versions")
}
