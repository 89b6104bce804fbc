//! What the Rust clients share: where to connect, values to send, and the report the runner reads.

use std::env;
use std::future::Future;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

pub type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

pub const TEXT: &str = r#"it's "quoted" \ 100% $1 :x ?"#;
pub const PRICE: &str = "123456789.125";
pub const UNICODE: &str = "Gr\u{fc}\u{df}e \u{4e16}\u{754c} \u{1f418} e\u{301} \u{202e}abc";
pub const ROWS: usize = 50_000;
pub const LARGE: &str = "SELECT n, repeat(md5(n::text), 32) AS text FROM generate_series(1, 50000) n";
pub const LARGE_BYTES: usize = ROWS * 1024;
pub const SLEEP: &str = "SELECT pg_sleep(120)";
/// Only this client's sessions are in its database.
pub const SLEEPERS: &str = "SELECT count(*) AS sleepers FROM pg_stat_activity
    WHERE datname = current_database() AND state = 'active' AND query = 'SELECT pg_sleep(120)'";
pub const CONNECTIONS: usize = 20;

pub fn data() -> Vec<u8> {
    (0..=255).collect()
}

pub fn made() -> DateTime<Utc> {
    "2026-03-29T09:45:00.123456Z".parse().expect("a time")
}

pub fn document() -> serde_json::Value {
    serde_json::json!({"a": [1, null, {"b": "\u{20ac}"}]})
}

pub fn url() -> String {
    env::var("CLIENT_URL").expect("CLIENT_URL")
}

pub fn url_with(parameters: &str) -> String {
    format!("{}?{parameters}", url())
}

pub fn url_with_password(password: &str) -> String {
    let url = url();
    let (scheme, rest) = url.split_once("://").expect("a connection string");
    let (account, place) = rest.split_once('@').expect("an account");
    let (user, _) = account.split_once(':').expect("a password");
    format!("{scheme}://{user}:{password}@{place}")
}

/// The client's own tenant of a blueprint that is none.
pub fn url_of_unknown_database() -> String {
    let url = url();
    let (before, database) = url.rsplit_once('/').expect("a database");
    let own = database.rsplit_once("__").map_or(database, |(_, tenant)| tenant);
    format!("{before}/nothing__{own}")
}

/// What the command line asks for; none of both is the report of all checks.
pub fn step() -> Option<String> {
    env::args().nth(1)
}

pub fn version(version: &str) {
    println!("version\t{version}");
}

pub fn skipped(check: &str, why: &str) {
    println!("{check}\tskipped\t{why}");
}

pub fn told(check: &str, outcome: Outcome) {
    match outcome {
        Ok(()) => println!("{check}\tok"),
        Err(fault) => {
            eprintln!("{check}: {fault:?}");
            println!(
                "{check}\tFAILED\t{}",
                fault.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
            );
        }
    }
}

/// A check in a separate task, so that a failed assertion ends only this check.
pub async fn check<F>(name: &str, work: impl FnOnce() -> F)
where
    F: Future<Output = Outcome> + Send + 'static,
{
    let outcome = tokio::spawn(work()).await;
    told(name, outcome.unwrap_or_else(|panic| Err(panic.into())));
}

pub fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(30)
}
