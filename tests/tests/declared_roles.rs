//! Declared roles of a project: a schema in the style of PostgREST from the workspace to tenants, through the proxy, and what
//! another project on the same server sees of it.

use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};
use tdb_tests::{Api, Instance, clean, eventually, fixture, pg_dump, pg_program, psql, psql_file, run};

static INSTANCE: OnceLock<Instance> = OnceLock::new();
const ROLES: [&str; 3] = ["anon", "authenticated", "service_role"];

fn instance() -> &'static Instance {
    INSTANCE.get_or_init(|| {
        let instance = Instance::start();
        for role in ROLES {
            instance.tdb(&["roles", "create", role]).ok();
        }
        instance
    })
}

/// A project of another account on the same server.
fn stranger(email: &str) -> (Api, String) {
    let body = json!({"email": email, "password": "correct horse battery", "project_name": "other"});
    let made = instance().api().with_key(None).post("/signup", body).ok();
    let api = instance().api().with_key(made["api_key"].as_str());
    (api, made["project_id"].as_str().expect("an id").to_owned())
}

fn workspace_of(api: &Api, name: &str) -> String {
    let made = api.post("/workspaces", json!({"name": name})).ok();
    made["connection_string"].as_str().expect("a string").to_owned()
}

/// The id of the instance's own project.
fn project() -> String {
    let keys = instance().api().get("/apikeys").ok();
    keys["api_keys"][0]["project_id"].as_str().expect("an id").to_owned()
}

/// A request as PostgREST runs it: a transaction that changes to a role and sets the claims.
fn request(url: &str, role: &str, user: &str, sql: &str) -> tdb_tests::Ran {
    let sql = format!(
        "BEGIN; SELECT set_config('role', '{role}', true), set_config('request.jwt.claims', '{{\"sub\": \"{user}\"}}', true) \\g /dev/null
         {sql};
         COMMIT"
    );
    psql(url, &sql)
}

const ANN: &str = "00000000-0000-0000-0000-00000000000a";
const BOB: &str = "00000000-0000-0000-0000-00000000000b";

/// The results of requests in a tenant's database with the fixture's schema.
fn serves_requests(url: &str) {
    let post = "INSERT INTO posts (body) VALUES ('one'), ('two')";
    for user in [ANN, BOB] {
        let handle = &user[35..];
        let sql = format!("INSERT INTO profiles (handle) VALUES ('{handle}'); {post}");
        request(url, "authenticated", user, &sql).ok();
    }
    request(url, "authenticated", ANN, "SELECT publish(1)").ok();
    let bodies = "SELECT handle || ' ' || body FROM feed ORDER BY id";
    assert_eq!(request(url, "anon", "", bodies).ok().text(), "a one");
    assert_eq!(
        request(url, "authenticated", BOB, bodies).ok().text(),
        "a one\nb one\nb two"
    );
    assert_eq!(
        request(url, "service_role", "", "SELECT count(*) FROM posts")
            .ok()
            .text(),
        "4"
    );
    assert_eq!(
        request(url, "service_role", "", "SELECT auth.role()").ok().text(),
        "service_role"
    );
    for (role, sql) in [
        ("anon", post),
        ("anon", "SELECT is_public FROM profiles"),
        ("anon", "SELECT * FROM secrets"),
        ("anon", "SELECT publish(1)"),
        ("authenticated", "ALTER TABLE posts ADD x int"),
        ("service_role", "ALTER TABLE posts ADD x int"),
        ("authenticated", "INSERT INTO internal.jobs DEFAULT VALUES"),
    ] {
        request(url, role, ANN, sql).fails_saying("42501");
    }
    request(
        url,
        "service_role",
        "",
        "INSERT INTO secrets VALUES ('k', 'v'); INSERT INTO internal.jobs DEFAULT VALUES",
    )
    .ok();
    // The policies do not apply to the owner, unless a table forces them.
    assert_eq!(psql(url, "SELECT count(*) FROM posts").ok().text(), "4");
}

