//! The certificate the proxy shows its clients: an operator's files, or one that `dev` makes for itself.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{CertificateParams, DnType, KeyPair};
use tdb_proxy::ServerTls;

use crate::config::CertificateFiles;

/// Names a development certificate is valid for.
const DEVELOPMENT_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// A certificate and its key, in PEM.
pub(crate) struct Pem {
    pub certificate: String,
    pub key: String,
}

/// Loads certificate chain and key, and checks that they belong together.
pub(crate) fn load(files: &CertificateFiles) -> Result<ServerTls> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let tls = ServerTls::from_pem(&read(&files.certificate)?, &read(&files.key)?);
    tls.with_context(|| {
        format!(
            "cannot use {} with {}",
            files.certificate.display(),
            files.key.display()
        )
    })
}

/// A self-signed certificate for this machine's own names.
pub(crate) fn make_for_development() -> Result<Pem> {
    let mut params = CertificateParams::new(DEVELOPMENT_NAMES.map(str::to_owned))?;
    params
        .distinguished_name
        .push(DnType::CommonName, "TenantsDB development");
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok(Pem {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_development_certificate_loads_with_its_own_key_only() {
        let dir = tempfile::TempDir::new().unwrap();
        let files = |name: &str| CertificateFiles {
            certificate: dir.path().join("certificate"),
            key: dir.path().join(name),
        };
        let own = make_for_development().unwrap();
        fs::write(dir.path().join("certificate"), &own.certificate).unwrap();
        fs::write(dir.path().join("key"), &own.key).unwrap();
        fs::write(dir.path().join("other"), make_for_development().unwrap().key).unwrap();
        assert!(load(&files("key")).is_ok());
        assert!(load(&files("other")).is_err());
        assert!(load(&files("absent")).is_err());
    }
}
