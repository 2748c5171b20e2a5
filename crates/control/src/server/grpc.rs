//! The gRPC ports: connections are accepted, encrypted, and served with what is known of who is at the other end.
//!
//! Requests go to the two services by their path, without `tonic`'s router, which would bring a whole web framework along.

use super::ca::CaService;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use lateen_model::identity::SpiffeId;
use lateen_tls::ServerTls;
use lateen_xds::server::AdsService;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonic::server::NamedService;
use tower_service::Service;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at once; more wait, so that a flood of connections costs bounded memory.
const HANDSHAKES: usize = 256;
/// Streams of one connection (Istio: 100,000, `ISTIO_GPRC_MAXSTREAMS`); a proxy needs two.
const STREAMS: u32 = 1000;
/// Istio's keep-alive: after 30 s of silence, given up after 10 s.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// What a listener knows of a connection.
#[derive(Clone, Debug)]
pub(super) struct ConnectionInfo {
    /// Where it comes from.
    pub(super) address: SocketAddr,
    /// Whether it is encrypted.
    pub(super) secure: bool,
    /// The identity of a verified client certificate.
    pub(super) identity: Option<SpiffeId>,
}

/// What is served on a port.
#[derive(Clone)]
pub(super) struct Services {
    /// Discovery.
    pub(super) ads: AdsService,
    /// Certificates; only on encrypted ports.
    pub(super) ca: Option<CaService>,
}

/// Serves a port until this is dropped. A handshake that fails concerns nobody else.
pub(super) async fn serve(listener: TcpListener, tls: Option<ServerTls>, services: Services) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let tls = tls.map(Arc::new);
    // Connections end with the port.
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else { return };
        let (socket, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: the connections that there are must go first.
                tracing::warn!("accepting a connection failed: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let (tls, services) = (tls.clone(), services.clone());
        connections.spawn(async move {
            let _ = socket.set_nodelay(true);
            match tls {
                None => {
                    drop(permit);
                    let info = ConnectionInfo { address, secure: false, identity: None };
                    exchange(socket, info, services).await;
                }
                Some(tls) => {
                    let established = handshake(socket, address, &tls).await;
                    drop(permit);
                    if let Some((stream, info)) = established {
                        exchange(stream, info, services).await;
                    }
                }
            }
        });
    }
}

async fn handshake(
    socket: TcpStream,
    address: SocketAddr,
    tls: &ServerTls,
) -> Option<(lateen_tls::ServerStream<TcpStream>, ConnectionInfo)> {
    match tokio::time::timeout(HANDSHAKE, lateen_tls::accept(socket, tls)).await {
        Ok(Ok((stream, peer))) => Some((stream, ConnectionInfo { address, secure: true, identity: peer.spiffe().cloned() })),
        Ok(Err(error)) => {
            tracing::debug!("{address}: {error}");
            None
        }
        Err(_) => {
            tracing::debug!("{address}: the handshake took longer than {HANDSHAKE:?}");
            None
        }
    }
}

async fn exchange<S>(stream: S, info: ConnectionInfo, services: Services)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let address = info.address;
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(info.clone());
        let mut services = services.clone();
        async move {
            let name = request.uri().path().split('/').nth(1).unwrap_or_default();
            match &mut services.ca {
                _ if name == AdsService::NAME => services.ads.call(request).await,
                Some(ca) if name == CaService::NAME => ca.call(request).await,
                _ => Ok(tonic::Status::unimplemented("there is no such service on this port").into_http()),
            }
        }
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .max_concurrent_streams(STREAMS)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!("{address}: {error}");
    }
}
