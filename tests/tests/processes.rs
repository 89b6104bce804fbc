//! Several processes with one metadata store: they work concurrently, the operations of a killed one are completed, and one
//! that was paused beyond its leases does not interfere when it continues.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tdb_tests::{Api, Serve, Site, eventually, eventually_async, psql};

/// From the death of a process to the completion of its operations: its leases expire first.
const RECOVERY_TIME_MAX: Duration = Duration::from_secs(90);
const STOPPED_TIME_MAX: Duration = Duration::from_secs(60);
const MISSED_AFTER: Duration = Duration::from_secs(10);

fn workspace(serve: &Serve, name: &str) -> String {
    let answer = serve
        .api()
        .post("/workspaces", json!({"name": name, "database": "PostgreSQL"}))
        .ok();
    answer["connection_string"]
        .as_str()
        .expect("a connection string")
        .to_owned()
}

fn tenant_body(name: &str, blueprint: &str) -> Value {
    json!({"tenant_id": name, "databases": [{"blueprint": blueprint}]})
}

fn is_ready(api: &Api, tenant: &str) -> bool {
    let answer = api.get(&format!("/tenants/{tenant}"));
    answer.status == 200 && answer.body["status"] == "ready"
}

/// While DDL is running there is no current schema to deploy; it is retried then.
fn deploy(api: &Api, blueprint: &str) -> String {
    let body = json!({"blueprint_name": blueprint, "deploy_all": true});
    let job = eventually(RECOVERY_TIME_MAX, "a deployment begins", || {
        let answer = api.post("/deployments", body.clone());
        (answer.body["code"] != "head_busy").then(|| answer.ok())
    });
    job["job_id"].as_str().expect("a job id").to_owned()
}

fn ended(api: &Api, job: &str) -> Value {
    eventually(RECOVERY_TIME_MAX, &format!("deployment {job} ends"), || {
        let answer = api.get(&format!("/deployments/{job}")).ok();
        (answer["status"] != "running").then_some(answer)
    })
}

/// Store and server agree: no database without a row, no row without its database, no role without a database, nothing
/// incomplete, and each table whose creation was reported is one change.
async fn audit(site: &Site, tables: &BTreeSet<String>) {
    eventually_async(RECOVERY_TIME_MAX, "store and server say the same", || async {
        let known = "SELECT name FROM control_plane.physical_databases WHERE name IS NOT NULL";
        let found = "SELECT datname::text FROM pg_database
                     WHERE datname NOT IN ('postgres', 'template0', 'template1', 'tdb_base') ORDER BY 1";
        let undone = "SELECT 'database ' || tenant FROM control_plane.tenant_databases WHERE status <> 'ready'
                      UNION ALL SELECT 'target ' || tenant FROM control_plane.deployment_targets
                      WHERE status NOT IN ('done', 'skipped')";
        let orphans = "SELECT rolname::text FROM pg_roles r WHERE starts_with(rolname, 'r_') AND NOT EXISTS
                       (SELECT FROM pg_database d WHERE datallowconn AND has_database_privilege(r.oid, d.oid, 'CONNECT'))";
        let same: BTreeSet<String> = site.rows(known).await.into_iter().collect();
        let well = same == site.in_database("postgres", found).await.into_iter().collect()
            && site.rows(undone).await.is_empty()
            && site.in_database("postgres", orphans).await.is_empty();
        well.then_some(())
    })
    .await;
    let log = site.rows("SELECT statements::text FROM control_plane.changes").await;
    for table in tables {
        let times = log
            .iter()
            .filter(|text| text.contains(&format!("CREATE TABLE {table} ")))
            .count();
        assert_eq!(times, 1, "changes that make {table}");
    }
}

