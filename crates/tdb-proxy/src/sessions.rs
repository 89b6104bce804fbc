//! The open sessions, so that they can be counted and ended. A session that is not asked to end pays for this with the read
//! of one cell whenever it is polled.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::task::{Context, Waker};

use tdb_contract::RouteKind;
use tdb_names::CredentialId;
use tokio::sync::Notify;

/// Why a session must end. The client gets the reason as an error message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndReason {
    /// The database is suspended, deleted or moved.
    DatabaseClosed,
    CredentialRevoked,
    CredentialExpired,
    Shutdown,
    /// The shutdown does not wait for transactions any longer.
    Now,
}

#[derive(Default)]
pub(crate) struct Sessions {
    live: RefCell<HashMap<u64, Rc<LiveSession>>>,
    per_database: RefCell<HashMap<RouteKind, u32>>,
    next: Cell<u64>,
    ended: Notify,
    /// The end reason of sessions that register from now on: set when the proxy is stopping.
    closing: Cell<Option<EndReason>>,
}

impl EndReason {
    /// Orders the reasons by how little time they leave: a shutdown its configured time, which may be long, the reasons of a
    /// route a few seconds for the transaction, the last one none.
    fn strictness(self) -> u8 {
        match self {
            EndReason::Shutdown => 0,
            EndReason::DatabaseClosed | EndReason::CredentialRevoked | EndReason::CredentialExpired => 1,
            EndReason::Now => 2,
        }
    }
}

/// An open session: what it uses, and the request to end it.
pub(crate) struct LiveSession {
    pub id: u64,
    kind: RouteKind,
    credential: CredentialId,
    end: Cell<Option<EndReason>>,
    waker: RefCell<Option<Waker>>,
}

/// Removes the session when it is dropped.
pub(crate) struct Registered<'a> {
    sessions: &'a Sessions,
    pub live: Rc<LiveSession>,
}

impl Sessions {
    /// Adds a session; `None` if the database already has `clients_max`.
    pub(crate) fn register(
        &self,
        kind: RouteKind,
        credential: CredentialId,
        clients_max: NonZeroU32,
    ) -> Option<Registered<'_>> {
        let mut counts = self.per_database.borrow_mut();
        let count = counts.entry(kind).or_default();
        if *count >= clients_max.get() {
            return None;
        }
        *count += 1;
        let id = self.next.replace(self.next.get() + 1);
        let live = Rc::new(LiveSession {
            id,
            kind,
            credential,
            end: Cell::new(self.closing.get()),
            waker: RefCell::default(),
        });
        self.live.borrow_mut().insert(id, live.clone());
        Some(Registered { sessions: self, live })
    }

    /// Requests the end of all sessions, including those that register later. Returns the ids of the registered ones.
    pub(crate) fn end_all(&self, reason: EndReason) -> Vec<u64> {
        self.closing.set(Some(reason));
        self.end(reason, |_, _| true)
    }

    /// Requests the end of the sessions that `selected` accepts. Returns their ids.
    pub(crate) fn end(&self, reason: EndReason, selected: impl Fn(RouteKind, CredentialId) -> bool) -> Vec<u64> {
        let live = self.live.borrow();
        let ending = live
            .values()
            .filter(|session| selected(session.kind, session.credential));
        ending
            .map(|session| {
                session.request_end(reason);
                session.id
            })
            .collect()
    }

    /// Waits until all of `ids` have ended. Cancel safe.
    pub(crate) async fn ended(&self, ids: &[u64]) {
        loop {
            let notified = self.ended.notified();
            if !ids.iter().any(|id| self.live.borrow().contains_key(id)) {
                return;
            }
            notified.await;
        }
    }
}

impl LiveSession {
    /// Requests the end of this session, and wakes its task. A later reason never gives the session more time.
    pub(crate) fn request_end(&self, reason: EndReason) {
        if self
            .end
            .get()
            .is_none_or(|earlier| earlier.strictness() < reason.strictness())
        {
            self.end.set(Some(reason));
        }
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// The reason if this session must end. The current task is woken by the next request to end it.
    pub(crate) fn poll_end(&self, cx: &Context<'_>) -> Option<EndReason> {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|stored| stored.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        self.end.get()
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.sessions.live.borrow_mut().remove(&self.live.id);
        let mut counts = self.sessions.per_database.borrow_mut();
        if let Some(count) = counts.get_mut(&self.live.kind) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.live.kind);
            }
        }
        self.sessions.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use tdb_names::DatabaseId;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn the_stricter_reason_stays_whatever_the_order() {
        use EndReason::{CredentialExpired, CredentialRevoked, DatabaseClosed, Now, Shutdown};
        for (earlier, later, kept) in [
            (Shutdown, Shutdown, Shutdown),
            (Shutdown, CredentialRevoked, CredentialRevoked),
            (CredentialRevoked, Shutdown, CredentialRevoked),
            (DatabaseClosed, Shutdown, DatabaseClosed),
            (CredentialExpired, Shutdown, CredentialExpired),
            (CredentialRevoked, Now, Now),
            (Now, Shutdown, Now),
            (Now, CredentialRevoked, Now),
        ] {
            let sessions = Sessions::default();
            let kind = RouteKind::Tenant(DatabaseId::from_uuid(Uuid::from_u128(1)));
            let registered = sessions
                .register(kind, CredentialId::from_uuid(Uuid::from_u128(2)), NonZeroU32::MIN)
                .unwrap();
            sessions.end(earlier, |_, _| true);
            sessions.end_all(later);
            assert_eq!(registered.live.end.get(), Some(kept), "{earlier:?}, then {later:?}");
        }
    }
}
