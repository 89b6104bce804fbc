//! Tenants with twins. The twin of a tenant's database is a copy of its files on the same server, so that both have the same
//! oids, and its role has the same privileges as the tenant's; clients log in to it directly.

use serde_json::Value;

use crate::{Instance, in_database, psql, url_with};

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
const PASSWORD: &str = "twin";

pub struct Twins {
    pub instance: Instance,
    pub tenants: Vec<Twin>,
}

/// The two ways to reach the data of a tenant.
pub struct Twin {
    pub tenant: String,
    /// Through the proxy.
    pub proxied: String,
    /// The twin database, without the proxy.
    pub direct: String,
}

impl Twins {
    /// Starts an instance with these tenants.
    pub fn start(tenants: &[&str]) -> Self {
        let instance = Instance::start();
        let workspace = instance.workspace(BLUEPRINT);
        psql(&workspace.url, SCHEMA).ok();
        let tenants = tenants.iter().map(|name| Twin::create(&instance, name)).collect();
        Self { instance, tenants }
    }

    pub fn proxied(&self, tenant: &str) -> String {
        self.find(tenant).proxied.clone()
    }

    pub fn direct(&self, tenant: &str) -> String {
        self.find(tenant).direct.clone()
    }

    fn find(&self, tenant: &str) -> &Twin {
        let twin = self.tenants.iter().find(|twin| twin.tenant == tenant);
        twin.unwrap_or_else(|| panic!("no tenant {tenant}"))
    }
}

impl Twin {
    fn create(instance: &Instance, name: &str) -> Self {
        let tenant = instance.tenant(name, BLUEPRINT);
        let database = &tenant.answer["databases"][0]["connection"]["database"];
        let database = Value::as_str(database).expect("a database");
        let role = psql(&tenant.url, "SELECT current_user").ok().text().to_owned();
        let twin = format!("twin_{name}");
        let admin = instance.server_url("postgres");
        // The session of psql above can end later than psql.
        let ends = format!(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{database}' AND pid <> pg_backend_pid()"
        );
        psql(&admin, &ends).ok();
        psql(&admin, &format!("CREATE DATABASE {twin} TEMPLATE {database}")).ok();
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
            proxied: tenant.url,
            direct: url_with(&admin, Some(&twin), Some(PASSWORD), Some(&twin)),
        }
    }
}
