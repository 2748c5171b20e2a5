//! Clusters and endpoints.

use super::common::{address, boxed, duration, duration_or_zero, ip, name, text, upstream_tls};
use lateen_model::dataplane::{
    CircuitBreakers, Cluster, ClusterLoadAssignment, ClusterMetadata, Discovery, DnsBackoff, DnsDiscovery, DnsEndpoint,
    DnsFamily, DnsKind, DnsLocality, Endpoint, EndpointHealth, Http2KeepAlive, HttpProtocolOptions, LbPolicy, Locality,
    LocalityEndpoints, MaglevTableSize, OutlierDetection, ProxyProtocolVersion, RetryBudget, RetryQuota, RingSize, ServiceRef,
    SlowStart, TcpKeepalive, TlsMode, TransportSocket, TransportSocketMatch, UpstreamHttp, WeightedLocality, WorkloadRef,
    ZoneAware,
};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::select;
use std::time::Duration;

fn part() -> impl Strategy<Value = String> {
    "[a-z0-9.-]{0,8}"
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let health = select(vec![EndpointHealth::Healthy, EndpointHealth::Unhealthy, EndpointHealth::Draining]);
    let tls = select(vec![TlsMode::Istio, TlsMode::Disabled]);
    let workload = (part(), part(), part(), part(), part()).prop_map(
        |(workload, namespace, canonical_name, canonical_revision, cluster_id)| WorkloadRef {
            workload,
            namespace,
            canonical_name,
            canonical_revision,
            cluster_id,
        },
    );
    (address(), health, 1_u32.., tls, of(workload)).prop_map(|(address, health, weight, tls_mode, workload)| Endpoint {
        address,
        health,
        weight,
        tls_mode,
        workload,
    })
}

/// Any endpoints of a cluster.
pub fn cluster_load_assignment() -> impl Strategy<Value = ClusterLoadAssignment> {
    let place = (part(), part(), part()).prop_map(|(region, zone, sub_zone)| Locality { region, zone, sub_zone });
    let locality = (place, 0_u32..4, of(any::<u32>()), vec(endpoint(), 0..4))
        .prop_map(|(locality, priority, weight, endpoints)| LocalityEndpoints { locality, priority, weight, endpoints });
    (name(), vec(locality, 0..4)).prop_map(|(cluster_name, localities)| ClusterLoadAssignment { cluster_name, localities })
}

fn transport() -> impl Strategy<Value = TransportSocket> {
    let one = (name(), of(select(vec![TlsMode::Istio, TlsMode::Disabled])), of(upstream_tls()))
        .prop_map(|(name, tls_mode, tls)| TransportSocketMatch { name, tls_mode, tls: tls.map(Box::new) });
    prop_oneof![
        Just(TransportSocket::Plaintext),
        upstream_tls().prop_map(|tls| TransportSocket::Tls(Box::new(tls))),
        vec(one, 1..3).prop_map(TransportSocket::ByEndpoint),
    ]
}

fn http() -> impl Strategy<Value = UpstreamHttp> {
    let some = || (1_u64..100_000).prop_map(Duration::from_millis);
    let keep_alive = (some(), some()).prop_map(|(interval, timeout)| Http2KeepAlive { interval, timeout });
    let protocol = prop_oneof![
        Just(HttpProtocolOptions::Http1),
        (of(any::<u32>()), of(keep_alive))
            .prop_map(|(max_concurrent_streams, keep_alive)| HttpProtocolOptions::Http2 { max_concurrent_streams, keep_alive }),
        of(any::<u32>()).prop_map(|max_concurrent_streams| HttpProtocolOptions::Downstream { max_concurrent_streams }),
    ];
    (protocol, of(duration_or_zero()), of(1_u32..), of(duration()), any::<[bool; 2]>()).prop_map(
        |(protocol, idle_timeout, requests, age, by_request)| UpstreamHttp {
            protocol,
            idle_timeout,
            max_requests_per_connection: requests,
            max_connection_duration: age,
            auto_sni: by_request[0],
            auto_san_validation: by_request[1],
        },
    )
}

