//! The limit on concurrent connections, and the delay of replies to wrong passwords.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::settings::ProxySettings;

/// The number of failed logins without a delay, for typing errors.
const FAILURES_FREE: u32 = 3;
const DELAY_FIRST: Duration = Duration::from_millis(100);
const DELAY_MAX: Duration = Duration::from_secs(3);
/// The count of failures starts again after this time without one.
const FAILURE_AGE_MAX: Duration = Duration::from_secs(300);
/// The number of pairs of user name and address whose failures are counted. Beyond it, the pair that failed longest ago is
/// dropped: invented names must neither exhaust memory nor reset the counts of other users.
const FAILURES_TRACKED_MAX: NonZeroUsize = match NonZeroUsize::new(50_000) {
    Some(names) => names,
    None => NonZeroUsize::MIN,
};

pub(crate) struct ClientLimits {
    clients_max: u32,
    clients: Cell<u32>,
    failures: RefCell<LruCache<(String, IpAddr), Failures>>,
}

struct Failures {
    count: u32,
    last: Instant,
}

/// The number of connections beyond the limit that get an error message; more are closed without one.
const REFUSED_MAX: u32 = 64;
/// User names are at most this long. Longer ones are cut, so that they cannot exhaust memory.
const USER_LEN_MAX: usize = 63;

/// One of the concurrent connections. Dropping it frees the slot.
pub(crate) struct ClientSlot<'a> {
    limits: &'a ClientLimits,
    admission: Admission,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    WithinLimit,
    /// Beyond the limit: it can send a cancel request; a startup packet is answered with an error that states the limit.
    BeyondLimit,
}

impl ClientLimits {
    pub(crate) fn new(settings: &ProxySettings) -> Self {
        Self {
            clients_max: settings.clients_max.get(),
            clients: Cell::new(0),
            failures: RefCell::new(LruCache::new(FAILURES_TRACKED_MAX)),
        }
    }

    /// Takes a slot; `None` if the slots for connections that are only refused are taken too.
    pub(crate) fn admit(&self) -> Option<ClientSlot<'_>> {
        let clients = self.clients.get();
        let admission = if clients < self.clients_max {
            Admission::WithinLimit
        } else {
            Admission::BeyondLimit
        };
        (clients < self.clients_max.saturating_add(REFUSED_MAX)).then(|| {
            self.clients.set(clients + 1);
            let limits = self;
            ClientSlot { limits, admission }
        })
    }

    pub(crate) fn clients_max(&self) -> u32 {
        self.clients_max
    }

    /// Counts a failed login and returns how long to delay its reply. Logins with the correct password are not delayed, so a
    /// user cannot be locked out by others. Unknown user names are treated the same.
    pub(crate) fn login_failed(&self, user: &str, address: IpAddr) -> Duration {
        let mut failures = self.failures.borrow_mut();
        let now = Instant::now();
        let entry = failures.get_or_insert_mut(failure_key(user, address), || Failures { count: 0, last: now });
        if now.duration_since(entry.last) > FAILURE_AGE_MAX {
            entry.count = 0;
        }
        entry.count = entry.count.saturating_add(1);
        entry.last = now;
        match entry.count.checked_sub(FAILURES_FREE + 1) {
            None => Duration::ZERO,
            Some(doublings) => DELAY_FIRST.saturating_mul(1u32 << doublings.min(10)).min(DELAY_MAX),
        }
    }

    pub(crate) fn login_succeeded(&self, user: &str, address: IpAddr) {
        self.failures.borrow_mut().pop(&failure_key(user, address));
    }
}

fn failure_key(user: &str, address: IpAddr) -> (String, IpAddr) {
    (user.chars().take(USER_LEN_MAX).collect(), address)
}

impl ClientSlot<'_> {
    pub(crate) fn admission(&self) -> Admission {
        self.admission
    }
}

impl Drop for ClientSlot<'_> {
    fn drop(&mut self) {
        self.limits.clients.set(self.limits.clients.get().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn the_delay_grows_with_repeated_failures_up_to_a_maximum() {
        let limits = ClientLimits::new(&ProxySettings::default());
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let delays: Vec<_> = (0..12).map(|_| limits.login_failed("a", address)).collect();
        assert_eq!(delays[..3], [Duration::ZERO; 3]);
        assert!(delays[3..].windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(delays[11], DELAY_MAX);
        assert_eq!(limits.login_failed("b", address), Duration::ZERO);
        limits.login_succeeded("a", address);
        assert_eq!(limits.login_failed("a", address), Duration::ZERO);
    }

    #[test]
    fn invented_names_do_not_reset_the_count_of_recent_failures() {
        let limits = ClientLimits::new(&ProxySettings::default());
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let invented = FAILURES_TRACKED_MAX.get() - 1;
        let names = |prefix: &str| {
            (0..invented)
                .map(|number| format!("{prefix}{number}"))
                .collect::<Vec<_>>()
        };
        let users = [names("b"), vec!["a".to_owned(); 3], names("c")].concat();
        for user in users {
            limits.login_failed(&user, address);
        }
        assert_eq!(limits.failures.borrow().len(), FAILURES_TRACKED_MAX.get());
        assert_eq!(limits.login_failed("a", address), DELAY_FIRST);
    }
}
