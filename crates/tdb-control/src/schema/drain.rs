//! From a workspace's journal into the change log. One drainer per workspace, by its row's lock in the store: read all,
//! append each transaction once, commit, and only then let go of the journal's rows.

use std::time::Duration;

use async_trait::async_trait;
use tdb_contract::{
    ChangeSink, DataStatements, Drained, Prepared, Repair, RouteKind, SessionStart, Unavailable, WorkspaceText,
};
use tdb_engines::fault;
use tdb_engines::postgres::capture::{self, CapturedChange};
use tdb_engines::postgres::change::{LeftOut, LeftOutKind};
use tdb_engines::postgres::journal;
use tdb_names::WorkspaceId;
use tdb_problems::ProblemCode;
use tdb_store::changes::{ChangeState, NewChange};
use tdb_store::sessions::{SessionRow, Speaker};
use tdb_store::workspaces::{WorkspaceRow, WorkspaceStatus};
use tdb_store::{changes, sessions, workspaces};
use tokio::task::JoinError;
use tokio::time::timeout;

use crate::control::Control;
use crate::error::{ControlError, Result, upstream};
use crate::identity::Identity;
use crate::lifecycle::place::database_name;

/// For everybody who can wait; the proxy gives up long before.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(20);
/// Characters of a statement in a warning.
const EXCERPT_LEN: usize = 60;

#[async_trait]
impl ChangeSink for Control {
    async fn session_started(&self, session: SessionStart) -> Result<(), Unavailable> {
        let control = self.clone();
        let recorded = self
            .inner
            .runtime
            .spawn(async move { control.record_session(session).await });
        joined(recorded.await)
    }

    async fn drain(&self, workspace: WorkspaceId, data: Option<DataStatements>) -> Result<Drained, Unavailable> {
        let control = self.clone();
        // On the control plane's own runtime: the caller may stop waiting, and its runtime has clients to serve.
        let drained = self
            .inner
            .runtime
            .spawn(async move { control.drain_workspace(workspace, data).await });
        joined(drained.await)
    }

    async fn login_refused(&self, database: RouteKind) -> Result<Repair, Unavailable> {
        let control = self.clone();
        let repaired = self
            .inner
            .runtime
            .spawn(async move { control.repair_refused(database).await });
        joined(repaired.await)
    }

    async fn prepare(&self, text: WorkspaceText) -> Result<Prepared, Unavailable> {
        let control = self.clone();
        let prepared = self
            .inner
            .runtime
            .spawn(async move { control.prepare_text(text).await });
        joined(prepared.await)
    }
}

fn joined<T>(result: Result<Result<T>, JoinError>) -> Result<T, Unavailable> {
    match result {
        Ok(done) => done.map_err(|error| Unavailable {
            reason: error.explained(),
        }),
        Err(error) => Err(Unavailable {
            reason: error.to_string(),
        }),
    }
}

impl Control {
    async fn record_session(&self, session: SessionStart) -> Result<()> {
        let server = self.server(&session.server).await?;
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

    /// The same for a session of the API.
    pub(crate) async fn record_own_session(&self, identity: &Identity, row: &WorkspaceRow, pid: i32) -> Result<()> {
        let name = &row.physical.server;
        let started = tdb_engines::postgres::activity::backend_start(&self.server(name).await?, pid).await;
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
        let tx = self.inner.store.jobs().await?;
        sessions::insert(&tx, row).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn drain_workspace(&self, id: WorkspaceId, data: Option<DataStatements>) -> Result<Drained> {
        match timeout(DRAIN_TIME_MAX, self.drain_now(id, data)).await {
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

    pub(crate) async fn drain_row(&self, row: &WorkspaceRow) -> Result<Drained> {
        self.drain_workspace(row.id, None).await
    }

    /// For readers that show what there is when the server is down.
    pub(crate) async fn drain_if_possible(&self, row: &WorkspaceRow) {
        self.drain_after(row, None).await;
    }

    /// The same after work of a session: what it set for sessions is its.
    pub(crate) async fn drain_after(&self, row: &WorkspaceRow, server_pid: Option<i32>) {
        let session = server_pid.map(|server_pid| DataStatements {
            server_pid,
            statements: Vec::new(),
        });
        if row.status == WorkspaceStatus::Ready
            && let Err(error) = self.drain_workspace(row.id, session).await
        {
            tracing::warn!(workspace = %row.id, error = %error.explained(), "the journal could not be drained");
        }
    }

    async fn drain_now(&self, id: WorkspaceId, data: Option<DataStatements>) -> Result<Drained> {
        // Waiting here costs no connection of the store; between processes the row's lock decides.
        let _alone = self.inner.draining.lock(id.as_uuid()).await;
        let tx = self.inner.store.jobs().await?;
        let row = workspaces::lock(&tx, id).await?;
        let Some(row) = row.filter(|row| row.status == WorkspaceStatus::Ready) else {
            tx.rollback().await?;
            return Ok(Drained::default());
        };
        let server = self.server(&row.physical.server).await?;
        let database = database_name(&row.physical)?;
        let failed = |e| upstream(&row.physical.server, e);
        let owner = &row.physical.roles.owner.name;
        let journaled = journal::read(&server, database, owner).await.map_err(failed)?;
        let set = self
            .newly_set(&tx, &row, data.as_ref().map(|data| data.server_pid))
            .await?;
        if journaled.is_empty() && set.is_nothing() {
            tx.rollback().await?;
            return Ok(Drained::default());
        }
        fault::point("drain.read");
        let mut captured = capture::changes(&journaled, owner);
        if let Some(data) = data {
            leave_out(&mut captured, data);
        }
        let mut incoming: Vec<NewChange> = captured.iter().map(new_change).collect::<Result<_>>()?;
        let mut said: Vec<String> = captured.iter().flat_map(warnings).collect();
        incoming.extend(set.changes);
        said.extend(set.warnings);
        let numbers = changes::append(&tx, &row.project, row.id, &incoming).await?;
        workspaces::set_session_settings(&tx, id, &set.settings).await?;
        tx.commit().await?;
        self.inner.changed.note(id);
        fault::point("drain.logged");
        let seqs: Vec<i64> = journaled.iter().map(|event| event.seq).collect();
        journal::confirm(&server, database, &seqs).await.map_err(failed)?;
        fault::point("drain.confirmed");
        Ok(Drained {
            changes: u32::try_from(numbers.len()).unwrap_or(u32::MAX),
            warnings: said,
        })
    }
}

/// Notes data statements with the change of their transaction: the last one of their session.
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

fn warnings(captured: &CapturedChange) -> Vec<String> {
    let mut said = Vec::new();
    if let Some(reason) = &captured.change.broken {
        said.push(format!("this change cannot be replayed on tenants: {reason}"));
    }
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
