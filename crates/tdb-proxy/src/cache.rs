//! A bounded cache in front of the route source. Concurrent lookups of a key share one request to the source, invalidations
//! drop entries, and stale entries are used while the source is unavailable. Unknown keys are cached separately, so that
//! lookups of invented names evict only each other.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::Hash;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::time::{Duration, Instant};

use lru::LruCache;
use tdb_contract::Unavailable;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// The number of keys with a value; beyond it, the least recently used one is evicted. A database in use takes two.
const ENTRIES_MAX: NonZeroUsize = bound(20_000);
/// The number of unknown keys that are remembered. Few are enough, since they expire quickly and clients can invent any
/// number of them.
const UNKNOWN_MAX: NonZeroUsize = bound(1_000);
/// After this time an unknown key is looked up again, so that a new tenant is reachable without delay.
const UNKNOWN_AGE_MAX: Duration = Duration::from_millis(100);
/// How long a lookup may take if there is a stale entry to use instead.
const STALE_WAIT_MAX: Duration = Duration::from_millis(250);
/// After a lookup without an answer, stale entries are used for this time without another lookup.
const SOURCE_PAUSE: Duration = Duration::from_secs(1);
/// The number of lookups, when invalidations keep arriving while the source is answering.
const FILL_ATTEMPTS: usize = 5;

pub(crate) struct Cache<K: Eq + Hash, V> {
    entries: RefCell<LruCache<K, Rc<V>>>,
    /// Unknown keys, with the time of their lookup.
    unknown: RefCell<LruCache<K, Instant>>,
    flights: RefCell<HashMap<K, Rc<Flight>>>,
    /// The time since which no invalidations arrive, so that entries may be stale; `None` while they arrive.
    feed_lost_since: Cell<Option<Instant>>,
    /// When the source last failed to answer the lookup of a key with a stale entry.
    unanswered_at: Cell<Option<Instant>>,
    stale_max: Duration,
}

/// A lookup in progress.
#[derive(Default)]
struct Flight {
    turn: Mutex<()>,
    /// An invalidation arrived after the request was sent, so the answer may be stale.
    invalidated: Cell<bool>,
}

const fn bound(entries: usize) -> NonZeroUsize {
    match NonZeroUsize::new(entries) {
        Some(entries) => entries,
        None => NonZeroUsize::MIN,
    }
}

impl<K: Eq + Hash + Clone, V> Cache<K, V> {
    /// An empty cache. Entries count as stale until [`Self::feed_restored`] is called.
    pub(crate) fn new(stale_max: Duration) -> Self {
        Self {
            entries: RefCell::new(LruCache::new(ENTRIES_MAX)),
            unknown: RefCell::new(LruCache::new(UNKNOWN_MAX)),
            flights: RefCell::default(),
            feed_lost_since: Cell::new(Some(Instant::now())),
            unanswered_at: Cell::new(None),
            stale_max,
        }
    }

    /// Invalidations arrive again. Some may have been missed, so all entries are dropped.
    pub(crate) fn feed_restored(&self) {
        self.invalidate(|_| true);
        self.feed_lost_since.set(None);
    }

    /// Invalidations no longer arrive.
    pub(crate) fn feed_lost(&self) {
        self.feed_lost_since
            .set(self.feed_lost_since.get().or_else(|| Some(Instant::now())));
    }

    /// Drops the entries of the keys that `is_stale` accepts, and invalidates their lookups in progress.
    pub(crate) fn invalidate(&self, is_stale: impl Fn(&K) -> bool) {
        remove(&mut self.entries.borrow_mut(), &is_stale);
        remove(&mut self.unknown.borrow_mut(), &is_stale);
        let flights = self.flights.borrow();
        let stale = flights.iter().filter(|(key, _)| is_stale(key));
        stale.for_each(|(_, flight)| flight.invalidated.set(true));
    }

    /// Whether the value of `key` is cached and `test` holds for it.
    pub(crate) fn holds(&self, key: &K, test: impl Fn(&V) -> bool) -> bool {
        self.entries.borrow().peek(key).is_some_and(|value| test(value))
    }

