//! TLS for connections to database servers and to the metadata store, with the modes of libpq's `sslmode` (PostgreSQL
//! manual, "SSL Support"): `prefer` and `require` encrypt without verifying the server, `verify-ca` verifies the
//! certificate chain, and `verify-full` also the host name.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tdb_names::TlsMode;
use thiserror::Error as ThisError;

/// The certificate authorities that `verify-ca` and `verify-full` trust.
#[derive(Clone, Debug)]
pub struct Roots(Arc<RootCertStore>);

/// There is no trusted root certificate, or it cannot be used; with the reason.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
#[error("no certificate authority to trust: {0}")]
pub struct RootsError(String);

/// The TLS configurations of all modes, built once.
#[derive(Clone, Debug)]
pub struct ClientTls {
    unverified: Arc<ClientConfig>,
    chain: Option<Arc<ClientConfig>>,
    full: Option<Arc<ClientConfig>>,
}

impl Roots {
    /// The certificate authorities that the operating system trusts; empty if it has none.
    pub fn system() -> Self {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Self(Arc::new(store))
    }

    /// The certificates in a PEM text. An error if it contains none, or one that cannot be parsed.
    pub fn from_pem(pem: &[u8]) -> Result<Self, RootsError> {
        let mut store = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|e| RootsError(e.to_string()))?;
            store.add(certificate).map_err(|e| RootsError(e.to_string()))?;
        }
        if store.is_empty() {
            Err(RootsError("the PEM text contains no certificate".to_owned()))
        } else {
            Ok(Self(Arc::new(store)))
        }
    }
}

impl ClientTls {
    /// Builds configurations that trust `roots`.
    pub fn new(roots: &Roots) -> Result<Self, RootsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = |check: Check| -> Result<Arc<ClientConfig>, RootsError> {
            let verifier = Arc::new(Verifier {
                check,
                provider: provider.clone(),
            });
            let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
            let builder = builder.map_err(|e| RootsError(e.to_string()))?;
            Ok(Arc::new(
                builder
                    .dangerous()
                    .with_custom_certificate_verifier(verifier)
                    .with_no_client_auth(),
            ))
        };
        let webpki = if roots.0.is_empty() {
            None
        } else {
            let builder = WebPkiServerVerifier::builder_with_provider(roots.0.clone(), provider.clone());
            Some(builder.build().map_err(|e| RootsError(e.to_string()))?)
        };
        let verified =
            |check: fn(Arc<WebPkiServerVerifier>) -> Check| webpki.clone().map(|w| config(check(w))).transpose();
        Ok(Self {
            unverified: config(Check::Nothing)?,
            chain: verified(Check::Chain)?,
            full: verified(Check::Full)?,
        })
    }

    /// The configuration for a mode; `None` for `disable`. An error if the mode verifies certificates and there is no
    /// trusted root.
    pub fn config(&self, mode: TlsMode) -> Result<Option<Arc<ClientConfig>>, RootsError> {
        let verified = |config: &Option<Arc<ClientConfig>>| {
            let missing = || RootsError(format!("sslmode {mode} needs one"));
            config.clone().map(Some).ok_or_else(missing)
        };
        match mode {
            TlsMode::Disable => Ok(None),
            TlsMode::Prefer | TlsMode::Require => Ok(Some(self.unverified.clone())),
            TlsMode::VerifyCa => verified(&self.chain),
            TlsMode::VerifyFull => verified(&self.full),
        }
    }
}

#[derive(Debug)]
enum Check {
    Nothing,
    Chain(Arc<WebPkiServerVerifier>),
    Full(Arc<WebPkiServerVerifier>),
}

#[derive(Debug)]
struct Verifier {
    check: Check,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verify =
            |w: &WebPkiServerVerifier| w.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match &self.check {
            Check::Nothing => Ok(ServerCertVerified::assertion()),
            Check::Full(webpki) => verify(webpki),
            // webpki verifies the chain before the name, so an error about the name means that the chain is valid.
            Check::Chain(webpki) => match verify(webpki) {
                Err(Error::InvalidCertificate(
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
                )) => Ok(ServerCertVerified::assertion()),
                other => other,
            },
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verifying_modes_need_a_trusted_root() {
        let tls = ClientTls::new(&Roots(Arc::new(RootCertStore::empty()))).unwrap();
        assert!(tls.config(TlsMode::Disable).unwrap().is_none());
        assert!(tls.config(TlsMode::Require).unwrap().is_some());
        assert!(tls.config(TlsMode::VerifyCa).is_err());
        assert!(tls.config(TlsMode::VerifyFull).is_err());
        assert!(Roots::from_pem(b"not a certificate").is_err());
    }
}
