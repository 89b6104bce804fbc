//! Watching a deployment: events with ids, resumed after a disconnect, with many watchers at once.

use std::io::{BufRead, BufReader, Read};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tdb_tests::{Instance, psql};

static INSTANCE: OnceLock<Instance> = OnceLock::new();
const WATCHERS: usize = 100;

fn instance() -> &'static Instance {
    INSTANCE.get_or_init(Instance::start)
}

#[derive(Clone, Debug)]
struct Event {
    name: String,
    id: u64,
    data: Value,
}

/// A stream of events, or the status of another response.
fn open(instance: &Instance, job: &str, last: Option<&str>) -> Result<Box<dyn Read + Send>, u16> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(120)))
        .build()
        .into();
    let mut request = agent
        .get(format!("{}/deployments/{job}/events", instance.api_url()))
        .header("Authorization", format!("Bearer {}", instance.api_key()));
    if let Some(last) = last {
        request = request.header("Last-Event-ID", last);
    }
    let response = request.call().expect("an answer");
    match response.status().as_u16() {
        200 => {
            assert_eq!(response.headers()["content-type"], "text/event-stream");
            Ok(Box::new(response.into_body().into_reader()))
        }
        other => Err(other),
    }
}

/// All events until the end of the stream.
fn events(stream: Box<dyn Read + Send>) -> Vec<Event> {
    let (mut found, mut name, mut id, mut data) = (Vec::new(), String::new(), 0, Value::Null);
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        match line.split_once(": ") {
            Some(("event", value)) => name = value.to_owned(),
            Some(("id", value)) => id = value.parse().expect("a number"),
            Some(("data", value)) => data = serde_json::from_str(value).expect("JSON"),
            _ if line.is_empty() && !name.is_empty() => found.push(Event {
                name: std::mem::take(&mut name),
                id,
                data: data.clone(),
            }),
            _ => {}
        }
    }
    found
}

fn begin(instance: &Instance, blueprint: &str) -> String {
    let body = json!({"blueprint_name": blueprint, "deploy_all": true});
    let job = instance.api().post("/deployments", body).ok();
    job["job_id"].as_str().expect("a job id").to_owned()
}

