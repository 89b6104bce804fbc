//! `tdb deployments`: start, follow, retry.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Subcommand;
use tdb_client::deployments::{CreateDeployment, Job, JobStatus, Target, TargetStatus};
use tdb_client::events::DeploymentEvent;
use tdb_client::http::{Client, ClientError};
use tdb_client::versions::VersionNumber;

use super::{Outcome, optional, optional_time};
use crate::interrupt::Farewell;
use crate::printer::Printer;
use crate::progress::Progress;
use crate::table::{Table, facts, harmless, indented};

/// The first pause before `--watch` reconnects to an interrupted stream. It is doubled until an event arrives.
const PAUSE_FIRST: Duration = Duration::from_millis(150);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long `--watch` tolerates an API that does not answer, for example because it restarts.
const OUTAGE_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List deployments, newest first
    #[command(after_help = "Example:\n  tdb deployments list")]
    List,
    /// Deploy a version to tenants
    #[command(
        after_help = "Example:\n  tdb deployments create --blueprint myapp --all --watch\n  tdb deployments create --blueprint myapp --tenant acme --dry-run"
    )]
    Create(Create),
    /// Show a deployment and its tenants
    #[command(after_help = "Example:\n  tdb deployments status dep_abcdefgh27 --watch")]
    Status {
        /// The deployment's id
        id: String,
        /// Wait for the end; exit status 1 if it failed
        #[arg(long)]
        watch: bool,
    },
    /// Retry the failed tenants of a deployment
    #[command(after_help = "Example:\n  tdb deployments retry dep_abcdefgh27 --watch")]
    Retry {
        /// The deployment's id
        id: String,
        /// Wait for the end; exit status 1 if it failed
        #[arg(long)]
        watch: bool,
    },
}

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["all", "tenants"])))]
pub(crate) struct Create {
    /// The blueprint to deploy
    #[arg(long)]
    blueprint: String,
    /// The version; by default the blueprint's present schema
    #[arg(long, value_name = "N")]
    version: Option<VersionNumber>,
    /// All tenants of the blueprint
    #[arg(long)]
    all: bool,
    /// A tenant, can be repeated
    #[arg(long = "tenant", value_name = "TENANT")]
    tenants: Vec<String>,
    /// Show the plan and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Wait for the end; exit status 1 if it failed
    #[arg(long, conflicts_with = "dry_run")]
    watch: bool,
}

pub(crate) fn run(command: Command, client: &Client, printer: &Printer) -> Result<Outcome> {
    match command {
        Command::List => {
            printer.answer(&client.deployments()?, |list| render_jobs(&list.jobs))?;
            Ok(Outcome::Fine)
        }
        Command::Create(create) => {
            let watch = create.watch;
            let job = client.create_deployment(&create.request())?.body;
            follow_or_show(job, watch, client, printer)
        }
        Command::Status { id, watch } => follow_or_show(client.deployment(&id)?, watch, client, printer),
        Command::Retry { id, watch } => follow_or_show(client.retry_deployment(&id)?, watch, client, printer),
    }
}

impl Create {
    fn request(self) -> CreateDeployment {
        CreateDeployment {
            blueprint_name: self.blueprint,
            version: self.version,
            deploy_all: self.all,
            tenants: (!self.tenants.is_empty()).then_some(self.tenants),
            dry_run: self.dry_run,
        }
    }
}

fn follow_or_show(job: Job, watch: bool, client: &Client, printer: &Printer) -> Result<Outcome> {
    let job = if watch { follow(job, client, printer)? } else { job };
    printer.answer(&job, render_job)?;
    if let (Some(id), JobStatus::Failed) = (&job.job_id, job.status) {
        printer.note(&format!(
            "Fix the cause, then retry the failed tenants with \"tdb deployments retry {id} --watch\"."
        ));
    }
    if watch {
        return Ok(match job.status {
            JobStatus::Completed => Outcome::Fine,
            JobStatus::Planned | JobStatus::Running | JobStatus::Paused | JobStatus::Failed | JobStatus::Cancelled => {
                Outcome::Failed
            }
        });
    }
    if let (Some(id), JobStatus::Running) = (&job.job_id, job.status) {
        printer.note(&format!(
            "The deployment runs in the background; \"tdb deployments status {id} --watch\" follows it."
        ));
    }
    Ok(Outcome::Fine)
}

