//! The proxies that TenantsDB is compared with: PgBouncer in session mode, HAProxy in TCP mode, and the spike. Each has one
//! thread, TCP connections, and configuration files in a temporary directory.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::{env, fs};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::pgbench::Endpoint;
use crate::process::{Program, tied, unprivileged};
use crate::spike::Variant;

/// A path from pgbench to the server. The direct path has no process.
#[derive(Debug)]
pub(crate) struct Path {
    pub name: String,
    pub endpoint: Endpoint,
    pub pid: Option<u32>,
    /// Kept because dropping it stops the process.
    _running: Option<(Program, TempDir)>,
}

impl Path {
    pub(crate) fn direct(upstream: &Endpoint) -> Self {
        Self {
            name: "direct".to_owned(),
            endpoint: upstream.clone(),
            pid: None,
            _running: None,
        }
    }

    /// A proxy that is started elsewhere.
    pub(crate) fn running(name: &str, endpoint: Endpoint, pid: u32) -> Self {
        Self {
            name: name.to_owned(),
            endpoint,
            pid: Some(pid),
            _running: None,
        }
    }

    pub(crate) fn pgbouncer(upstream: &Endpoint) -> Result<Self> {
        let dir = TempDir::with_prefix("tdb-bench-")?;
        let listen = free_address()?;
        let (config, users) = (dir.path().join("pgbouncer.ini"), dir.path().join("users.txt"));
        fs::write(&users, format!("\"{}\" \"{}\"\n", upstream.user, upstream.password))?;
        fs::write(
            &config,
            format!(
                "[databases]\n* = host={} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\n\
                 unix_socket_dir =\npool_mode = session\nauth_type = scram-sha-256\nauth_file = {}\n\
                 max_client_conn = 500\ndefault_pool_size = 100\nmax_db_connections = 0\n\
                 ignore_startup_parameters = extra_float_digits\n",
                upstream.host,
                upstream.port,
                listen.port(),
                users.display(),
            ),
        )?;
        let mut command = tied("/usr/sbin/pgbouncer");
        command
            .arg("-q")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        unprivileged(&mut command, &[dir.path(), &config, &users])?;
        Self::start("pgbouncer", upstream, listen, command, dir)
    }

    pub(crate) fn haproxy(upstream: &Endpoint) -> Result<Self> {
        let dir = TempDir::with_prefix("tdb-bench-")?;
        let listen = free_address()?;
        let config = dir.path().join("haproxy.cfg");
        fs::write(
            &config,
            format!(
                "global\n  nbthread 1\ndefaults\n  mode tcp\n  timeout connect 10s\n  timeout client 1h\n  timeout server 1h\n\
                 listen postgres\n  bind {listen}\n  server one {}:{}\n",
                upstream.host, upstream.port
            ),
        )?;
        let mut command = tied("/usr/sbin/haproxy");
        command.arg("-db").arg("-f").arg(&config);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Self::start("haproxy", upstream, listen, command, dir)
    }

    /// This program, running as a relay.
    pub(crate) fn spike(upstream: &Endpoint, variant: Variant, event_interval: u32) -> Result<Self> {
        let listen = free_address()?;
        let mut command = tied(env::current_exe().context("find this program")?);
        command
            .args(["spike", "--variant", variant.name()])
            .args(["--listen", &listen.to_string()])
            .args(["--upstream", &format!("{}:{}", upstream.host, upstream.port)])
            .args(["--event-interval", &event_interval.to_string()]);
        let mut path = Self::start("spike", upstream, listen, command, TempDir::new()?)?;
        path.name = format!("spike-{}", variant.name());
        if event_interval != crate::spike::EVENT_INTERVAL {
            path.name.push_str(&format!("-{event_interval}"));
        }
        Ok(path)
    }

    fn start(
        name: &'static str,
        upstream: &Endpoint,
        listen: SocketAddr,
        mut command: Command,
        dir: TempDir,
    ) -> Result<Self> {
        let mut program = Program::spawn(name, &mut command)?;
        program.wait_for(listen)?;
        Ok(Self {
            name: name.to_owned(),
            endpoint: Endpoint {
                host: listen.ip().to_string(),
                port: listen.port(),
                ..upstream.clone()
            },
            pid: Some(program.pid()),
            _running: Some((program, dir)),
        })
    }
}

fn free_address() -> Result<SocketAddr> {
    Ok((Ipv4Addr::LOCALHOST, tdb_testkit::free_port()?).into())
}
