//! Roles that projects declare: schemas name them and replay, and the role that projects share on a server gives no
//! database anything of another.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use support::{Database, World, numbered};
use tdb_engines::postgres::EngineError;
use tdb_engines::postgres::declared_roles::{self, Membership};
use tokio_postgres::Client;

const INSTALLATION: &str = "testtest";

fn of(role: &str, owners: &[&Database]) -> Vec<Membership> {
    let one = |database: &&Database| Membership {
        role: role.to_owned(),
        owner: database.roles.owner.clone(),
    };
    owners.iter().map(one).collect()
}

async fn admit(world: &World, wanted: &[Membership]) {
    declared_roles::admit(&world.server, INSTALLATION, wanted)
        .await
        .unwrap();
}

async fn converge(world: &World, wanted: &[Membership]) -> declared_roles::Converged {
    let found = declared_roles::states(&world.server, INSTALLATION).await.unwrap();
    declared_roles::converge(&world.server, &found, wanted).await.unwrap()
}

async fn code_of(session: &Client, sql: &str) -> Option<String> {
    let error = session.batch_execute(sql).await.err()?;
    Some(
        error
            .code()
            .map_or_else(|| error.to_string(), |code| code.code().to_owned()),
    )
}

/// A text for each row of a query that gives one.
async fn column(session: &Client, sql: &str) -> Vec<String> {
    let rows = session.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

const SCHEMA: &str = "
    CREATE TABLE notes (id serial PRIMARY KEY, who text NOT NULL DEFAULT current_setting('request.user', true), body text);
    ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
    CREATE POLICY mine ON notes TO authenticated USING (who = current_setting('request.user', true));
    CREATE POLICY open ON notes FOR SELECT TO anon, authenticated USING (body LIKE 'public%');
    GRANT USAGE ON SCHEMA public TO anon, authenticated;
    GRANT SELECT ON ALL TABLES IN SCHEMA public TO anon;
    GRANT SELECT, INSERT (body), UPDATE (body) ON notes TO authenticated;
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO anon;
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT EXECUTE ON FUNCTIONS TO authenticated;
    CREATE TABLE later (id int);
    CREATE FUNCTION hello() RETURNS text LANGUAGE sql AS $$ SELECT 'hello' $$;
    REVOKE EXECUTE ON FUNCTION hello() FROM PUBLIC; GRANT EXECUTE ON FUNCTION hello() TO anon;
    CREATE SCHEMA AUTHORIZATION authenticated;
    GRANT CREATE ON SCHEMA public TO authenticated;
    CREATE TABLE given (id int); ALTER TABLE given OWNER TO authenticated;
    ALTER TABLE given ADD note text;
    ALTER DEFAULT PRIVILEGES FOR ROLE authenticated GRANT SELECT ON TABLES TO anon;
    DO $$ BEGIN
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'anon') THEN CREATE ROLE anon NOLOGIN; END IF;
        EXECUTE 'GRANT SELECT ON given TO anon';
    END $$;";
/// Each a message of its own, in a session that has SET ROLE.
const AS_AUTHENTICATED: [&str; 3] = [
    "CREATE TABLE authenticated.own (id int)",
    "CREATE VIEW authenticated.seen AS SELECT id FROM authenticated.own",
    "DO $$ BEGIN CREATE TABLE authenticated.other (id int); END $$",
];

