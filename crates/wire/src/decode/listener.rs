//! Listeners and their filter chains.

use super::common::{access_log, address, cidr, duration, non_zero, port, short};
use super::cx::{Cx, Result, fields, is_set};
use super::{hcm, istio, rbac, tls, typed};
use crate::istio::{StatsConfig, TcpMetadataExchange};
use crate::pb::{
    core, extensions::filters::network::http_connection_manager::v3 as hcm_pb,
    extensions::filters::network::rbac::v3 as network_rbac, extensions::filters::network::tcp_proxy::v3 as tcp, google, listener,
    typ,
};
use lateen_model::dataplane as m;
use prost::Name;
use std::time::Duration;

/// Envoy's default for the listener filters.
const INSPECTION: Duration = Duration::from_secs(15);
/// The most ports that one predicate may name.
const MAX_PORTS: usize = 65_536;

pub(super) fn listener(cx: &mut Cx, value: listener::Listener) -> Result<m::Listener> {
    fields!(cx, value => listener::Listener {
        use: [
            name, address, additional_addresses, filter_chains, use_original_dst, default_filter_chain, listener_filters,
            listener_filters_timeout, continue_on_listener_filters_timeout, traffic_direction, access_log, bind_to_port,
        ],
        refuse: [
            fcds_config, filter_chain_matcher, deprecated_v1, transparent, freebind, socket_options, udp_listener_config,
            api_listener, listener_specifier,
        ],
        ignore: [
            stat_prefix, stats_matcher, per_connection_buffer_limit_bytes, per_connection_buffer_high_watermark_timeout, metadata,
            drain_type, tcp_fast_open_queue_length, connection_balance_config, reuse_port, enable_reuse_port, tcp_backlog_size,
            max_connections_to_accept_per_socket_event, enable_mptcp, ignore_global_conn_limit, bypass_overload_manager,
            tcp_keepalive,
        ],
    });
    if name.is_empty() {
        return cx.fail_at("name", "is required");
    }
    let direction = match core::TrafficDirection::try_from(traffic_direction) {
        Ok(core::TrafficDirection::Inbound) => m::Direction::Inbound,
        Ok(core::TrafficDirection::Outbound) => m::Direction::Outbound,
        Ok(core::TrafficDirection::Unspecified) => m::Direction::Unspecified,
        Err(_) => return cx.fail_at("traffic_direction", "UNSPECIFIED, INBOUND and OUTBOUND are supported"),
    };
    let mut listener_filters = self::listener_filters(cx, listener_filters)?;
    let timeout = cx.optional("listener_filters_timeout", listener_filters_timeout, duration)?.unwrap_or(INSPECTION);
    listener_filters.timeout = non_zero(Some(timeout));
    listener_filters.continue_on_timeout = continue_on_listener_filters_timeout;
    let filter_chains = cx.each("filter_chains", filter_chains, |cx, chain| filter_chain(cx, chain, direction))?;
    unique_names(cx, &filter_chains)?;
    Ok(m::Listener {
        name,
        address: cx.required("address", address, self::address)?,
        additional_addresses: cx.each("additional_addresses", additional_addresses, |cx, value| {
            cx.refuse("socket_options", value.socket_options.is_some())?;
            cx.ignore("tcp_keepalive", value.tcp_keepalive.is_some());
            cx.required("address", value.address, self::address)
        })?,
        bind_to_port: bind_to_port.is_none_or(|v| v.value),
        use_original_dst: use_original_dst.unwrap_or_default().value,
        direction,
        listener_filters,
        filter_chains,
        default_filter_chain: cx
            .optional("default_filter_chain", default_filter_chain, |cx, chain| filter_chain(cx, chain, direction))?,
        access_log: cx.each("access_log", access_log, self::access_log)?,
    })
}

fn unique_names(cx: &Cx, chains: &[m::FilterChain]) -> Result<()> {
    let mut seen = std::collections::HashSet::new();
    for chain in chains.iter().filter(|chain| !chain.name.is_empty()) {
        if !seen.insert(chain.name.as_str()) {
            return cx.fail_at("filter_chains", format!("two have the name {:?}", short(&chain.name)));
        }
    }
    Ok(())
}

fn listener_filters(cx: &mut Cx, values: Vec<listener::ListenerFilter>) -> Result<m::ListenerFilters> {
    use listener::listener_filter::ConfigType;
    const PREFIX: &str = "type.googleapis.com/envoy.extensions.filters.listener.";
    let mut filters = m::ListenerFilters::default();
    cx.each("listener_filters", values, |cx, value| {
        let Some(ConfigType::TypedConfig(config)) = value.config_type else {
            return cx.fail_at("typed_config", "is required");
        };
        let ty = config.type_url.strip_prefix(PREFIX).unwrap_or(&config.type_url);
        if ty != "http_inspector.v3.HttpInspector" {
            cx.refuse("filter_disabled", value.filter_disabled.is_some())?;
        }
        match ty {
            "original_dst.v3.OriginalDst" => filters.original_dst = true,
            "tls_inspector.v3.TlsInspector" => filters.tls_inspector = true,
            "http_inspector.v3.HttpInspector" => {
                filters.http_inspector = cx.at("filter_disabled", |cx| http_inspector(cx, value.filter_disabled))?;
            }
            _ => {
                let supported = "original_dst, tls_inspector and http_inspector are";
                return cx.fail(format!("{:?} is not supported; {supported}", short(&config.type_url)));
            }
        }
        Ok(())
    })?;
    Ok(filters)
}

