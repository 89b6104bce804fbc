//! Limits on clients, and exhausted file descriptors.

use std::num::NonZeroU32;
use std::process::Command;
use std::time::Duration;

use tdb_proxy::ProxySettings;

use crate::support::{Lab, Options, TENANT, TENANT_USER, WORKSPACE, WORKSPACE_USER, at_most, open};

#[tokio::test]
async fn an_error_beyond_the_limit_names_the_limit() {
    let settings = ProxySettings {
        clients_max: NonZeroU32::new(2).unwrap(),
        ..ProxySettings::default()
    };
    let lab = Lab::start_with(Options {
        settings,
        ..Options::default()
    })
    .await;
    let kept = [lab.tenant().await, lab.tenant().await];
    let refused = open(&lab.config(TENANT_USER, TENANT)).await.err().unwrap();
    let error = refused.as_db_error().unwrap();
    assert_eq!(
        (error.code().code(), error.detail()),
        ("53300", Some("The proxy's limit clients_max is 2."))
    );
    drop(kept);
    while lab.connect(TENANT_USER, TENANT).await.is_err() {}
}

#[tokio::test]
async fn the_limit_of_one_database_does_not_affect_others() {
    let lab = Lab::start().await;
    lab.directory.set_route(TENANT, |route| route.limits = at_most(1));
    let kept = lab.tenant().await;
    let refused = open(&lab.config(TENANT_USER, TENANT)).await.err().unwrap();
    let error = refused.as_db_error().unwrap();
    let expected = ("53300", Some("The tenant's limit clients_max is 1."));
    assert_eq!((error.code().code(), error.detail()), expected);
    lab.connect(WORKSPACE_USER, WORKSPACE).await.unwrap();
    drop(kept);
    while lab.connect(TENANT_USER, TENANT).await.is_err() {}
}

/// Runs [`few_files`] in a separate process with a low limit on open files.
#[test]
fn the_accept_loop_survives_running_out_of_file_descriptors() {
    let own = std::env::current_exe().unwrap();
    let script = "ulimit -n 256; exec \"$0\" --exact limits::few_files --nocapture";
    let output = Command::new("/bin/sh")
        .args(["-c", script])
        .arg(own)
        .env("FEW_FILES", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[tokio::test]
async fn few_files() {
    if std::env::var_os("FEW_FILES").is_none() {
        return;
    }
    let lab = Lab::start().await;
    // After a first connection, the proxy has opened all files that it keeps.
    let served = lab.tenant().await;
    let (mut files, mut waiting) = (Vec::new(), Vec::new());
    let exhausted = async {
        while lab.proxy.metric("accept_errors_total") == 0.0 {
            while let Ok(file) = std::fs::File::open("/dev/null") {
                files.push(file);
            }
            // One descriptor for this end of the connection. The proxy then has none for its end, unless it has closed a file.
            files.pop();
            waiting.extend(tokio::net::TcpStream::connect(lab.proxy.address).await.ok());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), exhausted).await.unwrap();
    drop((files, waiting, served));
    lab.tenant().await.batch_execute("SELECT 1").await.unwrap();
}
