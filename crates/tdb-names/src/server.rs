//! Where a database server is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{IdError, ServerName};

/// A database server as the proxy and the control plane dial it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerEndpoint {
    pub name: ServerName,
    /// Host name, address, or (starting with `/`) the directory of a unix socket.
    pub host: String,
    pub port: u16,
    pub tls: TlsMode,
}

/// libpq's `sslmode`, without `allow`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

const MODES: [(TlsMode, &str); 5] = [
    (TlsMode::Disable, "disable"),
    (TlsMode::Prefer, "prefer"),
    (TlsMode::Require, "require"),
    (TlsMode::VerifyCa, "verify-ca"),
    (TlsMode::VerifyFull, "verify-full"),
];

impl fmt::Display for TlsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = MODES.iter().find(|(mode, _)| mode == self).map_or("", |(_, text)| text);
        f.write_str(text)
    }
}

impl FromStr for TlsMode {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let found = MODES.iter().find(|(_, name)| *name == text);
        found
            .map(|(mode, _)| *mode)
            .ok_or_else(|| IdError::new(text, "a TLS mode (disable, prefer, require, verify-ca or verify-full)"))
    }
}
