//! Extensions that only superusers can create: the administrator creates them if the server allows it, as the developer or a
//! dump writes them, in the requested schema, with a script that cannot be diverted by objects of another role.

use std::sync::OnceLock;

use serde_json::{Value, json};
use tdb_tests::installation::{Written, with_extensions};
use tdb_tests::{Answer, Instance, InstanceOptions, Tenant, Workspace, pg_dump, pg_restore_over, psql};
use tempfile::TempDir;

static INSTANCE: OnceLock<Instance> = OnceLock::new();

fn instance() -> &'static Instance {
    INSTANCE.get_or_init(Instance::start)
}

fn make(workspace: &str, body: Value) -> Answer {
    let path = format!("/workspaces/{workspace}/extensions");
    instance().api().post(&path, body)
}

fn query(workspace: &str, sql: &str) -> Answer {
    let path = format!("/workspaces/{workspace}/queries");
    instance().api().post(&path, json!({"query": sql}))
}

/// The schema of an extension; empty if it does not exist.
fn place(url: &str, extension: &str) -> String {
    let sql = format!("SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = '{extension}'");
    psql(url, &sql).ok().text().to_owned()
}

#[test]
fn create_extension_as_written_is_a_change_that_tenants_get() {
    let (workspace, tenants) = instance().simple("bloomed", &["b-old"]);
    let created = psql(
        &workspace.url,
        "CREATE EXTENSION bloom; CREATE INDEX t_bloom ON t USING bloom (id)",
    )
    .ok();
    assert!(!created.stderr.contains("WARNING"), "{}", created.stderr);
    let change = instance().diff("bloomed").remove(0);
    assert_eq!(
        (&change["ddl_id"], &change["command_tags"], &change["state"]),
        (&json!(2), &json!(["CREATE EXTENSION"]), &json!("pending")),
        "{change:#}"
    );
    let author = change["author"].as_str().expect("an author");
    assert!(author.starts_with("bloomed_"), "the credential's user: {author}");
    psql(&workspace.url, "COMMENT ON EXTENSION bloom IS 'filters'").ok();
    assert_eq!(instance().deploy_all("bloomed")["status"], "completed");
    let new = instance().tenant("b-new", "bloomed");
    for url in [&tenants[0].url, &new.url] {
        psql(url, "INSERT INTO t VALUES (1); SELECT * FROM t WHERE id = 1").ok();
        assert_eq!(place(url, "bloom"), "public");
        psql(
            url,
            "COMMENT ON EXTENSION bloom IS 'theirs'; COMMENT ON EXTENSION bloom IS 'filters'",
        )
        .ok();
        for sql in [
            "DROP EXTENSION bloom CASCADE",
            "DROP SCHEMA public CASCADE",
            "DROP OWNED BY CURRENT_USER",
        ] {
            psql(url, sql).fails_saying("42501");
        }
        psql(url, "CREATE SCHEMA passing; DROP SCHEMA passing").ok();
    }
    let drift = instance().drift("bloomed");
    assert_eq!(drift["count"], 0, "{drift:#}");
    instance().prove(&workspace);

    let shown = instance().tdb(&["workspaces", "extensions", "bloomed"]).ok();
    let lines: Vec<&str> = shown.text().lines().collect();
    let line = lines.iter().find(|line| line.starts_with("bloom ")).expect("a line");
    assert!(line.ends_with("public"), "{line}");
    assert!(!shown.text().contains("file_fdw"), "{}", shown.text());

    psql(&workspace.url, "DROP EXTENSION bloom CASCADE").ok();
    assert_eq!(instance().deploy_all("bloomed")["status"], "completed");
    assert_eq!(place(&new.url, "bloom"), "");
    instance().prove_again(&workspace);
}

