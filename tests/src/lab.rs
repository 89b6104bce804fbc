//! Workspaces and tenants created through the API, with the operations that tests need most.

use std::time::Duration;

use serde_json::{Value, json};
use tokio_postgres::Config;

use crate::{Instance, Session, connect, eventually, psql, schema_dump};

/// The time limit for creating a tenant on a busy machine.
const PROVISION_TIME_MAX: Duration = Duration::from_secs(90);
const DEPLOY_TIME_MAX: Duration = Duration::from_secs(180);

#[derive(Clone, Debug)]
pub struct Workspace {
    pub name: String,
    /// The connection string through the proxy, with the password.
    pub url: String,
}

#[derive(Clone, Debug)]
pub struct Tenant {
    pub name: String,
    pub blueprint: String,
    /// The connection string through the proxy, with the password.
    pub url: String,
    /// The response to the creation.
    pub answer: Value,
}

impl Instance {
    pub fn workspace(&self, name: &str) -> Workspace {
        let body = json!({"name": name, "database": "PostgreSQL"});
        let answer = self.api().post("/workspaces", body).ok();
        let url = answer["connection_string"]
            .as_str()
            .expect("a connection string")
            .to_owned();
        Workspace {
            name: name.to_owned(),
            url,
        }
    }

    /// Creates a tenant with one database, and waits until it is ready.
    pub fn tenant(&self, name: &str, blueprint: &str) -> Tenant {
        let body = json!({"tenant_id": name, "databases": [{"blueprint": blueprint}]});
        let answer = self.api().post("/tenants", body).ok();
        self.wait_until_ready(name);
        let url = connection_string(&answer, blueprint);
        Tenant {
            name: name.to_owned(),
            blueprint: blueprint.to_owned(),
            url,
            answer,
        }
    }

    /// Creates a blueprint with one table `t (id int)`, and its tenants.
    pub fn simple(&self, blueprint: &str, tenants: &[&str]) -> (Workspace, Vec<Tenant>) {
        let workspace = self.workspace(blueprint);
        psql(&workspace.url, "CREATE TABLE t (id int)").ok();
        let tenants = tenants.iter().map(|name| self.tenant(name, blueprint)).collect();
        (workspace, tenants)
    }

    pub fn wait_until_ready(&self, tenant: &str) -> Value {
        let path = format!("/tenants/{tenant}");
        eventually(PROVISION_TIME_MAX, &format!("tenant {tenant} is ready"), || {
            let answer = self.api().get(&path).ok();
            assert_ne!(answer["status"], "error", "{answer:#}");
            (answer["status"] == "ready").then_some(answer)
        })
    }

    /// Deploys to all tenants and waits for the end. Returns the deployment.
    pub fn deploy_all(&self, blueprint: &str) -> Value {
        let body = json!({"blueprint_name": blueprint, "deploy_all": true});
        let job = self.api().post("/deployments", body).ok();
        self.wait_for_deployment(job["job_id"].as_str().expect("a job id"))
    }

    pub fn wait_for_deployment(&self, job: &str) -> Value {
        eventually(DEPLOY_TIME_MAX, &format!("deployment {job} ends"), || {
            let answer = self.api().get(&format!("/deployments/{job}")).ok();
            let ended = ["completed", "failed", "cancelled"]
                .iter()
                .any(|status| answer["status"] == *status);
            ended.then_some(answer)
        })
    }

    /// Requests a drift check of the blueprint's tenants, and returns the report.
    pub fn drift(&self, blueprint: &str) -> Value {
        let refresh = self.api().post("/drift/refresh", json!({"blueprint": blueprint}));
        assert_eq!(refresh.status, 202, "{:#}", refresh.body);
        eventually(PROVISION_TIME_MAX, "every tenant is looked at", || {
            let drift = self.api().get(&format!("/drift?blueprint={blueprint}")).ok();
            (drift["pending"] == 0).then_some(drift)
        })
    }

    /// The pending changes of a workspace, in order.
    pub fn diff(&self, workspace: &str) -> Vec<Value> {
        let answer = self.api().get(&format!("/workspaces/{workspace}/diff?limit=1000")).ok();
        answer["changes"].as_array().expect("changes").clone()
    }

    /// Verifies the change log of a workspace: a tenant created from it has the workspace's schema, according to its
    /// fingerprint and `pg_dump`, and no change is broken.
    pub fn prove(&self, workspace: &Workspace) -> Tenant {
        for change in self.diff(&workspace.name) {
            assert_eq!(change["state"], "pending", "{change:#}");
        }
        let tenant = self.tenant(&format!("p{}", workspace.name), &workspace.name);
        let warnings = &tenant.answer["warnings"];
        assert!(warnings.as_array().is_none_or(Vec::is_empty), "{warnings:#}");
        let drift = self.drift(&workspace.name);
        assert_eq!(drift["count"], 0, "{drift:#}");
        assert_eq!(
            self.diff(&workspace.name),
            Vec::<Value>::new(),
            "the new tenant has every change"
        );
        assert_eq!(
            self.dump(&tenant.url),
            self.dump(&workspace.url),
            "tenant (left) and workspace (right)"
        );
        tenant
    }

    /// `pg_dump --schema-only` with the client's credential, with the role's name replaced.
    pub fn dump(&self, url: &str) -> String {
        let role = psql(url, "SELECT current_user").ok().text().to_owned();
        schema_dump(url, &role)
    }
}

impl Workspace {
    pub async fn connect(&self) -> Session {
        connect(&self.url).await.expect("a session in the workspace")
    }
}

impl Tenant {
    pub async fn connect(&self) -> Session {
        connect(&self.url).await.expect("a session in the tenant's database")
    }

    pub fn user(&self) -> String {
        let config: Config = self.url.parse().expect("a connection string");
        config.get_user().expect("a user").to_owned()
    }
}

fn connection_string(answer: &Value, blueprint: &str) -> String {
    let databases = answer["databases"]
        .as_array()
        .unwrap_or_else(|| panic!("no databases: {answer:#}"));
    let database = databases
        .iter()
        .find(|database| database["blueprint"] == blueprint)
        .expect("its database");
    let url = database["connection"]["connection_string"].as_str();
    url.unwrap_or_else(|| panic!("no connection string: {answer:#}"))
        .to_owned()
}
