//! Certificates from files, for both clients we use: rustls for HTTP, tonic's own for gRPC.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::config::{ConfigError, Tls};

/// The files' contents, read once at start so that a wrong path stops it.
pub(super) struct Material {
    authorities: Option<Pem>,
    /// Certificate chain and private key.
    identity: Option<(Pem, Pem)>,
}

struct Pem {
    setting: String,
    path: String,
    text: Vec<u8>,
}

impl Pem {
    fn error(&self, why: impl Into<String>) -> ConfigError {
        ConfigError { setting: self.setting.clone(), value: Some(self.path.clone()), why: why.into() }
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&self.text)
            .collect::<Result<_, _>>()
            .map_err(|error| self.error(format!("not a PEM file of certificates: {error}")))?;
        if certificates.is_empty() {
            return Err(self.error("the file holds no PEM certificate"));
        }
        Ok(certificates)
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, ConfigError> {
        PrivateKeyDer::from_pem_slice(&self.text)
            .map_err(|error| self.error(format!("not a PEM file with a private key: {error}")))
    }
}

impl Material {
    pub(super) fn read(destination: &str, tls: &Tls) -> Result<Self, ConfigError> {
        let read = |option: &str, path: &Path| {
            let setting = format!("{destination}: {option}");
            let value = path.display().to_string();
            match std::fs::read(path) {
                Ok(text) => Ok(Pem { setting, path: value, text }),
                Err(error) => Err(ConfigError { setting, value: Some(value), why: format!("cannot be read: {error}") }),
            }
        };
        let identity = match (&tls.client_certificate, &tls.client_key) {
            (Some(certificate), Some(key)) => {
                Some((read("client certificate", certificate)?, read("client key", key)?))
            }
            (None, None) => None,
            (Some(alone), None) | (None, Some(alone)) => {
                return Err(ConfigError {
                    setting: format!("{destination}: client certificate and client key"),
                    value: Some(alone.display().to_string()),
                    why: "one is set without the other".into(),
                });
            }
        };
        let authorities = tls.certificate.as_deref().map(|path| read("certificate", path)).transpose()?;
        let material = Self { authorities, identity };
        // tonic reads PEM only when it connects; what is wrong with the files must be said now.
        material.rustls()?;
        Ok(material)
    }

    /// For HTTP.
    pub(super) fn rustls(&self) -> Result<ClientConfig, ConfigError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        match &self.authorities {
            Some(pem) => {
                for certificate in pem.certificates()? {
                    roots
                        .add(certificate)
                        .map_err(|error| pem.error(format!("not a certificate authority: {error}")))?;
                }
            }
            // A system without roots is not an error before an https endpoint is used: the handshake then says so.
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring supports TLS 1.2 and 1.3")
            .with_root_certificates(roots);
        match &self.identity {
            None => Ok(builder.with_no_client_auth()),
            Some((certificate, key)) => builder
                .with_client_auth_cert(certificate.certificates()?, key.key()?)
                .map_err(|error| certificate.error(format!("certificate and key do not go together: {error}"))),
        }
    }

    /// For gRPC.
    pub(super) fn tonic(&self) -> ClientTlsConfig {
        let config = match &self.authorities {
            Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&pem.text)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        match &self.identity {
            Some((certificate, key)) => config.identity(Identity::from_pem(&certificate.text, &key.text)),
            None => config,
        }
    }
}
