//! Clusters.

use super::common::{ads, boolean, duration, socket_address, uint32};
use super::proxy_protocol::wrap;
use super::{EncodeOptions, ProxyFlavor, endpoint, error_matcher, hash, retry_quota, slow_start, tls};
use crate::any::{OrderedKind, OrderedList, OrderedMetadata, OrderedStruct, OrderedValue, any};
use crate::istio::{METADATA_EXCHANGE, PEER_EXCHANGE, TcpMetadataExchange};
use crate::pb::{cluster, core, extensions::upstreams::http::v3 as upstream, google, typ};
use bytes::{BufMut, Bytes, BytesMut};
use lateen_model::dataplane as m;
use prost::Message;
use prost::encoding::message;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub(crate) const HTTP_PROTOCOL_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// Field numbers of `Cluster` whose messages are written with their maps in order.
const LOAD_ASSIGNMENT: u32 = 33;
const METADATA: u32 = 25;

pub(super) fn cluster(value: &m::Cluster, options: EncodeOptions) -> Bytes {
    let mut buffer = BytesMut::new();
    put(&mut buffer, &base(value, options));
    match &value.discovery {
        m::Discovery::Static(assignment) => message::encode(LOAD_ASSIGNMENT, &endpoint::assignment(assignment), &mut buffer),
        m::Discovery::Dns(dns) => message::encode(LOAD_ASSIGNMENT, &endpoint::names(&value.name, dns), &mut buffer),
        m::Discovery::Eds { .. } | m::Discovery::OriginalDst { .. } => {}
    }
    if let Some(metadata) = metadata(value) {
        message::encode(METADATA, &metadata, &mut buffer);
    }
    buffer.freeze()
}

/// A buffer that grows takes every message.
fn put(buffer: &mut BytesMut, message: &impl Message) {
    buffer.put_slice(&message.encode_to_vec());
}

fn base(value: &m::Cluster, options: EncodeOptions) -> cluster::Cluster {
    use cluster::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbConfig, LbPolicy, OriginalDstLbConfig};
    let discovery_type = match value.discovery {
        m::Discovery::Eds { .. } => DiscoveryType::Eds,
        m::Discovery::Static(_) => DiscoveryType::Static,
        m::Discovery::OriginalDst { .. } => DiscoveryType::OriginalDst,
        m::Discovery::Dns(ref dns) => match dns.kind {
            m::DnsKind::Strict => DiscoveryType::StrictDns,
            m::DnsKind::Logical => DiscoveryType::LogicalDns,
        },
    };
    let mut cluster = cluster::Cluster {
        name: value.name.clone(),
        alt_stat_name: value.stat_name.clone(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(discovery_type.into())),
        connect_timeout: Some(duration(value.connect_timeout)),
        lb_policy: match value.lb_policy {
            m::LbPolicy::RoundRobin => LbPolicy::RoundRobin,
            m::LbPolicy::LeastRequest => LbPolicy::LeastRequest,
            m::LbPolicy::Random => LbPolicy::Random,
            m::LbPolicy::RingHash(_) => LbPolicy::RingHash,
            m::LbPolicy::Maglev(_) => LbPolicy::Maglev,
            m::LbPolicy::ClusterProvided => LbPolicy::ClusterProvided,
        }
        .into(),
        typed_extension_protocol_options: HashMap::from([(HTTP_PROTOCOL_OPTIONS.to_owned(), any(&http(value)))]),
        circuit_breakers: Some(circuit_breakers(&value.circuit_breakers)),
        outlier_detection: value.outlier_detection.as_ref().map(outlier_detection),
        common_lb_config: common_lb(value),
        upstream_connection_options: value.tcp_keepalive.as_ref().map(|keepalive| cluster::UpstreamConnectionOptions {
            tcp_keepalive: Some(tcp_keepalive(keepalive)),
            ..Default::default()
        }),
        upstream_bind_config: value.bind_sources.split_first().map(|(source, further)| core::BindConfig {
            source_address: Some(socket_address(SocketAddr::new(*source, 0))),
            extra_source_addresses: further.iter().map(extra_source).collect(),
            ..Default::default()
        }),
        ..Default::default()
    };
    match &value.discovery {
        m::Discovery::Eds { service_name } => {
            cluster.eds_cluster_config = Some(EdsClusterConfig { eds_config: Some(ads()), service_name: service_name.clone() });
        }
        m::Discovery::OriginalDst { port_override: Some(port) } => {
            cluster.lb_config = Some(LbConfig::OriginalDstLbConfig(OriginalDstLbConfig {
                upstream_port_override: uint32((*port).into()),
                ..Default::default()
            }));
        }
        m::Discovery::Dns(dns) => self::dns(&mut cluster, dns),
        m::Discovery::OriginalDst { port_override: None } | m::Discovery::Static(_) => {}
    }
    if let Some(config) = hash::table(value.lb_policy).or_else(|| slow_start::config(value)) {
        cluster.lb_config = Some(config);
    }
    transport(&mut cluster, value, options);
    if value.tcp_metadata_exchange && options.flavor != ProxyFlavor::StockEnvoy {
        cluster.filters.push(cluster::Filter {
            name: METADATA_EXCHANGE.to_owned(),
            typed_config: Some(any(&TcpMetadataExchange { protocol: PEER_EXCHANGE.to_owned(), enable_discovery: false })),
            config_discovery: None,
        });
    }
    cluster
}

