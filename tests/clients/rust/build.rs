//! Which version of each driver Cargo.lock holds, for the report.

use std::fs;

fn main() {
    println!("cargo::rerun-if-changed=Cargo.lock");
    println!("cargo::rerun-if-changed=migrations");
    let lock = fs::read_to_string("Cargo.lock").expect("read Cargo.lock");
    for driver in ["tokio-postgres", "sqlx", "diesel"] {
        let entry = format!("name = \"{driver}\"\nversion = \"");
        let (_, rest) = lock.split_once(&entry).expect("the driver is locked");
        let (version, _) = rest.split_once('"').expect("a version");
        println!(
            "cargo::rustc-env={}_VERSION={version}",
            driver.to_uppercase().replace('-', "_")
        );
    }
}