    /// The value of `key`, from the cache or from `look_up`; `None` if there is none. If the lookup fails or takes
    /// long, a stale entry is returned for as long as that is allowed: the source sends missed invalidations later, which end
    /// the sessions that must end.
    pub(crate) async fn resolve<F>(&self, key: &K, look_up: impl Fn() -> F) -> Result<Option<Rc<V>>, Unavailable>
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
            None => self.fill(key, &waiter.flight, look_up).await,
        }
    }

    async fn fill<F>(&self, key: &K, flight: &Flight, look_up: impl Fn() -> F) -> Result<Option<Rc<V>>, Unavailable>
    where
        F: Future<Output = Result<Option<V>, Unavailable>>,
    {
        for _ in 0..FILL_ATTEMPTS {
            flight.invalidated.set(false);
            let value = match self.answer(key, look_up()).await {
                Ok(value) => value.map(Rc::new),
                Err(unavailable) => return self.stale(key).map(Some).ok_or(unavailable),
            };
            if !flight.invalidated.get() {
                self.store(key, value.clone());
                return Ok(value);
            }
        }
        Err(Unavailable {
            reason: "each answer was stale when it arrived".to_owned(),
        })
    }

    /// The answer of the source. If there is a stale entry, it is awaited only for a short time, and not at all soon after
    /// another lookup had no answer.
    async fn answer(
        &self,
        key: &K,
        lookup: impl Future<Output = Result<Option<V>, Unavailable>>,
    ) -> Result<Option<V>, Unavailable> {
        if self.stale(key).is_none() {
            return lookup.await;
        }
        if self.unanswered_at.get().is_some_and(|at| at.elapsed() < SOURCE_PAUSE) {
            return Err(unanswered());
        }
        let answer = timeout(STALE_WAIT_MAX, lookup)
            .await
            .unwrap_or_else(|_| Err(unanswered()));
        self.unanswered_at.set(answer.is_err().then(Instant::now));
        answer
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
        let looked_up_at = unknown.peek(key)?;
        (looked_up_at.elapsed() < UNKNOWN_AGE_MAX).then_some(None)
    }

    /// The cached value, even if it may be stale, unless the feed has been lost for longer than `stale_max`.
    fn stale(&self, key: &K) -> Option<Rc<V>> {
        let lost = self.feed_lost_since.get();
        if lost.is_some_and(|since| since.elapsed() > self.stale_max) {
            return None;
        }
        self.entries.borrow_mut().get(key).cloned()
    }
}

