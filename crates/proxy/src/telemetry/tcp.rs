//! Accounting of TCP connections: opened, every few seconds while they last, closed.

use super::WorkerTelemetry;
use super::log::{self, AccessLogger};
use super::peer::PeerHandle;
use crate::config::{Chain, CompiledNetworkFilter, Terminal};
use crate::connection::Connection;
use crate::relay::Relayed;
use crate::tcp::Prepared;
use crate::upstream::{Cluster, Host};
use crate::worker::Worker;
use lateen_model::dataplane::{Direction, StatsFilter};
use lateen_model::identity::SpiffeId;
use lateen_observe::access_log::LogRecord;
use lateen_observe::istio::{Reporter, TcpReport, TcpSeries, TcpSubject};
use lateen_observe::peer_metadata::PeerMetadata;
use lateen_observe::{ResponseFlag, ResponseFlags};
use lateen_tls::PeerInfo;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// How a TCP connection ended.
#[derive(Debug)]
pub(crate) struct TcpOutcome {
    pub(crate) flags: ResponseFlags,
    pub(crate) transport_failure: Option<String>,
}

impl TcpOutcome {
    /// It failed, for this reason.
    pub(crate) fn failed(flag: ResponseFlag, transport_failure: Option<String>) -> Self {
        Self { flags: ResponseFlags::NONE.with(flag), transport_failure }
    }
}

/// What is learnt of a TCP connection on its way.
pub(crate) struct TcpAccount {
    connection: Rc<Connection>,
    chain: Arc<Chain>,
    stats: Option<StatsFilter>,
    started: Instant,
    start_time: SystemTime,
    cluster: Option<Arc<Cluster>>,
    host: Option<Arc<Host>>,
    upstream_local: Option<SocketAddr>,
    upstream_tls: Option<Rc<PeerInfo>>,
    /// What the other proxy told of itself, once it has.
    pub(crate) peer: Rc<RefCell<Option<PeerMetadata>>>,
    report: Option<TcpReport>,
    moved: Relayed,
}

impl TcpAccount {
    /// A connection that has just been given to its chain.
    pub(crate) fn open(connection: &Rc<Connection>, chain: &Arc<Chain>) -> Self {
        let stats =
            chain.network_filters.iter().find_map(|f| if let CompiledNetworkFilter::Stats(s) = f { Some(*s) } else { None });
        let now = Instant::now();
        Self {
            connection: connection.clone(),
            chain: chain.clone(),
            stats,
            started: now,
            start_time: SystemTime::now(),
            cluster: None,
            host: None,
            upstream_local: None,
            upstream_tls: None,
            peer: Rc::default(),
            report: None,
            moved: Relayed::default(),
        }
    }

    /// The cluster was chosen.
    pub(crate) fn cluster(&mut self, cluster: &Arc<Cluster>) {
        self.cluster = Some(cluster.clone());
    }

    /// The upstream is connected.
    pub(crate) fn connected(&mut self, upstream: &Prepared) {
        upstream.cluster.stats.upstream_rq_total.inc();
        self.host = Some(upstream.host.clone());
        self.upstream_local = Some(upstream.local);
        self.upstream_tls = upstream.tls.clone();
        self.peer = upstream.told.clone();
    }

    /// So many bytes have moved.
    pub(crate) fn moved(&mut self, now: Relayed) {
        self.moved = now;
    }

    /// Reports what has moved so far: every [`TcpReport::INTERVAL`] while the connection lasts.
    pub(crate) fn report(&mut self, worker: &Worker, now: Relayed) {
        self.moved = now;
        let (sent, received) = (now.received, now.sent);
        let Some(series) = self.series(worker, ResponseFlags::NONE) else { return };
        self.report.get_or_insert_with(|| TcpReport::open(series)).progress(sent, received);
    }

    /// The connection has ended.
    pub(crate) fn close(mut self, worker: &Worker, outcome: &TcpOutcome) {
        if let Some(series) = self.series(worker, outcome.flags) {
            let report = self.report.take().unwrap_or_else(|| TcpReport::open(series.clone()));
            report.close(series, self.moved.received, self.moved.sent);
        }
        let loggers: &[AccessLogger] = match &self.chain.terminal {
            Terminal::Tcp(route) => &route.access_log,
            Terminal::Http(_) => &[],
        };
        if loggers.is_empty() {
            return;
        }
        // A TCP connection brings no id along.
        let stream_id = worker.telemetry.request_id();
        let record = LogRecord {
            duration: Some(self.started.elapsed()),
            flags: outcome.flags,
            bytes_received: self.moved.sent,
            bytes_sent: self.moved.received,
            upstream_transport_failure_reason: outcome.transport_failure.as_deref(),
            upstream_host: self.host.as_ref().map(|h| h.address.into()),
            upstream_cluster: self.cluster.as_ref().map(|c| &*c.name),
            upstream_local_address: self.upstream_local.map(Into::into),
            upstream_tls: log::upstream_tls(self.upstream_tls.as_deref()),
            stream_id: Some(stream_id.as_str()),
            ..log::connection_record(&self.connection, self.start_time)
        };
        worker.telemetry.log(loggers, &record);
    }

    fn upstream_principal(&self) -> Option<&str> {
        self.upstream_tls.as_ref().and_then(|t| t.spiffe()).map(SpiffeId::as_uri)
    }

    fn series(&self, worker: &Worker, flags: ResponseFlags) -> Option<Arc<TcpSeries>> {
        let stats = self.stats?;
        let outbound = stats.direction == Direction::Outbound;
        let principal = if outbound { self.upstream_principal() } else { self.connection.peer_uri() };
        Some(worker.telemetry.tcp_series(self, outbound, principal, flags))
    }
}

impl WorkerTelemetry {
    fn tcp_series(&self, account: &TcpAccount, outbound: bool, principal: Option<&str>, flags: ResponseFlags) -> Arc<TcpSeries> {
        let mut peers = self.peers.borrow_mut();
        let own = peers.own(principal.is_some());
        let other: PeerHandle = match (&*account.peer.borrow(), &account.host) {
            (Some(metadata), _) => peers.of_metadata(metadata, principal),
            (None, Some(host)) if outbound => peers.of_host(host, principal),
            (None, _) => peers.of_principal(principal),
        };
        let service =
            account.cluster.as_ref().and_then(|c| peers.service_of_cluster(c)).unwrap_or_else(|| peers.unknown_service());
        let (source, destination) = if outbound { (own, other) } else { (other, own) };
        self.metrics.borrow_mut().tcp(&TcpSubject {
            reporter: if outbound { Reporter::Source } else { Reporter::Destination },
            source: &source,
            destination: &destination,
            service: &service,
            flags,
            mutual_tls: principal.is_some(),
        })
    }
}
