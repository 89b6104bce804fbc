//! `tdb config`: the instance that tdb uses by default.

use std::io::{self, BufRead};

use anyhow::{Result, bail};
use clap::{Subcommand, ValueEnum};
use serde::Serialize;

use crate::arguments::TargetOptions;
use crate::config_file::ConfigFile;
use crate::errors::Advised;
use crate::instance::Instance;
use crate::printer::Printer;
use crate::table::facts;

/// How many characters of a key are shown, to recognise it by.
const KEY_SHOWN: usize = 15;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Save an address or a key; "-" reads the value from standard input
    #[command(
        after_help = "Example:\n  tdb config set api_url https://db.example.com:9876\n  tdb config set api_key - < key-file\n  tdb config set --api-url https://db.example.com:9876 --api-key -"
    )]
    Set {
        /// The setting to save; without it, --api-url and --api-key are saved
        #[arg(requires = "value")]
        name: Option<Name>,
        /// An http:// or https:// address, or a key; "-" reads it from standard input
        value: Option<String>,
    },
    /// Show which instance and key are used, and where they are set
    #[command(after_help = "Example:\n  tdb config show")]
    Show,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Name {
    ApiUrl,
    ApiKey,
}

/// The output of `config show`. It contains only a part of the key.
#[derive(Serialize)]
struct Shown {
    api_url: String,
    api_key_prefix: String,
    found: String,
    config_file: Option<String>,
}

pub(crate) fn run(command: Command, target: &TargetOptions, printer: &Printer) -> Result<()> {
    match command {
        Command::Set { name, value } => {
            let named = name.zip(value);
            let flags = [
                target.api_url.clone().map(|url| (Name::ApiUrl, url)),
                target.api_key.clone().map(|key| (Name::ApiKey, key)),
            ];
            let wanted: Vec<(Name, String)> = match named {
                Some(one) => vec![one],
                None => flags.into_iter().flatten().collect(),
            };
            set(wanted, printer)
        }
        Command::Show => show(target, printer),
    }
}

fn set(wanted: Vec<(Name, String)>, printer: &Printer) -> Result<()> {
    if wanted.is_empty() {
        return Err(Advised {
            said: "no address or key was given".to_owned(),
            hint: "Use \"tdb config set api_url URL\", \"tdb config set api_key KEY\", or --api-url and --api-key."
                .to_owned(),
        }
        .into());
    }
    let mut file = ConfigFile::load()?;
    for (name, value) in wanted {
        let value = if value == "-" { first_line()? } else { value };
        match name {
            Name::ApiUrl if !value.starts_with("http://") && !value.starts_with("https://") => {
                bail!("api_url must start with http:// or https://")
            }
            Name::ApiUrl => file.api_url = Some(value),
            Name::ApiKey => {
                file.api_key = Some(value);
                file.api_key_of_login = false;
            }
        }
    }
    let path = file.save()?;
    printer.note(&format!("saved in {}", path.display()));
    Ok(())
}

fn first_line() -> Result<String> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    match line.trim() {
        "" => bail!("standard input is empty"),
        value => Ok(value.to_owned()),
    }
}

fn show(target: &TargetOptions, printer: &Printer) -> Result<()> {
    let instance = Instance::find(target)?;
    let shown = Shown {
        api_url: instance.url,
        api_key_prefix: instance.key.chars().take(KEY_SHOWN).collect(),
        found: instance.found,
        config_file: ConfigFile::path().map(|path| path.display().to_string()),
    };
    printer.answer(&shown, |shown| {
        facts(&[
            ("api_url", shown.api_url.clone()),
            ("api_key", format!("{}…", shown.api_key_prefix)),
            ("found in", shown.found.clone()),
            ("config file", shown.config_file.clone().unwrap_or_default()),
        ])
    })
}
