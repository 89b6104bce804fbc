//! `tdb query`: runs SQL in the databases of one tenant or of all tenants.

use anyhow::Result;
use serde_json::Value;
use tdb_client::http::Client;
use tdb_client::queries::{AdminQuery, AdminQueryResults, QueryResult, TenantOutcome};

use super::workspaces::EngineWord;
use super::{Outcome, counted};
use crate::printer::Printer;
use crate::table::{Table, harmless};

/// Commands whose tag contains a number of rows.
const ROW_COMMANDS: [&str; 5] = ["INSERT", "UPDATE", "DELETE", "MERGE", "COPY"];

#[derive(Debug, clap::Args)]
#[command(
    group(clap::ArgGroup::new("which").required(true).args(["all", "tenant"])),
    after_help = "Example:\n  tdb query --blueprint myapp --all --query 'select count(*) from users'"
)]
pub(crate) struct Query {
    /// The blueprint whose databases are queried
    #[arg(long)]
    blueprint: String,
    /// One tenant
    #[arg(long)]
    tenant: Option<String>,
    /// All tenants of the blueprint
    #[arg(long)]
    all: bool,
    /// One or more statements; the last one's result is shown
    #[arg(long, value_name = "SQL")]
    query: String,
    /// The engine of the blueprint's databases
    #[arg(long = "type", value_name = "ENGINE", ignore_case = true)]
    engine: Option<EngineWord>,
}

pub(crate) fn run(query: Query, client: &Client, printer: &Printer) -> Result<Outcome> {
    let request = AdminQuery {
        blueprint: query.blueprint,
        tenant_id: query.tenant,
        all_tenants: query.all,
        query: query.query,
        database_type: query.engine.map(|engine| engine.engine().as_str().to_owned()),
    };
    let answer = client.admin_query(&request)?;
    printer.answer(&answer, render)?;
    let failed = answer
        .results
        .iter()
        .filter(|result| matches!(result.outcome, TenantOutcome::Failed { .. }))
        .count();
    if failed == 0 {
        return Ok(Outcome::Fine);
    }
    printer.note(&format!("{failed} of {} tenants failed", answer.results.len()));
    Ok(Outcome::Failed)
}

fn render(answer: &AdminQueryResults) -> String {
    let mut text = String::new();
    for result in &answer.results {
        text.push_str(&format!("-- {}\n", result.tenant_id));
        match &result.outcome {
            TenantOutcome::Answered(rows) => text.push_str(&render_result(rows)),
            TenantOutcome::Failed { error } => {
                text.push_str(&format!(
                    "error: {} (SQLSTATE {})\n",
                    harmless(&error.message),
                    harmless(&error.sqlstate)
                ));
            }
        }
        text.push('\n');
    }
    if text.is_empty() { "no tenants".to_owned() } else { text }
}

pub(crate) fn render_result(result: &QueryResult) -> String {
    if result.columns.is_empty() {
        return if ROW_COMMANDS.contains(&result.command.as_str()) {
            format!("{}, {}\n", result.command, counted(result.row_count, "row"))
        } else {
            format!("{}\n", result.command)
        };
    }
    let mut table = Table::of_columns(result.columns.iter().map(|column| column.name.clone()));
    for row in &result.rows {
        table.row(row.iter().map(cell));
    }
    let shown = counted(result.rows.len() as u64, "row");
    let tail = if result.truncated {
        format!("({shown} shown, there are more)")
    } else {
        format!("({shown})")
    };
    format!("{}{tail}\n", table.render())
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;
    use tdb_client::queries::{QueryError, ResultColumn, TenantResult};

    use super::*;

    #[test]
    fn each_tenants_result_or_error_is_shown() {
        let answered = QueryResult {
            columns: vec![ResultColumn {
                name: "count".to_owned(),
                data_type: "int8".to_owned(),
            }],
            rows: vec![vec![Value::String("2".to_owned())], vec![Value::Null]],
            row_count: 2,
            command: "SELECT 2".to_owned(),
            truncated: true,
        };
        let failed = TenantOutcome::Failed {
            error: QueryError {
                sqlstate: "22012".to_owned(),
                message: "division by zero".to_owned(),
            },
        };
        let results = vec![
            TenantResult {
                tenant_id: "acme".to_owned(),
                outcome: TenantOutcome::Answered(answered),
            },
            TenantResult {
                tenant_id: "globex".to_owned(),
                outcome: failed,
            },
        ];
        let expected = "\
-- acme
count
2
NULL
(2 rows shown, there are more)

-- globex
error: division by zero (SQLSTATE 22012)

";
        let answer = AdminQueryResults { results };
        assert_eq!(strip_str(&render(&answer)).to_string(), expected);
        let json = serde_json::to_string(&answer).unwrap();
        assert_eq!(
            serde_json::from_str::<AdminQueryResults>(&json).unwrap(),
            answer,
            "{json}"
        );
    }
}
