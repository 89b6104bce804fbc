//! `Idempotency-Key`: a request that creates can be repeated, whatever happened to the first one.

use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tdb_tests::{Api, Instance, InstanceOptions, Killed, connect, eventually};

static INSTANCE: OnceLock<Instance> = OnceLock::new();

fn instance() -> &'static Instance {
    INSTANCE.get_or_init(Instance::start)
}

fn keyed(api: &Api, key: &str) -> Api {
    api.with_header("Idempotency-Key", key)
}

#[test]
fn a_repeated_creation_gets_the_same_answer_and_creates_nothing() {
    let workspace = json!({"name": "again", "database": "PostgreSQL"});
    let tenant = json!({"tenant_id": "ag-one", "databases": [{"blueprint": "again"}]});
    let deployment = json!({"blueprint_name": "again", "deploy_all": true});
    let bodies = [
        ("/projects", json!({"name": "again"})),
        ("/apikeys", json!({"name": "again", "scopes": ["read"]})),
        ("/workspaces", workspace),
        ("/tenants", tenant),
        ("/credentials", json!({"tenant_id": "ag-one"})),
        ("/deployments", deployment),
    ];
    for (path, body) in bodies {
        let api = keyed(&instance().api(), &format!("again {path}"));
        let first = api.post(path, body.clone());
        let count = || instance().api().get(path).ok()["count"].clone();
        let before = count();
        let second = api.post(path, body.clone());
        assert_eq!((first.status, &first.body), (second.status, &second.body), "{path}");
        assert_eq!(first.header("Idempotent-Replayed"), None);
        assert_eq!(second.header("Idempotent-Replayed"), Some("true"));
        first.ok();
        assert_eq!(count(), before, "{path}");
        let mut other = body;
        other["name"] = json!("different");
        let problem = api.post(path, other).problem(422);
        assert_eq!(problem["code"], "idempotency_key_reused", "{path}");
    }
}

#[test]
fn the_kept_answer_is_for_the_same_key_and_project_only_and_sealed() {
    let api = keyed(&instance().api(), "mine");
    let made = api.post("/apikeys", json!({"name": "mine", "scopes": ["admin"]})).ok();
    let secret = made["api_key"].as_str().expect("a key").to_owned();
    let other_key = api.with_key(Some(&secret));
    let problem = other_key
        .post("/apikeys", json!({"name": "mine", "scopes": ["admin"]}))
        .problem(422);
    assert_eq!(problem["code"], "idempotency_key_reused");
    let project = instance().api().post("/projects", json!({"name": "other"})).ok();
    let other_project = api.with_key(project["api_key"].as_str());
    let theirs = other_project
        .post("/apikeys", json!({"name": "mine", "scopes": ["admin"]}))
        .ok();
    assert_ne!(theirs["api_key"], made["api_key"]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let rows = runtime.block_on(async {
        let sql = "SELECT answer FROM control_plane.idempotency_keys WHERE answer IS NOT NULL";
        instance().store().await.query(sql, &[]).await.unwrap()
    });
    assert!(!rows.is_empty());
    for row in rows {
        let stored = String::from_utf8_lossy(row.get::<_, &[u8]>(0)).into_owned();
        assert!(
            !stored.contains("tdb_sk_") && !stored.contains("api_key"),
            "an answer is stored in clear"
        );
    }
}

#[test]
fn a_refusal_frees_the_key_and_a_wrong_key_is_refused_by_name() {
    let api = keyed(&instance().api(), "early");
    let body = json!({"tenant_id": "early", "databases": [{"blueprint": "early"}]});
    api.post("/tenants", body.clone()).problem(404);
    instance().workspace("early");
    let made = api.post("/tenants", body.clone()).ok();
    assert_eq!(api.post("/tenants", body).ok(), made);
    let long = keyed(&instance().api(), &"k".repeat(256));
    let problem = long.post("/apikeys", json!({"name": "x"})).problem(422);
    assert_eq!(problem["field"], "Idempotency-Key", "{problem:#}");
}

#[test]
fn of_concurrent_requests_one_creates_and_the_others_wait_or_get_409() {
    instance().workspace("race");
    let body = json!({"tenant_id": "race-one", "databases": [{"blueprint": "race"}]});
    let api = keyed(&instance().api(), "race");
    let racers: Vec<_> = (0..6)
        .map(|_| {
            let (api, body) = (api.clone(), body.clone());
            thread::spawn(move || api.post("/tenants", body))
        })
        .collect();
    let answers: Vec<_> = racers.into_iter().map(|racer| racer.join().unwrap()).collect();
    let made: Vec<&Value> = answers.iter().filter(|a| a.status == 201).map(|a| &a.body).collect();
    assert!(
        !made.is_empty() && made.windows(2).all(|pair| pair[0] == pair[1]),
        "{answers:#?}"
    );
    for refused in answers.iter().filter(|answer| answer.status != 201) {
        assert_eq!(
            (refused.status, &refused.body["code"]),
            (409, &json!("idempotency_in_progress"))
        );
        assert!(refused.header("Retry-After").is_some());
    }
    assert_eq!(api.post("/tenants", body).ok(), *made[0]);
}

/// Killed after the intent was committed: the password, which no client has received, is in the second response, and is valid.
#[tokio::test]
async fn a_killed_creation_is_completed_by_a_repeated_request() {
    for (point, path, body) in [
        (
            "workspace.create.intended",
            "/workspaces",
            json!({"name": "late", "database": "PostgreSQL"}),
        ),
        (
            "tenant.create.intended",
            "/tenants",
            json!({"tenant_id": "late", "databases": [{"blueprint": "base"}]}),
        ),
    ] {
        let mut instance = Instance::start_with(&InstanceOptions::safe());
        instance.workspace("base");
        instance.stop();
        instance.restart_with(&InstanceOptions::safe().with_fault(point));
        let answer = keyed(&instance.api(), "late").try_send("POST", path, Some(body.clone()));
        assert!(answer.is_err(), "{answer:?}");
        assert_eq!(instance.wait_for_the_kill(Duration::from_secs(60)), Killed::AtThePoint);
        instance.restart_with(&InstanceOptions::safe());
        let api = keyed(&instance.api(), "late");
        let made = eventually(Duration::from_secs(60), "the dead attempt's lease is over", || {
            let answer = api.post(path, body.clone());
            match answer.status {
                409 => assert_eq!(answer.body["code"], "idempotency_in_progress", "{answer:#?}"),
                _ => return Some(answer.ok()),
            }
            None
        });
        let url = match path {
            "/tenants" => made["databases"][0]["connection"]["connection_string"].as_str(),
            _ => made["connection_string"].as_str(),
        };
        if path == "/tenants" {
            instance.wait_until_ready("late");
        }
        connect(url.expect("a connection string"))
            .await
            .expect("the password works");
        assert_eq!(api.post(path, body).ok(), made);
    }
}
