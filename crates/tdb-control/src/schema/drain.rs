//! Moves a workspace's journal into the change log: read the journal, append each transaction once, commit, and only
//! then delete the journal's rows. One task per workspace drains, under a lease; no transaction is open while a
//! database server is queried. A task that lost its lease appends nothing, and what it appended before is not appended
//! again.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tdb_contract::{DataStatements, Drained, SessionStart};
use tdb_engines::fault;
use tdb_engines::postgres::Server;
use tdb_engines::postgres::capture::{self, CapturedChange};
use tdb_engines::postgres::change::{LeftOut, LeftOutKind};
use tdb_engines::postgres::journal::{self, Event};
use tdb_names::WorkspaceId;
use tdb_problems::ProblemCode;
use tdb_store::changes::{ChangeState, NewChange};
use tdb_store::sessions::{SessionRow, Speaker};
use tdb_store::workspaces::{WorkspaceRow, WorkspaceStatus};
use tdb_store::{changes, declared_roles, sessions, workspaces};
use tokio::time::{Instant, timeout};

use crate::core::Core;
use crate::error::{ControlError, Result, upstream};
use crate::identity::Identity;
use crate::leases::{Lease, Subject};
use crate::lifecycle::servers::Servers;
use crate::schema::journals::{JournalPlace, JournalPlaces};
use crate::schema::repair::numbered;
use crate::schema::session_settings::{is_newly_set, newly_set};

/// The time limit of a drain for callers that can wait; the proxy waits less.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(20);
/// The number of sessions for which warnings are kept, how many for each, and for how long.
const SESSIONS_WARNED_MAX: NonZeroUsize = match NonZeroUsize::new(1_000) {
    Some(sessions) => sessions,
    None => NonZeroUsize::MIN,
};
const WARNINGS_MAX: usize = 100;
const WARNED_TIME_MAX: Duration = Duration::from_secs(600);
/// The length of a statement's excerpt in a warning, in characters.
const EXCERPT_LEN: usize = 60;

/// Moves workspaces' journals into the change log.
#[derive(Clone)]
pub(crate) struct Drains {
    core: Arc<Core>,
    servers: Servers,
    places: Arc<JournalPlaces>,
    warnings: Arc<Mutex<LruCache<(WorkspaceId, i32), LateWarnings>>>,
}

/// Warnings about changes that another task drained before their session's own drain.
#[derive(Debug)]
struct LateWarnings {
    since: Instant,
    warnings: Vec<String>,
}

impl Drains {
    pub(crate) fn new(core: &Arc<Core>, servers: &Servers) -> Self {
        Self {
            core: core.clone(),
            servers: servers.clone(),
            places: Arc::default(),
            warnings: Arc::new(Mutex::new(LruCache::new(SESSIONS_WARNED_MAX))),
        }
    }

    pub(crate) async fn record_session(&self, session: SessionStart) -> Result<()> {
        let server = self.servers.admin(&session.server).await?;
        let started = tdb_engines::postgres::activity::backend_start(&server, session.server_pid).await;
        let row = SessionRow {
            workspace: session.workspace,
            server: session.server.to_string(),
            server_pid: session.server_pid,
            backend_start: started.map_err(|e| upstream(&session.server, e))?,
            speaker: Speaker::Credential(session.credential),
            client: Some(session.client),
            application_name: session.application_name,
        };
        self.record_session_row(&row).await
    }

    /// Records a session of the API, as [`Self::record_session`] does for one of the proxy.
    pub(crate) async fn record_own_session(&self, identity: &Identity, row: &WorkspaceRow, pid: i32) -> Result<()> {
        let name = &row.physical.server;
        let started = tdb_engines::postgres::activity::backend_start(&self.servers.admin(name).await?, pid).await;
        let row = SessionRow {
            workspace: row.id,
            server: name.to_string(),
            server_pid: pid,
            backend_start: started.map_err(|e| upstream(name, e))?,
            speaker: Speaker::Key(identity.key()),
            client: None,
            application_name: String::new(),
        };
        self.record_session_row(&row).await
    }