#[test]
fn a_schema_with_declared_roles_is_deployed_and_serves_requests() {
    let workspace = instance().workspace("social");
    psql(&workspace.url, "CREATE TABLE first (id int)").ok();
    let old = instance().tenant("s-old", "social");
    psql_file(&workspace.url, &fixture("roles.sql")).ok();
    for change in instance().diff("social") {
        assert_eq!(change["state"], "pending", "{change:#}");
    }
    let job = instance().deploy_all("social");
    assert_eq!(job["status"], "completed", "{job:#}");
    let new = instance().prove(&workspace);
    for url in [&old.url, &new.url] {
        serves_requests(url);
    }
    let drift = instance().api().get("/drift?blueprint=social").ok();
    assert_eq!(drift["count"], 0, "{drift:#}");

    // Read-only credentials and the queries of keys run as roles that are members of no declared role.
    let body = json!({"tenant_id": "s-old", "rights": "ro"});
    let reader = instance().api().post("/credentials", body).ok();
    let reader = reader["connection_string"].as_str().expect("a string").to_owned();
    for role in ROLES {
        psql(&reader, &format!("SET ROLE {role}")).fails_saying("permission denied");
        psql(&reader, &format!("SELECT set_config('role', '{role}', false)")).fails_saying("permission denied");
    }
    psql(&reader, "SELECT * FROM posts, secrets, profiles").ok();

    dumps_and_restores(&old.url);
}

/// A tenant's dump with its own credential contains the privileges of declared roles, and can be restored into another tenant.
fn dumps_and_restores(url: &str) {
    let dumped = pg_dump(url, &[]);
    if dumped.stderr.contains("server version mismatch") {
        eprintln!("no dump is checked: {}", dumped.stderr.trim());
        return;
    }
    let dump = dumped.ok().stdout.replace("  ", " ");
    for line in [
        "GRANT SELECT ON TABLE public.posts TO anon;",
        "GRANT SELECT(handle) ON TABLE public.profiles TO anon;",
        "ALTER TABLE public.secrets OWNER TO service_role;",
        "CREATE POLICY published ON public.posts FOR SELECT TO authenticated, anon USING (is_published);",
        "ALTER DEFAULT PRIVILEGES FOR ROLE service_role IN SCHEMA internal GRANT SELECT ON TABLES TO authenticated;",
    ] {
        let has = dump.contains(line) || dump.contains(&line.replace("authenticated, anon", "anon, authenticated"));
        assert!(has, "no {line} in:\n{dump}");
    }
    instance().workspace("empty");
    let file = instance().data_dir().join("roles.dump");
    for (tenant, options) in [("e-plain", &["-O"][..]), ("e-bare", &["-O", "-x"][..])] {
        let other = instance().tenant(tenant, "empty");
        // The default privileges of the source's owner contain that owner's role.
        let own = psql(url, "SELECT current_user").ok().text().to_owned();
        pg_dump(url, &["-Fc", "-f", file.to_str().expect("a path")]).ok();
        let mut list: Command = clean(pg_program("pg_restore"));
        list.arg("-l").arg(&file);
        let listed = run(list, "").ok().stdout;
        let kept: Vec<&str> = listed
            .lines()
            .filter(|line| !(line.contains("DEFAULT ACL") && line.ends_with(&own)))
            .collect();
        let kept_file = instance().data_dir().join("roles.list");
        std::fs::write(&kept_file, kept.join("\n")).expect("write the list");
        let mut restore: Command = clean(pg_program("pg_restore"));
        restore
            .args(["--single-transaction", "-d", &other.url, "-L"])
            .arg(&kept_file);
        restore.args(options).arg(&file);
        run(restore, "").ok();
        assert_eq!(psql(&other.url, "SELECT count(*) FROM posts").ok().text(), "4");
        let granted = request(&other.url, "anon", "", "SELECT count(*) FROM posts");
        if options.contains(&"-x") {
            granted.fails_saying("42501");
        } else {
            assert_eq!(granted.ok().text(), "1");
        }
    }
}