fn unanswered() -> Unavailable {
    Unavailable {
        reason: format!("no answer within {STALE_WAIT_MAX:?}"),
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

/// A waiter for the lookup of a key. Dropping the last waiter removes the in-flight entry, also if it is still waiting.
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
        // One reference is held by the map, the other by this waiter.
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
    async fn concurrent_lookups_share_one_request_and_an_invalidation_causes_another() {
        let (cache, requests) = (cache(), Cell::new(0));
        let look_up = || async {
            requests.set(requests.get() + 1);
            tokio::task::yield_now().await;
            Ok(Some(requests.get()))
        };
        let (a, b) = tokio::join!(cache.resolve(&"k", look_up), cache.resolve(&"k", look_up));
        assert_eq!(
            (a.unwrap(), b.unwrap(), requests.get()),
            (Some(Rc::new(1)), Some(Rc::new(1)), 1)
        );
        cache.invalidate(|key| *key == "k");
        assert_eq!(cache.resolve(&"k", look_up).await.unwrap(), Some(Rc::new(2)));
        assert!(cache.flights.borrow().is_empty());
    }

    #[tokio::test]
    async fn an_answer_invalidated_in_flight_is_not_cached() {
        let (cache, requests) = (cache(), Cell::new(0));
        let look_up = || async {
            requests.set(requests.get() + 1);
            if requests.get() == 1 {
                cache.invalidate(|_| true);
            }
            Ok(Some(requests.get()))
        };
        assert_eq!(cache.resolve(&"k", look_up).await.unwrap(), Some(Rc::new(2)));
        assert!(cache.holds(&"k", |value| *value == 2));
    }

    #[tokio::test]
    async fn an_invalidation_of_another_key_does_not_affect_a_lookup() {
        let (cache, requests) = (cache(), Cell::new(0));
        let look_up = || async {
            requests.set(requests.get() + 1);
            cache.invalidate(|key| *key != "k");
            Ok(Some(requests.get()))
        };
        assert_eq!(cache.resolve(&"k", look_up).await.unwrap(), Some(Rc::new(1)));
    }

    #[tokio::test]
    async fn a_lookup_whose_answers_are_always_stale_fails() {
        let cache = cache();
        let look_up = || async {
            cache.invalidate(|_| true);
            Ok(Some(1))
        };
        assert!(cache.resolve(&"k", look_up).await.is_err());
    }

    #[tokio::test]
    async fn a_cancelled_lookup_leaves_no_in_flight_entry() {
        let cache = cache();
        let never = || std::future::pending::<Result<Option<u32>, Unavailable>>();
        let waited = timeout(Duration::ZERO, cache.resolve(&"k", never)).await;
        assert!(waited.is_err() && cache.flights.borrow().is_empty());
    }

    #[tokio::test]
    async fn stale_entries_are_served_while_the_source_is_unavailable() {
        let cache = cache();
        cache.resolve(&"k", || async { Ok(Some(1)) }).await.unwrap();
        cache.feed_lost();
        assert_eq!(
            cache.resolve(&"k", || async { Ok(Some(2)) }).await.unwrap(),
            Some(Rc::new(2))
        );
        let unavailable = || async {
            Err(Unavailable {
                reason: "test".to_owned(),
            })
        };
        assert_eq!(cache.resolve(&"k", unavailable).await.unwrap(), Some(Rc::new(2)));
        assert!(cache.resolve(&"other", unavailable).await.is_err());
    }

    #[tokio::test]
    async fn a_source_that_does_not_answer_hardly_delays_a_stale_entry() {
        let (cache, requests) = (cache(), Cell::new(0));
        cache.resolve(&"k", || async { Ok(Some(1)) }).await.unwrap();
        let never = || async {
            requests.set(requests.get() + 1);
            std::future::pending().await
        };
        cache.feed_lost();
        for _ in 0..100 {
            assert_eq!(cache.resolve(&"k", never).await.unwrap(), Some(Rc::new(1)));
        }
        // One per second on a machine of any speed.
        assert!((1..50).contains(&requests.get()), "{}", requests.get());
        let answer = timeout(STALE_WAIT_MAX * 10, cache.resolve(&"other", never)).await;
        assert!(answer.is_err(), "a key without an entry waits for the source");
    }

    #[tokio::test]
    async fn invented_names_evict_only_each_other() {
        let cache = Cache::<u32, u32>::new(Duration::from_secs(60));
        cache.feed_restored();
        cache.resolve(&0, || async { Ok(Some(7)) }).await.unwrap();
        for name in 1..50_000 {
            cache.resolve(&name, || async { Ok(None) }).await.unwrap();
        }
        assert!(cache.holds(&0, |value| *value == 7), "still cached");
        assert_eq!(cache.unknown.borrow().len(), UNKNOWN_MAX.get());
    }

    #[tokio::test]
    async fn a_full_cache_evicts_the_least_recently_used_entry() {
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
    async fn a_key_is_never_cached_as_both_known_and_unknown() {
        let cache = cache();
        cache.resolve(&"k", || async { Ok(Some(1)) }).await.unwrap();
        loop {
            cache.invalidate(|_| true);
            let begun = Instant::now();
            cache.resolve(&"k", || async { Ok(None) }).await.unwrap();
            let found = cache.resolve(&"k", || async { Ok(Some(2)) }).await.unwrap();
            // A busy machine can let more time pass between the two.
            if begun.elapsed() < UNKNOWN_AGE_MAX {
                assert_eq!(found, None);
                break;
            }
        }
        tokio::time::sleep(UNKNOWN_AGE_MAX).await;
        assert_eq!(
            cache.resolve(&"k", || async { Ok(Some(3)) }).await.unwrap(),
            Some(Rc::new(3))
        );
        assert!(cache.unknown.borrow().is_empty());
    }
}