#[tokio::test]
async fn create_extension_works_in_every_form_of_a_message() {
    let workspace = instance().workspace("forms");
    let session = workspace.connect().await;
    session
        .batch_execute(
            "BEGIN; CREATE TABLE t (a int); CREATE EXTENSION bloom; CREATE INDEX ON t USING bloom (a); COMMIT",
        )
        .await
        .unwrap();
    session.batch_execute("BEGIN").await.unwrap();
    session
        .execute("CREATE EXTENSION IF NOT EXISTS moddatetime SCHEMA public", &[])
        .await
        .unwrap();
    session
        .batch_execute("CREATE TABLE l (at date); CREATE TRIGGER m BEFORE UPDATE ON l FOR EACH ROW EXECUTE FUNCTION moddatetime(at); COMMIT")
        .await
        .unwrap();
    query(
        "forms",
        "CREATE SCHEMA app; CREATE EXTENSION \"autoinc\" WITH SCHEMA public",
    )
    .ok();
    query("forms", "CREATE EXTENSION earthdistance SCHEMA app CASCADE").ok();
    for extension in ["earthdistance", "cube"] {
        assert_eq!(place(&workspace.url, extension), "app", "as PostgreSQL");
    }
    psql(&workspace.url, "CREATE TABLE p (at app.earth)").ok();
    what_a_text_creates_before_can_be_required().await;
    // It is a separate change that was committed earlier: a rollback does not remove it.
    session
        .batch_execute("BEGIN; CREATE EXTENSION intarray; CREATE EXTENSION refint; ROLLBACK")
        .await
        .unwrap();
    assert_eq!(
        (place(&workspace.url, "intarray"), place(&workspace.url, "refint")),
        (String::new(), "public".to_owned())
    );
    let error = session.batch_execute("CREATE EXTENSION bloom").await.unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("42710"), "as PostgreSQL");
    instance().journal_keeps_no_extension("forms").await;
    instance().prove(&workspace);
}

/// The administrator creates earthdistance before the text runs, so cube too, which the owner may create.
async fn what_a_text_creates_before_can_be_required() {
    let workspace = instance().workspace("required");
    let session = workspace.connect().await;
    for text in [
        "CREATE SCHEMA app",
        "CREATE EXTENSION cube SCHEMA app VERSION '1.4'; CREATE EXTENSION earthdistance SCHEMA app; CREATE TABLE p (at app.earth)",
        "DROP TABLE p; DROP EXTENSION cube CASCADE",
        "BEGIN; CREATE EXTENSION cube; CREATE EXTENSION earthdistance CASCADE; CREATE TABLE q (at earth); COMMIT",
    ] {
        session.batch_execute(text).await.unwrap();
    }
    instance().prove(&workspace);
    session
        .batch_execute("DROP TABLE q; DROP EXTENSION cube CASCADE")
        .await
        .unwrap();
    let text = "CREATE EXTENSION earthdistance; CREATE EXTENSION cube";
    let hint = session.batch_execute(text).await.unwrap_err();
    let hint = hint.as_db_error().and_then(|error| error.hint());
    assert!(
        hint.is_some_and(|hint| hint.contains("CASCADE")),
        "as PostgreSQL: {hint:?}"
    );
    // The administrator's session does not see what an open transaction created.
    session.batch_execute("BEGIN; CREATE EXTENSION cube").await.unwrap();
    session
        .batch_execute("CREATE EXTENSION earthdistance")
        .await
        .unwrap_err();
    let said = session.notices();
    assert!(
        said.iter()
            .any(|notice| notice.message().contains("does not see uncommitted changes")),
        "{said:?}"
    );
    // Nor one that an earlier statement of the text creates: nothing is created then, and the text fails where it names it.
    session.batch_execute("ROLLBACK").await.unwrap();
    let text = "CREATE EXTENSION cube SCHEMA public; CREATE SCHEMA late; CREATE EXTENSION earthdistance SCHEMA late; CREATE TABLE r ()";
    for _ in 0..2 {
        let error = session.batch_execute(text).await.unwrap_err();
        let code = error.code().map(|code| code.code().to_owned());
        assert_eq!(code.as_deref(), Some("42501"), "{error:?}");
    }
    let said = session.notices();
    let advice = "Create what it needs, such as its schema, in an earlier message";
    assert!(said.iter().any(|notice| notice.message().contains(advice)), "{said:?}");
    session
        .batch_execute("CREATE SCHEMA late; CREATE TABLE r ()")
        .await
        .unwrap();
    let text = "CREATE EXTENSION cube SCHEMA public; CREATE EXTENSION earthdistance SCHEMA late";
    session.batch_execute(text).await.unwrap();
    instance().prove_again(&workspace);
}

