//! What the script of an extension does is no statement of the developer, in whatever form the extension is created: every
//! extension of the server that a workspace may create, and one whose script runs with the developer's rights.

use serde_json::Value;
use tdb_tests::installation::{Written, with_extensions};
use tdb_tests::{Instance, InstanceOptions, psql};
use tempfile::TempDir;

/// The extensions that a workspace may have, with their scripts' rights: the developer's for `trusted`.
fn creatable(instance: &Instance, workspace: &str, url: &str) -> Vec<(String, bool)> {
    let answer = instance.api().get(&format!("/workspaces/{workspace}/extensions")).ok();
    let names = answer["extensions"].as_array().expect("a list").iter();
    let names: Vec<&str> = names.filter_map(|extension| extension["name"].as_str()).collect();
    let installable =
        "SELECT v.name || ' ' || (v.trusted OR v.requires IS NULL AND NOT v.superuser) FROM pg_available_extensions a
                         JOIN pg_available_extension_versions v ON v.name = a.name AND v.version = a.default_version
                        WHERE a.name <> 'plpgsql' ORDER BY 1";
    let rows = psql(url, installable).ok();
    let rows = rows.text().lines().filter_map(|line| line.rsplit_once(' '));
    rows.filter(|(name, _)| names.contains(name))
        .map(|(name, open)| (name.to_owned(), open == "true"))
        .collect()
}

#[tokio::test]
async fn every_extension_is_captured_beside_another_statement_and_in_a_block() {
    let dir = TempDir::new().expect("a directory");
    let dropping = "CREATE FUNCTION passing() RETURNS int LANGUAGE sql AS 'SELECT 1'; DROP FUNCTION passing(); \
                    DO $$ BEGIN CREATE TYPE passing AS (a int); DROP TYPE passing; END $$;";
    let written = [
        ("drops_as_client", "superuser = false"),
        ("drops_trusted", "trusted = true"),
    ];
    let written = written.map(|(name, control)| Written {
        name,
        control,
        script: dropping,
    });
    let mut options = InstanceOptions::default();
    let bin = with_extensions(dir.path(), &written).display().to_string();
    options.environment.push(("PG_BIN_DIR".to_owned(), bin));
    let instance = Instance::start_with(&options);
    let (message, block) = (instance.workspace("messages"), instance.workspace("blocks"));
    let extensions = creatable(&instance, "messages", &message.url);
    for name in ["hstore", "drops_as_client", "drops_trusted", "bloom"] {
        assert!(
            extensions.iter().any(|(known, _)| known == name),
            "{name}: {extensions:?}"
        );
    }
    let (messages, blocks) = (message.connect().await, block.connect().await);
    for (number, (name, open)) in extensions.iter().enumerate() {
        let text = format!("CREATE EXTENSION IF NOT EXISTS \"{name}\" CASCADE; CREATE TABLE of_{number} (i int)");
        messages
            .batch_execute(&text)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error:?}"));
        // The others cannot be created in a block.
        if *open {
            let text = format!("DO $$ BEGIN {text}; END $$");
            blocks
                .batch_execute(&text)
                .await
                .unwrap_or_else(|error| panic!("{name}: {error:?}"));
        }
        for notice in messages.notices().iter().chain(&blocks.notices()) {
            assert_ne!(notice.severity(), "WARNING", "{name}: {notice:?}");
        }
    }
    for workspace in [message, block] {
        instance.prove(&workspace);
        assert_eq!(instance.diff(&workspace.name), Vec::<Value>::new());
    }
}