#[test]
fn another_project_that_has_not_declared_the_role_is_not_a_member_of_it() {
    let (api, id) = stranger("undeclared@example.org");
    let url = workspace_of(&api, "other");
    for role in ROLES {
        psql(&url, &format!("SET ROLE {role}")).fails_saying("permission denied");
        psql(&url, &format!("BEGIN; SELECT set_config('role', '{role}', true)")).fails_saying("permission denied");
    }
    psql(&url, "CREATE TABLE t (id int)").ok();
    psql(&url, "GRANT SELECT ON t TO anon").ok();
    let diff = api.get("/workspaces/other/diff").ok();
    let change = &diff["changes"][1];
    assert_eq!(
        (&change["state"], &change["reason"]),
        (
            &json!("broken"),
            &json!("role \"anon\" is not declared in this project")
        ),
        "{change:#}"
    );
    let repair = change["repair"].as_str().expect("a repair");
    assert!(
        repair.starts_with("Declare the role with POST /projects/{id}/roles {\"name\": \"anon\"}"),
        "{repair}"
    );
    let tenant = json!({"tenant_id": "t", "databases": [{"blueprint": "other"}]});
    let problem = api.post("/tenants", tenant.clone()).problem(409);
    assert_eq!(problem["hint"], change["repair"], "{problem:#}");
    let key = api
        .post("/apikeys", json!({"name": "cli", "scopes": ["admin", "write", "read"]}))
        .ok();
    let key = [("TDB_API_KEY", key["api_key"].as_str().expect("a key"))];
    let said = instance().tdb_with(&["workspaces", "diff", "other"], &key, "").ok();
    let told = format!("{}{}", said.stdout, said.stderr);
    assert!(told.contains("\"tdb roles create anon\""), "{told}");

    // After it is declared and repeated, it is a change, and this project's role cannot affect the others' data.
    let made = instance()
        .tdb_with(&["--json", "roles", "create", "anon"], &key, "")
        .ok();
    assert!(made.text().contains("\"warnings\""), "{}", made.text());
    assert_eq!(
        api.get(&format!("/projects/{id}/roles")).ok()["roles"][0]["name"],
        "anon"
    );
    api.delete("/workspaces/other/diff/2").ok();
    psql(&url, "GRANT SELECT ON t TO anon; SET ROLE anon; SELECT * FROM t").ok();
    api.post("/tenants", tenant).ok();
    let answer = eventually(std::time::Duration::from_secs(60), "the tenant is ready", || {
        let answer = api.get("/tenants/t").ok();
        (answer["status"] == "ready").then_some(answer)
    });
    assert_eq!(answer["databases"][0]["version"], 2, "{answer:#}");
}

/// The repair names all roles, and drops what the change created before its statements are run again.
#[test]
fn a_broken_change_that_created_what_it_grants_is_repaired_as_it_says() {
    let (api, id) = stranger("repair@example.org");
    let url = workspace_of(&api, "granted");
    let made = "BEGIN; CREATE TABLE made (id int PRIMARY KEY); GRANT SELECT ON made TO anon, authenticated; COMMIT";
    psql(&url, made).ok();
    let diff = api.get("/workspaces/granted/diff").ok();
    let repair = diff["changes"][0]["repair"].as_str().expect("a repair");
    for role in ["anon", "authenticated"] {
        let request = format!("POST /projects/{{id}}/roles {{\"name\": \"{role}\"}}");
        assert!(repair.contains(&request), "{repair}");
        api.post(&format!("/projects/{id}/roles"), json!({"name": role})).ok();
    }
    api.delete("/workspaces/granted/diff/1").ok();
    let (_, drops) = repair.split_once("granted_dev: ").expect("statements");
    let (drops, _) = drops.split_once("; followed").expect("statements");
    psql(&url, drops).ok();
    psql(&url, made).ok();
    let tenant = json!({"tenant_id": "g1", "databases": [{"blueprint": "granted"}]});
    api.post("/tenants", tenant).ok();
    eventually(std::time::Duration::from_secs(60), "the tenant is ready", || {
        (api.get("/tenants/g1").ok()["status"] == "ready").then_some(())
    });
}

