//! The grammar of the command line: the parts that all commands share. The arguments of each command are in its module.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::commands::{
    apikeys, blueprints, config, credentials, deployments, drift, projects, psql, query, roles, servers, signup,
    tenants, workspaces,
};

const ABOUT: &str = "\
Design a PostgreSQL schema once, deploy it to the isolated databases of all tenants.

A workspace is a development database: DDL that any client runs in it is captured as numbered changes. Its blueprint is the schema that these changes give, in versions. A tenant is a customer with a separate database, created from a version. A deployment applies the missing changes to tenants, in order. Clients reach all databases through one proxy: \"myapp_dev\" is the workspace, \"myapp__acme\" is the database of tenant acme.";
const STORY: &str = "\
Example, from nothing to a schema that all tenants have:
  # an instance on this machine; the rest in another terminal
  tenantsdb dev
  # a workspace and its blueprint; then its schema, and what was captured
  tdb workspaces create --name myapp
  tdb psql myapp_dev -- -c 'CREATE TABLE users (id int)'
  tdb workspaces diff myapp
  # a tenant: a database with that schema
  tdb tenants create --name acme --blueprint myapp
  # a further change, for all tenants
  tdb psql myapp_dev -- -c 'ALTER TABLE users ADD email text'
  tdb deployments create --blueprint myapp --all --watch
  # query all tenants, and compare their schemas with their versions
  tdb query --blueprint myapp --all --query 'SELECT count(*) FROM users'
  tdb drift --blueprint myapp

\"tdb COMMAND --help\" describes a command, with an example.

In scripts: --json prints the API's answers, --quiet omits notes, and --yes skips questions. The exit status is 0, 1 (failed) or 2 (wrong usage).

The instance is chosen by --api-url and --api-key, else by TDB_API_URL and TDB_API_KEY, else by the configuration file (\"tdb config set\", \"tdb login\"). Otherwise it is the \"tenantsdb dev\" that runs on this machine; if several run, the one that was started last.";

#[derive(Debug, Parser)]
#[command(
    name = "tdb",
    version,
    about = ABOUT,
    max_term_width = 110,
    after_help = STORY
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub target: TargetOptions,
    #[command(flatten)]
    pub output: OutputOptions,
    #[command(subcommand)]
    pub command: Command,
}

/// The instance to send requests to.
#[derive(Args, Clone, Debug)]
pub(crate) struct TargetOptions {
    /// The API's address, such as http://127.0.0.1:9876 [env: TDB_API_URL]
    #[arg(long, global = true, value_name = "URL", help_heading = "Global options")]
    pub api_url: Option<String>,
    /// The API key [env: TDB_API_KEY]
    #[arg(long, global = true, value_name = "KEY", help_heading = "Global options")]
    pub api_key: Option<String>,
}

/// How results are shown.
#[derive(Args, Clone, Debug)]
pub(crate) struct OutputOptions {
    /// Print the API's answer as JSON
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// Print only data and errors
    #[arg(
        long,
        short,
        global = true,
        conflicts_with = "verbose",
        help_heading = "Global options"
    )]
    pub quiet: bool,
    /// Also print which instance is used, and the request ids of errors
    #[arg(long, short, global = true, help_heading = "Global options")]
    pub verbose: bool,
    /// Write the data to FILE (mode 0600) instead of standard output
    #[arg(long, short, global = true, value_name = "FILE", help_heading = "Global options")]
    pub output: Option<PathBuf>,
}

/// Parses a TCP port. The standard library's errors, such as "invalid digit found in string", are not shown to users.
pub(crate) fn port(text: &str) -> Result<u16, String> {
    let port = text.parse().ok().filter(|port| *port > 0);
    port.ok_or_else(|| "must be a port number from 1 to 65535".to_owned())
}

/// Parses the number of a change.
pub(crate) fn change_number(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "must be the number of a change in the diff, such as 3".to_owned())
}

