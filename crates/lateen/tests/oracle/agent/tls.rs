//! TLS as a script has it: nothing of the server is verified, but noted.

use lateen_model::dataplane::{TlsParams, TlsVersion};
use lateen_tls::{
    AltName, Certificate, ClientParams, ClientTls, ConnectOptions, Credential, CredentialHandle, HandshakeError, PeerExpectation,
    ServerName, TrustHandle,
};
use tokio::net::TcpStream;

use super::Stream;
use crate::op::{Tls, TlsSeen};

pub(super) async fn connect(stream: TcpStream, tls: &Tls) -> Result<(Box<dyn Stream>, TlsSeen), String> {
    let version = |text: &Option<String>, default| match text.as_deref() {
        None => Ok(default),
        Some("1.2") => Ok(TlsVersion::V1_2),
        Some("1.3") => Ok(TlsVersion::V1_3),
        Some(other) => Err(format!("{other:?} is no version of TLS that is spoken here")),
    };
    let credential = match &tls.certificate {
        None => None,
        Some((chain, key)) => {
            Some(CredentialHandle::new(Credential::from_pem(chain.as_bytes(), key.as_bytes()).map_err(|e| e.to_string())?))
        }
    };
    let server_name = match &tls.sni {
        None => None,
        Some(name) => Some(ServerName::try_from(name.clone()).map_err(|e| format!("{name}: {e}"))?),
    };
    let params = ClientParams {
        credential,
        trust: TrustHandle::empty(),
        expectation: PeerExpectation::Unverified,
        params: TlsParams {
            min: version(&tls.min, TlsVersion::V1_2)?,
            max: version(&tls.max, TlsVersion::V1_3)?,
            cipher_suites: tls.suites.clone(),
        },
        alpn: tls.alpn.clone(),
        server_name,
        session_servers: 0,
    };
    let tls = ClientTls::new(params).map_err(|e| e.to_string())?;
    let (stream, peer) = lateen_tls::connect(stream, &tls, ConnectOptions::default()).await.map_err(|e| describe(&e))?;
    let names = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).map_or_else(Vec::new, |leaf| names(leaf));
    let seen = TlsSeen {
        version: format!("{:?}", peer.version),
        suite: peer.cipher_suite.to_owned(),
        alpn: peer.alpn.as_deref().map(str::to_owned),
        names,
    };
    Ok((Box::new(stream), seen))
}

fn names(leaf: &[u8]) -> Vec<String> {
    let Ok(certificate) = Certificate::parse(leaf) else { return vec!["no certificate".to_owned()] };
    let text = |name: &AltName| format!("{name:?}");
    certificate.names().iter().map(text).collect()
}

/// Why there is no connection, in words that both engines' alerts come to.
fn describe(error: &HandshakeError) -> String {
    match error {
        HandshakeError::Alert(alert) => format!("TLS alert {alert:?}"),
        HandshakeError::Closed => "TLS closed".to_owned(),
        other => format!("TLS {}", other.reason()),
    }
}

/// A TLS connection's end by the server, after the handshake: in TLS 1.3 that is when it refuses a client's certificate.
pub(super) fn late(error: std::io::Error) -> Option<String> {
    match HandshakeError::from(error) {
        HandshakeError::Alert(alert) => Some(format!("TLS alert {alert:?}")),
        _ => None,
    }
}
