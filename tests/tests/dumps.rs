//! Dumps of a workspace and of a tenant contain no foreign roles and no objects of TenantsDB.

use std::fs;
use std::process::Command;
use std::sync::OnceLock;

use tdb_tests::{Instance, clean, fixture, pg_dump, pg_program, psql, psql_file, run, schema_dump};

static INSTANCE: OnceLock<Instance> = OnceLock::new();

fn instance() -> &'static Instance {
    INSTANCE.get_or_init(Instance::start)
}

#[test]
fn owners_and_grants_by_name_are_symbolic() {
    let workspace = instance().workspace("grants");
    let role = psql(&workspace.url, "SELECT current_user").ok().text().to_owned();
    let sql = format!(
        "CREATE TABLE g (id int); ALTER TABLE g OWNER TO {role}; GRANT SELECT ON g TO {role}, PUBLIC;
         CREATE POLICY p ON g TO {role} USING (true);
         ALTER DEFAULT PRIVILEGES FOR ROLE {role} GRANT SELECT ON TABLES TO PUBLIC;
         GRANT INSERT ON g TO CURRENT_USER;"
    );
    psql(&workspace.url, &sql).ok();
    let tenant = instance().prove(&workspace);
    let own = psql(&tenant.url, "SELECT current_user").ok().text().to_owned();
    let dump = pg_dump(&tenant.url, &["--schema-only"]).ok().stdout;
    assert!(!dump.contains(&role) && dump.contains(&own), "{dump}");
}

#[test]
fn a_dump_shows_no_object_of_ours_and_restores_with_clean() {
    let workspace = instance().workspace("clean");
    psql_file(&workspace.url, &fixture("schema.sql")).ok();
    let tenant = instance().prove(&workspace);
    for url in [&workspace.url, &tenant.url] {
        let dump = pg_dump(url, &[]).ok().stdout;
        for ours in [
            "tdb.",
            "SCHEMA tdb",
            "EVENT TRIGGER",
            "deployed_change",
            "ddl_event",
            "plpgsql WITH",
        ] {
            assert!(!dump.contains(ours), "{ours} in the dump of {url}");
        }
        let file = instance().data_dir().join("clean.dump");
        pg_dump(url, &["-Fc", "-f", file.to_str().expect("a path")]).ok();
        let before = schema_dump(url, "nobody");
        let mut command: Command = clean(pg_program("pg_restore"));
        command
            .args(["--clean", "--if-exists", "--exit-on-error", "-d", url])
            .arg(&file);
        run(command, "").ok();
        assert_eq!(schema_dump(url, "nobody"), before);
        fs::remove_file(&file).expect("remove the dump");
    }
}
