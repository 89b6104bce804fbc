//! Extensions that a role without special rights may create, in messages with other statements and in functions: what their
//! scripts drop is no statement of the client, and a replay runs the scripts again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use support::{World, numbered};
use tdb_engines::postgres::capture::CapturedChange;

/// Their scripts drop objects. The others are created in two of the forms only.
const DROPPING: [&str; 4] = ["cube", "hstore", "intarray", "seg"];

/// What is sent for each extension; `#` is its name and `%` its number.
const FORMS: [(&str, &[&str]); 7] = [
    (
        "with another statement",
        &["CREATE EXTENSION #; CREATE TABLE t% (i int)"],
    ),
    (
        "after other statements",
        &["CREATE TABLE t% (i int); DROP TABLE t%; CREATE EXTENSION IF NOT EXISTS # CASCADE"],
    ),
    (
        "in DO",
        &["DO $$ BEGIN CREATE EXTENSION #; CREATE TABLE t% (i int); END $$"],
    ),
    (
        "in DO, as text",
        &["DO $$ BEGIN EXECUTE '/* now */ create extension #'; END $$; CREATE TABLE t% (i int)"],
    ),
    (
        "in a function",
        &[
            "CREATE FUNCTION f%() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CREATE EXTENSION #; END $$; SELECT f%(); \
           CREATE TABLE t% (i int)",
        ],
    ),
    (
        "between savepoints",
        &["BEGIN; CREATE TABLE t% (i int); SAVEPOINT s; CREATE EXTENSION #; ROLLBACK TO s; CREATE EXTENSION #; COMMIT"],
    ),
    (
        "in several messages",
        &["BEGIN", "CREATE EXTENSION #", "CREATE TABLE t% (i int)", "COMMIT"],
    ),
];

#[tokio::test]
async fn extensions_are_captured_in_every_form_whatever_their_scripts_drop() {
    let world = World::start().await;
    let workspace = world.workspace("app_dev").await;
    world.base_template("app_v1").await;
    let build = world.tenant("app_build", "app_v1").await;
    let session = world.session(&workspace).await;
    let trusted = "SELECT a.name::text FROM pg_available_extensions a JOIN pg_available_extension_versions v
                     ON v.name = a.name AND v.version = a.default_version
                   WHERE v.trusted AND v.requires IS NULL AND a.name NOT LIKE 'pl%' ORDER BY 1";
    let trusted: Vec<String> = session
        .query(trusted, &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    for known in DROPPING {
        assert!(
            trusted.iter().any(|name| name == known),
            "{known} drops objects: {trusted:?}"
        );
    }
    let mut changes = Vec::new();
    for (form, messages) in FORMS {
        let all = ["with another statement", "in DO"].contains(&form);
        for name in trusted.iter().filter(|name| all || DROPPING.contains(&name.as_str())) {
            let number = changes.len().to_string();
            let text = |text: &str| text.replace('#', &format!("\"{name}\"")).replace('%', &number);
            for message in messages.iter().chain(&["DROP EXTENSION #", "CREATE EXTENSION #"]) {
                session.batch_execute(&text(message)).await.unwrap();
            }
            let captured = world.drain(&workspace).await;
            for CapturedChange { change, .. } in &captured {
                assert_eq!(change.broken, None, "{form}: {name}: {:?}", change.texts());
            }
            changes.extend(captured);
            let applied = world.bring_up(&build, &numbered(&changes)).await;
            applied.unwrap_or_else(|error| panic!("{form}: {name}: {error:?}"));
            session.batch_execute(&text("DROP EXTENSION #")).await.unwrap();
        }
        changes.extend(world.drain(&workspace).await);
        world.bring_up(&build, &numbered(&changes)).await.unwrap();
        let difference = world
            .fingerprint(&workspace)
            .await
            .diff(&world.fingerprint(&build).await);
        assert_eq!(difference, vec![], "{form}");
    }
}
