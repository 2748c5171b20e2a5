//! Opens one connection to one endpoint: TCP with the cluster's socket options, then TLS if the endpoint speaks it.

use super::cluster::{Cluster, Host, Transport};
use super::pool::Asked;
use super::proxy_protocol::{self, Origin};
use crate::http::Version;
use crate::stream::{Stream, Tcp};
use futures_util::stream::{FuturesUnordered, StreamExt};
use lateen_capture::{INBOUND_SOURCE_V4, INBOUND_SOURCE_V6};
use lateen_model::dataplane::{HttpProtocolOptions, TcpKeepalive};
use lateen_tls::{ConnectOptions, HandshakeError, PeerInfo, ServerName};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// What the connection will carry; chooses the ALPN that is offered (Istio's `istio.alpn` filter).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    /// HTTP/1.1 requests.
    Http1 {
        /// Whether Istio's ALPN filter is in force.
        istio_alpn: bool,
    },
    /// HTTP/2 requests.
    Http2 {
        /// Whether Istio's ALPN filter is in force.
        istio_alpn: bool,
    },
    /// Bytes: the cluster's own ALPN is offered.
    Tcp,
}

impl Purpose {
    /// What a request that came in `version` makes of a cluster's settings.
    pub(crate) fn of_request(protocol: &HttpProtocolOptions, version: Version, istio_alpn: bool) -> Self {
        match protocol {
            HttpProtocolOptions::Http2 { .. } => Self::Http2 { istio_alpn },
            HttpProtocolOptions::Downstream { .. } if version == Version::Http2 => Self::Http2 { istio_alpn },
            HttpProtocolOptions::Http1 | HttpProtocolOptions::Downstream { .. } => Self::Http1 { istio_alpn },
        }
    }

    /// The ALPN list of Istio's filter, best first.
    fn istio_alpn(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Http1 { istio_alpn: true } => Some(&["istio-http/1.1", "istio", "http/1.1"]),
            Self::Http2 { istio_alpn: true } => Some(&["istio-h2", "istio", "h2"]),
            Self::Http1 { .. } | Self::Http2 { .. } | Self::Tcp => None,
        }
    }

    /// What is offered where the configuration says nothing: the one protocol that will be spoken.
    fn own_alpn(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Http1 { .. } => Some(&["http/1.1"]),
            Self::Http2 { .. } => Some(&["h2"]),
            Self::Tcp => None,
        }
    }
}

/// An open connection.
pub(crate) struct Opened {
    pub(crate) stream: Stream,
    /// Our end.
    pub(crate) local: SocketAddr,
    /// What the TLS handshake agreed on and proved; `None` without TLS.
    pub(crate) tls: Option<Rc<PeerInfo>>,
}

/// Why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The cluster's `connect_timeout` passed, in TCP or in TLS.
    #[error("connection timeout")]
    Timeout,
    /// TCP said no.
    #[error("{0}")]
    Tcp(#[from] io::Error),
    /// TLS said no.
    #[error("TLS: {0}")]
    Tls(#[from] HandshakeError),
}

impl ConnectError {
    /// The text of `%UPSTREAM_TRANSPORT_FAILURE_REASON%`; none when the transport is not to blame.
    pub(crate) fn transport_failure(&self) -> Option<String> {
        match self {
            Self::Tls(error) => Some(format!("TLS error: {error}")),
            Self::Tcp(error) => Some(format!("delayed connect error: {}", plain_text(error))),
            Self::Timeout => None,
        }
    }
}

/// An error in the operating system's own words, without the number that the standard library adds.
fn plain_text(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

/// What holds for every socket that this process opens.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sockets {
    /// By which capture knows them, and leaves them alone.
    pub(crate) mark: Option<u32>,
    /// Whether the kernel may accelerate those to the application.
    pub(crate) accelerated: bool,
}

/// Connects to `host` within the cluster's connect timeout.
pub(crate) async fn connect(cluster: &Cluster, host: &Host, asked: &Asked, sockets: Sockets) -> Result<Opened, ConnectError> {
    match tokio::time::timeout(cluster.config.connect_timeout, connect_untimed(cluster, host, asked, sockets)).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::Timeout),
    }
}