/// `None` is an inspector that never runs.
fn http_inspector(
    cx: &mut Cx,
    disabled: Option<listener::ListenerFilterChainMatchPredicate>,
) -> Result<Option<m::HttpInspector>> {
    use listener::listener_filter_chain_match_predicate::Rule;
    let mut disabled_ports = Vec::new();
    match disabled.and_then(|predicate| predicate.rule) {
        None | Some(Rule::AnyMatch(false)) => {}
        Some(Rule::AnyMatch(true)) => return Ok(None),
        Some(Rule::DestinationPortRange(range)) => ports(cx, range, &mut disabled_ports)?,
        Some(Rule::OrMatch(set)) => {
            cx.at("or_match", |cx| {
                cx.each("rules", set.rules, |cx, rule| match rule.rule {
                    Some(Rule::DestinationPortRange(range)) => ports(cx, range, &mut disabled_ports),
                    _ => cx.fail("only destination_port_range is supported"),
                })
            })?;
        }
        Some(_) => return cx.fail("destination_port_range, alone or in or_match, is supported"),
    }
    Ok(Some(m::HttpInspector { disabled_ports }))
}

fn ports(cx: &mut Cx, range: typ::Int32Range, into: &mut Vec<u16>) -> Result<()> {
    for number in range.start..range.end {
        let Some(port) = u16::try_from(number).ok().filter(|_| into.len() < MAX_PORTS) else {
            return cx.fail_at("destination_port_range", "holds numbers that are not ports, or too many of them");
        };
        into.push(port);
    }
    Ok(())
}

fn filter_chain(cx: &mut Cx, value: listener::FilterChain, direction: m::Direction) -> Result<m::FilterChain> {
    fields!(cx, value => listener::FilterChain {
        use: [filter_chain_match, filters, transport_socket, name],
        refuse: [use_proxy_proto],
        ignore: [metadata, transport_socket_connect_timeout],
    });
    let matches = cx.optional("filter_chain_match", filter_chain_match, chain_match)?.unwrap_or_default();
    let tls = cx.optional("transport_socket", transport_socket, tls::downstream)?.flatten();
    let last = filters.len();
    let mut network_filters = Vec::new();
    let mut terminal = None;
    let mut position = 0;
    cx.each("filters", filters, |cx, value| {
        position += 1;
        match filter(cx, value, direction)? {
            None => {}
            Some(Filter::Network(filter)) => network_filters.push(filter),
            Some(Filter::Terminal(found)) if position == last => terminal = Some(found),
            Some(Filter::Terminal(_)) => return cx.fail("must be the last filter"),
        }
        Ok(())
    })?;
    let Some(terminal) = terminal else {
        return cx.fail_at("filters", "the last one must be http_connection_manager or tcp_proxy");
    };
    Ok(m::FilterChain { name, matches, tls, network_filters, terminal })
}

fn chain_match(cx: &mut Cx, value: listener::FilterChainMatch) -> Result<m::FilterChainMatch> {
    fields!(cx, value => listener::FilterChainMatch {
        use: [
            destination_port, prefix_ranges, source_prefix_ranges, server_names, transport_protocol, application_protocols,
        ],
        refuse: [address_suffix, suffix_len, direct_source_prefix_ranges, source_type, source_ports],
        ignore: [],
    });
    let transport_protocol = match transport_protocol.as_str() {
        "" => None,
        "raw_buffer" => Some(m::TransportProtocol::RawBuffer),
        "tls" => Some(m::TransportProtocol::Tls),
        other => return cx.fail_at("transport_protocol", format!("{:?}: raw_buffer and tls are supported", short(other))),
    };
    Ok(m::FilterChainMatch {
        destination_port: cx.optional("destination_port", destination_port, |cx, value| port(cx, value.value))?,
        destination_prefixes: cx.each("prefix_ranges", prefix_ranges, cidr)?,
        server_names,
        transport_protocol,
        application_protocols,
        source_prefixes: cx.each("source_prefix_ranges", source_prefix_ranges, cidr)?,
    })
}

enum Filter {
    Network(m::NetworkFilter),
    Terminal(m::Terminal),
}

fn filter(cx: &mut Cx, value: listener::Filter, direction: m::Direction) -> Result<Option<Filter>> {
    use listener::filter::ConfigType;
    let config = match value.config_type {
        Some(ConfigType::TypedConfig(config)) => config,
        Some(ConfigType::ConfigDiscovery(_)) => return cx.fail_at("config_discovery", "is not supported; typed_config is"),
        None => return cx.fail_at("typed_config", "is required"),
    };
    cx.at("typed_config", |cx| typed_filter(cx, &config, direction))
}