/// How names are resolved. Envoy has a newer form of the same settings; this is the one that Istio sends.
#[expect(deprecated, reason = "Istio's proxies, also older ones, read these")]
fn dns(cluster: &mut cluster::Cluster, value: &m::DnsDiscovery) {
    use cluster::cluster::{DnsLookupFamily, RefreshRate};
    cluster.dns_refresh_rate = Some(duration(value.refresh));
    cluster.respect_dns_ttl = value.respect_ttl;
    cluster.dns_jitter = (!value.jitter.is_zero()).then(|| duration(value.jitter));
    cluster.dns_failure_refresh_rate = value
        .failure
        .map(|failure| RefreshRate { base_interval: Some(duration(failure.base)), max_interval: Some(duration(failure.max)) });
    cluster.dns_lookup_family = match value.family {
        m::DnsFamily::Auto => DnsLookupFamily::Auto,
        m::DnsFamily::V4Only => DnsLookupFamily::V4Only,
        m::DnsFamily::V6Only => DnsLookupFamily::V6Only,
        m::DnsFamily::V4Preferred => DnsLookupFamily::V4Preferred,
        m::DnsFamily::All => DnsLookupFamily::All,
    }
    .into();
}

fn transport(cluster: &mut cluster::Cluster, value: &m::Cluster, options: EncodeOptions) {
    let version = value.proxy_protocol;
    match &value.transport {
        m::TransportSocket::Plaintext => cluster.transport_socket = version.map(|_| wrap(version, tls::plaintext())),
        m::TransportSocket::Tls(context) => cluster.transport_socket = Some(wrap(version, tls::upstream(context, options))),
        m::TransportSocket::ByEndpoint(matches) => {
            cluster.transport_socket_matches = matches.iter().map(|m| socket_match(m, version, options)).collect();
        }
    }
}

fn socket_match(
    value: &m::TransportSocketMatch,
    version: Option<m::ProxyProtocolVersion>,
    options: EncodeOptions,
) -> cluster::cluster::TransportSocketMatch {
    let mode = value.tls_mode.map(|mode| match mode {
        m::TlsMode::Istio => "istio",
        m::TlsMode::Disabled => "disabled",
    });
    let text = |text: &str| google::Value { kind: Some(google::value::Kind::StringValue(text.to_owned())) };
    let fields = mode.map(|mode| ("tlsMode".to_owned(), text(mode))).into_iter().collect();
    cluster::cluster::TransportSocketMatch {
        name: value.name.clone(),
        r#match: Some(google::Struct { fields }),
        transport_socket: Some(wrap(
            version,
            value.tls.as_deref().map_or_else(tls::plaintext, |context| tls::upstream(context, options)),
        )),
    }
}

