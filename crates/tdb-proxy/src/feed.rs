//! Following the route source: caches forget at once, sessions that must end are told at once, and what was done is
//! acknowledged in the order of its epochs.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tdb_contract::{Epoch, RouteChange, RouteChangeFeed, RouteKind, RouteSource};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::Plane;
use crate::sessions::EndReason;

/// Between two tries to subscribe.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// What running transactions get, and a little for closing.
const END_TIME_MAX: Duration = Duration::from_secs(7);
const ACKNOWLEDGE_TIME_MAX: Duration = Duration::from_secs(5);
/// Changes seen and not yet acknowledged; past it the feed waits.
const UNACKNOWLEDGED_MAX: usize = 1024;

/// Runs until it is aborted.
pub(crate) async fn follow(plane: Rc<Plane>, source: Arc<dyn RouteSource>) {
    let (done, pending) = mpsc::channel(UNACKNOWLEDGED_MAX);
    tokio::task::spawn_local(acknowledge(plane.clone(), source.clone(), pending));
    loop {
        match source.subscribe().await {
            Ok(feed) => {
                plane.routes.feed_restored();
                listen(&plane, feed, &done).await;
                tracing::warn!("the feed of route changes was lost; subscribing again");
            }
            Err(error) => tracing::warn!(%error, "cannot subscribe to route changes"),
        }
        plane.routes.feed_lost();
        sleep(RETRY_PAUSE).await;
    }
}

async fn listen(plane: &Plane, mut feed: RouteChangeFeed, done: &mpsc::Sender<(Epoch, Vec<u64>)>) {
    while let Some(change) = feed.next().await {
        plane.routes.apply(&change);
        let ending = end_sessions(plane, &change);
        if done.send((change.epoch(), ending)).await.is_err() {
            return;
        }
    }
}

fn end_sessions(plane: &Plane, change: &RouteChange) -> Vec<u64> {
    match change {
        RouteChange::Workspace { .. } | RouteChange::Tenant { .. } | RouteChange::Credential { .. } => Vec::new(),
        RouteChange::DatabaseClosed { database, .. } => {
            let closed = RouteKind::Tenant(*database);
            plane.sessions.end(EndReason::DatabaseClosed, |kind, _| kind == closed)
        }
        RouteChange::WorkspaceClosed { workspace, .. } => {
            let closed = RouteKind::Workspace(*workspace);
            plane.sessions.end(EndReason::DatabaseClosed, |kind, _| kind == closed)
        }
        RouteChange::CredentialRevoked { credential, .. } => plane
            .sessions
            .end(EndReason::CredentialRevoked, |_, used| used == *credential),
    }
}

async fn acknowledge(plane: Rc<Plane>, source: Arc<dyn RouteSource>, mut pending: mpsc::Receiver<(Epoch, Vec<u64>)>) {
    while let Some((epoch, ending)) = pending.recv().await {
        // A later epoch would acknowledge this one too, so nothing is acknowledged before they have gone.
        while timeout(END_TIME_MAX, plane.sessions.ended(&ending)).await.is_err() {
            tracing::error!(epoch = epoch.0, "sessions that had to end are still there");
        }
        match timeout(ACKNOWLEDGE_TIME_MAX, source.acknowledge(epoch)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(epoch = epoch.0, %error, "cannot acknowledge"),
            Err(_) => tracing::warn!(epoch = epoch.0, "acknowledging takes too long"),
        }
    }
}
