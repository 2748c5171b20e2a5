//! Clusters and their hosts: shared by all workers, immutable but for atomics and the set of hosts, which is replaced whole.

use super::stats::{ClusterStats, HostStats};
use crate::config::secrets::Secrets;
use arc_swap::ArcSwap;
use foldhash::HashMap;
use lateen_model::dataplane::{
    self, CircuitBreakers, ClusterLoadAssignment, Discovery, Endpoint, EndpointHealth, LocalityEndpoints, TlsMode,
    TransportSocket,
};
use lateen_policy::balance::{BalanceSettings, HostGroup, HostSet, HostView, Moment};
use lateen_policy::breaker::Breakers;
use lateen_policy::outlier::{Detector, HostHealth, Outcome};
use lateen_tls::ClientTls;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// A cluster.
pub(crate) struct Cluster {
    pub(crate) name: Arc<str>,
    pub(crate) config: dataplane::Cluster,
    pub(crate) transport: Transport,
    pub(crate) breakers: Breakers,
    pub(crate) stats: Arc<ClusterStats>,
    detector: Option<Arc<Detector>>,
    hosts: ArcSwap<Hosts>,
    /// Tells that [`Self::hosts`] was replaced.
    changed: Notify,
    /// Whether its names were resolved, or tried to be.
    resolved: AtomicBool,
    /// Further addresses of the name that a host stands for (`LOGICAL_DNS`), in the order in which they are tried.
    further: ArcSwap<HashMap<SocketAddr, Vec<SocketAddr>>>,
}

/// How bytes travel to an endpoint.
pub(crate) enum Transport {
    Plaintext,
    Tls(ClientTls),
    /// The first way whose mode fits; none is plaintext.
    ByEndpoint(Vec<TransportWay>),
}

/// One way of [`Transport::ByEndpoint`].
pub(crate) struct TransportWay {
    pub(crate) tls_mode: Option<TlsMode>,
    pub(crate) tls: Option<ClientTls>,
}

/// The hosts of a cluster at one moment.
pub(crate) struct Hosts {
    pub(crate) set: Arc<HostSet<Arc<Host>>>,
    by_address: HashMap<SocketAddr, Arc<Host>>,
}

impl Hosts {
    /// The host at an address.
    pub(crate) fn get(&self, address: SocketAddr) -> Option<&Arc<Host>> {
        self.by_address.get(&address)
    }

    /// All hosts, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.by_address.values()
    }
}

/// One endpoint of a cluster.
pub(crate) struct Host {
    pub(crate) address: SocketAddr,
    pub(crate) endpoint: Endpoint,
    pub(crate) priority: u32,
    /// Survives updates of the endpoint and of the cluster.
    pub(crate) state: Arc<HostState>,
}

/// What is learnt of a host while it is used.
pub(crate) struct HostState {
    /// When it came into the cluster, as [`now`] counts.
    joined: Duration,
    pub(crate) health: HostHealth,
    pub(crate) active_requests: AtomicU32,
    pub(crate) stats: HostStats,
}

impl Default for HostState {
    /// Of a host that comes now.
    fn default() -> Self {
        Self { joined: now(), health: HostHealth::default(), active_requests: AtomicU32::default(), stats: HostStats::default() }
    }
}

/// Counts a request at its host until it is dropped.
pub(crate) struct ActiveRequest(Arc<HostState>);

impl Host {
    fn new(endpoint: Endpoint, priority: u32, state: Arc<HostState>) -> Self {
        Self { address: endpoint.address, endpoint, priority, state }
    }

    /// A host that no assignment names: an original destination.
    pub(crate) fn original_destination(address: SocketAddr) -> Self {
        let endpoint =
            Endpoint { address, health: EndpointHealth::Healthy, weight: 1, tls_mode: TlsMode::Disabled, workload: None };
        Self::new(endpoint, 0, Arc::default())
    }