#[test]
fn every_target_has_its_events_and_the_stream_ends_with_the_deployment() {
    let (workspace, tenants) = instance().simple("told", &["t-one", "t-two", "t-bad"]);
    psql(&tenants[2].url, "INSERT INTO t VALUES (1), (1)").ok();
    psql(
        &workspace.url,
        "ALTER TABLE t ADD COLUMN n int; ALTER TABLE t ADD UNIQUE (id)",
    )
    .ok();
    let job = begin(instance(), "told");
    let found = events(open(instance(), &job, None).expect("a stream"));
    let ids: Vec<u64> = found.iter().map(|event| event.id).collect();
    assert!(ids.is_sorted(), "{ids:?}");
    let end = found.last().expect("an end");
    assert_eq!(
        (end.name.as_str(), &end.data["status"]),
        ("deployment", &json!("failed")),
        "{end:?}"
    );
    assert_eq!(
        (&end.data["completed_tenants"], &end.data["failed_tenants"]),
        (&json!(2), &json!(1))
    );
    // A tenant's last event equals its state in the deployment.
    let shown = instance().api().get(&format!("/deployments/{job}")).ok();
    for target in shown["targets"].as_array().expect("targets") {
        let of_it = |event: &&Event| event.name == "target" && event.data["tenant_id"] == target["tenant_id"];
        let last = found.iter().rfind(of_it).expect("an event");
        assert_eq!(last.data, *target);
    }

    // A watcher that reconnects gets the events that it missed, and none if it has all.
    let middle = found.iter().find(|event| event.name == "target").expect("a target").id;
    let rest = events(open(instance(), &job, Some(&middle.to_string())).expect("a stream"));
    assert!(rest.iter().all(|event| event.id > middle), "{middle}: {rest:?}");
    assert_eq!(rest.last().expect("an end").data["status"], "failed");
    let nothing = open(instance(), &job, Some(&end.id.to_string())).map(|_| ());
    assert_eq!(nothing, Err(204));
    assert_eq!(open(instance(), &job, Some("soon")).map(|_| ()), Err(422));
    assert_eq!(open(instance(), "dep_aaaaaaaaaa", None).map(|_| ()), Err(404));

    // A retry continues the numbering.
    psql(&tenants[2].url, "DELETE FROM t").ok();
    instance()
        .api()
        .post(&format!("/deployments/{job}/retry"), json!({}))
        .ok();
    let again = events(open(instance(), &job, Some(&end.id.to_string())).expect("a stream"));
    assert_eq!(again.last().expect("an end").data["status"], "completed", "{again:?}");
    assert!(again.iter().all(|event| event.id > end.id), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_watchers_of_a_deployment_share_connections() {
    let (workspace, tenants) = instance().simple("watched", &["w-one", "w-two"]);
    psql(&workspace.url, "ALTER TABLE t ADD COLUMN n int").ok();
    let session = tenants[0].connect().await;
    session.batch_execute("BEGIN; LOCK TABLE t").await.unwrap();
    let job = begin(instance(), "watched");
    let watchers: Vec<_> = (0..WATCHERS)
        .map(|_| {
            let job = job.clone();
            thread::spawn(move || events(open(instance(), &job, None).expect("a stream")))
        })
        .collect();
    let store = instance().store().await;
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()";
    // The other tenant is finished, and its events are being sent to all watchers.
    let begun = Instant::now();
    let mut most = 0;
    while begun.elapsed() < Duration::from_secs(3) {
        let connections: i64 = store.query_one(sql, &[]).await.unwrap().get(0);
        most = most.max(connections);
    }
    assert!(most < 40, "{most} connections to the store for {WATCHERS} watchers");
    session.batch_execute("ROLLBACK").await.unwrap();
    for watcher in watchers {
        let found = watcher.join().expect("a watcher");
        let end = found.last().expect("an end");
        assert_eq!(end.data["status"], "completed", "{found:?}");
        let done = |tenant: &str| {
            let of_it = |event: &&Event| event.data["tenant_id"] == tenant;
            found.iter().rfind(of_it).map(|event| event.data["status"].clone())
        };
        assert_eq!(
            (done("w-one"), done("w-two")),
            (Some(json!("done")), Some(json!("done")))
        );
    }
}

#[test]
fn tdb_watches_with_plain_lines_where_there_is_no_terminal() {
    let (workspace, tenants) = instance().simple("lined", &["l-one", "l-bad"]);
    psql(&tenants[1].url, "INSERT INTO t VALUES (NULL)").ok();
    psql(&workspace.url, "ALTER TABLE t ALTER id SET NOT NULL").ok();
    let ran = instance().tdb(&["deployments", "create", "--blueprint", "lined", "--all", "--watch"]);
    assert_eq!(ran.code, 1, "{}{}", ran.stdout, ran.stderr);
    for line in [
        "l-bad failed: column \"id\" of relation \"t\" contains null values (SQLSTATE 23502)",
        "  failed: 2 of 2 tenants, 1 failed\n",
    ] {
        assert!(ran.stderr.contains(line), "{line}:\n{}", ran.stderr);
    }
    assert!(
        !ran.stderr.contains('\r') && !ran.stderr.contains('\x1b'),
        "{:?}",
        ran.stderr
    );
    let quiet = instance().tdb(&[
        "--quiet",
        "deployments",
        "create",
        "--blueprint",
        "lined",
        "--all",
        "--watch",
    ]);
    assert_eq!((quiet.code, quiet.stderr.as_str()), (1, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_disconnects_watchers_and_they_can_resume() {
    let mut own = Instance::start();
    let (workspace, tenants) = own.simple("stopped", &["s-one"]);
    psql(&workspace.url, "ALTER TABLE t ADD COLUMN n int").ok();
    let session = tenants[0].connect().await;
    session.batch_execute("BEGIN; LOCK TABLE t").await.unwrap();
    let job = begin(&own, "stopped");
    let stream = open(&own, &job, None).expect("a stream");
    let watcher = thread::spawn(move || events(stream));
    // The deployment is running: the first event arrives before the process is stopped.
    tdb_tests::eventually(Duration::from_secs(60), "the target runs", || {
        let job = own.api().get(&format!("/deployments/{job}")).ok();
        (job["targets"][0]["attempts"] != 0).then_some(())
    });
    assert!(own.stop().success());
    let found = watcher.join().expect("the watcher");
    let last = found.last().expect("an event");
    assert_eq!(last.data["status"], "running", "{found:?}");
    own.restart();
    let rest = events(open(&own, &job, Some(&last.id.to_string())).expect("a stream"));
    assert_eq!(rest.last().expect("an end").data["status"], "completed", "{rest:?}");
}
