//! Listening sockets, connections and their graceful end.

use crate::client::Client;
use crate::control::Control;
use crate::traces::TraceStore;
use crate::{EchoError, PodIdentity, TlsServer, http as web, proxy_protocol, tcp};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use lateen_tls::{PeerInfo, ServerTls};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How long what the kernel had accepted already is still taken after the stop, and given to send its request.
const BACKLOG_GRACE: Duration = Duration::from_millis(50);
/// How long a client may take for a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// What to serve.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address to listen on; none is every address, IPv6 and IPv4.
    pub host: Option<IpAddr>,
    /// HTTP/1.1 and cleartext HTTP/2; 0 takes a free port.
    pub port: u16,
    /// The same over TLS.
    pub tls: Option<TlsServer>,
    /// Line echo over TCP.
    pub tcp: Option<u16>,
    /// Said to each TCP client before it says anything, as server-first protocols do.
    pub tcp_banner: Option<String>,
    /// HTTP proxy for bytes: `CONNECT`, and `POST` with bodies that do not end.
    pub tunnel: Option<u16>,
    /// Whether connections of the ports for HTTP, TLS and TCP begin with the PROXY protocol, version 1 or 2.
    pub proxy_protocol: bool,
    /// gRPC `lateen.echo.v1.Echo` and `grpc.health.v1.Health`.
    pub grpc: Option<u16>,
    /// OTLP trace collector over gRPC.
    pub otlp: Option<u16>,
    /// How many received spans are kept.
    pub kept_spans: usize,
    /// How long requests in flight may take once the server has been told to stop.
    pub drain: Duration,
}

/// Where a [`Server`] listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// HTTP.
    pub http: SocketAddr,
    /// HTTP over TLS.
    pub tls: Option<SocketAddr>,
    /// TCP line echo.
    pub tcp: Option<SocketAddr>,
    /// HTTP proxy.
    pub tunnel: Option<SocketAddr>,
    /// gRPC.
    pub grpc: Option<SocketAddr>,
    /// OTLP.
    pub otlp: Option<SocketAddr>,
}

/// What a port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Surface {
    Web,
    Tunnel,
    Grpc,
    Otlp,
}

/// What all connections share.
pub(crate) struct App {
    pub(crate) identity: PodIdentity,
    pub(crate) control: Control,
    pub(crate) traces: TraceStore,
    pub(crate) client: Client,
    pub(crate) tcp_banner: Option<String>,
    pub(crate) tunnels: web::LastTunnel,
    /// Whether connections begin with the PROXY protocol.
    proxy_protocol: bool,
}

/// What a request's handler knows of its connection.
pub(crate) struct Connection {
    pub(crate) app: Arc<App>,
    pub(crate) surface: Surface,
    pub(crate) peer: SocketAddr,
    /// What TLS tells of it, if it is TLS.
    pub(crate) tls: Option<PeerInfo>,
    /// What the PROXY protocol tells of it, if it is spoken.
    pub(crate) proxy_protocol: Option<proxy_protocol::Header>,
    pub(crate) lease: Lease,
}

/// Held by everything that the server waits for when it stops; also tells that it stops.
#[derive(Clone)]
pub(crate) struct Lease {
    stop: watch::Receiver<bool>,
    _alive: mpsc::Sender<()>,
}

impl Lease {
    /// Resolves when the server has been told to stop.
    pub(crate) async fn stopped(&mut self) {
        // The sender outlives every lease; an error would mean the same.
        let _ = self.stop.wait_for(|stop| *stop).await;
    }

    fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }
}

/// A bound server, not yet accepting.
pub struct Server {
    app: Arc<App>,
    web: TcpListener,
    tls: Option<(TcpListener, ServerTls)>,
    tcp: Option<TcpListener>,
    tunnel: Option<TcpListener>,
    grpc: Option<TcpListener>,
    otlp: Option<TcpListener>,
    addresses: Addresses,
    drain: Duration,
}

impl Server {
    /// Opens the listening sockets.
    pub async fn bind(config: Config, identity: PodIdentity) -> Result<Self, EchoError> {
        let optional = async |port: Option<u16>, purpose| match port {
            Some(port) => listen(config.host, port, purpose).await.map(Some),
            None => Ok(None),
        };
        let web = listen(config.host, config.port, "http").await?;
        let tls = match &config.tls {
            Some(tls) => Some((listen(config.host, tls.port, "tls").await?, tls.load()?)),
            None => None,
        };
        let tcp = optional(config.tcp, "tcp").await?;
        let tunnel = optional(config.tunnel, "tunnel").await?;
        let grpc = optional(config.grpc, "grpc").await?;
        let otlp = optional(config.otlp, "otlp").await?;
        let address = |listener: &Option<TcpListener>| listener.as_ref().map(TcpListener::local_addr).transpose();
        let addresses = Addresses {
            http: web.local_addr()?,
            tls: tls.as_ref().map(|(listener, _)| listener.local_addr()).transpose()?,
            tcp: address(&tcp)?,
            tunnel: address(&tunnel)?,
            grpc: address(&grpc)?,
            otlp: address(&otlp)?,
        };
        let app = App {
            identity,
            control: Control::default(),
            traces: TraceStore::new(config.kept_spans),
            client: Client::new(),
            tcp_banner: config.tcp_banner,
            tunnels: web::LastTunnel::default(),
            proxy_protocol: config.proxy_protocol,
        };
        Ok(Self { app: Arc::new(app), web, tls, tcp, tunnel, grpc, otlp, addresses, drain: config.drain })
    }