#[tokio::test]
async fn extensions_that_are_not_allowed_or_available_are_refused() {
    let workspace = instance().workspace("strict");
    for name in ["file_fdw", "dblink", "postgres_fdw", "adminpack", "plpython3u"] {
        let problem = make("strict", json!({"name": name})).problem(409);
        assert_eq!(problem["code"], "extension_not_allowed", "{problem:#}");
        assert!(problem["hint"].to_string().contains("proxy.toml"), "{problem:#}");
    }
    let refused = psql(&workspace.url, "CREATE EXTENSION file_fdw").fails_saying("42501");
    let warning = "extension \"file_fdw\" is not allowed on server \"dev\"";
    assert!(refused.stderr.contains(warning), "{}", refused.stderr);
    let problem = query("strict", "CREATE EXTENSION file_fdw").problem(422);
    assert_eq!(problem["sqlstate"], "42501", "{problem:#}");
    assert!(
        problem["hint"].as_str().is_some_and(|hint| hint.starts_with(warning)),
        "{problem:#}"
    );
    let several = "SELECT pg_read_file('x'); CREATE EXTENSION file_fdw";
    let problem = query("strict", several).problem(422);
    assert_eq!(
        (&problem["sqlstate"], &problem["hint"]),
        (&json!("42501"), &Value::Null),
        "{problem:#}"
    );
    psql(&workspace.url, "CREATE EXTENSION nonsense").fails_saying("0A000");
    psql(&workspace.url, "CREATE EXTENSION bloom SCHEMA nowhere").fails_saying("3F000");
    for (body, field) in [
        (json!({"name": "nonsense"}), "name"),
        (json!({"name": "bloom\"; DROP SCHEMA tdb"}), "name"),
        (json!({"name": "bloom", "version": "99"}), "name"),
        (json!({"name": "bloom", "version": "1'0"}), "version"),
        (json!({"name": "bloom", "schema": "tdb"}), "schema"),
        (json!({"name": "bloom", "schema": "pg_catalog"}), "schema"),
        (json!({"name": "bloom", "schema": ""}), "schema"),
    ] {
        assert_eq!(make("strict", body.clone()).problem(422)["field"], field, "{body}");
    }
    let problem = make("strict", json!({"name": "bloom", "schema": "nowhere"})).problem(422);
    assert_eq!(problem["sqlstate"], "3F000", "{problem:#}");
    // From another workspace: dumps of the first one contain its readers.
    instance().workspace("strictly-read");
    let body = json!({"workspace": "strictly-read", "rights": "ro"});
    let reader = instance().api().post("/credentials", body).ok();
    let url = reader["connection_string"].as_str().expect("a connection string");
    psql(url, "CREATE EXTENSION bloom").fails_saying("ERROR");
    assert_eq!(instance().diff("strict"), Vec::<Value>::new());
    instance()
        .tdb(&[
            "workspaces",
            "extensions",
            "strict",
            "--create",
            "bloom",
            "--schema",
            "extensions",
        ])
        .ok();
    make("strict", json!({"name": "bloom"})).problem(409);
    psql(&workspace.url, "CREATE TABLE extensions.planted ()").fails_saying("42501");
    assert_eq!(instance().diff("strict").len(), 1);
    instance().prove(&workspace);
}

/// The scripts of extensions run as a superuser. This one reports which objects it resolves through its search_path.
const PROBE: &str = "CREATE TABLE @schema@found AS SELECT 'nothing'::text AS what;
DO $$ BEGIN PERFORM planted(1); UPDATE @schema@found SET what = 'a function'; EXCEPTION WHEN undefined_function THEN NULL; END $$;
DO $$ BEGIN PERFORM 1 #&&# 1; UPDATE @schema@found SET what = 'an operator'; EXCEPTION WHEN undefined_function THEN NULL; END $$;
DO $$ BEGIN PERFORM FROM planted_table; UPDATE @schema@found SET what = 'a table'; EXCEPTION WHEN undefined_table THEN NULL; END $$;
GRANT SELECT ON @schema@found TO PUBLIC;
";
const PLANTED: &str = "CREATE FUNCTION planted(int) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE OPERATOR #&&# (LEFTARG = int, RIGHTARG = int, FUNCTION = int4pl);
CREATE TABLE planted_table ();";

