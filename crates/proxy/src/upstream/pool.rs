//! A worker's own upstream connections: idle HTTP/1 connections to be reused, HTTP/2 connections to be shared, and the worker's
//! state of balancing. Nothing here is seen by another thread.

use super::cluster::{ActiveRequest, Cluster, Host};
use super::connect::{ConnectError, Opened, Purpose, connect};
use super::proxy_protocol::Origin;
use crate::http::{ClientExchange, Head, StreamError};
use crate::stream::Stream;
use crate::worker::Worker;
use crate::{http1, http2};
use foldhash::HashMap;
use lateen_policy::balance::{Picker, Wanted};
use lateen_policy::breaker::Permit;
use lateen_tls::PeerInfo;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Envoy's default `idle_timeout` of upstream connections.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// What a connection is wanted for. Connections of equal keys stand for each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Asked {
    pub(crate) purpose: Purpose,
    /// The server's name, where the request decides it (`auto_sni`).
    pub(crate) server_name: Option<Rc<str>>,
    /// Whose connection it is, where the endpoint is told (`proxy_protocol`): it serves no other's requests then.
    pub(crate) origin: Option<Origin>,
}

impl From<Purpose> for Asked {
    fn from(purpose: Purpose) -> Self {
        Self { purpose, server_name: None, origin: None }
    }
}

impl Asked {
    /// For a request to `host` of a cluster.
    pub(crate) fn of_request(cluster: &Cluster, purpose: Purpose, host: &str) -> Self {
        let by_request = cluster.config.http.auto_sni || cluster.config.http.auto_san_validation;
        Self { purpose, server_name: by_request.then(|| host_name(host).into()), origin: None }
    }

    /// On behalf of a client's connection.
    pub(crate) fn for_client(mut self, cluster: &Cluster, source: SocketAddr, destination: SocketAddr) -> Self {
        self.origin = cluster.config.proxy_protocol.map(|_| Origin { source, destination });
        self
    }
}

