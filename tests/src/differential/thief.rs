//! Clients that run a short statement again and again, and so take every idle connection that the proxy gives away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::Wire;

/// Between two statements, so that the other clients get connections too.
const PAUSE: Duration = Duration::from_millis(2);

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
    let mut wire = Wire::login(url).expect("log in");
    let mut taken = 0;
    while !stop.load(Ordering::Relaxed) {
        let frames = wire.query("SELECT 'thief'");
        // 53300: all connections were pinned for too long.
        taken += usize::from(frames.iter().any(|frame| frame.tag == b'D'));
        thread::sleep(PAUSE);
    }
    taken
}
