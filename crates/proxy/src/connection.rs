//! A connection's path, from accept to its terminal filter, phase by phase:
//! addresses → listener → detection → filter chain → TLS → network filters → HTTP or bytes.

use crate::config::{Chain, Listener, Snapshot, Terminal};
use crate::detect::{Detected, detect};
use crate::drain::Opening;
use crate::listener::Accepted;
use crate::serve_http::serve_http;
use crate::sniff::{ClientHello, Spoken};
use crate::stream::Stream;
use crate::telemetry::ConnectionOutcome;
use crate::worker::Worker;
use lateen_model::dataplane::{Direction, TransportProtocol};
use lateen_policy::filter_chain::ConnectionFacts;
use lateen_policy::{ConnectionView, Peer};
use lateen_tls::PeerInfo;
use smallvec::SmallVec;
use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;

/// How long a TLS handshake with a client may last (Envoy's `transport_socket_connect_timeout`, which Istio sets to 15 s).
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);

/// The number of the next connection.
static NUMBER: AtomicU64 = AtomicU64::new(1);

/// What is known of a downstream connection; does not change once its filter chain is chosen.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Its number in this process (`%CONNECTION_ID%`).
    pub(crate) id: u64,
    /// The listener that accepted it.
    pub(crate) accepted_by: Arc<str>,
    pub(crate) remote: SocketAddr,
    /// Where the client wanted to go: the original destination, or the local address.
    pub(crate) destination: SocketAddr,
    pub(crate) transport: TransportProtocol,
    pub(crate) sni: Option<String>,
    /// What was offered by ALPN, or found by the HTTP inspector; what chose the chain.
    pub(crate) protocols: Vec<String>,
    pub(crate) tls: Option<PeerInfo>,
    /// The peer's element of `x-forwarded-client-cert`, made when first needed.
    pub(crate) forwarded_client_cert: std::cell::OnceCell<String>,
    /// Until the first request, or until its bytes are forwarded.
    pub(crate) opening: RefCell<Option<Opening>>,
}

impl Connection {
    /// The verified peer's SPIFFE URI.
    pub(crate) fn peer_uri(&self) -> Option<&str> {
        self.tls.as_ref().and_then(PeerInfo::spiffe).map(lateen_model::identity::SpiffeId::as_uri)
    }

    /// The chain that serves this connection in a snapshot, and its listener.
    pub(crate) fn chain_in<'s>(&self, snapshot: &'s Snapshot) -> Option<(&'s Arc<Listener>, &'s Arc<Chain>)> {
        let listener = snapshot.listener_for(&self.accepted_by, self.destination)?;
        let protocols: SmallVec<[&str; 4]> = self.protocols.iter().map(String::as_str).collect();
        let chosen = listener.index.find(&ConnectionFacts {
            destination: self.destination,
            source: self.remote,
            server_name: self.sni.as_deref(),
            transport: self.transport,
            application_protocols: &protocols,
        })?;
        Some((listener, listener.chain(chosen)?))
    }
}

impl ConnectionView for Connection {
    fn destination(&self) -> SocketAddr {
        self.destination
    }

    fn direct_remote(&self) -> IpAddr {
        self.remote.ip()
    }

    fn client(&self) -> IpAddr {
        self.remote.ip()
    }

    fn server_name(&self) -> Option<&str> {
        self.sni.as_deref()
    }

    fn peer(&self) -> Peer<'_> {
        match self.tls.as_ref().filter(|t| t.certificate.is_some()) {
            Some(tls) => Peer::Verified(tls.spiffe().map(lateen_model::identity::SpiffeId::as_uri)),
            None => Peer::Unauthenticated,
        }
    }
}

/// Serves one connection until it ends.
pub(crate) async fn serve(worker: Rc<Worker>, accepted: Accepted) {
    let Accepted { listener, stream, remote, guard } = accepted;
    // In a box that goes when it is done: an open connection holds nothing of how it began.
    match Box::pin(begin(&worker, &listener, stream, remote)).await {
        Ok(Some(serving)) => serving.await,
        Ok(None) => {}
        Err(error) => tracing::debug!(%listener, %remote, %error, "connection ended"),
    }
    drop(guard);
}

/// What serves a connection from then on that it is known what it speaks.
type Serving = Pin<Box<dyn Future<Output = ()>>>;

