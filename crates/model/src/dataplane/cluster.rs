//! Clusters (CDS, `envoy.config.cluster.v3`).

use super::endpoint::{ClusterLoadAssignment, EndpointHealth, Locality, TlsMode, WorkloadRef};
use super::hash_policy::{MaglevTableSize, RingSize};
use super::slow_start::SlowStart;
use super::tls::UpstreamTls;
use super::tunnel::ProxyProtocolVersion;
use super::zone_aware::ZoneAware;
use serde::Serialize;
use std::net::IpAddr;
use std::time::Duration;

/// A group of endpoints that are spoken to in the same way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cluster {
    /// e.g. `outbound|80|v1|order-service.production.svc.cluster.local`.
    pub name: String,
    /// `alt_stat_name`; empty is the name.
    pub stat_name: String,
    /// Where endpoints come from.
    pub discovery: Discovery,
    /// For one TCP connection (with TLS); Istio's default is 10 s.
    #[serde(serialize_with = "super::json::duration")]
    pub connect_timeout: Duration,
    /// How an endpoint is chosen.
    pub lb_policy: LbPolicy,
    /// How new endpoints are chosen less at first; only with [`LbPolicy::RoundRobin`] and [`LbPolicy::LeastRequest`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<SlowStart>,
    /// How bytes travel.
    pub transport: TransportSocket,
    /// The first bytes of each connection, before TLS, tell whose it is (`upstream_proxy_protocol`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocolVersion>,
    /// How HTTP is spoken.
    pub http: UpstreamHttp,
    /// Limits.
    pub circuit_breakers: CircuitBreakers,
    /// When a host is ejected; `None` never.
    pub outlier_detection: Option<OutlierDetection>,
    /// Below this share of healthy hosts all are used (percent, 0 to 100; `None` is Envoy's 50).
    pub healthy_panic_threshold: Option<u8>,
    /// Weighted localities (`locality_weighted_lb_config`).
    pub weighted_localities: Option<WeightedLocality>,
    /// Zones before others (`zone_aware_lb_config`); not with weighted localities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone_aware: Option<ZoneAware>,
    /// TCP keep-alive of connections.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Source addresses of connections (`upstream_bind_config`), of which the first of the destination's family is used, e.g.
    /// 127.0.0.6 and ::6 for inbound clusters; without one the system chooses.
    pub bind_sources: Vec<IpAddr>,
    /// Whether Istio's TCP metadata exchange runs on its connections (network filter `istio.metadata_exchange`).
    pub tcp_metadata_exchange: bool,
    /// For telemetry and for people.
    pub metadata: ClusterMetadata,
}

/// Where a cluster's endpoints come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Discovery {
    /// EDS, under this service name.
    Eds {
        /// Equal to the cluster's name in Istio.
        service_name: String,
    },
    /// Written in the cluster.
    Static(ClusterLoadAssignment),
    /// The address that the client wanted to reach.
    OriginalDst {
        /// Replaces the port (`upstream_port_override`).
        port_override: Option<u16>,
    },
    /// Names that the proxy resolves itself.
    Dns(Box<DnsDiscovery>),
}

/// Names that the proxy resolves itself (`STRICT_DNS`, `LOGICAL_DNS`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DnsDiscovery {
    /// What is made of an answer.
    pub kind: DnsKind,
    /// Names by locality and priority.
    pub localities: Vec<DnsLocality>,
    /// Which addresses are asked for.
    pub family: DnsFamily,
    /// After which a name is asked for again, unless the answer's time to live counts.
    #[serde(serialize_with = "super::json::duration")]
    pub refresh: Duration,
    /// Whether the answer's time to live counts instead (`respect_dns_ttl`).
    pub respect_ttl: bool,
    /// After a failure; `None` is as after a success.
    pub failure: Option<DnsBackoff>,
    /// Up to this much is added to each wait, at random (`dns_jitter`).
    #[serde(serialize_with = "super::json::duration")]
    pub jitter: Duration,
}

/// What is made of the answer for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DnsKind {
    /// Each address is an endpoint.
    Strict,
    /// The first address is the one endpoint; connections to earlier ones go on.
    Logical,
}

/// Which addresses are asked for (`dns_lookup_family`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DnsFamily {
    /// IPv6, and IPv4 if there is none (Envoy's default).
    #[default]
    Auto,
    /// IPv4.
    V4Only,
    /// IPv6.
    V6Only,
    /// IPv4, and IPv6 if there is none.
    V4Preferred,
    /// Both.
    All,
}

