//! User accounts: sign-up and login; users cannot see each other's data.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tdb_tests::{Api, Instance, connect, in_database, psql};

static INSTANCE: OnceLock<Instance> = OnceLock::new();
const PASSWORD: &str = "correct horse battery";

fn instance() -> &'static Instance {
    INSTANCE.get_or_init(Instance::start)
}

fn stranger() -> Api {
    instance().api().with_key(None)
}

fn sign_up(email: &str) -> Value {
    let body = json!({"email": email, "password": PASSWORD, "project_name": "shop"});
    stranger().post("/signup", body).ok()
}

fn log_in(email: &str, password: &str) -> tdb_tests::Answer {
    stranger().post("/login", json!({"email": email, "password": password}))
}

#[tokio::test]
async fn a_new_user_has_a_project_a_key_and_a_credential_and_can_log_in_again() {
    let made = sign_up("Ada@Example.com");
    let key = made["api_key"].as_str().unwrap();
    let api = stranger().with_key(Some(key));
    let projects = api.get("/projects").ok();
    assert_eq!(
        projects["count"], 1,
        "the installation's own project is another account's: {projects:#}"
    );
    assert_eq!(projects["projects"][0]["id"], made["project_id"]);
    assert_eq!(projects["projects"][0]["name"], "shop");
    api.post("/workspaces", json!({"name": "adas", "database": "PostgreSQL"}))
        .ok();
    let url = made["connection_string"].as_str().unwrap();
    psql(&in_database(url, "adas_dev"), "CREATE TABLE t (id int)").ok();

    let session = log_in(" ada@example.COM", PASSWORD).ok();
    assert_eq!(session["project_id"], made["project_id"]);
    assert_ne!(session["api_key"], made["api_key"]);
    let again = stranger().with_key(session["api_key"].as_str());
    assert_eq!(again.get("/workspaces").ok()["count"], 1);
    again.post("/projects", json!({"name": "second"})).ok();

    let taken = stranger().post(
        "/signup",
        json!({"email": "ada@example.com", "password": PASSWORD, "project_name": "x"}),
    );
    assert_eq!(taken.problem(409)["code"], "already_exists");
    let store = instance().store().await;
    let stored: String = store
        .query_one(
            "SELECT password FROM control_plane.users WHERE email = 'ada@example.com'",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    assert!(
        stored.starts_with("pbkdf2-sha256$600000$") && !stored.contains(PASSWORD),
        "{stored}"
    );
    let projects: i64 = store
        .query_one("SELECT count(*) FROM control_plane.projects WHERE name = 'x'", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(projects, 0, "a refused signup leaves nothing");
    for secret in [PASSWORD, key] {
        assert!(!instance().log().contains(secret), "the log has a secret");
    }
}

#[test]
fn a_user_keeps_the_keys_of_the_newest_ten_logins() {
    let first = sign_up("keys@example.com");
    let keys: Vec<String> = (0..12)
        .map(|_| {
            log_in("keys@example.com", PASSWORD).ok()["api_key"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    for (at, key) in keys.iter().enumerate() {
        let answer = stranger().with_key(Some(key)).get("/workspaces");
        assert_eq!(answer.status, if at < 2 { 401 } else { 200 }, "login {at}");
    }
    stranger().with_key(first["api_key"].as_str()).get("/workspaces").ok();
}

#[test]
fn a_user_whose_last_project_is_gone_gets_a_new_one() {
    let made = sign_up("gone@example.com");
    let api = stranger().with_key(made["api_key"].as_str());
    api.delete(&format!("/projects/{}", made["project_id"].as_str().unwrap()))
        .ok();
    api.get("/workspaces").problem(401);
    let session = log_in("gone@example.com", PASSWORD).ok();
    assert_ne!(session["project_id"], made["project_id"]);
    stranger().with_key(session["api_key"].as_str()).get("/workspaces").ok();
}

#[test]
fn what_cannot_be_an_email_or_a_password_is_refused_by_name() {
    let long = "p".repeat(257);
    for (email, password, name, field) in [
        ("", PASSWORD, "x", "email"),
        ("ada", PASSWORD, "x", "email"),
        ("ada@", PASSWORD, "x", "email"),
        ("a b@c.d", PASSWORD, "x", "email"),
        ("new@example.com", "short 1", "x", "password"),
        ("new@example.com", "sunflower", "x", "password"),
        ("new@example.com", "aaaaaaaaaaaaa", "x", "password"),
        ("new@example.com", &long, "x", "password"),
        ("new@example.com", PASSWORD, "", "project_name"),
    ] {
        let body = json!({"email": email, "password": password, "project_name": name});
        let problem = stranger().post("/signup", body).problem(422);
        assert_eq!(problem["field"], field, "{email} {name}: {problem:#}");
        assert!(!problem.to_string().contains(password), "a password is repeated");
    }
    let unnamed = json!({"email": "unnamed@b.c", "password": "secret123"});
    let made = stranger().post("/signup", unnamed).ok();
    let projects = stranger().with_key(made["api_key"].as_str()).get("/projects").ok();
    assert_eq!(projects["projects"][0]["name"], "default");
    stranger()
        .post("/login", json!({"email": "a@b.c", "password": PASSWORD, "x": 1}))
        .problem(400);
}

/// A separate instance: the tests of the other one have the same client address.
#[test]
fn attempts_are_limited_and_do_not_reveal_which_emails_exist() {
    let instance = Instance::start();
    let stranger = instance.api().with_key(None);
    let body = json!({"email": "real@example.com", "password": PASSWORD, "project_name": "x"});
    stranger.post("/signup", body).ok();
    let log_in = |email: &str, password: &str| {
        let begun = Instant::now();
        let answer = stranger.post("/login", json!({"email": email, "password": password}));
        (answer, begun.elapsed())
    };
    let (mut known, mut unknown) = (Duration::MAX, Duration::MAX);
    for _ in 0..5 {
        let (wrong, took) = log_in("real@example.com", "wrong password");
        known = known.min(took);
        let (missing, took) = log_in("nobody@example.com", "wrong password");
        unknown = unknown.min(took);
        let (wrong, missing) = (wrong.problem(401), missing.problem(401));
        for field in ["code", "detail", "hint", "title"] {
            assert_eq!(wrong[field], missing[field]);
        }
        assert_eq!(wrong["code"], "wrong_login");
    }
    let (less, more) = (known.min(unknown), known.max(unknown));
    assert!(
        more < less * 2,
        "an email that exists takes {known:?}, another {unknown:?}"
    );
    for email in ["real@example.com", "nobody@example.com"] {
        // On a slow machine some attempts are allowed again: until the next one is far away.
        while log_in(email, "wrong password")
            .0
            .header("Retry-After")
            .is_none_or(|after| after.parse::<u64>().unwrap() < 10)
        {}
        let mut fastest = Duration::MAX;
        for _ in 0..5 {
            let (answer, took) = log_in(email, PASSWORD);
            let after: u64 = answer.header("Retry-After").expect("Retry-After").parse().unwrap();
            assert!((1..=30).contains(&after), "{after}");
            assert_eq!(answer.problem(429)["code"], "limit_reached");
            fastest = fastest.min(took);
        }
        assert!(fastest < less, "a refused try is not hashed: {fastest:?}");
    }
    // Other users are not delayed. One address can make 30 attempts, and then one every 5 seconds.
    let status = |n: u32| log_in(&format!("n{n}@example.com"), "wrong password").0.status;
    assert_eq!(status(0), 401);
    assert!(
        (1..200).any(|n| status(n) == 429),
        "attempts of an address are not limited"
    );
}

#[tokio::test]
async fn the_command_line_signs_up_and_logs_in_with_a_key_file_of_its_owner() {
    let home = tempfile::tempdir().unwrap();
    let environment = |password: &'static str| {
        let mut environment = vec![
            ("XDG_CONFIG_HOME", home.path().to_str().unwrap().to_owned()),
            ("TDB_API_KEY", String::new()),
        ];
        if !password.is_empty() {
            environment.push(("TDB_PASSWORD", password.to_owned()));
        }
        environment
    };
    let tdb = |arguments: &[&str], password: &'static str, input: &str| {
        let environment = environment(password);
        let environment: Vec<(&str, &str)> = environment
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        instance().tdb_with(arguments, &environment, input)
    };
    let email = ["--email", "cli@example.com"];
    tdb(&[&["signup"][..], &email].concat(), "", "").fails_saying("TDB_PASSWORD");
    let made = tdb(
        &[&["--json", "signup"][..], &email].concat(),
        "",
        &format!("{PASSWORD}\n"),
    )
    .ok();
    let made: Value = serde_json::from_str(&made.stdout).unwrap();
    let file = home.path().join("tenantsdb/config.toml");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(
        fs::read_to_string(&file)
            .unwrap()
            .contains(made["api_key"].as_str().unwrap())
    );
    tdb(&[&["login"][..], &email].concat(), "wrong password", "").fails_saying("email or password is wrong");
    let said = tdb(&[&["login"][..], &email].concat(), PASSWORD, "").ok();
    let key = fs::read_to_string(&file).unwrap();
    assert!(
        !key.contains(made["api_key"].as_str().unwrap()),
        "the new key is remembered"
    );
    assert!(
        said.stdout.contains(made["project_id"].as_str().unwrap()) && !said.stdout.contains("tdb_sk_"),
        "{}",
        said.stdout
    );
    let key = key
        .lines()
        .find_map(|line| line.strip_prefix("api_key = "))
        .unwrap()
        .trim_matches('"')
        .to_owned();
    stranger().with_key(Some(&key)).get("/workspaces").ok();
    let said = tdb(&["logout"], "", "").ok();
    assert!(said.stdout.contains("the key is deleted"), "{said:?}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "", "nothing is remembered");
    stranger().with_key(Some(&key)).get("/workspaces").problem(401);
    // The project's first key may be in use by another test.
    let first = made["api_key"].as_str().unwrap();
    tdb(
        &["config", "set", "--api-url", instance().api_url(), "--api-key", first],
        "",
        "",
    )
    .ok();
    let said = tdb(&["logout"], "", "").ok();
    assert!(said.stdout.contains("stays valid"), "{said:?}");
    stranger().with_key(Some(first)).get("/workspaces").ok();
    assert!(tdb(&["logout"], "", "").ok().stdout.contains("nothing was saved"));
    // Also if it has the name that logins give to theirs.
    let owner = stranger().with_key(Some(first));
    let made_by_hand = owner
        .post("/apikeys", json!({"name": "login", "scopes": ["admin"]}))
        .ok();
    let key = made_by_hand["api_key"].as_str().unwrap();
    tdb(
        &["config", "set", "--api-url", instance().api_url(), "--api-key", key],
        "",
        "",
    )
    .ok();
    assert!(tdb(&["logout"], "", "").ok().stdout.contains("stays valid"));
    stranger().with_key(Some(key)).get("/workspaces").ok();
    // Without a key of scope admin, nothing could be created or deleted any more.
    let by_hand = stranger().with_key(Some(key));
    for listed in by_hand.get("/apikeys").ok()["api_keys"].as_array().unwrap() {
        let id = listed["id"].as_str().unwrap();
        if id != made_by_hand["id"].as_str().unwrap() {
            by_hand.delete(&format!("/apikeys/{id}")).ok();
        }
    }
    let last = format!("/apikeys/{}", made_by_hand["id"].as_str().unwrap());
    let refused = by_hand.delete(&last).problem(409);
    assert_eq!(refused["code"], "wrong_state", "{refused}");
    by_hand
        .post("/apikeys", json!({"name": "next", "scopes": ["admin"]}))
        .ok();
    by_hand.delete(&last).ok();

    let url = made["connection_string"].as_str().unwrap();
    let refused = connect(&in_database(url, "nothing_dev")).await.unwrap_err();
    assert_eq!(tdb_tests::sqlstate(&refused), "3D000", "the credential is good");
}
