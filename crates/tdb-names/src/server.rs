//! Addresses of database servers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{IdError, ServerName};

/// The address of a database server, as the proxy and the control plane connect to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerEndpoint {
    /// The name that the server is registered under; used in logs and metrics.
    pub name: ServerName,
    /// Host name, IP address, or (starting with `/`) the directory of a Unix socket.
    pub host: String,
    /// TCP port, or the number in the socket's file name.
    pub port: u16,
    /// Whether connections are encrypted and what is verified.
    pub tls: TlsMode,
}

/// How connections to a server use TLS: libpq's `sslmode` without `allow` (PostgreSQL manual, "SSL Support").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// Never encrypt.
    Disable,
    /// Encrypt if the server supports it; verify nothing.
    Prefer,
    /// Encrypt or fail; verify nothing.
    Require,
    /// Encrypt or fail; verify the certificate's chain.
    VerifyCa,
    /// Encrypt or fail; verify the certificate's chain and host name.
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
        let named = MODES.iter().find(|(_, name)| *name == text);
        named
            .map(|(mode, _)| *mode)
            .ok_or_else(|| IdError::new(text, "a TLS mode (disable, prefer, require, verify-ca or verify-full)"))
    }
}