/// Waits after failures: at random between zero and a bound that doubles, from `base` to `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DnsBackoff {
    /// The first bound.
    #[serde(serialize_with = "super::json::duration")]
    pub base: Duration,
    /// The last bound.
    #[serde(serialize_with = "super::json::duration")]
    pub max: Duration,
}

/// The names of one locality at one priority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DnsLocality {
    /// Where they are.
    pub locality: Locality,
    /// 0 is the highest.
    pub priority: u32,
    /// Weight of the locality.
    pub weight: Option<u32>,
    /// The names.
    pub endpoints: Vec<DnsEndpoint>,
}

/// A name and a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DnsEndpoint {
    /// A DNS name, or an IP address as text.
    pub host: String,
    /// The port of all its addresses.
    pub port: u16,
    /// Health as the control plane sees it.
    pub health: EndpointHealth,
    /// Load-balancing weight of each address; at least 1.
    pub weight: u32,
    /// How to speak to it.
    pub tls_mode: TlsMode,
    /// Who it is, for telemetry.
    pub workload: Option<WorkloadRef>,
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LbPolicy {
    /// In turn, by weight.
    RoundRobin,
    /// The less loaded of two at random; Istio's default.
    #[default]
    LeastRequest,
    /// At random, by weight.
    Random,
    /// By a hash of the request, on a ring of points (ketama); at random for requests without a hash.
    RingHash(RingSize),
    /// By a hash of the request, in a table (Maglev); at random for requests without a hash.
    Maglev(MaglevTableSize),
    /// The original destination; only with [`Discovery::OriginalDst`].
    ClusterProvided,
}

impl LbPolicy {
    /// Whether equal hashes lead to the same endpoint.
    pub fn is_consistent(self) -> bool {
        matches!(self, Self::RingHash(_) | Self::Maglev(_))
    }
}

/// How bytes travel to an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TransportSocket {
    /// As they are.
    Plaintext,
    /// In TLS, always.
    Tls(Box<UpstreamTls>),
    /// By the endpoint's metadata, first match wins; no match is plaintext.
    ByEndpoint(Vec<TransportSocketMatch>),
}

/// One of the ways in [`TransportSocket::ByEndpoint`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TransportSocketMatch {
    /// e.g. `tlsMode-istio`.
    pub name: String,
    /// The endpoint's TLS mode; `None` matches each.
    pub tls_mode: Option<TlsMode>,
    /// TLS, or `None` for plaintext.
    pub tls: Option<Box<UpstreamTls>>,
}

/// How HTTP is spoken to a cluster (`HttpProtocolOptions`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UpstreamHttp {
    /// Which version.
    pub protocol: HttpProtocolOptions,
    /// An idle pooled connection is closed after this; `None` is Envoy's one hour; zero is never.
    #[serde(serialize_with = "super::json::optional_duration")]
    pub idle_timeout: Option<Duration>,
    /// A connection is closed after this many requests; `None` is never.
    pub max_requests_per_connection: Option<u32>,
    /// A connection is closed (drained) at this age; `None` is never.
    #[serde(serialize_with = "super::json::optional_duration")]
    pub max_connection_duration: Option<Duration>,
    /// Whether the SNI of connections for requests is the request's host (`auto_sni`).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub auto_sni: bool,
    /// Whether the server's certificate must be for that host (`auto_san_validation`).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub auto_san_validation: bool,
}

/// The HTTP version of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HttpProtocolOptions {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, with this many streams a connection at most.
    Http2 {
        /// `None` is the protocol's default.
        max_concurrent_streams: Option<u32>,
        /// PINGs that tell whether the endpoint is still there.
        #[serde(skip_serializing_if = "Option::is_none")]
        keep_alive: Option<Http2KeepAlive>,
    },
    /// The version that the client spoke (`use_downstream_protocol_config`).
    Downstream {
        /// For HTTP/2.
        max_concurrent_streams: Option<u32>,
    },
}

/// PINGs on an HTTP/2 connection (`connection_keepalive`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Http2KeepAlive {
    /// Between an answer and the next PING; up to 15 % are added at random.
    #[serde(serialize_with = "super::json::duration")]
    pub interval: Duration,
    /// A connection on which nothing comes for so long after a PING is closed.
    #[serde(serialize_with = "super::json::duration")]
    pub timeout: Duration,
}

