//! Clients that run one short statement after another, each in a new session, and so take every idle connection that the proxy
//! gives away. A session of the proxy can keep its connection; these end, so that the compared clients get connections too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::connect;

/// Between two statements.
const PAUSE: Duration = Duration::from_millis(2);
/// A thief that gets no connection for this time gives up: all are kept by their sessions.
const PATIENCE: Duration = Duration::from_secs(1);

pub struct Thieves {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<usize>>,
}

impl Thieves {
    /// One client for each URL.
    pub fn start(urls: impl IntoIterator<Item = String>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = urls.into_iter().map(|url| {
            let stop = stop.clone();
            thread::spawn(move || steal(&url, &stop))
        });
        let threads = threads.collect();
        Self { stop, threads }
    }

    /// Stops them, and returns the number of statements that they have run.
    pub fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let taken = self.threads.into_iter().map(|thief| thief.join().expect("a thief"));
        taken.sum()
    }
}

fn steal(url: &str, stop: &AtomicBool) -> usize {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut taken = 0;
    while !stop.load(Ordering::Relaxed) {
        let one = async {
            let client = connect(url).await.ok()?;
            client.batch_execute("SELECT 'thief'").await.ok()
        };
        let served = runtime.block_on(async { timeout(PATIENCE, one).await });
        taken += usize::from(matches!(served, Ok(Some(()))));
        thread::sleep(PAUSE);
    }
    taken
}
