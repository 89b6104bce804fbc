//! A login as a role that can reach one database: the only kind of session that runs SQL that a user wrote.

use std::time::Duration;

use secrecy::SecretString;
use tdb_auth::ClientTls;
use tdb_names::ServerEndpoint;

use crate::postgres::error::EngineError;
use crate::postgres::session::{ConnectOptions, Session, connect};

/// The server cancels a statement whose client has disconnected.
const OPTIONS: &str = "-c client_connection_check_interval=1000";

/// How to log in to a database. Every use opens a new session.
#[derive(Clone, Debug)]
pub struct DatabaseLogin {
    /// The server.
    pub endpoint: ServerEndpoint,
    /// The TLS settings of the connection.
    pub tls: ClientTls,
    /// The database's name on the server.
    pub database: String,
    /// The role to log in as.
    pub role: String,
    /// The role's password.
    pub secret: SecretString,
    /// Every role of the server can read it in `pg_stat_activity`, so it must not contain customer data.
    pub application_name: String,
}

impl DatabaseLogin {
    /// Logs in and disconnects, to check that the role can log in to the database with this secret.
    pub async fn check(&self) -> Result<(), EngineError> {
        self.open(&self.application_name).await.map(drop)
    }

    pub(crate) async fn open(&self, application_name: &str) -> Result<Session, EngineError> {
        self.open_with(application_name, OPTIONS).await
    }

    /// Opens a session in which RESET ROLE returns to `role`, and not to the role of the login. It begins with the role of the
    /// login.
    pub(crate) async fn open_for(&self, application_name: &str, role: &str) -> Result<Session, EngineError> {
        let role = role.replace('\\', "\\\\").replace(' ', "\\ ");
        let session = self
            .open_with(application_name, &format!("{OPTIONS} -c role={role}"))
            .await?;
        session.run("SET ROLE none").await?;
        Ok(session)
    }

    async fn open_with(&self, application_name: &str, options: &str) -> Result<Session, EngineError> {
        connect(&ConnectOptions {
            endpoint: &self.endpoint,
            tls: &self.tls,
            database: &self.database,
            user: &self.role,
            secret: &self.secret,
            application_name,
            options,
            deadline: Duration::from_secs(10),
        })
        .await
    }
}
