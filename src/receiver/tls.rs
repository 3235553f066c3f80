//! TLS of a receiver: one server certificate for all protocols, and client certificates when a CA for them is given.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;

use super::Protocol;

/// TLS material as PEM text.
#[derive(Clone)]
pub struct Tls {
    /// The server's certificate chain.
    pub cert: String,
    /// The private key to it.
    pub key: String,
    /// Who signs client certificates; when given, a client without one is turned away.
    pub client_ca: Option<String>,
}

/// Without the key.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("client_ca", &self.client_ca.is_some()).finish_non_exhaustive()
    }
}

impl Tls {
    pub(super) fn acceptor(&self, protocol: Protocol) -> io::Result<TlsAcceptor> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(invalid("protocol versions"))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(pem, "client CA")? {
                    roots.add(certificate).map_err(invalid("client CA"))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .map_err(invalid("client CA"))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(invalid("key"))?;
        let mut config =
            builder.with_single_cert(certificates(&self.cert, "certificate")?, key).map_err(invalid("certificate"))?;
        config.alpn_protocols = vec![match protocol {
            Protocol::OtlpGrpc => b"h2".to_vec(),
            Protocol::OtlpHttp | Protocol::Webhook => b"http/1.1".to_vec(),
        }];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn certificates(pem: &str, what: &'static str) -> io::Result<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(invalid(what))?;
    if certificates.is_empty() {
        return Err(invalid(what)("no PEM certificate in it"));
    }
    Ok(certificates)
}

fn invalid<E: fmt::Display>(what: &'static str) -> impl Fn(E) -> io::Error {
    move |error| io::Error::new(io::ErrorKind::InvalidInput, format!("TLS {what}: {error}"))
}
