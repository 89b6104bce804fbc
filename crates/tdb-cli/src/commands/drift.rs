//! `tdb drift`.

use anyhow::Result;
use tdb_client::http::Client;

use super::optional;
use crate::printer::Printer;
use crate::table::Table;

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
    let mut table = Table::new(&["tenant", "blueprint", "version", "object", "expected", "found"]);
    for tenant in &drift.tenants {
        for difference in &tenant.differences {
            table.row([
                tenant.tenant_id.clone(),
                tenant.blueprint.clone(),
                tenant.version.to_string(),
                difference.object.clone(),
                optional(difference.expected.as_ref()),
                optional(difference.found.as_ref()),
            ]);
        }
    }
    table.render_or("no drift")
}