#[test]
fn names_and_rights_are_checked() {
    let (api, path) = (instance().api(), format!("/projects/{}/roles", project()));
    for (name, rule) in [
        ("public", "is reserved"),
        ("pg_monitor", "is reserved"),
        ("tdb_writers", "is reserved"),
        ("r_abcdefghijk27", "is reserved"),
        ("Anon", "must be made of"),
        ("a\"; DROP ROLE x", "must be made of"),
        ("", "must be 1 to 63 bytes"),
    ] {
        let problem = api.post(&path, json!({"name": name})).problem(422);
        assert_eq!(problem["field"], "name", "{problem:#}");
        assert!(problem["detail"].to_string().contains(rule), "{problem:#}");
    }
    assert_eq!(
        api.post(&path, json!({"name": "anon"})).problem(409)["code"],
        "already_exists"
    );
    api.post(&path, json!({"name": "x", "login": true})).problem(400);
    api.delete(&format!("{path}/nobody")).problem(404);
    api.get("/projects/prj_aaaaaaaaaa/roles").problem(404);
    let key = api
        .post("/apikeys", json!({"name": "writer", "scopes": ["read", "write"]}))
        .ok();
    let writer = api.with_key(key["api_key"].as_str());
    writer.get(&path).problem(403);
    writer.post(&path, json!({"name": "x"})).problem(403);
    writer.delete(&format!("{path}/anon")).problem(403);
    let (other, _) = stranger("names@example.org");
    other.get(&path).problem(404);
    other.post(&path, json!({"name": "x"})).problem(404);
    other.delete(&format!("{path}/anon")).problem(404);

    // A role that the operator created. If this test runs first, the server of `dev` has no database of this project yet.
    instance().workspace("somewhere");
    psql(&instance().server_url("postgres"), "CREATE ROLE operators_own").ok();
    let problem = api.post(&path, json!({"name": "operators_own"})).problem(409);
    assert_eq!(problem["code"], "role_taken", "{problem:#}");

    let again = api.with_header("Idempotency-Key", "declare-twice");
    let first = again.post(&path, json!({"name": "twice"})).ok();
    assert_eq!(again.post(&path, json!({"name": "twice"})).ok(), first);
    instance().tdb(&["roles", "delete", "twice", "--yes"]).ok();
    let listed = instance().tdb(&["roles", "list"]).ok();
    let names: Vec<&str> = listed
        .text()
        .lines()
        .skip(1)
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(ROLES.iter().all(|role| names.contains(role)), "{names:?}");
}

/// The roles on the server that have this installation's comment.
fn on_server() -> Vec<String> {
    let sql = "SELECT rolname FROM pg_roles WHERE shobj_description(oid, 'pg_authid') LIKE 'TenantsDB %: declared role' ORDER BY 1";
    let found = psql(&instance().server_url("postgres"), sql).ok();
    found.text().lines().map(str::to_owned).collect()
}

#[test]
fn a_role_in_use_is_kept_and_an_unused_one_is_dropped() {
    let (api, path) = (instance().api(), format!("/projects/{}/roles", project()));
    let workspace = instance().workspace("using");
    psql(&workspace.url, "CREATE TABLE t (id int)").ok();
    let tenant = instance().tenant("u1", "using");
    api.post(&path, json!({"name": "web_anon"})).ok();
    let role = format!("{path}/web_anon");
    assert!(on_server().contains(&"web_anon".to_owned()));
    psql(
        &tenant.url,
        "GRANT SELECT ON t TO web_anon; SET ROLE web_anon; SELECT * FROM t",
    )
    .ok();
    let problem = api.delete(&role).problem(409);
    assert_eq!(problem["code"], "role_in_use", "{problem:#}");
    assert!(
        problem["detail"].to_string().contains("of tenant \\\"u1\\\""),
        "{problem:#}"
    );
    psql(&tenant.url, "DROP OWNED BY web_anon").ok();
    psql(&workspace.url, "GRANT SELECT ON t TO web_anon").ok();
    let problem = api.delete(&role).problem(409);
    assert!(
        problem["detail"].to_string().contains("2 of \\\"using\\\""),
        "{problem:#}"
    );
    api.delete("/workspaces/using/diff/2").ok();
    let problem = api.delete(&role).problem(409);
    assert!(problem["detail"].to_string().contains("the workspace"), "{problem:#}");
    psql(&workspace.url, "REVOKE SELECT ON t FROM web_anon").ok();
    let skipped: Vec<Value> = instance().diff("using");
    for change in skipped.iter().filter(|change| change["state"] == "pending") {
        api.delete(&format!("/workspaces/using/diff/{}", change["ddl_id"])).ok();
    }
    api.delete(&role).ok();
    api.delete(&role).problem(404);
    // A build may still refer to it; then the role remains on the server for now, without members.
    let refused = psql(&tenant.url, "SET ROLE web_anon");
    assert!(
        ["42501", "22023"].iter().any(|code| refused.stderr.contains(code)),
        "{refused:?}"
    );

    api.post(&path, json!({"name": "unused"})).ok();
    assert!(on_server().contains(&"unused".to_owned()));
    psql(&tenant.url, "SET ROLE unused").ok();
    api.delete(&format!("{path}/unused")).ok();
    assert!(!on_server().contains(&"unused".to_owned()));
    psql(&tenant.url, "SET ROLE unused").fails_saying("22023");
}

