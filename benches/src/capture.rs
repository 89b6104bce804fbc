//! The cost of capturing DDL: one simple Query message of many statements in a workspace, compared with the same message in a
//! database of the same server without capture.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;

use crate::instance::Instance;
use crate::report::{Table, write_csv};
use crate::server::Session;
use crate::statistics::{Ratio, median};

const WORKSPACE: &str = "bench";

/// The time for one message of many DDL statements, as an implicit transaction and from BEGIN to COMMIT: through the proxy
/// in a workspace until ReadyForQuery, including the drain, compared with the same message without capture.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[arg(long, default_value_t = 10)]
    rounds: u32,
    /// The number of statements in a message.
    #[arg(long, value_delimiter = ',', default_values_t = [1000, 4000])]
    statements: Vec<u32>,
    /// The directory for the raw numbers.
    #[arg(long, default_value_os_t = crate::report::results_dir())]
    results: PathBuf,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    CreateTable,
    SetDefault,
    CreateTableInBlock,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::CreateTable, Kind::SetDefault, Kind::CreateTableInBlock];

    fn name(self) -> &'static str {
        match self {
            Kind::CreateTable => "CREATE TABLE",
            Kind::SetDefault => "ALTER … SET DEFAULT",
            Kind::CreateTableInBlock => "BEGIN; CREATE TABLE …; COMMIT",
        }
    }

    fn message(self, round: u32, statements: u32) -> String {
        let create = |n: u32| format!("CREATE TABLE w.t{round}_{statements}_{n} (id bigint PRIMARY KEY, a text);\n");
        let set = |n: u32| format!("ALTER TABLE w.d ALTER a SET DEFAULT {n};\n");
        match self {
            Kind::CreateTable => (0..statements).map(create).collect(),
            Kind::SetDefault => (0..statements).map(set).collect(),
            Kind::CreateTableInBlock => {
                let body: String = (0..statements).map(create).collect();
                format!("BEGIN;\n{body}COMMIT;\n")
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Round {
    kind: Kind,
    statements: u32,
    workspace: f64,
    direct: f64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let instance = Instance::start()?;
    let setup = "CREATE SCHEMA w; CREATE TABLE w.d (a int)";
    let workspace = instance.blueprint(WORKSPACE, setup)?;
    let captured = Session::open(&instance.workspace_endpoint(&workspace)?)?;
    let administrator = Session::open(&instance.server_endpoint("postgres")?)?;
    administrator.run("CREATE DATABASE direct TEMPLATE template0")?;
    let direct = Session::open(&instance.server_endpoint("direct")?)?;
    direct.run(setup)?;
    let mut rounds = Vec::new();
    for number in 0..options.rounds {
        for &statements in &options.statements {
            for kind in Kind::ALL {
                rounds.push(pair(kind, number, statements, &captured, &direct)?);
            }
        }
    }
    report(options, &rounds)
}

/// The two sides alternate in order. The objects of a round are dropped afterwards, which is not measured, to keep the
/// catalogs small.
fn pair(kind: Kind, number: u32, statements: u32, captured: &Session, direct: &Session) -> Result<Round> {
    let message = kind.message(number, statements);
    let (workspace, direct_time) = if number.is_multiple_of(2) {
        let first = time(captured, &message)?;
        (first, time(direct, &message)?)
    } else {
        let first = time(direct, &message)?;
        (time(captured, &message)?, first)
    };
    for session in [captured, direct] {
        session.run("DROP SCHEMA w CASCADE; CREATE SCHEMA w; CREATE TABLE w.d (a int)")?;
    }
    // The drain of the last change, which no client waits for, must not overlap with the next measurement.
    std::thread::sleep(Duration::from_secs(3));
    Ok(Round {
        kind,
        statements,
        workspace,
        direct: direct_time,
    })
}

/// The time in milliseconds.
fn time(session: &Session, message: &str) -> Result<f64> {
    let start = Instant::now();
    session.run(message)?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

fn report(options: &Options, rounds: &[Round]) -> Result<()> {
    write_csv(
        &options.results,
        "capture",
        "message,statements,workspace_milliseconds,direct_milliseconds",
        rounds.iter().map(|round| {
            let (kind, statements) = (round.kind.name(), round.statements);
            format!("{kind},{statements},{:.3},{:.3}", round.workspace, round.direct)
        }),
    )?;
    let mut table = Table::new(&["message", "statements", "direct, ms", "workspace, ms", "ratio (95 %)"]);
    for kind in Kind::ALL {
        for &statements in &options.statements {
            let of = |round: &&Round| round.kind.name() == kind.name() && round.statements == statements;
            let workspace: Vec<f64> = rounds.iter().filter(of).map(|round| round.workspace).collect();
            let direct: Vec<f64> = rounds.iter().filter(of).map(|round| round.direct).collect();
            let ratio = Ratio::of_pairs(&workspace, &direct).context("no rounds")?;
            let shown = |values: &[f64]| median(values).map_or_else(|| "-".to_owned(), |median| format!("{median:.0}"));
            table.row([
                kind.name().to_owned(),
                statements.to_string(),
                shown(&direct),
                shown(&workspace),
                format!("{:.2} ({:.2}..{:.2})", ratio.median, ratio.low, ratio.high),
            ]);
        }
    }
    println!("{table}");
    Ok(())
}
