//! The change log, versions and templates as the control plane uses them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test fails by panicking

mod support;

use support::World;
use tdb_contract::{Rights, Scope};
use tdb_names::{BlueprintName, ProjectId, WorkspaceId};
use tdb_store::changes::{self, ChangeState, ChangeUse, NewChange};
use tdb_store::sessions::{self, SessionRow, Speaker};
use tdb_store::templates::{self, TemplateStatus};
use tdb_store::versions::{self, NewVersion};
use tdb_store::{StoreError, credentials, tenants, workspaces};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

const NO_GRACE: std::time::Duration = std::time::Duration::ZERO;

struct Design {
    world: World,
    project: ProjectId,
    blueprint: BlueprintName,
    workspace: WorkspaceId,
}

impl Design {
    async fn start() -> Self {
        let world = World::start().await;
        world.server().await;
        let project = world.project().await;
        let blueprint = "app".parse().unwrap();
        let workspace = world.workspace(&project, &blueprint).await;
        Self {
            world,
            project,
            blueprint,
            workspace,
        }
    }

    async fn append(&self, changes: &[NewChange]) -> Vec<u32> {
        let tx = self.world.store.jobs().await.unwrap();
        workspaces::lock(&tx, self.workspace).await.unwrap().unwrap();
        let numbers = changes::append(&tx, &self.project, self.workspace, changes)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        numbers
    }

    async fn version(&self, change_ids: &[u32], hash: &[u8]) -> u32 {
        let tx = self.world.store.jobs().await.unwrap();
        let version = NewVersion {
            change_ids,
            content_hash: hash,
            author: "key:1",
            statements: 1,
            verified: true,
            reason: None,
        };
        let row = versions::insert(&tx, &self.project, self.workspace, &version)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        row.number
    }

    async fn template(&self, version: u32, grace: std::time::Duration) -> Uuid {
        let id = Uuid::new_v4();
        let physical = self.world.physical(&format!("template_{version}"));
        let tx = self.world.store.jobs().await.unwrap();
        templates::insert(&tx, id, &self.project, self.workspace, &physical, None)
            .await
            .unwrap();
        assert!(templates::begin_publishing(&tx, id, version).await.unwrap());
        assert!(!templates::begin_publishing(&tx, id, version).await.unwrap());
        assert!(templates::set_published(&tx, id, grace).await.unwrap());
        tx.commit().await.unwrap();
        id
    }
}

fn change(xid: i64, text: &str, pid: i32, backend_start: OffsetDateTime) -> NewChange {
    NewChange {
        xid,
        statements: vec![text.to_owned()],
        tags: vec!["CREATE TABLE".to_owned()],
        objects: vec!["public.t".to_owned()],
        left_out: Vec::new(),
        body: serde_json::json!({ "text": text }),
        checksum: text.as_bytes().to_vec(),
        state: ChangeState::Pending,
        reason: None,
        pid,
        backend_start,
        role: "r_w".to_owned(),
        committed_at: OffsetDateTime::now_utc(),
    }
}

#[tokio::test]
async fn a_change_enters_the_log_once_however_often_it_is_drained() {
    let design = Design::start().await;
    let now = OffsetDateTime::now_utc();
    let batch = [change(70, "create a", 1, now), change(69, "create b", 1, now)];
    assert_eq!(design.append(&batch).await, [1, 2]);
    assert_eq!(design.append(&batch).await, [] as [u32; 0]);
    let more = [batch[1].clone(), change(71, "create c", 1, now)];
    assert_eq!(design.append(&more).await, [3]);
    let tx = design.world.store.project(&design.project).await.unwrap();
    let all = changes::all(&tx, design.workspace).await.unwrap();
    let texts: Vec<&str> = all.iter().map(|change| change.statements[0].as_str()).collect();
    assert_eq!(
        texts,
        ["create a", "create b", "create c"],
        "the order of the drain, not of transaction ids"
    );
    assert_eq!(
        (&all[0].body["text"], all[0].checksum.as_slice()),
        (&"create a".into(), b"create a".as_slice())
    );
    changes::set_state(&tx, design.workspace, 2, ChangeState::Skipped, None)
        .await
        .unwrap();
    let summaries = workspaces::summaries(&tx, &[design.workspace]).await.unwrap();
    let head = summaries[&design.workspace].head;
    assert_eq!((head.changes, head.statements, head.broken), (2, 2, 0));
    assert_eq!(
        changes::undeployed(&tx, design.workspace, 0, 100).await.unwrap(),
        [1, 3]
    );
}

#[tokio::test]
async fn a_change_has_the_author_whose_session_made_it() {
    let design = Design::start().await;
    let started = OffsetDateTime::now_utc().replace_microsecond(123_456).unwrap();
    let tx = design.world.store.project(&design.project).await.unwrap();
    let scope = Scope::Workspace(design.blueprint.clone());
    let credential = credentials::create(&tx, &design.project, &scope, Rights::ReadWrite, None)
        .await
        .unwrap()
        .row;
    tx.commit().await.unwrap();
    let tx = design.world.store.jobs().await.unwrap();
    let session = SessionRow {
        workspace: design.workspace,
        server: "main".to_owned(),
        server_pid: 4711,
        backend_start: Some(started),
        speaker: Speaker::Credential(credential.id),
        client: Some("::1".parse().unwrap()),
        application_name: "psql".to_owned(),
    };
    sessions::insert(&tx, &session).await.unwrap();
    tx.commit().await.unwrap();
    let batch = [
        change(1, "mine", 4711, started),
        // The same pid, reused by a process that the proxy does not know.
        change(2, "another's", 4711, started + Duration::seconds(9)),
        change(3, "direct", 1, started),
    ];
    design.append(&batch).await;
    let tx = design.world.store.project(&design.project).await.unwrap();
    let all = changes::all(&tx, design.workspace).await.unwrap();
    let authors: Vec<&str> = all.iter().map(|change| change.author.as_str()).collect();
    assert_eq!(authors, [credential.user.as_str(), "direct:r_w", "direct:r_w"]);
}

