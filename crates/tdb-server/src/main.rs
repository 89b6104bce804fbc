//! The binary `tenantsdb`: configuration, log, the private PostgreSQL of `dev`, and the composition of all parts. It
//! contains no logic of tenants, SQL or the wire protocol.

mod certificate;
mod check;
mod config;
mod dev;
mod health;
mod home;
mod http;
mod migrate;
mod running;
mod serve;
mod signals;
mod sockets;
mod telemetry;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

use config::ConfigError;
use tdb_problems::system::without_codes;

/// Worker threads of the control plane, which mostly waits for databases. The data plane has a separate thread.
const CONTROL_PLANE_THREADS: usize = 2;
/// The exit status for an invalid configuration (EX_USAGE of sysexits.h).
const EXIT_CONFIG: u8 = 64;

/// Thousands of isolated tenant databases behind one PostgreSQL endpoint, from one schema.
#[derive(Parser, Debug)]
#[command(name = "tenantsdb", version, arg_required_else_help = true)]
#[command(
    after_help = "Examples:\n  tenantsdb dev\n  tenantsdb check --config proxy.toml\n  tenantsdb serve --config proxy.toml"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a whole installation in one directory, with a private PostgreSQL
    #[command(args_override_self = true)]
    Dev(dev::DevArgs),
    /// Run proxy, admin API and jobs with your own PostgreSQL servers
    #[command(after_help = "Example:\n  tenantsdb serve --config /etc/tenantsdb/proxy.toml")]
    Serve(ConfigArgs),
    /// Show or apply the metadata store's migrations
    Migrate(migrate::MigrateArgs),
    /// Check that a configuration is valid and that the store and servers in it can be reached
    #[command(
        after_help = "Example:\n  tenantsdb check --config /etc/tenantsdb/proxy.toml\n\nExit status: 0 no error, 1 a server is not reachable or the store is not migrated, 64 the configuration is invalid."
    )]
    Check(ConfigArgs),
}

#[derive(Args, Debug)]
struct ConfigArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "proxy.toml")]
    config: PathBuf,
}

const STACK_BYTES: usize = 8 << 20;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tenantsdb: {}", without_codes(&format!("{error:#}")));
            if error.is::<ConfigError>() {
                ExitCode::from(EXIT_CONFIG)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn run(command: &Command) -> Result<ExitCode> {
    #[cfg(debug_assertions)]
    arm_fault()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // Measured in a build without optimization: creations and deployments use 1.3 MB, and the default is 2 MB. Memory of
        // a stack that is not used is not taken.
        .thread_stack_size(STACK_BYTES)
        .worker_threads(CONTROL_PLANE_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let outcome = runtime.block_on(async {
        match command {
            Command::Dev(args) => dev::run(args).await.map(|()| ExitCode::SUCCESS),
            Command::Serve(args) => serve::run(&args.config).await.map(|()| ExitCode::SUCCESS),
            Command::Migrate(args) => migrate::run(args).await.map(|()| ExitCode::SUCCESS),
            Command::Check(args) => check::run(&args.config).await,
        }
    });
    // Tasks that still run after the drain, or after a second signal, are not waited for.
    runtime.shutdown_background();
    outcome
}

/// Kill tests set the name of the fault point at which this process ends. Release builds have no fault points.
#[cfg(debug_assertions)]
fn arm_fault() -> Result<()> {
    if let Ok(spec) = std::env::var("TDB_FAULT") {
        tdb_engines::fault::arm(&spec).context("TDB_FAULT")?;
    }
    Ok(())
}
