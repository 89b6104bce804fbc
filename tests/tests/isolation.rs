//! Attacks on the isolation (P1): real secrets directly at the server, code planted where the product runs it, invalid
//! names, guessed logins.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::json;
use tdb_tests::{Instance, Session, Tenant, Wire, Workspace, column, connect, psql, sqlstate, url_of, url_with};

static INSTANCE: OnceLock<Instance> = OnceLock::new();

fn instance() -> &'static Instance {
    INSTANCE.get_or_init(Instance::start)
}

/// All roles times all databases, on a separate instance: other tests would create and drop roles in the meantime.
#[tokio::test]
async fn a_role_with_its_real_secret_opens_only_its_own_database() {
    let instance = Instance::start();
    let (walls, _) = instance.simple("walls", &["w-one", "w-two"]);
    instance.simple("moat", &["m-one"]);
    // Leaves a running build beside the published template.
    psql(&walls.url, "CREATE TABLE u (id int)").ok();
    let secrets = instance.role_secrets().await;
    assert!(
        secrets.len() >= 5 * 3,
        "workspaces and tenants have three roles each: {:?}",
        secrets.keys()
    );
    let server = instance.server("postgres").await;
    let rows = server
        .query("SELECT datname::text, datallowconn FROM pg_database", &[])
        .await
        .unwrap();
    assert!(
        rows.len() > 9,
        "the server's own, the store, the base, workspaces, tenants, templates"
    );
    for (role, (own, secret)) in &secrets {
        for row in &rows {
            let (database, open): (String, bool) = (row.get(0), row.get(1));
            let url = url_with(&instance.server_url(&database), Some(role), Some(secret), None);
            match connect(&url).await {
                Ok(_) => assert_eq!(&database, own, "{role} opened {database}"),
                Err(error) if sqlstate(&error) == "28P01" => {
                    let gone = server
                        .query("SELECT FROM pg_roles WHERE rolname = $1", &[role])
                        .await
                        .unwrap()
                        .is_empty();
                    assert!(gone, "the secret of {role} is not the one it has");
                }
                Err(error) => {
                    assert!(&database != own, "{role} cannot open its own {own}: {error:?}");
                    let code = sqlstate(&error);
                    assert!(
                        code == "42501" || (!open && code == "55000"),
                        "{role} at {database}: {error:?}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn no_role_of_a_database_has_rights_over_the_server() {
    instance().simple("humble", &["h-one"]);
    let server = instance().server("postgres").await;
    let sql = "SELECT rolname::text FROM pg_roles WHERE starts_with(rolname, 'r_')
               AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)";
    assert!(server.query(sql, &[]).await.unwrap().is_empty());
    let sql = "SELECT m.rolname::text, g.rolname::text FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member
               JOIN pg_roles g ON g.oid = a.roleid WHERE starts_with(m.rolname, 'r_')";
    for row in server.query(sql, &[]).await.unwrap() {
        let (member, group): (String, String) = (row.get(0), row.get(1));
        let fine = match member.rsplit_once('_') {
            Some((base, "dep")) => group == base || group == "tdb_migrators",
            Some((_, "ro")) => group == "tdb_readers",
            _ => group == "tdb_writers",
        };
        assert!(fine, "{member} is a member of {group}");
    }
    let sql = "SELECT datname::text FROM pg_database d WHERE datistemplate IS FALSE AND datname <> 'template0'
               AND EXISTS (SELECT FROM aclexplode(coalesce(datacl, acldefault('d', datdba))) WHERE grantee = 0 AND privilege_type = 'CONNECT')";
    let open: Vec<String> = column(&server, sql).await;
    assert_eq!(open, Vec::<String>::new(), "everybody may connect to these");
}

/// What an attacker would try, one attempt after the other; each failure is caught, so that the surrounding code continues.
/// It records the role that it ran as.
const ATTACK: &str = r#"
CREATE TABLE loot (place text, session text, effective text);
CREATE FUNCTION attack(place text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE was text := current_user; try text;
BEGIN
    BEGIN INSERT INTO public.loot VALUES (attack.place, session_user, current_user); EXCEPTION WHEN OTHERS THEN NULL; END;
    FOREACH try IN ARRAY ARRAY['RESET ROLE', 'SET ROLE NONE', 'SET ROLE postgres', 'RESET SESSION AUTHORIZATION',
        'SET SESSION AUTHORIZATION postgres', 'SET ROLE tdb_template', 'SET TRANSACTION READ WRITE'] LOOP
        BEGIN
            EXECUTE try;
            INSERT INTO public.loot VALUES (attack.place, session_user, current_user);
        EXCEPTION WHEN OTHERS THEN NULL; END;
        BEGIN EXECUTE 'CREATE ROLE evil SUPERUSER LOGIN'; EXCEPTION WHEN OTHERS THEN NULL; END;
        BEGIN EXECUTE format('ALTER ROLE %I SUPERUSER CREATEROLE', was); EXCEPTION WHEN OTHERS THEN NULL; END;
        BEGIN EXECUTE format('GRANT pg_read_all_data, pg_execute_server_program TO %I', was); EXCEPTION WHEN OTHERS THEN NULL; END;
        BEGIN EXECUTE 'COPY public.loot TO PROGRAM ''cat >/dev/null'''; EXCEPTION WHEN OTHERS THEN NULL; END;
        BEGIN EXECUTE format('SET ROLE %I', was); EXCEPTION WHEN OTHERS THEN NULL; END;
    END LOOP;
    RETURN attack.place;
END $$;
"#;

#[tokio::test]
async fn planted_code_never_runs_in_a_session_with_more_privileges() {
    let workspace = instance().workspace("planted");
    psql(&workspace.url, "CREATE TABLE t (id int, a text)").ok();
    psql(&workspace.url, ATTACK).ok();
    let tenant = instance().tenant("victim", "planted");
    psql(&tenant.url, "INSERT INTO t VALUES (1, 'x'), (2, 'y')").ok();
    // The tenant plants another call in the view that called the developer's.
    psql(
        &tenant.url,
        "CREATE OR REPLACE VIEW seen AS SELECT attack('tenant view') AS a",
    )
    .ok();
    let server = instance().server("postgres").await;
    let before = rights(&server).await;

    let changes = [
        "DO $$ BEGIN CREATE TABLE by_do (id int); PERFORM public.attack('do'); BEGIN EXECUTE 'RESET ROLE'; \
         EXECUTE 'CREATE ROLE evil SUPERUSER'; EXCEPTION WHEN OTHERS THEN NULL; END; END $$",
        "ALTER TABLE t ALTER a TYPE varchar(50) USING attack('using')",
        "ALTER TABLE t ADD COLUMN d text DEFAULT attack('default')",
        "ALTER TABLE t ADD CONSTRAINT c CHECK (attack('check') IS NOT NULL)",
        "CREATE VIEW planted_view AS SELECT attack('view') AS a",
        "CREATE MATERIALIZED VIEW planted_matview AS SELECT attack('matview') AS a",
        "CREATE INDEX planted_index ON t ((a || 'x')) WHERE id > 0",
    ];
    for change in changes {
        psql(&workspace.url, change).ok();
    }
    let job = instance().deploy_all("planted");
    assert_eq!(job["status"], "completed", "{job:#}");
    // A replay in an empty database by a new tenant, and then the admin's queries on the planted objects.
    let fresh = instance().tenant("fresh", "planted");
    for sql in [
        "SELECT * FROM planted_view",
        "INSERT INTO t (id, a) VALUES (3, 'z')",
        "SELECT attack('admin')",
        "SELECT * FROM loot",
    ] {
        let body = json!({"all_tenants": true, "blueprint": "planted", "query": sql});
        instance().api().post("/admin/query", body).ok();
        instance()
            .api()
            .post("/workspaces/planted/queries", json!({"query": sql}))
            .ok();
    }
    read_what_was_planted(&workspace, &tenant).await;
    instance().drift("planted");

    unchanged(&before, &rights(&server).await);
    for url in [&workspace.url, &tenant.url, &fresh.url] {
        let loot = psql(url, "SELECT place, session, effective FROM loot").ok().stdout;
        for line in loot.lines() {
            let roles = line.split('|').skip(1);
            for role in roles {
                assert!(
                    reaches_one(&server, role).await,
                    "planted code ran in a session of {role}: {line}"
                );
            }
        }
    }
    let places = psql(&tenant.url, "SELECT DISTINCT place FROM loot ORDER BY 1")
        .ok()
        .stdout;
    for place in ["admin", "check", "default", "do", "matview", "using", "view"] {
        assert!(
            places.lines().any(|line| line == place),
            "the attack never ran in {place}: {places}"
        );
    }
}

/// The same attacks as read-only roles: of credentials, and of an API key.
async fn read_what_was_planted(workspace: &Workspace, tenant: &Tenant) {
    let api = instance().api();
    for (scope, database) in [
        (
            json!({"workspace": workspace.name, "rights": "ro"}),
            format!("{}_dev", workspace.name),
        ),
        (
            json!({"tenant_id": tenant.name, "rights": "ro"}),
            format!("{}__{}", workspace.name, tenant.name),
        ),
    ] {
        let made = api.post("/credentials", scope).ok();
        let url = url_of(&made, &database);
        let session = connect(&url).await.unwrap();
        for sql in ["SELECT * FROM planted_view", "SELECT attack('reader')"] {
            session.batch_execute(sql).await.unwrap();
        }
    }
    let made = api.post("/apikeys", json!({"name": "reads", "scopes": ["read"]})).ok();
    let reader = api.with_key(made["api_key"].as_str().or(made["key"].as_str()));
    let sql = "SELECT attack('key') FROM planted_view";
    let body = json!({"all_tenants": true, "blueprint": workspace.name, "query": sql});
    let answer = reader.post("/admin/query", body).ok();
    assert!(answer["results"][0]["error"].is_null(), "{answer:#}");
    reader
        .post(
            &format!("/workspaces/{}/queries", workspace.name),
            json!({"query": sql}),
        )
        .ok();
}

/// The attributes, memberships and privileges of every role, as text.
async fn rights(server: &Session) -> BTreeMap<String, String> {
    let sql = "SELECT r.rolname::text, concat_ws(' ', rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls,
                 rolcanlogin, (SELECT string_agg(g.rolname, ',' ORDER BY g.rolname) FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
                 WHERE m.member = r.oid), (SELECT string_agg(d.datname, ',' ORDER BY d.datname) FROM pg_database d
                 WHERE d.datdba = r.oid AND NOT d.datname ~ '^tdb_c_')) FROM pg_roles r";
    server
        .query(sql, &[])
        .await
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect()
}

/// Existing roles are unchanged; new ones are roles of a database, without attributes.
fn unchanged(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) {
    for (role, now) in after {
        match before.get(role) {
            // The administrator owns the databases created in the meantime.
            Some(then) if role != "postgres" && !then.starts_with('t') => assert_eq!(then, now, "{role}"),
            Some(then) => assert_eq!(
                then.split(' ').take(7).collect::<Vec<_>>(),
                now.split(' ').take(7).collect::<Vec<_>>()
            ),
            None => {
                let attributes: BTreeSet<&str> = now.split(' ').skip(2).take(4).collect();
                assert!(
                    role.starts_with("r_") && now.starts_with('f') && attributes == BTreeSet::from(["f"]),
                    "{role}: {now}"
                );
            }
        }
    }
}

/// Whether a role is not a superuser and can connect to at most one database.
async fn reaches_one(server: &Session, role: &str) -> bool {
    let sql = "SELECT NOT rolsuper AND (SELECT count(*) FROM pg_database d WHERE d.datallowconn AND has_database_privilege(r.oid, d.oid, 'CONNECT')) <= 1
               FROM pg_roles r WHERE rolname = $1";
    let row = server.query_opt(sql, &[&role]).await.unwrap();
    // The role of a build is dropped when its template is published; its name shows that it belonged to one database.
    row.map_or_else(|| role.starts_with("r_"), |row| row.get(0))
}

#[test]
fn invalid_names_are_refused_after_authentication() {
    let (_, tenants) = instance().simple("named", &["n-one"]);
    let url = &tenants[0].url;
    let long = format!("named__{}", "x".repeat(57));
    assert_eq!(long.len(), 64);
    let names = [
        "foo__dev",
        "a__b__c",
        &long,
        "named__\"n-one\"",
        "named__n-one'--",
        "named__n-öne",
        "NAMED__N-ONE",
        "named__n-one ",
        "..",
        "template1",
        "postgres",
        "tdb_base",
        "",
        "named_dev_dev",
        "named__",
        "__n-one",
        "💥",
        "%s%n",
        "named__n-one\n",
    ];
    for name in names {
        let refused = Wire::login_to(url, name)
            .err()
            .unwrap_or_else(|| panic!("{name:?} was let in"));
        let code = refused.field(b'C').expect("an SQLSTATE");
        assert!(["3D000", "42501"].contains(&code.as_str()), "{name:?}: {refused:?}");
        assert!(
            refused.field(b'M').is_some_and(|message| !message.is_empty()),
            "{name:?}"
        );
    }
    for name in ["foo__dev", "a__b__c", &long] {
        let refused = Wire::login_to(url, name).unwrap_err();
        assert_eq!(refused.field(b'C').as_deref(), Some("3D000"), "{refused:?}");
        assert_eq!(refused.field(b'M'), Some(format!("invalid database name \"{name}\"")));
        assert!(
            refused.field(b'H').is_some_and(|hint| hint.ends_with('.')),
            "{refused:?}"
        );
    }
}

#[test]
fn a_nul_in_a_startup_packet_is_a_clean_refusal() {
    let (_, tenants) = instance().simple("nul", &["nul-one"]);
    let user = tenants[0].user();
    for body in [
        format!("user\0{user}\0database\0nul__nul\0-one\0\0"),
        format!("user\0{user}\0database\0nul__nul-one"),
        "\0\0\0".to_owned(),
        "database\0nul__nul-one\0\0".to_owned(),
    ] {
        let mut wire = Wire::dial(&tenants[0].url);
        let len = u32::try_from(body.len() + 8).unwrap();
        wire.send_raw(&[&len.to_be_bytes()[..], &196_608_u32.to_be_bytes(), body.as_bytes()].concat());
        let frame = wire.try_read().expect("an answer");
        // Parsed as parameters, the text may reach the password check; it cannot pass it.
        assert!(frame.tag == b'E' || frame.tag == b'R', "{body:?}: {frame:?}");
    }
    psql(&tenants[0].url, "SELECT 1").ok();
}

/// The work that only one of two refused logins would do, such as computing a verifier, takes longer.
const DIFFERENCE_MAX: Duration = Duration::from_millis(3);

#[test]
fn a_wrong_password_and_an_unknown_user_give_the_same_error_in_the_same_time() {
    instance().simple("alike", &["al-one"]);
    let mut fastest = [Duration::MAX; 2];
    // The fastest of many attempts: a busy machine delays some. It stops when the two are equal.
    for n in 0..100 {
        let made = instance()
            .api()
            .post("/credentials", json!({"tenant_id": "al-one"}))
            .ok();
        let url = url_of(&made, "alike__al-one");
        let known = made["connection"]["user"].as_str().expect("a user").to_owned();
        let unknown = format!("no-one_{n}aaaaa");
        // One attempt for each user: further ones are delayed.
        let answers = [&known, &unknown].map(|user| {
            let begun = Instant::now();
            let refused = Wire::login(&url_with(&url, Some(user), Some("wrong"), None)).unwrap_err();
            (
                begun.elapsed(),
                String::from_utf8(refused.body).unwrap().replace(user.as_str(), "USER"),
            )
        });
        assert_eq!(answers[0].1, answers[1].1);
        assert!(answers[0].1.contains("28P01"), "{}", answers[0].1);
        for (fastest, answer) in fastest.iter_mut().zip(&answers) {
            *fastest = answer.0.min(*fastest);
        }
        if n >= 8 && fastest[0].abs_diff(fastest[1]) < DIFFERENCE_MAX {
            break;
        }
    }
    let [known, unknown] = fastest;
    assert!(
        known.abs_diff(unknown) < DIFFERENCE_MAX,
        "wrong password {known:?}, unknown user {unknown:?}"
    );
}

#[test]
fn an_unknown_user_is_shown_the_same_salt_every_time() {
    let (_, tenants) = instance().simple("salted", &["sa-one"]);
    let salt = |user: &str| {
        let mut wire = Wire::dial(&tenants[0].url);
        wire.send(|out| {
            postgres_protocol::message::frontend::startup_message([("user", user), ("database", "salted_dev")], out)
                .unwrap();
        });
        assert_eq!(wire.read().tag, b'R');
        wire.send(|out| {
            postgres_protocol::message::frontend::sasl_initial_response(
                "SCRAM-SHA-256",
                b"n,,n=,r=abcdefghijklmnop",
                out,
            )
            .unwrap();
        });
        let challenge = wire.read().text();
        challenge.split(',').skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(salt("nobody_aaaaaa"), salt("nobody_aaaaaa"));
    assert_ne!(salt("nobody_aaaaaa"), salt("nobody_bbbbbb"));
    let (known, unknown) = (salt(&tenants[0].user()), salt("nobody_aaaaaa"));
    assert_eq!(known[1], unknown[1], "iterations");
    assert_eq!(known[0].len(), unknown[0].len(), "length of the salt");
}

/// The attempts of one database's role against another database, the server and TenantsDB's objects.
fn beyond_the_edge(other_database: &str, other_role: &str) -> Vec<String> {
    let database = format!("\"{other_database}\"");
    let mut attempts: Vec<String> = [
        "SET ROLE tdb_template",
        "SET SESSION AUTHORIZATION postgres",
        "CREATE DATABASE mine",
        "CREATE ROLE mine",
        "ALTER SYSTEM SET work_mem = '1GB'",
        "SELECT pg_read_file('PG_VERSION')",
        "SELECT pg_ls_dir('.')",
        "COPY t FROM PROGRAM 'id'",
        "COPY t TO '/tmp/tdb-written'",
        "CREATE EXTENSION dblink",
        "LOAD '/tmp/x.so'",
        "INSERT INTO tdb.deployed_change DEFAULT VALUES",
        "DELETE FROM tdb.deployed_change",
        "DELETE FROM tdb.ddl_event",
        "UPDATE tdb.setting SET value = 'allow'",
        "SELECT rolpassword FROM pg_authid",
        "SELECT * FROM pg_user_mapping",
        "SELECT * FROM pg_statistic",
        "SELECT * FROM pg_largeobject",
        "SELECT * FROM pg_subscription",
        "SELECT pg_create_logical_replication_slot('x', 'pgoutput')",
        "CREATE SUBSCRIPTION s CONNECTION 'host=localhost' PUBLICATION p",
        "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION tdb.capture()",
        "ALTER ROLE CURRENT_USER SUPERUSER",
        "ALTER ROLE CURRENT_USER BYPASSRLS",
        "ALTER ROLE CURRENT_USER SET session_replication_role = 'replica'",
        "GRANT pg_read_all_data TO CURRENT_USER",
        "GRANT tdb_migrators TO CURRENT_USER WITH ADMIN OPTION",
    ]
    .map(str::to_owned)
    .to_vec();
    attempts.extend([
        format!("SET ROLE {other_role}"),
        format!("SET ROLE {other_role}_dep"),
        format!("SET ROLE {other_role}_ro"),
        format!("ALTER ROLE {other_role} PASSWORD 'x'"),
        format!("ALTER ROLE {other_role} SET search_path = x"),
        format!("GRANT {other_role} TO CURRENT_USER"),
        format!("GRANT CONNECT ON DATABASE {database} TO CURRENT_USER"),
        format!("DROP DATABASE {database}"),
        format!("ALTER DATABASE {database} RENAME TO mine"),
        format!("ALTER DATABASE {database} SET search_path = x"),
        format!("COMMENT ON DATABASE {database} IS 'x'"),
    ]);
    attempts
}

/// If the schema `tdb` lacks the table, the name does not exist; read-only roles are refused earlier; the deployer's
/// statements are also run outside a transaction block.
const REFUSALS: [&str; 9] = [
    "42501", "2BP01", "55006", "25001", "25006", "42P01", "42883", "58P01", "42601",
];

/// Only the deployer can write `tdb.deployed_change`.
const OF_THE_DEPLOYER: &str = "SET ROLE tdb_migrators";

#[tokio::test]
async fn each_of_the_five_roles_is_limited_to_its_database() {
    let instance = Instance::start();
    let (workspace, tenants) = instance.simple("edges", &["e-one", "e-two"]);
    let other = tenants[1].connect().await;
    let (other_database, other_role) = other.identity().await;
    let attempts = beyond_the_edge(&other_database, &other_role);
    let own = tenants[0].connect().await;
    let (database, role) = own.identity().await;
    let made = instance
        .api()
        .post("/credentials", json!({"tenant_id": "e-one", "rights": "ro"}))
        .ok();
    let reader = url_of(&made, "edges__e-one");
    let deployer = format!("{role}_dep");
    let secret = instance.role_secrets().await[&deployer].1.clone();
    let sessions = [
        ("read-write", own),
        ("read-only", connect(&reader).await.unwrap()),
        (
            "deployer",
            connect(&url_with(
                &instance.server_url(&database),
                Some(&deployer),
                Some(&secret),
                None,
            ))
            .await
            .unwrap(),
        ),
        ("workspace", workspace.connect().await),
    ];
    for (kind, session) in &sessions {
        let refused = session.batch_execute(OF_THE_DEPLOYER).await.is_err();
        assert_eq!(refused, *kind != "deployer", "{kind}");
        session.batch_execute("RESET ROLE").await.unwrap();
        for attempt in &attempts {
            let Err(refused) = session.batch_execute(attempt).await else {
                panic!("{kind}: {attempt} succeeded");
            };
            assert!(
                REFUSALS.contains(&sqlstate(&refused).as_str()),
                "{kind}: {attempt}: {refused:?}"
            );
        }
    }
    let made = instance
        .api()
        .post("/apikeys", json!({"name": "reads", "scopes": ["read"]}))
        .ok();
    let reader = instance
        .api()
        .with_key(made["api_key"].as_str().or(made["key"].as_str()));
    for (kind, api) in [("read-only key", reader), ("key", instance.api())] {
        for attempt in attempts.iter().map(String::as_str).chain([OF_THE_DEPLOYER]) {
            let body = json!({"tenant_id": "e-one", "blueprint": "edges", "query": attempt});
            let answer = api.post("/admin/query", body).ok();
            let code = answer["results"][0]["error"]["sqlstate"].clone();
            assert!(
                code.as_str().is_some_and(|code| REFUSALS.contains(&code)),
                "{kind}: {attempt}: {answer:#}"
            );
            let refused = api.post("/workspaces/edges/queries", json!({"query": attempt}));
            assert!(
                refused.status >= 400,
                "{kind} in the workspace: {attempt}: {refused:#?}"
            );
        }
    }
    other.batch_execute("SELECT 1").await.unwrap();
    connect(&tenants[0].url).await.unwrap();
}
