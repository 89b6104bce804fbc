//! README and `docs/` are true: all their shell commands run, page by page, each page on a separate instance, in the order
//! of the page; their lists equal those of the product; and their links have targets.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tdb_problems::ProblemCode;
use tdb_testkit::{Cluster, free_port};
use tdb_tests::{
    Binaries, Block, Instance, Page, Ran, clean, is_generated, pg_program, psql, run, url_with, workspace_root,
};
use tempfile::TempDir;

/// The languages of blocks that show output and are not executed.
const OUTPUT: [&str; 2] = ["console", "text"];
/// A block continues with the variables of the block before it.
const SHELL: &str = r#"
set -aeuo pipefail
[ ! -e "$STATE" ] || . "$STATE"
trap 'declare -x > "$STATE"' EXIT
"#;

/// Executes a page, with the addresses of a machine on which nothing else runs.
struct Reader {
    home: TempDir,
    environment: Vec<(String, String)>,
    /// Addresses as in the pages, and the actual ones.
    addresses: Vec<(&'static str, String)>,
}

impl Reader {
    /// With a running `tenantsdb dev`.
    fn of(instance: &Instance) -> Self {
        let address = |url: &str| url.trim_start_matches("http://").to_owned();
        Self::new(
            vec![("XDG_STATE_HOME".to_owned(), instance.state_home().display().to_string())],
            vec![
                ("127.0.0.1:6432", instance.proxy().to_owned()),
                ("127.0.0.1:9876", address(instance.api_url())),
                ("127.0.0.1:9877", address(instance.metrics_url())),
            ],
        )
    }

    /// With a PostgreSQL server and its superuser, without TenantsDB.
    fn with_a_server(cluster: &Cluster) -> Self {
        let free = || format!("127.0.0.1:{}", free_port().expect("a free port"));
        let superuser = [
            ("PGHOST", cluster.host().to_owned()),
            ("PGPORT", cluster.port().to_string()),
            ("PGUSER", cluster.superuser().to_owned()),
            ("PGPASSWORD", cluster.password().to_owned()),
        ];
        Self::new(
            superuser.map(|(name, value)| (name.to_owned(), value)).into(),
            vec![
                ("127.0.0.1:5432", format!("{}:{}", cluster.host(), cluster.port())),
                ("127.0.0.1:6432", free()),
                ("127.0.0.1:9876", free()),
                ("127.0.0.1:9877", free()),
            ],
        )
    }

