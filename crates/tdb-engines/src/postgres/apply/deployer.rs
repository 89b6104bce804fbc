//! The deployer's password during a deployment. Code that a change runs can set it, and could then log in to the server directly
//! until the deployment ends.

use tdb_auth::{ITERATIONS_RANDOM_SECRET, ScramVerifier};

use super::plan::BringUp;
use crate::postgres::error::EngineError;
use crate::postgres::login::DatabaseLogin;
use crate::postgres::role_states;
use crate::postgres::session::Session;

/// Checks and restores the password. Remembers the last verifier that was checked, since checking takes milliseconds.
#[derive(Default)]
pub(super) struct Password {
    checked: Option<String>,
}

impl Password {
    /// Runs one query if the password is as it should be. Otherwise sets it, and ends all sessions of the role except `session`.
    pub(super) async fn restore(
        &mut self,
        session: &Session,
        login: &DatabaseLogin,
        plan: &BringUp<'_>,
    ) -> Result<(), EngineError> {
        let outside = plan.administrator.maintenance().await?;
        let sql = "SELECT rolpassword FROM pg_authid WHERE rolname = $1";
        let row = outside.row(sql, &[&login.role]).await?;
        plan.administrator.keep_maintenance(outside);
        let verifier: Option<String> = row.map(|row| row.try_get(0)).transpose()?.flatten();
        if verifier.is_some() && verifier == self.checked {
            return Ok(());
        }
        let parsed = verifier.as_deref().and_then(|text| text.parse::<ScramVerifier>().ok());
        if parsed.is_some_and(|parsed| parsed.is_of(&login.secret, ITERATIONS_RANDOM_SECRET)) {
            self.checked = verifier;
            return Ok(());
        }
        tracing::warn!(role = %login.role, "code in a change set the deployer's password; it is restored");
        let own = session.pid().await?;
        role_states::restore_password(plan.administrator, &login.role, &login.secret, own).await
    }
}
