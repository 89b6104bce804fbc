//! `tenantsdb dev`: a complete installation in one directory, with a private PostgreSQL for the metadata store and the
//! tenants. It runs the same parts as `serve`, with a generated configuration.

mod cluster;
mod directory;
mod facts;
mod postgres;
mod programs;
mod store;
mod welcome;

use std::env;
use std::io::{Write as _, stdout};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use tdb_auth::{ApiKey, MasterKey, NoRandom};
use tdb_control::Signup;
use tdb_names::TlsMode;

use crate::certificate;
use crate::config::{
    CertificateFiles, ClientTlsMode, Config, Log, LogFormat, PoolMode, PublicAddress, SERVER_CONNECTIONS_MAX, Server,
    Tls,
};
use crate::running::{Foundation, Running};
use crate::signals::Signals;
use crate::sockets::{self, Sockets, Wanted};
use crate::telemetry;

use directory::Directory;
use facts::{Facts, ProxyAddresses, Ready};
use postgres::{ADMINISTRATOR, Postgres, UpstreamPort};

/// Shorter than the default of `serve`, because a developer waits at the terminal.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);
const LOG_VARIABLE: &str = "TENANTSDB_LOG";
/// Without a line for each request and session, so that the terminal stays readable.
const LOG_DEFAULT: &str = "info,tdb_api=warn,tdb_proxy=warn";
const SERVER: &str = "dev";
const TOO_EARLY: &str = "stopped by a signal before it was ready";
/// All extensions that give no access beyond their database.
const ALL_EXTENSIONS: &str = "*";

#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  tenantsdb dev\n  tenantsdb dev --data-dir /tmp/try --reset --postgres-port 0 --api-port 0 --metrics-port 0 --upstream-port 0\n\nThe environment variable TENANTSDB_LOG sets the log level; \"info\" shows a line for each request and each session."
)]
pub(crate) struct DevArgs {
    /// The directory for all data [default: /var/lib/tenantsdb-dev for root, else $XDG_DATA_HOME/tenantsdb/dev]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Start with an empty directory: removes all workspaces and tenants of this instance
    #[arg(long)]
    reset: bool,
    /// Print one line of JSON when ready, instead of the addresses and next steps
    #[arg(long)]
    json: bool,
    /// Port of the proxy on 127.0.0.1, for PostgreSQL clients; 0 means any free port
    #[arg(long, value_name = "PORT", default_value_t = 6432, value_parser = port)]
    postgres_port: u16,
    /// Port of the admin API; 0 means any free port
    #[arg(long, value_name = "PORT", default_value_t = 9876, value_parser = port)]
    api_port: u16,
    /// Port of metrics and health; 0 means any free port
    #[arg(long, value_name = "PORT", default_value_t = 9877, value_parser = port)]
    metrics_port: u16,
    /// Port of the private PostgreSQL; 0 means any free port
    #[arg(long, value_name = "PORT", default_value_t = 6433, value_parser = port)]
    upstream_port: u16,
    /// Whether the clients of a tenant's database share server connections
    #[arg(long, value_name = "MODE", value_enum, default_value_t = PoolMode::Session)]
    pool_mode: PoolMode,
    /// The maximum number of connections that the clients share
    #[arg(long, value_name = "NUMBER", default_value_t = SERVER_CONNECTIONS_MAX)]
    server_connections_max: NonZeroU32,
}

/// The secrets of an instance. Each is in a file in the instance's directory.
struct Secrets {
    administrator: SecretString,
    store_owner: SecretString,
    master_key: SecretString,
    api_key: SecretString,
}

/// Parses a TCP port. The standard library's errors, such as "invalid digit found in string", are not shown to users.
fn port(text: &str) -> Result<u16, String> {
    text.parse()
        .map_err(|_| "must be a port number from 0 to 65535".to_owned())
}

