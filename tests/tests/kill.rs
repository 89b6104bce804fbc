//! `kill -9` at every fault point of creation, deletion, drain and deployment, and at random moments; after the restart
//! nothing is lost, duplicated, incomplete or left over.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tdb_tests::{Instance, InstanceOptions, Killed, Workspace, psql, workspace_root};

/// From the start of the operation to the kill; after this time the point will not be reached.
const REACHED_WITHIN: Duration = Duration::from_secs(60);
const RANDOM_KILLS: usize = 50;
const LANES: usize = 3;

/// The operation that passes a point, by the first word of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scenario {
    FirstStart,
    WorkspaceCreation,
    WorkspaceDeletion,
    FirstTenant,
    TenantCreation,
    /// With an available spare, which the tenant takes and which is replaced.
    TenantOfSpare,
    TenantDeletion,
    /// The tenant can be restored; its databases are closed.
    SoftDeletion,
    Restore,
    Drain,
    Deployment,
    Settings,
}

fn scenarios_of(point: &str) -> &'static [Scenario] {
    let words: Vec<&str> = point.split('.').collect();
    match words[..] {
        ["server", "prepare", ..] => &[Scenario::FirstStart],
        ["workspace", "create", ..] => &[Scenario::WorkspaceCreation],
        ["workspace", "delete", ..] => &[Scenario::WorkspaceDeletion],
        ["tenant", "create", "claimed"] | ["spare", ..] => &[Scenario::TenantOfSpare],
        // One mechanism for two uses: the databases that are replayed in, and the spares.
        ["clone", ..] => &[Scenario::FirstTenant, Scenario::TenantOfSpare],
        ["tenant", "create", ..] | ["template", ..] | ["build", ..] | ["version", ..] => &[Scenario::TenantCreation],
        ["tenant", "delete", ..] => &[Scenario::TenantDeletion],
        ["tenant", "close", ..] => &[Scenario::SoftDeletion],
        ["tenant", "open", ..] => &[Scenario::Restore],
        ["drain", ..] | ["journal", ..] => &[Scenario::Drain],
        ["settings", ..] => &[Scenario::Settings],
        ["deploy", ..] | ["deployment", ..] => &[Scenario::Deployment],
        // One mechanism for two uses: replay on a build, and deployment to a tenant.
        ["apply", ..] => &[Scenario::TenantCreation, Scenario::Deployment],
        _ => panic!("no scenario passes the fault point {point}; add one"),
    }
}

/// The names in the source code, so that new points are tested without a list.
fn fault_points() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    collect(&workspace_root().join("crates"), &mut found);
    found
}

fn collect(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).expect("a source directory") {
        let path = entry.expect("a directory entry").path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source file");
            for call in text.split("fault::point(\"").skip(1) {
                let name = call.split('"').next().expect("a name");
                // Not the text of a test that searches for the same calls.
                if name.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '.') {
                    found.insert(name.to_owned());
                }
            }
        }
    }
}

/// One instance that is killed repeatedly; the objects that it is asked for are numbered.
struct Victim {
    instance: Instance,
    workspace: Workspace,
    /// Without a version, for a first tenant.
    fresh: Option<Workspace>,
    number: usize,
    tables: BTreeSet<String>,
}

impl Victim {
    fn new() -> Self {
        let instance = Instance::start_with(&InstanceOptions::safe());
        let workspace = instance.workspace("kill");
        psql(&workspace.url, "CREATE TABLE t (id int)").ok();
        // Four tenants per day are worth one spare.
        for tenant in ["first", "second", "third", "fourth"] {
            instance.tenant(tenant, "kill");
        }
        Self {
            instance,
            workspace,
            fresh: None,
            number: 0,
            tables: BTreeSet::new(),
        }
    }

    fn next(&mut self) -> usize {
        self.number += 1;
        self.number
    }

    fn url(&self) -> String {
        self.instance.at_the_proxy(&self.workspace.url)
    }

