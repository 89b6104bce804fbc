//! The errors of an invalid configuration: all at once, by key, with exit status 64.

mod support;

use std::fs;

use support::{said, tenantsdb};
use tempfile::TempDir;

const EXIT_CONFIG: Option<i32> = Some(64);

#[test]
fn serve_and_check_name_all_problems_and_end_with_64() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("proxy.toml");
    fs::write(
        &file,
        "[proxy]\nlisten = \"x\"\nports = 2\n[store]\nurl = { env = \"NO_SUCH_VARIABLE\" }\n",
    )
    .unwrap();
    for command in ["serve", "check"] {
        let output = tenantsdb(&[command, "--config"]).arg(&file).output().unwrap();
        let text = said(&output);
        assert_eq!(output.status.code(), EXIT_CONFIG, "{text}");
        for part in [
            "proxy.listen: ",
            "proxy.ports: is not an option",
            "store.url: environment variable NO_SUCH_VARIABLE is not set",
            "secrets.master_key: is missing",
        ] {
            assert!(text.contains(part), "{command} should say {part}: {text}");
        }
    }
}

#[test]
fn wrong_options_and_variables_are_answered_with_what_is_expected() {
    let dir = TempDir::new().unwrap();
    for (option, variable, expected) in [
        ("--api-port=70000", "info", "must be a port number from 0 to 65535"),
        ("--upstream-port=x", "info", "must be a port number from 0 to 65535"),
        ("--json", "a=b=c", "TENANTSDB_LOG is invalid"),
        ("--json", "a=b=c", "the log level must be \"error\", "),
    ] {
        let mut command = tenantsdb(&["dev", option, "--data-dir"]);
        let output = command.arg(dir.path()).env("TENANTSDB_LOG", variable).output().unwrap();
        assert!(
            !output.status.success() && said(&output).contains(expected),
            "{}",
            said(&output)
        );
    }
}

#[test]
fn an_absent_file_is_a_wrong_configuration() {
    let output = tenantsdb(&["serve", "--config", "/no/such/proxy.toml"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), EXIT_CONFIG);
    assert!(said(&output).contains("/no/such/proxy.toml"));
}

#[test]
fn every_command_shows_an_example_in_its_help() {
    for command in [
        &[][..],
        &["dev"],
        &["serve"],
        &["check"],
        &["migrate"],
        &["migrate", "status"],
        &["migrate", "up"],
    ] {
        let output = tenantsdb(&[command, &["--help"]].concat()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && text.contains("  tenantsdb "),
            "{command:?}: {text}"
        );
    }
}
