//! Two accounts of one installation: no endpoint reveals data of the other account. The endpoints are read from the API's
//! description, so that new ones are tested automatically.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};
use tdb_tests::{Answer, Api, Instance, psql};

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// The kinds of objects of an account, by the prefix of their paths.
struct Account {
    api: Api,
    project: String,
    key: String,
    credential: String,
    deployment: String,
}

impl Account {
    fn new(instance: &Instance, email: &str) -> Self {
        let body = json!({"email": email, "password": "correct horse battery", "project_name": email});
        let made = instance.api().with_key(None).post("/signup", body).ok();
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        Self {
            api: instance.api().with_key(made["api_key"].as_str()),
            project: text(&made["project_id"]),
            key: String::new(),
            credential: String::new(),
            deployment: String::new(),
        }
    }

    /// With a workspace, a pending change, a tenant, a deployment, a key and a credential, all named `ours`.
    fn furnish(mut self) -> Self {
        let made = |path: &str, body: Value| self.api.post(path, body).ok();
        let workspace = made("/workspaces", json!({"name": "ours", "database": "PostgreSQL"}));
        let url = workspace["connection_string"]
            .as_str()
            .expect("a connection string")
            .to_owned();
        psql(&url, "CREATE TABLE t (id int)").ok();
        made(
            "/tenants",
            json!({"tenant_id": "ours", "databases": [{"blueprint": "ours"}]}),
        );
        let id = |answer: Value, field: &str| answer[field].as_str().expect("an id").to_owned();
        let deployment = id(
            made("/deployments", json!({"blueprint_name": "ours", "deploy_all": true})),
            "job_id",
        );
        let key = id(made("/apikeys", json!({"name": "ours"})), "id");
        let credential = id(made("/credentials", json!({"tenant_id": "ours"})), "id");
        psql(&url, "ALTER TABLE t ADD COLUMN pending int").ok();
        (self.deployment, self.key, self.credential) = (deployment, key, credential);
        self
    }

    /// `path` with the ids of this account.
    fn fill(&self, path: &str) -> String {
        let (_, first) = path.split_once('/').expect("a path");
        let id = match first.split('/').next().expect("a segment") {
            "projects" => &self.project,
            "apikeys" => &self.key,
            "credentials" => &self.credential,
            "deployments" => &self.deployment,
            "workspaces" | "blueprints" | "tenants" => "ours",
            other => panic!("what is the id of /{other}? say so here"),
        };
        path.replace("{id}", id).replace("{name}", id).replace("{ddl_id}", "2")
    }

    /// Everything that the account can see, as one text, without the time of the last drain, which changes by itself.
    fn view(&self) -> String {
        let paths = [
            "/projects",
            "/workspaces/ours/diff",
            "/tenants",
            "/deployments",
            "/credentials",
            "/blueprints",
        ];
        let view = |path: &str| {
            let mut answer = self.api.get(path).ok();
            answer.as_object_mut().expect("an object").remove("drained_at");
            answer.to_string()
        };
        paths.map(view).join("\n")
    }
}

/// The same path with ids that do not exist.
fn nonexistent(path: &str) -> String {
    let id = match path.split('/').nth(1) {
        Some("projects") => "prj_aaaaaaaaaa",
        Some("deployments") => "dep_aaaaaaaaaa",
        Some("apikeys" | "credentials") => "00000000-0000-4000-8000-000000000000",
        _ => "nobody",
    };
    path.replace("{id}", id).replace("{name}", id).replace("{ddl_id}", "2")
}

/// A body that would have an effect on the account's own object.
fn body(path: &str) -> Value {
    match path {
        "/workspaces/{id}/queries" => json!({"query": "DROP TABLE t"}),
        "/workspaces/{id}/extensions" => json!({"name": "citext"}),
        "/workspaces/{id}/settings" => json!({"tenant_ddl": "deny"}),
        "/tenants/{id}/limits" => json!({"pool_mode": "auto", "clients_max": 1}),
        "/projects/{id}/roles" => json!({"name": "anon"}),
        "/workspaces/{id}/diff" => json!({"ddl_ids": [1]}),
        _ => json!({}),
    }
}

fn ask(api: &Api, method: &str, path: &str, body: Value) -> Answer {
    let has_body = ["post", "put", "patch"].contains(&method) || (method == "delete" && path.ends_with("/diff"));
    let body = has_body.then_some(body);
    let answer = api.try_send(&method.to_uppercase(), path, body);
    answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
}

/// The refusal, without the requested name.
fn refusal(answer: &Answer, asked: &str) -> (u16, String, String) {
    let detail = answer.body["detail"].as_str().unwrap_or_default().to_owned();
    let ids = asked.split('/').filter(|segment| !segment.is_empty());
    let detail = ids.fold(detail, |detail, id| detail.replace(&format!("\"{id}\""), "…"));
    (answer.status, answer.body["code"].to_string(), detail)
}

