//! Handshakes, and what is known of the peer after one.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::SystemTime;

use lateen_model::dataplane::TlsVersion;
use lateen_model::identity::SpiffeId;
use rustls::{AlertDescription, CommonState, HandshakeKind, ProtocolVersion};
use rustls_pki_types::{CertificateDer, IpAddr, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{LazyConfigAcceptor, TlsConnector};

use crate::certificate::Certificate;
use crate::config::{ClientTls, ServerTls};
use crate::expectation::PeerExpectation;
use crate::verify::VerifyError;

/// A TLS connection that was accepted.
pub type ServerStream<S> = tokio_rustls::server::TlsStream<S>;

/// A TLS connection that was opened.
pub type ClientStream<S> = tokio_rustls::client::TlsStream<S>;

/// Why there is no TLS connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// We have no certificate or no roots yet. Nothing was sent.
    #[error("TLS handshake: {0} is not loaded yet")]
    NotReady(&'static str),
    /// We refused the peer's certificate.
    #[error("TLS handshake: {0}")]
    Peer(#[from] VerifyError),
    /// The peer refused us, with this alert (RFC 8446, section 6).
    #[error("TLS handshake: the peer refused with alert {0:?}")]
    Alert(AlertDescription),
    /// The peer does not speak TLS at all.
    #[error("TLS handshake: the peer's bytes are not TLS ({0})")]
    NotTls(String),
    /// There is no version, cipher suite, … in common, or the peer broke the protocol.
    #[error("TLS handshake: {0}")]
    Protocol(String),
    /// The peer closed in the middle.
    #[error("TLS handshake: the peer closed the connection")]
    Closed,
    /// The network failed.
    #[error("TLS handshake: {0}")]
    Io(io::Error),
}

impl HandshakeError {
    /// Every value that [`reason`](Self::reason) can have beside [`VerifyError::REASONS`].
    pub const REASONS: [&'static str; 6] = ["not_ready", "refused_by_peer", "not_tls", "protocol", "closed", "io"];

    /// A short name of the cause, from a fixed set: fit to be a metric label.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotReady(_) => "not_ready",
            Self::Peer(cause) => cause.reason(),
            Self::Alert(_) => "refused_by_peer",
            Self::NotTls(_) => "not_tls",
            Self::Protocol(_) => "protocol",
            Self::Closed => "closed",
            Self::Io(_) => "io",
        }
    }
}

impl From<io::Error> for HandshakeError {
    /// Sorts an error of a TLS stream. Also of use for the first read of a client: in TLS 1.3 the server may refuse the
    /// client's certificate after the client's handshake is over.
    fn from(error: io::Error) -> Self {
        let Some(cause) = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) else {
            return match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Closed,
                _ => Self::Io(error),
            };
        };
        if let Some(refused) = VerifyError::from_rustls(cause) {
            return Self::Peer(refused);
        }
        match cause {
            rustls::Error::AlertReceived(alert) => Self::Alert(*alert),
            rustls::Error::InvalidMessage(_) => Self::NotTls(cause.to_string()),
            other => Self::Protocol(other.to_string()),
        }
    }
}

/// What is known of a connection and its peer, gathered once, when the handshake is over.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// The peer's certificate, verified as of the end of the handshake; `None` for an unauthenticated peer.
    pub certificate: Option<Arc<Certificate>>,
    /// Our own certificate; `None` where we have none to show.
    pub own: Option<Arc<Certificate>>,
    /// The protocol agreed on.
    pub alpn: Option<Arc<str>>,
    /// The version agreed on.
    pub version: TlsVersion,
    /// The cipher suite agreed on, by its IANA name, e.g. `TLS13_AES_256_GCM_SHA384`.
    pub cipher_suite: &'static str,
    /// The name that the client asked for (SNI), lower-case.
    pub sni: Option<Arc<str>>,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
}

impl PeerInfo {
    /// The peer's identity, if it has been authenticated and has one.
    pub fn spiffe(&self) -> Option<&SpiffeId> {
        self.certificate.as_deref().and_then(Certificate::identity)
    }

    /// Our own identity, if we have shown a certificate that has one.
    pub fn own_spiffe(&self) -> Option<&SpiffeId> {
        self.own.as_deref().and_then(Certificate::identity)
    }