/// A server can lack a role or a membership; operations that need them create them first.
#[test]
fn a_deployment_and_a_new_tenant_create_missing_roles_and_memberships() {
    let (api, path) = (instance().api(), format!("/projects/{}/roles", project()));
    let (workspace, tenants) = instance().simple("missing", &["m1"]);
    api.post(&path, json!({"name": "lost"})).ok();
    let server = instance().server_url("postgres");
    psql(
        &workspace.url,
        "GRANT CREATE ON SCHEMA public TO lost; ALTER TABLE t OWNER TO lost",
    )
    .ok();
    let owner = psql(&tenants[0].url, "SELECT current_user").ok().text().to_owned();
    psql(&server, &format!("REVOKE lost FROM {owner}")).ok();
    assert_eq!(instance().deploy_all("missing")["status"], "completed");
    let new = instance().tenant("m2", "missing");
    for url in [&tenants[0].url, &new.url] {
        psql(url, "ALTER TABLE t ADD x int; SET ROLE lost; SELECT * FROM t").ok();
    }
    api.post(&path, json!({"name": "gone"})).ok();
    psql(&server, "DROP ROLE gone").ok();
    let third = instance().tenant("m3", "missing");
    psql(&third.url, "SET ROLE gone").ok();
    api.delete("/tenants/m3").ok();
    api.post(&path, json!({"name": "while_away"})).ok();
    api.post("/tenants/m3/restore", json!({})).ok();
    psql(&third.url, "SET ROLE while_away").ok();
}

fn warnings_of(api: &Api, path: &str, role: &str) -> Vec<String> {
    let roles = api.get(path).ok()["roles"].as_array().expect("roles").clone();
    let found = roles.iter().find(|one| one["name"] == role);
    let found = found.unwrap_or_else(|| panic!("{role} is not in {roles:#?}"));
    let warnings = found["warnings"].as_array();
    let text = |one: &Value| one.as_str().expect("a sentence").to_owned();
    warnings
        .unwrap_or_else(|| panic!("no warnings in {found:#}"))
        .iter()
        .map(text)
        .collect()
}

/// The project has no database yet, so none of its servers has to be asked; all are.
#[test]
fn a_name_that_a_server_has_is_refused_before_the_project_has_a_database() {
    let (api, id) = stranger("early@example.org");
    let path = format!("/projects/{id}/roles");
    psql(&instance().server_url("postgres"), "CREATE ROLE by_hand").ok();
    let problem = api.post(&path, json!({"name": "by_hand"})).problem(409);
    assert_eq!(problem["code"], "role_taken", "{problem:#}");
    for name in ["postgres", "r_app", "r_abcdefghijk27_x", "tdb_gone_x", "cp_api", "pg_x"] {
        let problem = api.post(&path, json!({"name": name})).problem(422);
        assert!(
            problem["detail"].to_string().contains("is reserved"),
            "{name}: {problem:#}"
        );
    }
    assert_eq!(api.get(&path).ok()["roles"], json!([]));
    let url = workspace_of(&api, "early");
    psql(&url, "CREATE TABLE t (id int)").ok();
}

