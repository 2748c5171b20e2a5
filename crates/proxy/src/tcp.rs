//! TCP connections: choose a cluster and an endpoint, connect, relay, account.

use crate::config::{Chain, CompiledNetworkFilter, TcpRoute, Terminal};
use crate::connection::Connection;
use crate::metadata_exchange::Exchanged;
use crate::relay::{RelayEnd, relay};
use crate::stream::Stream;
use crate::telemetry::tcp::{TcpAccount, TcpOutcome};
use crate::upstream::{self, Cluster, Host, Opened, Purpose};
use crate::worker::Worker;
use lateen_model::dataplane::Discovery;
use lateen_observe::{ResponseFlag, ResponseFlags};
use lateen_policy::balance::Avoid;
use lateen_policy::breaker::Permit;
use lateen_policy::outlier::{LocalOrigin, Outcome};
use lateen_policy::retry::PrioritySet;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// Envoy's default `idle_timeout` of a TCP proxy.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// How often another endpoint is tried when connecting fails (Envoy's `max_connect_attempts` is 1; a connection that has carried
/// no byte is safe to open elsewhere).
const CONNECT_ATTEMPTS: u32 = 3;

/// Hosts that could not be connected to are avoided, if there are others.
const AVOID_TRIED: Avoid = Avoid { attempts: 5, priorities: PrioritySet::EMPTY };

/// An upstream connection and what is held for it.
struct Upstream {
    opened: Opened,
    host: Arc<Host>,
    _permit: Permit,
}

/// Serves one connection of a chain that ends in a TCP proxy.
pub(crate) async fn serve(worker: Rc<Worker>, connection: Rc<Connection>, downstream: Stream, chain: Arc<Chain>) {
    let Terminal::Tcp(route) = &chain.terminal else { return };
    let _in_flight = worker.shared.drain.in_flight();
    let mut account = TcpAccount::open(&connection, &chain);
    let cluster = worker.shared.snapshot.load().clusters.get(route.cluster(worker.random())).cloned();
    let outcome = match cluster {
        None => TcpOutcome::failed(ResponseFlag::NoClusterFound, None),
        Some(cluster) => forward(&worker, &connection, downstream, &chain, route, &cluster, &mut account).await,
    };
    account.close(&worker, &outcome);
}

async fn forward(
    worker: &Rc<Worker>,
    connection: &Rc<Connection>,
    downstream: Stream,
    chain: &Chain,
    route: &TcpRoute,
    cluster: &Arc<Cluster>,
    account: &mut TcpAccount,
) -> TcpOutcome {
    account.cluster(cluster);
    let upstream = match connect(worker, connection, cluster).await {
        Ok(upstream) => upstream,
        Err(outcome) => return outcome,
    };
    account.connected(&upstream.host, &upstream.opened);
    let Upstream { opened, _permit, .. } = upstream;
    let streams = exchange_metadata(worker, connection, downstream, chain, cluster, opened, account).await;
    let (mut downstream, mut upstream) = match streams {
        Ok(streams) => streams,
        Err(error) => return TcpOutcome::failed(ResponseFlag::UpstreamConnectionTermination, Some(error.to_string())),
    };
    let idle = route.model.idle_timeout.unwrap_or(IDLE_TIMEOUT);
    let idle = (!idle.is_zero()).then_some(idle);
    let (moved, end) = relay(&mut downstream, &mut upstream, idle, |now| account.progress(worker, now)).await;
    account.progress(worker, moved);
    let flags = match end {
        RelayEnd::Closed => ResponseFlags::NONE,
        RelayEnd::Idle => ResponseFlags::NONE.with(ResponseFlag::StreamIdleTimeout),
        RelayEnd::Downstream(error) => {
            tracing::debug!(%error, client = %connection.remote, "the client's connection failed");
            ResponseFlags::NONE.with(ResponseFlag::DownstreamConnectionTermination)
        }
        RelayEnd::Upstream(error) => {
            tracing::debug!(%error, cluster = %cluster.name, "the upstream's connection failed");
            ResponseFlags::NONE.with(ResponseFlag::UpstreamConnectionTermination)
        }
    };
    let _ = tokio::join!(downstream.shutdown(), upstream.shutdown());
    TcpOutcome { flags, transport_failure: None }
}

/// Tells the other proxies, of which one side at most is another sidecar, who we are, and listens to what they tell.
async fn exchange_metadata(
    worker: &Worker,
    connection: &Connection,
    downstream: Stream,
    chain: &Chain,
    cluster: &Cluster,
    opened: Opened,
    account: &TcpAccount,
) -> io::Result<(Exchanged, Exchanged)> {
    let own = worker.telemetry.own_frame();
    let inbound = chain.network_filters.iter().any(|f| matches!(f, CompiledNetworkFilter::MetadataExchange));
    let downstream = match inbound {
        true => Exchanged::begin(downstream, connection.tls.as_ref(), own, account.peer.clone()).await?,
        false => Exchanged::plain(downstream),
    };
    let upstream = match cluster.config.tcp_metadata_exchange {
        true => Exchanged::begin(opened.stream, opened.tls.as_deref(), own, account.peer.clone()).await?,
        false => Exchanged::plain(opened.stream),
    };
    Ok((downstream, upstream))
}

/// Picks an endpoint and connects, trying others when that fails.
async fn connect(worker: &Rc<Worker>, connection: &Connection, cluster: &Arc<Cluster>) -> Result<Upstream, TcpOutcome> {
    let Some(permit) = cluster.breakers.try_acquire_connection() else {
        return Err(TcpOutcome::failed(ResponseFlag::UpstreamOverflow, None));
    };
    let mut tried: Vec<std::net::SocketAddr> = Vec::new();
    loop {
        let host = match &cluster.config.discovery {
            Discovery::OriginalDst { port_override } => {
                Some(upstream::original_destination(connection.destination, *port_override))
            }
            Discovery::Eds { .. } | Discovery::Static(_) => {
                worker.pools.pick(worker, cluster, AVOID_TRIED, |h| tried.contains(&h.address))
            }
        };
        let Some(host) = host else { return Err(TcpOutcome::failed(ResponseFlag::NoHealthyUpstream, None)) };
        match upstream::connect(cluster, &host, Purpose::Tcp, worker.shared.settings.mark).await {
            Ok(opened) => {
                cluster.record(&host, Outcome::Success);
                return Ok(Upstream { opened, host, _permit: permit });
            }
            Err(error) => {
                cluster.record(&host, Outcome::LocalOrigin(LocalOrigin::ConnectFailed));
                tried.push(host.address);
                let more = u32::try_from(tried.len()).unwrap_or(u32::MAX) < CONNECT_ATTEMPTS;
                if !more || matches!(cluster.config.discovery, Discovery::OriginalDst { .. }) {
                    return Err(TcpOutcome::failed(ResponseFlag::UpstreamConnectionFailure, error.transport_failure()));
                }
            }
        }
    }
}
