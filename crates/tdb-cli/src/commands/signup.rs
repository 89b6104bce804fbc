//! `tdb signup`, `tdb login` and `tdb logout`: an API key for an email and a password, saved in the configuration file.

use anyhow::Result;
use clap::Args;
use tdb_client::accounts::{LogIn, LoggedIn, SignUp, SignedUp};
use tdb_client::http::{Client, ClientError};
use tdb_client::lists::Done;

use crate::arguments::TargetOptions;
use crate::config_file::ConfigFile;
use crate::instance::address;
use crate::password;
use crate::printer::Printer;
use crate::table::facts;

const VARIABLE: &str = "TDB_PASSWORD";
/// The name that the API gives to the keys of logins.
const LOGIN_KEY: &str = "login";

#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  tdb signup --email ada@example.com --project shop\n\nThe password is read from TDB_PASSWORD, the terminal or standard input."
)]
pub(crate) struct Signup {
    /// The user's email address
    #[arg(long)]
    email: String,
    /// The project's name
    #[arg(long, value_name = "NAME", default_value = "default")]
    project: String,
    /// The password; not recommended, because other users of this machine can read it
    #[arg(long, value_name = "PASSWORD")]
    password: Option<String>,
}

#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  tdb login --email ada@example.com\n\nThe password is read from TDB_PASSWORD, the terminal or standard input."
)]
pub(crate) struct Login {
    /// The user's email address
    #[arg(long)]
    email: String,
    /// The password; not recommended, because other users of this machine can read it
    #[arg(long, value_name = "PASSWORD")]
    password: Option<String>,
}

pub(crate) fn sign_up(command: Signup, target: &TargetOptions, printer: &Printer) -> Result<()> {
    let url = address(target)?;
    let request = SignUp {
        password: given_or_asked(command.password, &format!("New password of {}", command.email))?,
        email: command.email,
        project_name: Some(command.project),
    };
    let made = Client::new(&url, None).sign_up(&request)?;
    remember(&url, &made.body.api_key, false, printer)?;
    printer.answer(&made, |made| render_signed_up(&made.body))?;
    printer.note("The key and the password are shown only once. Append the name of a database, such as /myapp__acme.");
    Ok(())
}

pub(crate) fn log_in(command: Login, target: &TargetOptions, printer: &Printer) -> Result<()> {
    let url = address(target)?;
    let request = LogIn {
        password: given_or_asked(command.password, &format!("Password of {}", command.email))?,
        email: command.email,
    };
    let login = Client::new(&url, None).log_in(&request)?;
    remember(&url, &login.api_key, true, printer)?;
    printer.answer(&login, render_logged_in)
}

/// Removes the saved address and key. A key that a login created is also deleted at its instance; other keys may be in use
/// elsewhere.
pub(crate) fn log_out(printer: &Printer) -> Result<()> {
    let mut file = ConfigFile::load()?;
    let (url, key) = (file.api_url.take(), file.api_key.take());
    let of_login = std::mem::take(&mut file.api_key_of_login);
    let message = match (&url, key) {
        (None, None) => "nothing was saved".to_owned(),
        (Some(url), Some(key)) => {
            let fate = match of_login.then(|| revoke(url, &key)) {
                Some(Ok(true)) => "and the key is deleted".to_owned(),
                Some(Ok(false)) | None => "the key itself stays valid".to_owned(),
                Some(Err(error)) => format!("the key itself stays valid, because it could not be deleted: {error}"),
            };
            format!("logged out of {url}; {fate}")
        }
        (Some(_), None) | (None, Some(_)) => "logged out".to_owned(),
    };
    file.save()?;
    printer.answer(&Done { message }, |done| done.message.clone())
}

/// Deletes the key of a login, because only this configuration file uses it. Returns whether it did.
fn revoke(url: &str, key: &str) -> Result<bool, ClientError> {
    let client = Client::new(url, Some(key.to_owned()));
    let keys = client.api_keys()?.api_keys;
    let own = keys
        .iter()
        .find(|one| one.name == LOGIN_KEY && key.starts_with(&one.prefix));
    own.map_or(Ok(false), |own| client.delete_api_key(&own.id).map(|_| true))
}

fn given_or_asked(given: Option<String>, what: &str) -> Result<String> {
    given.map_or_else(|| password::ask(VARIABLE, what), Ok)
}

fn remember(url: &str, key: &str, of_login: bool, printer: &Printer) -> Result<()> {
    let mut file = ConfigFile::load()?;
    file.api_url = Some(url.to_owned());
    file.api_key = Some(key.to_owned());
    file.api_key_of_login = of_login;
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

/// The key is not shown, because it is saved.
fn render_logged_in(login: &LoggedIn) -> String {
    facts(&[("project", login.project_id.clone())])
}