/// Follows the events until the deployment has ended, and prints what changes. Returns the job with its tenants.
fn follow(mut job: Job, client: &Client, printer: &Printer) -> Result<Job> {
    let id = job.job_id.clone().context("the deployment has no id to follow")?;
    printer.note(&format!("deployment {id}"));
    let farewell = format!("The deployment continues; \"tdb deployments status {id} --watch\" follows it again.");
    let interrupt = Farewell::on_interrupt(farewell, printer)?;
    let mut progress = Progress::new(printer);
    let (mut pause, mut answered, mut last) = (PAUSE_FIRST, Instant::now(), None);
    while !job.status.is_final() {
        show(&mut progress, &job);
        match client.deployment_events(&id, last) {
            Ok(events) => {
                // An interrupted stream is resumed after the last event that was received.
                for (number, event) in events.map_while(|event| event.ok()) {
                    (answered, last, pause) = (Instant::now(), Some(number), PAUSE_FIRST);
                    match event {
                        DeploymentEvent::Deployment(now) => job = now,
                        DeploymentEvent::Target(target) => tell(&mut progress, &target),
                    }
                    show(&mut progress, &job);
                }
            }
            Err(error) if is_transient(&error) && answered.elapsed() < OUTAGE_MAX => {
                printer.verbose(&format!("  {error}; retrying"));
            }
            Err(error) => return Err(error.into()),
        }
        if !job.status.is_final() {
            sleep(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
    drop((progress, interrupt));
    whole(&id, client, printer)
}

fn show(progress: &mut Progress<'_>, job: &Job) {
    let through = job.completed_tenants.saturating_add(job.failed_tenants);
    let text = format!("{}: {}", job.status, job.progress_display);
    progress.show(through, job.total_tenants, &text);
}

fn tell(progress: &mut Progress<'_>, target: &Target) {
    let verb = match target.status {
        TargetStatus::Failed => "failed",
        TargetStatus::Retrying => "is retried",
        TargetStatus::Pending | TargetStatus::Running | TargetStatus::Done | TargetStatus::Skipped => return,
    };
    let error = target.error.as_ref().map_or_else(String::new, |error| {
        format!(
            ": {} (SQLSTATE {})",
            harmless(&error.message),
            harmless(&error.sqlstate)
        )
    });
    progress.note(&format!("  {} {verb}{error}", target.tenant_id));
}

/// The job with its tenants. Waits for an API that restarts.
fn whole(id: &str, client: &Client, printer: &Printer) -> Result<Job> {
    let begun = Instant::now();
    loop {
        match client.deployment(id) {
            Err(error) if is_transient(&error) && begun.elapsed() < OUTAGE_MAX => {
                printer.verbose(&format!("  {error}; retrying"));
                sleep(PAUSE_MAX);
            }
            answer => return Ok(answer?),
        }
    }
}

/// Whether the same request may succeed later.
fn is_transient(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { .. } => true,
        ClientError::Problem(problem) => [502, 503, 504].contains(&problem.status),
        ClientError::Foreign { .. } => false,
    }
}

pub(crate) fn render_jobs(jobs: &[Job]) -> String {
    let mut table = Table::new(&[
        "deployment",
        "blueprint",
        "version",
        "status",
        "progress",
        "started (UTC)",
        "completed (UTC)",
    ]);
    for job in jobs {
        table.row([
            optional(job.job_id.as_ref()),
            job.blueprint_id.clone(),
            job.version.to_string(),
            job.status.to_string(),
            job.progress_display.clone(),
            optional_time(job.started_at),
            optional_time(job.completed_at),
        ]);
    }
    table.render_or("no deployments")
}

fn render_job(job: &Job) -> String {
    let from: Vec<String> = job.from_versions.iter().map(u32::to_string).collect();
    let mut lines = vec![
        ("blueprint", job.blueprint_id.clone()),
        ("to version", job.version.to_string()),
    ];
    if !from.is_empty() {
        lines.push(("from versions", from.join(", ")));
    }
    lines.push(("status", job.status.to_string()));
    lines.push(("progress", job.progress_display.clone()));
    if let Some(id) = &job.job_id {
        lines.insert(0, ("deployment", id.clone()));
    }
    let mut text = facts(&lines);
    if let Some(targets) = job.targets.as_ref().filter(|targets| !targets.is_empty()) {
        text.push('\n');
        text.push_str(&render_targets(targets));
    }
    text
}

fn render_targets(targets: &[Target]) -> String {
    let mut table = Table::new(&["tenant", "status", "from", "to", "changes", "attempts", "drift", "took"]);
    for target in targets {
        table.row([
            target.tenant_id.clone(),
            target.status.to_string(),
            target.from.to_string(),
            target.to.to_string(),
            format!("{} of {}", target.changes_done, target.changes_total),
            target.attempts.to_string(),
            if target.drift { "yes" } else { "no" }.to_owned(),
            optional(target.duration_ms.map(duration)),
        ]);
    }
    let mut text = table.render();
    for target in targets {
        let Some(error) = &target.error else { continue };
        text.push_str(&format!(
            "\n{}: {} (SQLSTATE {})\n",
            target.tenant_id,
            harmless(&error.message),
            harmless(&error.sqlstate)
        ));
        if let Some(statement) = &error.statement {
            text.push_str(&indented(statement, "     "));
        }
    }
    text
}

fn duration(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        _ => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
    }
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;
    use tdb_client::deployments::TargetError;

    use super::*;

    #[test]
    fn a_failed_tenant_shows_its_error_and_statement() {
        let target = |name: &str, status, error| Target {
            tenant_id: name.to_owned(),
            status,
            from: 1,
            to: 2,
            changes_done: 1,
            changes_total: 2,
            drift: false,
            attempts: 1,
            error,
            duration_ms: Some(1_249),
        };
        let error = TargetError {
            sqlstate: "23505".to_owned(),
            message: "could not create unique index".to_owned(),
            statement: Some("CREATE UNIQUE INDEX i\n  ON t (id)".to_owned()),
        };
        let targets = [
            target("acme", TargetStatus::Failed, Some(error)),
            target("globex", TargetStatus::Done, None),
        ];
        let expected = "\
TENANT  STATUS  FROM  TO  CHANGES  ATTEMPTS  DRIFT  TOOK
acme    failed  1     2   1 of 2   1         no     1.2 s
globex  done    1     2   1 of 2   1         no     1.2 s

acme: could not create unique index (SQLSTATE 23505)
     CREATE UNIQUE INDEX i
       ON t (id)
";
        assert_eq!(strip_str(&render_targets(&targets)).to_string(), expected);
    }
}
