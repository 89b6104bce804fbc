//! One at a time per database or workspace, within this process. Between processes the rows of the store decide.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use uuid::Uuid;

/// Past this many keys, the ones that nobody holds are forgotten.
const KEYS_KEPT: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Keyed {
    locks: Mutex<HashMap<Uuid, Weak<AsyncMutex<()>>>>,
}

impl Keyed {
    /// Waits for its turn. Cancel safe.
    pub(crate) async fn lock(&self, key: Uuid) -> OwnedMutexGuard<()> {
        self.of(key).lock_owned().await
    }

    /// `None` where somebody works on it.
    pub(crate) fn try_lock(&self, key: Uuid) -> Option<OwnedMutexGuard<()>> {
        self.of(key).try_lock_owned().ok()
    }

    fn of(&self, key: Uuid) -> Arc<AsyncMutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = locks.get(&key).and_then(Weak::upgrade) {
            return lock;
        }
        if locks.len() >= KEYS_KEPT {
            locks.retain(|_, lock| lock.strong_count() > 0);
        }
        let lock = Arc::new(AsyncMutex::new(()));
        locks.insert(key, Arc::downgrade(&lock));
        lock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_is_held_by_one_and_others_are_free() {
        let keyed = Keyed::default();
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let held = keyed.lock(one).await;
        assert!(keyed.try_lock(one).is_none());
        assert!(keyed.try_lock(two).is_some());
        drop(held);
        assert!(keyed.try_lock(one).is_some());
    }

    #[tokio::test]
    async fn free_keys_are_forgotten() {
        let keyed = Keyed::default();
        for key in 0..10_000 {
            drop(keyed.lock(Uuid::from_u128(key)).await);
        }
        assert!(keyed.locks.lock().unwrap().len() <= KEYS_KEPT);
    }
}
