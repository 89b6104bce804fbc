//! Logins: which are accepted, the errors of the others, and the parameters that the server's session receives.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tdb_contract::RouteState;
use tdb_proxy::ProxySettings;

use crate::support::{
    Lab, Options, PROJECT_USER, TENANT, TENANT_USER, TIME_MAX, WORKSPACE, WORKSPACE_USER, open, refusal,
};
use crate::wire::{Wire, startup};

#[tokio::test]
async fn a_correct_password_opens_the_database_with_the_databases_role() {
    let lab = Lab::start().await;
    for (user, database, role) in [
        (TENANT_USER, TENANT, "r_acme"),
        (WORKSPACE_USER, WORKSPACE, "r_dev"),
        (PROJECT_USER, TENANT, "r_acme"),
    ] {
        let client = lab.connect(user, database).await.unwrap();
        let row = client
            .query_one("SELECT session_user::text, current_database()::text", &[])
            .await
            .unwrap();
        assert_eq!((row.get(0), row.get(1)), (role, format!("d{role}").as_str()));
    }
    assert_eq!(lab.proxy.metric("logins_total"), 3.0);
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_user_give_the_same_error() {
    let lab = Lab::start().await;
    let mut wrong = lab.config(TENANT_USER, TENANT);
    wrong.password("wrong");
    let (code, message) = refusal(&wrong).await;
    let unknown = refusal(&lab.config("nobody_user", TENANT)).await;
    assert_eq!(code, "28P01");
    assert_eq!(unknown, (code, message.replace(TENANT_USER, "nobody_user")));
    let invalid = refusal(&lab.config("no body \u{1F4A5}", "..")).await;
    assert_eq!(invalid.0, "28P01");
}

#[tokio::test]
async fn after_authentication_errors_distinguish_name_scope_and_state() {
    let lab = Lab::start().await;
    lab.directory.add_route("app__globex", TENANT);
    for (name, state) in [
        ("app__suspended", RouteState::Suspended),
        ("app__deleted", RouteState::Deleted),
        ("app__new", RouteState::NotReady),
        ("app__broken", RouteState::Failed),
    ] {
        lab.directory.add_route(name, TENANT);
        lab.directory.set_route(name, |route| route.state = state);
    }
    let long = format!("app__{}", "x".repeat(59));
    for (user, database, code) in [
        (TENANT_USER, "foo__dev", "3D000"),
        (TENANT_USER, "a__b__c", "3D000"),
        (TENANT_USER, long.as_str(), "3D000"),
        (TENANT_USER, "app__acme\"; --", "3D000"),
        (TENANT_USER, "postgres", "3D000"),
        (TENANT_USER, "other__acme", "3D000"),
        (TENANT_USER, "app__globex", "42501"),
        (TENANT_USER, "app__nobody", "42501"),
        (TENANT_USER, WORKSPACE, "42501"),
        (WORKSPACE_USER, TENANT, "42501"),
        (PROJECT_USER, "app__suspended", "57P03"),
        (PROJECT_USER, "app__deleted", "57P03"),
        (PROJECT_USER, "app__new", "57P03"),
        (PROJECT_USER, "app__broken", "57P03"),
        (PROJECT_USER, "app__nobody", "3D000"),
    ] {
        let refused = open(&lab.config(user, database)).await.expect_err("a refusal");
        let error = refused
            .as_db_error()
            .unwrap_or_else(|| panic!("{database}: {refused:?}"));
        assert_eq!(error.code().code(), code, "{user} at {database}: {error:?}");
        assert!(error.hint().is_some_and(|hint| hint.ends_with('.')), "{error:?}");
    }
    let (_, message) = refusal(&lab.config(TENANT_USER, "foo__dev")).await;
    assert_eq!(message, "invalid database name \"foo__dev\"");
}

#[tokio::test]
async fn a_database_that_was_unknown_is_found_when_it_exists() {
    let lab = Lab::start().await;
    assert_eq!(refusal(&lab.config(PROJECT_USER, "app__late")).await.0, "3D000");
    lab.directory.add_route("app__late", TENANT);
    let deadline = tokio::time::Instant::now() + TIME_MAX;
    while lab.connect(PROJECT_USER, "app__late").await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "still unknown");
    }
}

#[tokio::test]
async fn startup_parameters_reach_the_server() {
    let lab = Lab::start().await;
    let mut config = lab.config(WORKSPACE_USER, WORKSPACE);
    config
        .application_name("my \u{e4}pp")
        .options("-c statement_timeout=1234 -c search_path=\"a\\ b\"");
    let client = open(&config).await.unwrap();
    for (setting, value) in [
        ("statement_timeout", "1234ms"),
        ("search_path", "\"a b\""),
        ("client_encoding", "UTF8"),
        ("tdb.session", "1"),
    ] {
        let row = client.query_one(&format!("SHOW {setting}"), &[]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), value, "{setting}");
    }
    let started = lab.journal.started.lock().unwrap().clone();
    assert_eq!(started.len(), 1);
    assert_eq!(started[0].application_name, "my \u{e4}pp");
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    assert_eq!(started[0].server_pid, pid);

    let tenant = lab.tenant().await;
    let row = tenant
        .query_one("SELECT current_setting('tdb.session', true) IS NULL", &[])
        .await
        .unwrap();
    assert!(row.get::<_, bool>(0), "not set in a tenant's session");
}