#[tokio::test]
async fn a_schema_that_names_declared_roles_replays_as_it_is() {
    let world = World::start().await;
    world.base_template("app_v1").await;
    let workspace = world.workspace("app_dev").await;
    let acme = world.tenant("app__acme", "app_v1").await;
    let both = [&workspace, &acme];
    let wanted = [of("anon", &both), of("authenticated", &both)].concat();
    admit(&world, &wanted).await;
    let developer = world.session(&workspace).await;
    developer.batch_execute(SCHEMA).await.unwrap();
    developer.batch_execute("SET ROLE authenticated").await.unwrap();
    for sql in AS_AUTHENTICATED {
        developer.batch_execute(sql).await.unwrap();
    }
    developer
        .batch_execute("RESET ROLE; CREATE TABLE mine (id int)")
        .await
        .unwrap();
    developer
        .batch_execute("BEGIN; SET LOCAL ROLE authenticated; CREATE TABLE authenticated.third (id int); COMMIT")
        .await
        .unwrap();

    let declared = ["anon".to_owned(), "authenticated".to_owned()];
    let changes = world.drain_of_project(&workspace, &declared).await;
    let broken: Vec<_> = changes.iter().filter(|one| one.change.broken.is_some()).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    assert_eq!(changes[0].change.roles, declared);
    let roles: Vec<Option<&str>> = changes[1..]
        .iter()
        .map(|one| one.change.statements[0].role.as_deref())
        .collect();
    let ran = Some("authenticated");
    assert_eq!(roles, [ran, ran, ran, None, ran]);

    world.bring_up(&acme, &numbered(&changes)).await.unwrap();
    let (expected, found) = (world.fingerprint(&workspace).await, world.fingerprint(&acme).await);
    assert_eq!(expected.diff(&found), Vec::new());
    assert_eq!(
        found.facts["table authenticated.own"].split(", ").nth(1),
        Some("owner authenticated")
    );
    assert_eq!(
        found.facts["privileges on function public.hello()"],
        "OWNER=EXECUTE, anon=EXECUTE, authenticated=EXECUTE"
    );

    let client = world.session(&acme).await;
    client
        .batch_execute("INSERT INTO notes (who, body) VALUES ('ann', 'public a'), ('ann', 'b'), ('bob', 'c')")
        .await
        .unwrap();
    let seen = "SELECT body FROM notes ORDER BY id";
    assert_eq!(column(&client, seen).await, ["public a", "b", "c"]);
    client
        .batch_execute("BEGIN; SET LOCAL ROLE anon; SELECT hello()")
        .await
        .unwrap();
    assert_eq!(column(&client, seen).await, ["public a"]);
    client.batch_execute("ROLLBACK; BEGIN").await.unwrap();
    // As PostgREST does.
    client
        .query(
            "SELECT set_config('role', $1, true), set_config('request.user', $2, true)",
            &[&"authenticated", &"bob"],
        )
        .await
        .unwrap();
    assert_eq!(column(&client, seen).await, ["public a", "c"]);
    client
        .batch_execute("INSERT INTO notes (body) VALUES ('d')")
        .await
        .unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(column(&client, "SELECT who FROM notes WHERE body = 'd'").await, ["bob"]);
}

/// A template holds grants to the role and objects of it; the next tenant has them.
#[tokio::test]
async fn a_template_with_declared_roles_is_published_and_cloned() {
    let world = World::start().await;
    world.base_template("app_v1").await;
    let (workspace, build) = (world.workspace("app_dev").await, world.tenant("build", "app_v1").await);
    let both = [&workspace, &build];
    admit(&world, &[of("anon", &both), of("authenticated", &both)].concat()).await;
    world.session(&workspace).await.batch_execute(SCHEMA).await.unwrap();
    let declared = ["anon".to_owned(), "authenticated".to_owned()];
    let changes = numbered(&world.drain_of_project(&workspace, &declared).await);
    world.bring_up(&build, &changes).await.unwrap();
    let expected = world.fingerprint(&build).await;
    tdb_engines::postgres::databases::publish_template(&world.server, "build", Some(&build.roles))
        .await
        .unwrap();
    let acme = world.tenant("app__acme", "build").await;
    admit(&world, &[of("anon", &[&acme]), of("authenticated", &[&acme])].concat()).await;
    assert_eq!(expected.diff(&world.fingerprint(&acme).await), Vec::new());
    let client = world.session(&acme).await;
    client
        .batch_execute("ALTER TABLE given ADD x int; SET ROLE anon; SELECT hello(); SELECT * FROM later, given, notes")
        .await
        .unwrap();
    world.admit_readers(&acme).await;
    assert_eq!(
        world.fingerprint(&acme).await.facts["table public.later"],
        expected.facts["table public.later"]
    );
}

