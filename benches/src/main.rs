//! The benchmarks of the project, one command each. README.md describes the method and the results.

mod capture;
mod deploy;
mod instance;
mod peers;
mod pgbench;
mod process;
mod relay;
mod report;
mod schema;
mod server;
mod spike;
mod statistics;
mod syscalls;
mod tenants;

use std::net::SocketAddr;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "tdb-benches",
    about = "Measurements of TenantsDB, beside what others need for the same"
)]
struct Cli {
    /// The commands to run; all if none is named
    #[command(subcommand)]
    bench: Option<Bench>,
}

#[derive(Subcommand)]
enum Bench {
    /// CPU and system calls per query of the proxy, compared with PgBouncer and HAProxy
    Relay(relay::Options),
    /// Tenant creation, compared with CREATE DATABASE … TEMPLATE alone
    Tenants(tenants::Options),
    /// One ALTER TABLE on many tenants, compared with new connections that run only the statement, and with xargs psql
    Deploy(deploy::Options),
    /// One message of many DDL statements in a workspace, compared with a database without capture
    Capture(capture::Options),
    /// The relay without a protocol, for the comparison
    #[command(hide = true)]
    Spike {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        upstream: SocketAddr,
        #[arg(long)]
        variant: spike::Variant,
        #[arg(long, default_value_t = spike::EVENT_INTERVAL)]
        event_interval: u32,
    },
}

fn main() -> Result<()> {
    match Cli::parse().bench {
        Some(bench) => bench.run(),
        None => Bench::ALL.iter().try_for_each(|name| {
            let Cli { bench } = Cli::parse_from(["tdb-benches", name]);
            bench.map_or(Ok(()), Bench::run)
        }),
    }
}

impl Bench {
    /// The commands that run if none is named, with their defaults.
    const ALL: [&str; 4] = ["relay", "tenants", "deploy", "capture"];

    fn run(self) -> Result<()> {
        match self {
            Bench::Relay(options) => relay::run(&options),
            Bench::Tenants(options) => tenants::run(&options),
            Bench::Deploy(options) => deploy::run(&options),
            Bench::Capture(options) => capture::run(&options),
            Bench::Spike {
                listen,
                upstream,
                variant,
                event_interval,
            } => Ok(spike::Relay {
                listen,
                upstream,
                variant,
                event_interval,
            }
            .run()?),
        }
    }
}
