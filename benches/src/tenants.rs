//! What a tenant costs beside the bare `CREATE DATABASE … TEMPLATE` that it cannot do without.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::instance::Instance;
use crate::report::{Table, write_csv};
use crate::schema;
use crate::server::Session;
use crate::statistics::{Ratio, median};

const BLUEPRINT: &str = "bench";

/// Tenant creation over the API, from the request to a tenant that is ready, beside a clone of the same template.
#[derive(Args, Debug)]
pub struct Options {
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    #[arg(long, default_value_t = 20)]
    tables: u32,
    /// Where the raw numbers go.
    #[arg(long, default_value_os_t = crate::report::results_dir())]
    results: PathBuf,
}

#[derive(Clone, Copy, Debug)]
struct Round {
    tenant: Duration,
    clone: Duration,
}

pub fn run(options: &Options) -> Result<()> {
    let instance = Instance::start()?;
    instance.blueprint(BLUEPRINT, &schema::ddl(options.tables))?;
    // The first one makes the version and its template; a schema has one first tenant and many others.
    let first = Instant::now();
    instance.tenant("first", BLUEPRINT)?;
    let first = first.elapsed();
    let session = Session::open(&instance.server_endpoint("postgres")?)?;
    let template = newest_template(&session)?;
    let mut rounds = Vec::new();
    for number in 0..options.rounds {
        rounds.push(measure(&instance, &session, &template, number)?);
    }
    ensure!(
        newest_template(&session)? == template,
        "the template changed while it was measured"
    );
    report(options, &session, first, &rounds)
}

/// Both once; who is first turns with the round. Nothing is dropped in between: DROP DATABASE forces a checkpoint.
fn measure(instance: &Instance, session: &Session, template: &str, number: u32) -> Result<Round> {
    let tenant = || -> Result<Duration> {
        let start = Instant::now();
        instance.tenant(&format!("t{number}"), BLUEPRINT)?;
        Ok(start.elapsed())
    };
    let clone = || -> Result<Duration> {
        let start = Instant::now();
        session.run(&format!(
            "CREATE DATABASE bare_{number} TEMPLATE \"{template}\" STRATEGY WAL_LOG"
        ))?;
        Ok(start.elapsed())
    };
    if number.is_multiple_of(2) {
        let tenant = tenant()?;
        return Ok(Round {
            tenant,
            clone: clone()?,
        });
    }
    let clone = clone()?;
    Ok(Round {
        tenant: tenant()?,
        clone,
    })
}

fn newest_template(session: &Session) -> Result<String> {
    let found = session.column(
        "SELECT datname::text FROM pg_database WHERE datistemplate AND datname NOT IN ('template0', 'template1') \
         ORDER BY oid DESC LIMIT 1",
    )?;
    found.into_iter().next().context("no template was published")
}

fn report(options: &Options, session: &Session, first: Duration, rounds: &[Round]) -> Result<()> {
    let milliseconds =
        |of: fn(&Round) -> Duration| -> Vec<f64> { rounds.iter().map(|round| of(round).as_secs_f64() * 1e3).collect() };
    let (tenants, clones) = (milliseconds(|round| round.tenant), milliseconds(|round| round.clone));
    write_csv(
        &options.results,
        "tenants",
        "round,tables,tenant_milliseconds,create_database_milliseconds",
        tenants
            .iter()
            .zip(&clones)
            .enumerate()
            .map(|(round, (tenant, clone))| format!("{round},{},{tenant:.3},{clone:.3}", options.tables)),
    )?;
    let size = session.column("SELECT pg_size_pretty(pg_database_size('bare_0'))")?;
    let mut table = Table::new(&["what", "ms, median", "ratio (95 %)"]);
    let ratio = Ratio::of_pairs(&tenants, &clones).context("no rounds")?;
    let cell = |values: &[f64]| median(values).map_or_else(|| "-".to_owned(), |median| format!("{median:.1}"));
    table.row(["CREATE DATABASE … TEMPLATE".to_owned(), cell(&clones), "1".to_owned()]);
    let shown = format!("{:.2} ({:.2}..{:.2})", ratio.median, ratio.low, ratio.high);
    table.row(["tenant through the API".to_owned(), cell(&tenants), shown]);
    table.row([
        "first tenant of a schema".to_owned(),
        format!("{:.1}", first.as_secs_f64() * 1e3),
        "-".to_owned(),
    ]);
    println!(
        "{} rounds, {} tables, template of {}\n{table}",
        rounds.len(),
        options.tables,
        size.first().map_or("unknown size", String::as_str)
    );
    Ok(())
}
