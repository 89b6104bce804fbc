//! `tdb` on a terminal: colours and a progress bar that is removed at the end; Ctrl-C during `--watch`.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use tdb_tests::{Background, Binaries, Instance, Session, Tenant, clean, eventually, psql, terminal};

const SOON: Duration = Duration::from_secs(60);
const FRESH_LINE: &str = "\r\u{1b}[K";
const BAR: &str = "[#";
const GREEN_BAR: &str = "[\u{1b}[32m";

static INSTANCE: OnceLock<Instance> = OnceLock::new();

fn instance() -> &'static Instance {
    INSTANCE.get_or_init(Instance::start)
}

/// A `tdb` whose standard output and error are a terminal.
struct Terminal {
    child: Background,
    shown: Arc<Mutex<String>>,
    over: Receiver<()>,
}

impl Terminal {
    fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let (mut master, slave) = terminal();
        let end = || slave.try_clone().expect("the terminal once more");
        let mut command = clean(&Binaries::built().tdb);
        command
            .args(arguments)
            .env("TDB_API_URL", instance().api_url())
            .env("TDB_API_KEY", instance().api_key())
            .env("TERM", "xterm")
            .envs(environment.iter().copied())
            .stdin(end())
            .stdout(end())
            .stderr(end());
        let child = Background::start(command);
        drop(slave);
        let shown = Arc::new(Mutex::new(String::new()));
        let (written, (send, over)) = (shown.clone(), channel());
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Reading from a terminal without open ends is an error.
            while let Ok(count @ 1..) = master.read(&mut bytes) {
                written
                    .lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
            let _ = send.send(());
        });
        Self { child, shown, over }
    }

    fn wait_for(&self, text: &str) {
        eventually(SOON, text, || self.shown.lock().unwrap().contains(text).then_some(()));
    }

    /// The complete output, and how it ended: the exit status, or the negative signal number.
    fn end(mut self) -> (String, i32) {
        let status = self.child.end();
        self.over.recv_timeout(SOON).expect("the end of what it wrote");
        let code = status.code().or_else(|| Some(-status.signal()?)).expect("an end");
        (self.shown.lock().unwrap().clone(), code)
    }
}

/// The text that remains on the screen, without colours.
fn screen(shown: &str) -> Vec<String> {
    let left = |line: &str| {
        let line = line.rsplit(FRESH_LINE).next().unwrap_or_default();
        let mut plain = String::new();
        for part in line.trim_end_matches('\r').split("\u{1b}[") {
            let painted = part
                .split_once('m')
                .filter(|(code, _)| code.bytes().all(|byte| byte.is_ascii_digit()));
            plain.push_str(painted.map_or(part, |(_, text)| text));
        }
        plain
    };
    shown.split('\n').map(left).collect()
}

/// A deployment to these tenants that waits at the first one until the session rolls back.
async fn held(blueprint: &str, tenants: &[&str]) -> (Session, Vec<Tenant>) {
    let (workspace, tenants) = instance().simple(blueprint, tenants);
    let holder = tenants[0].connect().await;
    holder.batch_execute("BEGIN; LOCK TABLE t").await.expect("a lock");
    psql(&workspace.url, "ALTER TABLE t ADD COLUMN n int").ok();
    (holder, tenants)
}

fn watch(blueprint: &str) -> [&str; 6] {
    ["deployments", "create", "--blueprint", blueprint, "--all", "--watch"]
}

#[tokio::test]
async fn the_progress_bar_is_removed_at_the_end() {
    for (blueprint, environment, bar) in [("bar", &[][..], GREEN_BAR), ("pale", &[("NO_COLOR", "1")], BAR)] {
        let names = [format!("{blueprint}-one"), format!("{blueprint}-two")];
        let (holder, _tenants) = held(blueprint, &[&names[0], &names[1]]).await;
        let terminal = Terminal::start(&watch(blueprint), environment);
        terminal.wait_for("running: 1 of 2 tenants");
        holder.batch_execute("ROLLBACK").await.expect("the lock is let go");
        let (shown, code) = terminal.end();
        assert_eq!(code, 0, "{shown}");
        assert!(shown.contains(&format!("{FRESH_LINE}  {bar}")), "{shown:?}");
        assert_eq!(shown.contains("\u{1b}[3"), environment.is_empty(), "{shown:?}");
        let screen = screen(&shown);
        assert!(
            !screen.iter().any(|line| line.contains(BAR) || line.contains("..]")),
            "{screen:#?}"
        );
        assert!(screen.iter().any(|line| line.starts_with("TENANT ")), "{screen:#?}");
    }
}

#[tokio::test]
async fn a_terminal_without_cursor_movement_gets_lines() {
    let (holder, _tenants) = held("dumb", &["dumb-one"]).await;
    holder.batch_execute("ROLLBACK").await.expect("the lock is let go");
    let (shown, code) = Terminal::start(&watch("dumb"), &[("TERM", "dumb")]).end();
    assert_eq!(code, 0, "{shown}");
    assert!(
        !shown.contains('\u{1b}') && shown.contains("  completed: 1 of 1 tenants"),
        "{shown:?}"
    );
}

#[test]
fn errors_and_tables_are_coloured_unless_no_color_is_set() {
    let unknown = ["tenants", "get", "unheard"];
    let (shown, code) = Terminal::start(&unknown, &[]).end();
    assert_eq!(code, 1);
    assert!(
        shown.contains("\u{1b}[31merror:\u{1b}[0m tenant") && shown.contains("\u{1b}[36mhint:"),
        "{shown:?}"
    );
    let (shown, _) = Terminal::start(&["servers", "list"], &[]).end();
    assert!(
        shown.contains("\u{1b}[1mNAME") && shown.contains("\u{1b}[32mactive\u{1b}[0m"),
        "{shown:?}"
    );
    for arguments in [&unknown[..], &["servers", "list"], &["--help"]] {
        let (shown, _) = Terminal::start(arguments, &[("NO_COLOR", "1")]).end();
        assert!(!shown.is_empty() && !shown.contains("\u{1b}[3"), "{shown:?}");
    }
}

#[tokio::test]
async fn ctrl_c_does_not_stop_the_deployment_and_prints_how_to_watch_it() {
    let (holder, _tenants) = held("left", &["left-one"]).await;
    let terminal = Terminal::start(&watch("left"), &[]);
    terminal.wait_for("running: 0 of 1 tenants");
    terminal.child.signal(Signal::SIGINT);
    let (shown, code) = terminal.end();
    assert_eq!(code, -(Signal::SIGINT as i32), "{shown}");
    let list = instance().tdb_json(&["deployments", "list"]);
    let jobs = list["jobs"].as_array().expect("jobs");
    let job = jobs
        .iter()
        .find(|job| job["blueprint_id"] == "left")
        .expect("the deployment");
    assert_eq!(job["status"], "running", "{job:#}");
    let id = job["job_id"].as_str().expect("an id");
    let farewell = format!("The deployment continues; \"tdb deployments status {id} --watch\" follows it again.");
    let screen = screen(&shown);
    assert_eq!(screen[1..], [farewell, String::new()], "the bar is gone: {screen:#?}");
    holder.batch_execute("ROLLBACK").await.expect("the lock is let go");
    let followed = Terminal::start(&["deployments", "status", id, "--watch"], &[]).end();
    assert_eq!(followed.1, 0, "{}", followed.0);
}
