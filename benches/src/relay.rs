//! The cost of a query on each path: CPU of the proxy, its kernel share, system calls, throughput.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use tdb_testkit::Cluster;

use crate::instance::Instance;
use crate::peers::Path;
use crate::pgbench::{self, Endpoint, Mode};
use crate::process::CpuTime;
use crate::report::{Table, write_csv};
use crate::spike::{EVENT_INTERVAL, Variant};
use crate::statistics::{Ratio, median};
use crate::syscalls::{Counter, Counts};

const BLUEPRINT: &str = "bench";
const SCALE: u32 = 10;
/// Transactions of each client while system calls are counted: so many that logins do not matter.
const COUNTED_EACH: u32 = 4_000;
const BASELINE: &str = "pgbouncer";

/// Measures select-only pgbench through each path, in paired rounds.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[arg(long, default_value_t = 10)]
    rounds: u32,
    /// Seconds that are measured in each cell of a round, after one second of warm-up.
    #[arg(long, default_value_t = 2)]
    seconds: u32,
    #[arg(long, default_value_t = 8)]
    clients: u32,
    /// Paths to measure: direct, tenantsdb, pgbouncer, haproxy, and spike-VARIANT or spike-VARIANT-EVENT_INTERVAL.
    #[arg(long, value_delimiter = ',', default_value = "direct,tenantsdb,pgbouncer,haproxy")]
    paths: Vec<String>,
    #[arg(long, value_delimiter = ',', default_value = "simple,extended,prepared")]
    modes: Vec<Mode>,
    /// The prefix of the names of the result files.
    #[arg(long, default_value = "relay")]
    name: String,
    /// The directory for the raw numbers.
    #[arg(long, default_value_os_t = crate::report::results_dir())]
    results: PathBuf,
}

/// One cell of a round.
#[derive(Clone, Copy, Debug)]
struct Cell {
    round: u32,
    mode: Mode,
    path: usize,
    queries: f64,
    rate: f64,
    /// CPU time of the proxy; `None` on the direct path.
    cost: Option<Cost>,
}

#[derive(Clone, Copy, Debug)]
struct Cost {
    microseconds_per_query: f64,
    kernel_share: f64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let (_upstream, paths) = start(options)?;
    let mut cells = Vec::new();
    for round in 0..options.rounds {
        for mode in &options.modes {
            cells.extend(measure_round(options, &paths, *mode, round)?);
        }
        eprintln!("round {} of {} done", round + 1, options.rounds);
    }
    let counts = count_calls(options, &paths)?;
    write(options, &paths, &cells, &counts)?;
    print(options, &paths, &cells, &counts);
    Ok(())
}

/// The owner of the PostgreSQL server: the instance under test, or a bare cluster if no instance is measured.
enum Upstream {
    Instance(Box<Instance>),
    /// Kept because dropping it stops the process.
    Cluster {
        _cluster: Box<Cluster>,
    },
}

fn start(options: &Options) -> Result<(Upstream, Vec<Path>)> {
    let (upstream, server, tenant) = if options.paths.iter().any(|name| name == "tenantsdb") {
        let instance = Instance::start()?;
        instance.blueprint(BLUEPRINT, "CREATE TABLE settings (name text PRIMARY KEY, value text)")?;
        let tenant = instance.tenant_endpoint(&instance.tenant("acme", BLUEPRINT)?)?;
        let server = instance.server_endpoint(&tenant.current_database()?)?;
        (Upstream::Instance(Box::new(instance)), server, Some(tenant))
    } else {
        let cluster = Cluster::start()?;
        let server = Endpoint {
            host: cluster.host().to_owned(),
            port: cluster.port(),
            user: cluster.superuser().to_owned(),
            password: cluster.password().to_owned(),
            database: "postgres".to_owned(),
        };
        (
            Upstream::Cluster {
                _cluster: Box::new(cluster),
            },
            server,
            None,
        )
    };
    pgbench::initialize(tenant.as_ref().unwrap_or(&server), SCALE)?;
    let mut paths = Vec::new();
    for name in &options.paths {
        paths.push(match (name.as_str(), &upstream, &tenant) {
            ("direct", ..) => Path::direct(&server),
            ("pgbouncer", ..) => Path::pgbouncer(&server)?,
            ("haproxy", ..) => Path::haproxy(&server)?,
            ("tenantsdb", Upstream::Instance(instance), Some(tenant)) => {
                Path::running("tenantsdb", tenant.clone(), instance.pid())
            }
            (spike, ..) => spike_named(spike, &server)?,
        });
    }
    Ok((upstream, paths))
}

fn spike_named(name: &str, server: &Endpoint) -> Result<Path> {
    let rest = name
        .strip_prefix("spike-")
        .with_context(|| format!("unknown path {name:?}"))?;
    let (variant, interval) = match rest.split_once('-') {
        Some((variant, interval)) => (variant, interval.parse()?),
        None => (rest, EVENT_INTERVAL),
    };
    let variant = Variant::named(variant).with_context(|| format!("unknown path {name:?}"))?;
    Path::spike(server, variant, interval)
}

