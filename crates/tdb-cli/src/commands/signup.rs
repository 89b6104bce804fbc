//! `tdb signup` and `tdb login`: an API key for an email and a password, remembered in the configuration file.

use anyhow::Result;
use clap::Args;
use tdb_client::accounts::{LogIn, LoggedIn, SignUp, SignedUp};
use tdb_client::http::Client;

use crate::arguments::TargetOptions;
use crate::config_file::ConfigFile;
use crate::instance::address;
use crate::password;
use crate::printer::Printer;
use crate::table::facts;

const VARIABLE: &str = "TDB_PASSWORD";

#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  tdb signup --email ada@example.com --project shop\n\nThe password is asked for, or read from TDB_PASSWORD or standard input."
)]
pub struct Signup {
    /// The user's email address
    #[arg(long)]
    email: String,
    /// What the project is called
    #[arg(long, value_name = "NAME", default_value = "default")]
    project: String,
}

#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  tdb login --email ada@example.com\n\nThe password is asked for, or read from TDB_PASSWORD or standard input."
)]
pub struct Login {
    /// The user's email address
    #[arg(long)]
    email: String,
}

pub fn sign_up(command: Signup, target: &TargetOptions, printer: &Printer) -> Result<()> {
    let url = address(target)?;
    let request = SignUp {
        password: password::ask(VARIABLE, &format!("New password of {}", command.email))?,
        email: command.email,
        project_name: command.project,
    };
    let made = Client::new(&url, None).sign_up(&request)?;
    remember(&url, &made.api_key, printer)?;
    printer.answer(&made, render_signed_up)?;
    printer.note("Key and password are shown this once; append the name of a database, such as /myapp__acme.");
    Ok(())
}

pub fn log_in(command: Login, target: &TargetOptions, printer: &Printer) -> Result<()> {
    let url = address(target)?;
    let request = LogIn {
        password: password::ask(VARIABLE, &format!("Password of {}", command.email))?,
        email: command.email,
    };
    let session = Client::new(&url, None).log_in(&request)?;
    remember(&url, &session.api_key, printer)?;
    printer.answer(&session, render_logged_in)
}

fn remember(url: &str, key: &str, printer: &Printer) -> Result<()> {
    let mut file = ConfigFile::load()?;
    file.api_url = Some(url.to_owned());
    file.api_key = Some(key.to_owned());
    let path = file.save()?;
    printer.note(&format!("address and key are saved in {}", path.display()));
    Ok(())
}

fn render_signed_up(made: &SignedUp) -> String {
    facts(&[
        ("project", made.project_id.clone()),
        ("api key", made.api_key.clone()),
        ("connection", made.connection_string.clone()),
    ])
}

/// Without the key, which tdb has from now on.
fn render_logged_in(session: &LoggedIn) -> String {
    facts(&[("project", session.project_id.clone())])
}