async fn connect_untimed(cluster: &Cluster, host: &Host, asked: &Asked, sockets: Sockets) -> Result<Opened, ConnectError> {
    let mut stream = open_tcp(cluster, host.address, sockets.mark).await?;
    let local = stream.local_addr()?;
    if let Some(version) = cluster.config.proxy_protocol {
        let own = Origin { source: local, destination: stream.peer_addr()? };
        stream.write_all(&proxy_protocol::header(version, asked.origin, own)).await?;
    }
    let to_application = local.ip() == INBOUND_SOURCE_V4 || local.ip() == INBOUND_SOURCE_V6;
    let tcp = Tcp::new(stream).accelerated(sockets.accelerated && to_application);
    let Some(tls) = cluster.transport.for_endpoint(host.endpoint.tls_mode) else {
        return Ok(Opened { stream: Stream::Plain(tcp), local, tls: None });
    };
    let of_istio = cluster.overrides_alpn().then(|| asked.purpose.istio_alpn()).flatten();
    let alpn = of_istio.or_else(|| if tls.offers_alpn() { None } else { asked.purpose.own_alpn() });
    // A host that is no name cannot be sent; where it is to be verified the handshake fails for want of it.
    let server_name = asked.server_name.as_ref().and_then(|name| ServerName::try_from(name.to_string()).ok());
    let options = ConnectOptions { server_name, alpn: alpn.map(|names| names.iter().map(|n| n.as_bytes().to_vec()).collect()) };
    let (stream, peer) = Box::pin(lateen_tls::connect(tcp, tls, options)).await?;
    Ok(Opened { stream: Stream::Tls(Box::new(stream.into())), local, tls: Some(Rc::new(peer)) })
}

/// How long an address is waited for before the next one of the same name is tried beside it (Envoy's
/// `connection_attempt_delay`).
const NEXT_ADDRESS: Duration = Duration::from_millis(300);

/// Connects to an address, or to another one of its name if that is faster (RFC 8305, section 5).
async fn open_tcp(cluster: &Cluster, address: SocketAddr, mark: Option<u32>) -> io::Result<TcpStream> {
    let one = async |to: SocketAddr| {
        let socket = open_socket(to, &cluster.config.bind_sources, cluster.config.tcp_keepalive, mark)?;
        socket.connect(to).await
    };
    let mut further = cluster.further_addresses(address).into_iter();
    if further.len() == 0 {
        return one(address).await;
    }
    let mut tries = FuturesUnordered::new();
    tries.push(one(address));
    loop {
        let patience = tokio::time::sleep(NEXT_ADDRESS);
        let failed = tokio::select! {
            Some(result) = tries.next() => match result {
                Ok(stream) => return Ok(stream),
                Err(error) => Some(error),
            },
            () = patience, if further.len() > 0 => None,
        };
        match (further.next(), failed) {
            (Some(next), _) => tries.push(one(next)),
            (None, Some(error)) if tries.is_empty() => return Err(error),
            (None, _) => {}
        }
    }
}

fn open_socket(
    to: SocketAddr,
    sources: &[IpAddr],
    keepalive: Option<TcpKeepalive>,
    mark: Option<u32>,
) -> io::Result<tokio::net::TcpSocket> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(mark) = mark {
        lateen_capture::socket::set_mark(&socket, mark)?;
    }
    if let Some(k) = keepalive {
        lateen_capture::socket::set_keepalive(&socket, k.time, k.interval, k.probes)?;
    }
    if let Some(source) = sources.iter().find(|s| s.is_ipv4() == to.is_ipv4()) {
        lateen_capture::socket::set_bind_address_no_port(&socket)?;
        socket.bind(&SocketAddr::new(*source, 0).into())?;
    }
    Ok(tokio::net::TcpSocket::from_std_stream(socket.into()))
}

impl Transport {
    /// The TLS configuration for an endpoint of this mode; `None` is plaintext.
    pub(crate) fn for_endpoint(&self, mode: lateen_model::dataplane::TlsMode) -> Option<&lateen_tls::ClientTls> {
        match self {
            Self::Plaintext => None,
            Self::Tls(tls) => Some(tls),
            Self::ByEndpoint(ways) => ways.iter().find(|w| w.tls_mode.is_none_or(|m| m == mode)).and_then(|w| w.tls.as_ref()),
        }
    }
}
