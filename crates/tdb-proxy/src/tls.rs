//! TLS for client connections of every engine: the certificate, and its hash for channel binding.

use std::io;
use std::sync::Arc;

use ring::digest;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tdb_names::Engine;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::stream::Stream;

/// Why a certificate cannot be used.
#[derive(Debug, Error)]
pub enum ServerTlsError {
    /// The certificate cannot be read, with the reason.
    #[error("the certificate is not valid PEM: {0}")]
    Certificate(String),
    /// The file has no certificate.
    #[error("the PEM text contains no certificate")]
    NoCertificate,
    /// The private key cannot be read, with the reason.
    #[error("the private key is not valid PEM: {0}")]
    Key(String),
    /// The key does not belong to the certificate.
    #[error("the private key does not match the certificate: {0}")]
    Mismatch(#[source] rustls::Error),
}

/// The TLS configuration for client connections: a certificate chain and its private key.
#[derive(Clone)]
pub struct ServerTls {
    acceptor: TlsAcceptor,
    end_point_hash: Option<Vec<u8>>,
}

impl ServerTls {
    /// Parses PEM: the certificate chain, starting with the server's certificate, and the private key of that certificate.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, ServerTlsError> {
        let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|e| ServerTlsError::Certificate(e.to_string()))?;
        let own = chain.first().ok_or(ServerTlsError::NoCertificate)?;
        let end_point_hash = end_point_hash(own);
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| ServerTlsError::Key(e.to_string()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(ServerTlsError::Mismatch)?.with_no_client_auth();
        let mut config = builder.with_single_cert(chain, key).map_err(ServerTlsError::Mismatch)?;
        config.alpn_protocols = Engine::ALL.map(|engine| alpn(engine).into()).to_vec();
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            end_point_hash,
        })
    }

    /// The certificate's hash for the channel binding `tls-server-end-point` (RFC 5929); `None` if its signature algorithm
    /// defines none.
    pub(crate) fn end_point_hash(&self) -> Option<&[u8]> {
        self.end_point_hash.as_deref()
    }

    /// Performs the handshake after an SSLRequest. Unencrypted bytes that follow the request are read as part of the
    /// handshake and make it fail, so they are never processed (CVE-2021-23214).
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<Stream> {
        Ok(Stream::TlsFromClient(Box::new(self.acceptor.accept(stream).await?)))
    }

    /// Performs the handshake of a client that starts with TLS (`sslnegotiation=direct`). ALPN is required, so that
    /// connections of another protocol cannot be redirected to this port.
    pub(crate) async fn accept_direct(&self, stream: TcpStream, engine: Engine) -> io::Result<Stream> {
        let stream = self.acceptor.accept(stream).await?;
        if stream.get_ref().1.alpn_protocol() == Some(alpn(engine).as_bytes()) {
            return Ok(Stream::TlsFromClient(Box::new(stream)));
        }
        let message = format!("direct TLS without ALPN \"{}\"", alpn(engine));
        Err(io::Error::new(io::ErrorKind::InvalidData, message))
    }
}

/// Object identifiers of signature algorithms, by the hash function that RFC 5929 section 4.1 specifies for them.
const SHA256_SIGNATURES: [&[u8]; 4] = [
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b],
    &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02],
    // MD5 and SHA-1 are replaced by SHA-256.
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x04],
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05],
];
const SHA384_SIGNATURES: [&[u8]; 2] = [
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0c],
    &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03],
];
const SHA512_SIGNATURES: [&[u8]; 2] = [
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d],
    &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04],
];

/// The ALPN protocol name that clients send with direct TLS. PostgreSQL manual, "SSL Session Encryption".
fn alpn(engine: Engine) -> &'static str {
    match engine {
        Engine::PostgreSql => "postgresql",
    }
}

/// The certificate's hash, with the hash function of its signature algorithm (RFC 5929 section 4.1). `None` for algorithms
/// without one (Ed25519, RSA-PSS); PostgreSQL does not offer channel binding for these either.
fn end_point_hash(certificate: &[u8]) -> Option<Vec<u8>> {
    let signature = signature_algorithm(certificate)?;
    let algorithm = if SHA256_SIGNATURES.contains(&signature) {
        &digest::SHA256
    } else if SHA384_SIGNATURES.contains(&signature) {
        &digest::SHA384
    } else if SHA512_SIGNATURES.contains(&signature) {
        &digest::SHA512
    } else {
        return None;
    };
    Some(digest::digest(algorithm, certificate).as_ref().to_vec())
}

/// `Certificate ::= SEQUENCE { tbsCertificate SEQUENCE, signatureAlgorithm SEQUENCE { OBJECT IDENTIFIER, … }, … }`
/// (RFC 5280 section 4.1).
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    const SEQUENCE: u8 = 0x30;
    const OBJECT_IDENTIFIER: u8 = 0x06;
    let (inside, _) = der_value(certificate, SEQUENCE)?;
    let (_, after_body) = der_value(inside, SEQUENCE)?;
    let (algorithm, _) = der_value(after_body, SEQUENCE)?;
    Some(der_value(algorithm, OBJECT_IDENTIFIER)?.0)
}

/// The content of the first DER value, and the bytes that follow the value. `None` if its tag is not `tag`.
fn der_value(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |len, digit| len << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    (*found == tag).then(|| rest.split_at_checked(len))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_point_of_an_ecdsa_p256_certificate_is_its_sha256() {
        let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let expected = digest::digest(&digest::SHA256, own.cert.der());
        assert_eq!(end_point_hash(own.cert.der()).as_deref(), Some(expected.as_ref()));
    }

    #[test]
    fn a_truncated_certificate_has_no_end_point() {
        let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        for len in 0..own.cert.der().len() {
            assert_eq!(end_point_hash(&own.cert.der()[..len]), None, "{len}");
        }
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let one = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(vec!["b".to_owned()]).unwrap();
        let load =
            |key: &rcgen::KeyPair| ServerTls::from_pem(one.cert.pem().as_bytes(), key.serialize_pem().as_bytes());
        assert!(load(&one.signing_key).is_ok());
        assert!(matches!(load(&other.signing_key), Err(ServerTlsError::Mismatch(_))));
        assert!(matches!(
            ServerTls::from_pem(b"", b""),
            Err(ServerTlsError::NoCertificate)
        ));
    }
}
