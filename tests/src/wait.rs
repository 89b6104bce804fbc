//! Waiting for a condition with a time limit. The only place where tests sleep, between two checks.

use std::future::Future;
use std::thread;
use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Calls `look` until it returns a value; panics with `what` after `limit`.
pub fn eventually<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not seen within {limit:?}: {what}");
        thread::sleep(LOOK_EVERY);
    }
}

/// As [`eventually`], for an async check.
pub async fn eventually_async<T, F>(limit: Duration, what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not seen within {limit:?}: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
