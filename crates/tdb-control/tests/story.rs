//! The whole sequence without a proxy: design a schema, create tenants from it, deploy a change to all of them.

mod support;

use serde_json::json;
use support::{World, blueprint, target};
use tdb_control::model::{DeploymentStatus, TargetStatus, TenantChoice, TenantQuery};

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_reaches_tenants_and_so_does_a_change() {
    let world = World::start().await;
    world.workspace("myapp").await;
    world
        .ddl(
            "myapp",
            "CREATE TABLE users (id bigint PRIMARY KEY, email text NOT NULL)",
        )
        .await;
    world
        .ddl("myapp", "CREATE INDEX CONCURRENTLY by_email ON users (email)")
        .await;
    let diff = world.diff("myapp").await;
    assert_eq!(diff.iter().map(|change| change.id).collect::<Vec<_>>(), [1, 2]);
    assert!(diff[0].author.starts_with("direct:r_"), "{}", diff[0].author);
    let acme = world.tenant("acme", "myapp").await;
    assert_eq!(acme.warnings, Vec::<String>::new());
    world.tenant("globex", "myapp").await;
    assert_eq!(world.version_of("acme").await, Some(2));
    world
        .session("myapp__acme")
        .await
        .batch_execute("INSERT INTO users VALUES (1, 'ada')")
        .await
        .unwrap();
    assert!(world.diff("myapp").await.is_empty());
    world.ddl("myapp", "ALTER TABLE users ADD COLUMN phone text").await;
    assert_eq!(world.diff("myapp").await.len(), 1);
    let job = world.deploy("myapp").await;
    assert_eq!(job.summary.status, DeploymentStatus::Completed, "{job:#?}");
    for name in ["acme", "globex"] {
        assert_eq!(target(&job, name).status, TargetStatus::Done);
        assert_eq!(
            (target(&job, name).changes_done, target(&job, name).changes_total),
            (1, 1)
        );
        assert_eq!(world.version_of(name).await, Some(3));
    }
    let query = TenantQuery {
        blueprint: blueprint("myapp"),
        tenants: TenantChoice::All,
        sql: "SELECT count(*)::int, max(phone) FROM users".to_owned(),
    };
    let results = world.control.queries.in_tenants(&world.identity, query).await.unwrap();
    let rows: Vec<_> = results
        .iter()
        .map(|r| r.outcome.as_ref().unwrap().rows.clone())
        .collect();
    assert_eq!(
        rows,
        [vec![vec![json!(1), json!(null)]], vec![vec![json!(0), json!(null)]]]
    );
    assert!(world.diff("myapp").await.is_empty());
    world.no_drift("myapp").await;
}

/// The process that holds the results is also the proxy.
#[tokio::test(flavor = "multi_thread")]
async fn the_results_of_all_tenants_share_one_limit() {
    let world = World::start().await;
    world.workspace("wide").await;
    for name in ["a", "b", "c", "d"] {
        world.tenant(name, "wide").await;
    }
    let answers = async |sql: &str| {
        let query = TenantQuery {
            blueprint: blueprint("wide"),
            tenants: TenantChoice::All,
            sql: sql.to_owned(),
        };
        world.control.queries.in_tenants(&world.identity, query).await.unwrap()
    };
    // Each result is below its own limit of 16 MiB; the first statement's result is discarded and does not count.
    let rows = "SELECT repeat('x', 12000) FROM generate_series(1, 1000)";
    let results = answers(&format!("{rows}; {rows}")).await;
    let results: Vec<_> = results.iter().map(|one| one.outcome.as_ref().unwrap()).collect();
    let kept: usize = results.iter().map(|result| result.rows.len() * 12_000).sum();
    assert!((31_000_000..32 << 20).contains(&kept), "{kept} bytes");
    for result in results {
        assert_eq!((result.row_count, result.truncated), (1000, result.rows.len() < 1000));
    }
    for one in answers("SELECT repeat('x', 900000)::int").await {
        let failure = one.outcome.unwrap_err();
        assert_eq!(
            (failure.sqlstate.as_str(), failure.message.chars().count()),
            ("22P02", 1001)
        );
    }
}