/// Limits of a cluster (`CircuitBreakers`, default priority). `u32::MAX` is no limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CircuitBreakers {
    /// Connections.
    pub max_connections: u32,
    /// Requests that wait for a connection.
    pub max_pending_requests: u32,
    /// Requests in flight.
    pub max_requests: u32,
    /// Retries in flight; has no effect with a budget.
    pub max_retries: u32,
    /// Retries in flight as a share of requests.
    pub retry_budget: Option<RetryBudget>,
    /// Failed retries of an interval as a share of its requests; with it the two limits above have no effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_quota: Option<RetryQuota>,
}

impl Default for CircuitBreakers {
    /// Istio's default: no limit.
    fn default() -> Self {
        Self {
            max_connections: u32::MAX,
            max_pending_requests: u32::MAX,
            max_requests: u32::MAX,
            max_retries: u32::MAX,
            retry_budget: None,
            retry_quota: None,
        }
    }
}

/// Retries in flight as a share of requests (`RetryBudget`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RetryBudget {
    /// In hundredths of a percent; Envoy's default is 20 % = 2,000.
    pub percent_hundredths: u32,
    /// Always allowed; Envoy's default is 3.
    pub min_concurrency: u32,
    /// The requests are those that began in the last while, each try being one; `None` is those in flight (`budget_interval`).
    #[serde(serialize_with = "super::json::optional_duration", skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
}

/// Retries that begin in an interval and fail, too, as a share of the requests that begin in it. Envoy has nothing like it: a
/// [`RetryBudget`] limits how many retries there are at once, which bounds the load on a backend that fails only where retries
/// last as long as requests, and only with a minimum so small that few requests that fail together are not all tried again. It
/// travels in the cluster's metadata, where Envoy does not look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RetryQuota {
    /// In hundredths of a percent of the requests; a request counts once, however often it is tried.
    pub percent_hundredths: u32,
    /// Always allowed in an interval.
    pub min_retries: u32,
    /// For how long requests and retries count.
    #[serde(serialize_with = "super::json::duration")]
    pub interval: Duration,
}

/// When a host is ejected (`OutlierDetection`). Zero in a `consecutive_` field is off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutlierDetection {
    /// 5xx (or local failures) in a row.
    pub consecutive_5xx: u32,
    /// 502, 503 or 504 in a row.
    pub consecutive_gateway_failure: u32,
    /// Local failures in a row; only with `split_local_origin`.
    pub consecutive_local_origin_failure: u32,
    /// Whether local failures (connect, reset, timeout) are counted apart from what the host answers.
    pub split_local_origin: bool,
    /// Between two sweeps, at which hosts come back.
    #[serde(serialize_with = "super::json::duration")]
    pub interval: Duration,
    /// Multiplied by the number of ejections in a row.
    #[serde(serialize_with = "super::json::duration")]
    pub base_ejection_time: Duration,
    /// The longest ejection; Envoy's default is 300 s, or the base if that is longer.
    #[serde(serialize_with = "super::json::duration")]
    pub max_ejection_time: Duration,
    /// At most this share of the hosts is ejected (percent; one host always may be).
    pub max_ejection_percent: u8,
    /// Statuses that are failures, instead of 5xx; empty is 5xx. One below 500 counts as 500; 502, 503 and 504 of them are gateway
    /// failures (`HttpProtocolOptions.outlier_detection.error_matcher`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub error_statuses: Vec<u16>,
}

/// Localities are chosen by weight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WeightedLocality {
    /// The locality of the proxy, for statistics.
    pub local: Locality,
}

/// TCP keep-alive of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TcpKeepalive {
    /// Probes without an answer before the connection is dropped.
    pub probes: Option<u32>,
    /// Idle time before the first probe.
    #[serde(serialize_with = "super::json::optional_duration")]
    pub time: Option<Duration>,
    /// Between probes.
    #[serde(serialize_with = "super::json::optional_duration")]
    pub interval: Option<Duration>,
}

/// What telemetry and people know of a cluster (metadata `istio`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClusterMetadata {
    /// `services[]`: the services behind the cluster.
    pub services: Vec<ServiceRef>,
    /// `subset`.
    pub subset: Option<String>,
    /// `default_original_port`.
    pub original_port: Option<u16>,
    /// `config`: the DestinationRule's path.
    pub config_source: Option<String>,
    /// `alpn_override: "false"` is `false`: the ALPN filter must not touch it.
    pub alpn_override: Option<bool>,
    /// Whether the service is outside of the mesh (`external`).
    pub external: bool,
}

/// A service as telemetry names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceRef {
    /// The full host name.
    pub host: String,
    /// The short name.
    pub name: String,
    /// The namespace.
    pub namespace: String,
}
