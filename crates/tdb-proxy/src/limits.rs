//! How many clients there may be, and how fast wrong passwords are answered.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::settings::ProxySettings;

/// Failures that cost nothing: typing errors.
const FAILURES_FREE: u32 = 3;
const DELAY_FIRST: Duration = Duration::from_millis(100);
const DELAY_MAX: Duration = Duration::from_secs(3);
/// Failures older than this are forgotten.
const FAILURE_AGE_MAX: Duration = Duration::from_secs(300);
/// Past it all failures are forgotten: made-up names must not fill the memory.
const FAILURES_TRACKED_MAX: usize = 50_000;

pub struct Limits {
    clients_max: u32,
    clients: Cell<u32>,
    failures: RefCell<HashMap<(String, IpAddr), Failures>>,
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
pub struct ClientSlot<'a> {
    limits: &'a Limits,
    admission: Admission,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Welcome,
    /// Past the limit: may cancel a query, and is told the limit when it wants a session.
    Full,
}

impl Limits {
    pub fn new(settings: &ProxySettings) -> Self {
        Self {
            clients_max: settings.clients_max.get(),
            clients: Cell::new(0),
            failures: RefCell::default(),
        }
    }

    /// None where even those that are told the limit are too many.
    pub fn admit(&self) -> Option<ClientSlot<'_>> {
        let clients = self.clients.get();
        let admission = match clients < self.clients_max {
            true => Admission::Welcome,
            false => Admission::Full,
        };
        (clients < self.clients_max.saturating_add(REFUSED_MAX)).then(|| {
            self.clients.set(clients + 1);
            let limits = self;
            ClientSlot { limits, admission }
        })
    }

    pub fn clients_max(&self) -> u32 {
        self.clients_max
    }

    /// Notes a failed login and says how long to wait before answering it. A right password never waits, so nobody can
    /// lock a user out. The same for users that do not exist.
    pub fn login_failed(&self, user: &str, address: IpAddr) -> Duration {
        let mut failures = self.failures.borrow_mut();
        if failures.len() >= FAILURES_TRACKED_MAX {
            failures.clear();
        }
        let now = Instant::now();
        let known = failures
            .entry(failure_key(user, address))
            .or_insert(Failures { count: 0, last: now });
        if now.duration_since(known.last) > FAILURE_AGE_MAX {
            known.count = 0;
        }
        known.count = known.count.saturating_add(1);
        known.last = now;
        match known.count.checked_sub(FAILURES_FREE + 1) {
            None => Duration::ZERO,
            Some(doublings) => DELAY_FIRST.saturating_mul(1u32 << doublings.min(10)).min(DELAY_MAX),
        }
    }

    pub fn login_succeeded(&self, user: &str, address: IpAddr) {
        self.failures.borrow_mut().remove(&failure_key(user, address));
    }
}

fn failure_key(user: &str, address: IpAddr) -> (String, IpAddr) {
    (user.chars().take(USER_LEN_MAX).collect(), address)
}

impl ClientSlot<'_> {
    pub fn admission(&self) -> Admission {
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
}