    fn new(session: &CommonState, ends: Ends, sni: Option<&str>) -> Result<Self, HandshakeError> {
        let version = match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => TlsVersion::V1_3,
            Some(ProtocolVersion::TLSv1_2) => TlsVersion::V1_2,
            other => return Err(HandshakeError::Protocol(format!("unexpected version {other:?}"))),
        };
        let alpn = session.alpn_protocol().map(std::str::from_utf8).transpose();
        let alpn = alpn.map_err(|_| HandshakeError::Protocol("ALPN protocol is not ASCII".into()))?;
        let suite = session.negotiated_cipher_suite().and_then(|s| s.suite().as_str()).unwrap_or("unknown");
        Ok(Self {
            certificate: ends.peer,
            own: ends.own,
            alpn: alpn.map(Arc::from),
            version,
            cipher_suite: suite,
            sni: sni.map(|name| name.to_ascii_lowercase().into()),
            resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        })
    }
}

/// The certificates of a connection's two ends.
struct Ends {
    own: Option<Arc<Certificate>>,
    peer: Option<Arc<Certificate>>,
}

/// What one connection does differently from its [`ClientTls`].
#[derive(Clone, Debug, Default)]
pub struct ConnectOptions {
    /// Another server name.
    pub server_name: Option<ServerName<'static>>,
    /// Other protocols to offer (Istio's ALPN filter sets them for each request).
    pub alpn: Option<Vec<Vec<u8>>>,
}

/// Runs the server's side of a handshake. The caller bounds its time.
///
/// # Errors
/// [`HandshakeError`]; where TLS allows it, the peer has been sent an alert.
pub async fn accept<S>(io: S, tls: &ServerTls) -> Result<(ServerStream<S>, PeerInfo), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Some(own) = tls.credential.load() else { return Err(HandshakeError::NotReady("our certificate")) };
    if tls.client_required && tls.policy.as_ref().is_some_and(|p| p.trust().load().is_none()) {
        return Err(HandshakeError::NotReady("the trust bundle"));
    }
    let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), io).await?;
    let ours = &tls.config.alpn_protocols;
    let in_common = match start.client_hello().alpn() {
        Some(mut offered) => offered.any(|theirs| ours.iter().any(|protocol| protocol == theirs)),
        None => true,
    };
    let config = if in_common { &tls.config } else { &tls.without_alpn };
    let stream = start.into_stream(Arc::clone(config)).await?;
    let session = stream.get_ref().1;
    let certificate = client_certificate(tls, session.peer_certificates().unwrap_or_default())?;
    let info = PeerInfo::new(session, Ends { own: Some(Arc::clone(own.leaf())), peer: certificate }, session.server_name())?;
    Ok((stream, info))
}

fn client_certificate(tls: &ServerTls, chain: &[CertificateDer<'_>]) -> Result<Option<Arc<Certificate>>, VerifyError> {
    match &tls.policy {
        None => Ok(None),
        Some(_) if chain.is_empty() && !tls.client_required => Ok(None),
        Some(policy) => policy.confirm(chain, SystemTime::now(), None).map(Some),
    }
}

/// Runs the client's side of a handshake. The caller bounds its time.
///
/// # Errors
/// [`HandshakeError`]. In TLS 1.3 a server that refuses our certificate says so only afterwards: see the conversion of
/// [`io::Error`] into [`HandshakeError`].
pub async fn connect<S>(io: S, tls: &ClientTls, options: ConnectOptions) -> Result<(ClientStream<S>, PeerInfo), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let own = match tls.credential.as_ref().map(|c| c.load()) {
        None => None,
        Some(None) => return Err(HandshakeError::NotReady("our certificate")),
        Some(Some(credential)) => Some(Arc::clone(credential.leaf())),
    };
    if !tls.policy.is_unverified() && tls.policy.trust().load().is_none() {
        return Err(HandshakeError::NotReady("the trust bundle"));
    }
    let name = options.server_name.or_else(|| tls.server_name.clone());
    if name.is_none() && *tls.policy.expectation() == PeerExpectation::ServerName {
        return Err(VerifyError::UnexpectedName.into());
    }
    let config = if name.is_some() { &tls.config } else { &tls.without_sni };
    let connector = TlsConnector::from(Arc::clone(config));
    // rustls wants a name for its session store even if none is sent.
    let key = name.clone().unwrap_or(ServerName::IpAddress(IpAddr::from(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED))));
    let stream = match options.alpn {
        Some(protocols) => connector.with_alpn(protocols).connect(key, io).await?,
        None => connector.connect(key, io).await?,
    };
    let session = stream.get_ref().1;
    let certificate = if tls.policy.is_unverified() {
        None
    } else {
        let chain = session.peer_certificates().unwrap_or_default();
        Some(tls.policy.confirm(chain, SystemTime::now(), name.as_ref())?)
    };
    let sni = match &name {
        Some(ServerName::DnsName(dns)) => Some(dns.as_ref()),
        _ => None,
    };
    let info = PeerInfo::new(session, Ends { own, peer: certificate }, sni)?;
    Ok((stream, info))
}