/// `host[:port]` without the port, and without the brackets of an IPv6 address.
fn host_name(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

type Key = (SocketAddr, Asked);

/// The pools of one worker, by cluster.
#[derive(Default)]
pub(crate) struct Pools {
    clusters: RefCell<HashMap<Arc<str>, Rc<ClusterPool>>>,
}

/// One cluster's connections.
struct ClusterPool {
    cluster: Arc<Cluster>,
    picker: RefCell<Option<Picker<Arc<Host>>>>,
    hosts: RefCell<HashMap<Key, HostPool>>,
}

/// Connections to one host for one purpose.
#[derive(Default)]
struct HostPool {
    /// Most recently used last, so that the others become idle and go.
    idle: Vec<Idle>,
    shared: Vec<Rc<SharedConnection>>,
    gate: Rc<Gate>,
}

/// What counts the connections to a host, and who waits for one. Apart from the pool, so that a connection can be counted off
/// wherever it is dropped: in a pool that is being cleaned, or on its way to a request that is gone.
#[derive(Default)]
struct Gate {
    /// Connections that are being opened, and HTTP/1 connections that are open, idle or not.
    open: Cell<u32>,
    /// Requests that wait for a connection, because the cluster may not open another one.
    waiting: RefCell<VecDeque<oneshot::Sender<PooledConnection>>>,
}

impl Gate {
    /// Lets everyone who waits look again: there may be room for a new connection, or a shared one.
    fn wake(&self) {
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        drop(waiting);
    }
}

/// Counts one connection until it is dropped; then whoever waits may open one in its place.
struct Counted(Rc<Gate>);

impl Counted {
    fn new(gate: &Rc<Gate>) -> Self {
        gate.open.set(gate.open.get() + 1);
        Self(gate.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
        self.0.wake();
    }
}

struct Idle {
    connection: PooledConnection,
    since: Instant,
}

/// An HTTP/1 connection, in use or idle.
pub(crate) struct PooledConnection {
    connection: http1::ClientConnection<Stream>,
    meta: Rc<ConnectionMeta>,
    opened: Instant,
    // Given back before the count, whose end wakes those who want it.
    _permit: Option<Permit>,
    _counted: Counted,
}

/// An HTTP/2 connection that requests share.
struct SharedConnection {
    connection: http2::ClientConnection,
    meta: Rc<ConnectionMeta>,
    opened: Instant,
    requests: Cell<u64>,
    /// Requests that use it now.
    active: Cell<usize>,
    /// When the last of them ended.
    rests_since: Cell<Instant>,
    /// Set when the connection is over.
    closed: Rc<Cell<bool>>,
    max_streams: usize,
    _permit: Option<Permit>,
}

impl SharedConnection {
    fn is_open(&self) -> bool {
        !self.closed.get()
    }

    /// Whether nobody has used it for so long.
    fn has_rested(&self, limit: Option<Duration>) -> bool {
        self.active.get() == 0 && limit.is_some_and(|limit| self.rests_since.get().elapsed() >= limit)
    }

    fn has_capacity(&self) -> bool {
        self.active.get() < self.connection.max_streams().min(self.max_streams)
    }
}

/// What is known of an upstream connection.
#[derive(Debug)]
pub(crate) struct ConnectionMeta {
    pub(crate) local: SocketAddr,
    pub(crate) tls: Option<Rc<PeerInfo>>,
}

/// Why no connection was had.
#[derive(Debug)]
pub(crate) enum LeaseError {
    /// A circuit breaker is open.
    Overflow,
    /// It could not be opened.
    Connect(ConnectError),
    /// The host left the cluster while the request waited: another one must be chosen.
    HostGone,
}

/// A connection for one request. Dropping it without [`Lease::finish`] closes an HTTP/1 connection.
pub(crate) struct Lease {
    kind: LeaseKind,
    pool: Rc<ClusterPool>,
    key: Key,
    pub(crate) host: Arc<Host>,
    /// Whether the connection has carried a request before, so that it may be stale.
    pub(crate) reused: bool,
    _request: Permit,
    _active: ActiveRequest,
}

enum LeaseKind {
    /// `None` once it was given back.
    H1(Option<PooledConnection>),
    H2(Rc<SharedConnection>),
}

impl Pools {
    fn pool(&self, cluster: &Arc<Cluster>) -> Rc<ClusterPool> {
        let mut clusters = self.clusters.borrow_mut();
        match clusters.get(&cluster.name) {
            Some(pool) if Arc::ptr_eq(&pool.cluster, cluster) => pool.clone(),
            // A new version of the cluster: the old pool's connections go when their requests have ended.
            _ => {
                let pool =
                    Rc::new(ClusterPool { cluster: cluster.clone(), picker: RefCell::default(), hosts: RefCell::default() });
                clusters.insert(cluster.name.clone(), pool.clone());
                pool
            }
        }
    }

    /// Chooses a host of a cluster that has a list of hosts.
    pub(crate) fn pick(
        &self,
        worker: &Worker,
        cluster: &Arc<Cluster>,
        wanted: impl Into<Wanted>,
        exclude: impl Fn(&Host) -> bool,
    ) -> Option<Arc<Host>> {
        let pool = self.pool(cluster);
        let mut picker = pool.picker.borrow_mut();
        let hosts = cluster.hosts();
        let picker = match picker.as_mut() {
            Some(picker) if Arc::ptr_eq(picker.set(), &hosts.set) => picker,
            _ => picker.insert(Picker::new(hosts.set.clone())),
        };
        if cluster.config.zone_aware.is_some() {
            picker.come_from(worker.shared.origin.load().as_ref());
        }
        worker.with_rng(|rng| picker.pick(cluster.moment(), rng, wanted, |h| exclude(h)).map(|p| p.host.clone()))
    }

    /// A connection to `host` that can take a request now; `None` if one has to be opened or waited for.
    pub(crate) fn lease_now(&self, cluster: &Arc<Cluster>, host: &Arc<Host>, asked: &Asked) -> Option<Result<Lease, LeaseError>> {
        let pool = self.pool(cluster);
        let key = (host.address, asked.clone());
        let kind = pool.take(&key)?;
        Some(pool.lease(key, host.clone(), kind))
    }

    /// A connection to `host` for one request: an idle one, a shared one, a new one, or one that becomes free.
    pub(crate) async fn lease(
        &self,
        worker: &Worker,
        cluster: &Arc<Cluster>,
        host: Arc<Host>,
        asked: impl Into<Asked>,
    ) -> Result<Lease, LeaseError> {
        let pool = self.pool(cluster);
        let key = (host.address, asked.into());
        if let Some(kind) = pool.take(&key) {
            return pool.lease(key, host, kind);
        }
        let pending = cluster.breakers.try_acquire_pending().ok_or(LeaseError::Overflow)?;
        let waiting = pool.wait_or_open(worker, &host, &key.1);
        let kind = match pool.is_listed() {
            true => tokio::select! {
                biased;
                kind = waiting => kind.map_err(LeaseError::Connect)?,
                () = cluster.until_gone(key.0) => return Err(LeaseError::HostGone),
            },
            false => waiting.await.map_err(LeaseError::Connect)?,
        };
        drop(pending);
        pool.lease(key, host, kind)
    }

    /// Closes connections that no request uses.
    pub(crate) fn close_idle(&self) {
        for pool in self.clusters.borrow().values() {
            pool.hosts.borrow_mut().values_mut().for_each(|host| host.idle.clear());
        }
    }

    /// Drops what is over: connections that were closed by their host, idle for too long, or belong to hosts and clusters that
    /// are gone.
    pub(crate) fn reap(&self, worker: &Worker) {
        let snapshot = worker.shared.snapshot.load();
        let mut clusters = self.clusters.borrow_mut();
        clusters.retain(|name, pool| {
            let current = snapshot.clusters.get(name).and_then(|c| c.compiled()).is_some_and(|c| Arc::ptr_eq(c, &pool.cluster));
            current || Rc::strong_count(pool) > 1
        });
        clusters.values().for_each(|pool| pool.reap());
    }
}

impl ClusterPool {
    /// A connection that can take a request now.
    fn take(&self, key: &Key) -> Option<LeaseKind> {
        let mut hosts = self.hosts.borrow_mut();
        let host = hosts.get_mut(key)?;
        let limit = self.idle_timeout();
        host.shared.retain(|s| s.is_open() && !s.has_rested(limit));
        if let Some(shared) = host.shared.iter().find(|s| self.may_carry(s.requests.get(), s.opened) && s.has_capacity()) {
            return Some(LeaseKind::H2(shared.clone()));
        }
        while let Some(Idle { connection, since }) = host.idle.pop() {
            let alive = limit.is_none_or(|limit| since.elapsed() < limit)
                && connection.connection.is_reusable()
                && self.may_carry(connection.connection.requests(), connection.opened);
            if alive {
                return Some(LeaseKind::H1(Some(connection)));
            }
        }
        None
    }

    /// How long a connection may rest; zero is for ever.
    fn idle_timeout(&self) -> Option<Duration> {
        let limit = self.cluster.config.http.idle_timeout.unwrap_or(IDLE_TIMEOUT);
        (!limit.is_zero()).then_some(limit)
    }

    /// Whether a connection may carry one more request (`max_requests_per_connection`, `max_connection_duration`).
    fn may_carry(&self, requests: u64, opened: Instant) -> bool {
        let http = &self.cluster.config.http;
        http.max_requests_per_connection.is_none_or(|max| requests < u64::from(max))
            && http.max_connection_duration.is_none_or(|max| opened.elapsed() < max)
    }

    /// Leave to open a connection, or a place in the queue for one that becomes free. As in Envoy, a pool without any connection
    /// may always open one: waiting would be for ever.
    fn connection_permit(&self, key: Key) -> Result<(Counted, Option<Permit>), oneshot::Receiver<PooledConnection>> {
        let mut hosts = self.hosts.borrow_mut();
        let host = hosts.entry(key).or_default();
        let permit = self.cluster.breakers.try_acquire_connection();
        if permit.is_none() && host.gate.open.get() > 0 {
            let (sender, receiver) = oneshot::channel();
            host.gate.waiting.borrow_mut().push_back(sender);
            return Err(receiver);
        }
        Ok((Counted::new(&host.gate), permit))
    }

    /// A connection as soon as there is one: a new one, one that is given back, or one that has come to be shared.
    async fn wait_or_open(self: &Rc<Self>, worker: &Worker, host: &Host, asked: &Asked) -> Result<LeaseKind, ConnectError> {
        let key = (host.address, asked.clone());
        loop {
            let freed = match self.connection_permit(key.clone()) {
                Ok(leave) => return self.open(worker, host, asked, leave).await,
                Err(freed) => freed,
            };
            if let Ok(connection) = freed.await {
                return Ok(LeaseKind::H1(Some(connection)));
            }
            // Something else changed: a connection was closed, or one was opened that can be shared.
            if let Some(kind) = self.take(&key) {
                return Ok(kind);
            }
        }
    }

    /// Whether the cluster's list of hosts says which there are (an original destination is in no list).
    fn is_listed(&self) -> bool {
        use lateen_model::dataplane::Discovery;
        !matches!(self.cluster.config.discovery, Discovery::OriginalDst { .. })
    }

    async fn open(
        self: &Rc<Self>,
        worker: &Worker,
        host: &Host,
        asked: &Asked,
        (counted, permit): (Counted, Option<Permit>),
    ) -> Result<LeaseKind, ConnectError> {
        let key = (host.address, asked.clone());
        let stats = &self.cluster.stats;
        stats.upstream_cx_total.inc();
        let opened = connect(&self.cluster, host, asked, worker.shared.settings.sockets).await.inspect_err(|error| {
            host.state.stats.cx_connect_fail.inc();
            match error {
                ConnectError::Timeout => stats.upstream_cx_connect_timeout.inc(),
                ConnectError::Tls(_) => stats.ssl_handshake_fail.inc(),
                ConnectError::Tcp(_) => {}
            }
            stats.upstream_cx_connect_fail.inc();
        })?;
        let Opened { stream, local, tls } = opened;
        let speaks_http2 = match tls.as_ref().and_then(|t| t.alpn.as_deref()) {
            Some("h2") => true,
            Some("http/1.1") => false,
            _ => matches!(asked.purpose, Purpose::Http2 { .. }),
        };
        let meta = Rc::new(ConnectionMeta { local, tls });
        let kind = if speaks_http2 {
            let handshake = http2::ClientConnection::handshake(stream, self.http2_config());
            let (connection, driver) = handshake.await.map_err(|e| ConnectError::Tcp(std::io::Error::other(e)))?;
            let closed = Rc::new(Cell::new(false));
            let ended = closed.clone();
            tokio::task::spawn_local(async move {
                let _ = driver.await;
                ended.set(true);
            });
            let max_streams = self.max_streams();
            let shared = Rc::new(SharedConnection {
                connection,
                meta,
                opened: Instant::now(),
                requests: Cell::new(0),
                active: Cell::new(0),
                rests_since: Cell::new(Instant::now()),
                closed,
                max_streams,
                _permit: permit,
            });
            self.hosts.borrow_mut().entry(key).or_default().shared.push(shared.clone());
            LeaseKind::H2(shared)
        } else {
            let connection = http1::ClientConnection::new(stream, http1::Limits::default());
            LeaseKind::H1(Some(PooledConnection { connection, meta, opened: Instant::now(), _permit: permit, _counted: counted }))
        };
        Ok(kind)
    }

    fn http2_config(&self) -> http2::ClientConfig {
        use lateen_model::dataplane::HttpProtocolOptions::Http2;
        let keep_alive = match &self.cluster.config.http.protocol {
            Http2 { keep_alive, .. } => *keep_alive,
            _ => None,
        };
        http2::ClientConfig { keep_alive, ..http2::ClientConfig::default() }
    }

    /// Streams that a connection may carry at a time, by the cluster's settings.
    fn max_streams(&self) -> usize {
        use lateen_model::dataplane::HttpProtocolOptions::{Downstream, Http1, Http2};
        let max = match &self.cluster.config.http.protocol {
            Http1 => None,
            Http2 { max_concurrent_streams, .. } | Downstream { max_concurrent_streams } => *max_concurrent_streams,
        };
        max.and_then(|m| usize::try_from(m).ok()).unwrap_or(usize::MAX)
    }

    fn lease(self: &Rc<Self>, key: Key, host: Arc<Host>, kind: LeaseKind) -> Result<Lease, LeaseError> {
        let reused = match &kind {
            LeaseKind::H1(connection) => connection.as_ref().is_some_and(|c| c.connection.requests() > 0),
            LeaseKind::H2(shared) => shared.requests.get() > 0,
        };
        let Some(request) = self.cluster.breakers.try_acquire_request(super::cluster::now) else {
            if let LeaseKind::H1(Some(connection)) = kind {
                self.give_back(key, connection);
            }
            return Err(LeaseError::Overflow);
        };
        if let LeaseKind::H2(shared) = &kind {
            shared.requests.set(shared.requests.get() + 1);
            shared.active.set(shared.active.get() + 1);
        }
        self.cluster.stats.upstream_rq_total.inc();
        host.state.stats.rq_total.inc();
        let active = host.active_request();
        Ok(Lease { kind, pool: self.clone(), key, host, reused, _request: request, _active: active })
    }

    /// Gives a connection that has ended its exchange to a request that waits, or makes it idle, or closes it.
    fn give_back(&self, key: Key, connection: PooledConnection) {
        // Whoever waits may open one in its place: dropping it wakes them.
        if !connection.connection.is_at_rest()
            || !self.may_carry(connection.connection.requests(), connection.opened)
            || self.is_gone(key.0)
        {
            return;
        }
        let mut hosts = self.hosts.borrow_mut();
        let host = hosts.entry(key).or_default();
        let mut connection = connection;
        loop {
            let Some(waiting) = host.gate.waiting.borrow_mut().pop_front() else { break };
            match waiting.send(connection) {
                Ok(()) => return,
                Err(unwanted) => connection = unwanted,
            }
        }
        host.idle.push(Idle { connection, since: Instant::now() });
    }

    /// Whether the host has left the cluster (an original destination never does).
    fn is_gone(&self, address: SocketAddr) -> bool {
        self.is_listed() && self.cluster.hosts().get(address).is_none()
    }

    fn reap(&self) {
        let limit = self.idle_timeout();
        self.hosts.borrow_mut().retain(|key, host| {
            let gone = self.is_gone(key.0);
            host.idle.retain_mut(|idle| {
                !gone && limit.is_none_or(|limit| idle.since.elapsed() < limit) && !is_closed(&mut idle.connection)
            });
            // Requests in flight hold their connection; it ends with the last of them.
            host.shared.retain(|s| !gone && s.is_open() && !s.has_rested(limit));
            // Whoever counts or waits holds the gate too.
            !host.idle.is_empty() || !host.shared.is_empty() || Rc::strong_count(&host.gate) > 1
        });
    }
}

/// Whether an idle connection was closed by its host, or has something that nobody asked for.
fn is_closed(connection: &mut PooledConnection) -> bool {
    connection.connection.poll_idle(&mut Context::from_waker(Waker::noop())).is_ready()
}

impl Lease {
    /// Sends the head of a request, where that needs no waiting: on a connection of its own.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub(crate) fn send_now(&mut self, head: &Head, end: bool) -> Option<Result<ClientExchange<Stream>, StreamError>> {
        match &mut self.kind {
            LeaseKind::H1(Some(connection)) => Some(connection.connection.send_request(head, end)),
            LeaseKind::H1(None) => Some(Err(StreamError::Closed)),
            LeaseKind::H2(_) => None,
        }
    }

    /// Sends the head of a request.
    ///
    /// # Errors
    /// If the connection takes no request any more. Nothing was sent then, and the connection is given to nobody else.
    pub(crate) async fn send(&mut self, head: &Head, end: bool) -> Result<ClientExchange<Stream>, StreamError> {
        if let Some(sent) = self.send_now(head, end) {
            return sent;
        }
        let LeaseKind::H2(shared) = &self.kind else { return Err(StreamError::Closed) };
        let mut connection = shared.connection.clone();
        let sent = match connection.ready().await {
            Ok(()) => {
                if head.upgrade().is_some() {
                    connection.await_upgrades().await;
                }
                connection.send_request(head, end)
            }
            Err(error) => Err(error),
        };
        if sent.is_err() {
            shared.closed.set(true);
        }
        sent
    }

    /// What is known of the connection.
    pub(crate) fn meta(&self) -> Option<&Rc<ConnectionMeta>> {
        match &self.kind {
            LeaseKind::H1(connection) => connection.as_ref().map(|c| &c.meta),
            LeaseKind::H2(shared) => Some(&shared.meta),
        }
    }

    /// The exchange is over: the connection may serve another request, if it was left in order.
    pub(crate) fn finish(mut self) {
        if let LeaseKind::H1(connection) = &mut self.kind
            && let Some(connection) = connection.take()
        {
            self.pool.give_back(self.key.clone(), connection);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // An HTTP/1 connection that was not given back counts itself off.
        if let LeaseKind::H2(shared) = &self.kind {
            shared.active.set(shared.active.get().saturating_sub(1));
            shared.rests_since.set(Instant::now());
        }
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