fn http(cluster: &m::Cluster) -> upstream::HttpProtocolOptions {
    use upstream::http_protocol_options::{
        ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig, explicit_http_config::ProtocolConfig,
    };
    let value = &cluster.http;
    let http2 = |streams: Option<u32>, keep_alive: Option<m::Http2KeepAlive>| core::Http2ProtocolOptions {
        max_concurrent_streams: streams.and_then(uint32),
        connection_keepalive: keep_alive.map(|keep_alive| core::KeepaliveSettings {
            interval: Some(duration(keep_alive.interval)),
            timeout: Some(duration(keep_alive.timeout)),
            ..Default::default()
        }),
        ..Default::default()
    };
    let explicit = |config| UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config: Some(config) });
    let protocol = match &value.protocol {
        m::HttpProtocolOptions::Http1 => explicit(ProtocolConfig::HttpProtocolOptions(core::Http1ProtocolOptions::default())),
        m::HttpProtocolOptions::Http2 { max_concurrent_streams, keep_alive } => {
            explicit(ProtocolConfig::Http2ProtocolOptions(http2(*max_concurrent_streams, *keep_alive)))
        }
        m::HttpProtocolOptions::Downstream { max_concurrent_streams } => {
            UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
                http_protocol_options: Some(core::Http1ProtocolOptions::default()),
                http2_protocol_options: Some(http2(*max_concurrent_streams, None)),
                http3_protocol_options: None,
            })
        }
    };
    let common = core::HttpProtocolOptions {
        idle_timeout: value.idle_timeout.map(duration),
        max_requests_per_connection: value.max_requests_per_connection.and_then(uint32),
        max_connection_duration: value.max_connection_duration.map(duration),
        ..Default::default()
    };
    let by_request = core::UpstreamHttpProtocolOptions {
        auto_sni: value.auto_sni,
        auto_san_validation: value.auto_san_validation,
        ..Default::default()
    };
    upstream::HttpProtocolOptions {
        upstream_http_protocol_options: (value.auto_sni || value.auto_san_validation).then_some(by_request),
        common_http_protocol_options: (common != core::HttpProtocolOptions::default()).then_some(common),
        upstream_protocol_options: Some(protocol),
        outlier_detection: cluster.outlier_detection.as_ref().and_then(|outlier| error_matcher::of(&outlier.error_statuses)),
        ..Default::default()
    }
}

fn circuit_breakers(value: &m::CircuitBreakers) -> cluster::CircuitBreakers {
    use cluster::circuit_breakers::{Thresholds, thresholds::RetryBudget};
    let thresholds = Thresholds {
        max_connections: uint32(value.max_connections),
        max_pending_requests: uint32(value.max_pending_requests),
        max_requests: uint32(value.max_requests),
        max_retries: uint32(value.max_retries),
        retry_budget: value.retry_budget.map(|budget| RetryBudget {
            budget_percent: Some(typ::Percent { value: f64::from(budget.percent_hundredths) / 100.0 }),
            min_retry_concurrency: uint32(budget.min_concurrency),
            budget_interval: budget.interval.map(duration),
        }),
        track_remaining: true,
        ..Default::default()
    };
    cluster::CircuitBreakers { thresholds: vec![thresholds], per_host_thresholds: Vec::new() }
}

/// A detector of the model is on or off, which Envoy expresses by the share of detections that are enforced.
fn outlier_detection(value: &m::OutlierDetection) -> cluster::OutlierDetection {
    let enforced = |threshold: u32| uint32(if threshold > 0 { 100 } else { 0 });
    let mut detection = cluster::OutlierDetection {
        consecutive_5xx: uint32(value.consecutive_5xx),
        enforcing_consecutive_5xx: enforced(value.consecutive_5xx),
        consecutive_gateway_failure: uint32(value.consecutive_gateway_failure),
        enforcing_consecutive_gateway_failure: enforced(value.consecutive_gateway_failure),
        enforcing_success_rate: uint32(0),
        split_external_local_origin_errors: value.split_local_origin,
        interval: Some(duration(value.interval)),
        base_ejection_time: Some(duration(value.base_ejection_time)),
        max_ejection_time: Some(duration(value.max_ejection_time)),
        max_ejection_percent: uint32(value.max_ejection_percent.into()),
        always_eject_one_host: boolean(true),
        ..Default::default()
    };
    detection.consecutive_local_origin_failure = uint32(value.consecutive_local_origin_failure);
    detection.enforcing_consecutive_local_origin_failure = enforced(value.consecutive_local_origin_failure);
    detection.enforcing_local_origin_success_rate = uint32(0);
    detection
}

