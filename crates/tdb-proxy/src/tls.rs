//! TLS towards clients: one configuration, and the hash of its certificate for channel binding (RFC 5929,
//! `tls-server-end-point`).

use std::io;
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tdb_wire_postgres::scram::Binding;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::stream::Stream;

/// PostgreSQL's ALPN name; direct TLS must ask for it, so that other protocols cannot be confused with ours.
const ALPN: &[u8] = b"postgresql";

/// A certificate with its key, ready for handshakes.
#[derive(Clone)]
pub struct ServerTls {
    acceptor: TlsAcceptor,
    binding: Binding,
}

#[derive(Debug, Error)]
pub enum ServerTlsError {
    #[error("the certificate file holds no certificate in PEM")]
    NoCertificate,
    #[error("the key file holds no private key in PEM")]
    NoKey,
    #[error("the certificate and the key cannot be used together: {0}")]
    Unusable(#[from] rustls::Error),
}

impl ServerTls {
    /// The chain (our certificate first) and its key, both in PEM.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, ServerTlsError> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|_| ServerTlsError::NoCertificate)?;
        let own = chain.first().ok_or(ServerTlsError::NoCertificate)?;
        let binding = binding(own);
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| ServerTlsError::NoKey)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            binding,
        })
    }

    pub fn binding(&self) -> &Binding {
        &self.binding
    }

    /// The handshake after an SSLRequest. Bytes a client sent in clear after its request are read as part of it, and
    /// break it: nothing said in clear is ever acted upon (CVE-2021-23214).
    pub async fn accept(&self, stream: TcpStream) -> io::Result<Stream> {
        Ok(Stream::TlsFromClient(Box::new(self.acceptor.accept(stream).await?)))
    }

    /// The handshake of a client that began with it (`sslnegotiation=direct`); ALPN is required.
    pub async fn accept_direct(&self, stream: TcpStream) -> io::Result<Stream> {
        let stream = self.acceptor.accept(stream).await?;
        match stream.get_ref().1.alpn_protocol() {
            Some(ALPN) => Ok(Stream::TlsFromClient(Box::new(stream))),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "direct TLS without ALPN \"postgresql\"",
            )),
        }
    }
}

/// RFC 5929 section 4.1: the hash function of the certificate's signature, SHA-256 in place of MD5 and SHA-1. Others than
/// SHA-256 are rare; binding is not offered for them.
fn binding(certificate: &CertificateDer<'_>) -> Binding {
    /// DER of the object identifiers of ecdsa-with-SHA256 and sha256WithRSAEncryption.
    const SHA256_SIGNATURES: [&[u8]; 2] = [
        b"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02",
        b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b",
    ];
    let signed_with = |oid: &[u8]| certificate.windows(oid.len()).any(|window| window == oid);
    match SHA256_SIGNATURES.iter().any(|oid| signed_with(oid)) {
        true => Binding::ServerEndPoint(digest(&SHA256, certificate).as_ref().to_vec()),
        false => Binding::None,
    }
}