    /// Counts a request as active.
    pub(crate) fn active_request(&self) -> ActiveRequest {
        self.state.active_requests.fetch_add(1, Ordering::Relaxed);
        ActiveRequest(self.state.clone())
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.active_requests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl HostView for Host {
    fn weight(&self) -> u32 {
        self.endpoint.weight
    }

    fn active_requests(&self) -> u32 {
        self.state.active_requests.load(Ordering::Relaxed)
    }

    fn is_usable(&self) -> bool {
        self.endpoint.health == EndpointHealth::Healthy && !self.state.health.is_ejected()
    }

    fn hash_key(&self) -> String {
        self.address.to_string()
    }

    fn joined(&self) -> Duration {
        self.state.joined
    }
}

/// The moment from which ejection times and the ages of hosts are counted, the same for all clusters.
static EPOCH: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);

/// Time since the process began.
pub(crate) fn now() -> Duration {
    EPOCH.elapsed()
}

impl Cluster {
    /// Compiles a cluster. What is known of its hosts, and the counts of its circuit breakers, are carried over from the
    /// version that it replaces.
    pub(crate) fn compile(config: dataplane::Cluster, secrets: &mut Secrets, previous: Option<&Self>) -> Result<Self, String> {
        let transport = Transport::compile(&config, secrets)?;
        let limits: CircuitBreakers = config.circuit_breakers.clone();
        let breakers = previous.map_or_else(|| Breakers::new(limits.clone()), |p| p.breakers.with_limits(limits.clone()));
        // With other rules of ejection or balancing, what was learnt by the old ones does not hold: hosts start anew.
        let settings = BalanceSettings::of(&config);
        let same_rules = previous
            .filter(|p| p.config.outlier_detection == config.outlier_detection && BalanceSettings::of(&p.config) == settings);
        let hosts = same_rules.map_or_else(|| Arc::new(Hosts::empty(settings)), |p| p.hosts.load_full());
        let detector = match same_rules {
            Some(previous) => previous.detector.clone(),
            None => config.outlier_detection.clone().map(|o| Arc::new(Detector::new(o, 0))),
        };
        let further = same_rules.map(|p| p.further.load_full()).unwrap_or_default();
        let names = |c: &dataplane::Cluster| matches!(&c.discovery, Discovery::Dns(dns) if !dns.localities.is_empty());
        let same_names = !names(&config) || same_rules.is_some_and(|p| p.config.discovery == config.discovery && p.is_resolved());
        let cluster = Self {
            name: config.name.as_str().into(),
            stats: previous.map(|p| p.stats.clone()).unwrap_or_default(),
            transport,
            breakers,
            detector,
            hosts: ArcSwap::new(hosts),
            changed: Notify::new(),
            resolved: AtomicBool::new(same_names),
            further: ArcSwap::new(further),
            config,
        };
        if let Discovery::Static(assignment) = &cluster.config.discovery {
            cluster.set_endpoints(&assignment.clone());
        }
        Ok(cluster)
    }

    /// Whether its hosts are known as far as they can be: for names, once they were asked for.
    pub(crate) fn is_resolved(&self) -> bool {
        self.resolved.load(Ordering::Relaxed)
    }

    /// Takes the hosts that names stand for.
    pub(crate) fn set_resolved(&self, assignment: &ClusterLoadAssignment, further: HashMap<SocketAddr, Vec<SocketAddr>>) {
        self.further.store(Arc::new(further));
        self.set_endpoints(assignment);
        self.resolved.store(true, Ordering::Relaxed);
    }

    /// Where else the name of the host at this address leads.
    pub(crate) fn further_addresses(&self, address: SocketAddr) -> Vec<SocketAddr> {
        self.further.load().get(&address).cloned().unwrap_or_default()
    }

    /// Whether Istio's ALPN filter may choose the ALPN (`metadata.istio.alpn_override`).
    pub(crate) fn overrides_alpn(&self) -> bool {
        self.config.metadata.alpn_override != Some(false)
    }

    /// Whether no other proxy is to be expected at its endpoints.
    pub(crate) fn is_outside_of_the_mesh(&self) -> bool {
        self.config.metadata.external || matches!(self.transport, Transport::Plaintext)
    }

    /// The hosts now.
    pub(crate) fn hosts(&self) -> arc_swap::Guard<Arc<Hosts>> {
        self.hosts.load()
    }

