//! Listeners and filter chains (LDS, `envoy.config.listener.v3`).

use super::rate_limit::RateLimits;
use super::rbac::Rbac;
use super::route::RouteConfiguration;
use super::tls::DownstreamTls;
use super::tunnel::HttpTunnel;
use ipnet::IpNet;
use serde::Serialize;
use std::net::SocketAddr;
use std::time::Duration;

/// Which way traffic goes (`traffic_direction`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the outside to the application.
    Inbound,
    /// From the application to the outside.
    Outbound,
    /// A gateway, or the proxy's own ports.
    Unspecified,
}

/// A listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listener {
    /// e.g. `virtualInbound`, `0.0.0.0_80`.
    pub name: String,
    /// What it is looked up by, or bound to.
    pub address: SocketAddr,
    /// More addresses with the same chains (`additional_addresses`; the second family of a dual-stack proxy).
    pub additional_addresses: Vec<SocketAddr>,
    /// Whether a socket is opened; else connections are handed over by [`Self::use_original_dst`] of another listener.
    pub bind_to_port: bool,
    /// Whether connections are handed to the listener of their original destination.
    pub use_original_dst: bool,
    /// Which way.
    pub direction: Direction,
    /// What looks at a connection first.
    pub listener_filters: ListenerFilters,
    /// Chains, chosen by the most specific match.
    pub filter_chains: Vec<FilterChain>,
    /// Used when none matches; `None` closes the connection (response flag NR).
    pub default_filter_chain: Option<FilterChain>,
    /// For connections that match no chain.
    pub access_log: Vec<AccessLog>,
}

/// What looks at a connection before a chain is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ListenerFilters {
    /// The original destination is restored (`original_dst`).
    pub original_dst: bool,
    /// The ClientHello is read for SNI and ALPN (`tls_inspector`).
    pub tls_inspector: bool,
    /// The first bytes are examined for HTTP (`http_inspector`).
    pub http_inspector: Option<HttpInspector>,
    /// How long inspection may last; `None` waits as long as it takes (`listener_filters_timeout` 0s).
    #[serde(serialize_with = "super::json::optional_duration")]
    pub timeout: Option<Duration>,
    /// Whether a timeout goes on with what is known (`continue_on_listener_filters_timeout`).
    pub continue_on_timeout: bool,
}

/// Where the HTTP inspector runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HttpInspector {
    /// Destination ports on which it must not run (`filter_disabled`), because their protocol is declared.
    pub disabled_ports: Vec<u16>,
}

/// A chain of filters and the connections that it serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FilterChain {
    /// e.g. `0.0.0.0_8080`; unique in a listener when not empty.
    pub name: String,
    /// Which connections.
    pub matches: FilterChainMatch,
    /// TLS; `None` is plaintext.
    pub tls: Option<Box<DownstreamTls>>,
    /// Filters that run when the connection opens, in order.
    pub network_filters: Vec<NetworkFilter>,
    /// Who handles the bytes.
    pub terminal: Terminal,
}

/// What the connection carries at its outside (`transport_protocol`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TransportProtocol {
    /// `raw_buffer`.
    RawBuffer,
    /// `tls`.
    Tls,
}

/// Which connections a chain serves (`FilterChainMatch`). Empty parts match everything; Envoy's order of precedence is
/// destination port, destination IP, server name, transport protocol, application protocols, direct source, source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FilterChainMatch {
    /// The original destination's port.
    pub destination_port: Option<u16>,
    /// The original destination's address, any of them.
    pub destination_prefixes: Vec<IpNet>,
    /// SNI: exact, or `*.suffix`.
    pub server_names: Vec<String>,
    /// TLS or not.
    pub transport_protocol: Option<TransportProtocol>,
    /// ALPN of TLS, or what the HTTP inspector found (`http/1.0`, `http/1.1`, `h2c`).
    pub application_protocols: Vec<String>,
    /// The peer's address, any of them (`source_prefix_ranges`).
    pub source_prefixes: Vec<IpNet>,
}

/// Filters on connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkFilter {
    /// Authorization.
    Rbac(Rbac),
    /// Istio's TCP metadata exchange, used when ALPN `istio-peer-exchange` was agreed.
    MetadataExchange,
    /// Istio's TCP metrics.
    Stats(StatsFilter),
}

/// Who handles the bytes of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Terminal {
    /// HTTP.
    Http(Box<HttpConnectionManager>),
    /// Bytes.
    Tcp(TcpProxy),
}

/// Passes bytes on (`TcpProxy`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TcpProxy {
    /// Prefix of statistics; often the cluster's name.
    pub stat_prefix: String,
    /// Where to.
    pub destination: TcpDestination,
    /// Closed after this long without a byte; `None` is Envoy's one hour; zero is never.
    #[serde(serialize_with = "super::json::optional_duration")]
    pub idle_timeout: Option<Duration>,
    /// Whether a consistent choice of endpoints goes by the client's address (`hash_policy.source_ip`).
    pub hash_source_ip: bool,
    /// The HTTP tunnel in which the bytes go through the destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<HttpTunnel>,
    /// A log line per connection.
    pub access_log: Vec<AccessLog>,
}

/// The cluster of a TCP proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TcpDestination {
    /// One.
    Cluster(String),
    /// By weight: name and weight; the sum is not zero.
    Weighted(Vec<(String, u32)>),
}

