//! Builds `tenantsdb` and `tdb` once per test process, in the target directory of the test. Debug builds, since only they
//! have the fault points that the kill tests need.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The paths of the two programs.
#[derive(Clone, Debug)]
pub struct Binaries {
    pub tenantsdb: PathBuf,
    pub tdb: PathBuf,
}

impl Binaries {
    /// Builds them, or uses those in the directory `TDB_TEST_BINARIES`.
    pub fn built() -> &'static Binaries {
        static BUILT: OnceLock<Binaries> = OnceLock::new();
        BUILT.get_or_init(|| match env::var_os("TDB_TEST_BINARIES") {
            Some(dir) => Binaries::of(Path::new(&dir)),
            None => build(),
        })
    }

    fn of(dir: &Path) -> Self {
        Self {
            tenantsdb: dir.join("tenantsdb"),
            tdb: dir.join("tdb"),
        }
    }
}

/// The cargo target directory that this test process was built in.
pub fn target_dir() -> PathBuf {
    let exe = env::current_exe().expect("own path");
    // <target>/<profile>/deps/<test>
    exe.ancestors().nth(3).expect("a target directory").to_owned()
}

pub fn workspace_root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("the workspace's root").to_owned()
}

fn build() -> Binaries {
    let target = target_dir();
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--quiet", "-p", "tdb-server", "-p", "tdb-cli", "--target-dir"])
        .arg(&target)
        .current_dir(workspace_root())
        .output()
        .expect("run cargo build");
    assert!(
        output.status.success(),
        "the binaries under test do not build:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Binaries::of(&target.join("debug"))
}
