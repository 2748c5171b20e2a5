//! Clusters (CDS).

use super::destination::{MergedRule, Policy};
use super::external;
use super::locality::Preference;
use super::proxy::{Proxy, ProxyRole};
use super::scope::{ScopedService, sidecar_of};
use super::{hash, inbound, mesh, tls};
use crate::names;
use crate::world::{Protocol, Service, ServicePort, World};
use lateen_model::dataplane::{
    CircuitBreakers, Cluster, ClusterLoadAssignment, ClusterMetadata, Discovery, Endpoint, EndpointHealth, Http2KeepAlive,
    HttpProtocolOptions, LbPolicy, Locality, LocalityEndpoints, OutlierDetection, ProxyProtocolVersion, RetryBudget, RetryQuota,
    ServiceRef, SlowStart, TcpKeepalive, TlsMode, TransportSocket, UpstreamHttp, WeightedLocality,
};
use lateen_model::resource::{
    self, ClientTlsMode, ConnectionPoolSettings, H2UpgradePolicy, HttpPoolSettings, LoadBalancerSettings, SimpleLb,
};
use std::net::SocketAddr;
use std::time::Duration;

/// All clusters of one service: each known port, whole and by subset.
pub fn of_service(world: &World, proxy: &Proxy, scoped: &ScopedService, rule: &MergedRule) -> Vec<Cluster> {
    let service = &*scoped.service;
    if service.alias.is_some() {
        return Vec::new();
    }
    let subsets = rule.subsets();
    let mut out = Vec::new();
    for port in scoped.ports() {
        let made = |subset| outbound(world, proxy, (service, port), rule, subset);
        out.push(made(""));
        out.extend(subsets.iter().map(|subset| made(&subset.name)));
    }
    out
}

fn outbound(world: &World, proxy: &Proxy, (service, port): (&Service, &ServicePort), rule: &MergedRule, subset: &str) -> Cluster {
    let policy = rule.policy(port.number, subset);
    let name = names::outbound_cluster(port.number, subset, &service.host);
    let protocol = outbound_protocol(world, port.protocol, policy.connection_pool);
    let simple = policy.load_balancer.and_then(|l| l.simple);
    // Connections to a gateway are to itself, so that it has to choose an endpoint.
    let passthrough = (service.is_passthrough() || simple == Some(SimpleLb::Passthrough)) && proxy.role != ProxyRole::Router;
    let transport = tls::outbound(
        world,
        &tls::Upstream {
            service,
            passthrough,
            endpoints: world.endpoints_of(service).map(|e| &**e),
            port: port.number,
            subset,
            http2: matches!(protocol, HttpProtocolOptions::Http2 { .. }),
            settings: policy.tls,
            own_secrets: proxy.role == ProxyRole::Router || rule.selects(),
        },
    );
    let discovery = match passthrough {
        true => Discovery::OriginalDst {
            // A service whose endpoints are known is called on its own port, from which the platform leads on.
            port_override: service.is_passthrough().then(|| external::port_override(service, port)).flatten(),
        },
        false => match external::dns(world, proxy, (service, port), rule, subset) {
            Some(dns) => Discovery::Dns(Box::new(dns)),
            None => Discovery::Eds { service_name: name.clone() },
        },
    };
    let consistent_hash = policy.load_balancer.and_then(|l| l.consistent_hash.as_ref());
    let lb_policy = match (passthrough, simple) {
        (true, _) => LbPolicy::ClusterProvided,
        (_, Some(SimpleLb::RoundRobin)) => LbPolicy::RoundRobin,
        (_, Some(SimpleLb::Random)) => LbPolicy::Random,
        (_, None | Some(SimpleLb::Unspecified | SimpleLb::LeastConn | SimpleLb::LeastRequest | SimpleLb::Passthrough)) => {
            consistent_hash.map_or(LbPolicy::LeastRequest, hash::lb_policy)
        }
    };
    let preference = Preference::of(world, service, &policy);
    let originates = matches!(policy.tls_mode(), Some(ClientTlsMode::Simple | ClientTlsMode::Mutual));
    let mutual = transport != TransportSocket::Plaintext && !originates;
    let base = Cluster {
        metadata: ClusterMetadata {
            services: vec![service_ref(service)],
            subset: (!subset.is_empty()).then(|| subset.to_owned()),
            original_port: Some(port.number),
            config_source: rule.base().map(|r| names::config_source("destination-rule", r.namespace(), r.name())),
            alpn_override: originates.then_some(false),
            external: service.is_external(),
        },
        transport,
        proxy_protocol: policy.proxy_protocol.map(|p| match p.version {
            resource::ProxyProtocolVersion::V1 => ProxyProtocolVersion::V1,
            resource::ProxyProtocolVersion::V2 => ProxyProtocolVersion::V2,
        }),
        lb_policy,
        slow_start: policy.load_balancer.and_then(|l| slow_start(l, lb_policy)),
        weighted_localities: (!passthrough && preference.is_weighted()).then(|| WeightedLocality { local: Locality::default() }),
        zone_aware: (!passthrough && !preference.is_weighted() && proxy.fleet.is_some()).then(|| preference.by_zones()),
        tcp_metadata_exchange: mutual,
        ..plain(world, name, discovery, protocol)
    };
    let mut cluster = with_policy(base, &policy);
    if originates {
        external::names_by_request(&mut cluster.http, service, &policy);
    }
    cluster
}