#[tokio::test]
async fn a_role_that_the_project_has_not_declared_breaks_the_change_by_name() {
    let world = World::start().await;
    let (mine, other) = (world.workspace("app_dev").await, world.workspace("other_dev").await);
    admit(&world, &of("anon", &[&other])).await;
    let developer = world.session(&mine).await;
    assert_eq!(code_of(&developer, "SET ROLE anon").await.as_deref(), Some("42501"));
    developer
        .batch_execute("CREATE TABLE t (); GRANT SELECT ON t TO anon")
        .await
        .unwrap();
    let changes = world.drain(&mine).await;
    let change = &changes[0].change;
    assert_eq!(
        (change.broken.as_deref(), change.undeclared.as_slice()),
        (
            Some("role \"anon\" is not declared in this project"),
            &["anon".to_owned()][..]
        )
    );
}

/// What a tenant may try with the role that it shares, each as itself and after SET ROLE.
const ATTACKS: [&str; 33] = [
    "ALTER ROLE anon SET search_path = 'evil'",
    "ALTER ROLE anon IN DATABASE victim SET work_mem = '64kB'",
    "ALTER ROLE anon PASSWORD 'x'",
    "ALTER ROLE anon LOGIN",
    "ALTER ROLE anon BYPASSRLS",
    "ALTER ROLE anon INHERIT",
    "ALTER ROLE anon CONNECTION LIMIT 0",
    "ALTER ROLE anon VALID UNTIL '2000-01-01'",
    "ALTER ROLE anon RENAME TO none_of_it",
    "COMMENT ON ROLE anon IS 'mine'",
    "DROP ROLE anon",
    "DROP OWNED BY anon",
    "DROP OWNED BY anon CASCADE",
    "REASSIGN OWNED BY anon TO CURRENT_USER",
    "REASSIGN OWNED BY anon TO SESSION_USER",
    "GRANT anon TO :owner WITH ADMIN OPTION",
    "GRANT anon TO :stranger",
    "REVOKE anon FROM :victim",
    "GRANT :owner TO anon",
    "GRANT tdb_writers TO anon",
    "GRANT pg_read_all_data TO anon",
    "GRANT ALL ON DATABASE mine TO anon",
    "GRANT ALL ON DATABASE victim TO anon",
    "ALTER DATABASE victim OWNER TO anon",
    "CREATE SCHEMA AUTHORIZATION anon",
    "CREATE TABLE IF NOT EXISTS loot (); ALTER TABLE loot OWNER TO anon",
    "ALTER DEFAULT PRIVILEGES FOR ROLE anon GRANT ALL ON TABLES TO PUBLIC",
    "GRANT ALL ON SCHEMA public TO anon",
    "CREATE TABLESPACE mine OWNER anon LOCATION '/tmp'",
    "SET SESSION AUTHORIZATION anon",
    "SECURITY LABEL ON ROLE anon IS 'x'",
    "GRANT SET ON PARAMETER log_statement TO anon",
    "SELECT lo_create(0)",
];

/// What another project's tenant could notice: its schema, the role's references, members and groups, and what is shared.
async fn noticed(world: &World, victim: &Database) -> Vec<String> {
    let mut seen: Vec<String> = world
        .fingerprint(victim)
        .await
        .facts
        .into_iter()
        .map(|(object, fact)| format!("{object}: {fact}"))
        .collect();
    let session = world.session(victim).await;
    for sql in [
        "SELECT concat_ws(' ', classid::regclass, objid, deptype) FROM pg_shdepend
          WHERE refobjid = 'anon'::regrole AND dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())) ORDER BY 1",
        "SELECT concat_ws(' ', roleid::regrole, member::regrole, admin_option) FROM pg_auth_members
          WHERE 'anon'::regrole IN (roleid, member) ORDER BY 1",
        "SELECT to_jsonb(r)::text FROM pg_roles r WHERE rolname = 'anon'",
        "SELECT s::text FROM pg_db_role_setting s WHERE setrole = 'anon'::regrole ORDER BY 1",
        "SELECT shobj_description('anon'::regrole, 'pg_authid')",
        "SELECT concat_ws(' ', datname, datdba, datacl) FROM pg_database ORDER BY 1",
        "SELECT spcname::text FROM pg_tablespace ORDER BY 1",
        "SELECT parname FROM pg_parameter_acl",
        "SET ROLE anon; SELECT id::text FROM shown; RESET ROLE",
    ] {
        let sql: Vec<&str> = sql.split("; ").collect();
        for one in &sql {
            seen.extend(column_or_nothing(&session, one).await);
        }
    }
    seen
}

