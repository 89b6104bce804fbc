//! PostgreSQL installations with extensions that the machine's installation does not have.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{clean, pg_program, run, target_dir};

const PGVECTOR_PACKAGE: &str = "pgserver==0.1.4";

/// An extension defined by a test: its name, control file and script.
pub struct Written<'a> {
    pub name: &'a str,
    pub control: &'a str,
    pub script: &'a str,
}

/// The bin directory of a copy of the machine's PostgreSQL that also has these extensions, in version 1.0. The server finds
/// its files relative to its program, so the programs are copied and everything else is linked.
pub fn with_extensions(into: &Path, extensions: &[Written<'_>]) -> PathBuf {
    let [bin, share, library] = ["--bindir", "--sharedir", "--pkglibdir"].map(configured);
    let prefix = |path: &Path| -> PathBuf { into.join(path.strip_prefix("/").expect("an absolute path")) };
    let made = prefix(&bin);
    fs::create_dir_all(&made).expect("make a directory");
    for entry in fs::read_dir(&bin).expect("list the programs") {
        let program = entry.expect("a program").path();
        let name = program.file_name().expect("a name").to_owned();
        if name == "postgres" || name == "initdb" {
            fs::copy(&program, made.join(name)).expect("copy a program");
        } else {
            link(&program, &made.join(name));
        }
    }
    link(&library, &prefix(&library));
    let extension = prefix(&share).join("extension");
    fs::create_dir_all(&extension).expect("make a directory");
    for entry in fs::read_dir(&share).expect("list the files") {
        let file = entry.expect("a file").path();
        if file.file_name().is_some_and(|name| name != "extension") {
            link(&file, &prefix(&file));
        }
    }
    for entry in fs::read_dir(share.join("extension")).expect("list the extensions") {
        let file = entry.expect("a file").path();
        link(&file, &prefix(&file));
    }
    for written in extensions {
        let control = format!("default_version = '1.0'\n{}", written.control);
        fs::write(extension.join(format!("{}.control", written.name)), control).expect("write a control file");
        fs::write(extension.join(format!("{}--1.0.sql", written.name)), written.script).expect("write a script");
    }
    open(into);
    made
}

/// The bin directory of a PostgreSQL with pgvector: the machine's if it has pgvector, otherwise one from a PyPI package (11
/// MB). Debian 12 has no pgvector.
pub fn with_pgvector() -> PathBuf {
    if configured("--sharedir").join("extension/vector.control").exists() {
        return configured("--bindir");
    }
    let dir = target_dir().join("pgvector");
    let bin = dir.join("pgserver/pginstall/bin");
    let complete = dir.join("complete");
    if complete.exists() {
        return bin;
    }
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("make a directory");
    let python = crate::python();
    let mut download = Command::new(&python);
    // The package's Python modules are not used, so it need not match this Python version.
    download
        .args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ])
        .args(["--only-binary=:all:", "--python-version", "3.12", "--dest"])
        .args([dir.as_os_str(), PGVECTOR_PACKAGE.as_ref()]);
    run(download, "").ok();
    let wheel = fs::read_dir(&dir)
        .expect("list the download")
        .filter_map(|entry| Some(entry.ok()?.path()));
    let wheel = wheel
        .into_iter()
        .find(|path| path.extension().is_some_and(|end| end == "whl"));
    let mut unpack = Command::new(&python);
    unpack
        .args(["-m", "zipfile", "-e"])
        .args([&wheel.expect("a wheel"), &dir]);
    run(unpack, "").ok();
    for entry in fs::read_dir(&bin).expect("list the programs") {
        let program = entry.expect("a program").path();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("make it a program");
    }
    open(&dir);
    fs::write(complete, "").expect("note what is installed");
    bin
}

fn configured(what: &str) -> PathBuf {
    let mut command = clean(pg_program("pg_config"));
    command.arg(what);
    PathBuf::from(run(command, "").ok().text())
}

fn link(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().expect("a parent")).expect("make a directory");
    symlink(from, to).expect("link a file");
}

/// Makes a directory readable for all: PostgreSQL runs as another user when the tests run as root.
fn open(dir: &Path) {
    let mut command = clean("chmod");
    command.args(["-R", "a+rX"]).arg(dir);
    run(command, "").ok();
}