/// Every tenant has exactly the changes of its version, each once.
async fn every_tenant_is_whole(site: &Site) {
    let sql = "SELECT p.name || ' ' || array_to_string(v.change_ids, ',') FROM control_plane.tenant_databases d
               JOIN control_plane.physical_databases p ON p.tenant_database_id = d.id
               JOIN control_plane.versions v ON v.workspace_id = d.workspace_id AND v.number = d.version";
    let rows = site.rows(sql).await;
    assert!(!rows.is_empty());
    for row in rows {
        let (database, expected) = row.split_once(' ').expect("a database and its changes");
        let found = "SELECT coalesce(string_agg(change_id::text, ',' ORDER BY change_id), '') FROM tdb.deployed_change WHERE state = 'done'";
        assert_eq!(site.in_database(database, found).await, [expected], "{database}");
    }
}

#[tokio::test]
async fn two_processes_work_concurrently_and_one_continues_what_a_killed_one_began() {
    let site = Site::new().await;
    let (one, two) = thread::scope(|scope| {
        // Started concurrently with an empty store: it is migrated, and its first project created, once.
        let one = scope.spawn(|| site.serve("one", None));
        let two = site.serve("two", None);
        (one.join().expect("one"), two)
    });
    assert_eq!(
        one.api().get("/projects").ok()["projects"].as_array().map(Vec::len),
        Some(1)
    );
    let url = workspace(&one, "app");
    psql(&one.at_the_proxy(&url), "CREATE TABLE t (id int)").ok();
    let mut tables = BTreeSet::from(["t".to_owned()]);
    let developer = |serve: &Serve, prefix: &str, count: usize| -> BTreeSet<String> {
        let url = serve.at_the_proxy(&url);
        let names = (0..count).map(|n| format!("{prefix}{n}"));
        names
            .take_while(|name| psql(&url, &format!("CREATE TABLE {name} (id int)")).code == 0)
            .collect()
    };
    let creator = |serve: &Serve, prefix: &str, count: usize| {
        for n in 0..count {
            let body = tenant_body(&format!("{prefix}{n}"), "app");
            eventually(RECOVERY_TIME_MAX, "a tenant is intended", || {
                // The response of a killed process never arrives; while DDL is running there may be no current schema.
                let answer = serve.api().try_send("POST", "/tenants", Some(body.clone()));
                answer
                    .map_or(true, |answer| answer.body["code"] != "head_busy")
                    .then_some(())
            });
        }
    };

    // Creations, DDL in one workspace, and deployments, through both processes.
    let jobs: Vec<String> = thread::scope(|scope| {
        let made = [(&one, "a"), (&two, "b")].map(|(serve, name)| {
            scope.spawn(|| creator(serve, name, 3));
            scope.spawn(|| developer(serve, name, 8))
        });
        let jobs = [&one, &two, &one].map(|serve| deploy(&serve.api(), "app")).to_vec();
        tables.extend(made.into_iter().flat_map(|made| made.join().expect("a developer")));
        jobs
    });
    for job in &jobs {
        assert_eq!(ended(&two.api(), job)["status"], "completed");
    }
    for tenant in ["a0", "a1", "a2", "b0", "b1", "b2"] {
        eventually(RECOVERY_TIME_MAX, tenant, || is_ready(&two.api(), tenant).then_some(()));
    }
    audit(&site, &tables).await;
    every_tenant_is_whole(&site).await;

    // Killed during all three.
    psql(&two.at_the_proxy(&url), "CREATE TABLE before (id int)").ok();
    let job = deploy(&one.api(), "app");
    thread::scope(|scope| {
        let made = scope.spawn(|| developer(&one, "k", 100));
        scope.spawn(|| creator(&one, "k", 20));
        thread::sleep(Duration::from_millis(700));
        one.signal(Signal::SIGKILL);
        tables.extend(made.join().expect("a developer"));
    });
    drop(one);
    let api = two.api();
    assert_eq!(ended(&api, &job)["status"], "completed");
    eventually(RECOVERY_TIME_MAX, "all tenants are ready", || {
        let tenants = api.get("/tenants?limit=1000").ok();
        let all = tenants["tenants"].as_array().expect("tenants").clone();
        all.iter().all(|tenant| tenant["status"] == "ready").then_some(())
    });
    api.get("/workspaces/app/diff").ok();
    audit(&site, &tables).await;
    assert_eq!(ended(&api, &deploy(&api, "app"))["status"], "completed");
    audit(&site, &tables).await;
    every_tenant_is_whole(&site).await;
}

