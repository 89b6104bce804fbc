//! Tenants with twins. The twin of a tenant's database is a copy of its files on the same server, so that both have the same
//! oids, and its role has the same privileges as the tenant's; clients log in to it directly.

use std::time::Duration;

use crate::{Instance, InstanceOptions, Workspace, database_of, eventually, in_database, psql, url_with};

/// What the tenants' databases contain. Each client has separate rows, and `owner` is its tag.
const SCHEMA: &str = r"
CREATE TABLE item (owner text, id int, pad text, PRIMARY KEY (owner, id));
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE FUNCTION say(words text) RETURNS text LANGUAGE plpgsql AS
  $$BEGIN RAISE NOTICE 'said %', words USING DETAIL = 'a detail', HINT = 'a hint'; RETURN words; END$$;
CREATE FUNCTION fail(words text) RETURNS text LANGUAGE plpgsql AS
  $$BEGIN RAISE EXCEPTION 'failed %', words USING ERRCODE = 'P7777', DETAIL = 'a detail', COLUMN = 'c', TABLE = 't'; END$$;
";
const BLUEPRINT: &str = "mix";
/// The name of the workspace among the tenants. The relay of its sessions differs: it captures DDL.
pub const WORKSPACE: &str = "workspace";
const PASSWORD: &str = "twin";
const COPY_TIME_MAX: Duration = Duration::from_secs(60);

pub struct Twins {
    pub instance: Instance,
    twins: Vec<Twin>,
}

/// The two ways to reach the data of a tenant.
struct Twin {
    tenant: String,
    /// Through the proxy.
    proxied: String,
    /// The twin database, without the proxy.
    direct: String,
}

impl Twins {
    /// Starts an instance with these tenants, and the workspace as another one with the name [`WORKSPACE`].
    pub fn start(tenants: &[&str], options: &InstanceOptions) -> Self {
        let instance = Instance::start_with(options);
        let workspace = instance.workspace(BLUEPRINT);
        psql(&workspace.url, SCHEMA).ok();
        let mut twins: Vec<Twin> = tenants.iter().map(|name| Twin::of_tenant(&instance, name)).collect();
        twins.push(Twin::of_workspace(&instance, &workspace));
        Self { instance, twins }
    }

    pub fn proxied(&self, tenant: &str) -> String {
        self.find(tenant).proxied.clone()
    }

    pub fn direct(&self, tenant: &str) -> String {
        self.find(tenant).direct.clone()
    }

    fn find(&self, tenant: &str) -> &Twin {
        let twin = self.twins.iter().find(|twin| twin.tenant == tenant);
        twin.unwrap_or_else(|| panic!("no tenant {tenant}"))
    }
}

impl Twin {
    fn of_tenant(instance: &Instance, name: &str) -> Self {
        let tenant = instance.tenant(name, BLUEPRINT);
        Self::create(instance, name, &tenant.url)
    }

    /// Without the event triggers that journal DDL: what they add must not reach the client.
    fn of_workspace(instance: &Instance, workspace: &Workspace) -> Self {
        let twin = Self::create(instance, WORKSPACE, &workspace.url);
        let disable = "SELECT format('ALTER EVENT TRIGGER %I DISABLE', evtname) FROM pg_event_trigger \\gexec";
        let admin = instance.server_url(&database_of(&twin.direct));
        psql(&admin, disable).ok();
        twin
    }

    fn create(instance: &Instance, name: &str, url: &str) -> Self {
        let database = database_of(url);
        let role = psql(url, "SELECT current_user").ok().text().to_owned();
        let twin = format!("twin_{name}");
        let admin = instance.server_url("postgres");
        // A template must have no sessions: that of psql above can end later than psql, and the control plane connects too.
        let ends =
            format!("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{database}'");
        let copy = format!("{ends};\nCREATE DATABASE {twin} TEMPLATE {database};");
        eventually(COPY_TIME_MAX, "the database is copied", || {
            (psql(&admin, &copy).code == 0).then_some(())
        });
        let grants = format!(
            "CREATE ROLE {twin} LOGIN PASSWORD '{PASSWORD}';
             GRANT tdb_writers TO {twin};
             REVOKE ALL ON DATABASE {twin} FROM PUBLIC;
             GRANT CONNECT, CREATE, TEMPORARY ON DATABASE {twin} TO {twin};
             REASSIGN OWNED BY {role} TO {twin}"
        );
        psql(&in_database(&admin, &twin), &grants).ok();
        Self {
            tenant: name.to_owned(),
            proxied: url.to_owned(),
            direct: url_with(&admin, Some(&twin), Some(PASSWORD), Some(&twin)),
        }
    }
}