async fn column_or_nothing(session: &Client, sql: &str) -> Vec<String> {
    if sql.starts_with("SELECT") {
        return column(session, sql).await;
    }
    session.batch_execute(sql).await.unwrap();
    Vec::new()
}

#[tokio::test]
async fn tenants_that_share_a_declared_role_notice_nothing_of_each_other() {
    let world = World::start().await;
    world.base_template("app_v1").await;
    let [mine, victim, stranger] = [
        world.tenant("mine", "app_v1").await,
        world.tenant("victim", "app_v1").await,
        world.tenant("stranger", "app_v1").await,
    ];
    let wanted = of("anon", &[&mine, &victim]);
    admit(&world, &wanted).await;
    world
        .session(&victim)
        .await
        .batch_execute(
            "CREATE TABLE shown (id int); INSERT INTO shown VALUES (1); GRANT SELECT ON shown TO anon;
             ALTER TABLE shown ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON shown TO anon USING (true);
             GRANT ALL ON SCHEMA public TO anon; CREATE TABLE held (id int); ALTER TABLE held OWNER TO anon;
             ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO anon",
        )
        .await
        .unwrap();
    let before = noticed(&world, &victim).await;

    for attacker in [&mine, &stranger] {
        for set_role in ["", "SET ROLE anon"] {
            for attack in ATTACKS {
                let session = world.session(attacker).await;
                let is_member = code_of(&session, set_role).await;
                if attacker.name == "stranger" && !set_role.is_empty() {
                    assert_eq!(is_member.as_deref(), Some("42501"));
                    continue;
                }
                let attack = attack
                    .replace(":owner", &attacker.roles.owner)
                    .replace(":stranger", &stranger.roles.owner)
                    .replace(":victim", &victim.roles.owner);
                let outcome = code_of(&session, &attack).await;
                // Not one statement of several failed for a reason of its own.
                assert_ne!(outcome.as_deref(), Some("42601"), "{attack}");
            }
        }
    }
    converge(&world, &wanted).await;
    assert_eq!(noticed(&world, &victim).await, before);
    let session = world.session(&stranger).await;
    let config = "SELECT set_config('role', 'anon', false)";
    assert_eq!(code_of(&session, config).await.as_deref(), Some("42501"));
    // The read-only and deploying roles: only a deployer is a member, through its owner.
    let sql =
        "SELECT rolname::text FROM pg_roles WHERE pg_has_role(rolname, 'anon', 'MEMBER') AND NOT rolsuper ORDER BY 1";
    let mut members: Vec<String> = [&mine, &victim]
        .iter()
        .flat_map(|database| [database.roles.owner.clone(), database.roles.deployer.clone()])
        .chain(["anon".to_owned()])
        .collect();
    members.sort();
    assert_eq!(column(&session, sql).await, members);
}

