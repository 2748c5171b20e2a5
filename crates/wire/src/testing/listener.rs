//! Listeners.

use super::common::{
    access_log, address, boxed, downstream_tls, duration, duration_or_zero, header_match, header_name, name, net, text,
};
use super::{http_rbac, network_rbac, route_configuration};
use lateen_model::dataplane::{
    Codec, Direction, FilterChain, FilterChainMatch, ForwardClientCert, HttpConnectionManager, HttpFilter, HttpInspector,
    HttpTunnel, Listener, ListenerFilters, NetworkFilter, PathNormalization, PeerMetadata, RateLimitClient, RateLimitRule,
    RateLimits, RouteSource, StatsFilter, TcpDestination, TcpProxy, Terminal, TokenBucket, Tracing, TracingProvider,
    TransportProtocol, TunnelMethod,
};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::select;
use std::time::Duration;

fn direction() -> impl Strategy<Value = Direction> {
    select(vec![Direction::Inbound, Direction::Outbound, Direction::Unspecified])
}

fn stats(direction: Direction) -> impl Strategy<Value = StatsFilter> {
    any::<bool>().prop_map(move |host_header_fallback| StatsFilter { direction, host_header_fallback })
}

fn rate_limits() -> impl Strategy<Value = RateLimits> {
    let client = prop_oneof![
        Just(RateLimitClient::Identity),
        Just(RateLimitClient::Address),
        header_name().prop_map(RateLimitClient::Header),
    ];
    let bucket = (1_u32.., 1_u32.., 50_u64..100_000).prop_map(|(max_tokens, tokens_per_fill, millis)| TokenBucket {
        max_tokens,
        tokens_per_fill,
        fill_interval: Duration::from_millis(millis),
    });
    let rule = (name(), vec(header_match(), 0..3), of(client), bucket)
        .prop_map(|(name, headers, client, bucket)| RateLimitRule { name, headers, client, bucket });
    (name(), vec(rule, 0..3), any::<bool>(), 1_u32..=1_000_000).prop_map(|(name, rules, retry_after, max_clients)| RateLimits {
        name,
        rules,
        retry_after,
        max_clients,
    })
}

fn http_filter(side: Direction) -> impl Strategy<Value = HttpFilter> {
    prop_oneof![
        (direction(), any::<bool>()).prop_map(|(direction, skip_external_clusters)| {
            HttpFilter::PeerMetadata(PeerMetadata { direction, skip_external_clusters })
        }),
        http_rbac().prop_map(HttpFilter::Rbac),
        rate_limits().prop_map(HttpFilter::RateLimit),
        Just(HttpFilter::GrpcStats),
        Just(HttpFilter::Alpn),
        Just(HttpFilter::Fault),
        Just(HttpFilter::Cors),
        stats(side).prop_map(HttpFilter::Stats),
    ]
}

fn tracing() -> impl Strategy<Value = Tracing> {
    let provider = (name(), "[a-z.]{0,8}", name()).prop_map(|(cluster, authority, service_name)| TracingProvider {
        cluster,
        authority,
        service_name,
    });
    (of(provider), 0_u32..=10_000, any::<u32>(), vec((text(), text()), 0..3)).prop_map(
        |(provider, random_sampling_hundredths, max_path_tag_length, tags)| Tracing {
            provider,
            random_sampling_hundredths,
            max_path_tag_length,
            tags,
        },
    )
}

fn manager(side: Direction) -> impl Strategy<Value = HttpConnectionManager> {
    let routes = prop_oneof![
        name().prop_map(RouteSource::Rds),
        boxed(route_configuration()).prop_map(|routes| RouteSource::Inline(Box::new(routes))),
    ];
    let forward = select(vec![
        ForwardClientCert::Sanitize,
        ForwardClientCert::AppendForward,
        ForwardClientCert::SanitizeSet,
        ForwardClientCert::ForwardOnly,
    ]);
    let normalization = select(vec![
        PathNormalization::None,
        PathNormalization::Base,
        PathNormalization::MergeSlashes,
        PathNormalization::DecodeAndMergeSlashes,
    ]);
    let codec = select(vec![Codec::Auto, Codec::Http1, Codec::Http2]);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let timeouts = (of(duration_or_zero()), of(duration()), of(duration_or_zero()));
    let observe = (of(tracing()), vec(access_log(), 0..2));
    let upgrades = vec(select(vec!["websocket".to_owned(), "h2c".to_owned()]), 0..2);
    let head = (name(), codec, of(name()), any::<u32>(), any::<u32>());
    let filters = vec(http_filter(side), 0..4);
    (head, routes, filters, (forward, normalization, upgrades), flags, timeouts, observe).prop_map(
        |(head, routes, http_filters, (forward, normalization, upgrades), flags, timeouts, observe)| {
            let (stat_prefix, codec, server_name, hops, kib) = head;
            let (use_remote_address, generate_request_id, preserve_external_request_id, accept_http_10) = flags;
            let (stream_idle_timeout, request_headers_timeout, idle_timeout) = timeouts;
            let (tracing, access_log) = observe;
            HttpConnectionManager {
                stat_prefix,
                codec,
                routes,
                http_filters,
                server_name,
                use_remote_address,
                xff_num_trusted_hops: hops,
                forward_client_cert: forward,
                generate_request_id,
                preserve_external_request_id,
                path_normalization: normalization,
                upgrades,
                accept_http_10,
                stream_idle_timeout,
                request_headers_timeout,
                max_request_headers_kib: kib,
                idle_timeout,
                tracing,
                access_log,
            }
        },
    )
}

