//! How a client connects to a database.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How a client connects to a database. Only the answer that creates a credential contains its password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Connection {
    /// The proxy's host name or IP address.
    pub host: String,
    /// The proxy's port.
    pub port: u16,
    /// The database's name; null if the credential opens several databases.
    pub database: Option<String>,
    /// The credential's user name.
    pub user: String,
    /// The password, only in the answer that creates the credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

// Written by hand so that the password is never logged.
impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            host,
            port,
            database,
            user,
            password: _,
        } = self;
        write!(
            f,
            "Connection({user}@{host}:{port}/{})",
            database.as_deref().unwrap_or_default()
        )
    }
}

impl Connection {
    /// The connection string `postgresql://USER[:PASSWORD]@HOST:PORT/DATABASE`. Names and passwords consist of unreserved
    /// characters, so nothing is escaped; an IPv6 address is put in brackets.
    pub fn url(&self) -> String {
        let Self {
            host,
            port,
            database,
            user,
            password,
        } = self;
        let secret = password
            .as_ref()
            .map(|password| format!(":{password}"))
            .unwrap_or_default();
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.clone()
        };
        format!(
            "postgresql://{user}{secret}@{host}:{port}/{}",
            database.as_deref().unwrap_or_default()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_string_contains_a_password_only_if_there_is_one() {
        let mut connection = Connection {
            host: "127.0.0.1".to_owned(),
            port: 6432,
            database: Some("myapp_dev".to_owned()),
            user: "myapp_abc234".to_owned(),
            password: Some("s3cret".to_owned()),
        };
        assert_eq!(
            connection.url(),
            "postgresql://myapp_abc234:s3cret@127.0.0.1:6432/myapp_dev"
        );
        assert!(!format!("{connection:?}").contains("s3cret"));
        connection.password = None;
        connection.host = "::1".to_owned();
        assert_eq!(connection.url(), "postgresql://myapp_abc234@[::1]:6432/myapp_dev");
        assert!(!serde_json::to_string(&connection).unwrap().contains("password"));
    }
}