fn common_lb(value: &m::Cluster) -> Option<cluster::cluster::CommonLbConfig> {
    use cluster::cluster::common_lb_config::{LocalityConfigSpecifier, LocalityWeightedLbConfig, ZoneAwareLbConfig};
    let zone_aware = |zone_aware: m::ZoneAware| {
        LocalityConfigSpecifier::ZoneAwareLbConfig(ZoneAwareLbConfig {
            routing_enabled: Some(typ::Percent { value: zone_aware.routing_percent.into() }),
            min_cluster_size: Some(google::UInt64Value { value: zone_aware.min_cluster_size }),
            fail_traffic_on_panic: false,
        })
    };
    let config = cluster::cluster::CommonLbConfig {
        healthy_panic_threshold: value.healthy_panic_threshold.map(|percent| typ::Percent { value: percent.into() }),
        locality_config_specifier: value
            .weighted_localities
            .as_ref()
            .map(|_| LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig {}))
            .or_else(|| value.zone_aware.map(zone_aware)),
        ..Default::default()
    };
    (config != cluster::cluster::CommonLbConfig::default()).then_some(config)
}

/// Sockets count in whole seconds; a fraction is rounded up.
fn tcp_keepalive(value: &m::TcpKeepalive) -> core::TcpKeepalive {
    let seconds = |time: Duration| {
        let whole = time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0));
        google::UInt32Value { value: u32::try_from(whole).unwrap_or(u32::MAX) }
    };
    core::TcpKeepalive {
        keepalive_probes: value.probes.and_then(uint32),
        keepalive_time: value.time.map(seconds),
        keepalive_interval: value.interval.map(seconds),
    }
}

fn metadata(cluster: &m::Cluster) -> Option<OrderedMetadata> {
    let mut metadata = OrderedMetadata::default();
    let istio = istio_metadata(&cluster.metadata);
    if !istio.fields.is_empty() {
        metadata.set("istio", istio);
    }
    if let Some(quota) = &cluster.circuit_breakers.retry_quota {
        let mut lateen = OrderedStruct::default();
        lateen.set("retry_quota", OrderedKind::Struct(retry_quota::written(quota)));
        metadata.set(retry_quota::NAMESPACE, lateen);
    }
    (!metadata.filter_metadata.is_empty()).then_some(metadata)
}

fn istio_metadata(value: &m::ClusterMetadata) -> OrderedStruct {
    let mut istio = OrderedStruct::default();
    if let Some(alpn_override) = value.alpn_override {
        istio.set_str("alpn_override", if alpn_override { "true" } else { "false" });
    }
    if let Some(config) = &value.config_source {
        istio.set_str("config", config);
    }
    if let Some(port) = value.original_port {
        istio.set("default_original_port", OrderedKind::Number(port.into()));
    }
    if value.external {
        istio.set("external", OrderedKind::Bool(true));
    }
    if !value.services.is_empty() {
        istio.set("services", OrderedKind::List(OrderedList { values: value.services.iter().map(service).collect() }));
    }
    if let Some(subset) = &value.subset {
        istio.set_str("subset", subset);
    }
    istio
}

fn service(value: &m::ServiceRef) -> OrderedValue {
    let mut service = OrderedStruct::default();
    service.set_str("host", &value.host);
    service.set_str("name", &value.name);
    service.set_str("namespace", &value.namespace);
    OrderedValue { kind: Some(OrderedKind::Struct(service)) }
}

fn extra_source(ip: &IpAddr) -> core::ExtraSourceAddress {
    core::ExtraSourceAddress { address: Some(socket_address(SocketAddr::new(*ip, 0))), ..Default::default() }
}