#[test]
fn extension_scripts_use_no_planted_objects() {
    let dir = TempDir::new().expect("a directory");
    let (free, fixed) = (PROBE.replace("@schema@", ""), PROBE.replace("@schema@", "@extschema@."));
    let named = "DO $$ BEGIN ASSERT '@extschema@' = current_schema; END $$;";
    let fixed = format!("{fixed}{named}");
    let [opens, chain] = ["opens_found", "chain_found"].map(|table| free.replace("found", table));
    let extensions = [
        ("probe_moves", "relocatable = true", free.as_str()),
        ("probe_stays", "relocatable = false", &fixed),
        ("probe_cube", "relocatable = true\nrequires = 'cube'", &free),
        ("probe_fixed", "relocatable = false\nschema = probes", &fixed),
        // Every role can create these, with its own privileges.
        ("probe_opens", "superuser = false\nrequires = 'probe_cube'", &opens),
        ("probe_chain", "superuser = false\nrequires = 'probe_opens'", &chain),
        ("probe_trusted", "trusted = true\nrequires = 'probe_chain'", ""),
    ];
    let written = extensions.map(|(name, control, script)| Written { name, control, script });
    let bin = with_extensions(dir.path(), &written);
    let mut options = InstanceOptions::default();
    options
        .environment
        .push(("PG_BIN_DIR".to_owned(), bin.display().to_string()));
    let instance = Instance::start_with(&options);

    for name in ["probe_moves", "probe_stays", "probe_cube"] {
        its_script_finds_nothing(&instance, name, "public");
        its_script_finds_nothing(&instance, name, "chosen");
    }
    its_script_finds_nothing(&instance, "probe_fixed", "probes");
    members_of_another_role_are_refused(&instance);
    what_needs_a_restricted_extension_is_created_by_the_administrator(&instance);
}

/// In a workspace, in a tenant that is deployed to, and in a new one.
fn its_script_finds_nothing(instance: &Instance, name: &str, schema: &str) {
    let blueprint = format!("{}-{schema}", name.replace('_', "-"));
    let workspace = instance.workspace(&blueprint);
    // cube is trusted: its owner could have created the schema's functions before it, and its script is PostgreSQL's.
    psql(&workspace.url, "CREATE EXTENSION cube").ok();
    let old = instance.tenant(&format!("{blueprint}-old"), &blueprint);
    let mut schemas = vec!["public", schema];
    schemas.dedup();
    for url in [&workspace.url, &old.url] {
        for schema in &schemas {
            let planted = format!("CREATE SCHEMA IF NOT EXISTS {schema}; SET search_path = {schema}; {PLANTED}");
            psql(url, &planted).ok();
        }
    }
    let chosen = if schema == "chosen" { "SCHEMA chosen" } else { "" };
    let created = format!("CREATE EXTENSION {name} {chosen}; COMMENT ON EXTENSION {name} IS 'seen'");
    psql(&workspace.url, &created).ok();
    let new = instance.tenant(&format!("{blueprint}-new"), &blueprint);
    for url in [&workspace.url, &new.url] {
        let found = format!("SELECT what FROM {schema}.found; SELECT 1 FROM {schema}.planted(1)");
        assert_eq!(psql(url, &found).ok().text(), "nothing\n1", "{name}");
        assert_eq!(place(url, name), schema);
    }
    let of_ours = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'tdb_aside%'";
    assert_eq!(psql(&workspace.url, of_ours).ok().text(), "");
    // Objects that the tenant itself planted make the planted change fail, not the extension.
    for schema in &schemas {
        let cleared = format!(
            "DROP TABLE {schema}.planted_table; DROP OPERATOR {schema}.#&&# (int, int); DROP FUNCTION {schema}.planted"
        );
        psql(&old.url, &cleared).ok();
    }
    if schema == "chosen" {
        psql(&old.url, "DROP SCHEMA chosen").ok();
    }
    assert_eq!(instance.deploy_all(&blueprint)["status"], "completed", "{name}");
    let found = psql(&old.url, &format!("SELECT what FROM {schema}.found")).ok();
    assert_eq!(found.text(), "nothing");
    instance.prove(&workspace);
}

fn what_needs_a_restricted_extension_is_created_by_the_administrator(instance: &Instance) {
    let workspace = instance.workspace("chains");
    psql(&workspace.url, PLANTED).ok();
    psql(&workspace.url, "CREATE EXTENSION probe_trusted CASCADE").ok();
    let tenant = instance.prove(&workspace);
    for url in [&workspace.url, &tenant.url] {
        let found = "SELECT what FROM found; SELECT what FROM opens_found; SELECT what FROM chain_found";
        assert_eq!(psql(url, found).ok().text(), "nothing\nnothing\nnothing");
        let owned = "SELECT count(*) FROM pg_tables WHERE tablename ~ 'found' AND tableowner = current_user";
        assert_eq!(psql(url, owned).ok().text(), "0");
    }
    let alone = instance.workspace("chained");
    psql(
        &alone.url,
        &format!("{PLANTED} CREATE EXTENSION probe_cube CASCADE; CREATE EXTENSION probe_opens"),
    )
    .ok();
    psql(&alone.url, "CREATE EXTENSION probe_chain").ok();
    let found = "SELECT what FROM opens_found; SELECT what FROM chain_found";
    assert_eq!(psql(&alone.url, found).ok().text(), "nothing\nnothing");
}

