//! The configuration of a data plane: listeners, routes, clusters, endpoints and secrets.
//!
//! This is the part of Envoy's API that Istio uses, as plain data whose illegal states do not exist. The control plane
//! generates it, `wire` translates it to and from Envoy's protobuf, the proxy compiles it. A message of Envoy that does not
//! fit in here is refused by `wire` with the path of the field.

mod cluster;
mod endpoint;
mod hash_policy;
mod header_value;
mod json;
mod listener;
mod matcher;
mod rate_limit;
mod rbac;
mod route;
mod route_filters;
mod secret;
mod slow_start;
mod tls;
mod tunnel;
mod zone_aware;

pub use cluster::{
    CircuitBreakers, Cluster, ClusterMetadata, Discovery, DnsBackoff, DnsDiscovery, DnsEndpoint, DnsFamily, DnsKind, DnsLocality,
    Http2KeepAlive, HttpProtocolOptions, LbPolicy, OutlierDetection, RetryBudget, RetryQuota, ServiceRef, TcpKeepalive,
    TransportSocket, TransportSocketMatch, UpstreamHttp, WeightedLocality,
};
pub use endpoint::{ClusterLoadAssignment, Endpoint, EndpointHealth, Locality, LocalityEndpoints, TlsMode, WorkloadRef};
pub use hash_policy::{HashCookie, HashKey, HashPolicy, MaglevTableSize, RingSize, TableSizeError};
pub use header_value::{HeaderValuePart, SubstitutionPart};
pub use listener::{
    AccessLog, AccessLogFormat, AccessLogTarget, Codec, Direction, FilterChain, FilterChainMatch, ForwardClientCert,
    HttpConnectionManager, HttpFilter, HttpInspector, Listener, ListenerFilters, NetworkFilter, PathNormalization, PeerMetadata,
    RouteSource, StatsFilter, TcpDestination, TcpProxy, Terminal, Tracing, TracingProvider, TransportProtocol,
};
pub use matcher::{
    HeaderMatch, HeaderPredicate, QueryMatch, QueryPredicate, RegexError, SafeRegex, StringMatch, StringPredicate,
};
pub use rate_limit::{RateLimitClient, RateLimitRule, RateLimits, TokenBucket};
pub use rbac::{Permission, Principal, Rbac, RbacAction, RbacPolicy};
pub use route::{
    ClusterSpecifier, DirectResponse, Forward, HeaderAppend, HeaderMutation, HeaderValueOp, HostRewrite, PathMatch, PathRewrite,
    Redirect, RedirectPath, RetryBackOff, RetryOn, RetryPolicy, Route, RouteAction, RouteConfiguration, RouteFilters, RouteMatch,
    VirtualHost, WeightedCluster,
};
pub use route_filters::{Cors, Fault, FaultAbort, FaultDelay, FaultError, Mirror, Share};
pub use secret::{Secret, SecretKind};
pub use slow_start::{SlowStart, SlowStartError};
pub use tls::{DownstreamTls, SecretRef, SecretSource, TlsParams, TlsVersion, UpstreamTls};
pub use tunnel::{HttpTunnel, ProxyProtocolVersion, TunnelMethod};
pub use zone_aware::{LOCAL_CLUSTER, ZoneAware};
