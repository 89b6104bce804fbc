//! `tenantsdb migrate`: shows and applies the migrations of the metadata store.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use tdb_store::migrations::{self, MigrationState, MigrationStatus};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::config::Config;
use crate::running::Keys;

#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  tenantsdb migrate status --config proxy.toml\n  tenantsdb migrate up --config proxy.toml"
)]
pub(crate) struct MigrateArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// List the migrations and whether they are applied; changes nothing
    #[command(after_help = "Example:\n  tenantsdb migrate status --config proxy.toml")]
    Status(MigrateConfig),
    /// Apply pending migrations; `serve` does this at its start too
    #[command(after_help = "Example:\n  tenantsdb migrate up --config proxy.toml")]
    Up(MigrateConfig),
}

#[derive(Args, Debug)]
struct MigrateConfig {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "proxy.toml")]
    config: PathBuf,
}

pub(crate) async fn run(args: &MigrateArgs) -> Result<()> {
    match &args.action {
        Action::Status(args) => status(&Config::load(&args.config)?).await,
        Action::Up(args) => up(&Config::load(&args.config)?).await,
    }
}

async fn status(config: &Config) -> Result<()> {
    let keys = Keys::of(config)?;
    let migrations = migrations::status(&config.store.url, &keys.tls)
        .await
        .context("cannot read the migrations of the metadata store")?;
    for migration in &migrations {
        println!("{}", line(migration)?);
    }
    Ok(())
}

async fn up(config: &Config) -> Result<()> {
    let keys = Keys::of(config)?;
    let master_key = Arc::clone(&keys.master_key);
    let applied = migrations::migrate(&config.store.url, &master_key, &keys.tls);
    let applied = applied.await.context("cannot migrate the metadata store")?;
    for migration in &applied {
        println!("{:04} {}: applied now", migration.number, migration.name);
    }
    if applied.is_empty() {
        println!("no pending migrations");
    }
    Ok(())
}

fn line(migration: &MigrationStatus) -> Result<String> {
    let since = |at: &OffsetDateTime| at.format(&Rfc3339);
    let state = match &migration.state {
        MigrationState::Pending => "pending".to_owned(),
        MigrationState::Applied { at } => format!("applied {}", since(at)?),
        MigrationState::Changed { at } => format!("applied {} with a different text than in this version", since(at)?),
        MigrationState::Unknown { at } => format!("applied {} by a newer version", since(at)?),
    };
    Ok(format!("{:04} {}: {state}", migration.number, migration.name))
}
