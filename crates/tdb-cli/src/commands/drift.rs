//! `tdb drift`.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use tdb_client::drift::{Difference, RepairDrift, RepairedDrift};
use tdb_client::http::Client;

use crate::printer::Printer;
use crate::progress::Progress;
use crate::table::harmless;

/// The first and the longest pause between two requests for the progress of a refresh.
const LOOK_FIRST: Duration = Duration::from_millis(50);
const LOOK_LAST: Duration = Duration::from_secs(1);
/// How long to wait for a refresh. After that it continues in the background.
const WAIT_TIME_MAX: Duration = Duration::from_secs(600);

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  tdb drift --blueprint myapp\n  tdb drift --blueprint myapp --repair acme")]
pub(crate) struct Drift {
    /// Only this blueprint
    #[arg(long)]
    blueprint: Option<String>,
    /// Show the results of the last checks, instead of checking now
    #[arg(long)]
    stored: bool,
    /// Correct which changes the database of this tenant records as applied, if its rows are not those of the change log
    #[arg(long, value_name = "TENANT", requires = "blueprint", conflicts_with = "stored")]
    repair: Option<String>,
}

pub(crate) fn run(drift: Drift, client: &Client, printer: &Printer) -> Result<()> {
    let blueprint = drift.blueprint.as_deref();
    if let (Some(tenant), Some(blueprint)) = (&drift.repair, blueprint) {
        let request = RepairDrift {
            tenant_id: tenant.clone(),
            blueprint: blueprint.to_owned(),
        };
        return printer.answer(&client.repair_drift(&request)?, render_repaired);
    }
    if !drift.stored {
        client.refresh_drift(blueprint)?;
    }
    let answer = if drift.stored {
        client.drift(blueprint)?
    } else {
        refreshed(client, blueprint, printer)?
    };
    printer.answer(&answer, render)?;
    for unchecked in &answer.unchecked {
        printer.note(&format!("not checked: {}: {}", unchecked.tenant_id, unchecked.reason));
    }
    if answer.pending > 0 {
        printer.note(&format!("not checked yet: {} databases", answer.pending));
    }
    Ok(())
}

fn refreshed(client: &Client, blueprint: Option<&str>, printer: &Printer) -> Result<tdb_client::drift::Drift> {
    let deadline = Instant::now() + WAIT_TIME_MAX;
    let mut progress = Progress::new(printer);
    let mut pause = LOOK_FIRST;
    loop {
        let answer = client.drift(blueprint)?;
        if answer.pending == 0 || Instant::now() > deadline {
            return Ok(answer);
        }
        // A short refresh needs no progress bar.
        if pause > LOOK_FIRST * 8 {
            let (done, total) = (answer.checked, answer.checked.saturating_add(answer.pending));
            progress.show(done, total, &format!("{done} of {total} databases checked"));
        }
        sleep(pause);
        pause = (pause * 2).min(LOOK_LAST);
    }
}

fn render(drift: &tdb_client::drift::Drift) -> String {
    let mut text = String::new();
    for workspace in &drift.workspaces {
        let head = format!(
            "workspace {}: differs from the result of its changes",
            workspace.workspace
        );
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

fn render_repaired(repaired: &RepairedDrift) -> String {
    if repaired.repaired.is_empty() {
        return "nothing to repair".to_owned();
    }
    section("repaired", &repaired.repaired)
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