/// How new endpoints are chosen less at first; of no meaning to other policies than these.
fn slow_start(written: &LoadBalancerSettings, policy: LbPolicy) -> Option<SlowStart> {
    if !matches!(policy, LbPolicy::RoundRobin | LbPolicy::LeastRequest) {
        return None;
    }
    let warmup = written.warmup.as_ref();
    let window = warmup.and_then(|w| w.duration).or(written.warmup_duration_secs)?.get();
    let minimum = warmup.and_then(|w| w.minimum_percent).unwrap_or(SlowStart::DEFAULT_MINIMUM_PERCENT);
    let aggression = warmup.and_then(|w| w.aggression).unwrap_or(SlowStart::DEFAULT_AGGRESSION);
    // What is out of range was refused when it was read.
    SlowStart::try_new(window, minimum, aggression).ok()
}

/// A cluster without any policy.
fn plain(world: &World, name: String, discovery: Discovery, protocol: HttpProtocolOptions) -> Cluster {
    Cluster {
        name,
        stat_name: String::new(),
        discovery,
        connect_timeout: mesh::connect_timeout(world.mesh()),
        lb_policy: LbPolicy::LeastRequest,
        slow_start: None,
        proxy_protocol: None,
        transport: TransportSocket::Plaintext,
        http: UpstreamHttp {
            protocol,
            idle_timeout: None,
            max_requests_per_connection: None,
            max_connection_duration: None,
            auto_sni: false,
            auto_san_validation: false,
        },
        circuit_breakers: CircuitBreakers::default(),
        outlier_detection: None,
        healthy_panic_threshold: None,
        weighted_localities: None,
        zone_aware: None,
        tcp_keepalive: mesh::tcp_keepalive(world.mesh()),
        bind_sources: Vec::new(),
        tcp_metadata_exchange: false,
        metadata: ClusterMetadata::default(),
    }
}

fn service_ref(service: &Service) -> ServiceRef {
    ServiceRef { host: service.host.to_string(), name: service.name.to_string(), namespace: service.namespace.to_string() }
}

fn positive(n: i32) -> Option<u32> {
    u32::try_from(n).ok().filter(|n| *n > 0)
}

