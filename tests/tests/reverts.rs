//! Reverts: a change is undone in the workspace by new DDL, or refused with the reason.

use std::sync::OnceLock;

use serde_json::{Value, json};
use tdb_tests::{Answer, Instance, psql};

static INSTANCE: OnceLock<Instance> = OnceLock::new();

fn instance() -> &'static Instance {
    INSTANCE.get_or_init(Instance::start)
}

fn revert(workspace: &str, id: impl std::fmt::Display) -> Answer {
    let path = format!("/workspaces/{workspace}/diff/{id}/revert");
    instance().api().post(&path, json!({}))
}

fn states(answer: &Value) -> (&str, &str) {
    let state = |part: &str| answer[part]["state"].as_str().expect("a state");
    (state("change"), state("inverse"))
}

#[test]
fn a_change_without_tenants_is_removed_from_head_with_its_inverse() {
    let workspace = instance().workspace("forgotten");
    psql(&workspace.url, "CREATE TABLE kept (id int)").ok();
    let before = instance().dump(&workspace.url);
    psql(
        &workspace.url,
        "CREATE TABLE gone (id serial PRIMARY KEY, n int CHECK (n > 0))",
    )
    .ok();
    psql(&workspace.url, "CREATE TABLE later (id int)").ok();
    let answer = revert("forgotten", 2).ok();
    assert_eq!(states(&answer), ("reverted", "reverted"), "{answer:#}");
    assert_eq!(
        (&answer["inverse"]["ddl_id"], &answer["inverse"]["reverts"]),
        (&json!(4), &json!(2))
    );
    assert!(
        answer["inverse"]["author"]
            .as_str()
            .is_some_and(|author| author.starts_with("key:"))
    );
    let left: Vec<Value> = instance()
        .diff("forgotten")
        .iter()
        .map(|change| change["ddl_id"].clone())
        .collect();
    assert_eq!(left, [json!(1), json!(3)]);
    psql(&workspace.url, "DROP TABLE later").ok();
    assert_eq!(instance().dump(&workspace.url), before);
    instance().prove(&workspace);
    let problem = revert("forgotten", 2).problem(409);
    assert_eq!(problem["code"], "change_not_pending", "{problem:#}");
    revert("forgotten", 99).problem(404);
    revert("nowhere", 1).problem(404);
}

#[test]
fn a_change_that_tenants_have_is_undone_by_a_deployment() {
    let (workspace, tenants) = instance().simple("held", &["h-one"]);
    psql(&workspace.url, "ALTER TABLE t ADD COLUMN n int NOT NULL DEFAULT 7").ok();
    instance().deploy_all("held");
    psql(&tenants[0].url, "SELECT n FROM t").ok();
    let shown = instance().tdb(&["workspaces", "diff-revert", "held", "2"]).ok();
    assert!(shown.text().contains("DROP COLUMN \"n\""), "{}", shown.text());
    let pending = instance().diff("held");
    assert_eq!((pending.len(), &pending[0]["reverts"]), (1, &json!(2)), "{pending:#?}");
    assert_eq!(instance().deploy_all("held")["status"], "completed");
    psql(&tenants[0].url, "SELECT n FROM t").fails_saying("42703");
    let drift = instance().drift("held");
    assert_eq!(drift["count"], 0, "{drift:#}");
}

#[test]
fn every_form_with_an_inverse_restores_the_schema() {
    let workspace = instance().workspace("forms");
    let base = "CREATE TABLE base (id int PRIMARY KEY, \"A b\" text DEFAULT 'x''y', c int NOT NULL CONSTRAINT pos CHECK (c > 0));
                CREATE TYPE mood AS ENUM ('sad', 'happy'); COMMENT ON TABLE base IS 'the base'; CREATE SCHEMA app;";
    psql(&workspace.url, base).ok();
    instance().tenant("f-base", "forms");
    for (count, ddl) in [
        "CREATE TABLE app.x (id serial PRIMARY KEY, base int REFERENCES public.base)",
        "CREATE TABLE x AS SELECT * FROM base",
        "SET search_path = app, public; CREATE TABLE p (id int) PARTITION BY RANGE (id)",
        "CREATE INDEX ON base (lower(\"A b\"))",
        "CREATE UNIQUE INDEX CONCURRENTLY base_c ON base (c)",
        "CREATE VIEW app.v AS SELECT c FROM base",
        "CREATE MATERIALIZED VIEW m AS SELECT c FROM base",
        "CREATE SEQUENCE s",
        "CREATE SCHEMA \"other one\"",
        "CREATE FUNCTION f(a int, b text DEFAULT 'x') RETURNS int LANGUAGE sql AS 'SELECT a'",
        "CREATE PROCEDURE pr() LANGUAGE sql AS 'SELECT 1'",
        "CREATE TYPE pair AS (a int, b int)",
        "CREATE DOMAIN positive AS int CHECK (VALUE > 0)",
        "CREATE POLICY mine ON base USING (c > 1)",
        "CREATE RULE nothing AS ON DELETE TO base DO INSTEAD NOTHING",
        "CREATE STATISTICS app.st ON c, id FROM base",
        "ALTER TABLE base ADD COLUMN d int GENERATED ALWAYS AS (c * 2) STORED, ADD UNIQUE (c)",
        "BEGIN; ALTER TABLE base ADD COLUMN e int; ALTER TABLE base ALTER e SET DEFAULT 3; CREATE INDEX ON base (e); COMMIT",
        "ALTER TABLE base ALTER c DROP NOT NULL, ALTER \"A b\" SET NOT NULL",
        "ALTER TABLE base ALTER \"A b\" DROP DEFAULT",
        "ALTER TABLE base ALTER c SET DEFAULT 4",
        "ALTER TABLE base DROP CONSTRAINT pos",
        "ALTER TABLE base ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        "ALTER TABLE base RENAME TO basis",
        "ALTER TABLE base RENAME COLUMN \"A b\" TO ab",
        "ALTER TABLE base RENAME CONSTRAINT pos TO positive_c",
        "ALTER SCHEMA app RENAME TO application",
        "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'",
        "COMMENT ON TABLE base IS 'another text'",
        "COMMENT ON COLUMN base.c IS 'never before'",
    ]
    .into_iter()
    .enumerate()
    {
        let before = instance().dump(&workspace.url);
        psql(&workspace.url, ddl).ok();
        let pending = instance().diff("forms");
        assert_eq!(pending.len(), 1, "{ddl}: {pending:#?}");
        let answer = revert("forms", &pending[0]["ddl_id"]).ok();
        assert_eq!(states(&answer), ("reverted", "reverted"), "{count} {ddl}: {answer:#}");
        assert_eq!(instance().dump(&workspace.url), before, "{ddl}");
    }
    instance().prove(&workspace);
}