fn circuit_breakers() -> impl Strategy<Value = CircuitBreakers> {
    let whole = || (1_u64..100_000).prop_map(Duration::from_millis);
    let budget = (0_u32..=10_000, any::<u32>(), of(whole())).prop_map(|(percent_hundredths, min_concurrency, interval)| {
        RetryBudget { percent_hundredths, min_concurrency, interval }
    });
    let quota = (0_u32..=10_000, any::<u32>(), whole()).prop_map(|(percent_hundredths, min_retries, interval)| RetryQuota {
        percent_hundredths,
        min_retries,
        interval,
    });
    (any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>(), of(budget), of(quota)).prop_map(
        |(connections, pending, requests, retries, retry_budget, retry_quota)| CircuitBreakers {
            max_connections: connections,
            max_pending_requests: pending,
            max_requests: requests,
            max_retries: retries,
            retry_budget,
            retry_quota,
        },
    )
}

fn outlier_detection() -> impl Strategy<Value = OutlierDetection> {
    let counts = (0_u32..9, 0_u32..9, 0_u32..9);
    (counts, any::<bool>(), duration(), duration(), duration(), 0_u8..=100, vec(100_u16..600, 0..4)).prop_map(
        |((errors, gateway, local), split, interval, base, max, percent, error_statuses)| OutlierDetection {
            consecutive_5xx: errors,
            consecutive_gateway_failure: gateway,
            consecutive_local_origin_failure: local,
            split_local_origin: split,
            interval,
            base_ejection_time: base,
            max_ejection_time: max,
            max_ejection_percent: percent,
            error_statuses,
        },
    )
}

fn slow_start() -> impl Strategy<Value = SlowStart> {
    (1_u64..1_000_000, 0.0..=100.0, 0.001..50.0).prop_filter_map("in range", |(window, minimum, aggression)| {
        SlowStart::try_new(Duration::from_millis(window), minimum, aggression).ok()
    })
}

fn metadata() -> impl Strategy<Value = ClusterMetadata> {
    let service = (name(), name(), name()).prop_map(|(host, name, namespace)| ServiceRef { host, name, namespace });
    (vec(service, 0..3), of(name()), of(any::<u16>()), of(text()), of(any::<bool>()), any::<bool>()).prop_map(
        |(services, subset, original_port, config_source, alpn_override, external)| ClusterMetadata {
            services,
            subset,
            original_port,
            config_source,
            alpn_override,
            external,
        },
    )
}

fn dns() -> impl Strategy<Value = DnsDiscovery> {
    let family = select(vec![DnsFamily::Auto, DnsFamily::V4Only, DnsFamily::V6Only, DnsFamily::V4Preferred, DnsFamily::All]);
    let backoff = (duration(), duration()).prop_map(|(a, b)| DnsBackoff { base: a.min(b), max: a.max(b) });
    let refresh = (1_u64..100_000).prop_map(Duration::from_millis);
    let times = (refresh, of(backoff), duration_or_zero());
    let host = || {
        ("[a-z0-9.-]{1,12}", 1_u16.., endpoint()).prop_map(|(host, port, e)| DnsEndpoint {
            host,
            port,
            health: e.health,
            weight: e.weight,
            tls_mode: e.tls_mode,
            workload: e.workload,
        })
    };
    let place = || (part(), part(), part()).prop_map(|(region, zone, sub_zone)| Locality { region, zone, sub_zone });
    let of_kind = move |kind: DnsKind| {
        let count = if kind == DnsKind::Logical { 1..2 } else { 0..4 };
        let localities = if kind == DnsKind::Logical { 1..2 } else { 0..3 };
        let locality = (place(), 0_u32..4, of(any::<u32>()), vec(host(), count))
            .prop_map(|(locality, priority, weight, endpoints)| DnsLocality { locality, priority, weight, endpoints });
        vec(locality, localities).prop_map(move |localities| (kind, localities))
    };
    let named = prop_oneof![of_kind(DnsKind::Strict), of_kind(DnsKind::Logical)];
    (named, family, times, any::<bool>()).prop_map(|((kind, localities), family, (refresh, failure, jitter), respect_ttl)| {
        DnsDiscovery { kind, localities, family, refresh, respect_ttl, failure, jitter }
    })
}

