//! A mutex per name, within this process. It queues tasks in front of a lease; leases exclude other processes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// From this many names on, names whose mutex is not in use are removed.
const NAMES_KEPT: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Keyed {
    locks: Mutex<HashMap<String, Weak<AsyncMutex<()>>>>,
}

impl Keyed {
    /// Waits for the mutex of this name. Cancel safe.
    pub(crate) async fn lock(&self, name: &str) -> OwnedMutexGuard<()> {
        self.of(name).lock_owned().await
    }

    /// `None` if another task holds it.
    pub(crate) fn try_lock(&self, name: &str) -> Option<OwnedMutexGuard<()>> {
        self.of(name).try_lock_owned().ok()
    }

    fn of(&self, name: &str) -> Arc<AsyncMutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = locks.get(name).and_then(Weak::upgrade) {
            return lock;
        }
        if locks.len() >= NAMES_KEPT {
            locks.retain(|_, lock| lock.strong_count() > 0);
        }
        let lock = Arc::new(AsyncMutex::new(()));
        locks.insert(name.to_owned(), Arc::downgrade(&lock));
        lock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_held_by_one_and_others_are_free() {
        let keyed = Keyed::default();
        let held = keyed.lock("one").await;
        assert!(keyed.try_lock("one").is_none());
        assert!(keyed.try_lock("two").is_some());
        drop(held);
        assert!(keyed.try_lock("one").is_some());
    }

    #[tokio::test]
    async fn free_names_are_forgotten() {
        let keyed = Keyed::default();
        for name in 0..10_000 {
            drop(keyed.lock(&name.to_string()).await);
        }
        assert!(keyed.locks.lock().unwrap().len() <= NAMES_KEPT);
    }
}
