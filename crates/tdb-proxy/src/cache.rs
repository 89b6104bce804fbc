//! A bounded cache in front of the route source: filled once for all that wait for the same key, flushed by
//! invalidations, served stale while the source is unavailable. Unknown keys have a part of their own, so that clients who
//! make up names evict only each other's.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::Hash;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::time::{Duration, Instant};

use lru::LruCache;
use tdb_contract::Unavailable;
use tokio::sync::Mutex;

/// Keys with a value; past it the least recently used one is evicted. A database that is in use costs two.
const ENTRIES_MAX: NonZeroUsize = bound(20_000);
/// Keys without a value. They save a question to the source for a moment only, and anyone can make them up.
const UNKNOWN_MAX: NonZeroUsize = bound(1_000);
/// A key without a value is asked for again after this: a new tenant is reachable at once.
const UNKNOWN_AGE_MAX: Duration = Duration::from_millis(100);
/// A fill that an invalidation overtook is asked again, so often at most.
const FILL_TRIES: usize = 5;

pub(crate) struct Cache<K: Eq + Hash, V> {
    entries: RefCell<LruCache<K, Rc<V>>>,
    /// When each of them was asked for.
    unknown: RefCell<LruCache<K, Instant>>,
    flights: RefCell<HashMap<K, Rc<Flight>>>,
    /// Since when no invalidations arrive, so that entries may be outdated.
    feed_lost_since: Cell<Option<Instant>>,
    stale_max: Duration,
}

/// A key that is being asked for.
#[derive(Default)]
struct Flight {
    turn: Mutex<()>,
    /// An invalidation came after the source was asked: its answer may be older.
    overtaken: Cell<bool>,
}

const fn bound(entries: usize) -> NonZeroUsize {
    match NonZeroUsize::new(entries) {
        Some(entries) => entries,
        None => NonZeroUsize::MIN,
    }
}

impl<K: Eq + Hash + Clone, V> Cache<K, V> {
    /// Nothing is trusted before [`Self::feed_restored`].
    pub(crate) fn new(stale_max: Duration) -> Self {
        Self {
            entries: RefCell::new(LruCache::new(ENTRIES_MAX)),
            unknown: RefCell::new(LruCache::new(UNKNOWN_MAX)),
            flights: RefCell::default(),
            feed_lost_since: Cell::new(Some(Instant::now())),
            stale_max,
        }
    }

    /// Invalidations arrive again. Some may have been missed, so everything that was cached before is dropped.
    pub(crate) fn feed_restored(&self) {
        self.forget(|_| true);
        self.feed_lost_since.set(None);
    }

    /// Invalidations do not arrive any more.
    pub(crate) fn feed_lost(&self) {
        self.feed_lost_since
            .set(self.feed_lost_since.get().or_else(|| Some(Instant::now())));
    }

    pub(crate) fn forget(&self, forgotten: impl Fn(&K) -> bool) {
        remove(&mut self.entries.borrow_mut(), &forgotten);
        remove(&mut self.unknown.borrow_mut(), &forgotten);
        let flights = self.flights.borrow();
        let overtaken = flights.iter().filter(|(key, _)| forgotten(key));
        overtaken.for_each(|(_, flight)| flight.overtaken.set(true));
    }

    /// Whether the value of `key` is cached and `test` holds for it.
    pub(crate) fn holds(&self, key: &K, test: impl Fn(&V) -> bool) -> bool {
        self.entries.borrow().peek(key).is_some_and(|value| test(value))
    }