/// Which HTTP versions are spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Codec {
    /// By ALPN, or by the first bytes.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Handles HTTP (`HttpConnectionManager`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HttpConnectionManager {
    /// Prefix of statistics.
    pub stat_prefix: String,
    /// HTTP versions.
    pub codec: Codec,
    /// Where routes come from.
    pub routes: RouteSource,
    /// In order; the router is always last and is not listed.
    pub http_filters: Vec<HttpFilter>,
    /// The `server` header of answers; `istio-envoy`. `None` leaves the upstream's (`PASS_THROUGH`).
    pub server_name: Option<String>,
    /// Whether the peer is the client itself, so that `x-forwarded-*` from it is not trusted (gateways).
    pub use_remote_address: bool,
    /// Trusted proxies in front (`xff_num_trusted_hops`).
    pub xff_num_trusted_hops: u32,
    /// What happens to `x-forwarded-client-cert`.
    pub forward_client_cert: ForwardClientCert,
    /// Whether an `x-request-id` is made when absent.
    pub generate_request_id: bool,
    /// Whether an `x-request-id` from outside is kept (matters with `use_remote_address`).
    pub preserve_external_request_id: bool,
    /// How paths are made normal before anything looks at them.
    pub path_normalization: PathNormalization,
    /// Upgrades that pass, e.g. `websocket`.
    pub upgrades: Vec<String>,
    /// Whether HTTP/1.0 is served.
    pub accept_http_10: bool,
    /// No activity for this long ends a stream; zero (Istio's setting) is never; `None` is Envoy's 5 minutes.
    #[serde(serialize_with = "super::json::optional_duration")]
    pub stream_idle_timeout: Option<Duration>,
    /// How long the head of a request may take; `None` is unlimited (`request_headers_timeout`).
    #[serde(serialize_with = "super::json::optional_duration")]
    pub request_headers_timeout: Option<Duration>,
    /// The largest head, in KiB; Envoy's default is 60.
    pub max_request_headers_kib: u32,
    /// An idle connection is closed after this; `None` is Envoy's one hour; zero is never.
    #[serde(serialize_with = "super::json::optional_duration")]
    pub idle_timeout: Option<Duration>,
    /// Tracing.
    pub tracing: Option<Tracing>,
    /// A line per request.
    pub access_log: Vec<AccessLog>,
}

/// Where routes come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteSource {
    /// RDS, under this name.
    Rds(String),
    /// Written in the listener.
    Inline(Box<RouteConfiguration>),
}

/// What happens to `x-forwarded-client-cert` (`forward_client_cert_details`, with subject, DNS and URI set).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ForwardClientCert {
    /// Removed.
    #[default]
    Sanitize,
    /// The verified peer's is appended on mTLS, else removed (Istio inbound).
    AppendForward,
    /// Replaced by the verified peer's (gateways).
    SanitizeSet,
    /// Passed on as it is.
    ForwardOnly,
}

/// How paths are made normal (`MeshConfig.pathNormalization`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathNormalization {
    /// As they are.
    None,
    /// RFC 3986 section 6: dot segments are removed and `\` is `/`; escapes stay as they are, as in Envoy (Istio's default).
    #[default]
    Base,
    /// Also `//` becomes `/`.
    MergeSlashes,
    /// Also `%2F`, `%5C` are decoded.
    DecodeAndMergeSlashes,
}

/// HTTP filters, in the order in which the control plane puts them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HttpFilter {
    /// Istio's metadata exchange by headers (`istio.metadata_exchange`).
    PeerMetadata(PeerMetadata),
    /// Authorization.
    Rbac(Rbac),
    /// Limits on requests.
    RateLimit(RateLimits),
    /// Counts gRPC messages and trailers' status (`grpc_stats`).
    GrpcStats,
    /// Chooses the ALPN of upstream connections by the request's version (`istio.alpn`).
    Alpn,
    /// Faults, as routes say (`fault`).
    Fault,
    /// Cross-origin rules, as routes say (`cors`).
    Cors,
    /// Istio's metrics (`istio.stats`).
    Stats(StatsFilter),
}

/// The HTTP metadata exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PeerMetadata {
    /// Outbound: own metadata goes to the upstream, the peer's comes from the response; inbound: the reverse.
    pub direction: Direction,
    /// Outbound: nothing is sent to services outside of the mesh.
    pub skip_external_clusters: bool,
}

/// Istio's metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct StatsFilter {
    /// Which side reports: outbound is `source`, inbound is `destination`.
    pub direction: Direction,
    /// Whether the host header may stand in for an unknown service (`disable_host_header_fallback` is its opposite).
    pub host_header_fallback: bool,
}

/// Tracing of requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tracing {
    /// Where spans go; `None` continues contexts without reporting.
    pub provider: Option<TracingProvider>,
    /// Share of new traces that are sampled, in hundredths of a percent (0 to 10,000).
    pub random_sampling_hundredths: u32,
    /// The longest `http.url` tag in bytes; Envoy's default is 256.
    pub max_path_tag_length: u32,
    /// Literal tags on each span, in order.
    pub tags: Vec<(String, String)>,
}

/// An OTLP/gRPC receiver (`envoy.config.trace.v3.OpenTelemetryConfig`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TracingProvider {
    /// The cluster of the receiver.
    pub cluster: String,
    /// The `:authority` of the call.
    pub authority: String,
    /// `service.name` of the resource.
    pub service_name: String,
}

/// One access log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AccessLog {
    /// Where lines go.
    pub target: AccessLogTarget,
    /// How a line looks.
    pub format: AccessLogFormat,
    /// Only lines with this response flag (a listener's log has `NR`); `None` is every line.
    pub only_flag: Option<String>,
}

/// Where log lines go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessLogTarget {
    /// A file; `/dev/stdout` is standard output.
    File(String),
}

/// How a log line looks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessLogFormat {
    /// Text with Envoy's `%OPERATORS%`.
    Text(String),
    /// A JSON object: key and format of each field, in order.
    Json(Vec<(String, String)>),
}
