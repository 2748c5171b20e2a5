//! Listeners and their filter chains.

use super::common::{access_log, address, boolean, cidr, duration, uint32};
use super::{EncodeOptions, ProxyFlavor, hcm, rbac, tls};
use crate::any::{any, empty_any};
use crate::istio::{METADATA_EXCHANGE, PEER_EXCHANGE, STATS, StatsConfig, TcpMetadataExchange};
use crate::pb::{core, extensions::filters::network::tcp_proxy::v3 as tcp, google, listener, typ};
use lateen_model::dataplane as m;
use std::time::Duration;

pub(crate) const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";
pub(crate) const HCM: &str = "envoy.filters.network.http_connection_manager";
pub(crate) const NETWORK_RBAC: &str = "envoy.filters.network.rbac";

pub(super) fn listener(value: &m::Listener, options: EncodeOptions) -> listener::Listener {
    let filters = &value.listener_filters;
    listener::Listener {
        name: value.name.clone(),
        address: Some(address(value.address)),
        additional_addresses: value
            .additional_addresses
            .iter()
            .map(|&a| listener::AdditionalAddress { address: Some(address(a)), ..Default::default() })
            .collect(),
        bind_to_port: if value.bind_to_port { None } else { boolean(false) },
        use_original_dst: if value.use_original_dst { boolean(true) } else { None },
        traffic_direction: match value.direction {
            m::Direction::Inbound => core::TrafficDirection::Inbound,
            m::Direction::Outbound => core::TrafficDirection::Outbound,
            m::Direction::Unspecified => core::TrafficDirection::Unspecified,
        }
        .into(),
        listener_filters: listener_filters(filters),
        listener_filters_timeout: Some(duration(filters.timeout.unwrap_or(Duration::ZERO))),
        continue_on_listener_filters_timeout: filters.continue_on_timeout,
        filter_chains: value.filter_chains.iter().map(|chain| filter_chain(chain, options)).collect(),
        default_filter_chain: value.default_filter_chain.as_ref().map(|chain| filter_chain(chain, options)),
        access_log: value.access_log.iter().map(access_log).collect(),
        ..Default::default()
    }
}

fn listener_filters(value: &m::ListenerFilters) -> Vec<listener::ListenerFilter> {
    let filter = |name: &str, ty: &str| listener::ListenerFilter {
        name: format!("envoy.filters.listener.{name}"),
        filter_disabled: None,
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(empty_any(&format!(
            "envoy.extensions.filters.listener.{name}.v3.{ty}"
        )))),
    };
    let mut filters = Vec::new();
    if value.original_dst {
        filters.push(filter("original_dst", "OriginalDst"));
    }
    if value.tls_inspector {
        filters.push(filter("tls_inspector", "TlsInspector"));
    }
    if let Some(inspector) = &value.http_inspector {
        filters.push(listener::ListenerFilter {
            filter_disabled: ports_predicate(&inspector.disabled_ports),
            ..filter("http_inspector", "HttpInspector")
        });
    }
    filters
}

/// True on any of the ports.
fn ports_predicate(ports: &[u16]) -> Option<listener::ListenerFilterChainMatchPredicate> {
    use listener::listener_filter_chain_match_predicate::{MatchSet, Rule};
    let mut rules = ports.iter().map(|&port| {
        let range = typ::Int32Range { start: port.into(), end: i32::from(port) + 1 };
        listener::ListenerFilterChainMatchPredicate { rule: Some(Rule::DestinationPortRange(range)) }
    });
    if ports.len() < 2 {
        return rules.next();
    }
    Some(listener::ListenerFilterChainMatchPredicate { rule: Some(Rule::OrMatch(MatchSet { rules: rules.collect() })) })
}