/// Finds out what a connection is, and who serves it; `None` if nobody does.
async fn begin(
    worker: &Rc<Worker>,
    name: &Arc<str>,
    stream: std::net::TcpStream,
    remote: SocketAddr,
) -> io::Result<Option<Serving>> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    let stream = TcpStream::from_std(stream)?;
    let opening = worker.shared.drain.opening();
    let mut snapshot = worker.shared.snapshot.load_full();

    // Addresses and the listener of the destination.
    let local = stream.local_addr()?;
    let Some(accepting) = snapshot.listeners.get(name) else { return Ok(None) };
    let destination = if accepting.model.listener_filters.original_dst { original_destination(&stream, local) } else { local };
    let outbound = accepting.model.use_original_dst && accepting.model.direction == Direction::Outbound;
    let open = if outbound { worker.shared.on_demand.of_connection(&snapshot, destination) } else { Vec::new() };
    let learnt = open.is_empty() || {
        let learnt = Box::pin(worker.shared.on_demand.learn(open)).await.is_ok();
        snapshot = worker.shared.snapshot.load_full();
        learnt
    };
    let Some(listener) = snapshot.listener_for(name, destination).cloned() else { return Ok(None) };

    // Detection.
    let mut connection = Connection {
        id: NUMBER.fetch_add(1, Ordering::Relaxed),
        accepted_by: name.clone(),
        remote: canonical(remote),
        destination,
        transport: TransportProtocol::RawBuffer,
        sni: None,
        protocols: Vec::new(),
        tls: None,
        forwarded_client_cert: std::cell::OnceCell::new(),
        opening: RefCell::new(Some(opening)),
    };
    if !learnt {
        worker.telemetry.connection_failed(&connection, &listener, ConnectionOutcome::NotLearned);
        return Ok(None);
    }
    let Some(detected) = detect(worker, &connection, snapshot, &listener, stream).await? else {
        worker.telemetry.connection_failed(&connection, &listener, ConnectionOutcome::DetectionTimeout);
        return Ok(None);
    };
    let Detected { stream: tcp, spoken, prepared } = detected;
    connection.learn(spoken);
    let tcp = tcp.accelerated(outbound && worker.shared.settings.sockets.accelerated);

    // Filter chain. The client may have taken its time: the configuration of now holds.
    let snapshot = worker.shared.snapshot.load_full();
    let Some((listener, chain)) = connection.chain_in(&snapshot).map(|(l, c)| (l.clone(), c.clone())) else {
        worker.telemetry.connection_failed(&connection, &listener, ConnectionOutcome::NoFilterChain);
        return Ok(None);
    };
    drop(snapshot);

    // TLS.
    let stream = match &chain.tls {
        None => Stream::Plain(tcp),
        Some(tls) => match Box::pin(tokio::time::timeout(HANDSHAKE_TIMEOUT, lateen_tls::accept(tcp, tls))).await {
            Ok(Ok((stream, peer))) => {
                connection.tls = Some(peer);
                Stream::Tls(Box::new(stream.into()))
            }
            Ok(Err(error)) => {
                worker.telemetry.connection_failed(&connection, &listener, ConnectionOutcome::Handshake(error.reason()));
                return Err(io::Error::other(error));
            }
            Err(_) => {
                worker.telemetry.connection_failed(&connection, &listener, ConnectionOutcome::Handshake("timeout"));
                return Ok(None);
            }
        },
    };

    // Network filters.
    let denied = connection.denied(&chain);
    Connection::count_decision(&chain, denied.is_some());
    if let Some(details) = denied {
        worker.telemetry.connection_denied(&connection, &listener, &chain, &details);
        return Ok(None);
    }

    // HTTP or bytes.
    let connection = Rc::new(connection);
    Ok(Some(match &chain.terminal {
        Terminal::Http(hcm) => Box::pin(serve_http(worker.clone(), connection, stream, listener, hcm.clone())),
        Terminal::Tcp(_) => Box::pin(crate::tcp::serve(worker.clone(), connection, stream, chain.clone(), prepared)),
    }))
}

/// Conntrack's original destination; a connection that was not redirected wanted to go where it arrived.
fn original_destination(stream: &TcpStream, local: SocketAddr) -> SocketAddr {
    lateen_capture::socket::original_dst(stream).map_or(local, |d| d.address())
}

/// IPv4 addresses as such, also when a dual-stack socket reports them inside IPv6.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl Connection {
    fn learn(&mut self, spoken: Option<Spoken>) {
        match spoken {
            Some(Spoken::Tls(ClientHello { sni, alpn })) => {
                self.transport = TransportProtocol::Tls;
                self.sni = sni;
                self.protocols = alpn;
            }
            Some(Spoken::Http10) => self.protocols = vec!["http/1.0".to_owned()],
            Some(Spoken::Http11) => self.protocols = vec!["http/1.1".to_owned()],
            Some(Spoken::H2c) => self.protocols = vec!["h2c".to_owned()],
            Some(Spoken::Opaque) | None => {}
        }
    }
}
