//! `tdb drift`.

use anyhow::Result;
use tdb_client::drift::Difference;
use tdb_client::http::Client;

use crate::printer::Printer;
use crate::table::harmless;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  tdb drift --blueprint myapp")]
pub struct Drift {
    /// Only this blueprint
    #[arg(long)]
    blueprint: Option<String>,
}

pub fn run(drift: Drift, client: &Client, printer: &Printer) -> Result<()> {
    let answer = client.drift(drift.blueprint.as_deref())?;
    printer.answer(&answer, render)?;
    for unchecked in &answer.unchecked {
        printer.note(&format!("not checked: {}: {}", unchecked.tenant_id, unchecked.reason));
    }
    Ok(())
}

fn render(drift: &tdb_client::drift::Drift) -> String {
    let mut text = String::new();
    for workspace in &drift.workspaces {
        let head = format!("workspace {}: differs from what its changes give", workspace.workspace);
        text.push_str(&section(&head, &workspace.differences));
    }
    for tenant in &drift.tenants {
        let head = format!("{}: {} version {}", tenant.tenant_id, tenant.blueprint, tenant.version);
        text.push_str(&section(&head, &tenant.differences));
    }
    if text.is_empty() {
        text.push_str("no drift");
    }
    text
}

fn section(head: &str, differences: &[Difference]) -> String {
    let mut text = format!("{}\n", harmless(head));
    for difference in differences {
        text.push_str(&format!(
            "  {}\n    expected: {}\n    found:    {}\n",
            harmless(&difference.object),
            side(difference.expected.as_deref()),
            side(difference.found.as_deref())
        ));
    }
    text.push('\n');
    text
}

fn side(definition: Option<&str>) -> String {
    definition.map_or_else(|| "(nothing)".to_owned(), harmless)
}