fn typed_filter(cx: &mut Cx, config: &google::Any, direction: m::Direction) -> Result<Option<Filter>> {
    let url = istio::type_url(config);
    if url == hcm_pb::HttpConnectionManager::type_url() {
        let manager = hcm::manager(cx, cx.message(&config.value)?, direction)?;
        return Ok(Some(Filter::Terminal(m::Terminal::Http(Box::new(manager)))));
    }
    if url == tcp::TcpProxy::type_url() {
        return Ok(Some(Filter::Terminal(m::Terminal::Tcp(tcp_proxy(cx, cx.message(&config.value)?)?))));
    }
    if url == network_rbac::Rbac::type_url() {
        let rules = rbac::network(cx, typed(cx, config)?)?;
        return Ok(rules.map(|rules| Filter::Network(m::NetworkFilter::Rbac(rules))));
    }
    if url == TcpMetadataExchange::type_url() {
        istio::tcp_metadata_exchange(cx, config)?;
        return Ok(Some(Filter::Network(m::NetworkFilter::MetadataExchange)));
    }
    if url == StatsConfig::type_url() {
        return Ok(Some(Filter::Network(m::NetworkFilter::Stats(istio::stats(cx, config, direction)?))));
    }
    cx.fail(format!(
        "{:?} is not supported; http_connection_manager, tcp_proxy, rbac, istio.metadata_exchange and istio.stats are",
        short(&url)
    ))
}

/// Whether connections are told apart by their client's address.
fn source_ip_hash(cx: &mut Cx, policies: Vec<typ::HashPolicy>) -> Result<bool> {
    use typ::hash_policy::PolicySpecifier;
    let by_source = cx.each("hash_policy", policies, |cx, policy| match policy.policy_specifier {
        Some(PolicySpecifier::SourceIp(_)) => Ok(()),
        _ => cx.fail("only source_ip is supported"),
    })?;
    Ok(!by_source.is_empty())
}

fn tunnel(cx: &mut Cx, value: tcp::tcp_proxy::TunnelingConfig) -> Result<m::HttpTunnel> {
    fields!(cx, value => tcp::tcp_proxy::TunnelingConfig {
        use: [hostname, use_post],
        refuse: [headers_to_add, post_path, request_id_extension],
        // What is kept for other filters has no reader here.
        ignore: [
            propagate_response_headers, propagate_response_trailers, request_id_header, request_id_metadata_key, formatters,
        ],
    });
    if hostname.is_empty() || hostname.contains('%') {
        return cx.fail_at("hostname", "must be a host and a port, without %COMMANDS%");
    }
    let method = if use_post { m::TunnelMethod::Post } else { m::TunnelMethod::Connect };
    Ok(m::HttpTunnel { target: hostname, method })
}

fn tcp_proxy(cx: &mut Cx, value: tcp::TcpProxy) -> Result<m::TcpProxy> {
    use tcp::tcp_proxy::ClusterSpecifier;
    fields!(cx, value => tcp::TcpProxy {
        use: [stat_prefix, idle_timeout, access_log, cluster_specifier, max_connect_attempts, hash_policy, tunneling_config],
        refuse: [
            on_demand, metadata_match, downstream_idle_timeout, upstream_idle_timeout, backoff_options,
            max_downstream_connection_duration, proxy_protocol_tlvs, upstream_connect_mode,
        ],
        ignore: [
            max_downstream_connection_duration_jitter_percentage, access_log_flush_interval,
            flush_access_log_on_connected, access_log_options, proxy_protocol_tlv_merge_policy, max_early_data_bytes,
            check_drain_close,
        ],
    });
    if is_set(&max_connect_attempts) && max_connect_attempts.unwrap_or_default().value != 1 {
        return cx.fail_at("max_connect_attempts", "only 1 is supported");
    }
    let destination = match cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => m::TcpDestination::Cluster(name),
        Some(ClusterSpecifier::WeightedClusters(value)) => cx.at("weighted_clusters", |cx| {
            let clusters = cx.each("clusters", value.clusters, |cx, cluster| {
                cx.refuse("metadata_match", cluster.metadata_match.is_some())?;
                Ok((cluster.name, cluster.weight))
            })?;
            if clusters.iter().map(|(_, weight)| u64::from(*weight)).sum::<u64>() == 0 {
                return cx.fail_at("clusters", "the sum of the weights must not be 0");
            }
            Ok(m::TcpDestination::Weighted(clusters))
        })?,
        None => return cx.fail("one of cluster and weighted_clusters is required"),
    };
    Ok(m::TcpProxy {
        stat_prefix,
        destination,
        idle_timeout: cx.optional("idle_timeout", idle_timeout, duration)?,
        hash_source_ip: source_ip_hash(cx, hash_policy)?,
        tunnel: cx.optional("tunneling_config", tunneling_config, tunnel)?,
        access_log: cx.each("access_log", access_log, self::access_log)?,
    })
}