fn filter_chain(value: &m::FilterChain, options: EncodeOptions) -> listener::FilterChain {
    let matches = (value.matches != m::FilterChainMatch::default()).then(|| chain_match(&value.matches));
    let mut filters: Vec<_> = value.network_filters.iter().filter_map(|f| network_filter(f, options)).collect();
    filters.push(match &value.terminal {
        m::Terminal::Http(manager) => filter(HCM, hcm::manager(manager)),
        m::Terminal::Tcp(proxy) => filter(TCP_PROXY, any(&tcp_proxy(proxy))),
    });
    listener::FilterChain {
        name: value.name.clone(),
        filter_chain_match: matches,
        transport_socket: value.tls.as_deref().map(|context| tls::downstream(context, options)),
        filters,
        ..Default::default()
    }
}

fn chain_match(value: &m::FilterChainMatch) -> listener::FilterChainMatch {
    listener::FilterChainMatch {
        destination_port: value.destination_port.and_then(|port| uint32(port.into())),
        prefix_ranges: value.destination_prefixes.iter().map(cidr).collect(),
        server_names: value.server_names.clone(),
        transport_protocol: match value.transport_protocol {
            None => String::new(),
            Some(m::TransportProtocol::RawBuffer) => "raw_buffer".to_owned(),
            Some(m::TransportProtocol::Tls) => "tls".to_owned(),
        },
        application_protocols: value.application_protocols.clone(),
        source_prefix_ranges: value.source_prefixes.iter().map(cidr).collect(),
        ..Default::default()
    }
}

fn filter(name: &str, config: google::Any) -> listener::Filter {
    listener::Filter { name: name.to_owned(), config_type: Some(listener::filter::ConfigType::TypedConfig(config)) }
}

/// Envoy refuses a network filter that it does not know, so that Istio's are left out for a stock Envoy.
fn network_filter(value: &m::NetworkFilter, options: EncodeOptions) -> Option<listener::Filter> {
    let istio = options.flavor != ProxyFlavor::StockEnvoy;
    match value {
        m::NetworkFilter::Rbac(rules) => Some(filter(NETWORK_RBAC, rbac::network(rules))),
        m::NetworkFilter::MetadataExchange => istio.then(|| {
            let config = TcpMetadataExchange { protocol: PEER_EXCHANGE.to_owned(), enable_discovery: false };
            filter(METADATA_EXCHANGE, any(&config))
        }),
        m::NetworkFilter::Stats(stats) => istio.then(|| filter(STATS, any(&stats_config(stats)))),
    }
}

/// The direction is that of the listener.
fn stats_config(value: &m::StatsFilter) -> StatsConfig {
    StatsConfig { disable_host_header_fallback: !value.host_header_fallback, ..Default::default() }
}

fn tunnel(value: &m::HttpTunnel) -> tcp::tcp_proxy::TunnelingConfig {
    tcp::tcp_proxy::TunnelingConfig {
        hostname: value.target.clone(),
        use_post: value.method == m::TunnelMethod::Post,
        ..Default::default()
    }
}

fn tcp_proxy(value: &m::TcpProxy) -> tcp::TcpProxy {
    use tcp::tcp_proxy::{ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight};
    let cluster = match &value.destination {
        m::TcpDestination::Cluster(name) => ClusterSpecifier::Cluster(name.clone()),
        m::TcpDestination::Weighted(clusters) => ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: clusters
                .iter()
                .map(|(name, weight)| ClusterWeight { name: name.clone(), weight: *weight, metadata_match: None })
                .collect(),
        }),
    };
    tcp::TcpProxy {
        stat_prefix: value.stat_prefix.clone(),
        cluster_specifier: Some(cluster),
        idle_timeout: value.idle_timeout.map(duration),
        access_log: value.access_log.iter().map(access_log).collect(),
        tunneling_config: value.tunnel.as_ref().map(tunnel),
        hash_policy: value.hash_source_ip.then(source_ip_hash).into_iter().collect(),
        ..Default::default()
    }
}

/// Connections are told apart by their client's address.
fn source_ip_hash() -> typ::HashPolicy {
    use typ::hash_policy::{PolicySpecifier, SourceIp};
    typ::HashPolicy { policy_specifier: Some(PolicySpecifier::SourceIp(SourceIp {})) }
}