// The commands of the example above come first, in its order.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Manage development databases, whose DDL is captured, and their changes
    #[command(
        subcommand,
        after_help = "Example:\n  tdb workspaces create --name myapp\n  tdb workspaces diff myapp"
    )]
    Workspaces(workspaces::Command),
    /// Open psql in a workspace or a tenant's database, with a temporary credential
    Psql(psql::Psql),
    /// Manage tenants and their databases
    #[command(
        subcommand,
        after_help = "Example:\n  tdb tenants create --name acme --blueprint myapp\n  tdb tenants list"
    )]
    Tenants(tenants::Command),
    /// Deploy versions to tenants: start, follow, retry
    #[command(
        subcommand,
        after_help = "Example:\n  tdb deployments create --blueprint myapp --all --watch"
    )]
    Deployments(deployments::Command),
    /// Run SQL in the databases of one tenant or of all tenants
    Query(query::Query),
    /// Show tenants whose schema differs from their version's schema
    Drift(drift::Drift),
    /// Show blueprints, their versions, and the tenants that have them
    #[command(
        subcommand,
        after_help = "Example:\n  tdb blueprints get myapp\n  tdb blueprints versions myapp"
    )]
    Blueprints(blueprints::Command),
    /// Manage user names and passwords for the databases of a tenant, a workspace or the whole project
    #[command(
        subcommand,
        after_help = "Example:\n  tdb credentials create --tenant acme --rights ro"
    )]
    Credentials(credentials::Command),
    /// Manage the PostgreSQL servers that hold the databases
    #[command(subcommand, after_help = "Example:\n  tdb servers list\n  tdb servers test dev")]
    Servers(servers::Command),
    /// Manage projects; workspaces, tenants and keys belong to one project
    #[command(subcommand, after_help = "Example:\n  tdb projects create --name \"Second shop\"")]
    Projects(projects::Command),
    /// Manage the roles without login that schemas can grant to, such as anon
    #[command(
        subcommand,
        after_help = "Example:\n  tdb roles create anon\n  tdb roles create authenticated\n  tdb roles list"
    )]
    Roles(roles::Command),
    /// Manage keys of the admin API
    #[command(subcommand, after_help = "Example:\n  tdb apikeys create --name ci --scope read")]
    Apikeys(apikeys::Command),
    /// Create a user with a project, and save its API key
    Signup(signup::Signup),
    /// Get an API key for an email and a password, and save it
    Login(signup::Login),
    /// Remove the saved address and key; a key that "tdb login" created is deleted
    #[command(after_help = "Example:\n  tdb logout")]
    Logout,
    /// Save an instance's address and key, or show which ones are used
    #[command(subcommand, after_help = "Example:\n  tdb config show")]
    Config(config::Command),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  tdb completions bash > /etc/bash_completion.d/tdb")]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the version of tdb
    #[command(after_help = "Example:\n  tdb version")]
    Version,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn errors_about_numbers_say_what_is_expected() {
        let register = "tdb servers register --name a --host b --admin-user c --port";
        for (line, number, expected) in [
            (register, "0", "must be a port number from 1 to 65535"),
            (register, "70000", "must be a port number from 1 to 65535"),
            (register, "five", "must be a port number from 1 to 65535"),
            ("tdb workspaces diff-skip app", "0", "must be the number of a change"),
            (
                "tdb workspaces diff-skip app 3",
                "1.5",
                "must be the number of a change",
            ),
            (
                "tdb workspaces diff-revert app",
                "all",
                "must be the number of a change",
            ),
            ("tdb tenants create --name a --blueprint b --version", "0", "must be "),
            (
                "tdb tenants create --name a --blueprint b --isolation",
                "x",
                "the only supported level is 1",
            ),
        ] {
            let words = line.split(' ').chain([number]);
            let message = Arguments::try_parse_from(words).unwrap_err().to_string();
            assert!(message.contains(expected), "{line} {number}: {message}");
            assert!(
                !message.contains("invalid digit") && !message.contains("too large"),
                "{message}"
            );
        }
    }

    #[test]
    fn the_grammar_is_valid_and_every_command_and_argument_is_described() {
        let mut root = Arguments::command();
        root.build();
        root.clone().debug_assert();
        let mut open = vec![root];
        while let Some(mut command) = open.pop() {
            let children: Vec<_> = command
                .get_subcommands()
                .filter(|child| child.get_name() != "help")
                .cloned()
                .collect();
            let help = command.render_help().to_string();
            assert!(
                help.contains("\n\nExample:\n  tdb ") || help.contains("\n\nExample, "),
                "tdb {} has no example:\n{help}",
                command.get_name()
            );
            for argument in command.get_arguments() {
                let described = argument.get_help().is_some();
                assert!(
                    described,
                    "tdb {}: {} is not described",
                    command.get_name(),
                    argument.get_id()
                );
            }
            open.extend(children);
        }
    }

    #[test]
    fn documented_commands_parse() {
        let table = [
            "workspaces create --name myapp --database postgresql",
            "workspaces create --name myapp",
            "workspaces diff-skip myapp 3",
            "workspaces diff-skip myapp 3 4 7",
            "workspaces query myapp --query select",
            "tenants create --name acme --blueprint myapp --version 3 --isolation 1",
            "tenants delete acme --hard --yes",
            "tenants limits acme",
            "tenants limits acme --pool-mode auto --clients-max 20 --server-connections-max 5 --queue-timeout default",
            "deployments create --blueprint myapp --all --watch",
            "deployments create --blueprint myapp --tenant a --tenant b --version 2 --dry-run",
            "deployments status dep_abcdefgh27 --watch",
            "query --blueprint myapp --tenant acme --query select",
            "--json --api-url http://x --api-key k servers list",
            "credentials create --tenant acme",
            "credentials create --project --read-only --name reports",
            "tenants create --name acme --blueprint myapp --version v3",
            "deployments create --blueprint myapp --version 1.0 --all",
            "query --query select --blueprint myapp --tenant acme --type PostgreSQL",
            "apikeys create",
            "signup --email a@b.c --password secret123",
            "login --email a@b.c --password secret123",
            "logout",
            "config set --api-url http://x --api-key k",
            "config set api_url http://x",
            "credentials create --workspace myapp --rights ro --expires-at 2030-01-31T00:00:00Z",
            "servers register --name two --host db --admin-user postgres --tls verify-full",
            "servers test two",
            "servers drain two",
            "servers delete two --yes",
            "signup --email a@b.c --project shop",
            "login --email a@b.c",
            "projects rotate-credential prj_abcdefgh27",
            "roles list",
            "roles create anon --project shop",
            "roles delete anon --yes",
            "drift --blueprint myapp --output x",
            "completions zsh",
            "psql myapp_dev",
            "psql myapp__acme --read-only --expires-at 2030-01-31T00:00:00Z -- -c select",
        ];
        for line in table {
            let parsed = Arguments::try_parse_from(["tdb"].into_iter().chain(line.split(' ')));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }

    #[test]
    fn unsupported_and_contradictory_arguments_are_refused() {
        let table = [
            "nonsense",
            "workspaces create --name myapp --database Oracle",
            "tenants create --name acme --blueprint myapp --isolation 2",
            "tenants limits acme --pool-mode transaction",
            "tenants limits acme --clients-max 0",
            "tenants limits acme --queue-timeout 1s",
            "deployments create --blueprint myapp",
            "deployments create --blueprint myapp --all --tenant a",
            "deployments create --blueprint myapp --all --canary 1",
            "query --blueprint myapp --query select",
            "query --blueprint myapp --all --tenant a --query select",
            "--quiet --verbose version",
            "psql myapp",
            "psql myapp_dev -c select",
            "credentials create",
            "credentials create --tenant a --workspace b",
            "credentials create --tenant a --project",
            "credentials create --project --read-only --rights rw",
            "tenants create --name a --blueprint b --version v0",
            "config set api_url",
            "query --blueprint myapp --all --query select --type MySQL",
            "credentials create --tenant a --expires-at tomorrow",
            "deployments create --blueprint myapp --all --dry-run --watch",
        ];
        for line in table {
            let refused = Arguments::try_parse_from(["tdb"].into_iter().chain(line.split(' '))).unwrap_err();
            assert_eq!(refused.exit_code(), 2, "{line}");
        }
    }
}
