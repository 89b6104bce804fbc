//! Applies the changes of the route source: drops cache entries and requests the end of sessions immediately, and
//! acknowledges each change when its sessions have ended, in the order of the epochs.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tdb_contract::{Epoch, RouteChange, RouteChangeFeed, RouteKind, RouteSource};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::Plane;
use crate::postgres::pool::Share;
use crate::sessions::EndReason;

/// The pause between two attempts to subscribe.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// The time that running transactions have, and some for closing the connections.
const END_TIME_MAX: Duration = Duration::from_secs(7);
const ACKNOWLEDGE_TIME_MAX: Duration = Duration::from_secs(5);
/// The maximum number of applied changes that are not acknowledged; at this number no more are read from the feed.
const UNACKNOWLEDGED_MAX: usize = 1024;

/// Subscribes, and subscribes again whenever the feed ends. Runs until it is aborted.
pub(crate) async fn follow(plane: Rc<Plane>, source: Arc<dyn RouteSource>) {
    let (done, pending) = mpsc::channel(UNACKNOWLEDGED_MAX);
    tokio::task::spawn_local(acknowledge(plane.clone(), source.clone(), pending));
    loop {
        match source.subscribe().await {
            Ok(feed) => {
                plane.routes.feed_restored();
                // Changes may have been missed.
                refresh_limits(&plane, plane.pool.all_shares());
                listen(&plane, feed, &done).await;
                tracing::warn!("lost the feed of route changes; subscribing again");
            }
            Err(error) => tracing::warn!(%error, "cannot subscribe to route changes"),
        }
        plane.routes.feed_lost();
        sleep(RETRY_PAUSE).await;
    }
}

async fn listen(plane: &Rc<Plane>, mut feed: RouteChangeFeed, done: &mpsc::Sender<(Epoch, Vec<u64>)>) {
    while let Some(change) = feed.next().await {
        plane.routes.apply(&change);
        let ending = end_sessions(plane, &change);
        refresh_limits(plane, plane.pool.shares_of(&change));
        if done.send((change.epoch(), ending)).await.is_err() {
            return;
        }
    }
}

/// In the background, since it asks the source.
fn refresh_limits(plane: &Rc<Plane>, shares: Vec<Rc<Share>>) {
    if !shares.is_empty() {
        let plane = plane.clone();
        tokio::task::spawn_local(async move { plane.pool.refresh(&plane, shares).await });
    }
}

fn end_sessions(plane: &Plane, change: &RouteChange) -> Vec<u64> {
    match change {
        RouteChange::Workspace { .. } | RouteChange::Tenant { .. } | RouteChange::Credential { .. } => Vec::new(),
        RouteChange::DatabaseClosed { database, .. } => {
            let closed = RouteKind::Tenant(*database);
            plane.pool.close(closed);
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
        // Acknowledging a later epoch would acknowledge this one too, so it waits for these sessions as well.
        while timeout(END_TIME_MAX, plane.sessions.ended(&ending)).await.is_err() {
            tracing::error!(epoch = epoch.0, "sessions that must end are still open");
        }
        match timeout(ACKNOWLEDGE_TIME_MAX, source.acknowledge(epoch)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(epoch = epoch.0, %error, "cannot acknowledge route changes"),
            Err(_) => tracing::warn!(epoch = epoch.0, "timed out acknowledging route changes"),
        }
    }
}