    /// When a host is picked; the clock is read only where it counts.
    pub(crate) fn moment(&self) -> Moment {
        let epoch = self.detector.as_ref().map_or(0, |d| d.epoch());
        let now = if self.config.slow_start.is_some() { now() } else { Duration::ZERO };
        Moment { epoch, now }
    }

    /// Outlier detection, for statistics and sweeps.
    pub(crate) fn detector(&self) -> Option<&Detector> {
        self.detector.as_deref()
    }

    /// Takes new endpoints. A host that stays keeps what was learnt of it.
    pub(crate) fn set_endpoints(&self, assignment: &ClusterLoadAssignment) {
        let before = self.hosts.load_full();
        let mut by_address = HashMap::default();
        let mut host_of = |endpoint: &Endpoint, priority: u32| {
            let state = before.get(endpoint.address).map(|h| h.state.clone()).unwrap_or_default();
            let host = Arc::new(Host::new(endpoint.clone(), priority, state));
            by_address.insert(endpoint.address, host.clone());
            host
        };
        let mut group_of = |locality: &LocalityEndpoints| HostGroup {
            priority: locality.priority,
            weight: locality.weight,
            locality: locality.locality.clone(),
            hosts: locality.endpoints.iter().map(|e| host_of(e, locality.priority)).collect(),
        };
        let groups = assignment.localities.iter().map(&mut group_of).collect();
        let set = Arc::new(HostSet::new(BalanceSettings::of(&self.config), groups));
        if let Some(detector) = &self.detector {
            detector.set_host_count(u32::try_from(by_address.len()).unwrap_or(u32::MAX));
            before.iter().filter(|h| !by_address.contains_key(&h.address)).for_each(|h| detector.forget(&h.state.health));
        }
        self.hosts.store(Arc::new(Hosts { set, by_address }));
        self.changed.notify_waiters();
    }

    /// Waits until no host has this address any more.
    pub(crate) async fn until_gone(&self, address: SocketAddr) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before looking, so that a change in between is not missed.
            changed.as_mut().enable();
            if self.hosts.load().get(address).is_none() {
                return;
            }
            changed.await;
        }
    }

    /// Tells outlier detection what a host did.
    pub(crate) fn record(&self, host: &Host, outcome: Outcome) {
        let Some(detector) = &self.detector else { return };
        if let Some(ejection) = detector.on_result(&host.state.health, outcome, now()) {
            tracing::info!(cluster = %self.name, host = %host.address, cause = ?ejection.cause, "ejected for {:?}", ejection.duration);
        }
    }

    /// Lets ejected hosts whose time is over come back.
    pub(crate) fn sweep(&self) {
        if let Some(detector) = &self.detector {
            let hosts = self.hosts.load();
            detector.sweep(now(), hosts.iter().map(|h| &h.state.health));
        }
    }
}

impl Hosts {
    fn empty(settings: BalanceSettings) -> Self {
        Self { set: Arc::new(HostSet::new(settings, Vec::new())), by_address: HashMap::default() }
    }
}

impl Transport {
    fn compile(config: &dataplane::Cluster, secrets: &mut Secrets) -> Result<Self, String> {
        let by_request = config.http.auto_san_validation;
        Ok(match &config.transport {
            TransportSocket::Plaintext => Self::Plaintext,
            TransportSocket::Tls(tls) => {
                Self::Tls(secrets.client_tls(tls, by_request).map_err(|e| format!("transport_socket: {e}"))?)
            }
            TransportSocket::ByEndpoint(ways) => {
                let way = |w: &dataplane::TransportSocketMatch| {
                    let tls = w.tls.as_ref().map(|t| secrets.client_tls(t, by_request)).transpose();
                    let tls = tls.map_err(|e| format!("transport_socket_matches {:?}: {e}", w.name))?;
                    Ok(TransportWay { tls_mode: w.tls_mode, tls })
                };
                Self::ByEndpoint(ways.iter().map(way).collect::<Result<_, String>>()?)
            }
        })
    }
}