    /// The value of `key`, from the cache or from `ask`.
    pub(crate) async fn resolve<F>(&self, key: &K, ask: impl Fn() -> F) -> Result<Option<Rc<V>>, Unavailable>
    where
        F: Future<Output = Result<Option<V>, Unavailable>>,
    {
        if let Some(cached) = self.fresh(key) {
            return Ok(cached);
        }
        let waiter = Waiter::join(self, key);
        let _first = waiter.flight.turn.lock().await;
        match self.fresh(key) {
            Some(cached) => Ok(cached),
            None => self.fill(key, &waiter.flight, ask).await,
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
                Err(unavailable) => return self.stale(key).map(Some).ok_or(unavailable),
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
        let (mut entries, mut unknown) = (self.entries.borrow_mut(), self.unknown.borrow_mut());
        match value {
            Some(value) => {
                unknown.pop(key);
                entries.put(key.clone(), value);
            }
            None => {
                entries.pop(key);
                unknown.put(key.clone(), Instant::now());
            }
        }
    }

    fn fresh(&self, key: &K) -> Option<Option<Rc<V>>> {
        if self.feed_lost_since.get().is_some() {
            return None;
        }
        if let Some(value) = self.entries.borrow_mut().get(key) {
            return Some(Some(value.clone()));
        }
        let unknown = self.unknown.borrow();
        let asked = unknown.peek(key)?;
        (asked.elapsed() < UNKNOWN_AGE_MAX).then_some(None)
    }

    /// What was cached before the source went away, for as long as that is allowed.
    fn stale(&self, key: &K) -> Option<Rc<V>> {
        let lost = self.feed_lost_since.get();
        if lost.is_some_and(|since| since.elapsed() > self.stale_max) {
            return None;
        }
        self.entries.borrow_mut().get(key).cloned()
    }
}

fn remove<K: Eq + Hash + Clone, V>(entries: &mut LruCache<K, V>, removed: impl Fn(&K) -> bool) {
    let keys: Vec<K> = entries
        .iter()
        .map(|(key, _)| key)
        .filter(|key| removed(key))
        .cloned()
        .collect();
    for key in &keys {
        entries.pop(key);
    }
}

/// Waits for the answer to a key. Removes the key's flight when its last waiter is dropped, also in the middle of a wait.
struct Waiter<'a, K: Eq + Hash + Clone, V> {
    cache: &'a Cache<K, V>,
    key: &'a K,
    flight: Rc<Flight>,
}

impl<'a, K: Eq + Hash + Clone, V> Waiter<'a, K, V> {
    fn join(cache: &'a Cache<K, V>, key: &'a K) -> Self {
        let flight = cache.flights.borrow_mut().entry(key.clone()).or_default().clone();
        Self { cache, key, flight }
    }
}

impl<K: Eq + Hash + Clone, V> Drop for Waiter<'_, K, V> {
    fn drop(&mut self) {
        // The map holds one, this waiter the other.
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
        cache.feed_restored();
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
        cache.feed_lost();
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

    #[tokio::test]
    async fn made_up_names_evict_each_other_and_nothing_else() {
        let cache = Cache::<u32, u32>::new(Duration::from_secs(60));
        cache.feed_restored();
        cache.resolve(&0, || async { Ok(Some(7)) }).await.unwrap();
        for name in 1..50_000 {
            cache.resolve(&name, || async { Ok(None) }).await.unwrap();
        }
        assert!(cache.holds(&0, |value| *value == 7), "still known");
        assert_eq!(cache.unknown.borrow().len(), UNKNOWN_MAX.get());
    }

    #[tokio::test]
    async fn a_full_cache_loses_the_least_recently_used_entry() {
        let cache = Cache::<usize, ()>::new(Duration::from_secs(60));
        cache.feed_restored();
        for key in 0..ENTRIES_MAX.get() {
            cache.resolve(&key, || async { Ok(Some(())) }).await.unwrap();
        }
        cache.resolve(&0, || async { Ok(None) }).await.unwrap();
        cache.resolve(&usize::MAX, || async { Ok(Some(())) }).await.unwrap();
        assert!(cache.holds(&0, |()| true) && cache.holds(&2, |()| true) && !cache.holds(&1, |()| true));
        assert_eq!(cache.entries.borrow().len(), ENTRIES_MAX.get());
    }

    #[tokio::test]
    async fn a_key_that_has_become_known_or_unknown_is_in_one_part_only() {
        let cache = cache();
        cache.resolve(&"k", || async { Ok(Some(1)) }).await.unwrap();
        cache.forget(|_| true);
        cache.resolve(&"k", || async { Ok(None) }).await.unwrap();
        assert_eq!(cache.resolve(&"k", || async { Ok(Some(2)) }).await.unwrap(), None);
        tokio::time::sleep(UNKNOWN_AGE_MAX).await;
        assert_eq!(
            cache.resolve(&"k", || async { Ok(Some(3)) }).await.unwrap(),
            Some(Rc::new(3))
        );
        assert!(cache.unknown.borrow().is_empty());
    }
}
