//! Calls as documented in the public quickstart of the hosted product, with this API and this `tdb`: the accepted ones are
//! called here, and docs/hosted-clients.md lists exactly these. The texts of the quickstart are not repeated.

use serde_json::Value;
use tdb_tests::{Api, Binaries, Instance, clean, eventually, is_generated, run};

const PAGE: &str = "docs/hosted-clients.md";

/// The expected outcome of a documented call.
enum Verdict {
    /// It succeeds, and the response has these fields (JSON pointers).
    Accepted(&'static [&'static str]),
    /// It is refused by name, since it is not implemented.
    NotBuilt,
    /// Not a documented call, but a precondition of the next one.
    Setup,
}
use Verdict::{Accepted, NotBuilt, Setup};

/// In an order in which they can be executed. `<name>` is a value of an earlier response.
const REQUESTS: [(&str, &str, &str, Verdict); 62] = [
    ("GET", "/", "", Accepted(&["/service", "/version"])),
    ("GET", "/health", "", Accepted(&["/status"])),
    (
        "POST",
        "/signup",
        r#"{"email": "you@company.com", "password": "yourpassword", "project_name": "My Project"}"#,
        Accepted(&["/api_key", "/project_id"]),
    ),
    (
        "POST",
        "/login",
        r#"{"email": "you@company.com", "password": "yourpassword"}"#,
        Accepted(&["/projects/0/project_id", "/projects/0/name", "/projects/0/api_key"]),
    ),
    (
        "GET",
        "/projects",
        "",
        Accepted(&[
            "/count",
            "/projects/0/project_id",
            "/projects/0/name",
            "/projects/0/api_key_count",
            "/projects/0/created_at",
        ]),
    ),
    (
        "POST",
        "/projects",
        r#"{"name": "New Project"}"#,
        Accepted(&["/project_id", "/message"]),
    ),
    ("DELETE", "/projects/<project_id>", "", Accepted(&[])),
    (
        "GET",
        "/apikeys",
        "",
        Accepted(&[
            "/count",
            "/api_keys/0/id",
            "/api_keys/0/project_id",
            "/api_keys/0/project_name",
            "/api_keys/0/is_active",
        ]),
    ),
    (
        "POST",
        "/apikeys",
        r#"{"project_name": "Key Name"}"#,
        Accepted(&["/api_key", "/id", "/project_name", "/message"]),
    ),
    ("DELETE", "/apikeys/<id>", "", Accepted(&[])),
    (
        "POST",
        "/workspaces",
        r#"{"name": "myapp", "database": "PostgreSQL"}"#,
        Accepted(&[
            "/id",
            "/blueprint",
            "/database",
            "/message",
            "/connection/host",
            "/connection/port",
            "/connection/database",
            "/connection/user",
            "/connection/password",
            "/connection_string",
        ]),
    ),
    (
        "GET",
        "/workspaces",
        "",
        Accepted(&[
            "/count",
            "/workspaces/0/id",
            "/workspaces/0/name",
            "/workspaces/0/database",
            "/workspaces/0/version",
        ]),
    ),
    (
        "GET",
        "/workspaces/<id>",
        "",
        Accepted(&[
            "/id",
            "/name",
            "/version",
            "/schema/type",
            "/schema/data/table_count",
            "/undeployed_changes",
            "/connection_string",
        ]),
    ),
    (
        "POST",
        "/workspaces/myapp/queries",
        r#"{"query": "CREATE TABLE accounts (id int)"}"#,
        Setup,
    ),
    (
        "POST",
        "/workspaces/myapp/queries",
        r#"{"query": "SELECT * FROM accounts"}"#,
        Accepted(&["/columns", "/rows"]),
    ),
    (
        "GET",
        "/workspaces/myapp/schema",
        "",
        Accepted(&["/schema/data/tables/0/name"]),
    ),
    (
        "POST",
        "/workspaces/myapp/schema",
        r#"{"source": "template", "template": "fintech"}"#,
        NotBuilt,
    ),
    (
        "POST",
        "/workspaces/myapp/schema",
        r#"{"source": "json", "tables": []}"#,
        NotBuilt,
    ),
    (
        "POST",
        "/workspaces/myapp/schema",
        r#"{"source": "database", "connection": {}}"#,
        NotBuilt,
    ),
    (
        "POST",
        "/workspaces/myapp/queries",
        r#"{"query": "CREATE TABLE scratch (id int)"}"#,
        Setup,
    ),
    (
        "POST",
        "/workspaces/myapp/queries",
        r#"{"query": "DROP TABLE scratch"}"#,
        Setup,
    ),
    ("GET", "/workspaces/myapp/diff", "", Accepted(&["/changes/0/ddl_id"])),
    ("DELETE", "/workspaces/myapp/diff/3", "", Accepted(&[])),
    ("DELETE", "/workspaces/myapp/diff/2", "", Setup),
    (
        "POST",
        "/workspaces/myapp/queries",
        r#"{"query": "CREATE TABLE mistake (id int)"}"#,
        Setup,
    ),
    ("POST", "/workspaces/myapp/diff/4/revert", "", Accepted(&[])),
    ("GET", "/workspaces/myapp/settings", "", Accepted(&[])),
    ("POST", "/workspaces/myapp/settings", "{}", Accepted(&[])),
    (
        "POST",
        "/workspaces/myapp/import-data/analyze",
        r#"{"connection": {}, "routing_field": "tenant_id"}"#,
        NotBuilt,
    ),
    (
        "POST",
        "/workspaces/myapp/import-data",
        r#"{"connection": {}, "routing_field": "tenant_id"}"#,
        NotBuilt,
    ),
    ("GET", "/workspaces/myapp/import-data/status?import_id=x", "", NotBuilt),
    (
        "POST",
        "/workspaces/myapp/import-full",
        r#"{"connection": {}}"#,
        NotBuilt,
    ),
    (
        "POST",
        "/tenants",
        r#"{"tenant_id": "acme", "databases": [{"blueprint": "myapp", "isolation_level": 1}]}"#,
        Accepted(&[
            "/tenant_id",
            "/status",
            "/databases/0/blueprint",
            "/databases/0/database_type",
            "/databases/0/isolation_level",
            "/databases/0/connection/database",
            "/databases/0/connection/connection_string",
        ]),
    ),
    (
        "GET",
        "/blueprints",
        "",
        Accepted(&[
            "/blueprints/0/id",
            "/blueprints/0/name",
            "/blueprints/0/version",
            "/blueprints/0/workspace_id",
            "/blueprints/0/database_type",
            "/blueprints/0/project_id",
            "/blueprints/0/deployed_to",
        ]),
    ),
    (
        "GET",
        "/blueprints/myapp",
        "",
        Accepted(&[
            "/status",
            "/database",
            "/workspace",
            "/schema/type",
            "/deployment_status/deployed",
            "/deployment_status/ready_to_deploy",
        ]),
    ),
    (
        "GET",
        "/blueprints/myapp/versions",
        "",
        Accepted(&["/versions/0/version"]),
    ),
    (
        "GET",
        "/tenants",
        "",
        Accepted(&[
            "/count",
            "/tenants/0/tenant_id",
            "/tenants/0/status",
            "/tenants/0/databases/0/database_type",
        ]),
    ),
    (
        "GET",
        "/tenants/acme",
        "",
        Accepted(&["/tenant_id", "/databases/0/connection/database"]),
    ),
    ("POST", "/tenants/acme/suspend", "", Accepted(&[])),
    ("POST", "/tenants/acme/resume", "", Accepted(&[])),
    ("DELETE", "/tenants/acme", "", Accepted(&[])),
    ("POST", "/tenants/acme/restore", "", Accepted(&[])),
    (
        "PATCH",
        "/tenants/acme/isolation",
        r#"{"isolation_level": 2}"#,
        NotBuilt,
    ),
    ("POST", "/tenants/acme/backup", "", NotBuilt),
    ("GET", "/tenants/acme/backups", "", NotBuilt),
    ("POST", "/tenants/acme/rollback", r#"{"date": "2026-01-15"}"#, NotBuilt),
    (
        "POST",
        "/tenants/acme/rollback",
        r#"{"storage_path": "s3://bucket/path/backup.sql"}"#,
        NotBuilt,
    ),
    ("GET", "/tenants/acme/logs?type=error&since=1h", "", NotBuilt),
    ("GET", "/tenants/acme/logs/stats", "", NotBuilt),
    ("GET", "/tenants/acme/metrics", "", NotBuilt),
    (
        "POST",
        "/workspaces/myapp/queries",
        r#"{"query": "ALTER TABLE accounts ADD name text"}"#,
        Setup,
    ),
    (
        "POST",
        "/deployments",
        r#"{"blueprint_name": "myapp", "deploy_all": true}"#,
        Setup,
    ),
    (
        "POST",
        "/deployments",
        r#"{"blueprint_name": "myapp", "version": "v3", "deploy_all": true}"#,
        Accepted(&["/job_id", "/message"]),
    ),
    (
        "GET",
        "/deployments",
        "",
        Accepted(&[
            "/count",
            "/jobs/0/job_id",
            "/jobs/0/blueprint_id",
            "/jobs/0/status",
            "/jobs/0/progress",
            "/jobs/0/progress_display",
            "/jobs/0/total_tenants",
        ]),
    ),
    ("GET", "/deployments/<job_id>", "", Accepted(&["/status"])),
    ("GET", "/tenants/acme/deployments", "", Accepted(&["/jobs/0/job_id"])),
    (
        "POST",
        "/admin/query",
        r#"{"tenant_id": "acme", "query": "SELECT * FROM accounts", "database_type": "PostgreSQL", "blueprint": "myapp", "all_tenants": false}"#,
        Accepted(&["/results/0/rows"]),
    ),
    ("DELETE", "/tenants/acme?hard=true", "", Accepted(&[])),
    ("DELETE", "/workspaces/myapp", "", Accepted(&[])),
    ("POST", "/webhooks/vm-ready", "{}", NotBuilt),
    (
        "POST",
        "/workspaces",
        r#"{"name": "other", "database": "postgresql"}"#,
        Setup,
    ),
    ("DELETE", "/workspaces/other", "", Setup),
];

/// Commands in an order in which they can be executed; each is an argument list of `tdb`.
const COMMANDS: [(&str, Verdict); 58] = [
    ("version", Accepted(&[])),
    ("config set --api-url <url>", Accepted(&[])),
    (
        "signup --email them@company.com --password secret123 --project Demo",
        Accepted(&["/api_key", "/project_id"]),
    ),
    (
        "login --email them@company.com --password secret123",
        Accepted(&["/projects/0/project_id"]),
    ),
    ("config show", Accepted(&[])),
    ("projects list", Accepted(&["/projects/0/api_key_count"])),
    ("projects create --name Second", Accepted(&["/project_id"])),
    ("projects delete <project_id>", Accepted(&[])),
    ("apikeys list", Accepted(&["/api_keys/0/is_active"])),
    ("apikeys create", Accepted(&["/id"])),
    ("apikeys delete <id>", Accepted(&[])),
    ("apikeys create --name ci", Accepted(&["/api_key"])),
    (
        "workspaces create --name myapp --database PostgreSQL",
        Accepted(&["/id", "/message", "/connection_string"]),
    ),
    ("workspaces list", Accepted(&["/workspaces/0/id"])),
    ("workspaces get <id>", Accepted(&["/id", "/schema"])),
    ("workspaces query myapp --query <sql>", Accepted(&["/rows"])),
    ("workspaces query myapp --query CREATE_TABLE_accounts", Setup),
    ("workspaces schema myapp --template fintech", NotBuilt),
    ("workspaces diff myapp", Accepted(&["/changes"])),
    ("workspaces query myapp --query CREATE_TABLE_scratch", Setup),
    ("workspaces diff-skip myapp 2", Accepted(&[])),
    ("workspaces query myapp --query DROP_TABLE_scratch", Setup),
    ("workspaces diff-skip myapp 3", Setup),
    ("workspaces query myapp --query CREATE_TABLE_mistake", Setup),
    ("workspaces diff-revert myapp 4", Accepted(&[])),
    ("workspaces settings myapp", Accepted(&[])),
    (
        "workspaces import-analyze myapp --host h --database d --user u --password p",
        NotBuilt,
    ),
    (
        "workspaces import-data myapp --host h --database d --user u --password p",
        NotBuilt,
    ),
    (
        "workspaces import-full myapp --host h --database d --user u --password p",
        NotBuilt,
    ),
    ("workspaces import-status myapp --import-id x", NotBuilt),
    ("blueprints list", Accepted(&["/blueprints/0/workspace_id"])),
    ("blueprints get myapp", Accepted(&["/deployment_status/deployed"])),
    ("blueprints versions myapp", Accepted(&["/versions"])),
    (
        "tenants create --name acme --blueprint myapp",
        Accepted(&["/tenant_id", "/databases/0/connection/connection_string"]),
    ),
    (
        "tenants create --name globex --blueprint myapp --isolation 1",
        Accepted(&["/tenant_id"]),
    ),
    (
        "tenants create --name initech --blueprint myapp --isolation 2",
        NotBuilt,
    ),
    ("tenants list", Accepted(&["/tenants/0/tenant_id"])),
    ("tenants get acme", Accepted(&["/databases"])),
    ("tenants suspend acme", Accepted(&[])),
    ("tenants resume acme", Accepted(&[])),
    ("tenants delete acme", Accepted(&[])),
    ("tenants restore acme", Accepted(&[])),
    ("tenants migrate acme --level 2", NotBuilt),
    ("tenants backup acme", NotBuilt),
    ("tenants backups acme", NotBuilt),
    ("tenants rollback acme --date 2026-01-01", NotBuilt),
    ("tenants logs acme --type error --since 1h", NotBuilt),
    ("tenants metrics acme", NotBuilt),
    ("tenants deployments acme", Accepted(&["/jobs"])),
    ("deployments create --blueprint myapp --all", Accepted(&["/job_id"])),
    (
        "deployments create --blueprint myapp --version v2 --all",
        Accepted(&["/job_id"]),
    ),
    ("deployments list", Accepted(&["/jobs/0/job_id"])),
    ("deployments status <job_id>", Accepted(&["/status"])),
    (
        "query --tenant acme --query <sql> --blueprint myapp --type PostgreSQL",
        Accepted(&["/results/0/rows"]),
    ),
    (
        "query --all --query <sql> --blueprint myapp",
        Accepted(&["/results/0/rows"]),
    ),
    ("tenants delete globex --hard --yes", Accepted(&[])),
    ("tenants delete acme --hard --yes", Setup),
    ("workspaces delete myapp", Accepted(&[])),
];

/// The values of earlier responses, by field name.
#[derive(Default)]
struct Memory(Vec<(String, String)>);

impl Memory {
    fn note(&mut self, answer: &Value) {
        for name in ["id", "project_id", "job_id"] {
            if let Some(value) = answer[name].as_str() {
                self.0.insert(0, (format!("<{name}>"), value.to_owned()));
            }
        }
    }

    fn fill(&self, text: &str) -> String {
        // The newest value of a name comes first; after its replacement, older ones have nothing to replace.
        self.0
            .iter()
            .fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
    }
}

#[track_caller]
fn has(answer: &Value, fields: &[&str], call: &str) {
    for field in fields {
        assert!(answer.pointer(field).is_some(), "{call} has no {field}: {answer:#}");
    }
}

#[test]
fn requests_of_the_quickstart_are_accepted_as_documented() {
    let instance = Instance::start();
    let (mut api, mut memory) = (instance.api().with_key(None), Memory::default());
    for (at, (method, path, body, verdict)) in REQUESTS.iter().enumerate() {
        let (path, body) = (memory.fill(path), (!body.is_empty()).then(|| json(body)));
        let call = format!("{method} {path}");
        let answer = api
            .try_send(method, &path, body)
            .unwrap_or_else(|error| panic!("{call}: {error}"));
        match verdict {
            Accepted(fields) => {
                let answer = answer.ok();
                has(&answer, fields, &call);
                if path == "/signup" {
                    api = api.with_key(answer["api_key"].as_str());
                }
                memory.note(&answer);
                settle(&api, &answer);
            }
            Setup => settle(&api, &answer.ok()),
            NotBuilt => {
                assert!([404, 405].contains(&answer.status), "{call} ({at}): {:#}", answer.body);
            }
        }
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

/// Waits for a deployment that has started.
fn settle(api: &Api, answer: &Value) {
    let Some(job) = answer["job_id"].as_str().filter(|_| answer["status"] == "running") else {
        return;
    };
    eventually(std::time::Duration::from_secs(60), "the deployment ends", || {
        let job = api.get(&format!("/deployments/{job}")).ok();
        (job["status"] != "running").then(|| assert_eq!(job["status"], "completed", "{job:#}"))
    });
}

#[test]
fn commands_of_the_quickstart_are_accepted_as_documented() {
    let instance = Instance::start();
    let home = tempfile::tempdir().expect("a directory");
    let mut memory = Memory::default();
    memory.0.push(("<url>".to_owned(), instance.api_url().to_owned()));
    for (line, verdict) in &COMMANDS {
        let words: Vec<String> = memory.fill(line).split(' ').map(word).collect();
        let mut command = clean(&Binaries::built().tdb);
        command
            .arg("--json")
            .args(&words)
            .env("XDG_CONFIG_HOME", home.path())
            .env_remove("TDB_API_URL")
            .env_remove("TDB_API_KEY");
        let ran = run(command, "");
        match verdict {
            Accepted(fields) => {
                let answer: Value = serde_json::from_str(&ran.ok().stdout).unwrap_or(Value::Null);
                has(&answer, fields, line);
                memory.note(&answer);
                settle(&stored(home.path()), &answer);
            }
            Setup => {
                let answer: Value = serde_json::from_str(&ran.ok().stdout).unwrap_or(Value::Null);
                settle(&stored(home.path()), &answer);
            }
            NotBuilt => assert_eq!(ran.code, 2, "tdb {line}: {ran:?}"),
        }
    }
}

/// SQL contains spaces, at which the commands of the table are split.
fn word(word: &str) -> String {
    match word.strip_prefix("CREATE_TABLE_") {
        Some(table) => format!("CREATE TABLE {table} (id int)"),
        None if word == "<sql>" => "SELECT 1".to_owned(),
        None => word.replace('_', if word.starts_with("DROP_TABLE") { " " } else { "_" }),
    }
}

/// The API in the configuration file.
fn stored(home: &std::path::Path) -> Api {
    let text = std::fs::read_to_string(home.join("tenantsdb/config.toml")).unwrap_or_default();
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} = ")));
        line.map(|value| value.trim_matches('"').to_owned())
    };
    Api::new(&value("api_url").unwrap_or_default(), value("api_key").as_deref())
}

#[test]
fn the_page_lists_what_is_accepted() {
    let outcome = |verdict: &Verdict| match verdict {
        Accepted(_) => Some("accepted"),
        NotBuilt => Some("not built"),
        Setup => None,
    };
    let mut rows = String::from("\n| request | body | |\n|---|---|---|\n");
    for (method, path, body, verdict) in &REQUESTS {
        let Some(outcome) = outcome(verdict) else { continue };
        let body = if body.is_empty() {
            String::new()
        } else {
            format!("`{body}`")
        };
        rows += &format!("| `{method} {path}` | {body} | {outcome} |\n");
    }
    is_generated(PAGE, "requests", &(rows + "\n"));
    let mut rows = String::from("\n| command | |\n|---|---|\n");
    for (line, verdict) in &COMMANDS {
        let Some(outcome) = outcome(verdict) else { continue };
        rows += &format!("| `tdb {line}` | {outcome} |\n");
    }
    is_generated(PAGE, "commands", &(rows + "\n"));
}