/// The client's own choice beats an upgrade, an upgrade beats what the port declares.
fn outbound_protocol(world: &World, declared: Protocol, pool: Option<&ConnectionPoolSettings>) -> HttpProtocolOptions {
    let http = pool.and_then(|p| p.http.as_ref());
    let max_concurrent_streams = http.and_then(|h| positive(h.max_concurrent_streams));
    if http.is_some_and(|h| h.use_client_protocol) {
        return HttpProtocolOptions::Downstream { max_concurrent_streams };
    }
    let upgrade = match http.map(|h| h.h2_upgrade_policy).unwrap_or_default() {
        H2UpgradePolicy::Upgrade => true,
        H2UpgradePolicy::DoNotUpgrade => false,
        H2UpgradePolicy::Default => declared.is_http() && mesh::h2_upgrade(world.mesh()),
    };
    if upgrade || declared.is_http2() {
        http2(http)
    } else if declared.is_auto() {
        HttpProtocolOptions::Downstream { max_concurrent_streams }
    } else {
        HttpProtocolOptions::Http1
    }
}

/// HTTP/2 and nothing else, the one case in which PINGs are sent.
fn http2(pool: Option<&HttpPoolSettings>) -> HttpProtocolOptions {
    let keep_alive = pool
        .and_then(|http| http.http2_keep_alive.as_ref())
        .and_then(|written| Some(Http2KeepAlive { interval: written.interval?.get(), timeout: written.timeout?.get() }));
    HttpProtocolOptions::Http2 { max_concurrent_streams: pool.and_then(|http| positive(http.max_concurrent_streams)), keep_alive }
}

fn with_policy(mut cluster: Cluster, policy: &Policy<'_>) -> Cluster {
    if let Some(pool) = policy.connection_pool {
        apply_pool(&mut cluster, pool);
    }
    if let Some(outlier) = policy.outlier_detection {
        cluster.outlier_detection = Some(outlier_detection(outlier));
        cluster.healthy_panic_threshold = Some(percent(outlier.min_health_percent));
    }
    let max_retries = policy.connection_pool.and_then(|p| p.http.as_ref()).and_then(|h| positive(h.max_retries));
    cluster.circuit_breakers.retry_budget = policy.retry_budget.map(retry_budget);
    // A budget, or a limit of retries in flight, is the user's own bound.
    if policy.retry_budget.is_none() && max_retries.is_none() {
        cluster.circuit_breakers.retry_budget = Some(DEFAULT_BUDGET);
        cluster.circuit_breakers.retry_quota = Some(DEFAULT_QUOTA);
    }
    cluster
}

/// Where nothing is written. Istio has no bound: when all backends fail, retries multiply the load on them. Here those that fail,
/// too, add a fifth to it; a retry with a good answer is given back, so that one bad endpoint among good ones fails no request. Of few requests all may be tried again, also when all of them fail in the same moment, as when one of two endpoints
/// hangs: 100 retries in 10 seconds, which is what Linkerd allows. A limit of retries in flight cannot do both: one that lets 64
/// requests be tried again at once lets 96 clients of a failing backend send most of their requests again and again; and Envoy's
/// interval compares retries in flight with requests of the last seconds, which is no bound where answers come fast.
const DEFAULT_QUOTA: RetryQuota = RetryQuota { percent_hundredths: 2_000, min_retries: 100, interval: Duration::from_secs(10) };

/// For proxies that know no quota: a limit of retries in flight that bounds a storm, and lets the requests be tried again that one
/// of three endpoints leaves without an answer when they are few.
const DEFAULT_BUDGET: RetryBudget = RetryBudget { percent_hundredths: 2_000, min_concurrency: 16, interval: None };

