//! A login of a role that reaches one database: the only kind of session that runs a user's text.

use std::time::Duration;

use secrecy::SecretString;
use tdb_auth::ClientTls;
use tdb_names::ServerEndpoint;

use crate::postgres::error::EngineError;
use crate::postgres::session::{Session, Target, connect};

/// Who logs in where. Nothing is opened before it is used.
#[derive(Clone, Debug)]
pub struct Login {
    pub endpoint: ServerEndpoint,
    pub tls: ClientTls,
    pub database: String,
    pub role: String,
    pub secret: SecretString,
    /// Shown to every session of the server in `pg_stat_activity`: opaque, no names of customers.
    pub application_name: String,
}

impl Login {
    /// Logs in, says nothing and leaves: whether role, secret and database go together.
    pub async fn check(&self) -> Result<(), EngineError> {
        self.open(&self.application_name).await.map(drop)
    }

    pub(crate) async fn open(&self, application_name: &str) -> Result<Session, EngineError> {
        connect(&Target {
            endpoint: &self.endpoint,
            tls: &self.tls,
            database: &self.database,
            user: &self.role,
            secret: &self.secret,
            application_name,
            // A statement whose client died ends by itself.
            options: "-c client_connection_check_interval=1000",
            deadline: Duration::from_secs(10),
        })
        .await
    }
}