#[tokio::test]
async fn a_process_that_starts_again_does_not_wait_for_what_its_killed_predecessor_held() {
    let site = Site::new().await;
    let (site, proxies) = (&site, "SELECT instance::text FROM control_plane.proxies");
    let registered = |count: usize| async move {
        let proxies = || async move { Some(site.rows(proxies).await).filter(|found| found.len() == count) };
        eventually_async(STOPPED_TIME_MAX, "the proxies are registered", proxies).await
    };
    let first = site.serve("one", None);
    let one = registered(1).await;
    let twin = site.serve("one", None);
    // Neither ends what the other holds, although they have one configuration file. On a slow machine a lease can expire, but
    // its row stays.
    assert!(site.rows(proxies).await.contains(&one[0]));
    registered(2).await;
    drop(twin);
    let url = workspace(&first, "app");
    psql(&first.at_the_proxy(&url), "CREATE TABLE t (id int)").ok();
    let holder = "SELECT instance::text FROM control_plane.processes";
    let before = site.rows(holder).await;
    first.signal(Signal::SIGKILL);
    drop(first);
    let second = site.serve("one", None);
    let after = site.rows(holder).await;
    assert_ne!(before, after);
    // A call that waits for all proxies would wait for this row to expire.
    let held = format!(
        "SELECT 'proxy' FROM control_plane.proxies WHERE instance = '{0}' UNION ALL
         SELECT name FROM control_plane.leases WHERE holder = '{0}'",
        before[0]
    );
    assert_eq!(site.rows(&held).await, Vec::<String>::new());
    second.api().post("/credentials", json!({"workspace": "app"})).ok();
}

/// The operation that is running when the process stops, and the request to the other process in the meantime.
enum Paused {
    Creation,
    Deletion,
    Version,
    Drain,
    Deployment,
}

#[tokio::test]
async fn a_process_paused_beyond_its_leases_does_not_interfere_when_it_continues() {
    let site = Site::new().await;
    let steady = site.serve("steady", None);
    let url = workspace(&steady, "app");
    psql(&steady.at_the_proxy(&url), "CREATE TABLE t (id int)").ok();
    steady.api().post("/tenants", tenant_body("first", "app")).ok();
    let mut tables = BTreeSet::from(["t".to_owned()]);
    let mut stopped = 0;
    for (n, (point, paused)) in [
        ("tenant.create.renamed", Paused::Creation),
        ("tenant.delete.dropped", Paused::Deletion),
        ("build.replayed", Paused::Version),
        ("drain.read", Paused::Drain),
        ("drain.logged", Paused::Drain),
        ("deploy.applied", Paused::Deployment),
    ]
    .into_iter()
    .enumerate()
    {
        stopped += usize::from(paused_at(&site, &steady, &url, n, point, &paused, &mut tables).await);
    }
    // The other process may be faster: then the fault point is not reached, and nothing is tested.
    assert!(stopped >= 4, "only {stopped} processes were stopped");
    every_tenant_is_whole(&site).await;
}

