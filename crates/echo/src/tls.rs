//! HTTP over TLS: certificates from files, and what a request's answer tells of its connection.

use crate::EchoError;
use lateen_model::dataplane::{TlsParams, TlsVersion};
use lateen_tls::{
    AltName, ClientAuth, Credential, CredentialHandle, PeerExpectation, PeerInfo, ServerParams, ServerTls, TrustBundle,
    TrustHandle,
};
use std::path::{Path, PathBuf};

/// How HTTP is served over TLS.
#[derive(Clone, Debug)]
pub struct TlsServer {
    /// HTTP/1.1 and HTTP/2 by ALPN; 0 takes a free port.
    pub port: u16,
    /// The certificate and its intermediates, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Roots, PEM: clients are asked for a certificate by one of them, and one that shows none is let in.
    pub client_roots: Option<PathBuf>,
}

impl TlsServer {
    /// Reads the files.
    pub(crate) fn load(&self) -> Result<ServerTls, EchoError> {
        let wrong = |path: &Path, reason: String| EchoError::Certificates { path: path.to_owned(), reason };
        let read = |path: &Path| std::fs::read(path).map_err(|e| wrong(path, e.to_string()));
        let credential = Credential::from_pem(&read(&self.certificate)?, &read(&self.key)?);
        let credential = credential.map_err(|e| wrong(&self.certificate, e.to_string()))?;
        let client_auth = match &self.client_roots {
            None => ClientAuth::None,
            Some(path) => {
                let roots = TrustBundle::from_pem(&read(path)?).map_err(|e| wrong(path, e.to_string()))?;
                ClientAuth::IfGiven(TrustHandle::new(roots), PeerExpectation::AnyInTrustBundle)
            }
        };
        let params = ServerParams {
            credential: CredentialHandle::new(credential),
            client_auth,
            params: TlsParams { min: TlsVersion::V1_2, max: TlsVersion::V1_3, cipher_suites: Vec::new() },
            alpn: vec!["h2".to_owned(), "http/1.1".to_owned()],
        };
        ServerTls::new(params).map_err(|e| wrong(&self.certificate, e.to_string()))
    }
}

/// What an answer tells: the server name that was asked for, the protocol agreed on, and the client's names.
pub(crate) fn describe(peer: &PeerInfo) -> serde_json::Value {
    let name = |name: &AltName| match name {
        AltName::Dns(name) | AltName::Uri(name) | AltName::Email(name) => name.to_string(),
        AltName::Ip(address) => address.to_string(),
    };
    let client = peer.certificate.as_ref().map(|certificate| certificate.names().iter().map(name).collect::<Vec<_>>());
    serde_json::json!({ "sni": peer.sni.as_deref(), "alpn": peer.alpn.as_deref(), "client": client })
}
