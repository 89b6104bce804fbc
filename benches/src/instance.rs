//! The instance under test: the release build of `tenantsdb dev`, as built by `make`, with metrics and logging, on free
//! ports and with a separate data directory. It is stopped and removed when the value is dropped.

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tdb_client::http::Client;
use tdb_client::queries::Query;
use tdb_client::tenants::{CreateTenant, CreateTenantDatabase, Tenant, TenantStatus};
use tdb_client::workspaces::{CreateWorkspace, Workspace};
use tempfile::TempDir;

use crate::pgbench::Endpoint;
use crate::process::{Program, tied};

const START_TIME_MAX: Duration = Duration::from_secs(120);
const READY_TIME_MAX: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(10);

/// A running `tenantsdb dev`.
pub(crate) struct Instance {
    // Declared before the directory, since fields are dropped in this order.
    program: Program,
    pub api: Client,
    proxy: (String, u16),
    server_url: String,
    _dir: TempDir,
}

impl Instance {
    pub(crate) fn start() -> Result<Self> {
        let dir = TempDir::with_prefix("tdb-bench-")?;
        // PostgreSQL runs as another user if this program runs as root.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let data = dir.path().join("data");
        let log = dir.path().join("log");
        let mut command = tied(binary()?);
        command.arg("dev").arg("--data-dir").arg(&data).arg("--json");
        for port in ["--postgres-port", "--api-port", "--metrics-port", "--upstream-port"] {
            command.args([port, "0"]);
        }
        // `dev` registers the running instance there; the user's own entry must not change.
        for name in ["XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
            command.env(name, dir.path().join("home"));
        }
        command.stdout(Stdio::null()).stderr(File::create(&log)?);
        let mut program = Program::spawn("tenantsdb", &mut command)?;
        let facts = facts(&mut program, &data.join("dev.json"), &log)?;
        let text = |pointer: &str| -> Result<String> {
            let value = facts.pointer(pointer).and_then(Value::as_str);
            Ok(value.with_context(|| format!("dev.json has no {pointer}"))?.to_owned())
        };
        let proxy = text("/proxy/postgres")?;
        let (host, port) = proxy.rsplit_once(':').context("address of the proxy")?;
        Ok(Self {
            program,
            api: Client::new(&text("/api_url")?, Some(text("/api_key")?)),
            proxy: (host.to_owned(), port.parse()?),
            server_url: text("/server_url")?,
            _dir: dir,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.program.pid()
    }

    /// Creates a workspace with the schema `ddl`. Returns the password, which is shown only at creation.
    pub(crate) fn blueprint(&self, name: &str, ddl: &str) -> Result<Workspace> {
        let request = CreateWorkspace {
            name: name.to_owned(),
            database: "PostgreSQL".to_owned(),
        };
        let workspace = self
            .api
            .create_workspace(&request)
            .context("create the workspace")?
            .body;
        self.change(name, ddl)?;
        Ok(workspace)
    }

    /// Runs DDL in a workspace.
    pub(crate) fn change(&self, workspace: &str, ddl: &str) -> Result<()> {
        let query = Query { query: ddl.to_owned() };
        self.api
            .workspace_query(workspace, &query)
            .context("change the workspace")?;
        Ok(())
    }

    /// Creates a tenant and waits until it is ready.
    pub(crate) fn tenant(&self, name: &str, blueprint: &str) -> Result<Tenant> {
        let database = CreateTenantDatabase {
            blueprint: blueprint.to_owned(),
            isolation_level: None,
            version: None,
        };
        let request = CreateTenant {
            tenant_id: name.to_owned(),
            databases: vec![database],
        };
        let created = self.api.create_tenant(&request).context("create the tenant")?.body;
        let deadline = Instant::now() + READY_TIME_MAX;
        let mut status = created.status;
        while status != TenantStatus::Ready {
            ensure!(Instant::now() < deadline, "tenant {name} is still {}", status.as_str());
            thread::sleep(POLL);
            status = self.api.tenant(name)?.status;
        }
        Ok(created)
    }

    /// The address of a tenant's database through the proxy, with the tenant's credential.
    pub(crate) fn tenant_endpoint(&self, tenant: &Tenant) -> Result<Endpoint> {
        let database = tenant.databases.first().context("the tenant has no database")?;
        self.proxy_endpoint(&database.connection.connection_string, &database.connection.database)
    }

    /// The address of a new workspace through the proxy, with its credential.
    pub(crate) fn workspace_endpoint(&self, workspace: &Workspace) -> Result<Endpoint> {
        let database = workspace.connection.database.as_deref();
        self.proxy_endpoint(
            &workspace.connection_string,
            database.context("the workspace has no database")?,
        )
    }

    fn proxy_endpoint(&self, connection_string: &str, database: &str) -> Result<Endpoint> {
        let (user, password) = login(connection_string)?;
        Ok(Endpoint {
            host: self.proxy.0.clone(),
            port: self.proxy.1,
            user,
            password,
            database: database.to_owned(),
        })
    }

    /// The address of a database on the private PostgreSQL, without the proxy, as administrator.
    pub(crate) fn server_endpoint(&self, database: &str) -> Result<Endpoint> {
        let (user, password) = login(&self.server_url)?;
        let (_, address) = self.server_url.split_once('@').context("server_url has no address")?;
        let address = address.split(['/', '?']).next().unwrap_or_default();
        let (host, port) = address.rsplit_once(':').context("server_url has no port")?;
        Ok(Endpoint {
            host: host.to_owned(),
            port: port.parse()?,
            user,
            password,
            database: database.to_owned(),
        })
    }
}

/// The `tenantsdb` in the directory of this program: same cargo target directory, same profile.
fn binary() -> Result<PathBuf> {
    let this = env::current_exe().context("find this program")?;
    let binary = this.with_file_name("tenantsdb");
    ensure!(
        binary.exists(),
        "there is no {}; run `cargo build --release -p tdb-server` first",
        binary.display()
    );
    Ok(binary)
}

/// Waits for `dev.json`, which is written when the instance is ready.
fn facts(program: &mut Program, file: &Path, log: &Path) -> Result<Value> {
    let deadline = Instant::now() + START_TIME_MAX;
    while Instant::now() < deadline {
        if let Ok(text) = fs::read_to_string(file) {
            return serde_json::from_str(&text).context("read dev.json");
        }
        if let Err(ended) = program.still_running() {
            bail!(
                "{ended}; its log says:\n{}",
                fs::read_to_string(log).unwrap_or_default()
            );
        }
        thread::sleep(POLL);
    }
    bail!("tenantsdb dev is not ready after {START_TIME_MAX:?}")
}

/// The user and password of `postgresql://USER:PASSWORD@…`; generated ones contain no escapes.
fn login(url: &str) -> Result<(String, String)> {
    let (_, rest) = url.split_once("://").context("connection string")?;
    let (login, _) = rest.split_once('@').context("connection string without user")?;
    let (user, password) = login.split_once(':').context("connection string without password")?;
    Ok((user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn login_of_a_connection_string() {
        let found = login("postgresql://acme_abc234:s3cret@127.0.0.1:6432/myapp__acme?sslmode=disable").unwrap();
        assert_eq!(found, ("acme_abc234".to_owned(), "s3cret".to_owned()));
        assert!(login("postgresql://127.0.0.1/x").is_err());
    }
}
