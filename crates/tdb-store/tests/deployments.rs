//! Deployment targets: claimed by one worker at a time, kept by a heartbeat, taken over when the lease has expired.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test fails by panicking

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use support::World;
use tdb_names::{JobId, ProjectId, ServerName};
use tdb_store::Store;
use tdb_store::deployments::{
    self, ClaimedTarget, DeploymentStatus, NewDeployment, NewTarget, TargetClaim, TargetEnd, TargetStatus,
};
use tdb_store::versions::{self, NewVersion};

const LEASE: Duration = Duration::from_secs(30);
const TENANTS: usize = 12;

struct Job {
    world: World,
    project: ProjectId,
    id: JobId,
}

async fn job() -> Job {
    let world = World::start().await;
    world.server().await;
    let project = world.project().await;
    let blueprint = "app".parse().unwrap();
    let workspace = world.workspace(&project, &blueprint).await;
    let mut targets = Vec::new();
    for n in 0..TENANTS {
        let tenant = format!("t{n}").parse().unwrap();
        let database = world.tenant(&project, &tenant, &blueprint, workspace).await;
        targets.push(NewTarget {
            tenant,
            database,
            server: main(),
            status: TargetStatus::Pending,
            from: 1,
            changes_done: 0,
            changes_total: 1,
        });
    }
    let id: JobId = "dep_aaaaaaaaaa".parse().unwrap();
    let tx = world.store.project(&project).await.unwrap();
    let version = NewVersion {
        change_ids: &[1],
        content_hash: b"1",
        author: "key:1",
        statements: 1,
        verified: true,
        reason: None,
    };
    let version = versions::insert(&tx, &project, workspace, &version)
        .await
        .unwrap()
        .number;
    let new = NewDeployment {
        all_tenants: true,
        id: &id,
        project: &project,
        blueprint: &blueprint,
        workspace,
        version,
        from_versions: &[1],
        author: "key:1",
    };
    deployments::insert(&tx, &new, &targets).await.unwrap();
    tx.commit().await.unwrap();
    Job { world, project, id }
}

fn main() -> ServerName {
    "main".parse().unwrap()
}

async fn claim(store: &Store, limit: i64, lease: Duration) -> Vec<ClaimedTarget> {
    claim_of(store, limit, 100, lease).await
}

async fn claim_of(store: &Store, limit: i64, at_once: i64, lease: Duration) -> Vec<ClaimedTarget> {
    let claim = TargetClaim {
        limit,
        at_once,
        lease,
        holder: store.instance(),
    };
    let tx = store.jobs().await.unwrap();
    let claimed = deployments::claim(&tx, &main(), &claim).await.unwrap();
    tx.commit().await.unwrap();
    claimed
}

async fn end(store: &Store, target: &ClaimedTarget, status: TargetStatus) -> bool {
    let end = TargetEnd {
        status,
        changes_done: 1,
        drift: Some(false),
        sqlstate: (status == TargetStatus::Failed).then_some("42P07"),
        message: None,
        statement: None,
        pause: Duration::ZERO,
    };
    let tx = store.jobs().await.unwrap();
    let ended = deployments::end_attempt(&tx, target, &end).await.unwrap();
    tx.commit().await.unwrap();
    ended
}

#[tokio::test]
async fn workers_that_claim_concurrently_share_the_targets() {
    let job = job().await;
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let store = job.world.store.clone();
            tokio::spawn(async move { claim(&store, 4, LEASE).await })
        })
        .collect();
    let mut claimed = Vec::new();
    for worker in workers {
        claimed.extend(worker.await.unwrap());
    }
    // Rows that another worker has locked are skipped, so one more round may be needed.
    claimed.extend(claim(&job.world.store, 100, LEASE).await);
    let distinct: BTreeSet<_> = claimed.iter().map(|target| target.database).collect();
    assert_eq!((distinct.len(), claimed.len()), (TENANTS, TENANTS));
    assert!(
        claimed
            .iter()
            .all(|target| target.attempts == 1 && target.project == job.project)
    );
}

