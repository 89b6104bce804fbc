//! The live sessions, so that they can be counted and told to end. Telling costs a session nothing while nobody is told:
//! it looks at one cell when it is polled anyway.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::task::{Context, Waker};

use tdb_contract::RouteKind;
use tdb_names::CredentialId;
use tokio::sync::Notify;

/// Why a session has to end, and what its client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndReason {
    /// The database is suspended, deleted or moved.
    DatabaseClosed,
    CredentialRevoked,
    CredentialExpired,
    Shutdown,
    /// At once, whatever is running.
    Now,
}

#[derive(Default)]
pub(crate) struct Sessions {
    live: RefCell<HashMap<u64, Rc<Live>>>,
    per_database: RefCell<HashMap<RouteKind, u32>>,
    next: Cell<u64>,
    ended: Notify,
    /// Said to whoever registers from now on: the proxy is stopping.
    closing: Cell<Option<EndReason>>,
}

/// One session as others see it.
pub(crate) struct Live {
    pub id: u64,
    kind: RouteKind,
    credential: CredentialId,
    end: Cell<Option<EndReason>>,
    waker: RefCell<Option<Waker>>,
}

/// Removes the session when it is dropped.
pub(crate) struct Registered<'a> {
    sessions: &'a Sessions,
    pub live: Rc<Live>,
}

impl Sessions {
    /// None where the database has `clients_max` clients already.
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
        let live = Rc::new(Live {
            id,
            kind,
            credential,
            end: Cell::new(self.closing.get()),
            waker: RefCell::default(),
        });
        self.live.borrow_mut().insert(id, live.clone());
        Some(Registered { sessions: self, live })
    }

    /// Tells all sessions to end, those too that are still logging in; gives the ids of those that are not.
    pub(crate) fn end_all(&self, reason: EndReason) -> Vec<u64> {
        self.closing.set(Some(reason));
        self.end(reason, |_, _| true)
    }

    /// Tells all sessions that `concerned` picks to end; gives their ids.
    pub(crate) fn end(&self, reason: EndReason, concerned: impl Fn(RouteKind, CredentialId) -> bool) -> Vec<u64> {
        let live = self.live.borrow();
        let told = live
            .values()
            .filter(|session| concerned(session.kind, session.credential));
        told.map(|session| {
            session.tell(reason);
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

impl Live {
    /// Tells this session to end.
    pub(crate) fn tell(&self, reason: EndReason) {
        // What ends at once is not given more time by a later reason.
        if self.end.get() != Some(EndReason::Now) {
            self.end.set(Some(reason));
        }
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Whether this session was told to end. Whoever tells it, or tells it again with less patience, wakes the polled
    /// task.
    pub(crate) fn poll_end(&self, cx: &Context<'_>) -> Option<EndReason> {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
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
