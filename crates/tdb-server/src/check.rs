//! `tenantsdb check`: checks that `serve` could start and reach the store and the servers. It opens no port and changes
//! nothing.

use std::io::{Write, stdout};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use tdb_engines::postgres::Server as Administrator;
use tdb_problems::system::without_codes;
use tdb_store::Store;

use crate::config::{Config, Server};
use crate::running::{Keys, endpoint, server_tls, store_settings};

/// The result so far. Each line is written to standard output when its check is done.
struct Report {
    code: ExitCode,
}

/// Runs all checks. An error if the configuration is invalid.
pub(crate) async fn run(file: &Path) -> Result<ExitCode> {
    let config = Config::load(file)?;
    let keys = Keys::of(&config)?;
    server_tls(&config)?;
    let mut report = Report {
        code: ExitCode::SUCCESS,
    };
    report.line("configuration", Ok(file.display().to_string()))?;
    report.line("store", store(&config, &keys).await)?;
    for server in &config.servers {
        report.line(&format!("server {}", server.name), probe(server, &keys).await)?;
    }
    Ok(report.code)
}

async fn store(config: &Config, keys: &Keys) -> Result<String> {
    let store = Store::connect(&store_settings(config), Arc::clone(&keys.master_key), &keys.tls).await?;
    Ok(format!("installation {}, migrated", store.installation()))
}

async fn probe(server: &Server, keys: &Keys) -> Result<String> {
    let administrator = Administrator::new(
        endpoint(server),
        server.user.clone(),
        server.password.clone(),
        keys.tls.clone(),
    );
    let probe = administrator.probe().await?;
    Ok(format!(
        "PostgreSQL {}, {} connections, {} databases",
        probe.version / 10_000,
        probe.max_connections,
        probe.databases
    ))
}

impl Report {
    fn line(&mut self, what: &str, result: Result<String>) -> Result<()> {
        let text = match result {
            Ok(details) => format!("ok    {what}: {details}"),
            Err(error) => {
                self.code = ExitCode::FAILURE;
                without_codes(&format!("fails {what}: {error:#}"))
            }
        };
        writeln!(stdout(), "{text}").context("cannot write to standard output")
    }
}
