//! The whole path of a schema: server, workspace, template, build, publication, tenant.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use support::{World, numbered};
use tdb_engines::postgres::{databases, fingerprint, roles, schema};

const SCHEMA: &str = "
    CREATE EXTENSION pgcrypto;
    CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE TABLE users (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, feels mood);
    CREATE TABLE posts (id serial PRIMARY KEY, author bigint NOT NULL REFERENCES users, body text DEFAULT '');
    CREATE INDEX posts_author ON posts (author);
    CREATE VIEW authors AS SELECT u.name, count(*) FROM users u JOIN posts p ON p.author = u.id GROUP BY 1;
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
    CREATE TRIGGER touched BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION touch();
    ALTER TABLE users ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON users TO CURRENT_USER USING (name <> '');
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO PUBLIC;
    COMMENT ON TABLE users IS 'people';
    GRANT SELECT ON users TO PUBLIC;
    ALTER TYPE mood ADD VALUE 'happy';
";

#[tokio::test]
async fn a_schema_has_the_same_fingerprint_in_workspace_template_and_tenant() {
    let world = World::start().await;
    let workspace = world.workspace("myapp_dev").await;
    let developer = world.session(&workspace).await;
    for statement in SCHEMA.split(";\n").map(str::trim).filter(|text| !text.is_empty()) {
        developer.batch_execute(statement).await.unwrap();
    }
    developer
        .batch_execute(&format!("ALTER VIEW authors OWNER TO {}", workspace.roles.owner))
        .await
        .unwrap();
    developer
        .batch_execute("CREATE INDEX CONCURRENTLY ON users (name)")
        .await
        .unwrap();
    let changes = world.drain(&workspace).await;
    assert_eq!(changes.len(), 16);
    for captured in &changes {
        assert_eq!(captured.change.broken, None, "{:?}", captured.change.texts());
    }
    assert!(world.drain(&workspace).await.is_empty());
    let designed = world.fingerprint(&workspace).await;
    assert!(designed.facts.len() > 30, "{:#?}", designed.facts);

    world.base_template("myapp_v1").await;
    let build = world.tenant("myapp_build", "myapp_v1").await;
    let changes = numbered(&changes);
    let applied = world.bring_up(&build, &changes).await.unwrap();
    assert_eq!(applied.changes_done, 16);
    assert_eq!(designed.diff(&world.fingerprint(&build).await), vec![]);
    assert_eq!(
        world.bring_up(&build, &changes).await.unwrap().applied,
        Vec::<i64>::new()
    );

    databases::rename(&world.server, "myapp_build", "myapp_v2")
        .await
        .unwrap();
    for _ in 0..2 {
        databases::publish_template(&world.server, "myapp_v2", Some(&build.roles))
            .await
            .unwrap();
    }
    let acme = world.tenant("myapp__acme", "myapp_v2").await;
    assert_eq!(designed.diff(&world.fingerprint(&acme).await), vec![]);
    assert_eq!(
        world.bring_up(&acme, &changes).await.unwrap().applied,
        Vec::<i64>::new()
    );
    let session = world.session(&acme).await;
    session
        .batch_execute("INSERT INTO users(name) VALUES ('ann'); ALTER TABLE posts ADD x int; DROP EXTENSION pgcrypto; CREATE EXTENSION pgcrypto")
        .await
        .unwrap();
    let late = world.tenant("myapp__late", "myapp_v1").await;
    assert_eq!(world.bring_up(&late, &changes).await.unwrap().applied.len(), 16);
    assert_eq!(designed.diff(&world.fingerprint(&late).await), vec![]);

    let tables = schema::describe(&world.server, "myapp__late").await.unwrap();
    assert_eq!(
        tables.iter().map(|table| table.name.as_str()).collect::<Vec<_>>(),
        ["posts", "users"]
    );
    assert_eq!(tables[1].columns[1].type_name, "text");
    assert!(
        !tables[1].columns[1].nullable && tables[1].indexes.len() == 2,
        "{tables:#?}"
    );

    databases::drop(&world.server, "myapp__late").await.unwrap();
    roles::drop(&world.server, &late.roles).await.unwrap();
    databases::drop(&world.server, "myapp_v2").await.unwrap();
    assert!(
        fingerprint::take(&world.server, "myapp_v2", "tdb_template")
            .await
            .is_err()
    );
    assert_eq!(databases::constructed(&world.server, "testtest").await.unwrap(), vec![]);
}