fn tunnel() -> impl Strategy<Value = HttpTunnel> {
    ("[a-z.]{1,8}:[1-9]", select(vec![TunnelMethod::Connect, TunnelMethod::Post]))
        .prop_map(|(target, method)| HttpTunnel { target, method })
}

fn tcp() -> impl Strategy<Value = TcpProxy> {
    let destination = prop_oneof![
        name().prop_map(TcpDestination::Cluster),
        vec((name(), 1_u32..1_000_000), 1..4).prop_map(TcpDestination::Weighted),
    ];
    (name(), destination, of(duration_or_zero()), any::<bool>(), of(tunnel()), vec(access_log(), 0..2)).prop_map(
        |(stat_prefix, destination, idle_timeout, hash_source_ip, tunnel, access_log)| TcpProxy {
            stat_prefix,
            destination,
            idle_timeout,
            hash_source_ip,
            tunnel,
            access_log,
        },
    )
}

fn chain_match() -> impl Strategy<Value = FilterChainMatch> {
    let protocol = of(select(vec![TransportProtocol::RawBuffer, TransportProtocol::Tls]));
    (of(any::<u16>()), vec(net(), 0..3), vec(name(), 0..3), protocol, vec(name(), 0..3), vec(net(), 0..3)).prop_map(
        |(destination_port, destination_prefixes, server_names, transport_protocol, application_protocols, source_prefixes)| {
            FilterChainMatch {
                destination_port,
                destination_prefixes,
                server_names,
                transport_protocol,
                application_protocols,
                source_prefixes,
            }
        },
    )
}

fn filter_chain(side: Direction) -> impl Strategy<Value = FilterChain> {
    let network = prop_oneof![
        network_rbac().prop_map(NetworkFilter::Rbac),
        Just(NetworkFilter::MetadataExchange),
        stats(side).prop_map(NetworkFilter::Stats),
    ];
    let terminal =
        prop_oneof![boxed(manager(side)).prop_map(|m| Terminal::Http(Box::new(m))), boxed(tcp()).prop_map(Terminal::Tcp)];
    (chain_match(), of(downstream_tls()), vec(network, 0..3), terminal).prop_map(|(matches, tls, network_filters, terminal)| {
        FilterChain { name: String::new(), matches, tls: tls.map(Box::new), network_filters, terminal }
    })
}

fn listener_filters() -> impl Strategy<Value = ListenerFilters> {
    let inspector = vec(any::<u16>(), 0..4).prop_map(|disabled_ports| HttpInspector { disabled_ports });
    (any::<bool>(), any::<bool>(), of(inspector), of(duration()), any::<bool>()).prop_map(
        |(original_dst, tls_inspector, http_inspector, timeout, continue_on_timeout)| ListenerFilters {
            original_dst,
            tls_inspector,
            http_inspector,
            timeout,
            continue_on_timeout,
        },
    )
}

/// Any listener.
pub fn listener() -> impl Strategy<Value = Listener> {
    direction().prop_flat_map(|direction| {
        let chains = (vec(boxed(filter_chain(direction)), 0..3), of(boxed(filter_chain(direction))));
        let flags = (any::<bool>(), any::<bool>());
        (name(), vec(address(), 1..3), flags, listener_filters(), chains, vec(access_log(), 0..2)).prop_map(
            move |(name, mut addresses, (bind_to_port, use_original_dst), listener_filters, chains, access_log)| {
                let address = addresses.remove(0);
                let (mut filter_chains, default_filter_chain) = chains;
                for (i, chain) in filter_chains.iter_mut().enumerate().skip(1) {
                    chain.name = format!("chain-{i}");
                }
                Listener {
                    name,
                    address,
                    additional_addresses: addresses,
                    bind_to_port,
                    use_original_dst,
                    direction,
                    listener_filters,
                    filter_chains,
                    default_filter_chain,
                    access_log,
                }
            },
        )
    })
}