#[tokio::test]
async fn a_session_may_begin_while_the_workspace_is_drained() {
    let design = Design::start().await;
    let drain = design.world.store.jobs().await.unwrap();
    workspaces::lock(&drain, design.workspace).await.unwrap().unwrap();
    let tx = design.world.store.jobs().await.unwrap();
    let session = SessionRow {
        workspace: design.workspace,
        server: "main".to_owned(),
        server_pid: 1,
        backend_start: None,
        speaker: Speaker::Key(tdb_names::KeyId::from_uuid(Uuid::new_v4())),
        client: None,
        application_name: String::new(),
    };
    sessions::insert(&tx, &session).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn the_same_content_is_the_same_version() {
    let design = Design::start().await;
    assert_eq!(design.version(&[], b"empty").await, 1);
    assert_eq!(design.version(&[1, 2], b"two").await, 2);
    assert_eq!(design.version(&[1, 2], b"two").await, 2);
    assert_eq!(design.version(&[1], b"one").await, 3);
    let tx = design.world.store.project(&design.project).await.unwrap();
    let second = versions::by_number(&tx, design.workspace, 2).await.unwrap().unwrap();
    assert_eq!((second.change_ids, second.verified), (vec![1, 2], true));
    let first = changes::first_versions(&tx, design.workspace).await.unwrap();
    assert!(first.contains(&(1, 2)) && first.contains(&(2, 2)), "{first:?}");
}

#[tokio::test]
async fn the_holders_of_a_change_are_named() {
    let design = Design::start().await;
    let now = OffsetDateTime::now_utc();
    design.append(&[change(1, "a", 1, now), change(2, "b", 1, now)]).await;
    design.version(&[], b"0").await;
    design.version(&[1], b"1").await;
    let first_use = async |id| {
        let tx = design.world.store.project(&design.project).await.unwrap();
        changes::first_use(&tx, design.workspace, id).await.unwrap()
    };
    assert_eq!(first_use(1).await, None, "a version that nobody has");
    let template = design.template(2, NO_GRACE).await;
    assert_eq!(first_use(1).await, Some(ChangeUse::Version(2)));
    let tenant = "acme".parse().unwrap();
    let database = design
        .world
        .tenant(&design.project, &tenant, &design.blueprint, design.workspace)
        .await;
    let tx = design.world.store.jobs().await.unwrap();
    assert!(tenants::choose_template(&tx, database, template, 2).await.unwrap());
    assert!(tenants::set_ready(&tx, database).await.unwrap());
    assert!(!tenants::set_ready(&tx, database).await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(first_use(1).await, Some(ChangeUse::Tenant("acme".to_owned())));
    assert_eq!(first_use(2).await, None);
    let tx = design.world.store.project(&design.project).await.unwrap();
    assert_eq!(changes::undeployed(&tx, design.workspace, 0, 100).await.unwrap(), [2]);
}

#[tokio::test]
async fn only_unused_templates_are_retired() {
    let design = Design::start().await;
    let mut made = Vec::new();
    for n in 1..=3_u8 {
        let version = design.version(&[u32::from(n)], &[n]).await;
        made.push(design.template(version, NO_GRACE).await);
    }
    let tenant = "acme".parse().unwrap();
    let database = design
        .world
        .tenant(&design.project, &tenant, &design.blueprint, design.workspace)
        .await;
    let tx = design.world.store.jobs().await.unwrap();
    assert!(tenants::choose_template(&tx, database, made[1], 2).await.unwrap());
    assert_eq!(
        templates::retire_old(&tx).await.unwrap(),
        1,
        "the first; the second is being cloned"
    );
    assert_eq!(
        templates::by_id(&tx, made[0]).await.unwrap().unwrap().status,
        TemplateStatus::Dropping
    );
    assert!(tenants::set_ready(&tx, database).await.unwrap());
    assert_eq!(
        templates::retire_old(&tx).await.unwrap(),
        1,
        "the second; the third is the newest"
    );
    assert!(
        !tenants::choose_template(&tx, database, made[1], 2).await.unwrap(),
        "a template on its way out"
    );
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_template_just_published_has_a_grace() {
    let design = Design::start().await;
    let (first, second) = (design.version(&[1], b"1").await, design.version(&[2], b"2").await);
    design.template(first, std::time::Duration::from_secs(60)).await;
    design.template(second, NO_GRACE).await;
    let tx = design.world.store.jobs().await.unwrap();
    assert_eq!(templates::retire_old(&tx).await.unwrap(), 0);
}

#[tokio::test]
async fn a_workspace_can_be_deleted_with_its_rows_only_without_tenants() {
    let design = Design::start().await;
    design.append(&[change(1, "a", 1, OffsetDateTime::now_utc())]).await;
    design.version(&[1], b"1").await;
    let tenant = "acme".parse().unwrap();
    let database = design
        .world
        .tenant(&design.project, &tenant, &design.blueprint, design.workspace)
        .await;
    let tx = design.world.store.project(&design.project).await.unwrap();
    let error = workspaces::delete(&tx, design.workspace).await.unwrap_err();
    assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
    drop(tx);
    let tx = design.world.store.project(&design.project).await.unwrap();
    tenants::delete_database(&tx, database).await.unwrap();
    tenants::delete(&tx, &design.project, &tenant).await.unwrap();
    workspaces::delete(&tx, design.workspace).await.unwrap();
    assert_eq!(changes::total(&tx, design.workspace).await.unwrap(), 0);
    tx.commit().await.unwrap();
}
