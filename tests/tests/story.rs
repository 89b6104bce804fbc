//! End to end: a developer designs a schema through the proxy, tenants are created from it, applications use them, and a
//! change is deployed to all of them. With the built binaries, psql and tdb. The test also checks that metadata store,
//! workspace and tenants are in a real PostgreSQL.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};
use tdb_tests::{Instance, Session, column, connect, database_of, fixture, in_database, psql, psql_file};

#[tokio::test]
async fn the_end_to_end_workflow_works() {
    let instance = Instance::start();
    let workspace = create_the_workspace(&instance);
    shape_the_schema(&instance, &workspace);
    let acme = create_a_tenant(&instance, "acme");
    let globex = create_a_tenant(&instance, "globex");
    let (store, server) = (instance.store().await, instance.server("postgres").await);
    use_the_tenants(&acme, &globex);
    everything_is_in_a_real_postgresql(&instance, &store, &server, &[&workspace, &acme, &globex]).await;
    change_the_schema(&instance, &workspace, &[&acme, &globex]);
    the_deployment_is_recorded(&store).await;
    query_all(&instance);
}

fn create_the_workspace(instance: &Instance) -> String {
    let said = instance
        .tdb(&["workspaces", "create", "--name", "myapp", "--database", "PostgreSQL"])
        .ok();
    let url = connection_string(&said.stdout);
    assert_eq!(database_of(&url), "myapp_dev");
    let password = url.split([':', '@']).nth(2).expect("a password").to_owned();
    let again = instance.tdb(&["workspaces", "get", "myapp"]).ok();
    assert!(
        !again.stdout.contains(&password),
        "the password is shown twice: {}",
        again.stdout
    );
    assert!(instance.tdb(&["workspaces", "list"]).ok().stdout.contains("myapp"));
    instance
        .tdb(&["workspaces", "create", "--name", "myapp", "--database", "PostgreSQL"])
        .fails_saying("myapp");
    url
}

fn shape_the_schema(instance: &Instance, workspace: &str) {
    psql_file(workspace, &fixture("schema.sql")).ok();
    let diff = instance.tdb(&["workspaces", "diff", "myapp"]).ok().stdout;
    let changes = instance.diff("myapp");
    assert_eq!(changes.len(), statements_of_the_schema(), "{changes:#?}");
    for number in [1, 2, changes.len()] {
        let shown = diff.lines().any(|line| {
            line.split_whitespace()
                .next()
                .is_some_and(|first| first.trim_matches(|c: char| !c.is_ascii_digit()) == number.to_string())
        });
        assert!(shown, "change {number} is not in the numbered list:\n{diff}");
    }
    assert!(diff.contains("CREATE MATERIALIZED VIEW"), "{diff}");
}

/// Every statement of the fixture is a separate transaction, and each is DDL. Statements begin at the start of a line;
/// function bodies are indented or start with another word.
fn statements_of_the_schema() -> usize {
    let text = fs::read_to_string(fixture("schema.sql")).expect("the fixture");
    let starts = ["CREATE ", "COMMENT ", "ALTER ", "GRANT "];
    text.lines()
        .filter(|line| starts.iter().any(|start| line.starts_with(start)))
        .count()
}

fn create_a_tenant(instance: &Instance, name: &str) -> String {
    let said = instance
        .tdb(&["tenants", "create", "--name", name, "--blueprint", "myapp"])
        .ok();
    let url = connection_string(&said.stdout);
    assert_eq!(database_of(&url), format!("myapp__{name}"));
    instance.wait_until_ready(name);
    url
}

fn use_the_tenants(acme: &str, globex: &str) {
    let insert = "INSERT INTO users (email, kind) VALUES ('Ada@acme.example', 'owner'), ('bob@acme.example', 'member');
        INSERT INTO billing.invoices (user_id, net) SELECT id, 100 FROM users WHERE kind = 'owner';
        REFRESH MATERIALIZED VIEW billing.monthly;";
    psql(acme, insert).ok();
    // The function, the extension's type, the trigger, the partition, the generated column and the view are all used.
    assert_eq!(
        psql(acme, "SELECT owed FROM debtors WHERE email = 'ada@ACME.example'")
            .ok()
            .text(),
        "119.00"
    );
    assert_eq!(psql(acme, "SELECT count(*) FROM events_2026").ok().text(), "2");
    assert_eq!(psql(acme, "SELECT net FROM billing.monthly").ok().text(), "100.00");
    assert_eq!(psql(globex, "SELECT count(*) FROM users").ok().text(), "0");
    psql(globex, "INSERT INTO users (email) VALUES ('carl@globex.example')").ok();
    psql(globex, "INSERT INTO users (email, kind) VALUES ('x', 'emperor')").fails_saying("22P02");
    psql(&in_database(acme, "myapp__globex"), "SELECT 1").fails_saying("myapp__globex");
}