#[tokio::test]
async fn the_servers_error_about_a_startup_parameter_reaches_the_client() {
    let lab = Lab::start().await;
    let mut config = lab.config(TENANT_USER, TENANT);
    config.options("-c no_such_setting=1");
    assert_eq!(refusal(&config).await.0, "42704");
    config.options("-c session_replication_role=replica");
    assert_eq!(refusal(&config).await.0, "42501");
}

#[tokio::test]
async fn replication_connections_are_refused() {
    let lab = Lab::start().await;
    for (value, tag) in [("database", b'E'), ("true", b'E'), ("off", b'R')] {
        let mut wire = Wire::dial(&lab).await;
        let parameters = ["user", TENANT_USER, "database", TENANT, "replication", value];
        wire.send_raw(&startup(3 << 16, &parameters)).await;
        let answer = wire.read().await.unwrap();
        assert_eq!(answer.tag, tag, "{value}: {answer:?}");
        if tag == b'E' {
            assert_eq!(answer.field(b'C').as_deref(), Some("0A000"));
        }
    }
}

#[tokio::test]
async fn a_failed_login_to_the_server_is_not_reported_as_a_wrong_password() {
    let lab = Lab::start().await;
    lab.superuser()
        .await
        .batch_execute("ALTER ROLE r_acme PASSWORD 'another'")
        .await
        .unwrap();
    assert_eq!(refusal(&lab.config(TENANT_USER, TENANT)).await.0, "08006");
    let gone = tdb_testkit::free_port().unwrap();
    lab.directory.set_server(WORKSPACE, |server| server.port = gone);
    assert_eq!(refusal(&lab.config(WORKSPACE_USER, WORKSPACE)).await.0, "08006");
}

#[tokio::test]
async fn newer_protocols_are_negotiated_and_have_longer_cancel_keys() {
    let lab = Lab::start().await;
    let own = ["user", TENANT_USER, "database", TENANT];
    for (version, option, negotiated, key_len) in [
        (3 << 16, None, None, 4),
        ((3 << 16) | 2, None, None, 32),
        ((3 << 16) | 9999, None, Some(2), 32),
        (3 << 16, Some("_pq_.later"), Some(0), 4),
    ] {
        let mut wire = Wire::dial(&lab).await;
        let mut texts = own.to_vec();
        texts.extend(option.iter().flat_map(|option| [*option, "1"]));
        wire.send_raw(&startup(version, &texts)).await;
        if let Some(minor) = negotiated {
            let answer = wire.read().await.unwrap();
            assert_eq!((answer.tag, &answer.body[..4]), (b'v', &[0, 3, 0, minor][..]));
            assert_eq!(answer.body[7], u8::from(option.is_some()));
        }
        wire.authenticate(crate::support::PASSWORD).await.unwrap();
        wire.until_ready().await.unwrap();
        assert_eq!(wire.secret.len(), key_len, "{version:#x}");
    }
}

#[tokio::test]
async fn a_startup_packet_can_arrive_byte_by_byte() {
    let lab = Lab::start().await;
    let mut wire = Wire::dial(&lab).await;
    for byte in startup(3 << 16, &["user", TENANT_USER, "database", TENANT]) {
        wire.send_raw(&[byte]).await;
        tokio::task::yield_now().await;
    }
    wire.authenticate(crate::support::PASSWORD).await.unwrap();
    wire.until_ready().await.unwrap();
}

#[tokio::test]
async fn the_login_timeout_applies_at_every_stage() {
    let settings = ProxySettings {
        login_timeout: Duration::from_millis(300),
        ..ProxySettings::default()
    };
    let lab = Lab::start_with(Options {
        settings,
        ..Options::default()
    })
    .await;
    let whole = startup(3 << 16, &["user", TENANT_USER, "database", TENANT]);
    for sent in [&[][..], &whole[..3], &whole[..9], &whole] {
        let mut wire = Wire::dial(&lab).await;
        wire.send_raw(sent).await;
        while wire.read().await.is_some() {}
    }
    assert_eq!(lab.proxy.metric("logins_total"), 4.0);
}

#[tokio::test]
async fn cached_users_can_log_in_while_the_control_plane_is_unavailable() {
    let lab = Lab::start().await;
    lab.tenant().await;
    lab.directory.become_unavailable();
    lab.tenant().await;
    assert_eq!(refusal(&lab.config(WORKSPACE_USER, WORKSPACE)).await.0, "57P03");
    assert!(lab.directory.credentials_asked.load(Ordering::SeqCst) >= 2);
}