async fn paused_at(
    site: &Site,
    steady: &Serve,
    url: &str,
    n: usize,
    point: &str,
    paused: &Paused,
    tables: &mut BTreeSet<String>,
) -> bool {
    let (api, tenant, table) = (steady.api(), format!("p{n}"), format!("p{n}"));
    let create_table = format!("CREATE TABLE {table} (id int)");
    if let Paused::Deletion = paused {
        api.post("/tenants", tenant_body(&tenant, "app")).ok();
    }
    if let Paused::Version | Paused::Deployment = paused {
        psql(&steady.at_the_proxy(url), &create_table).ok();
    }
    let sleeper = site.serve("sleeper", Some(&format!("{point}:stop")));
    let known = AtomicBool::new(false);
    let stopped = thread::scope(|scope| {
        let asked = scope.spawn(|| match paused {
            Paused::Creation | Paused::Version => {
                drop(
                    sleeper
                        .api()
                        .try_send("POST", "/tenants", Some(tenant_body(&tenant, "app"))),
                );
            }
            Paused::Deletion => {
                // Repeated if the other process was faster.
                while !known.load(Ordering::Relaxed) {
                    let path = format!("/tenants/{tenant}?hard=true");
                    drop(sleeper.api().try_send("DELETE", &path, None));
                    drop(
                        sleeper
                            .api()
                            .try_send("POST", "/tenants", Some(tenant_body(&tenant, "app"))),
                    );
                }
            }
            Paused::Drain => drop(psql(&sleeper.at_the_proxy(url), &create_table)),
            Paused::Deployment => drop(deploy(&sleeper.api(), "app")),
        });
        let mut answered: Option<Instant> = None;
        let stopped = eventually(STOPPED_TIME_MAX, &format!("{point} is reached"), || {
            if asked.is_finished() && answered.is_none() {
                answered = Some(Instant::now());
            }
            // Work that continues after a response needs time.
            let missed = answered.is_some_and(|at| at.elapsed() > MISSED_AFTER);
            (sleeper.is_stopped() || missed).then(|| sleeper.is_stopped())
        });
        known.store(true, Ordering::Relaxed);
        match paused {
            Paused::Creation | Paused::Version => {
                eventually(RECOVERY_TIME_MAX, &format!("{point}: the other one makes it"), || {
                    // The paused process may have stopped before it received the request.
                    if api.get(&format!("/tenants/{tenant}")).status == 404 {
                        let _ = api.post("/tenants", tenant_body(&tenant, "app"));
                    }
                    is_ready(&api, &tenant).then_some(())
                });
            }
            Paused::Deletion => {
                // Another tenant with that name: the deletion must not affect it.
                eventually(RECOVERY_TIME_MAX, &format!("{point}: the other one deletes it"), || {
                    let answer = api.post("/tenants", tenant_body(&tenant, "app"));
                    (answer.status == 201 || !stopped).then_some(())
                });
                eventually(RECOVERY_TIME_MAX, &tenant, || is_ready(&api, &tenant).then_some(()));
            }
            Paused::Drain => {
                eventually(RECOVERY_TIME_MAX, &format!("{point}: the other one logs it"), || {
                    // 504 while the paused process holds a lock: it may have stopped during a transaction in the store.
                    let diff = api.get("/workspaces/app/diff?limit=1000").body;
                    diff.to_string().contains(&create_table).then_some(())
                });
            }
            Paused::Deployment => {
                deploy(&api, "app");
                eventually(RECOVERY_TIME_MAX, &format!("{point}: the other one deploys"), || {
                    let jobs = api.get("/deployments?limit=1000").ok();
                    let jobs = jobs["jobs"].as_array().expect("jobs").clone();
                    (!jobs.is_empty() && jobs.iter().all(|job| job["status"] == "completed")).then_some(())
                });
            }
        }
        eprintln!("{point}: stopped {stopped}, and the other one went on");
        sleeper.signal(Signal::SIGCONT);
        asked.join().expect("the one who asked");
        stopped
    });
    if !matches!(paused, Paused::Creation | Paused::Deletion) {
        tables.insert(table);
    }
    // After it continues, it works as before.
    eventually(RECOVERY_TIME_MAX, "the process that was paused answers", || {
        sleeper
            .api()
            .try_send("GET", "/workspaces", None)
            .ok()
            .filter(|answer| answer.status == 200)
    });
    audit(site, tables).await;
    stopped
}
