//! Functions that run with their caller's search_path name no type that a client can replace: a domain of the same name in a schema
//! of the client runs its CHECK inside the function.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fs;
use std::path::Path;

use support::World;

/// The functions of a file that do not set search_path: the text from the name to the end of the body.
fn of_caller(text: &str) -> impl Iterator<Item = &str> {
    let functions = text.split("FUNCTION ").skip(1).filter(|rest| rest.contains("AS $$"));
    functions.filter_map(|rest| {
        let (header, body) = rest.split_once("AS $$")?;
        let sets = header.contains("SET search_path") || !header.contains("LANGUAGE");
        (!sets).then(|| body.split("$$").next().unwrap())
    })
}

/// The words in the place of a type that do not begin with `pg_catalog.`.
fn unqualified(body: &str) -> Vec<&str> {
    let declared = match body.split_once("DECLARE") {
        Some((_, rest)) => rest.split("BEGIN").next().unwrap(),
        None => "",
    };
    let types = declared.split(';').filter_map(|one| one.split_whitespace().nth(1));
    let casts = body.split("::").skip(1);
    types
        .chain(casts)
        .filter(|name| !name.starts_with("pg_catalog.") && !name.starts_with("record"))
        .collect()
}

#[test]
fn functions_that_run_with_the_callers_search_path_qualify_all_types() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/postgres");
    let mut checked = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        for body in of_caller(&text) {
            checked += 1;
            let found = unqualified(body);
            assert!(found.is_empty(), "{}: {found:?}", path.display());
        }
    }
    assert!(checked > 0, "no function found");
    assert_eq!(unqualified("DECLARE a text; b pg_catalog.text; BEGIN x::int").len(), 2);
}

#[tokio::test]
async fn domains_with_the_names_of_types_forge_no_row_of_the_journal() {
    let world = World::start().await;
    let workspace = world.workspace("app_dev").await;
    let session = world.session(&workspace).await;
    session
        .batch_execute(
            "CREATE SCHEMA mine;
             CREATE FUNCTION mine.forge() RETURNS pg_catalog.bool LANGUAGE plpgsql AS $f$ BEGIN
               PERFORM tdb.log_event('ddl_command_end', 'FORGED', 'x', 'y'); RETURN true; END $f$;
             CREATE DOMAIN mine.text AS pg_catalog.text CHECK (mine.forge());
             CREATE DOMAIN mine.int8 AS pg_catalog.int8 CHECK (mine.forge());
             CREATE DOMAIN mine.name AS pg_catalog.name CHECK (mine.forge());
             SET search_path = mine, pg_catalog; SET tdb.session = 'x';
             CREATE TABLE mine.t (id int); DROP TABLE mine.t",
        )
        .await
        .unwrap();
    let admin = world.cluster.connect(&workspace.name).await.unwrap();
    let rows = admin.query("SELECT tag FROM tdb.ddl_event ORDER BY seq", &[]);
    let tags: Vec<String> = rows.await.unwrap().iter().map(|row| row.get(0)).collect();
    assert!(tags.contains(&"DROP TABLE".to_owned()), "{tags:?}");
    assert!(!tags.contains(&"FORGED".to_owned()), "{tags:?}");
}
