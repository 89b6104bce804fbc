//! The text that `tenantsdb dev` prints when it is ready: addresses, and commands that can be pasted.

use std::env;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::facts::Facts;

/// The text, which ends with a newline.
pub(crate) fn text(facts: &Facts, directory: &Path) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "\nTenantsDB is ready.\n");
    let _ = writeln!(text, "  PostgreSQL proxy  {}", facts.proxy.postgres);
    let _ = writeln!(text, "  admin API         {}", facts.api_url);
    let _ = writeln!(text, "  metrics, health   {}", facts.metrics_url);
    let _ = writeln!(
        text,
        "  data, API key     {} (the key is in dev.json)",
        directory.display()
    );
    let _ = writeln!(
        text,
        "  certificate       {} (for sslmode=verify-full: sslrootcert)",
        directory.join("proxy.crt").display()
    );
    let _ = writeln!(text, "\nIn another terminal; tdb finds this instance:\n");
    if let Some(bin) = directory_of_tdb_off_the_path() {
        let _ = writeln!(text, "  export PATH=\"{}:$PATH\"", bin.display());
    }
    text.push_str(STORY);
    text
}

/// The names differ from those of the README, so that its commands work on the same instance.
const STORY: &str = r#"  tdb workspaces create --name hello --database PostgreSQL      # prints a connection string, its password once
  tdb psql hello_dev -- -c 'CREATE TABLE users (id int PRIMARY KEY, email text)'
  tdb workspaces diff hello                                     # what was captured
  tdb tenants create --name world --blueprint hello             # prints the tenant's credential
  tdb psql hello__world -- -c 'SELECT * FROM users'             # same schema, separate data
  tdb psql hello_dev -- -c 'ALTER TABLE users ADD COLUMN phone text'
  tdb deployments create --blueprint hello --all --watch        # the change reaches every tenant
  tdb query --blueprint hello --all --query 'select count(*) from users'

Ctrl-C stops it; the data is kept.
"#;

/// The directory of this program if it contains `tdb` and no directory in PATH does.
fn directory_of_tdb_off_the_path() -> Option<PathBuf> {
    let bin = env::current_exe().ok()?.parent()?.to_owned();
    let path = env::var_os("PATH").unwrap_or_default();
    let reachable = env::split_paths(&path).any(|dir| dir.join("tdb").is_file());
    (bin.join("tdb").is_file() && !reachable).then_some(bin)
}
