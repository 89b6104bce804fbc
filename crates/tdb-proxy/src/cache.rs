//! A bounded cache in front of the route source: filled once for all who ask at the same time, flushed by invalidations,
//! served stale while the source cannot be asked.

use std::cell::{Cell, RefCell};
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
const FILL_TRIES: usize = 5;

pub struct Cache<K, V> {
    entries: RefCell<HashMap<K, Entry<V>>>,
    flights: RefCell<HashMap<K, Rc<Flight>>>,
    state: RefCell<State>,
    stale_max: Duration,
}

struct Entry<V> {
    value: Option<Rc<V>>,
    filled: Instant,
}

/// A key that is being asked for.
#[derive(Default)]
struct Flight {
    turn: Mutex<()>,
    /// An invalidation came after the source was asked: its answer may be older.
    overtaken: Cell<bool>,
}

struct State {
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
                deaf_since: Some(Instant::now()),
            }),
            stale_max,
        }
    }

    /// Invalidations arrive again: whatever was missed, nothing older than now is kept.
    pub fn hear(&self) {
        self.forget(|_| true);
        self.state.borrow_mut().deaf_since = None;
    }

    /// Invalidations do not arrive any more.
    pub fn go_deaf(&self) {
        self.state.borrow_mut().deaf_since.get_or_insert_with(Instant::now);
    }

    pub fn forget(&self, forgotten: impl Fn(&K) -> bool) {
        self.entries.borrow_mut().retain(|key, _| !forgotten(key));
        let flights = self.flights.borrow();
        let overtaken = flights.iter().filter(|(key, _)| forgotten(key));
        overtaken.for_each(|(_, flight)| flight.overtaken.set(true));
    }

    /// Whether the value of `key` is kept and `test` holds for it.
    pub fn holds(&self, key: &K, test: impl Fn(&V) -> bool) -> bool {
        let entries = self.entries.borrow();
        entries
            .get(key)
            .and_then(|entry| entry.value.as_deref())
            .is_some_and(test)
    }

    /// The value of `key`, from the cache or from `ask`.
    pub async fn resolve<F>(&self, key: &K, ask: impl Fn() -> F) -> Result<Option<Rc<V>>, Unavailable>
    where
        F: Future<Output = Result<Option<V>, Unavailable>>,
    {
        if let Some(known) = self.fresh(key) {
            return Ok(known);
        }
        let boarded = Boarded::board(self, key);
        let _first = boarded.flight.turn.lock().await;
        match self.fresh(key) {
            Some(known) => Ok(known),
            None => self.fill(key, &boarded.flight, ask).await,
        }
    }

    async fn fill<F>(&self, key: &K, flight: &Flight, ask: impl Fn() -> F) -> Result<Option<Rc<V>>, Unavailable>
    where
        F: Future<Output = Result<Option<V>, Unavailable>>,
    {
        for _ in 0..FILL_TRIES {
            flight.overtaken.set(false);
            let value = match ask().await {
                Ok(value) => value.map(Rc::new),
                Err(unavailable) => return self.stale(key).ok_or(unavailable),
            };
            if !flight.overtaken.get() {
                self.store(key, value.clone());
                return Ok(value);
            }
        }
        Err(Unavailable {
            reason: "the answer was outdated each time it came".to_owned(),
        })
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

/// Takes its flight off the board when the last one who waits for it is gone, also when that one was dropped.
struct Boarded<'a, K: Eq + Hash + Clone, V> {
    cache: &'a Cache<K, V>,
    key: &'a K,
    flight: Rc<Flight>,
}

impl<'a, K: Eq + Hash + Clone, V> Boarded<'a, K, V> {
    fn board(cache: &'a Cache<K, V>, key: &'a K) -> Self {
        let flight = cache.flights.borrow_mut().entry(key.clone()).or_default().clone();
        Self { cache, key, flight }
    }
}

impl<K: Eq + Hash + Clone, V> Drop for Boarded<'_, K, V> {
    fn drop(&mut self) {
        // The board has one, we have the other.
        if Rc::strong_count(&self.flight) <= 2 {
            self.cache.flights.borrow_mut().remove(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
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
        assert!(cache.holds(&"k", |value| *value == 2));
    }

    #[tokio::test]
    async fn an_invalidation_of_another_key_does_not_matter_to_a_fill() {
        let (cache, asked) = (cache(), Cell::new(0));
        let ask = || async {
            asked.set(asked.get() + 1);
            cache.forget(|key| *key != "k");
            Ok(Some(asked.get()))
        };
        assert_eq!(cache.resolve(&"k", ask).await.unwrap(), Some(Rc::new(1)));
    }

    #[tokio::test]
    async fn an_answer_that_is_always_outdated_is_none() {
        let cache = cache();
        let ask = || async {
            cache.forget(|_| true);
            Ok(Some(1))
        };
        assert!(cache.resolve(&"k", ask).await.is_err());
    }

    #[tokio::test]
    async fn who_stops_waiting_leaves_nothing_behind() {
        let cache = cache();
        let never = || std::future::pending::<Result<Option<u32>, Unavailable>>();
        let waited = tokio::time::timeout(Duration::ZERO, cache.resolve(&"k", never)).await;
        assert!(waited.is_err() && cache.flights.borrow().is_empty());
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