/// Measures each path once. The order rotates with the round, so that no path is always the first.
fn measure_round(options: &Options, paths: &[Path], mode: Mode, round: u32) -> Result<Vec<Cell>> {
    let mut order: Vec<usize> = (0..paths.len()).collect();
    order.rotate_left(usize::try_from(round)? % paths.len().max(1));
    let mut cells = Vec::new();
    for index in order {
        let path = paths.get(index).context("path of the round")?;
        let sample = || path.pid.map(CpuTime::of).transpose();
        let window = pgbench::select_only(&path.endpoint, mode, options.clients, options.seconds, sample)
            .with_context(|| format!("{} through {}", mode.name(), path.name))?;
        let used = window.first.zip(window.last).map(|(first, last)| last.since(first));
        cells.push(Cell {
            round,
            mode,
            path: index,
            queries: window.queries,
            rate: window.queries / window.elapsed.as_secs_f64(),
            cost: used.map(|used| Cost {
                microseconds_per_query: used.total.as_secs_f64() * 1e6 / window.queries,
                kernel_share: used.kernel_share(),
            }),
        });
    }
    Ok(cells)
}

/// Counts system calls in separate runs, because counting takes time.
fn count_calls(options: &Options, paths: &[Path]) -> Result<Vec<(Mode, usize, f64, Counts)>> {
    let mut counts = Vec::new();
    for mode in &options.modes {
        for (index, path) in paths.iter().enumerate() {
            let Some(pid) = path.pid else { continue };
            let counter = Counter::attach(pid)?;
            let queries = pgbench::select_count(&path.endpoint, *mode, options.clients, COUNTED_EACH)?;
            counts.push((*mode, index, queries, counter.finish()?));
        }
    }
    Ok(counts)
}

fn write(options: &Options, paths: &[Path], cells: &[Cell], counts: &[(Mode, usize, f64, Counts)]) -> Result<()> {
    let name = |index: usize| paths.get(index).map_or("", |path| path.name.as_str());
    let clients = options.clients;
    write_csv(
        &options.results,
        &format!("{}-{clients}-clients", options.name),
        "round,mode,path,clients,queries,queries_per_second,cpu_microseconds_per_query,kernel_share",
        cells.iter().map(|cell| {
            let (cost, kernel) = cell.cost.map_or((String::new(), String::new()), |cost| {
                (
                    format!("{:.3}", cost.microseconds_per_query),
                    format!("{:.3}", cost.kernel_share),
                )
            });
            let (mode, path) = (cell.mode.name(), name(cell.path));
            let (round, queries, rate) = (cell.round, cell.queries, cell.rate);
            format!("{round},{mode},{path},{clients},{queries:.0},{rate:.0},{cost},{kernel}")
        }),
    )?;
    write_csv(
        &options.results,
        &format!("{}-syscalls-{clients}-clients", options.name),
        "mode,path,clients,queries,call,count",
        counts.iter().flat_map(|(mode, path, queries, counts)| {
            let head = format!("{},{},{clients},{queries:.0}", mode.name(), name(*path));
            counts
                .0
                .iter()
                .map(move |(call, count)| format!("{head},{call},{count}"))
        }),
    )
}

fn print(options: &Options, paths: &[Path], cells: &[Cell], counts: &[(Mode, usize, f64, Counts)]) {
    let mut table = Table::new(&[
        "mode",
        "path",
        "CPU us/query",
        "kernel",
        "calls/query",
        "queries/s",
        "CPU / PgBouncer (95 %)",
    ]);
    for mode in &options.modes {
        let costs_of = |index: usize| -> Vec<f64> {
            let own = cells.iter().filter(|cell| cell.mode == *mode && cell.path == index);
            own.filter_map(|cell| cell.cost)
                .map(|cost| cost.microseconds_per_query)
                .collect()
        };
        let baseline = paths.iter().position(|path| path.name == BASELINE).map(costs_of);
        for (index, path) in paths.iter().enumerate() {
            let own: Vec<&Cell> = cells
                .iter()
                .filter(|cell| cell.mode == *mode && cell.path == index)
                .collect();
            let kernel: Vec<f64> = own
                .iter()
                .filter_map(|cell| cell.cost)
                .map(|cost| cost.kernel_share)
                .collect();
            let rate = median(&own.iter().map(|cell| cell.rate).collect::<Vec<_>>());
            let counted = counts.iter().find(|(of, at, ..)| of == mode && *at == index);
            let calls = counted.and_then(|(_, _, queries, counts)| Some(counts.all()? as f64 / queries));
            let costs = costs_of(index);
            let ratio = baseline.as_ref().and_then(|baseline| Ratio::of_pairs(&costs, baseline));
            table.row([
                mode.name().to_owned(),
                path.name.clone(),
                median(&costs).map_or_else(|| "-".to_owned(), |cost| format!("{cost:.1}")),
                median(&kernel).map_or_else(|| "-".to_owned(), |share| format!("{:.0} %", share * 100.0)),
                calls.map_or_else(|| "-".to_owned(), |calls| format!("{calls:.2}")),
                rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}")),
                ratio.map_or_else(
                    || "-".to_owned(),
                    |ratio| format!("{:.2} ({:.2}..{:.2})", ratio.median, ratio.low, ratio.high),
                ),
            ]);
        }
    }
    println!("{table}");
}
