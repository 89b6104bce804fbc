//! A Python with the drivers that `make test` uses, in a virtual environment under the target directory.

use std::env;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::{run, target_dir, workspace_root};

const DRIVERS: [&str; 4] = ["psycopg[binary]", "psycopg2-binary", "asyncpg", "pg8000"];

/// The interpreter. Installs missing packages, in the versions of `make test-clients`.
pub fn python() -> PathBuf {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(make).clone()
}

fn make() -> PathBuf {
    let venv = target_dir().join("python");
    let python = venv.join("bin/python");
    let versions = workspace_root().join("tests/clients/python/requirements.txt");
    let wanted = fs::read_to_string(&versions).expect("read requirements.txt");
    let installed = venv.join("requirements.txt");
    // Several test binaries run at the same time.
    let lock = File::create(target_dir().join("python.lock")).expect("a lock file");
    lock.lock().expect("lock the virtual environment");
    if fs::read_to_string(&installed).is_ok_and(|found| found == wanted) {
        return python;
    }
    let base = env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
    let mut command = Command::new(base);
    command.args(["-m", "venv", "--clear"]).arg(&venv);
    run(command, "").ok();
    let mut command = Command::new(&python);
    command
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--constraint",
        ])
        .arg(&versions)
        .args(DRIVERS);
    run(command, "").ok();
    fs::write(installed, wanted).expect("note what is installed");
    python
}