/// Nothing is simulated: the sessions are server processes of the private cluster, the rows can be read by its superuser
/// without the proxy, and the store's tables contain the databases that exist.
async fn everything_is_in_a_real_postgresql(instance: &Instance, store: &Session, server: &Session, urls: &[&String]) {
    assert!(instance.data_dir().exists());
    let mut physical = BTreeSet::new();
    for url in urls {
        let session = connect(url).await.expect("a session through the proxy");
        let row = session
            .query_one("SELECT pg_backend_pid(), current_database()::text", &[])
            .await
            .expect("who am I");
        let (pid, database): (i32, String) = (row.get(0), row.get(1));
        let seen = server
            .query_one("SELECT datname::text FROM pg_stat_activity WHERE pid = $1", &[&pid])
            .await
            .expect("the session is a process of the private cluster");
        assert_eq!(seen.get::<_, String>(0), database);
        physical.insert(database);
    }
    let sql = "SELECT name FROM control_plane.physical_databases WHERE template_id IS NULL";
    let stored: BTreeSet<String> = column(store, sql).await;
    assert_eq!(stored, physical, "the store (left) and the sessions (right)");
    let direct = connect(&instance.server_url(&database_name(urls[1])))
        .await
        .expect("past the proxy");
    let row = direct
        .query_one("SELECT count(*) FROM public.users", &[])
        .await
        .expect("acme's rows");
    assert_eq!(row.get::<_, i64>(0), 2);
    let changes = store
        .query_one("SELECT count(*) FROM control_plane.changes", &[])
        .await
        .expect("the change log");
    assert_eq!(
        usize::try_from(changes.get::<_, i64>(0)).expect("a count"),
        statements_of_the_schema()
    );
}

/// The physical name, which equals the logical one if that is free on its server.
fn database_name(url: &str) -> String {
    psql(url, "SELECT current_database()").ok().text().to_owned()
}

fn change_the_schema(instance: &Instance, workspace: &str, tenants: &[&String]) {
    psql(workspace, "ALTER TABLE users ADD COLUMN phone text").ok();
    let changes = instance.diff("myapp");
    assert_eq!(changes.len(), 1, "{changes:#?}");
    assert!(
        changes[0]["statements"].to_string().contains("ADD COLUMN phone"),
        "{changes:#?}"
    );
    let said = instance
        .tdb(&["deployments", "create", "--blueprint", "myapp", "--all", "--watch"])
        .ok();
    for word in ["acme", "globex", "completed"] {
        assert!(said.stdout.contains(word) || said.stderr.contains(word), "{said:#?}");
    }
    for tenant in tenants {
        assert_eq!(
            psql(tenant, "SELECT count(*) FROM users WHERE phone IS NULL").ok().code,
            0
        );
    }
    assert_eq!(instance.diff("myapp"), Vec::<Value>::new());
    assert_eq!(instance.drift("myapp")["count"], json!(0));
    assert_eq!(instance.dump(tenants[0]), instance.dump(workspace));
}

async fn the_deployment_is_recorded(store: &Session) {
    let sql = "SELECT count(*) FILTER (WHERE status = 'done'), count(*) FROM control_plane.deployment_targets";
    let row = store.query_one(sql, &[]).await.expect("targets");
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (2, 2));
}

fn query_all(instance: &Instance) {
    let query = [
        "query",
        "--blueprint",
        "myapp",
        "--all",
        "--query",
        "select count(*) from users",
    ];
    let said = instance.tdb(&query).ok().stdout;
    assert!(said.contains("acme") && said.contains("globex"), "{said}");
    let answer = instance.tdb_json(&query);
    let mut counts = Vec::new();
    for result in answer["results"].as_array().expect("results") {
        counts.push((
            result["tenant_id"].as_str().expect("a tenant"),
            result["rows"][0][0].to_string(),
        ));
    }
    counts.sort();
    let text = |count: &str| counts_text(count);
    assert_eq!(counts.len(), 2);
    assert!(text(&counts[0].1) == "2" && text(&counts[1].1) == "1", "{counts:?}");
}

/// A count is int8, which is sent as text.
fn counts_text(json: &str) -> String {
    json.trim_matches('"').to_owned()
}

fn connection_string(said: &str) -> String {
    let found = said.split_whitespace().find(|word| word.starts_with("postgresql://"));
    found
        .unwrap_or_else(|| panic!("no connection string: {said}"))
        .to_owned()
}