/// Runs until a signal arrives, or until PostgreSQL or another part fails.
pub(crate) async fn run(args: &DevArgs) -> Result<()> {
    let level = env::var(LOG_VARIABLE).unwrap_or_else(|_| LOG_DEFAULT.to_owned());
    telemetry::start(&Log {
        format: LogFormat::Text,
        level,
    })
    .with_context(|| format!("{LOG_VARIABLE} is invalid"))?;
    let mut signals = Signals::new()?;
    let path = args.data_dir.clone().map_or_else(facts::default_data_dir, Ok)?;
    let directory = Directory::take(&path)?;
    facts::withdraw(&directory);
    // It may use one of the ports.
    postgres::stop_orphan(&directory).await?;
    let sockets = args.bind()?;
    if args.reset {
        directory.reset()?;
    }
    let secrets = Secrets::of(&directory)?;
    let mut postgres = tokio::select! {
        started = Postgres::start(&directory, &secrets.administrator, args.upstream()) => started?,
        () = signals.next() => bail!("{TOO_EARLY}"),
    };
    let served = tokio::select! {
        served = serve(args, &directory, &secrets, sockets, postgres.port(), &mut signals) => served,
        status = postgres.ended() => match status {
            Ok(status) => Err(anyhow::anyhow!("the private PostgreSQL ended with {status}; {}", postgres::last_words(&directory))),
            Err(error) => Err(error.into()),
        },
    };
    facts::withdraw(&directory);
    let stopped = postgres.stop().await;
    served.and(stopped)
}

/// Starts all other parts after PostgreSQL is running, and returns at the end of the drain.
async fn serve(
    args: &DevArgs,
    directory: &Directory,
    secrets: &Secrets,
    sockets: Sockets,
    upstream_port: u16,
    signals: &mut Signals,
) -> Result<()> {
    let started = async {
        let url = store::provision(upstream_port, &secrets.administrator, &secrets.store_owner).await?;
        let config = configuration(args, directory, secrets, &sockets, &url, upstream_port)?;
        let facts = facts_of(secrets, &sockets, upstream_port)?;
        let foundation = Foundation::lay(&config).await?;
        // This process has locked the directory, so the previous process has ended.
        foundation.take_over(&directory.path().display().to_string()).await?;
        let running = Running::start(foundation, &config, sockets).await?;
        anyhow::Ok((running, facts))
    };
    let (mut running, facts) = tokio::select! {
        started = started => started?,
        () = signals.next() => bail!("{TOO_EARLY}"),
    };
    let file = facts.write(directory)?;
    announce(args, &facts, directory, file)?;
    let failed = tokio::select! {
        () = signals.next() => Ok(()),
        error = running.failed() => Err(error),
    };
    tracing::info!("stopping; clients have {DRAIN_TIME_MAX:?} to finish their transactions");
    tokio::select! {
        () = running.drain() => {}
        // The second signal ends the drain; the caller still stops PostgreSQL.
        () = signals.next() => {}
    }
    failed
}

fn announce(args: &DevArgs, facts: &Facts, directory: &Directory, file: PathBuf) -> Result<()> {
    let text = if args.json {
        let ready = Ready {
            ready: true,
            api_url: &facts.api_url,
            proxy: &facts.proxy,
            metrics_url: &facts.metrics_url,
            facts: file,
        };
        format!("{}\n", serde_json::to_string(&ready)?)
    } else {
        welcome::text(facts, directory.path())
    };
    let mut out = stdout();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("cannot write to standard output")
}

impl DevArgs {
    /// Binds the ports. The error lists all ports that are in use, including that of PostgreSQL, which binds it later.
    fn bind(&self) -> Result<Sockets> {
        let wanted = |port, option| Wanted {
            address: (Ipv4Addr::LOCALHOST, port).into(),
            option,
        };
        let upstream = wanted(self.upstream_port, "--upstream-port (0: any free one)");
        let bound = Sockets::bind(
            wanted(self.postgres_port, "--postgres-port (0: any free one)"),
            wanted(self.api_port, "--api-port (0: any free one)"),
            wanted(self.metrics_port, "--metrics-port (0: any free one)"),
        );
        match (bound, sockets::check_free(upstream, "the private PostgreSQL")) {
            (Ok(sockets), Ok(())) => Ok(sockets),
            (Ok(_), Err(refused)) | (Err(refused), Ok(())) => Err(refused),
            (Err(refused), Err(upstream)) => bail!("{refused}\n{upstream}"),
        }
    }