    fn new(mut environment: Vec<(String, String)>, addresses: Vec<(&'static str, String)>) -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let ours = Binaries::built().tdb.parent().expect("a directory").to_owned();
        let postgres = pg_program("psql").parent().expect("a directory").to_owned();
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let path = [ours, postgres].into_iter().chain(std::env::split_paths(&inherited));
        let path = std::env::join_paths(path).expect("a path");
        environment.extend([
            ("PATH".to_owned(), path.into_string().expect("a path")),
            ("HOME".to_owned(), home.path().display().to_string()),
            (
                "XDG_CONFIG_HOME".to_owned(),
                home.path().join("config").display().to_string(),
            ),
        ]);
        Self {
            home,
            environment,
            addresses,
        }
    }

    /// Executes the blocks of a page in order.
    #[track_caller]
    fn reads(&self, file: &str) {
        let page = Page::read(file);
        let blocks = page.blocks.iter().filter(|block| block.language == "sh");
        let blocks: Vec<_> = blocks.filter(|block| block.mark("not run").is_none()).collect();
        assert!(!blocks.is_empty(), "{file} has nothing to run");
        for block in blocks {
            let ran = self.runs(&block.text);
            let at = format!("{file}:{}", block.line);
            let said = format!("{}{}", ran.stdout, ran.stderr);
            match block.mark("fails") {
                None => assert_eq!(ran.code, 0, "{at} ended with {}:\n{}\n{said}", ran.code, block.text),
                Some(text) => assert!(
                    ran.code != 0 && said.contains(text),
                    "{at} should fail saying \"{text}\", but ended with {}:\n{said}",
                    ran.code
                ),
            }
            for text in block.marks("prints") {
                assert!(said.contains(text), "{at} should print \"{text}\":\n{said}");
            }
        }
    }

    /// The commands that `tenantsdb dev` prints when it is ready.
    fn proposals(&self) {
        let source = workspace_root().join("crates/tdb-server/src/dev/welcome.rs");
        let text = fs::read_to_string(source)
            .expect("the welcome's source")
            .replace("r#\"", "\n");
        let commands: Vec<&str> = text.lines().filter(|line| line.starts_with("  tdb ")).collect();
        assert!(commands.len() > 5, "{text}");
        for command in commands {
            self.runs(command).ok();
        }
    }

    fn runs(&self, text: &str) -> Ran {
        let text = self
            .addresses
            .iter()
            .fold(text.to_owned(), |text, (of_page, here)| text.replace(of_page, here));
        let script = self.home.path().join("block.sh");
        fs::write(&script, format!("{SHELL}{text}")).expect("write a block");
        // Processes that it leaves running must not hold its output open.
        let mut command = clean("bash");
        command
            .arg(&script)
            .current_dir(self.home.path())
            .env("STATE", self.home.path().join("state"))
            .env_remove("TDB_API_URL")
            .env_remove("TDB_API_KEY")
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        run(command, "")
    }
}

/// Ends the processes that the blocks left running.
impl Drop for Reader {
    fn drop(&mut self) {
        let home = format!("HOME={}", self.home.path().display());
        for process in fs::read_dir("/proc").expect("processes").flatten() {
            let environment = fs::read(process.path().join("environ")).unwrap_or_default();
            let ours = environment.split(|byte| *byte == 0).any(|pair| pair == home.as_bytes());
            if let Some(pid) = ours.then(|| process.file_name().to_str()?.parse().ok()).flatten() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

macro_rules! pages {
    ($($test:ident: $file:literal,)*) => {
        $(
            #[test]
            fn $test() {
                Reader::of(&Instance::start()).reads($file);
            }
        )*
        const ON_DEV: &[&str] = &[$($file),*];
    };
}

pages! {
    the_readme_runs: "README.md",
    the_api_runs: "docs/api.md",
    the_cli_runs: "docs/cli.md",
    concepts_run: "docs/concepts.md",
    configuration_runs: "docs/configuration.md",
    connecting_runs: "docs/connecting.md",
    limits_run: "docs/limits.md",
}

const ON_A_SERVER: &str = "docs/operating.md";

/// The pages are executed in the order of the README, on one instance.
#[test]
fn the_pages_can_be_executed_in_the_readmes_order_on_one_instance() {
    let readme = fs::read_to_string(workspace_root().join("README.md")).expect("the README");
    let (_, table) = readme.split_once("## Documents").expect("the list of documents");
    let rows = table.lines().filter(|line| line.starts_with("| ["));
    let listed = rows.filter_map(|row| links(row).next());
    let order: Vec<&str> = ["README.md"]
        .into_iter()
        .chain(listed.filter(|file| ON_DEV.contains(file)))
        .collect();
    assert_eq!(order.len(), ON_DEV.len(), "the README lists every page: {order:?}");
    let instance = Instance::start();
    // The commands that `make dev` suggests come first.
    Reader::of(&instance).proposals();
    for page in order {
        Reader::of(&instance).reads(page);
    }
}

#[test]
fn operating_runs() {
    let cluster = Cluster::start().expect("a cluster");
    Reader::with_a_server(&cluster).reads(ON_A_SERVER);
}

#[test]
fn systemd_accepts_the_unit() {
    let unit = workspace_root().join("deploy/tenantsdb.service");
    let text = fs::read_to_string(&unit).expect("the unit");
    let dir = tempfile::tempdir().expect("a directory");
    let copy = dir.path().join("tenantsdb.service");
    // systemd checks whether the program exists.
    let binary = Binaries::built().tenantsdb.display().to_string();
    fs::write(&copy, text.replace("/usr/local/bin/tenantsdb", &binary)).expect("copy the unit");
    let mut command = clean("systemd-analyze");
    command.args(["verify", "--man=no"]).arg(&copy);
    match Command::new("systemd-analyze").arg("--version").output() {
        // It also checks the units that this one is ordered after.
        Ok(_) => {
            let said = run(command, "").ok().stderr;
            let own: Vec<&str> = said.lines().filter(|line| line.contains("tenantsdb")).collect();
            assert!(own.is_empty(), "{own:#?}");
        }
        Err(_) => eprintln!("the unit is not verified: no systemd-analyze on this machine"),
    }
}

/// Shell blocks are run here, client programs by `make test-clients`.
#[test]
fn the_cli_page_has_every_command() {
    for page in Page::all() {
        let here = page.file == ON_A_SERVER || ON_DEV.contains(&page.file.as_str());
        for block in &page.blocks {
            let at = format!("{}:{}", page.file, block.line);
            let known = |kind: &str| ["not run", "prints", "fails", "client"].contains(&kind);
            assert!(block.kinds_of_marks().all(known), "{at} has an unknown annotation");
            let runs = match block.language.as_str() {
                "sh" => here || block.mark("not run").is_some(),
                language => OUTPUT.contains(&language) || block.mark("client").is_some(),
            };
            assert!(runs, "{at} is run by no test");
        }
    }
}

#[test]
fn links_have_targets() {
    let pages = Page::all();
    for page in &pages {
        let directory = Path::new(&page.file).parent().expect("a directory");
        for target in links(&page.text).filter(|target| !target.contains("://")) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = match file {
                "" => workspace_root().join(&page.file),
                file => workspace_root().join(directory).join(file),
            };
            assert!(path.exists(), "{}: no {target}", page.file);
            if !anchor.is_empty() {
                let text = fs::read_to_string(&path).expect("a page");
                assert!(anchors(&text).contains(anchor), "{}: no {target}", page.file);
            }
        }
    }
    assert!(
        pages.iter().any(|page| links(&page.text).next().is_some()),
        "the search itself works"
    );
}

fn links(text: &str) -> impl Iterator<Item = &str> {
    let parts = text.split("](").skip(1);
    parts.filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
}

/// The anchors that common renderers create for headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let titles = headings.map(|line| line.trim_start_matches('#').trim().to_lowercase());
    let kept = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
    titles
        .map(|title| title.chars().filter(kept).collect::<String>().replace(' ', "-"))
        .collect()
}

#[test]
fn the_api_page_lists_the_endpoints_there_are() {
    let text = fs::read_to_string(workspace_root().join("openapi.json")).expect("openapi.json");
    let openapi: Value = serde_json::from_str(&text).expect("JSON");
    let mut rows = String::from("\n| endpoint | what it does |\n|---|---|\n");
    for (path, methods) in openapi["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            let summary = operation["summary"].as_str().expect("a summary");
            rows += &format!(
                "| `{} {path}` | {} |\n",
                method.to_uppercase(),
                summary.trim_end_matches('.')
            );
        }
    }
    is_generated("docs/api.md", "endpoints", &(rows + "\n"));
}

#[test]
fn the_api_page_lists_the_problem_codes_there_are() {
    let mut rows = String::from("\n| status | code | meaning |\n|---|---|---|\n");
    for code in ProblemCode::ALL {
        rows += &format!("| {} | `{code}` | {} |\n", code.status(), code.title());
    }
    is_generated("docs/api.md", "problems", &(rows + "\n"));
}

#[test]
fn the_cli_page_lists_the_commands_there_are_and_runs_each() {
    let mut rows = String::from("\n| command | what it does |\n|---|---|\n");
    let page = Page::read("docs/cli.md");
    let shell: Vec<&Block> = page.blocks.iter().filter(|block| block.language == "sh").collect();
    for (command, about) in commands(&[]) {
        let words = command.join(" ");
        rows += &format!("| `tdb {words}` | {about} |\n");
        let runs =
            |block: &&Block| block.mark("not run").is_none() && block.text.lines().any(|line| calls(line, &words));
        assert!(shell.iter().any(runs), "docs/cli.md never runs tdb {words}");
    }
    is_generated("docs/cli.md", "commands", &(rows + "\n"));
}

/// Whether the line calls `tdb` with exactly these words as the command.
fn calls(line: &str, words: &str) -> bool {
    let calls = line.split("tdb ").skip(1).filter_map(|call| call.strip_prefix(words));
    let mut after = calls.map(|rest| rest.chars().next());
    after.any(|next| next.is_none_or(|c| !c.is_alphanumeric() && c != '-'))
}

/// Every command without subcommands, with its line in its parent's help.
fn commands(above: &[String]) -> Vec<(Vec<String>, String)> {
    let mut command = clean(&Binaries::built().tdb);
    command.args(above).arg("--help");
    let help = run(command, "").ok().stdout;
    let Some((_, listed)) = help.split_once("\nCommands:\n") else {
        return Vec::new();
    };
    let mut found: Vec<(String, String)> = Vec::new();
    for line in listed.lines().take_while(|line| !line.is_empty()) {
        match line.strip_prefix("  ").filter(|line| !line.starts_with(' ')) {
            Some(first) => {
                let (name, about) = first.split_once(' ').unwrap_or((first, ""));
                found.push((name.to_owned(), about.trim().to_owned()));
            }
            None => {
                let (_, about) = found.last_mut().expect("a command before its second line");
                *about = format!("{about} {}", line.trim());
            }
        }
    }
    let mut leaves = Vec::new();
    for (name, about) in found.into_iter().filter(|(name, _)| name != "help") {
        let command = [above, &[name]].concat();
        let below = commands(&command);
        match below.is_empty() {
            true => leaves.push((command, about)),
            false => leaves.extend(below),
        }
    }
    leaves
}

#[test]
fn the_operating_page_explains_the_metrics_there_are() {
    let instance = Instance::start();
    // Series with labels exist after something was counted.
    let (_, tenants) = instance.simple("counted", &["one"]);
    psql(&url_with(&tenants[0].url, Some("nobody"), None, None), "SELECT 1").fails_saying("nobody");
    let mut answer = ureq::get(format!("{}/metrics", instance.metrics_url()))
        .call()
        .expect("metrics");
    let text = answer.body_mut().read_to_string().expect("text");
    let mut rows = String::from("\n| metric | type | meaning |\n|---|---|---|\n");
    for line in text.lines() {
        let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) else {
            continue;
        };
        let kind = format!("# TYPE {name} ");
        let kind = text.lines().find_map(|line| line.strip_prefix(&kind)).expect("a type");
        if name.starts_with("tenantsdb_") {
            rows += &format!("| `{name}` | {kind} | {help} |\n");
        }
    }
    is_generated("docs/operating.md", "metrics", &(rows + "\n"));
}