    /// Where it listens; of use when a port was 0.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Serves until `stop` resolves, then takes no new connections, finishes what is in flight and returns. What is not
    /// finished after [`Config::drain`] is dropped.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let (stop_tx, stop_rx) = watch::channel(false);
        let (alive, mut gone) = mpsc::channel(1);
        let lease = Lease { stop: stop_rx, _alive: alive };
        let mut tasks = JoinSet::new();
        let surfaces = [
            (Some(self.web), Surface::Web),
            (self.tunnel, Surface::Tunnel),
            (self.grpc, Surface::Grpc),
            (self.otlp, Surface::Otlp),
        ];
        for (listener, surface) in surfaces {
            let Some(listener) = listener else { continue };
            let app = Arc::clone(&self.app);
            tasks.spawn(accept(listener, lease.clone(), move |stream, peer, lease| {
                serve_plainly(stream, Connection { app: Arc::clone(&app), surface, peer, tls: None, proxy_protocol: None, lease })
            }));
        }
        if let Some((listener, tls)) = self.tls {
            let app = Arc::clone(&self.app);
            tasks.spawn(accept(listener, lease.clone(), move |stream, peer, lease| {
                serve_tls(
                    stream,
                    tls.clone(),
                    Connection { app: Arc::clone(&app), surface: Surface::Web, peer, tls: None, proxy_protocol: None, lease },
                )
            }));
        }
        if let Some(listener) = self.tcp {
            let app = Arc::clone(&self.app);
            tasks.spawn(accept(listener, lease.clone(), move |stream, peer, lease| {
                tcp::serve(stream, peer, Arc::clone(&app), lease)
            }));
        }
        drop(lease);
        stop.await;
        stop_tx.send_replace(true);
        while tasks.join_next().await.is_some() {}
        // Nothing is ever sent: the channel closes when the last lease has been dropped.
        if timeout(self.drain, gone.recv()).await.is_err() {
            tracing::warn!(drain = ?self.drain, "some requests were not finished in time");
        }
    }
}

async fn listen(host: Option<IpAddr>, port: u16, purpose: &'static str) -> Result<TcpListener, EchoError> {
    let bind = async |host: IpAddr| {
        let address = SocketAddr::new(host, port);
        TcpListener::bind(address).await.map_err(|source| EchoError::Listen { address, purpose, source })
    };
    match host {
        Some(host) => bind(host).await,
        // Machines without IPv6 have no `::` to bind.
        None => match bind(Ipv6Addr::UNSPECIFIED.into()).await {
            Err(EchoError::Listen { source, .. }) if source.kind() != std::io::ErrorKind::AddrInUse => {
                bind(Ipv4Addr::UNSPECIFIED.into()).await
            }
            bound => bound,
        },
    }
}

/// Spawns `handle` for each connection until the stop, and for those that the kernel had accepted by then.
async fn accept<F>(listener: TcpListener, mut lease: Lease, handle: impl Fn(TcpStream, SocketAddr, Lease) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        let accepted = if lease.is_stopped() {
            match timeout(BACKLOG_GRACE, listener.accept()).await {
                Ok(accepted) => accepted,
                Err(_) => return,
            }
        } else {
            tokio::select! {
                accepted = listener.accept() => accepted,
                () = lease.stopped() => continue,
            }
        };
        match accepted {
            Ok((stream, peer)) => {
                let _ = stream.set_nodelay(true);
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                tokio::spawn(handle(stream, peer, lease.clone()));
            }
            // A connection that broke before it was taken, or no free descriptors: neither ends the server.
            Err(error) => {
                tracing::warn!(%error, "accept");
                sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// Takes the PROXY protocol off a connection, where it is spoken. `None`: the connection is over.
pub(crate) async fn begin(stream: &mut TcpStream, app: &App, peer: SocketAddr) -> Option<Option<proxy_protocol::Header>> {
    if !app.proxy_protocol {
        return Some(None);
    }
    match timeout(HEAD_TIMEOUT, proxy_protocol::read(stream)).await {
        Ok(Ok(header)) => Some(Some(header)),
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "PROXY protocol");
            None
        }
        Err(_) => None,
    }
}

async fn serve_plainly(mut stream: TcpStream, mut connection: Connection) {
    if connection.surface == Surface::Web {
        let Some(header) = begin(&mut stream, &connection.app, connection.peer).await else { return };
        connection.proxy_protocol = header;
    }
    serve_http(stream, connection).await;
}

async fn serve_tls(mut stream: TcpStream, tls: ServerTls, mut connection: Connection) {
    let Some(header) = begin(&mut stream, &connection.app, connection.peer).await else { return };
    connection.proxy_protocol = header;
    match timeout(HEAD_TIMEOUT, lateen_tls::accept(stream, &tls)).await {
        Ok(Ok((stream, peer))) => {
            connection.tls = Some(peer);
            serve_http(stream, connection).await;
        }
        Ok(Err(error)) => tracing::debug!(peer = %connection.peer, %error, "tls handshake"),
        Err(_) => tracing::debug!(peer = %connection.peer, "tls handshake not finished in time"),
    }
}

async fn serve_http(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, connection: Connection) {
    let mut lease = connection.lease.clone();
    let late = lease.is_stopped();
    let connection = Arc::new(connection);
    let service = service_fn(move |request| web::serve(Arc::clone(&connection), request));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().half_close(true).timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(1024).enable_connect_protocol();
    let mut serving = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let stopped = async {
        lease.stopped().await;
        if late {
            sleep(BACKLOG_GRACE).await;
        }
    };
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stopped => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = %crate::error::chain(&*error), "connection ended");
    }
}