    /// The preparation of a scenario before the process with the armed point starts.
    async fn prepare(&mut self, scenario: Scenario) {
        let n = self.next();
        match scenario {
            Scenario::TenantDeletion | Scenario::SoftDeletion => {
                drop(self.instance.tenant(&format!("gone{n}"), "kill"));
            }
            Scenario::Restore => {
                self.instance.tenant(&format!("gone{n}"), "kill");
                self.instance.api().delete(&format!("/tenants/gone{n}")).ok();
            }
            Scenario::WorkspaceDeletion => drop(self.instance.workspace(&format!("gone{n}"))),
            Scenario::Deployment => {
                self.change();
                // Completes the replay first, so that the kill happens in the deployment's steps.
                self.instance.tenant(&format!("early{n}"), "kill");
            }
            Scenario::FirstTenant => self.fresh = Some(self.instance.workspace(&format!("fresh{n}"))),
            Scenario::TenantCreation
            | Scenario::Settings
            | Scenario::TenantOfSpare
            | Scenario::WorkspaceCreation
            | Scenario::Drain
            | Scenario::FirstStart => {}
        }
        // Spares being created would pass points too.
        if matches!(scenario, Scenario::FirstTenant | Scenario::TenantOfSpare) {
            self.instance.wait_for_spares().await;
        }
    }

    /// A change that is not deployed yet, so that creating a tenant publishes a template and a deployment has work;
    /// including one that cannot run in a transaction.
    fn change(&mut self) {
        let n = self.number;
        let sql = format!("CREATE TABLE pending{n} (id int);\nCREATE INDEX CONCURRENTLY ON pending{n} (id);");
        psql(&self.url(), &sql).ok();
        self.tables.insert(format!("pending{n}"));
    }

    /// Sends the request; the response may never arrive.
    fn provoke(&mut self, scenario: Scenario) {
        let n = self.number;
        if scenario == Scenario::TenantCreation {
            self.change();
        }
        if let Some(fresh) = self.fresh.take() {
            // Immediately, so that nothing is built ahead.
            psql(&self.instance.at_the_proxy(&fresh.url), "CREATE TABLE t (id int)");
        }
        let api = self.instance.api();
        let _ = match scenario {
            Scenario::FirstStart => return,
            Scenario::WorkspaceCreation => api.try_send(
                "POST",
                "/workspaces",
                Some(json!({"name": format!("made{n}"), "database": "PostgreSQL"})),
            ),
            Scenario::WorkspaceDeletion => api.try_send("DELETE", &format!("/workspaces/gone{n}"), None),
            Scenario::TenantCreation | Scenario::TenantOfSpare | Scenario::FirstTenant => {
                let blueprint = blueprint_of(scenario, n);
                let body = json!({"tenant_id": format!("made{n}"), "databases": [{"blueprint": blueprint}]});
                api.try_send("POST", "/tenants", Some(body))
            }
            Scenario::TenantDeletion => api.try_send("DELETE", &format!("/tenants/gone{n}?hard=true"), None),
            Scenario::SoftDeletion => api.try_send("DELETE", &format!("/tenants/gone{n}"), None),
            Scenario::Restore => api.try_send("POST", &format!("/tenants/gone{n}/restore"), Some(json!({}))),
            Scenario::Deployment => api.try_send(
                "POST",
                "/deployments",
                Some(json!({"blueprint_name": "kill", "deploy_all": true})),
            ),
            Scenario::Settings => {
                api.try_send("POST", "/workspaces/kill/settings", Some(json!({"tenant_ddl": "deny"})))
            }
            Scenario::Drain => {
                let ran = psql(&self.url(), &format!("CREATE TABLE drained{n} (id int)"));
                // The commit may or may not have happened; if it was reported as successful, the change must exist.
                if ran.code == 0 {
                    self.tables.insert(format!("drained{n}"));
                }
                return;
            }
        };
    }

    /// After the restart: the requested object is complete or does not exist, and can be requested again.
    async fn settled(&mut self, scenario: Scenario) {
        let (n, instance) = (self.number, &self.instance);
        match scenario {
            Scenario::TenantCreation | Scenario::TenantOfSpare | Scenario::FirstTenant => {
                // If it was accepted before the kill, it is completed automatically; otherwise nothing of it exists.
                if instance.api().get(&format!("/tenants/made{n}")).status == 404 {
                    instance.tenant(&format!("made{n}"), &blueprint_of(scenario, n));
                }
                instance.wait_until_ready(&format!("made{n}"));
            }
            Scenario::WorkspaceCreation => {
                let answer = instance.api().get(&format!("/workspaces/made{n}"));
                if answer.status == 404 {
                    instance.workspace(&format!("made{n}"));
                }
            }
            Scenario::TenantDeletion => gone(instance, &format!("/tenants/gone{n}"), "?hard=true"),
            Scenario::SoftDeletion | Scenario::Restore => {
                // A restore was killed before the tenant was restored, so what it opened is closed again.
                accepts(instance, n, false).await;
                instance
                    .api()
                    .post(&format!("/tenants/gone{n}/restore"), json!({}))
                    .ok();
                accepts(instance, n, true).await;
            }
            Scenario::WorkspaceDeletion => gone(instance, &format!("/workspaces/gone{n}"), ""),
            Scenario::Deployment => {
                let jobs = instance.api().get("/deployments").ok();
                for job in jobs["jobs"].as_array().expect("jobs") {
                    let job = instance.wait_for_deployment(job["job_id"].as_str().expect("an id"));
                    assert_eq!(job["status"], "completed", "{job:#}");
                }
                instance.deploy_all("kill");
                assert_eq!(instance.diff("kill"), Vec::<Value>::new());
            }
            Scenario::Settings => settings_reach_every_tenant(instance).await,
            Scenario::Drain | Scenario::FirstStart => {}
        }
        instance.audit("kill").await;
        instance.logged_once("kill", &self.tables).await;
    }
}