/// Limits and timeouts of a pool; zero is unset.
fn apply_pool(cluster: &mut Cluster, pool: &ConnectionPoolSettings) {
    let limit = |n: i32| positive(n).unwrap_or(u32::MAX);
    if let Some(tcp) = &pool.tcp {
        cluster.circuit_breakers.max_connections = limit(tcp.max_connections);
        if let Some(timeout) = tcp.connect_timeout {
            cluster.connect_timeout = timeout.get();
        }
        if let Some(keepalive) = &tcp.tcp_keepalive {
            cluster.tcp_keepalive = Some(TcpKeepalive {
                probes: Some(keepalive.probes).filter(|n| *n > 0),
                time: keepalive.time.map(Duration::from),
                interval: keepalive.interval.map(Duration::from),
            });
        }
        cluster.http.max_connection_duration = tcp.max_connection_duration.map(Duration::from);
        cluster.http.idle_timeout = tcp.idle_timeout.map(Duration::from);
    }
    if let Some(http) = &pool.http {
        cluster.circuit_breakers.max_pending_requests = limit(http.http1_max_pending_requests);
        cluster.circuit_breakers.max_requests = limit(http.http2_max_requests);
        cluster.circuit_breakers.max_retries = limit(http.max_retries);
        cluster.http.max_requests_per_connection = positive(http.max_requests_per_connection);
        if let Some(idle) = http.idle_timeout {
            cluster.http.idle_timeout = Some(idle.get());
        }
    }
}

fn percent(n: i32) -> u8 {
    u8::try_from(n.clamp(0, 100)).unwrap_or(100)
}

