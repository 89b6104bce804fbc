//! The life of a development instance: start, stop, `kill -9`, a second one, taken ports. Real processes, real PostgreSQL.
#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::sys::signal::kill;
use support::{Home, http_get};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn dev_starts_serves_and_stops_its_postgresql_with_itself() {
    let home = Home::new();
    let mut dev = home.start();
    let metrics = dev.fact("metrics_url").to_owned();
    assert_eq!(http_get(&format!("{metrics}/readyz"), None).0, 200);
    assert_eq!(http_get(&format!("{metrics}/healthz"), None).0, 200);
    let (status, text) = http_get(&format!("{metrics}/metrics"), None);
    assert!(
        status == 200 && text.contains("process_resident_memory_bytes"),
        "{text}"
    );
    let projects = format!("{}/projects", dev.fact("api_url"));
    assert_eq!(http_get(&projects, None).0, 401);
    assert_eq!(http_get(&projects, Some(dev.fact("api_key"))).0, 200);
    let proxy = dev.facts["proxy"]["postgres"].as_str().unwrap().to_owned();
    TcpStream::connect(&proxy).unwrap();

    let postmaster = dev.postmaster().unwrap();
    assert!(dev.stop().success());
    assert!(kill(postmaster, None).is_err(), "its PostgreSQL still runs");
    assert!(TcpStream::connect(&proxy).is_err());
}

#[test]
fn the_files_of_dev_are_private_and_let_tdb_find_it() {
    let home = Home::new();
    let mut dev = home.start();
    let data = home.data().canonicalize().unwrap();
    for secret in [
        "dev.json",
        "master-key",
        "api-key",
        "administrator-password",
        "store-password",
        "proxy.key",
    ] {
        assert_eq!(mode(&data.join(secret)), 0o600, "{secret}");
    }
    assert_eq!(mode(&data.join("run")), 0o700);
    let entries = home.state().join("tenantsdb/dev.d");
    let entry = fs::read_dir(&entries).unwrap().next().unwrap().unwrap().path();
    let noted = fs::read_to_string(&entry).unwrap();
    assert_eq!(noted.trim(), data.to_str().unwrap());
    assert!(
        !dev.ready.to_string().contains(dev.fact("api_key")),
        "the readiness line holds no secret"
    );
    dev.stop();
    assert!(!data.join("dev.json").exists(), "a stopped instance is not advertised");
    assert_eq!(fs::read_dir(&entries).unwrap().count(), 0);
}

#[test]
fn the_same_data_and_key_are_there_after_a_kill_with_an_orphaned_postgresql() {
    let home = Home::new();
    let mut dev = home.start();
    let key = dev.fact("api_key").to_owned();
    let orphan = dev.postmaster().unwrap();
    dev.kill();
    assert!(
        kill(orphan, None).is_ok(),
        "its PostgreSQL ended with it, nothing to test"
    );
    let mut again = home.start();
    assert_ne!(again.postmaster(), Some(orphan));
    let projects = format!("{}/projects", again.fact("api_url"));
    assert_eq!(http_get(&projects, Some(&key)).0, 200);
    assert!(again.stop().success());
}

#[test]
fn a_second_dev_on_the_same_directory_is_refused_and_the_first_continues() {
    let home = Home::new();
    let mut dev = home.start();
    let refusal = home.refused(&[]);
    assert!(
        refusal.contains("another tenantsdb") && refusal.contains("--data-dir"),
        "{refusal}"
    );
    let ready = format!("{}/readyz", dev.fact("metrics_url"));
    assert_eq!(http_get(&ready, None).0, 200);
    assert!(dev.stop().success());
}

#[test]
fn a_taken_port_is_named_with_the_flag_that_changes_it() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for option in ["--postgres-port", "--api-port", "--metrics-port", "--upstream-port"] {
        let home = Home::new();
        let refusal = home.refused(&[option, &port]);
        assert!(
            refusal.contains(&format!("port {port}")) && refusal.contains(option),
            "{option}: {refusal}"
        );
    }
}

#[test]
fn reset_begins_with_an_empty_directory() {
    let home = Home::new();
    let mut dev = home.start();
    let key = dev.fact("api_key").to_owned();
    dev.kill();
    let mut again = home.start_with(&["--reset"]);
    assert_ne!(again.fact("api_key"), key);
    assert!(again.stop().success());
}
