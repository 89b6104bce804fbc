//! `tdb workspaces`.

use anyhow::Result;
use clap::{Subcommand, ValueEnum};
use tdb_client::extensions::{CreateExtension, ExtensionList};
use tdb_client::http::Client;
use tdb_client::queries::Query;
use tdb_client::settings::{ChangeSettings, NewTenants, TenantDdl, WorkspaceSettings};
use tdb_client::workspaces::{
    Change, ChangeList, ChangeState, CreateWorkspace, Engine, Revert, Schema, Workspace, WorkspaceList,
};
use time::OffsetDateTime;

use super::query::render_result;
use super::{Confirmation, author, message, time_text};
use crate::arguments::change_number;
use crate::endpoints::as_commands;
use crate::printer::Printer;
use crate::table::{Table, facts, harmless, indented};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List workspaces
    #[command(after_help = "Example:\n  tdb workspaces list")]
    List,
    /// Create a workspace and its blueprint
    #[command(
        after_help = "Example:\n  tdb workspaces create --name myapp\n\nThe connection string contains the password, which is shown only once."
    )]
    Create {
        /// The name of the workspace and of its blueprint
        #[arg(long)]
        name: String,
        /// The database engine
        #[arg(long, default_value = "PostgreSQL", ignore_case = true)]
        database: EngineWord,
    },
    /// Show a workspace
    #[command(after_help = "Example:\n  tdb workspaces get myapp")]
    Get {
        /// The workspace's name
        name: String,
    },
    /// Delete a workspace that has no tenants, and its blueprint
    #[command(after_help = "Example:\n  tdb workspaces delete myapp --yes")]
    Delete {
        /// The workspace's name
        name: String,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Run SQL in a workspace; DDL is captured
    #[command(after_help = "Example:\n  tdb workspaces query myapp --query 'select * from users'")]
    Query {
        /// The workspace's name
        name: String,
        /// One or more statements; the last one's result is shown
        #[arg(long, value_name = "SQL")]
        query: String,
    },
    /// Show a workspace's tables
    #[command(after_help = "Example:\n  tdb workspaces schema myapp")]
    Schema {
        /// The workspace's name
        name: String,
    },
    /// List the changes that at least one tenant lacks
    #[command(after_help = "Example:\n  tdb workspaces diff myapp")]
    Diff {
        /// The workspace's name
        name: String,
    },
    /// Exclude changes from all later versions, so that no tenant gets them
    #[command(after_help = "Example:\n  tdb workspaces diff-skip myapp 3\n  tdb workspaces diff-skip myapp 3 4 7")]
    DiffSkip {
        /// The workspace's name
        name: String,
        /// The numbers of the changes in the diff; all are skipped, or none
        #[arg(required = true, value_name = "NUMBER", value_parser = change_number)]
        numbers: Vec<u32>,
    },
    /// Undo a change in the workspace by the opposite DDL, which is captured too
    #[command(after_help = "Example:\n  tdb workspaces diff-revert myapp 3")]
    DiffRevert {
        /// The workspace's name
        name: String,
        /// The change's number in the diff
        #[arg(value_parser = change_number)]
        number: u32,
    },
    /// List the available extensions, or create one that needs a superuser
    #[command(
        after_help = "Example:\n  tdb workspaces extensions myapp\n  tdb workspaces extensions myapp --create bloom"
    )]
    Extensions {
        /// The workspace's name
        name: String,
        /// The extension to create
        #[arg(long, value_name = "EXTENSION")]
        create: Option<String>,
        /// Its version; by default the server's default version
        #[arg(long, value_name = "VERSION", requires = "create")]
        version: Option<String>,
        /// Its schema; by default its fixed one, else public
        #[arg(long, value_name = "SCHEMA", requires = "create")]
        schema: Option<String>,
    },
    /// Show the settings of a workspace, or change them
    #[command(
        after_help = "Example:\n  tdb workspaces settings myapp\n  tdb workspaces settings myapp --tenant-ddl deny --new-tenants deployed"
    )]
    Settings {
        /// The workspace's name
        name: String,
        /// Whether tenants' users can change the schema of their database
        #[arg(long)]
        tenant_ddl: Option<DdlWord>,
        /// Which version new tenants get: the workspace's present schema, or the newest that a tenant has
        #[arg(long)]
        new_tenants: Option<NewTenantsWord>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DdlWord {
    Allow,
    Deny,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NewTenantsWord {
    Head,
    Deployed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineWord {
    #[value(name = "PostgreSQL", alias = "postgres")]
    PostgreSql,
}

impl DdlWord {
    fn setting(self) -> TenantDdl {
        match self {
            DdlWord::Allow => TenantDdl::Allow,
            DdlWord::Deny => TenantDdl::Deny,
        }
    }
}

impl NewTenantsWord {
    fn setting(self) -> NewTenants {
        match self {
            NewTenantsWord::Head => NewTenants::Head,
            NewTenantsWord::Deployed => NewTenants::Deployed,
        }
    }
}

impl EngineWord {
    pub(crate) fn engine(self) -> Engine {
        match self {
            EngineWord::PostgreSql => Engine::PostgreSql,
        }
    }
}

pub(crate) fn run(command: Command, client: &Client, printer: &Printer) -> Result<()> {
    match command {
        Command::List => printer.answer(&client.workspaces()?, render_list),
        Command::Create { name, database } => create(name, database, client, printer),
        Command::Get { name } => {
            let workspace = client.workspace(&name)?;
            warn_of_stored(printer, workspace.server_error.as_deref(), workspace.drained_at);
            printer.answer(&workspace, render)
        }
        Command::Delete { name, confirmation } => {
            confirmation.ask(&format!("Delete workspace \"{name}\", its data and its blueprint?"))?;
            printer.answer(&client.delete_workspace(&name)?, message)
        }
        Command::Query { name, query } => {
            printer.answer(&client.workspace_query(&name, &Query { query })?, render_result)
        }
        Command::Schema { name } => {
            printer.answer(&client.workspace_schema(&name)?, |answer| render_schema(&answer.schema))
        }
        Command::Diff { name } => diff(&name, client, printer),
        Command::DiffSkip { name, numbers } => match numbers.as_slice() {
            [number] => printer.answer(&client.skip_change(&name, *number)?, render_skipped),
            numbers => printer.answer(&client.skip_changes(&name, numbers)?, |list| {
                list.changes.iter().map(render_skipped).collect::<Vec<_>>().join("\n")
            }),
        },
        Command::DiffRevert { name, number } => printer.answer(&client.revert_change(&name, number)?, render_revert),
        Command::Extensions {
            name,
            create: None,
            version: _,
            schema: _,
        } => printer.answer(&client.extensions(&name)?, render_extensions),
        Command::Extensions {
            name,
            create: Some(extension),
            version,
            schema,
        } => {
            let request = CreateExtension {
                name: extension,
                version,
                schema,
            };
            printer.answer(&client.create_extension(&name, &request)?, render_change)
        }
        Command::Settings {
            name,
            tenant_ddl,
            new_tenants,
        } => {
            let change = ChangeSettings {
                tenant_ddl: tenant_ddl.map(DdlWord::setting),
                new_tenants: new_tenants.map(NewTenantsWord::setting),
            };
            let settings = if change == ChangeSettings::default() {
                client.settings(&name)?
            } else {
                client.change_settings(&name, &change)?
            };
            printer.answer(&settings, render_settings)
        }
    }
}

fn create(name: String, database: EngineWord, client: &Client, printer: &Printer) -> Result<()> {
    let request = CreateWorkspace {
        name,
        database: database.engine().as_str().to_owned(),
    };
    let workspace = client.create_workspace(&request)?;
    printer.answer(&workspace, |created| render(&created.body))?;
    printer.note(&format!(
        "The password is shown only once. Create the schema with any client, or with \"tdb psql {}_dev\".",
        workspace.body.name
    ));
    Ok(())
}

fn diff(name: &str, client: &Client, printer: &Printer) -> Result<()> {
    let diff = client.workspace_diff(name)?;
    warn_of_stored(printer, diff.server_error.as_deref(), diff.drained_at);
    printer.answer(&diff, |diff| render_diff(&diff.list))?;
    // The repair is the same for all broken changes.
    let mut changes = diff.list.changes.iter();
    if let Some(repair) = changes.find_map(|change| change.repair.as_deref()) {
        printer.note(&harmless(&as_commands(repair)));
    }
    Ok(())
}

/// Warns that the answer is from stored data if the database server could not be queried.
pub(crate) fn warn_of_stored(printer: &Printer, server_error: Option<&str>, drained_at: Option<OffsetDateTime>) {
    let Some(error) = server_error else { return };
    let since = drained_at.map_or("of the last seconds".to_owned(), |at| {
        format!("since {} UTC", time_text(at))
    });
    printer.warn(&harmless(&format!("{error}; changes {since} may be missing")));
}

fn render_skipped(change: &Change) -> String {
    format!("change {} is {}", change.ddl_id, change.state)
}

fn render_list(list: &WorkspaceList) -> String {
    let mut table = Table::new(&[
        "name",
        "database",
        "status",
        "version",
        "undeployed changes",
        "created (UTC)",
    ]);
    for workspace in &list.workspaces {
        table.row([
            workspace.name.clone(),
            workspace.database.to_string(),
            workspace.status.to_string(),
            workspace.version.to_string(),
            workspace.undeployed_changes.to_string(),
            time_text(workspace.created_at),
        ]);
    }
    table.render_or("no workspaces")
}

fn render(workspace: &Workspace) -> String {
    let mut lines = vec![
        ("workspace", workspace.name.clone()),
        ("database", workspace.database.to_string()),
        ("status", workspace.status.to_string()),
        ("version", workspace.version.to_string()),
        ("undeployed changes", workspace.undeployed_changes.to_string()),
        ("created (UTC)", time_text(workspace.created_at)),
        ("connection", workspace.connection_string.clone()),
    ];
    if let Some(schema) = &workspace.schema {
        lines.push(("tables", schema.data.table_count.to_string()));
    }
    if let Some(error) = &workspace.last_error {
        lines.push(("last error", error.clone()));
    }
    facts(&lines)
}

fn render_revert(revert: &Revert) -> String {
    let (change, inverse) = (&revert.change, &revert.inverse);
    let mut text = match inverse.state {
        ChangeState::Reverted => format!(
            "change {} is undone by change {}; no tenant gets either\n",
            change.ddl_id, inverse.ddl_id
        ),
        _ => format!(
            "change {} is undone in the workspace by change {}; deploy it to the tenants\n",
            change.ddl_id, inverse.ddl_id
        ),
    };
    for statement in &inverse.statements {
        text.push_str(&indented(statement, "     "));
    }
    text
}

fn render_extensions(list: &ExtensionList) -> String {
    let mut table = Table::new(&["extension", "default version", "installed", "schema"]);
    for extension in &list.extensions {
        table.row([
            extension.name.clone(),
            extension.default_version.clone(),
            extension.installed_version.clone().unwrap_or_default(),
            extension.schema.clone().unwrap_or_default(),
        ]);
    }
    table.render_or("the server offers no extensions")
}

fn render_settings(settings: &WorkspaceSettings) -> String {
    let applied = &settings.applied;
    let reached = applied.total_tenants.saturating_sub(applied.waiting_tenants);
    let mut text = facts(&[
        ("workspace", settings.workspace.clone()),
        ("tenant_ddl", settings.tenant_ddl.to_string()),
        ("new_tenants", settings.new_tenants.to_string()),
        ("applied to", format!("{reached} of {} tenants", applied.total_tenants)),
    ]);
    if !applied.waiting.is_empty() {
        let mut table = Table::new(&["waiting tenant", "attempts", "last error"]);
        for tenant in &applied.waiting {
            let error = tenant.error.clone().unwrap_or_default();
            table.row([tenant.tenant_id.clone(), tenant.attempts.to_string(), error]);
        }
        text.push('\n');
        text.push_str(&table.render());
    }
    text
}

pub(crate) fn render_schema(schema: &Schema) -> String {
    let mut text = String::new();
    for table in &schema.data.tables {
        text.push_str(&format!("{}\n", harmless(&table.name)));
        let mut columns = Table::new(&["  column", "type", "nullable", "default"]);
        for column in &table.columns {
            let nullable = if column.nullable { "yes" } else { "no" };
            columns.row([
                format!("  {}", column.name),
                column.data_type.clone(),
                nullable.to_owned(),
                column.default.clone().unwrap_or_default(),
            ]);
        }
        text.push_str(&columns.render());
        for part in &table.indexes {
            text.push_str(&format!(
                "  index {}: {}\n",
                harmless(&part.name),
                harmless(&part.definition)
            ));
        }
        for part in &table.constraints {
            text.push_str(&format!(
                "  constraint {}: {}\n",
                harmless(&part.name),
                harmless(&part.definition)
            ));
        }
        text.push('\n');
    }
    if text.is_empty() { "no tables".to_owned() } else { text }
}

fn render_diff(list: &ChangeList) -> String {
    if list.changes.is_empty() {
        "no pending changes".to_owned()
    } else {
        list.changes.iter().map(render_change).collect()
    }
}

fn render_change(change: &Change) -> String {
    let tags = if change.command_tags.is_empty() {
        "change".to_owned()
    } else {
        change.command_tags.join(", ")
    };
    let state = match change.state {
        ChangeState::Pending => String::new(),
        other => format!(" [{other}]"),
    };
    let head = format!(
        "{}. {tags}{state}  {} UTC by {}",
        change.ddl_id,
        time_text(change.created_at),
        author(&change.author)
    );
    let mut text = format!("{}\n", harmless(&head));
    for statement in &change.statements {
        text.push_str(&indented(statement, "     "));
    }
    if let Some(reason) = &change.reason {
        text.push_str(&indented(reason, "     broken: "));
    }
    for statement in &change.left_out {
        text.push_str(&indented(statement, "     left out: "));
    }
    text
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    fn change(ddl_id: u32, state: ChangeState, reason: Option<&str>) -> Change {
        Change {
            ddl_id,
            version: None,
            statements: vec!["CREATE TABLE t (\n\tid int)".to_owned()],
            command_tags: vec!["CREATE TABLE".to_owned()],
            objects: vec!["public.t".to_owned()],
            author: "myapp_abc234".to_owned(),
            created_at: OffsetDateTime::UNIX_EPOCH,
            left_out: vec!["UPDATE t SET id = 1".to_owned()],
            state,
            reason: reason.map(str::to_owned),
            repair: None,
            reverts: None,
        }
    }

    #[test]
    fn the_diff_is_a_numbered_list_with_statements_and_reasons() {
        let changes = vec![
            change(1, ChangeState::Pending, None),
            change(2, ChangeState::Broken, Some("no text")),
        ];
        let list = ChangeList::page(changes, None);
        let expected = "\
1. CREATE TABLE  1970-01-01 00:00:00 UTC by myapp_abc234
     CREATE TABLE t (
         id int)
     left out: UPDATE t SET id = 1
2. CREATE TABLE [broken]  1970-01-01 00:00:00 UTC by myapp_abc234
     CREATE TABLE t (
         id int)
     broken: no text
     left out: UPDATE t SET id = 1
";
        assert_eq!(render_diff(&list), expected);
        assert_eq!(render_diff(&ChangeList::page(Vec::new(), None)), "no pending changes");
    }
}