fn discovery() -> impl Strategy<Value = (Discovery, LbPolicy)> {
    let ring = (1_u64..5000, 5000_u64..8_000_000).prop_filter_map("a size", |(least, most)| RingSize::try_new(least, most).ok());
    let table = select(vec![2_u64, 5, 65_537]).prop_filter_map("a prime", |size| MaglevTableSize::try_new(size).ok());
    let policies = prop_oneof![
        3 => select(vec![LbPolicy::RoundRobin, LbPolicy::LeastRequest, LbPolicy::Random]),
        1 => ring.prop_map(LbPolicy::RingHash),
        1 => table.prop_map(LbPolicy::Maglev),
    ]
    .boxed();
    let policy = || policies.clone();
    prop_oneof![
        (name(), policy()).prop_map(|(service_name, policy)| (Discovery::Eds { service_name }, policy)),
        (cluster_load_assignment(), policy()).prop_map(|(endpoints, policy)| (Discovery::Static(endpoints), policy)),
        (dns(), policy()).prop_map(|(dns, policy)| (Discovery::Dns(Box::new(dns)), policy)),
        of(any::<u16>()).prop_map(|port_override| (Discovery::OriginalDst { port_override }, LbPolicy::ClusterProvided)),
    ]
}

/// Any cluster.
pub fn cluster() -> impl Strategy<Value = Cluster> {
    let seconds = || of((0_u64..100_000).prop_map(Duration::from_secs));
    let keepalive =
        (of(any::<u32>()), seconds(), seconds()).prop_map(|(probes, time, interval)| TcpKeepalive { probes, time, interval });
    let weighted = Just(WeightedLocality { local: Locality::default() });
    let zone_aware = (0_u8..=100, any::<u64>())
        .prop_map(|(routing_percent, min_cluster_size)| ZoneAware { routing_percent, min_cluster_size });
    let weighted = prop_oneof![
        Just((None, None)),
        weighted.prop_map(|weighted| (Some(weighted), None)),
        zone_aware.prop_map(|zone_aware| (None, Some(zone_aware))),
    ];
    let balancing = (of(0_u8..=100), weighted, of(outlier_detection()), of(slow_start()));
    let version = of(select(vec![ProxyProtocolVersion::V1, ProxyProtocolVersion::V2]));
    let sockets = ((boxed(transport()), version), of(keepalive), vec(ip(), 0..3), any::<bool>());
    ((name(), "[a-z]{0,6}"), discovery(), duration(), boxed(http()), circuit_breakers(), balancing, sockets, metadata()).prop_map(
        |((name, stat_name), (discovery, lb_policy), connect_timeout, http, circuit_breakers, balancing, sockets, metadata)| {
            let (healthy_panic_threshold, (weighted_localities, zone_aware), outlier_detection, slow_start) = balancing;
            let ((transport, proxy_protocol), tcp_keepalive, bind_sources, tcp_metadata_exchange) = sockets;
            Cluster {
                name,
                stat_name,
                discovery,
                connect_timeout,
                lb_policy,
                slow_start: slow_start.filter(|_| matches!(lb_policy, LbPolicy::RoundRobin | LbPolicy::LeastRequest)),
                transport,
                proxy_protocol,
                http,
                circuit_breakers,
                outlier_detection,
                healthy_panic_threshold,
                weighted_localities,
                zone_aware,
                tcp_keepalive,
                bind_sources,
                tcp_metadata_exchange,
                metadata,
            }
        },
    )
}