/// Envoy's defaults where nothing is written; gateway errors count only where a number is written.
fn outlier_detection(written: &resource::OutlierDetection) -> OutlierDetection {
    let base_ejection_time = written.base_ejection_time.map_or(Duration::from_secs(30), Duration::from);
    let split = written.split_external_local_origin_errors;
    OutlierDetection {
        consecutive_5xx: written.consecutive_5xx_errors.unwrap_or(5),
        consecutive_gateway_failure: written.consecutive_gateway_errors.unwrap_or(0),
        consecutive_local_origin_failure: if split { written.consecutive_local_origin_failures.unwrap_or(5) } else { 0 },
        split_local_origin: split,
        interval: written.interval.map_or(Duration::from_secs(10), Duration::from),
        base_ejection_time,
        max_ejection_time: base_ejection_time.max(Duration::from_secs(300)),
        max_ejection_percent: if written.max_ejection_percent == 0 { 10 } else { percent(written.max_ejection_percent) },
        error_statuses: written.outlier_detection_http_error_codes.iter().filter_map(|code| u16::try_from(*code).ok()).collect(),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=10,000 before")]
fn retry_budget(written: &resource::RetryBudget) -> RetryBudget {
    let hundredths = (written.percent.unwrap_or(20.0).clamp(0.0, 100.0) * 100.0).round() as u32;
    RetryBudget {
        percent_hundredths: hundredths,
        min_concurrency: written.min_retry_concurrency.unwrap_or(3),
        interval: written.budget_interval.map(Duration::from).filter(|interval| !interval.is_zero()),
    }
}

/// A port of a service as other gateways name it in TLS that is passed on (Istio's SNI-DNAT clusters).
pub fn by_server_name(world: &World, port: u16, host: &str) -> Cluster {
    let name = names::mtls_sni(port, "", host);
    let discovery = Discovery::Eds { service_name: name.clone() };
    let services = world.service(host).map(|s| service_ref(s)).into_iter().collect();
    Cluster {
        metadata: ClusterMetadata { services, original_port: Some(port), ..ClusterMetadata::default() },
        ..plain(world, name, discovery, HttpProtocolOptions::Http1)
    }
}

/// Traffic that must go nowhere.
pub fn black_hole(world: &World) -> Cluster {
    let name = names::BLACK_HOLE.to_owned();
    let nothing = ClusterLoadAssignment { cluster_name: name.clone(), localities: Vec::new() };
    plain(world, name, Discovery::Static(nothing), HttpProtocolOptions::Http1)
}

/// Traffic to destinations that the mesh does not know.
pub fn passthrough(world: &World) -> Cluster {
    let protocol = HttpProtocolOptions::Downstream { max_concurrent_streams: None };
    Cluster {
        lb_policy: LbPolicy::ClusterProvided,
        ..plain(world, names::PASSTHROUGH.to_owned(), Discovery::OriginalDst { port_override: None }, protocol)
    }
}

/// Clusters of a sidecar's own application.
pub fn inbound(world: &World, proxy: &Proxy) -> Vec<Cluster> {
    let downstream = HttpProtocolOptions::Downstream { max_concurrent_streams: None };
    let mut out = vec![Cluster {
        lb_policy: LbPolicy::ClusterProvided,
        bind_sources: proxy.families.inbound_sources(),
        ..plain(world, names::INBOUND_PASSTHROUGH.to_owned(), Discovery::OriginalDst { port_override: None }, downstream)
    }];
    for port in inbound::ports(world, proxy) {
        out.push(inbound_port(world, proxy, &port));
    }
    out
}

fn inbound_port(world: &World, proxy: &Proxy, port: &inbound::InboundPort) -> Cluster {
    let name = names::inbound_cluster(port.target);
    let pool = inbound_pool(world, proxy, port);
    let protocol = if port.protocol.is_http2() {
        http2(pool.as_ref().and_then(|p| p.http.as_ref()))
    } else if port.protocol.is_auto() {
        HttpProtocolOptions::Downstream { max_concurrent_streams: None }
    } else {
        HttpProtocolOptions::Http1
    };
    let localhost = mesh::inbound_localhost(world.mesh());
    let endpoint = match port.own.as_ref().and_then(|own| own.endpoint) {
        // Any address is the pod's own, which is the one that was called.
        Some(written) if written.ip().is_unspecified() => Inward::Called(Some(written.port()).filter(|p| *p != port.target)),
        Some(written) => Inward::Local(written),
        None if localhost => Inward::Local(SocketAddr::new(proxy.families.loopback(), port.target)),
        None => Inward::Called(None),
    };
    let localhost = matches!(endpoint, Inward::Local(_));
    let discovery = match endpoint {
        Inward::Local(address) => local_endpoint(&name, address),
        Inward::Called(port_override) => Discovery::OriginalDst { port_override },
    };
    let mut cluster = Cluster {
        lb_policy: if localhost { LbPolicy::RoundRobin } else { LbPolicy::ClusterProvided },
        bind_sources: if localhost { Vec::new() } else { proxy.families.inbound_sources() },
        metadata: ClusterMetadata {
            services: port.services.iter().map(|s| service_ref(s)).collect(),
            original_port: Some(port.service_port),
            ..ClusterMetadata::default()
        },
        ..plain(world, name, discovery, protocol)
    };
    if let Some(pool) = pool {
        apply_pool(&mut cluster, &pool);
    }
    cluster
}

/// The limits of connections to the application: of the Sidecar's listener, of the Sidecar, or of the service's rule, of which
/// only these concern the server's side.
fn inbound_pool(world: &World, proxy: &Proxy, port: &inbound::InboundPort) -> Option<ConnectionPoolSettings> {
    let own = port.own.as_ref().and_then(|own| own.pool.clone());
    let of_sidecar = || sidecar_of(world, proxy)?.resource.spec.inbound_connection_pool.clone();
    let of_rule = || {
        let rule = MergedRule::lookup(world, &proxy.namespace, port.services.first()?);
        rule.policy(port.service_port, "").connection_pool.cloned()
    };
    own.or_else(of_sidecar).or_else(of_rule)
}

/// Where an inbound cluster leads.
enum Inward {
    /// To this address of the pod.
    Local(SocketAddr),
    /// To the address that was called, perhaps on another port.
    Called(Option<u16>),
}

fn local_endpoint(cluster: &str, address: SocketAddr) -> Discovery {
    let endpoint = Endpoint { address, health: EndpointHealth::Healthy, weight: 1, tls_mode: TlsMode::Disabled, workload: None };
    let group = LocalityEndpoints { locality: Locality::default(), priority: 0, weight: None, endpoints: vec![endpoint] };
    Discovery::Static(ClusterLoadAssignment { cluster_name: cluster.to_owned(), localities: vec![group] })
}
