//! Messages of Istio's own Envoy extensions, which Envoy's API does not have.
//!
//! Field numbers are from `source/extensions/filters/http/peer_metadata/config.proto` and
//! `source/extensions/filters/http/istio_stats/config.proto` of istio/proxy, from
//! `envoy/config/filter/http/alpn/v2alpha1/config.proto` and `envoy/tcp/metadataexchange/config/metadata_exchange.proto` of
//! the same project's API, and from `nds.proto` of istio/istio.

use prost::Name;

/// Name of both metadata exchange filters, HTTP and TCP.
pub(crate) const METADATA_EXCHANGE: &str = "istio.metadata_exchange";
/// Name of the HTTP and TCP metrics filters.
pub(crate) const STATS: &str = "istio.stats";
/// Name of the ALPN filter.
pub(crate) const ALPN: &str = "istio.alpn";
/// The ALPN protocol with which peers agree on TCP metadata exchange.
pub(crate) const PEER_EXCHANGE: &str = "istio-peer-exchange";

/// What the ALPN filter offers upstream, by the version of the request (the enum's name; its number is the index).
pub(crate) const ALPN_OVERRIDES: [(&str, [&str; 3]); 3] = [
    ("HTTP10", ["istio-http/1.0", "istio", "http/1.0"]),
    ("HTTP11", ["istio-http/1.1", "istio", "http/1.1"]),
    ("HTTP2", ["istio-h2", "istio", "h2"]),
];

macro_rules! named {
    ($ty:ty, $package:literal, $name:literal) => {
        impl Name for $ty {
            const NAME: &'static str = $name;
            const PACKAGE: &'static str = $package;

            fn full_name() -> String {
                concat!($package, ".", $name).to_owned()
            }

            fn type_url() -> String {
                concat!("type.googleapis.com/", $package, ".", $name).to_owned()
            }
        }
    };
}
pub(crate) use named;

/// `io.istio.http.peer_metadata.Config`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PeerMetadataConfig {
    #[prost(message, repeated, tag = "1")]
    pub(crate) downstream_discovery: Vec<DiscoveryMethod>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) upstream_discovery: Vec<DiscoveryMethod>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) downstream_propagation: Vec<PropagationMethod>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) upstream_propagation: Vec<PropagationMethod>,
    #[prost(bool, tag = "5")]
    pub(crate) shared_with_upstream: bool,
    #[prost(string, repeated, tag = "6")]
    pub(crate) additional_labels: Vec<String>,
}
named!(PeerMetadataConfig, "io.istio.http.peer_metadata", "Config");

/// `io.istio.http.peer_metadata.Config.DiscoveryMethod`; a oneof of empty messages but for the headers.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct DiscoveryMethod {
    #[prost(message, optional, tag = "1")]
    pub(crate) baggage: Option<Empty>,
    #[prost(message, optional, tag = "2")]
    pub(crate) workload_discovery: Option<Empty>,
    #[prost(message, optional, tag = "3")]
    pub(crate) istio_headers: Option<IstioHeaders>,
}

/// `io.istio.http.peer_metadata.Config.PropagationMethod`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PropagationMethod {
    #[prost(message, optional, tag = "1")]
    pub(crate) istio_headers: Option<IstioHeaders>,
}

/// `io.istio.http.peer_metadata.Config.IstioHeaders`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct IstioHeaders {
    #[prost(bool, tag = "1")]
    pub(crate) skip_external_clusters: bool,
}

/// A message without fields.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Empty {}

/// `stats.PluginConfig`. Fields 8 and 9 hold messages that are only looked at for being there.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StatsConfig {
    #[prost(bool, tag = "6")]
    pub(crate) disable_host_header_fallback: bool,
    #[prost(message, optional, tag = "7")]
    pub(crate) tcp_reporting_duration: Option<Empty>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    pub(crate) metrics: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "9")]
    pub(crate) definitions: Vec<Vec<u8>>,
    #[prost(int32, tag = "10")]
    pub(crate) reporter: i32,
}
named!(StatsConfig, "stats", "PluginConfig");

/// `istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct AlpnConfig {
    #[prost(message, repeated, tag = "1")]
    pub(crate) alpn_override: Vec<AlpnOverride>,
}
named!(AlpnConfig, "istio.envoy.config.filter.http.alpn.v2alpha1", "FilterConfig");

/// `FilterConfig.AlpnOverride`; the protocol is HTTP10 0, HTTP11 1, HTTP2 2.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct AlpnOverride {
    #[prost(int32, tag = "1")]
    pub(crate) upstream_protocol: i32,
    #[prost(string, repeated, tag = "2")]
    pub(crate) alpn_override: Vec<String>,
}

/// `envoy.tcp.metadataexchange.config.MetadataExchange`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TcpMetadataExchange {
    #[prost(string, tag = "1")]
    pub(crate) protocol: String,
    #[prost(bool, tag = "2")]
    pub(crate) enable_discovery: bool,
}
named!(TcpMetadataExchange, "envoy.tcp.metadataexchange.config", "MetadataExchange");