#[tokio::test]
async fn a_server_is_brought_to_what_is_declared() {
    let world = World::start().await;
    world.base_template("app_v1").await;
    let (acme, other) = (
        world.tenant("acme", "app_v1").await,
        world.tenant("other", "app_v1").await,
    );
    let both = of("anon", &[&acme, &other]);
    let absent = Membership {
        role: "anon".to_owned(),
        owner: "r_absent".to_owned(),
    };
    admit(&world, &[both.clone(), vec![absent]].concat()).await;
    admit(&world, &both).await;
    assert_eq!(converge(&world, &both).await, declared_roles::Converged::default());

    let session = world.session(&acme).await;
    session
        .batch_execute("SET ROLE anon; ALTER ROLE anon PASSWORD 'x'; ALTER ROLE anon SET work_mem = '64kB'; ALTER ROLE anon IN DATABASE other SET work_mem = '64kB'")
        .await
        .unwrap();
    assert_eq!(converge(&world, &both).await.reset, ["anon"]);
    assert_eq!(converge(&world, &both).await, declared_roles::Converged::default());

    // No longer declared, and something refers to it: it stays, without members, and nothing of anyone's is lost.
    session
        .batch_execute("RESET ROLE; CREATE TABLE t (); GRANT SELECT ON t TO anon")
        .await
        .unwrap();
    assert_eq!(converge(&world, &[]).await, declared_roles::Converged::default());
    let fresh = world.session(&acme).await;
    assert_eq!(code_of(&fresh, "SET ROLE anon").await.as_deref(), Some("42501"));
    assert_eq!(
        column(&fresh, "SELECT relacl::text FROM pg_class WHERE relname = 't'")
            .await
            .len(),
        1
    );
    // An open transaction that grants to it is waited for a bounded time only.
    session.batch_execute("REVOKE ALL ON t FROM anon").await.unwrap();
    session.batch_execute("BEGIN; GRANT SELECT ON t TO anon").await.unwrap();
    assert_eq!(converge(&world, &[]).await, declared_roles::Converged::default());
    session.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(converge(&world, &[]).await.dropped, ["anon"]);

    let admin = world.cluster.connect("postgres").await.unwrap();
    admin.batch_execute("CREATE ROLE taken").await.unwrap();
    let taken = declared_roles::admit(&world.server, INSTALLATION, &of("taken", &[&acme])).await;
    assert!(matches!(taken, Err(EngineError::RoleTaken { role }) if role == "taken"));
    let of_another = declared_roles::admit(&world.server, "elsewher", &both).await;
    assert!(of_another.is_ok());
    let not_ours = declared_roles::admit(&world.server, INSTALLATION, &both).await;
    assert!(matches!(not_ours, Err(EngineError::RoleTaken { .. })));
}

/// A workspace that an earlier program made: its journal is open to the owner only.
#[tokio::test]
async fn a_dump_of_a_workspace_whose_journal_was_opened_later_is_the_same() {
    let world = World::start().await;
    let workspace = world.workspace("app_dev").await;
    let admin = world.cluster.connect("app_dev").await.unwrap();
    let close = "ALTER EXTENSION plpgsql DROP SCHEMA tdb; REVOKE USAGE ON SCHEMA tdb FROM PUBLIC; ALTER EXTENSION plpgsql ADD SCHEMA tdb";
    admin.batch_execute(close).await.unwrap();
    admit(&world, &of("anon", &[&workspace])).await;
    let session = world.session(&workspace).await;
    session
        .batch_execute("CREATE SCHEMA AUTHORIZATION anon; SET ROLE anon")
        .await
        .unwrap();
    let dump = || world.program("pg_dump", &workspace, &["--schema-only"]);
    let before = dump();
    assert_eq!(
        code_of(&session, "CREATE TABLE anon.t ()").await.as_deref(),
        Some("42501")
    );
    for _ in 0..2 {
        tdb_engines::postgres::journal::open_to_declared_roles(&world.server, "app_dev")
            .await
            .unwrap();
    }
    let after = dump();
    assert!(before.status.success() && after.status.success());
    let text = |output: &std::process::Output| {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines = text.lines().filter(|line| !line.contains("restrict"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(text(&after), text(&before));
    session.batch_execute("CREATE TABLE anon.t ()").await.unwrap();
    let changes = world.drain_of_project(&workspace, &["anon".to_owned()]).await;
    assert_eq!(changes.len(), 2);
    assert_eq!(changes[1].change.statements[0].role.as_deref(), Some("anon"));
}