    fn upstream(&self) -> UpstreamPort {
        match self.upstream_port {
            0 => UpstreamPort::Any,
            port => UpstreamPort::Fixed(port),
        }
    }
}

impl Secrets {
    fn of(directory: &Directory) -> Result<Self> {
        let api_key = || -> Result<SecretString, NoRandom> { Ok(ApiKey::generate()?.reveal().to_owned().into()) };
        Ok(Self {
            administrator: directory.secret("administrator-password", tdb_auth::password)?,
            store_owner: directory.secret("store-password", tdb_auth::password)?,
            master_key: directory.secret("master-key", MasterKey::generate)?,
            api_key: directory.secret("api-key", api_key)?,
        })
    }
}

/// The configuration of this instance, in place of a `proxy.toml`.
fn configuration(
    args: &DevArgs,
    directory: &Directory,
    secrets: &Secrets,
    sockets: &Sockets,
    store_url: &SecretString,
    upstream_port: u16,
) -> Result<Config> {
    let mut config = Config::with_secrets(store_url, &secrets.master_key, directory.path())?;
    let proxy = sockets.proxy.local_addr()?;
    config.proxy.listen = proxy;
    config.proxy.pool_mode = args.pool_mode;
    config.proxy.server_connections_max = args.server_connections_max;
    config.proxy.public_address = Some(PublicAddress {
        host: proxy.ip().to_string(),
        port: proxy.port(),
    });
    config.proxy.tls = Tls {
        mode: ClientTlsMode::Prefer,
        files: Some(certificate_in(directory)?),
    };
    config.bootstrap_key = Some(secrets.api_key.clone());
    config.signup = Signup::Open;
    config.shutdown_timeout = DRAIN_TIME_MAX;
    config.servers = vec![Server {
        name: SERVER.parse()?,
        host: Ipv4Addr::LOCALHOST.to_string(),
        port: upstream_port,
        user: ADMINISTRATOR.to_owned(),
        password: secrets.administrator.clone(),
        tls: TlsMode::Disable,
        extensions: vec![ALL_EXTENSIONS.to_owned()],
    }];
    Ok(config)
}

/// The instance's certificate; created at the first start.
fn certificate_in(directory: &Directory) -> Result<CertificateFiles> {
    let files = CertificateFiles {
        certificate: directory.file("proxy.crt"),
        key: directory.file("proxy.key"),
    };
    if !(files.certificate.exists() && files.key.exists()) {
        let pem = certificate::make_for_development()?;
        directory.write_private("proxy.key", &pem.key)?;
        // Clients on this machine verify the proxy with it (sslmode=verify-full).
        directory.write_public("proxy.crt", &pem.certificate)?;
    }
    Ok(files)
}

fn facts_of(secrets: &Secrets, sockets: &Sockets, upstream_port: u16) -> Result<Facts> {
    let http = |address: SocketAddr| format!("http://{address}");
    Ok(Facts {
        api_url: http(sockets.api.local_addr()?),
        api_key: secrets.api_key.expose_secret().to_owned(),
        proxy: ProxyAddresses {
            postgres: sockets.proxy.local_addr()?.to_string(),
        },
        metrics_url: http(sockets.metrics.local_addr()?),
        server_url: format!(
            "postgresql://{ADMINISTRATOR}:{}@127.0.0.1:{upstream_port}/postgres",
            secrets.administrator.expose_secret()
        ),
        pid: std::process::id(),
    })
}
