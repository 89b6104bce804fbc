//! A metadata store that does not respond: stopped with SIGSTOP, as if the machine were out of memory or had lost a disk.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tdb_tests::{Api, Instance, eventually, only, psql, with_ice};

/// The promised limit is three seconds; the rest is an allowance for a busy machine. Without the limit it is 15 seconds.
const FAILURE_TIME_MAX: Duration = Duration::from_secs(10);

/// The processes of the instance's PostgreSQL. They are continued when this value is dropped.
struct Stopped(Vec<Pid>);

impl Stopped {
    fn stop(pids: Vec<Pid>) -> Self {
        for pid in &pids {
            // A process may have ended in the meantime.
            let _ = kill(*pid, Signal::SIGSTOP);
        }
        Self(pids)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = kill(*pid, Signal::SIGCONT);
        }
    }
}

fn postmaster(instance: &Instance) -> Pid {
    let file = instance.data_dir().join("postgres/postmaster.pid");
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    Pid::from_raw(text.lines().next().expect("a pid").parse().expect("a number"))
}

/// The child processes of `parent`.
fn children(parent: Pid) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").expect("/proc").filter_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, fields) = stat.rsplit_once(')')?;
        let found: i32 = fields.split_ascii_whitespace().nth(1)?.parse().ok()?;
        (found == parent.as_raw()).then(|| Pid::from_raw(pid))
    });
    processes.collect()
}

fn fails_soon(api: &Api, method: &str, path: &str, body: Option<serde_json::Value>) {
    let begun = Instant::now();
    let answer = api.try_send(method, path, body).expect("an answer");
    let took = begun.elapsed();
    let problem = answer.problem(503);
    assert_eq!(
        problem["code"], "control_plane_unavailable",
        "{method} {path}: {problem}"
    );
    assert!(took < FAILURE_TIME_MAX, "{method} {path} took {took:?}");
}

fn is_well_again(api: &Api) {
    eventually(Duration::from_secs(60), "the API answers again", || {
        let health = api.get("/health");
        let list = api.get("/tenants");
        (health.status == 200 && list.status == 200).then_some(())
    });
}

#[test]
fn requests_to_a_store_that_hangs_fail_within_three_seconds_with_its_code() {
    let instance = Instance::start();
    let (api, postmaster) = (instance.api(), postmaster(&instance));
    is_well_again(&api);
    {
        let _stopped = Stopped::stop([vec![postmaster], children(postmaster)].concat());
        // `/health` comes last: its answer can be half a second old.
        for path in ["/tenants", "/workspaces", "/projects", "/servers", "/health"] {
            fails_soon(&api, "GET", path, None);
        }
        let workspace = json!({ "name": "app", "database": "PostgreSQL" });
        fails_soon(&api, "POST", "/workspaces", Some(workspace));
        let login = json!({ "email": "ann@example.com", "password": "a password of ann" });
        fails_soon(&api.with_key(None), "POST", "/login", Some(login));
        // More concurrent requests than connections to the store.
        std::thread::scope(|scope| {
            for _ in 0..40 {
                scope.spawn(|| fails_soon(&api, "GET", "/tenants", None));
            }
        });
    }
    is_well_again(&api);
}

#[test]
fn a_store_without_free_connections_is_unhealthy() {
    let instance = Instance::start();
    let api = instance.api();
    {
        let _stopped = Stopped::stop(vec![postmaster(&instance)]);
        eventually(Duration::from_secs(60), "/health is not well", || {
            (api.get("/health").status == 503).then_some(())
        });
        fails_soon(&api, "GET", "/health", None);
    }
    is_well_again(&api);
}

/// A login that waits for the store takes several seconds for each of its two lookups.
const LOGINS: u32 = 10;
const LOGINS_TIME_MAX: Duration = Duration::from_secs(60);

#[test]
fn logins_to_known_databases_do_not_wait_for_a_store_that_hangs() {
    let (instance, _ice) = with_ice();
    only(&instance, "ice");
    let app = instance.workspace("app");
    psql(&app.url, "CREATE TABLE t (id int)").ok();
    let [known, unknown] = ["known", "unknown"].map(|name| instance.tenant(name, "app"));
    psql(&known.url, "SELECT 1").ok();
    let postmaster = postmaster(&instance);
    let _stopped = Stopped::stop([vec![postmaster], children(postmaster)].concat());
    eventually(Duration::from_secs(60), "the proxy has lost its feed", || {
        instance.log().contains("lost the feed of route changes").then_some(())
    });
    let begun = Instant::now();
    for _ in 0..LOGINS {
        psql(&known.url, "SELECT 1").ok();
    }
    let took = begun.elapsed();
    assert!(took < LOGINS_TIME_MAX, "{LOGINS} logins took {took:?}");
    let refused = psql(&unknown.url, "SELECT 1");
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(refused.stderr.contains("control plane"), "{}", refused.stderr);
}
