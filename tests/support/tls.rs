//! Certificates made for one test: a CA, a server for localhost and 127.0.0.1, and a client.

use std::fs;
use std::path::PathBuf;

use auditwire::receiver::Tls;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;

/// PEM files in a directory that goes with this value, and the same as text.
pub struct TlsMaterial {
    dir: TempDir,
    pub ca: String,
    pub server: String,
    pub server_key: String,
    pub client: String,
    pub client_key: String,
}

impl TlsMaterial {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "test CA");
        let ca = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);

        let (server, server_key) = signed(&issuer, &["localhost", "127.0.0.1"]);
        let (client, client_key) = signed(&issuer, &["client.test"]);
        let material = Self { dir: TempDir::new().unwrap(), ca, server, server_key, client, client_key };
        fs::write(material.ca_path(), &material.ca).unwrap();
        fs::write(material.server_path(), &material.server).unwrap();
        fs::write(material.server_key_path(), &material.server_key).unwrap();
        fs::write(material.client_path(), &material.client).unwrap();
        fs::write(material.client_key_path(), &material.client_key).unwrap();
        material
    }

    pub fn ca_path(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    pub fn server_path(&self) -> PathBuf {
        self.dir.path().join("server.pem")
    }

    pub fn server_key_path(&self) -> PathBuf {
        self.dir.path().join("server.key")
    }

    pub fn client_path(&self) -> PathBuf {
        self.dir.path().join("client.pem")
    }

    pub fn client_key_path(&self) -> PathBuf {
        self.dir.path().join("client.key")
    }

    /// For a receiver that anybody may connect to.
    pub fn one_way(&self) -> Tls {
        Tls { cert: self.server.clone(), key: self.server_key.clone(), client_ca: None }
    }

    /// For a receiver that demands the client's certificate.
    pub fn mutual(&self) -> Tls {
        Tls { client_ca: Some(self.ca.clone()), ..self.one_way() }
    }
}

fn signed(issuer: &Issuer<'_, KeyPair>, names: &[&str]) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
    params.distinguished_name.push(DnType::CommonName, names[0]);
    (params.signed_by(&key, issuer).unwrap().pem(), key.serialize_pem())
}