/// The owner of a trusted extension can add members to it; they are moved with it.
fn members_of_another_role_are_refused(instance: &Instance) {
    let workspace = instance.workspace("members");
    let sql = format!("CREATE EXTENSION cube; {PLANTED} ALTER EXTENSION cube ADD FUNCTION planted(int)");
    psql(&workspace.url, &sql).ok();
    let refused = psql(&workspace.url, "CREATE EXTENSION probe_cube").fails_saying("42501");
    assert!(
        refused.stderr.contains("has members of another role"),
        "{}",
        refused.stderr
    );
    psql(
        &workspace.url,
        "ALTER EXTENSION cube DROP FUNCTION planted(int); CREATE EXTENSION probe_cube",
    )
    .ok();
    assert_eq!(psql(&workspace.url, "SELECT what FROM found").ok().text(), "nothing");
}

#[test]
fn dumps_can_be_loaded_and_restored_unchanged() {
    let source = instance().workspace("dumped");
    psql(
        &source.url,
        "CREATE EXTENSION cube; CREATE EXTENSION earthdistance; CREATE EXTENSION citext; \
         CREATE TABLE places (id int PRIMARY KEY, name public.citext, at public.earth);",
    )
    .ok();
    let dump = pg_dump(&source.url, &["-O", "-x"]).ok().stdout;
    for text in [
        "CREATE EXTENSION IF NOT EXISTS earthdistance WITH SCHEMA public;",
        "COMMENT ON EXTENSION earthdistance",
    ] {
        assert!(dump.contains(text), "{text}:\n{dump}");
    }
    let target = instance().workspace("undumped");
    psql(&target.url, &dump).ok();
    instance().prove(&target);

    let tenant = instance().tenant("d-one", "dumped");
    psql(
        &tenant.url,
        "INSERT INTO places VALUES (1, 'Here', ll_to_earth(50, 10))",
    )
    .ok();
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("tenant.dump").display().to_string();
    pg_dump(&tenant.url, &["-Fc", "-f", &file]).ok();
    psql(&tenant.url, "INSERT INTO places VALUES (2)").ok();
    // As documented: all or nothing, and extensions remain.
    pg_restore_over(&tenant.url, &file, &[]).fails_saying("only an administrator can create again");
    let places = psql(&tenant.url, "SELECT count(*) FROM places").ok();
    assert_eq!(places.text(), "2", "nothing is lost");
    pg_restore_over(&tenant.url, &file, &[" EXTENSION - ", " COMMENT - EXTENSION "]).ok();
    assert_eq!(psql(&tenant.url, "SELECT count(*) FROM places").ok().text(), "1");
    let drift = instance().api().get("/drift?blueprint=dumped").ok();
    assert_eq!(drift["count"], 0, "{drift:#}");
}

#[test]
fn a_tenant_with_an_object_of_the_extension_fails_with_the_reason() {
    let (workspace, tenants) = instance().simple("occupied", &["o-one"]);
    psql(
        &tenants[0].url,
        "CREATE FUNCTION earth() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    )
    .ok();
    psql(&workspace.url, "CREATE EXTENSION earthdistance CASCADE").ok();
    let job = instance().deploy_all("occupied");
    let error = &job["targets"][0]["error"];
    assert_eq!(
        (&job["status"], &error["sqlstate"]),
        (&json!("failed"), &json!("42723")),
        "{job:#}"
    );
    assert_eq!(place(&tenants[0].url, "earthdistance"), "");
    psql(&tenants[0].url, "DROP FUNCTION earth").ok();
    let job = job["job_id"].as_str().expect("a job id").to_owned();
    instance()
        .api()
        .post(&format!("/deployments/{job}/retry"), json!({}))
        .ok();
    assert_eq!(instance().wait_for_deployment(&job)["status"], "completed");
}

trait Proof {
    fn prove_again(&self, workspace: &Workspace) -> Tenant;
}

impl Proof for Instance {
    /// [`Instance::prove`] for a workspace that was verified before.
    fn prove_again(&self, workspace: &Workspace) -> Tenant {
        let tenant = self.tenant(&format!("q{}", workspace.name), &workspace.name);
        assert_eq!(self.dump(&tenant.url), self.dump(&workspace.url));
        tenant
    }
}
