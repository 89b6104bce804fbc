//! The time to create a tenant, compared with the `CREATE DATABASE … TEMPLATE` that it includes.

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

/// Measures the creation of tenants with the API, from the request until the tenant is ready, compared with a clone of the same
/// template: one at a time with prepared spares, and more in a row than there are spares.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    #[arg(long, default_value_t = 20)]
    tables: u32,
    /// Tenants that are created in a row, without a pause; several times the number of spares.
    #[arg(long, default_value_t = 16)]
    row: u32,
    /// The directory for the raw numbers.
    #[arg(long, default_value_os_t = crate::report::results_dir())]
    results: PathBuf,
}

/// Longer than the preparation of all spares takes.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

/// Milliseconds per database.
#[derive(Clone, Copy, Debug)]
struct Round {
    tenant: f64,
    clone: f64,
    tenants_in_a_row: f64,
    clones_in_a_row: f64,
}

struct Bench<'a> {
    instance: &'a Instance,
    session: &'a Session,
    template: &'a str,
    /// The number of databases created so far; each name is used once.
    made: u32,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let instance = Instance::start()?;
    instance.blueprint(BLUEPRINT, &schema::ddl(options.tables))?;
    // The first tenant is measured separately, because the version and its template are created for it.
    let first = Instant::now();
    instance.tenant("first", BLUEPRINT)?;
    let first = first.elapsed();
    let session = Session::open(&instance.server_endpoint("postgres")?)?;
    let template = newest_template(&session)?;
    let mut bench = Bench {
        instance: &instance,
        session: &session,
        template: &template,
        made: 0,
    };
    let mut rounds = Vec::new();
    for number in 0..options.rounds {
        rounds.push(bench.round(options.row, number.is_multiple_of(2))?);
    }
    ensure!(
        newest_template(&session)? == template,
        "the template changed while it was measured"
    );
    report(options, &session, first, &rounds)
}

impl Bench<'_> {
    /// The order alternates with the round. Nothing is dropped in between, because DROP DATABASE forces a checkpoint.
    fn round(&mut self, row: u32, tenants_first: bool) -> Result<Round> {
        let (tenant, clone) = self.pair(1, tenants_first)?;
        let (tenants_in_a_row, clones_in_a_row) = self.pair(row, tenants_first)?;
        Ok(Round {
            tenant,
            clone,
            tenants_in_a_row,
            clones_in_a_row,
        })
    }

    fn pair(&mut self, count: u32, tenants_first: bool) -> Result<(f64, f64)> {
        if tenants_first {
            let tenants = self.tenants(count)?;
            return Ok((tenants, self.clones(count)?));
        }
        let clones = self.clones(count)?;
        Ok((self.tenants(count)?, clones))
    }

    fn tenants(&mut self, count: u32) -> Result<f64> {
        self.settle()?;
        let start = Instant::now();
        for _ in 0..count {
            self.made += 1;
            self.instance.tenant(&format!("t{}", self.made), BLUEPRINT)?;
        }
        Ok(milliseconds(start.elapsed()) / f64::from(count))
    }

    fn clones(&mut self, count: u32) -> Result<f64> {
        self.settle()?;
        let start = Instant::now();
        for _ in 0..count {
            self.made += 1;
            let (made, template) = (self.made, self.template);
            self.session.run(&format!(
                "CREATE DATABASE bare_{made} TEMPLATE \"{template}\" STRATEGY WAL_LOG"
            ))?;
        }
        Ok(milliseconds(start.elapsed()) / f64::from(count))
    }

    /// Waits until no spares are being prepared.
    fn settle(&self) -> Result<()> {
        let deadline = Instant::now() + SETTLED_WITHIN;
        let being_made = || -> Result<(Vec<String>, bool)> {
            let found = self.session.column(
                "SELECT oid::text FROM pg_database WHERE datname LIKE 'tdb\\_c\\_%' UNION ALL
                 SELECT 'busy' FROM pg_stat_activity WHERE datname LIKE 'tdb\\_c\\_%' OR query LIKE 'CREATE DATABASE%' AND state = 'active'",
            )?;
            let busy = found.iter().any(|one| one == "busy");
            Ok((found, busy))
        };
        let mut seen = being_made()?.0;
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let (now, busy) = being_made()?;
            if now == seen && !busy {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the stock of spares is never full");
            seen = now;
        }
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn newest_template(session: &Session) -> Result<String> {
    let found = session.column(
        "SELECT datname::text FROM pg_database WHERE datistemplate AND datname NOT IN ('template0', 'template1') \
         ORDER BY oid DESC LIMIT 1",
    )?;
    found.into_iter().next().context("no template was published")
}

fn report(options: &Options, session: &Session, first: Duration, rounds: &[Round]) -> Result<()> {
    write_csv(
        &options.results,
        "tenants",
        "round,tables,tenant_milliseconds,create_database_milliseconds,row,tenant_in_a_row_milliseconds,create_database_in_a_row_milliseconds",
        rounds.iter().enumerate().map(|(number, round)| {
            format!(
                "{number},{},{:.3},{:.3},{},{:.3},{:.3}",
                options.tables, round.tenant, round.clone, options.row, round.tenants_in_a_row, round.clones_in_a_row
            )
        }),
    )?;
    let column = |of: fn(&Round) -> f64| -> Vec<f64> { rounds.iter().map(of).collect() };
    let mut table = Table::new(&["what", "ms, median", "ratio (95 %)"]);
    let cell = |values: &[f64]| median(values).map_or_else(|| "-".to_owned(), |median| format!("{median:.1}"));
    let row = options.row;
    for (what, tenants, clones) in [
        ("one".to_owned(), column(|r| r.tenant), column(|r| r.clone)),
        (
            format!("{row} in a row, each"),
            column(|r| r.tenants_in_a_row),
            column(|r| r.clones_in_a_row),
        ),
    ] {
        let ratio = Ratio::of_pairs(&tenants, &clones).context("no rounds")?;
        table.row([
            format!("CREATE DATABASE … TEMPLATE, {what}"),
            cell(&clones),
            "1".to_owned(),
        ]);
        let shown = format!("{:.2} ({:.2}..{:.2})", ratio.median, ratio.low, ratio.high);
        table.row([format!("tenant through the API, {what}"), cell(&tenants), shown]);
    }
    table.row([
        "first tenant of a schema".to_owned(),
        format!("{:.1}", milliseconds(first)),
        "-".to_owned(),
    ]);
    let size = session.column(
        "SELECT pg_size_pretty(pg_database_size(oid)) FROM pg_database WHERE datname LIKE 'bare\\_%' LIMIT 1",
    )?;
    println!(
        "{} rounds, {} tables, template of {}\n{table}",
        rounds.len(),
        options.tables,
        size.first().map_or("unknown size", String::as_str)
    );
    Ok(())
}