/// A role made by hand after the declaration: what does not name it works, and no other project hears of it.
#[test]
fn a_name_that_is_taken_later_blocks_only_what_names_it() {
    let (api, id) = stranger("late@example.org");
    let path = format!("/projects/{id}/roles");
    for role in ["late_anon", "late_other"] {
        let made = api.post(&path, json!({"name": role})).ok();
        assert_eq!(made["warnings"], json!([]), "{made:#}");
    }
    let server = instance().server_url("postgres");
    psql(&server, "CREATE ROLE late_anon").ok();

    let url = workspace_of(&api, "late");
    psql(&url, "CREATE TABLE t (id int); GRANT SELECT ON t TO late_other").ok();
    psql(&url, "SET ROLE late_other; SELECT * FROM t").ok();
    psql(&url, "SET ROLE late_anon").fails_saying("42501");
    let tenant = |name: &str| json!({"tenant_id": name, "databases": [{"blueprint": "late"}]});
    let made = api.post("/tenants", tenant("l1")).ok();
    let tenant_url = made["databases"][0]["connection"]["connection_string"]
        .as_str()
        .expect("a string")
        .to_owned();
    let ready = |name: &str| {
        eventually(std::time::Duration::from_secs(60), "the tenant is ready", || {
            (api.get(&format!("/tenants/{name}")).ok()["status"] == "ready").then_some(())
        });
    };
    ready("l1");
    psql(&tenant_url, "SET ROLE late_other; SELECT * FROM t").ok();
    let shown = warnings_of(&api, &path, "late_anon");
    assert!(
        shown.len() == 1 && shown[0].contains("has a role \"late_anon\" that this installation did not create"),
        "{shown:?}"
    );
    assert_eq!(warnings_of(&api, &path, "late_other"), Vec::<String>::new());

    // Another project on the same server.
    let (other, other_id) = stranger("beside@example.org");
    let other_path = format!("/projects/{other_id}/roles");
    workspace_of(&other, "beside");
    let made = other.post(&other_path, json!({"name": "beside_anon"})).ok();
    assert_eq!(made["warnings"], json!([]), "{made:#}");
    assert_eq!(warnings_of(&other, &other_path, "beside_anon"), Vec::<String>::new());
    let other_sees = other.get(&other_path).ok();
    assert!(!other_sees.to_string().contains("late"), "{other_sees:#}");

    // Only what names the role waits, and nothing is granted to the role of the same name.
    psql(&url, "CREATE TABLE u (id int)").ok();
    let deploy = || {
        let body = json!({"blueprint_name": "late", "deploy_all": true});
        let answer = api.post("/deployments", body);
        if answer.status >= 400 {
            return answer.body;
        }
        let job = answer.ok()["job_id"].as_str().expect("a job").to_owned();
        eventually(std::time::Duration::from_secs(120), "the deployment ends", || {
            let job = api.get(&format!("/deployments/{job}")).ok();
            ["completed", "failed"]
                .iter()
                .any(|end| job["status"] == *end)
                .then_some(job)
        })
    };
    let job = deploy();
    assert_eq!(job["status"], "completed", "{job:#}");
    psql(&url, "GRANT SELECT ON u TO late_anon").ok();
    let refused = deploy();
    assert_eq!(refused["code"], "role_taken", "{refused:#}");
    assert!(api.get("/workspaces/late/diff").ok()["changes"][0]["state"] != "broken");
    let granted = "SELECT count(*) FROM pg_shdepend WHERE refobjid = 'late_anon'::regrole AND dbid IN (SELECT oid FROM pg_database WHERE datname LIKE 'late\\_\\_%')";
    assert_eq!(psql(&server, granted).ok().text(), "0");

    // The operator gives the name free: everything is brought up to date.
    psql(&url, "REVOKE SELECT ON u FROM late_anon").ok();
    psql(&server, "DROP ROLE late_anon").ok();
    api.post(&path, json!({"name": "late_third"})).ok();
    psql(
        &url,
        "GRANT SELECT ON u TO late_anon; SET ROLE late_anon; SELECT * FROM u",
    )
    .ok();
    assert_eq!(warnings_of(&api, &path, "late_anon"), Vec::<String>::new());
    let job = deploy();
    assert_eq!(job["status"], "completed", "{job:#}");
    psql(&tenant_url, "SET ROLE late_anon; SELECT * FROM u").ok();
    api.post("/tenants", tenant("l2")).ok();
    ready("l2");
}
