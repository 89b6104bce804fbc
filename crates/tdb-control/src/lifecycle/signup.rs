//! Users: sign-up and login with email and password. An unknown email and a wrong password give the same error in the
//! same time.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};
use tdb_auth::{ApiKey, PasswordHash};
use tdb_names::ProjectId;
use tdb_problems::ProblemCode;
use tdb_store::{api_keys, projects, users};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use uuid::Uuid;

use crate::core::{Core, Signup};
use crate::entry::EntryKind;
use crate::error::{ControlError, Result};
use crate::identity::KeyScope;
use crate::lifecycle::accounts::{Accounts, ProjectReceipt, with_counts};
use crate::lifecycle::references::checked_reference;
use crate::model::{LoggedIn, NewProject};
use crate::page::Limit;
use crate::throttle::Throttle;

const EMAIL_LEN_MAX: usize = 254;
const PASSWORD_LEN_MIN: usize = 8;
/// From this length on, characters of one kind are enough.
const PASSWORD_LEN_PLAIN: usize = 12;
const PASSWORD_CHARACTERS_MIN: usize = 5;
/// In bytes. Longer passwords are refused, which limits the work of hashing.
const PASSWORD_LEN_MAX: usize = 256;
/// How many hashes are computed at the same time: each one keeps a core busy.
const HASHES_MAX: usize = 2;
/// How long a request waits until its password is hashed.
const TURN_TIME_MAX: Duration = Duration::from_secs(5);
const LOGIN_KEY: &str = "login";
/// The number of login keys per user; older ones are deleted.
const LOGIN_KEYS_MAX: i64 = 10;
/// The name of the project that is created without a name, or at a login whose account has no project.
const PROJECT_DEFAULT: &str = "default";

/// A valid address in lower case.
struct Email(String);

/// Sign-up and login with email and password.
#[derive(Clone)]
pub struct Users {
    core: Arc<Core>,
    accounts: Accounts,
    throttle: Arc<Throttle>,
    hashes: Arc<Semaphore>,
}

impl Users {
    pub(crate) fn new(core: &Arc<Core>, accounts: &Accounts) -> Self {
        Self {
            core: core.clone(),
            accounts: accounts.clone(),
            throttle: Arc::default(),
            hashes: Arc::new(Semaphore::new(HASHES_MAX)),
        }
    }

    /// Creates a user with an account, a project and its first key. Fails if sign-up is closed, the email is taken, or
    /// there were too many attempts with this email or from this address.
    pub async fn sign_up(
        &self,
        email: &str,
        password: SecretString,
        project_name: Option<&str>,
        address: IpAddr,
    ) -> Result<NewProject> {
        if self.core.settings.signup == Signup::Closed {
            return Err(ControlError::refused(
                ProblemCode::SignupClosed,
                "sign-up is disabled on this installation",
                "Ask its operator for an API key; \"signup = true\" under [api] in proxy.toml enables sign-up.",
            ));
        }
        let email = Email::parse(email)?;
        check_password(&password, &email)?;
        let name = checked_reference("project_name", project_name.unwrap_or(PROJECT_DEFAULT))?;
        self.throttled(&email, address)?;
        let hash = self.hashed(move || PasswordHash::derive(&password)).await?;
        let hash = hash.map_err(ControlError::internal)?;
        let seeds = ProjectReceipt::draw(None)?;
        let tx = self.core.store.project(&seeds.id).await?;
        let made = self.accounts.insert_project(&tx, Uuid::new_v4(), name, seeds).await?;
        if !users::insert(&tx, Uuid::new_v4(), &email.0, &hash.to_text()).await? {
            return Err(ControlError::Exists {
                what: EntryKind::User,
                name: email.0,
                hint: Some("Log in with POST /login.".to_owned()),
            });
        }
        tx.commit().await?;
        self.throttle.give_back(&email.0, address);
        Ok(made)
    }

    /// Creates a key (scope admin) for the user's oldest project. Fails if email or password is wrong, or if there were
    /// too many attempts.
    pub async fn log_in(&self, email: &str, password: SecretString, address: IpAddr) -> Result<LoggedIn> {
        let email = Email::parse(email)?;
        if password.expose_secret().len() > PASSWORD_LEN_MAX {
            return Err(wrong_login());
        }
        self.throttled(&email, address)?;
        let tx = self.core.store.jobs().await?;
        let known = users::by_email(&tx, &email.0).await?;
        tx.rollback().await?;
        let (user, stored) = known.map_or((None, None), |(user, text)| (Some(user), Some(text)));
        let stored = match stored {
            Some(text) => PasswordHash::parse(&text)
                .ok_or_else(|| ControlError::internal("a stored password hash cannot be parsed"))?,
            None => PasswordHash::mock().map_err(ControlError::internal)?,
        };
        let genuine = self.hashed(move || stored.opens_with(&password)).await?;
        let user = user.filter(|_| genuine).ok_or_else(wrong_login)?;
        self.throttle.give_back(&email.0, address);
        let tx = self.core.store.jobs().await?;
        let project = users::first_project(&tx, user.account).await?;
        tx.rollback().await?;
        let project = match project {
            Some(project) => project,
            None => {
                let made = self
                    .accounts
                    .found_project(user.account, PROJECT_DEFAULT, ProjectReceipt::draw(None)?)
                    .await?;
                made.project.id
            }
        };
        self.login_key(user.id, project).await
    }

