//! How a client reaches a database. A password is in the one answer that makes it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Connection {
    pub host: String,
    pub port: u16,
    /// Null where the credential opens several databases.
    pub database: Option<String>,
    pub user: String,
    /// Only in the answer that creates the credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

// By hand, so that no log ever shows the password.
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
    /// `postgresql://USER[:PASSWORD]@HOST:PORT/DATABASE`. Names and passwords are made of unreserved characters only, so
    /// nothing needs escaping; an IPv6 address is bracketed.
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
        let host = match host.contains(':') {
            true => format!("[{host}]"),
            false => host.clone(),
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
    fn a_connection_string_has_the_password_only_when_it_is_new() {
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
