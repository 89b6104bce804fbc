//! A bounded cache in front of the route source: filled once for all who ask at the same time, flushed by invalidations,
//! served stale while the source cannot be asked.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tdb_contract::Unavailable;
use tokio::sync::Mutex;

/// Past it the cache is emptied: an attacker who makes up names must not fill the memory.
const ENTRIES_MAX: usize = 20_000;
/// A name that was unknown is asked for again after this: a new tenant is reachable at once.
const NEGATIVE_AGE_MAX: Duration = Duration::from_millis(100);
/// A fill that an invalidation overtook is asked again, so often at most.
const FILL_TRIES: usize = 3;

pub struct Cache<K, V> {
    entries: RefCell<HashMap<K, Entry<V>>>,
    flights: RefCell<HashMap<K, Rc<Mutex<()>>>>,
    state: RefCell<State>,
    stale_max: Duration,
}

struct Entry<V> {
    value: Option<Rc<V>>,
    filled: Instant,
}

struct State {
    /// Counts invalidations; a fill that began under another number is not stored.
    generation: u64,
    /// Since when no invalidations arrive, so that entries may be outdated.
    deaf_since: Option<Instant>,
}

impl<K: Eq + Hash + Clone, V> Cache<K, V> {
    /// Nothing is trusted before [`Self::hear`].
    pub fn new(stale_max: Duration) -> Self {
        Self {
            entries: RefCell::default(),
            flights: RefCell::default(),
            state: RefCell::new(State {
                generation: 0,
                deaf_since: Some(Instant::now()),
            }),
            stale_max,
        }
    }

    /// Invalidations arrive again: whatever was missed, nothing older than now is kept.
    pub fn hear(&self) {
        self.entries.borrow_mut().clear();
        let mut state = self.state.borrow_mut();
        state.generation += 1;
        state.deaf_since = None;
    }

    /// Invalidations do not arrive any more.
    pub fn go_deaf(&self) {
        self.state.borrow_mut().deaf_since.get_or_insert_with(Instant::now);
    }

    pub fn forget(&self, forgotten: impl Fn(&K) -> bool) {
        self.entries.borrow_mut().retain(|key, _| !forgotten(key));
        self.state.borrow_mut().generation += 1;
    }

    /// The value of `key`, from the cache or from `ask`.
    pub async fn resolve<F>(&self, key: &K, ask: impl Fn() -> F) -> Result<Option<Rc<V>>, Unavailable>
    where
        F: Future<Output = Result<Option<V>, Unavailable>>,
    {
        if let Some(known) = self.fresh(key) {
            return Ok(known);
        }
        let flight = self.flights.borrow_mut().entry(key.clone()).or_default().clone();
        let outcome = {
            let _first = flight.lock().await;
            match self.fresh(key) {
                Some(known) => Ok(known),
                None => self.fill(key, ask).await,
            }
        };
        // The map and this function hold one each: nobody else waits.
        if Rc::strong_count(&flight) <= 2 {
            self.flights.borrow_mut().remove(key);
        }
        outcome
    }

    async fn fill<F>(&self, key: &K, ask: impl Fn() -> F) -> Result<Option<Rc<V>>, Unavailable>
    where
        F: Future<Output = Result<Option<V>, Unavailable>>,
    {
        let mut tries = 0;
        loop {
            tries += 1;
            let generation = self.state.borrow().generation;
            let value = match ask().await {
                Ok(value) => value.map(Rc::new),
                Err(unavailable) => return self.stale(key).ok_or(unavailable),
            };
            if self.state.borrow().generation == generation {
                self.store(key, value.clone());
                return Ok(value);
            }
            if tries == FILL_TRIES {
                return Ok(value);
            }
        }
    }

    fn store(&self, key: &K, value: Option<Rc<V>>) {
        let mut entries = self.entries.borrow_mut();
        if entries.len() >= ENTRIES_MAX {
            entries.clear();
        }
        entries.insert(
            key.clone(),
            Entry {
                value,
                filled: Instant::now(),
            },
        );
    }

    fn fresh(&self, key: &K) -> Option<Option<Rc<V>>> {
        if self.state.borrow().deaf_since.is_some() {
            return None;
        }
        let entries = self.entries.borrow();
        let entry = entries.get(key)?;
        (entry.value.is_some() || entry.filled.elapsed() < NEGATIVE_AGE_MAX).then(|| entry.value.clone())
    }

    /// What was known before the source went away, for as long as that is allowed.
    fn stale(&self, key: &K) -> Option<Option<Rc<V>>> {
        let within = self
            .state
            .borrow()
            .deaf_since
            .is_none_or(|since| since.elapsed() <= self.stale_max);
        let known = self.entries.borrow().get(key).and_then(|entry| entry.value.clone());
        known.filter(|_| within).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn cache() -> Cache<&'static str, u32> {
        let cache = Cache::new(Duration::from_secs(60));
        cache.hear();
        cache
    }

    #[tokio::test]
    async fn asks_once_for_many_and_again_after_an_invalidation() {
        let (cache, asked) = (cache(), Cell::new(0));
        let ask = || async {
            asked.set(asked.get() + 1);
            tokio::task::yield_now().await;
            Ok(Some(asked.get()))
        };
        let (a, b) = tokio::join!(cache.resolve(&"k", ask), cache.resolve(&"k", ask));
        assert_eq!(
            (a.unwrap(), b.unwrap(), asked.get()),
            (Some(Rc::new(1)), Some(Rc::new(1)), 1)
        );
        cache.forget(|key| *key == "k");
        assert_eq!(cache.resolve(&"k", ask).await.unwrap(), Some(Rc::new(2)));
        assert!(cache.flights.borrow().is_empty());
    }

    #[tokio::test]
    async fn a_fill_overtaken_by_an_invalidation_is_not_kept() {
        let (cache, asked) = (cache(), Cell::new(0));
        let ask = || async {
            asked.set(asked.get() + 1);
            if asked.get() == 1 {
                cache.forget(|_| true);
            }
            Ok(Some(asked.get()))
        };
        assert_eq!(cache.resolve(&"k", ask).await.unwrap(), Some(Rc::new(2)));
    }

    #[tokio::test]
    async fn serves_what_it_knew_while_the_source_is_away() {
        let cache = cache();
        cache.resolve(&"k", || async { Ok(Some(1)) }).await.unwrap();
        cache.go_deaf();
        let away = || async {
            Err(Unavailable {
                reason: "test".to_owned(),
            })
        };
        assert_eq!(cache.resolve(&"k", away).await.unwrap(), Some(Rc::new(1)));
        assert!(cache.resolve(&"other", away).await.is_err());
        assert_eq!(
            cache.resolve(&"k", || async { Ok(Some(2)) }).await.unwrap(),
            Some(Rc::new(2))
        );
    }
}