    async fn login_key(&self, user: Uuid, project: ProjectId) -> Result<LoggedIn> {
        let key = ApiKey::generate().map_err(ControlError::internal)?;
        let tx = self.core.store.project(&project).await?;
        let row = api_keys::insert(&tx, &project, LOGIN_KEY, &key, &[KeyScope::Admin.as_str()]).await?;
        api_keys::give_to_user(&tx, row.id, user, LOGIN_KEYS_MAX).await?;
        tx.commit().await?;
        let tx = self.core.store.jobs().await?;
        let rows = projects::of_same_account(&tx, &project, None, Limit::DEFAULT.rows()).await?;
        let projects = with_counts(&tx, rows).await?;
        tx.rollback().await?;
        Ok(LoggedIn {
            project,
            api_key: key.reveal().to_owned().into(),
            projects,
        })
    }

    fn throttled(&self, email: &Email, address: IpAddr) -> Result<()> {
        let taken = self.throttle.take(&email.0, address, Instant::now());
        taken.map_err(|after| ControlError::Refused {
            code: ProblemCode::LimitReached,
            detail: "too many attempts with this email or from this address".to_owned(),
            hint: Some(format!("Try again in {} seconds.", after.as_secs().saturating_add(1))),
            retry_after: Some(after),
        })
    }

    /// Runs slow work on a blocking thread; at most `HASHES_MAX` at a time.
    async fn hashed<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let turn = timeout(TURN_TIME_MAX, self.hashes.clone().acquire_owned()).await;
        let turn = turn.map_err(|_| ControlError::busy(ProblemCode::LoginsBusy, "too many logins at the same time"))?;
        let turn = turn.map_err(ControlError::internal)?;
        let hashed = self.core.runtime.spawn_blocking(move || {
            // Held until the work ends, even if the caller has stopped waiting.
            let _turn = turn;
            work()
        });
        hashed.await.map_err(ControlError::internal)
    }
}

impl Email {
    /// Checks as much of RFC 5321 as catches typing errors. Lower and upper case are the same mailbox.
    fn parse(text: &str) -> Result<Self> {
        let email = text.trim().to_ascii_lowercase();
        let valid = email.len() <= EMAIL_LEN_MAX
            && email.bytes().all(|b| b.is_ascii_graphic())
            && email.split_once('@').is_some_and(|(local, domain)| {
                (1..=64).contains(&local.len())
                    && domain.split('.').all(|label| {
                        !label.is_empty()
                            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                            && !label.starts_with('-')
                            && !label.ends_with('-')
                    })
            });
        if valid {
            return Ok(Self(email));
        }
        Err(ControlError::Invalid {
            field: "email",
            rule: format!(
                "must be an address such as ada@example.com, in ASCII, of at most {EMAIL_LEN_MAX} characters"
            ),
        })
    }
}

/// Checks the length, the kinds of characters and the number of different ones. This excludes the most frequent
/// passwords; attempts are throttled and the hash is slow.
fn check_password(password: &SecretString, email: &Email) -> Result<()> {
    let text = password.expose_secret();
    let invalid = |rule: String| {
        Err(ControlError::Invalid {
            field: "password",
            rule,
        })
    };
    let length = text.chars().count();
    if length < PASSWORD_LEN_MIN || text.len() > PASSWORD_LEN_MAX {
        return invalid(format!(
            "must have at least {PASSWORD_LEN_MIN} characters and at most {PASSWORD_LEN_MAX} bytes"
        ));
    }
    let kinds = [char::is_lowercase, char::is_uppercase, char::is_numeric] as [fn(char) -> bool; 3];
    let other = |c: char| !kinds.iter().any(|kind| kind(c));
    let count = kinds.iter().filter(|kind| text.chars().any(**kind)).count() + usize::from(text.chars().any(other));
    if length < PASSWORD_LEN_PLAIN && count < 2 {
        return invalid(format!(
            "must mix lower-case letters, upper-case letters, digits or other characters, or have at least {PASSWORD_LEN_PLAIN} characters"
        ));
    }
    if text.chars().collect::<HashSet<char>>().len() < PASSWORD_CHARACTERS_MIN {
        return invalid(format!(
            "must have at least {PASSWORD_CHARACTERS_MIN} different characters"
        ));
    }
    let local = email.0.split('@').next().unwrap_or_default();
    if [email.0.as_str(), local].contains(&text.to_ascii_lowercase().as_str()) {
        return invalid("must not be the email address or its first part".to_owned());
    }
    Ok(())
}

fn wrong_login() -> ControlError {
    ControlError::refused(
        ProblemCode::WrongLogin,
        "email or password is wrong",
        "Check both; POST /signup creates a user where sign-up is enabled.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emails_are_normalised_and_checked() {
        for (text, email) in [
            (" Ada.Lovelace+x@Example.COM ", "ada.lovelace+x@example.com"),
            ("a@b", "a@b"),
        ] {
            assert_eq!(Email::parse(text).unwrap().0, email);
        }
        let long = format!("{}@{}.com", "a".repeat(64), "b".repeat(250));
        for bad in [
            "", "a", "@b", "a@", "a@@b", "a b@c", "a@b..c", "a@-b", "ä@b.c", "a@b\n.c", &long,
        ] {
            assert!(Email::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn passwords_have_two_bounds_and_a_strength() {
        let email = Email::parse("ada.lovelace1843@example.com").unwrap();
        let check = |text: &str| check_password(&text.to_owned().into(), &email).is_ok();
        let long = format!("{}abcde", "p".repeat(251));
        for good in [
            "secret123",
            "yourpassword",
            "ten chars!",
            "Passw0rd",
            "äöüßä5äöüß",
            &long,
        ] {
            assert!(check(good), "{good}");
        }
        let longer = format!("{long}x");
        for bad in [
            "",
            "short1!",
            "password",
            "12345678901",
            "aaaaaaaaaaaa",
            "a1a1a1a1a1a1",
            "Ada.Lovelace1843",
            "ada.lovelace1843@example.com",
            &longer,
        ] {
            assert!(!check(bad), "{bad}");
        }
    }
}
