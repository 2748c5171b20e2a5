//! TCP connections: choose a cluster and an endpoint, connect, relay, account.

use crate::config::{Chain, CompiledNetworkFilter, TcpRoute, Terminal};
use crate::connection::Connection;
use crate::metadata_exchange::{Exchanged, Told};
use crate::relay::{RelayEnd, Relayed, relay};
use crate::stream::Stream;
use crate::telemetry::tcp::{TcpAccount, TcpOutcome};
use crate::tunnel::{Tunnel, Upstream};
use crate::upstream::{self, Asked, Cluster, Host, Opened, Purpose};
use crate::worker::Worker;
use lateen_model::dataplane::{Discovery, HttpProtocolOptions, HttpTunnel};
use lateen_observe::istio::TcpReport;
use lateen_observe::{ResponseFlag, ResponseFlags};
use lateen_policy::balance::{Avoid, Wanted};
use lateen_policy::breaker::Permit;
use lateen_policy::hash;
use lateen_policy::outlier::{LocalOrigin, Outcome};
use lateen_policy::retry::PrioritySet;
use lateen_tls::PeerInfo;
use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

/// Envoy's default `idle_timeout` of a TCP proxy.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// How often another endpoint is tried when connecting fails (Envoy's `max_connect_attempts` is 1; a connection that has carried
/// no byte is safe to open elsewhere).
const CONNECT_ATTEMPTS: u32 = 3;

/// Hosts that could not be connected to are avoided, if there are others.
const AVOID_TRIED: Avoid = Avoid { attempts: 5, priorities: PrioritySet::EMPTY };

/// An upstream connection, and what is known of it and held for it.
pub(crate) struct Prepared {
    /// The chain that it was opened for.
    pub(crate) chain: Arc<Chain>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) host: Arc<Host>,
    /// Our end.
    pub(crate) local: SocketAddr,
    /// What TLS agreed on and proved.
    pub(crate) tls: Option<Rc<PeerInfo>>,
    /// What the other proxy tells of itself: the upstream's, or (inbound) the client's.
    pub(crate) told: Told,
    stream: Upstream,
    _permit: Permit,
}

impl Prepared {
    /// Waits until the server's application has said something, or its connection has ended.
    pub(crate) async fn spoken(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.stream.poll_spoken(cx)).await
    }
}

/// Why there is no upstream connection.
struct Unprepared {
    cluster: Option<Arc<Cluster>>,
    outcome: TcpOutcome,
}

impl Unprepared {
    fn new(cluster: &Arc<Cluster>, flag: ResponseFlag, transport_failure: Option<String>) -> Self {
        Self { cluster: Some(cluster.clone()), outcome: TcpOutcome::failed(flag, transport_failure) }
    }
}

/// Serves one connection of a chain that ends in a TCP proxy, with an upstream connection that may be open already.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    downstream: Stream,
    chain: Arc<Chain>,
    prepared: Option<Prepared>,
) {
    let Terminal::Tcp(route) = &chain.terminal else { return };
    let _in_flight = worker.shared.drain.in_flight();
    drop(connection.opening.take());
    let mut account = TcpAccount::open(&connection, &chain);
    let upstream = match prepared.filter(|p| Arc::ptr_eq(&p.chain, &chain)) {
        Some(prepared) => Ok(prepared),
        None => prepare(&worker, &connection, &chain, route).await,
    };
    let outcome = match upstream {
        Ok(upstream) => {
            account.cluster(&upstream.cluster);
            account.connected(&upstream);
            forward(&worker, &connection, downstream, &chain, route, upstream, &mut account).await
        }
        Err(Unprepared { cluster, outcome }) => {
            cluster.iter().for_each(|c| account.cluster(c));
            outcome
        }
    };
    account.close(&worker, &outcome);
}

/// Opens an upstream connection before the client has said anything, for a server that may speak first. Fails silently: if the
/// client speaks, it is tried again and told.
pub(crate) async fn speculate(worker: &Rc<Worker>, connection: &Connection, chain: &Arc<Chain>) -> Option<Prepared> {
    let Terminal::Tcp(route) = &chain.terminal else { return None };
    prepare(worker, connection, chain, route).await.ok()
}

/// Chooses a cluster and an endpoint, connects and says who we are.
async fn prepare(
    worker: &Rc<Worker>,
    connection: &Connection,
    chain: &Arc<Chain>,
    route: &TcpRoute,
) -> Result<Prepared, Unprepared> {
    let cluster = worker.shared.snapshot.load().cluster(route.cluster(worker.random())).cloned();
    let Some(cluster) = cluster else {
        return Err(Unprepared { cluster: None, outcome: TcpOutcome::failed(ResponseFlag::NoClusterFound, None) });
    };
    let hash = route.model.hash_source_ip.then(|| hash::of_address(connection.remote.ip()));
    let (opened, host, permit) = connect(worker, connection, &cluster, hash).await?;
    let Opened { stream, local, tls } = opened;
    let told = Told::default();
    let stream = match cluster.config.tcp_metadata_exchange {
        true => Exchanged::begin(stream, tls.as_deref(), worker.telemetry.own_frame(), told.clone()).await,
        false => Ok(Exchanged::plain(stream)),
    };
    let stream = stream
        .map_err(|error| Unprepared::new(&cluster, ResponseFlag::UpstreamConnectionTermination, Some(error.to_string())))?;
    let stream = match &route.model.tunnel {
        None => Upstream::Direct(stream),
        Some(wanted) => Upstream::Tunnel(open_tunnel(&cluster, stream, wanted).await?),
    };
    Ok(Prepared { chain: chain.clone(), cluster, host, local, tls, told, stream, _permit: permit })
}

