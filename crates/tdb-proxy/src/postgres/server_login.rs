//! The proxy's login to a database server. If the server refuses it, a client may have changed the role: the control plane
//! checks it, and the login is retried once if the role was restored.

use std::time::Duration;

use tdb_contract::{PostgresPlace, Repair, RouteKind};
use tokio::time::timeout;

use super::dial::{self, DialError, Dialled};
use crate::Plane;

/// The time limit for the control plane to restore a role: two statements on the database server.
const REPAIR_TIME_MAX: Duration = Duration::from_secs(5);

/// Connects and logs in with these startup parameters. Not cancel safe.
pub(crate) async fn log_in(
    plane: &Plane,
    kind: RouteKind,
    place: &PostgresPlace,
    parameters: &[(String, String)],
) -> Result<Dialled, DialError> {
    match attempt(plane, place, parameters).await {
        Err(DialError::Refused { parsed, .. })
            if may_be_repairable(&parsed.code) && repair(plane, kind, &place.role).await =>
        {
            attempt(plane, place, parameters).await
        }
        other => other,
    }
}

async fn attempt(plane: &Plane, place: &PostgresPlace, parameters: &[(String, String)]) -> Result<Dialled, DialError> {
    let dialled = dial::dial(&plane.upstream_tls, place, parameters);
    let limit = plane.settings.upstream_connect_timeout;
    timeout(limit, dialled).await.unwrap_or(Err(DialError::Deadline))
}

/// Whether the error can result from changes that a role can make to itself: its password, its validity, or a library that
/// is loaded at login.
fn may_be_repairable(sqlstate: &str) -> bool {
    sqlstate.starts_with("28") || sqlstate.starts_with("58") || sqlstate == "XX000"
}

async fn repair(plane: &Plane, kind: RouteKind, role: &str) -> bool {
    match timeout(REPAIR_TIME_MAX, plane.sink.login_refused(kind)).await {
        Ok(Ok(Repair::Done)) => true,
        Ok(Ok(Repair::NotNeeded)) => false,
        Ok(Err(error)) => {
            tracing::warn!(%error, role, "cannot check the role that a database server refused");
            false
        }
        Err(_) => {
            tracing::warn!(role, "timed out checking the role that a database server refused");
            false
        }
    }
}