#[test]
fn no_endpoint_reveals_another_account() {
    let instance = Instance::start();
    let (ours, theirs) = (
        Account::new(&instance, "ours@example.com").furnish(),
        Account::new(&instance, "theirs@example.com"),
    );
    let before = ours.view();
    let document = instance.api().get("/openapi.json").body;
    let mut tried = 0;
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in METHODS.iter().filter(|method| item[**method].is_object()) {
            tried += 1;
            match (*method, path.as_str()) {
                (_, path) if path.starts_with("/servers") => {
                    // These belong to the installation: the refusal is the same whether the object exists or not.
                    let [known, unknown] = ["dev", "nobody"].map(|name| {
                        let asked = path.replace("{name}", name);
                        let body = json!({"name": name, "host": "h", "admin_user": "u", "admin_password": "p"});
                        let body = if path == "/servers" { body } else { json!({}) };
                        refusal(&ask(&theirs.api, method, &asked, body), &asked)
                    });
                    assert_eq!(known, unknown, "{method} {path}");
                    assert_eq!(
                        (known.0, known.1.as_str()),
                        (403, "\"operator_only\""),
                        "{method} {path}"
                    );
                }
                (_, path) if path.contains('{') => {
                    let (asked, nowhere) = (ours.fill(path), nonexistent(path));
                    let foreign = ask(&theirs.api, method, &asked, body(path));
                    let missing = ask(&theirs.api, method, &nowhere, body(path));
                    assert_eq!(
                        refusal(&foreign, &asked),
                        refusal(&missing, &nowhere),
                        "{method} {path}"
                    );
                    assert_eq!(foreign.problem(404)["code"], "not_found", "{method} {path}");
                }
                ("get", "/" | "/health") | ("post", "/signup" | "/login") => {}
                // Objects that they create are their own.
                ("post", "/projects" | "/apikeys" | "/workspaces") => {}
                ("get", "/drift") => assert_eq!(theirs.api.get(path).ok()["count"], 0),
                ("get", path) => {
                    let shown = theirs.api.get(path).ok().to_string();
                    for secret in ["\"ours", &ours.project, &ours.key, &ours.credential, &ours.deployment] {
                        assert!(!shown.contains(secret), "GET {path} shows {secret}: {shown}");
                    }
                }
                ("post", path) => {
                    let body = match path {
                        "/tenants" => json!({"tenant_id": "mine", "databases": [{"blueprint": "ours"}]}),
                        "/deployments" => json!({"blueprint_name": "ours", "deploy_all": true}),
                        "/credentials" => json!({"tenant_id": "ours"}),
                        "/drift/refresh" => json!({"blueprint": "ours"}),
                        "/drift/repair" => json!({"tenant_id": "ours", "blueprint": "ours"}),
                        "/admin/query" => json!({"tenant_id": "ours", "blueprint": "ours", "query": "SELECT 1"}),
                        other => panic!("POST {other} is not tried: name something of the other account in its body"),
                    };
                    theirs.api.post(path, body).problem(404);
                }
                (method, path) => panic!("{method} {path} is not tried: say here what a stranger gets"),
            }
        }
    }
    assert!(tried > 35, "{tried}");
    theirs
        .api
        .post("/credentials", json!({"workspace": "ours"}))
        .problem(404);
    theirs.api.get("/drift?blueprint=ours").problem(404);
    assert_eq!(ours.view(), before, "nothing of ours was touched");
}

#[test]
fn every_list_has_complete_pages_while_others_insert() {
    let instance = Instance::start();
    let api = instance.api();
    let document = api.get("/openapi.json").body;
    for path in [
        "/projects",
        "/projects/{id}/roles",
        "/apikeys",
        "/workspaces",
        "/workspaces/{id}/diff",
        "/workspaces/{id}/extensions",
        "/blueprints",
        "/blueprints/{name}/versions",
        "/tenants",
        "/tenants/{id}/deployments",
        "/deployments",
        "/servers",
        "/credentials",
    ] {
        let parameters = document["paths"][path]["get"]["parameters"].to_string();
        assert!(
            parameters.contains("\"limit\"") && parameters.contains("\"cursor\""),
            "{path} has no pages"
        );
    }
    let create = |number: usize| {
        let made = api.post("/apikeys", json!({"name": format!("key {number}")})).ok();
        made["id"].as_str().expect("an id").to_owned()
    };
    let before: BTreeSet<String> = (0..10).map(create).collect();
    let (done, mut seen) = (AtomicBool::new(false), Vec::new());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for number in 0.. {
                    let id = create(number);
                    if number % 3 == 0 {
                        api.delete(&format!("/apikeys/{id}")).ok();
                    }
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
        }
        let mut cursor = String::new();
        // Keys are added until page 30: a list that grows while it is read has no last page.
        for page in 0.. {
            let answer = api.get(&format!("/apikeys?limit=2{cursor}")).ok();
            let keys = answer["api_keys"].as_array().expect("keys");
            assert!(keys.len() <= 2 && answer["count"] == keys.len());
            seen.extend(keys.iter().map(|key| key["id"].as_str().expect("an id").to_owned()));
            if page == 30 {
                done.store(true, Ordering::Relaxed);
            }
            match answer["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    let unique: BTreeSet<String> = seen.iter().cloned().collect();
    assert_eq!(unique.len(), seen.len(), "an entry was shown twice");
    assert!(
        unique.is_superset(&before),
        "an entry that was there all the time was left out"
    );
    let again = api.get("/apikeys?limit=0").problem(422);
    assert_eq!(again["field"], "limit");
}