/// Asks the endpoint, which is an HTTP proxy, for a tunnel. Without one the client sees what it sees without a connection.
async fn open_tunnel(
    cluster: &Arc<Cluster>,
    stream: Exchanged,
    wanted: &HttpTunnel,
) -> Result<Box<Tunnel<Exchanged>>, Unprepared> {
    let http2 = matches!(cluster.config.http.protocol, HttpProtocolOptions::Http2 { .. });
    let opening = Tunnel::open(stream, wanted, http2);
    match tokio::time::timeout(cluster.config.connect_timeout, opening).await {
        Ok(Ok(tunnel)) => Ok(tunnel),
        Ok(Err(error)) => {
            tracing::debug!(%error, cluster = %cluster.name, target = wanted.target, "no tunnel");
            Err(unconnected(cluster, Some(error.to_string())))
        }
        Err(_) => Err(unconnected(cluster, None)),
    }
}

/// No connection, and no further try.
fn unconnected(cluster: &Arc<Cluster>, transport_failure: Option<String>) -> Unprepared {
    let mut failed = Unprepared::new(cluster, ResponseFlag::UpstreamConnectionFailure, transport_failure);
    failed.outcome.flags.insert(ResponseFlag::UpstreamRetryLimitExceeded);
    failed
}

async fn forward(
    worker: &Rc<Worker>,
    connection: &Rc<Connection>,
    downstream: Stream,
    chain: &Chain,
    route: &TcpRoute,
    upstream: Prepared,
    account: &mut TcpAccount,
) -> TcpOutcome {
    let Prepared { stream: mut upstream, cluster, told, _permit, .. } = upstream;
    let exchanges = chain.network_filters.iter().any(|f| matches!(f, CompiledNetworkFilter::MetadataExchange));
    let mut downstream = match exchanges {
        true => match Exchanged::begin(downstream, connection.tls.as_ref(), worker.telemetry.own_frame(), told).await {
            Ok(downstream) => downstream,
            Err(_) => return TcpOutcome::failed(ResponseFlag::DownstreamConnectionTermination, None),
        },
        false => Exchanged::plain(downstream),
    };
    let idle = route.model.idle_timeout.unwrap_or(IDLE_TIMEOUT);
    let idle = (!idle.is_zero()).then_some(idle);
    let moved = Cell::new(Relayed::default());
    let (total, end) = {
        let mut relaying = pin!(relay(&mut downstream, &mut upstream, idle, |now| moved.set(now)));
        // Also of a connection that rests: it is there, and what it has moved so far is known.
        let mut reports = tokio::time::interval_at(Instant::now() + TcpReport::INTERVAL, TcpReport::INTERVAL);
        loop {
            tokio::select! {
                biased;
                ended = &mut relaying => break ended,
                _ = reports.tick() => account.report(worker, moved.get()),
            }
        }
    };
    account.moved(total);
    let flags = match end {
        RelayEnd::Closed => ResponseFlags::NONE,
        RelayEnd::Idle => ResponseFlags::NONE.with(ResponseFlag::StreamIdleTimeout),
        RelayEnd::Downstream(error) => {
            // Clients that have had all that they wanted reset connections, too; as in Envoy, that is an end like others.
            tracing::debug!(%error, client = %connection.remote, "the client's connection failed");
            ResponseFlags::NONE
        }
        RelayEnd::Upstream(error) => {
            // However a server ends its connection, it is its end.
            tracing::debug!(%error, cluster = %cluster.name, "the upstream's connection failed");
            ResponseFlags::NONE
        }
    };
    let _ = tokio::join!(downstream.shutdown(), upstream.shutdown());
    TcpOutcome { flags, transport_failure: None }
}

/// Picks an endpoint and connects, trying others when that fails.
async fn connect(
    worker: &Rc<Worker>,
    connection: &Connection,
    cluster: &Arc<Cluster>,
    hash: Option<u64>,
) -> Result<(Opened, Arc<Host>, Permit), Unprepared> {
    let Some(permit) = cluster.breakers.try_acquire_connection() else {
        return Err(Unprepared::new(cluster, ResponseFlag::UpstreamOverflow, None));
    };
    let mut tried: Vec<SocketAddr> = Vec::new();
    loop {
        let host = match &cluster.config.discovery {
            Discovery::OriginalDst { port_override } => {
                Some(upstream::original_destination(connection.destination, *port_override))
            }
            Discovery::Eds { .. } | Discovery::Static(_) | Discovery::Dns(_) => {
                worker.pools.pick(worker, cluster, Wanted { avoid: AVOID_TRIED, hash }, |h| tried.contains(&h.address))
            }
        };
        let Some(host) = host else { return Err(Unprepared::new(cluster, ResponseFlag::NoHealthyUpstream, None)) };
        let asked = Asked::from(Purpose::Tcp).for_client(cluster, connection.remote, connection.destination);
        match upstream::connect(cluster, &host, &asked, worker.shared.settings.sockets).await {
            Ok(opened) => {
                cluster.record(&host, Outcome::Success);
                return Ok((opened, host, permit));
            }
            Err(error) => {
                cluster.record(&host, Outcome::LocalOrigin(LocalOrigin::ConnectFailed));
                tried.push(host.address);
                let more = u32::try_from(tried.len()).unwrap_or(u32::MAX) < CONNECT_ATTEMPTS;
                if !more || matches!(cluster.config.discovery, Discovery::OriginalDst { .. }) {
                    return Err(unconnected(cluster, error.transport_failure()));
                }
            }
        }
    }
}
