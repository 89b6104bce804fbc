//! The project's measurements, one command each. README.md says how they are taken and what came out.

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
    /// All, if none is named
    #[command(subcommand)]
    bench: Option<Bench>,
}

#[derive(Subcommand)]
enum Bench {
    /// CPU and system calls per query of the proxy, beside PgBouncer and HAProxy
    Relay(relay::Options),
    /// Tenant creation, beside the bare CREATE DATABASE … TEMPLATE
    Tenants(tenants::Options),
    /// One ALTER TABLE over a fleet, beside fresh connections that do nothing else and beside xargs psql
    Deploy(deploy::Options),
    /// One message of many DDL statements in a workspace, beside the same in a database without capture
    Capture(capture::Options),
    /// The relay without a protocol that the others are compared with
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
    /// What runs when none is named, with its defaults.
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