/// A setting changed before the kill is applied to every database automatically; then it is reset, for the next scenario.
async fn settings_reach_every_tenant(instance: &Instance) {
    for wanted in ["deny", "allow"] {
        if wanted == "allow" {
            let body = json!({"tenant_ddl": wanted});
            instance.api().post("/workspaces/kill/settings", body).ok();
        }
        tdb_tests::eventually(Duration::from_secs(60), "the setting is everywhere", || {
            let settings = instance.api().get("/workspaces/kill/settings").ok();
            assert_eq!(settings["tenant_ddl"], wanted, "{settings:#}");
            (settings["applied"]["waiting_tenants"] == 0).then_some(())
        });
        for tenant in instance.api().get("/tenants?limit=1000").ok()["tenants"]
            .as_array()
            .expect("tenants")
        {
            for database in tenant["databases"].as_array().expect("databases") {
                if database["blueprint"] == "kill" {
                    let name = database["connection"]["database"].as_str().expect("a name");
                    let direct = instance.server(name).await;
                    let sql = "SELECT value FROM tdb.setting WHERE name = 'tenant_ddl'";
                    let found: String = direct.query_one(sql, &[]).await.expect("the setting").get(0);
                    assert_eq!(found, wanted, "{name}");
                }
            }
        }
    }
}

fn blueprint_of(scenario: Scenario, number: usize) -> String {
    match scenario {
        Scenario::FirstTenant => format!("fresh{number}"),
        _ => "kill".to_owned(),
    }
}

/// Waits until the server accepts connections to the database of the deleted or restored tenant, or refuses them.
async fn accepts(instance: &Instance, number: usize, accepted: bool) {
    let server = instance.server("postgres").await;
    let sql = "SELECT FROM pg_database WHERE datname = $1 AND datallowconn = $2";
    let database = format!("kill__gone{number}");
    let (server, database) = (&server, &database);
    let what = format!("connections to {database} are accepted: {accepted}");
    tdb_tests::eventually_async(Duration::from_secs(60), &what, || async move {
        let found = server.query_opt(sql, &[database, &accepted]).await;
        found.expect("the databases").map(drop)
    })
    .await;
}

/// Deleted automatically after the restart, or by a repeated request.
fn gone(instance: &Instance, path: &str, how: &str) {
    tdb_tests::eventually(Duration::from_secs(60), &format!("{path} is deleted"), || {
        let status = instance.api().get(path).status;
        if status == 404 {
            return Some(());
        }
        let _ = instance.api().delete(&format!("{path}{how}"));
        None
    });
}

#[test]
fn killed_at_every_fault_point_it_continues() {
    let points = fault_points();
    assert!(
        points.len() >= 12,
        "too few fault points for creation, drain and deployment: {points:?}"
    );
    for scenario in [Scenario::TenantCreation, Scenario::Drain, Scenario::Deployment] {
        let passed = points.iter().any(|point| scenarios_of(point).contains(&scenario));
        assert!(passed, "no point for {scenario:?}: {points:?}");
    }
    let points: Vec<String> = points.into_iter().collect();
    in_lanes(|lane| {
        let points: Vec<String> = points.iter().skip(lane).step_by(LANES).cloned().collect();
        async move {
            let mut victim = Victim::new();
            for point in &points {
                for scenario in scenarios_of(point) {
                    killed_at(&mut victim, point, *scenario).await;
                }
            }
        }
    });
}

