//! Limits on login attempts: a token bucket per email and per address.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

/// Allows a few typing errors, then one attempt per half minute.
const EMAIL: Rate = Rate {
    tries: 5,
    refill: Duration::from_secs(30),
};
/// Many people may share one address.
const ADDRESS: Rate = Rate {
    tries: 30,
    refill: Duration::from_secs(5),
};
/// The maximum number of emails and addresses. Beyond it the least recently used entry is dropped: made-up emails must
/// neither fill the memory nor reset the limits of others.
const TRACKED_MAX: NonZeroUsize = match NonZeroUsize::new(50_000) {
    Some(buckets) => buckets,
    None => NonZeroUsize::MIN,
};

#[derive(Clone, Copy)]
struct Rate {
    tries: u32,
    refill: Duration,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Who {
    Email(String),
    Address(IpAddr),
}

/// For each bucket, when it will be full again. The time until then measures how many attempts are used.
pub(crate) struct Throttle {
    full_at: Mutex<LruCache<Who, Instant>>,
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            full_at: Mutex::new(LruCache::new(TRACKED_MAX)),
        }
    }
}

impl Throttle {
    /// Takes an attempt from both buckets, or returns how long to wait. If one is empty, nothing is taken from the
    /// other.
    pub(crate) fn take(&self, email: &str, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let both = [(Who::Email(email.to_owned()), EMAIL), (Who::Address(address), ADDRESS)];
        let mut after = Vec::with_capacity(both.len());
        for (who, rate) in &both {
            let full = full_at.peek(who).copied().unwrap_or(now).max(now) + rate.refill;
            let missing = full - now;
            let room = rate.refill * rate.tries;
            if missing > room {
                return Err(missing - room);
            }
            after.push((who.clone(), full));
        }
        for (who, full) in after {
            full_at.put(who, full);
        }
        Ok(())
    }

    /// After a correct password: fills the email's bucket and returns the attempt to the address.
    pub(crate) fn give_back(&self, email: &str, address: IpAddr) {
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        full_at.pop(&Who::Email(email.to_owned()));
        if let Some(at) = full_at.get_mut(&Who::Address(address)) {
            *at -= ADDRESS.refill;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    #[test]
    fn an_email_has_its_tries_from_all_addresses_and_gets_one_back_per_interval() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for last in 0..5 {
            assert_eq!(throttle.take("a", address(last), now), Ok(()));
        }
        assert_eq!(throttle.take("a", address(9), now), Err(EMAIL.refill));
        assert_eq!(throttle.take("b", address(9), now), Ok(()));
        let later = now + EMAIL.refill;
        assert_eq!(throttle.take("a", address(9), later), Ok(()));
        assert_eq!(throttle.take("a", address(9), later), Err(EMAIL.refill));
        throttle.give_back("a", address(9));
        assert_eq!(throttle.take("a", address(9), later), Ok(()));
    }

    #[test]
    fn an_address_has_its_tries_for_all_emails() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for number in 0..ADDRESS.tries {
            assert_eq!(throttle.take(&number.to_string(), address(1), now), Ok(()));
        }
        assert_eq!(throttle.take("another", address(1), now), Err(ADDRESS.refill));
        assert_eq!(throttle.take("another", address(2), now), Ok(()));
    }

    #[test]
    fn made_up_emails_do_not_give_others_their_tries_back() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        // Each attempt takes from two buckets.
        let flood = |emails: std::ops::Range<usize>| {
            for number in emails {
                let [_, a, b, c] = u32::try_from(number).unwrap().to_be_bytes();
                let _ = throttle.take(&number.to_string(), Ipv4Addr::new(11, a, b, c).into(), now);
            }
        };
        let half = TRACKED_MAX.get() / 2;
        flood(0..half);
        for _ in 0..EMAIL.tries {
            assert_eq!(throttle.take("a", address(1), now), Ok(()));
        }
        flood(half..2 * half - 1);
        assert_eq!(throttle.full_at.lock().unwrap().len(), TRACKED_MAX.get());
        assert_eq!(throttle.take("a", address(1), now), Err(EMAIL.refill));
    }
}
