//! The grammar of the command line: what all commands share. Each command's own part stands with the command.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::commands::{
    apikeys, blueprints, config, credentials, deployments, drift, projects, psql, query, servers, signup, tenants,
    workspaces,
};

/// Design a schema once, deploy it to isolated tenant databases.
#[derive(Debug, Parser)]
#[command(
    name = "tdb",
    version,
    max_term_width = 110,
    after_help = "Example:
  tdb workspaces create --name myapp --database PostgreSQL
  tdb tenants create --name acme --blueprint myapp
  tdb deployments create --blueprint myapp --all --watch

tdb finds its instance by --api-url and --api-key, by TDB_API_URL and TDB_API_KEY, by its configuration file
(tdb config set), and last by the running \"tenantsdb dev\"."
)]
pub struct Arguments {
    #[command(flatten)]
    pub target: TargetOptions,
    #[command(flatten)]
    pub output: OutputOptions,
    #[command(subcommand)]
    pub command: Command,
}

/// Which instance is asked.
#[derive(Args, Clone, Debug)]
pub struct TargetOptions {
    /// The API's address, such as http://127.0.0.1:9876
    #[arg(
        long,
        global = true,
        env = "TDB_API_URL",
        value_name = "URL",
        help_heading = "Global options"
    )]
    pub api_url: Option<String>,
    /// The API key
    #[arg(
        long,
        global = true,
        env = "TDB_API_KEY",
        value_name = "KEY",
        hide_env_values = true,
        help_heading = "Global options"
    )]
    pub api_key: Option<String>,
}

/// How results are shown.
#[derive(Args, Clone, Debug)]
pub struct OutputOptions {
    /// Print the API's answer as JSON
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// Say nothing but data and errors
    #[arg(
        long,
        short,
        global = true,
        conflicts_with = "verbose",
        help_heading = "Global options"
    )]
    pub quiet: bool,
    /// Say more: which instance is asked, request ids of errors
    #[arg(long, short, global = true, help_heading = "Global options")]
    pub verbose: bool,
    /// Write the data to FILE (mode 0600) instead of standard output
    #[arg(long, short, global = true, value_name = "FILE", help_heading = "Global options")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the version of tdb
    #[command(after_help = "Example:\n  tdb version")]
    Version,
    /// Make a user with a project, and remember the key; the password is asked for, or read from TDB_PASSWORD
    Signup(signup::Signup),
    /// Get a key for an email and a password, and remember it; the password is asked for, or read from TDB_PASSWORD
    Login(signup::Login),
    /// Remember an instance's address and key
    #[command(subcommand)]
    Config(config::Command),
    /// Projects and their database credential
    #[command(subcommand)]
    Projects(projects::Command),
    /// Keys of the admin API
    #[command(subcommand)]
    Apikeys(apikeys::Command),
    /// Development databases, whose DDL is captured
    #[command(subcommand)]
    Workspaces(workspaces::Command),
    /// Versioned schemas
    #[command(subcommand)]
    Blueprints(blueprints::Command),
    /// Tenants and their databases
    #[command(subcommand)]
    Tenants(tenants::Command),
    /// Bring tenants to a version
    #[command(subcommand)]
    Deployments(deployments::Command),
    /// Run SQL in one tenant's database or in all
    Query(query::Query),
    /// Open psql in a workspace or a tenant's database, with a credential of its own
    Psql(psql::Psql),
    /// Database servers
    #[command(subcommand)]
    Servers(servers::Command),
    /// Credentials of tenants and workspaces
    #[command(subcommand)]
    Credentials(credentials::Command),
    /// Tenants whose schema differs from their version's
    Drift(drift::Drift),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  tdb completions bash > /etc/bash_completion.d/tdb")]
    Completions { shell: Shell },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_sound_and_every_command_has_an_example() {
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
            if children.is_empty() {
                let help = command.render_help().to_string();
                assert!(
                    help.contains("Example:\n  tdb "),
                    "tdb {} has no example:\n{help}",
                    command.get_name()
                );
            }
            open.extend(children);
        }
    }

    #[test]
    fn commands_of_the_contract_parse() {
        let table = [
            "workspaces create --name myapp --database postgresql",
            "workspaces create --name myapp",
            "workspaces diff-skip myapp 3",
            "workspaces query myapp --query select",
            "tenants create --name acme --blueprint myapp --version 3 --isolation 1",
            "tenants delete acme --hard --yes",
            "deployments create --blueprint myapp --all --watch",
            "deployments create --blueprint myapp --tenant a --tenant b --version 2 --dry-run",
            "deployments status dep_abcdefgh27 --watch",
            "query --blueprint myapp --tenant acme --query select",
            "--json --api-url http://x --api-key k servers list",
            "credentials create --tenant acme",
            "credentials create --workspace myapp --rights ro --expires-at 2030-01-31T00:00:00Z",
            "servers register --name two --host db --admin-user postgres --tls verify-full",
            "servers test two",
            "servers drain two",
            "servers delete two --yes",
            "signup --email a@b.c --project shop",
            "login --email a@b.c",
            "projects rotate-credential prj_abcdefgh27",
            "drift --blueprint myapp --output x",
            "completions zsh",
        ];
        for line in table {
            let parsed = Arguments::try_parse_from(["tdb"].into_iter().chain(line.split(' ')));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }

    #[test]
    fn what_is_not_built_or_contradicts_itself_is_refused() {
        let table = [
            "nonsense",
            "workspaces create --name myapp --database Oracle",
            "tenants create --name acme --blueprint myapp --isolation 2",
            "deployments create --blueprint myapp",
            "deployments create --blueprint myapp --all --tenant a",
            "deployments create --blueprint myapp --all --canary 1",
            "query --blueprint myapp --query select",
            "query --blueprint myapp --all --tenant a --query select",
            "--quiet --verbose version",
            "credentials create",
            "credentials create --tenant a --workspace b",
            "credentials create --tenant a --expires-at tomorrow",
            "deployments create --blueprint myapp --all --dry-run --watch",
        ];
        for line in table {
            let refused = Arguments::try_parse_from(["tdb"].into_iter().chain(line.split(' '))).unwrap_err();
            assert_eq!(refused.exit_code(), 2, "{line}");
        }
    }
}
