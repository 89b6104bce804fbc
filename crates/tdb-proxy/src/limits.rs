//! How many clients there may be, and how fast wrong passwords are answered.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::settings::ProxySettings;

/// Failures that cost nothing: typing errors.
const FAILURES_FREE: u32 = 3;
const DELAY_FIRST: Duration = Duration::from_millis(100);
const DELAY_MAX: Duration = Duration::from_secs(3);
/// Failures older than this are forgotten.
const FAILURE_AGE_MAX: Duration = Duration::from_secs(300);
/// Names and addresses with failures. Past it the one that failed longest ago is forgotten: made-up names must neither
/// fill the memory nor give everyone else free tries.
const FAILURES_TRACKED_MAX: NonZeroUsize = match NonZeroUsize::new(50_000) {
    Some(names) => names,
    None => NonZeroUsize::MIN,
};

pub(crate) struct Limits {
    clients_max: u32,
    clients: Cell<u32>,
    failures: RefCell<LruCache<(String, IpAddr), Failures>>,
}

struct Failures {
    count: u32,
    last: Instant,
}

/// Connections past the limit that are told so; further ones are closed.
const REFUSED_MAX: u32 = 64;
/// No user name is longer; made-up ones must not fill the memory.
const USER_LEN_MAX: usize = 63;

/// One of the connections that may exist at a time.
pub(crate) struct ClientSlot<'a> {
    limits: &'a Limits,
    admission: Admission,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Welcome,
    /// Past the limit: may cancel a query, and is told the limit when it wants a session.
    Full,
}

impl Limits {
    pub(crate) fn new(settings: &ProxySettings) -> Self {
        Self {
            clients_max: settings.clients_max.get(),
            clients: Cell::new(0),
            failures: RefCell::new(LruCache::new(FAILURES_TRACKED_MAX)),
        }
    }

    /// None where even those that are told the limit are too many.
    pub(crate) fn admit(&self) -> Option<ClientSlot<'_>> {
        let clients = self.clients.get();
        let admission = if clients < self.clients_max {
            Admission::Welcome
        } else {
            Admission::Full
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

    /// Notes a failed login and says how long to wait before answering it. A right password never waits, so nobody can
    /// lock a user out. The same for users that do not exist.
    pub(crate) fn login_failed(&self, user: &str, address: IpAddr) -> Duration {
        let mut failures = self.failures.borrow_mut();
        let now = Instant::now();
        let of_key = failures.get_or_insert_mut(failure_key(user, address), || Failures { count: 0, last: now });
        if now.duration_since(of_key.last) > FAILURE_AGE_MAX {
            of_key.count = 0;
        }
        of_key.count = of_key.count.saturating_add(1);
        of_key.last = now;
        match of_key.count.checked_sub(FAILURES_FREE + 1) {
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
    fn repeated_failures_are_answered_ever_slower_up_to_a_bound() {
        let limits = Limits::new(&ProxySettings::default());
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
    fn made_up_names_do_not_make_the_proxy_forget_recent_failures() {
        let limits = Limits::new(&ProxySettings::default());
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let made_up = FAILURES_TRACKED_MAX.get() - 1;
        let names = |prefix: &str| {
            (0..made_up)
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