    async fn record_session_row(&self, row: &SessionRow) -> Result<()> {
        let tx = self.core.store.jobs().await?;
        sessions::insert(&tx, row).await?;
        tx.commit().await?;
        Ok(())
    }

    pub(crate) async fn drain_workspace(&self, id: WorkspaceId, data: Option<DataStatements>) -> Result<Drained> {
        let session = data.as_ref().map(|data| data.server_pid);
        let mut drained = self.in_time(Box::pin(self.drain_now(id, data))).await?;
        if let Some(session) = session {
            drained.warnings.extend(self.late_warnings(id, session));
        }
        Ok(drained)
    }

    /// The warnings for a session about changes that others drained, which are given once.
    fn late_warnings(&self, id: WorkspaceId, session: i32) -> Vec<String> {
        let mut all = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        let late = all.pop(&(id, session));
        // Another session may have the process id by now.
        let recent = late.filter(|late| late.since.elapsed() < WARNED_TIME_MAX);
        recent.map(|late| late.warnings).unwrap_or_default()
    }

    /// Keeps the warnings about changes of other sessions than `session`: a DO or CALL that commits is still running when the
    /// timer drains its first transactions.
    fn keep_warnings(&self, id: WorkspaceId, session: Option<i32>, captured: &[CapturedChange], numbers: &[u32]) {
        let others: BTreeSet<i32> = captured.iter().map(|one| one.pid).collect();
        for pid in others.into_iter().filter(|pid| Some(*pid) != session) {
            let warnings = warnings_of(captured, numbers, |one| one.pid == pid);
            if warnings.is_empty() {
                continue;
            }
            let mut all = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
            let late = all.get_or_insert_mut((id, pid), || LateWarnings {
                since: Instant::now(),
                warnings: Vec::new(),
            });
            late.since = Instant::now();
            late.warnings.extend(warnings);
            late.warnings.truncate(WARNINGS_MAX);
        }
    }

    /// Drains before a read. Most reads find nothing in the journal and then take no lease. If the server does not
    /// answer, fails within a few seconds; at once, if that is known already.
    pub(crate) async fn drain_row(&self, row: &WorkspaceRow) -> Result<Drained> {
        let drain = self.in_time(Box::pin(self.drain_if_journaled(row)));
        self.servers.patiently(&row.physical.server, drain).await
    }

    async fn drain_if_journaled(&self, row: &WorkspaceRow) -> Result<Drained> {
        let Some((server, place, journaled)) = self.journaled(row.id).await? else {
            return Ok(Drained::default());
        };
        if journaled.is_empty() && !is_newly_set(row, &server, &place).await? {
            return Ok(Drained::default());
        }
        self.drain_now(row.id, None).await
    }

    async fn in_time(&self, drain: impl Future<Output = Result<Drained>>) -> Result<Drained> {
        match timeout(DRAIN_TIME_MAX, drain).await {
            Ok(drained) => drained,
            Err(_) => Err(ControlError::refused(
                ProblemCode::TimedOut,
                format!(
                    "the changes of the workspace could not be read within {} seconds",
                    DRAIN_TIME_MAX.as_secs()
                ),
                "Try again in a moment.",
            )),
        }
    }

    /// Drains before a read that shows stored data if the server is not available. A failure is logged, and its text
    /// is returned.
    pub(crate) async fn drain_if_possible(&self, row: &WorkspaceRow) -> Option<String> {
        if row.status != WorkspaceStatus::Ready {
            return None;
        }
        failure(row, Box::pin(self.drain_row(row)).await)
    }

    /// Drains after work of a session in a ready workspace. Settings that changed since the last drain are attributed to that
    /// session. A failure is logged: a later drain finds the same.
    pub(crate) async fn drain_after(&self, row: &WorkspaceRow, server_pid: i32) {
        let session = DataStatements {
            server_pid,
            statements: Vec::new(),
        };
        failure(row, self.drain_workspace(row.id, Some(session)).await);
    }

    async fn drain_now(&self, id: WorkspaceId, data: Option<DataStatements>) -> Result<Drained> {
        let lease = self.core.leases.take(Subject::Journal(id)).await?;
        lease.during(self.drain_alone(&lease, id, data)).await
    }