/// Most of a recovery is PostgreSQL's startup and flushing, so several instances are killed in parallel.
fn in_lanes<F: Future<Output = ()> + Send + 'static>(run: impl Fn(usize) -> F) {
    let lane = |lane| {
        let run = run(lane);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build();
            runtime.expect("a runtime").block_on(run);
        })
    };
    let lanes: Vec<_> = (0..LANES).map(lane).collect();
    for lane in lanes {
        if let Err(panic) = lane.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

async fn killed_at(victim: &mut Victim, point: &str, scenario: Scenario) {
    let begun = Instant::now();
    if scenario == Scenario::FirstStart {
        return killed_at_the_first_start(point).await;
    }
    victim.prepare(scenario).await;
    victim.instance.kill();
    victim.instance.restart_with(&InstanceOptions::safe().with_fault(point));
    victim.provoke(scenario);
    let killed = victim.instance.wait_for_the_kill(REACHED_WITHIN);
    assert_eq!(killed, Killed::AtThePoint, "{point} is not passed by {scenario:?}");
    victim.instance.restart_with(&InstanceOptions::safe());
    victim.settled(scenario).await;
    eprintln!(
        "killed at {point} during {scenario:?}: fine after {:?}",
        begun.elapsed()
    );
}

/// The first start prepares the server; if it is killed, the next start completes it.
async fn killed_at_the_first_start(point: &str) {
    let mut instance = Instance::prepare();
    let status = instance
        .try_restart(&InstanceOptions::safe().with_fault(point))
        .expect_err("the point is passed");
    assert_eq!(status.signal(), Some(9), "{point}: {status}\n{}", instance.log());
    instance.restart_with(&InstanceOptions::safe());
    instance.simple("kill", &["after"]);
    instance.audit("kill").await;
}

#[test]
fn killed_at_random_moments_it_loses_and_duplicates_nothing() {
    let given = std::env::var("TDB_TEST_SEED").ok();
    let seed = given.map_or(0x2545_F491_4F6C_DD1D, |text| {
        text.parse().expect("TDB_TEST_SEED is a number")
    });
    // Printed, so that a failure can be reproduced.
    eprintln!("TDB_TEST_SEED={seed}");
    in_lanes(move |lane| async move {
        let mut victim = Victim::new();
        let mut random = Random((seed + lane as u64).max(1));
        for round in (lane..RANDOM_KILLS).step_by(LANES) {
            let delay = Duration::from_millis(random.below(1500));
            let acknowledged = kill_under_load(&mut victim, round, delay);
            victim.tables.extend(acknowledged);
            victim.instance.restart_with(&InstanceOptions::safe());
            victim.instance.audit("kill").await;
            victim.instance.logged_once("kill", &victim.tables).await;
        }
        victim.instance.deploy_all("kill");
        assert_eq!(victim.instance.diff("kill"), Vec::<Value>::new());
        victim.instance.audit("kill").await;
    });
}

/// Runs DDL, the creation of a tenant and a deployment concurrently, and kills after `delay`. Returns the tables whose
/// creation was reported as successful.
fn kill_under_load(victim: &mut Victim, round: usize, delay: Duration) -> BTreeSet<String> {
    let (url, api) = (victim.url(), victim.instance.api());
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let stop = Arc::new(AtomicUsize::new(0));
    let developer = {
        let (seen, stop) = (seen.clone(), stop.clone());
        thread::spawn(move || {
            for n in 0.. {
                let table = format!("r{round}x{n}");
                if stop.load(Ordering::Relaxed) != 0 || psql(&url, &format!("CREATE TABLE {table} (id int)")).code != 0
                {
                    return;
                }
                seen.lock().unwrap().insert(table);
            }
        })
    };
    let creator = {
        let api = api.clone();
        thread::spawn(move || {
            let body = json!({"tenant_id": format!("r{round}"), "databases": [{"blueprint": "kill"}]});
            let _ = api.try_send("POST", "/tenants", Some(body));
        })
    };
    let deployer = thread::spawn(move || {
        let _ = api.try_send(
            "POST",
            "/deployments",
            Some(json!({"blueprint_name": "kill", "deploy_all": true})),
        );
    });
    let at = Instant::now() + delay;
    while Instant::now() < at {
        thread::sleep(Duration::from_millis(1));
    }
    victim.instance.kill();
    stop.store(1, Ordering::Relaxed);
    for thread in [developer, creator, deployer] {
        thread.join().expect("a client");
    }
    Arc::try_unwrap(seen)
        .expect("its threads have ended")
        .into_inner()
        .unwrap()
}

/// xorshift64*: sufficient for choosing moments.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % limit
    }
}
