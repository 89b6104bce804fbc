//! Counts over the whole installation, for metrics, by one query per table.

use std::str::FromStr;

use crate::deployments::{DeploymentStatus, TargetStatus};
use crate::error::StoreError;
use crate::physical::DatabaseKind;
use crate::row::{column, parsed, total, words};
use crate::tenants::UNFINISHED;
use crate::tx::Tx;

words! {
    /// The state of unfinished work on a database.
    JobState {
        /// No process works on it.
        Waiting = "waiting",
        /// A process works on it.
        Running = "running",
        /// The last attempt failed.
        Failing = "failing",
    }
}

words! {
    /// Whether a spare can be used.
    SpareState {
        /// It is being created.
        Making = "making",
        /// It can be used.
        Ready = "ready",
    }
}

/// Counts by label.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// The drain lag of the ready workspace that has waited longest, in seconds. Everything committed earlier is in the
    /// change logs.
    pub drain_lag: f64,
    /// Databases that are being created, deleted, opened or closed, by kind and state.
    pub jobs: Vec<(DatabaseKind, JobState, u32)>,
    /// Spare databases by state.
    pub spares: Vec<(SpareState, u32)>,
    /// Deployments by status.
    pub deployments: Vec<(DeploymentStatus, u32)>,
    /// Targets of running deployments by status.
    pub targets: Vec<(TargetStatus, u32)>,
}

/// Reads the counts. In a transaction of [`crate::Store::jobs`].
pub async fn read(tx: &Tx) -> Result<Figures, StoreError> {
    let lag = "SELECT coalesce(extract(epoch FROM max(now() - coalesce(drained_at, created_at))), 0)::float8 AS lag
                 FROM workspaces WHERE status = 'ready'";
    // A job that failed before counts as failing even while it is running: that is what an operator needs to see.
    let jobs = format!(
        "SELECT kind, CASE WHEN attempts > 0 THEN 'failing'
                              WHEN EXISTS (SELECT FROM leases l WHERE l.name = lease AND l.lease_until > now()) THEN 'running'
                              ELSE 'waiting' END AS state, count(*) AS n
                  FROM (SELECT 'workspace' AS kind, attempts, 'database:' || id AS lease FROM workspaces WHERE status <> 'ready'
                        UNION ALL SELECT 'tenant_database', d.attempts, 'database:' || d.id FROM tenant_databases d
                                    JOIN tenants t ON t.project_id = d.project_id AND t.name = d.tenant WHERE {UNFINISHED}
                        UNION ALL SELECT 'template', t.attempts, 'builds:' || t.workspace_id || ':' || p.server
                                    FROM templates t JOIN physical_databases p ON p.template_id = t.id
                                   WHERE t.status <> 'published' AND NOT (t.status IN ('building', 'spare') AND t.step = 'adopted')) AS work
                 GROUP BY 1, 2"
    );
    let spares = "SELECT CASE step WHEN 'adopted' THEN 'ready' ELSE 'making' END AS label, count(*) AS n
                    FROM templates WHERE status = 'spare' GROUP BY 1";
    let deployments = "SELECT status AS label, count(*) AS n FROM deployments GROUP BY 1";
    let targets =
        "SELECT g.status AS label, count(*) AS n FROM deployment_targets g JOIN deployments p ON p.id = g.deployment_id
                    WHERE p.status = 'running' GROUP BY 1";
    let mut figures = Figures {
        drain_lag: column(&tx.query_one(lag, &[]).await?, "lag")?,
        spares: labelled(tx, spares).await?,
        deployments: labelled(tx, deployments).await?,
        targets: labelled(tx, targets).await?,
        ..Figures::default()
    };
    for row in &tx.query(&jobs, &[]).await? {
        figures
            .jobs
            .push((parsed(row, "kind")?, parsed(row, "state")?, total(row, "n")?));
    }
    Ok(figures)
}

async fn labelled<L: FromStr>(tx: &Tx, sql: &str) -> Result<Vec<(L, u32)>, StoreError> {
    let rows = tx.query(sql, &[]).await?;
    rows.iter()
        .map(|row| Ok((parsed(row, "label")?, total(row, "n")?)))
        .collect()
}