    async fn drain_alone(&self, lease: &Lease, id: WorkspaceId, data: Option<DataStatements>) -> Result<Drained> {
        let Some((server, place, journaled)) = self.journaled(id).await? else {
            return Ok(Drained::default());
        };
        let session = data.as_ref().map(|data| data.server_pid);
        let set = newly_set(&self.core.store, id, &server, &place, session).await?;
        if journaled.is_empty() && set.is_nothing() {
            return Ok(Drained::default());
        }
        fault::point("drain.read");
        let mut captured = capture::changes(&journaled, &place.owner, &[]);
        if captured.iter().any(|one| !one.change.undeclared.is_empty()) {
            let tx = self.core.store.jobs().await?;
            let declared = declared_roles::names_of_workspace(&tx, id).await?;
            tx.rollback().await?;
            captured = capture::changes(&journaled, &place.owner, &declared);
        }
        if captured.iter().any(|one| !one.calls.is_empty()) {
            let procedures = journal::procedures(&server, &place.database).await;
            let procedures = procedures.map_err(|e| upstream(&place.server, e))?;
            capture::refuse_commits(&mut captured, &procedures);
        }
        if let Some(data) = data {
            leave_out(&mut captured, data);
        }
        let mut incoming: Vec<NewChange> = captured.iter().map(new_change).collect::<Result<_>>()?;
        incoming.extend(set.changes);
        let tx = lease.begin().await?;
        let Some(project) = workspaces::begin_append(&tx, id).await? else {
            tx.rollback().await?;
            self.places.forget(id);
            return Ok(Drained::default());
        };
        let numbers = changes::append(&tx, &project, id, &incoming).await?;
        workspaces::set_session_settings(&tx, id, &set.settings).await?;
        tx.commit().await?;
        fault::point("drain.logged");
        // If some were appended by a drain that did not end, the numbers do not tell which change has which.
        let known = if numbers.len() == incoming.len() {
            numbers.as_slice()
        } else {
            &[]
        };
        let mut said = warnings_of(&captured, known, |_| true);
        said.extend(set.warnings);
        self.keep_warnings(id, session, &captured, known);
        let confirmed = journal::confirm(&server, &place.database, &journaled).await;
        confirmed.map_err(|e| upstream(&place.server, e))?;
        fault::point("drain.confirmed");
        Ok(Drained {
            changes: u32::try_from(numbers.len()).unwrap_or(u32::MAX),
            warnings: said,
        })
    }

    /// The contents of a workspace's journal. `None` if the workspace is not ready or does not exist.
    async fn journaled(&self, id: WorkspaceId) -> Result<Option<(Server, Arc<JournalPlace>, Vec<Event>)>> {
        let Some(place) = self.drain_place(id).await? else {
            return Ok(None);
        };
        let server = self.servers.admin(&place.server).await?;
        match journal::read(&server, &place.database, &place.owner).await {
            Ok(journaled) => Ok(Some((server, place, journaled))),
            Err(error) => {
                self.places.forget(id);
                Err(upstream(&place.server, error))
            }
        }
    }

    /// `None` if the workspace is not ready or does not exist.
    async fn drain_place(&self, id: WorkspaceId) -> Result<Option<Arc<JournalPlace>>> {
        if let Some(place) = self.places.place(id) {
            return Ok(Some(place));
        }
        let tx = self.core.store.jobs().await?;
        let row = workspaces::by_id(&tx, id).await?;
        tx.rollback().await?;
        let ready = row.filter(|row| row.status == WorkspaceStatus::Ready);
        ready.map(|row| self.places.remember(&row)).transpose()
    }
}

/// Logs the failure of a drain and returns it as clients see it.
fn failure(row: &WorkspaceRow, drained: Result<Drained>) -> Option<String> {
    let error = drained.err()?;
    tracing::warn!(workspace = %row.id, error = %error.explained(), "the journal could not be drained");
    Some(error.to_string())
}