#[tokio::test]
async fn a_target_whose_lease_ran_out_is_taken_over_and_its_first_worker_can_end_nothing() {
    let job = job().await;
    let store = &job.world.store;
    let late = claim(store, 1, Duration::ZERO).await.remove(0);
    let all = claim(store, 100, LEASE).await;
    let again = all.iter().find(|target| target.database == late.database).unwrap();
    assert_eq!((again.attempts, all.len()), (2, TENANTS));
    assert_ne!(again.lease, late.lease);
    let tx = store.jobs().await.unwrap();
    assert!(!deployments::heartbeat(&tx, &late, LEASE, Some(1)).await.unwrap());
    assert!(deployments::heartbeat(&tx, again, LEASE, Some(1)).await.unwrap());
    tx.commit().await.unwrap();
    assert!(!end(store, &late, TargetStatus::Failed).await);
    assert!(end(store, again, TargetStatus::Done).await);
    assert!(claim(store, 100, LEASE).await.is_empty());
    assert!(!end(store, again, TargetStatus::Failed).await, "ended twice");
}

#[tokio::test]
async fn processes_together_stay_within_a_servers_room() {
    let job = job().await;
    let claims = (0..6).map(|_| claim_of(&job.world.store, 4, 4, LEASE));
    let claimed: usize = futures_util::future::join_all(claims).await.iter().map(Vec::len).sum();
    assert_eq!(claimed, 4);
    let first = claim_of(&job.world.store, 4, 5, LEASE).await;
    assert_eq!(first.len(), 1);
    assert!(end(&job.world.store, &first[0], TargetStatus::Done).await);
    assert_eq!(claim_of(&job.world.store, 4, 5, LEASE).await.len(), 1);
}

#[tokio::test]
async fn a_job_ends_when_its_targets_have_and_failed_ones_can_be_tried_again() {
    let job = job().await;
    let store = &job.world.store;
    let status = async || {
        let tx = store.jobs().await.unwrap();
        deployments::complete(&tx).await.unwrap();
        tx.commit().await.unwrap();
        let tx = store.project(&job.project).await.unwrap();
        let row = deployments::by_id(&tx, &job.project, &job.id).await.unwrap().unwrap();
        (row.status, row.completed, row.failed)
    };
    let mut targets = claim(store, 100, LEASE).await;
    let unlucky = targets.pop().unwrap();
    for target in &targets {
        assert!(end(store, target, TargetStatus::Done).await);
    }
    assert_eq!(status().await, (DeploymentStatus::Running, 11, 0));
    assert!(end(store, &unlucky, TargetStatus::Retrying).await);
    let unlucky = claim(store, 100, LEASE).await.remove(0);
    assert!(end(store, &unlucky, TargetStatus::Failed).await);
    assert_eq!(status().await, (DeploymentStatus::Failed, 11, 1));
    assert!(claim(store, 100, LEASE).await.is_empty());
    let tx = store.project(&job.project).await.unwrap();
    assert_eq!(deployments::retry_failed(&tx, &job.project, &job.id).await.unwrap(), 1);
    tx.commit().await.unwrap();
    let again = claim(store, 100, LEASE).await.remove(0);
    assert_eq!((again.database, again.attempts), (unlucky.database, 1));
    assert!(end(store, &again, TargetStatus::Done).await);
    assert_eq!(status().await, (DeploymentStatus::Completed, 12, 0));
}

#[tokio::test]
async fn a_paused_server_is_left_alone() {
    let job = job().await;
    let store = &job.world.store;
    let tx = store.jobs().await.unwrap();
    assert_eq!(deployments::busy_servers(&tx).await.unwrap(), [main()]);
    deployments::pause_server(&tx, &main(), LEASE).await.unwrap();
    assert!(deployments::busy_servers(&tx).await.unwrap().is_empty());
    tx.commit().await.unwrap();
    assert!(claim(store, 100, LEASE).await.is_empty());
}
