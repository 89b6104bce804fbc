//! Waiting for a fact with a deadline; the only place where tests sleep, and only between looks.

use std::future::Future;
use std::thread;
use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until `look` finds something; panics naming `what` when `limit` is over.
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

/// As [`eventually`], for a look that awaits.
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