/// Adds data statements to the change of their transaction, which is the last one of their session.
fn leave_out(captured: &mut [CapturedChange], data: DataStatements) {
    let of_session = captured.iter_mut().rev().find(|change| change.pid == data.server_pid);
    if let Some(CapturedChange { change, .. }) = of_session {
        let left_out = data.statements.into_iter().map(|sql| LeftOut {
            sql,
            kind: LeftOutKind::Data,
        });
        change.left_out.extend(left_out);
    }
}

fn new_change(captured: &CapturedChange) -> Result<NewChange> {
    let change = &captured.change;
    Ok(NewChange {
        xid: i64::try_from(captured.xid).map_err(ControlError::internal)?,
        statements: change.texts(),
        tags: change.tags(),
        objects: change.objects(),
        left_out: change.left_out.iter().map(|left| left.sql.clone()).collect(),
        body: serde_json::to_value(change).map_err(ControlError::internal)?,
        checksum: change.checksum().as_bytes().to_vec(),
        state: match change.broken {
            Some(_) => ChangeState::Broken,
            None => ChangeState::Pending,
        },
        reason: change.broken.clone(),
        pid: captured.pid,
        backend_start: captured.backend_start,
        role: captured.session_role.clone(),
        committed_at: captured.at,
    })
}

/// The warnings about the changes that `selected` accepts.
fn warnings_of(
    captured: &[CapturedChange],
    numbers: &[u32],
    selected: impl Fn(&CapturedChange) -> bool,
) -> Vec<String> {
    let mut said = broken(captured, numbers, &selected);
    said.extend(captured.iter().filter(|one| selected(one)).flat_map(omitted));
    said
}

/// One warning for each reason why changes are broken, with the numbers of the changes, which are empty if they are not known.
fn broken(captured: &[CapturedChange], numbers: &[u32], selected: impl Fn(&CapturedChange) -> bool) -> Vec<String> {
    let mut reasons: Vec<(&str, Vec<u32>)> = Vec::new();
    for (at, one) in captured.iter().enumerate().filter(|(_, one)| selected(one)) {
        let Some(reason) = one.change.broken.as_deref() else {
            continue;
        };
        let number = numbers.get(at).copied();
        match reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, ids)) => ids.extend(number),
            None => reasons.push((reason, Vec::from_iter(number))),
        }
    }
    let said = reasons.into_iter().map(|(reason, ids)| {
        let changes = match ids.as_slice() {
            [] => "this change".to_owned(),
            ids => numbered(ids),
        };
        format!("{changes} cannot be replayed on tenants: {reason}")
    });
    said.collect()
}

fn omitted(captured: &CapturedChange) -> Vec<String> {
    let mut said = Vec::new();
    for left in captured
        .change
        .left_out
        .iter()
        .filter(|left| left.kind == LeftOutKind::Data)
    {
        let excerpt: String = left.sql.chars().take(EXCERPT_LEN).collect();
        said.push(format!(
            "not part of the change, because data is not deployed: {excerpt}"
        ));
    }
    said
}

#[cfg(test)]
mod tests {
    use tdb_engines::postgres::change::Change;

    use super::*;

    fn captured(reason: Option<&str>) -> CapturedChange {
        CapturedChange {
            xid: 1,
            pid: 1,
            backend_start: time::OffsetDateTime::UNIX_EPOCH,
            session_role: "a".to_owned(),
            at: time::OffsetDateTime::UNIX_EPOCH,
            seqs: Vec::new(),
            calls: Vec::new(),
            change: Change {
                broken: reason.map(str::to_owned),
                ..Change::default()
            },
        }
    }

    #[test]
    fn changes_that_are_broken_for_one_reason_are_named_in_one_warning() {
        let all = [Some("it commits"), None, Some("other"), Some("it commits")].map(captured);
        assert_eq!(
            broken(&all, &[3, 4, 5, 6], |_| true),
            [
                "changes 3 and 6 cannot be replayed on tenants: it commits",
                "change 5 cannot be replayed on tenants: other",
            ]
        );
        assert_eq!(
            broken(&all[..1], &[], |_| true),
            ["this change cannot be replayed on tenants: it commits"]
        );
    }
}