#[test]
fn a_change_without_a_certain_inverse_is_refused() {
    let workspace = instance().workspace("lost");
    psql(
        &workspace.url,
        "CREATE TABLE t (a int, b int DEFAULT 1); CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    )
    .ok();
    for ddl in [
        "ALTER TABLE t DROP COLUMN b",
        "ALTER TABLE t ALTER a TYPE bigint",
        "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 2'",
        "DO $$ BEGIN CREATE TABLE made (); END $$",
        "GRANT SELECT ON t TO PUBLIC",
        "DROP FUNCTION f",
    ] {
        psql(&workspace.url, ddl).ok();
        let changes = instance().diff("lost");
        let id = changes.last().expect("a change")["ddl_id"].clone();
        let problem = revert("lost", &id).problem(409);
        assert_eq!(problem["code"], "change_not_revertible", "{ddl}: {problem:#}");
        assert!(problem["hint"].to_string().contains("yourself"), "{problem:#}");
        assert_eq!(instance().diff("lost"), changes, "{ddl}");
    }
    instance().prove(&workspace);
}

#[test]
fn a_later_change_that_needs_it_is_named() {
    let workspace = instance().workspace("chained");
    for ddl in [
        "CREATE TABLE t (id int PRIMARY KEY)",
        "CREATE TABLE u (id int REFERENCES t)",
        "CREATE TABLE w (a int)",
        "ALTER TABLE w ADD COLUMN b int",
        "ALTER TABLE w ALTER b SET DEFAULT 1",
        "ALTER TABLE w ALTER b SET DEFAULT 2",
        "CREATE INDEX w_b ON w (b)",
    ] {
        psql(&workspace.url, ddl).ok();
    }
    let before = instance().diff("chained");
    for (id, later, said) in [
        // Without the first change, the second cannot be replayed.
        (1, 2, "without it, it fails with relation \"t\" does not exist"),
        // Nothing depends on it according to PostgreSQL, but later changes would be lost with it.
        (3, 4, "column public.w.b"),
        (4, 5, "column public.w.b"),
        (5, 6, "column public.w.b"),
    ] {
        let problem = revert("chained", id).problem(409);
        let detail = problem["detail"].as_str().expect("a detail");
        let named = format!("change {later} needs change {id}");
        assert_eq!(problem["code"], "change_needed", "{problem:#}");
        assert!(detail.contains(&named) && detail.contains(said), "{problem:#}");
    }
    assert_eq!(instance().diff("chained"), before);
    for id in [7, 6, 5, 4, 3, 2, 1] {
        assert_eq!(states(&revert("chained", id).ok()), ("reverted", "reverted"), "{id}");
    }
    assert_eq!(instance().diff("chained"), Vec::<Value>::new());
    instance().prove(&workspace);
}

#[test]
fn a_failure_caused_by_data_has_postgresqls_reason() {
    let workspace = instance().workspace("filled");
    psql(&workspace.url, "CREATE TABLE t (n int NOT NULL)").ok();
    psql(&workspace.url, "ALTER TABLE t ALTER n DROP NOT NULL").ok();
    psql(&workspace.url, "INSERT INTO t VALUES (NULL)").ok();
    let problem = revert("filled", 2).problem(409);
    assert!(problem["detail"].to_string().contains("23502"), "{problem:#}");
    assert_eq!(instance().diff("filled").len(), 2);
}
