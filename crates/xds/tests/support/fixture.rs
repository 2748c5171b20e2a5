//! Resources with every part of the model in them, as a sidecar may get them.

use ipnet::IpNet;
use lateen_model::dataplane::{
    AccessLog, AccessLogFormat, AccessLogTarget, CircuitBreakers, Cluster, ClusterLoadAssignment, ClusterMetadata,
    ClusterSpecifier, Codec, DirectResponse, Direction, Discovery, DownstreamTls, Endpoint, EndpointHealth, FilterChain,
    FilterChainMatch, Forward, ForwardClientCert, HeaderAppend, HeaderMatch, HeaderMutation, HeaderPredicate, HeaderValueOp,
    HostRewrite, Http2KeepAlive, HttpConnectionManager, HttpFilter, HttpInspector, HttpProtocolOptions, LbPolicy, Listener,
    ListenerFilters, Locality, LocalityEndpoints, NetworkFilter, OutlierDetection, PathMatch, PathNormalization, PathRewrite,
    PeerMetadata, Permission, Principal, QueryMatch, QueryPredicate, Rbac, RbacAction, RbacPolicy, Redirect, RedirectPath,
    RetryBackOff, RetryBudget, RetryOn, RetryPolicy, Route, RouteAction, RouteConfiguration, RouteFilters, RouteMatch,
    RouteSource, SafeRegex, SecretRef, SecretSource, ServiceRef, StatsFilter, StringMatch, StringPredicate, TcpDestination,
    TcpKeepalive, TcpProxy, Terminal, TlsMode, TlsParams, TlsVersion, Tracing, TracingProvider, TransportProtocol,
    TransportSocket, TransportSocketMatch, UpstreamHttp, UpstreamTls, VirtualHost, WeightedCluster, WeightedLocality,
    WorkloadRef,
};
use std::net::Ipv4Addr;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const SERVICE: &str = "outbound|80||a.ns.svc.cluster.local";

fn cluster(name: &str, discovery: Discovery) -> Cluster {
    Cluster {
        name: name.to_owned(),
        stat_name: String::new(),
        discovery,
        connect_timeout: 10 * SECOND,
        lb_policy: LbPolicy::LeastRequest,
        slow_start: None,
        proxy_protocol: None,
        transport: TransportSocket::Plaintext,
        http: UpstreamHttp {
            protocol: HttpProtocolOptions::Http1,
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
        tcp_keepalive: None,
        bind_sources: Vec::new(),
        tcp_metadata_exchange: true,
        metadata: ClusterMetadata::default(),
    }
}

fn mesh_tls() -> UpstreamTls {
    UpstreamTls {
        params: TlsParams {
            min: TlsVersion::V1_2,
            max: TlsVersion::V1_3,
            cipher_suites: vec!["ECDHE-ECDSA-AES256-GCM-SHA384".to_owned(), "ECDHE-RSA-AES128-GCM-SHA256".to_owned()],
        },
        alpn: vec!["istio-peer-exchange".to_owned(), "istio".to_owned()],
        sni: "outbound_.80_._.a.ns.svc.cluster.local".to_owned(),
        certificate: Some(SecretRef::workload_certificate()),
        roots: Some(SecretRef::workload_roots()),
        sans: vec![
            StringMatch::exact("spiffe://cluster.local/ns/ns/sa/account"),
            StringMatch::prefix("spiffe://other/"),
            StringMatch::exact("a.example.com"),
        ],
        crl_file: None,
    }
}

pub(crate) fn clusters() -> Vec<Cluster> {
    let eds = |name: &str| Discovery::Eds { service_name: name.to_owned() };
    let extra = || SecretRef { name: "kubernetes://extra".to_owned(), source: SecretSource::Ads };
    let subset = "outbound|80|v1|a.ns.svc.cluster.local";
    let original = || Discovery::OriginalDst { port_override: None };
    let passthrough = |name: &str| Cluster {
        lb_policy: LbPolicy::ClusterProvided,
        http: UpstreamHttp {
            protocol: HttpProtocolOptions::Downstream { max_concurrent_streams: None },
            idle_timeout: Some(300 * SECOND),
            max_requests_per_connection: None,
            max_connection_duration: None,
            auto_sni: false,
            auto_san_validation: false,
        },
        ..cluster(name, original())
    };
    vec![
        Cluster {
            transport: TransportSocket::ByEndpoint(vec![
                TransportSocketMatch {
                    name: "tlsMode-istio".to_owned(),
                    tls_mode: Some(TlsMode::Istio),
                    tls: Some(Box::new(mesh_tls())),
                },
                TransportSocketMatch { name: "tlsMode-disabled".to_owned(), tls_mode: None, tls: None },
            ]),
            circuit_breakers: CircuitBreakers {
                max_connections: 10,
                retry_budget: Some(RetryBudget { percent_hundredths: 2_550, min_concurrency: 4, interval: Some(7 * SECOND) }),
                ..CircuitBreakers::default()
            },
            outlier_detection: Some(OutlierDetection {
                consecutive_5xx: 5,
                consecutive_gateway_failure: 0,
                consecutive_local_origin_failure: 3,
                split_local_origin: true,
                interval: 10 * SECOND,
                base_ejection_time: 30 * SECOND,
                max_ejection_time: 300 * SECOND,
                max_ejection_percent: 50,
                error_statuses: vec![429, 503],
            }),
            healthy_panic_threshold: Some(0),
            weighted_localities: Some(WeightedLocality { local: Locality::default() }),
            tcp_keepalive: Some(TcpKeepalive { probes: Some(3), time: Some(60 * SECOND), interval: Some(10 * SECOND) }),
            metadata: ClusterMetadata {
                services: vec![ServiceRef {
                    host: "a.ns.svc.cluster.local".to_owned(),
                    name: "a".to_owned(),
                    namespace: "ns".to_owned(),
                }],
                subset: None,
                original_port: Some(80),
                config_source: Some("/apis/networking.istio.io/v1/namespaces/ns/destination-rule/a".to_owned()),
                alpn_override: Some(false),
                external: false,
            },
            ..cluster(SERVICE, eds(SERVICE))
        },
        Cluster {
            lb_policy: LbPolicy::RoundRobin,
            transport: TransportSocket::Tls(Box::new(mesh_tls())),
            http: UpstreamHttp {
                protocol: HttpProtocolOptions::Http2 {
                    max_concurrent_streams: Some(100),
                    keep_alive: Some(Http2KeepAlive { interval: 3 * SECOND, timeout: SECOND }),
                },
                idle_timeout: Some(60 * SECOND),
                max_requests_per_connection: Some(10),
                max_connection_duration: Some(600 * SECOND),
                auto_sni: false,
                auto_san_validation: false,
            },
            ..cluster(subset, eds(subset))
        },
        Cluster {
            lb_policy: LbPolicy::Random,
            transport: TransportSocket::Tls(Box::new(UpstreamTls {
                certificate: Some(extra()),
                roots: None,
                sans: Vec::new(),
                ..mesh_tls()
            })),
            ..cluster("static", Discovery::Static(endpoints("static", 1)))
        },
        Cluster { bind_sources: vec![Ipv4Addr::new(127, 0, 0, 6).into()], ..passthrough("inbound|8080||") },
        Cluster { discovery: Discovery::OriginalDst { port_override: Some(15001) }, ..passthrough("port-override") },
        passthrough("PassthroughCluster"),
        cluster(
            "BlackHoleCluster",
            Discovery::Static(ClusterLoadAssignment { cluster_name: "BlackHoleCluster".to_owned(), localities: Vec::new() }),
        ),
    ]
}

/// Endpoints, of which the first has a number in its address.
pub(crate) fn endpoints(name: &str, number: u8) -> ClusterLoadAssignment {
    let endpoint = |address: [u8; 4], health, tls_mode| Endpoint {
        address: (address, 8080).into(),
        health,
        weight: 2,
        tls_mode,
        workload: Some(WorkloadRef {
            workload: "a".to_owned(),
            namespace: "ns".to_owned(),
            canonical_name: "a".to_owned(),
            canonical_revision: "v1".to_owned(),
            cluster_id: "Kubernetes".to_owned(),
        }),
    };
    let locality = |zone: &str, priority, endpoints| LocalityEndpoints {
        locality: Locality { region: "r".to_owned(), zone: zone.to_owned(), sub_zone: String::new() },
        priority,
        weight: Some(3),
        endpoints,
    };
    ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        localities: vec![
            locality(
                "a",
                0,
                vec![
                    endpoint([10, 1, 0, number], EndpointHealth::Healthy, TlsMode::Istio),
                    endpoint([10, 1, 1, 2], EndpointHealth::Unhealthy, TlsMode::Disabled),
                ],
            ),
            locality("b", 1, vec![endpoint([10, 1, 2, 2], EndpointHealth::Draining, TlsMode::Istio)]),
        ],
    }
}

fn regex(pattern: &str) -> SafeRegex {
    SafeRegex::try_new(pattern).unwrap()
}

fn header(name: &str, predicate: HeaderPredicate) -> HeaderMatch {
    HeaderMatch { name: name.to_owned(), predicate, invert: false, missing_is_empty: false }
}

fn mutation() -> HeaderMutation {
    let set = [
        ("x-a", "%REQ(x-b)%", HeaderAppend::AppendOrAdd),
        ("x-c", "1", HeaderAppend::AddIfAbsent),
        ("x-d", "", HeaderAppend::OverwriteOrAdd),
        ("x-e", "1", HeaderAppend::OverwriteIfExists),
    ];
    HeaderMutation {
        remove: vec!["x-gone".to_owned()],
        set: set
            .into_iter()
            .map(|(name, value, append)| HeaderValueOp { name: name.to_owned(), value: value.to_owned(), append })
            .collect(),
    }
}

fn forward(cluster: ClusterSpecifier) -> Forward {
    Forward {
        cluster,
        timeout: None,
        idle_timeout: None,
        max_grpc_timeout: Some(Duration::ZERO),
        path_rewrite: None,
        host_rewrite: None,
        retry: None,
        mirrors: Vec::new(),
        hash_policies: Vec::new(),
        cluster_not_found_status: 503,
    }
}

fn route(name: &str, path: PathMatch, action: RouteAction) -> Route {
    Route {
        name: name.to_owned(),
        matches: RouteMatch { path, case_sensitive: true, headers: Vec::new(), query: Vec::new() },
        action,
        operation: Some("a.ns.svc.cluster.local:80/*".to_owned()),
        filters: RouteFilters::default(),
        request_headers: HeaderMutation::default(),
        response_headers: HeaderMutation::default(),
        config_source: Some("/apis/networking.istio.io/v1/namespaces/ns/virtual-service/a".to_owned()),
    }
}

fn retry() -> RetryPolicy {
    RetryPolicy {
        on: RetryOn::CONNECT_FAILURE
            .union(RetryOn::REFUSED_STREAM)
            .union(RetryOn::GRPC_UNAVAILABLE)
            .union(RetryOn::GRPC_CANCELLED)
            .union(RetryOn::RESET_BEFORE_REQUEST)
            .union(RetryOn::RETRIABLE_STATUS_CODES),
        num_retries: 2,
        per_try_timeout: Some(SECOND),
        retriable_statuses: vec![503],
        avoid_previous_hosts: true,
        host_selection_attempts: 5,
        avoid_previous_priorities: Some(2),
        back_off: RetryBackOff::default(),
    }
}

fn weighted() -> ClusterSpecifier {
    let branch = |name: &str, weight| WeightedCluster {
        name: name.to_owned(),
        weight,
        request_headers: mutation(),
        response_headers: mutation(),
        host_rewrite: None,
    };
    ClusterSpecifier::Weighted(vec![branch(SERVICE, 90), branch("outbound|80|v1|a.ns.svc.cluster.local", 10)])
}

fn all_routes() -> Vec<Route> {
    let single = || ClusterSpecifier::Single(SERVICE.to_owned());
    let to = |forward| RouteAction::Forward(Box::new(forward));
    let mut matching = route("matching", PathMatch::Regex(regex("/v[0-9]+/.*")), to(forward(weighted())));
    matching.matches.headers = vec![
        header(":method", HeaderPredicate::Value(StringMatch::exact("GET"))),
        header("x-prefix", HeaderPredicate::Value(StringMatch::prefix("p"))),
        HeaderMatch {
            invert: true,
            missing_is_empty: true,
            ..header("x-re", HeaderPredicate::Value(StringMatch::regex(regex("a|b"))))
        },
        header("x-absent", HeaderPredicate::Present(false)),
    ];
    let contains = StringMatch { predicate: StringPredicate::Contains("q".to_owned()), ignore_case: true };
    matching.matches.query = vec![
        QueryMatch { name: "q".to_owned(), predicate: QueryPredicate::Value(contains) },
        QueryMatch { name: "r".to_owned(), predicate: QueryPredicate::Present(true) },
    ];
    matching.request_headers = mutation();
    matching.response_headers = mutation();
    let rewriting = Forward {
        timeout: Some(15 * SECOND),
        idle_timeout: Some(30 * SECOND),
        max_grpc_timeout: None,
        path_rewrite: Some(PathRewrite::Prefix("/new/".to_owned())),
        host_rewrite: Some(HostRewrite::Literal("other".to_owned())),
        retry: Some(retry()),
        mirrors: Vec::new(),
        hash_policies: Vec::new(),
        cluster_not_found_status: 500,
        ..forward(single())
    };
    let substituting = Forward {
        path_rewrite: Some(PathRewrite::Regex { pattern: "/(a)/(b)".to_owned(), substitution: "/\\2/\\1".to_owned() }),
        ..forward(single())
    };
    let redirect = |path| {
        RouteAction::Redirect(Redirect {
            scheme: Some("https".to_owned()),
            host: Some("host".to_owned()),
            port: Some(8443),
            path,
            status: 308,
            strip_query: true,
        })
    };
    let direct = RouteAction::DirectResponse(DirectResponse { status: 502, body: b"no".to_vec() });
    vec![
        matching,
        route("rewriting", PathMatch::Prefix("/old/".to_owned()), to(rewriting)),
        route("substituting", PathMatch::PathSeparatedPrefix("/a".to_owned()), to(substituting)),
        route("redirect", PathMatch::Exact("/r".to_owned()), redirect(RedirectPath::Replace("/there".to_owned()))),
        route("redirect-prefix", PathMatch::Prefix("/rp".to_owned()), redirect(RedirectPath::Prefix("/there".to_owned()))),
        route("direct", PathMatch::Exact("/d".to_owned()), direct),
        route("default", PathMatch::Prefix("/".to_owned()), to(forward(single()))),
    ]
}

pub(crate) fn routes(name: &str) -> RouteConfiguration {
    RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![
            VirtualHost {
                name: "a.ns.svc.cluster.local:80".to_owned(),
                domains: ["a.ns.svc.cluster.local", "a", "a.ns", "*.a.ns", "10.96.0.1"].map(str::to_owned).to_vec(),
                routes: all_routes(),
                include_request_attempt_count: true,
                require_tls: false,
            },
            VirtualHost {
                name: "allow_any".to_owned(),
                domains: vec!["*".to_owned()],
                routes: vec![route(
                    "allow_any",
                    PathMatch::Prefix("/".to_owned()),
                    RouteAction::Forward(Box::new(forward(ClusterSpecifier::Single("PassthroughCluster".to_owned())))),
                )],
                include_request_attempt_count: false,
                require_tls: false,
            },
        ],
        ignore_port_in_host_matching: true,
        max_direct_response_body_bytes: 1_048_576,
    }
}

fn rbac(action: RbacAction) -> Rbac {
    let net: IpNet = "10.0.0.0/8".parse().unwrap();
    let permissions = vec![
        Permission::And(vec![
            Permission::Any,
            Permission::Or(vec![
                Permission::Header(header(":method", HeaderPredicate::Value(StringMatch::exact("GET")))),
                Permission::Path(StringMatch::prefix("/a")),
                Permission::PathTemplate("/v1/{*}/items/{**}".to_owned()),
            ]),
            Permission::Not(Box::new(Permission::DestinationPort(8080))),
            Permission::DestinationIp(net),
            Permission::RequestedServerName(StringMatch::suffix(".example.com")),
        ]),
        Permission::And(Vec::new()),
        Permission::Or(Vec::new()),
    ];
    let principals = vec![
        Principal::And(vec![
            Principal::Or(vec![
                Principal::Authenticated(Some(StringMatch::regex(regex(".*/ns/ns/.*")))),
                Principal::Authenticated(None),
                Principal::Header(header("x-user", HeaderPredicate::Present(true))),
                Principal::Path(StringMatch::exact("/p")),
            ]),
            Principal::Not(Box::new(Principal::DirectRemoteIp(net))),
            Principal::RemoteIp(net),
        ]),
        Principal::Any,
        Principal::And(Vec::new()),
        Principal::Or(Vec::new()),
    ];
    let policy = |name: &str, permissions, principals| RbacPolicy { name: name.to_owned(), permissions, principals };
    Rbac {
        action,
        policies: vec![
            policy("ns[ns]-policy[a]-rule[0]", permissions, principals),
            policy("ns[ns]-policy[b]-rule[0]", Vec::new(), Vec::new()),
        ],
        stat_prefix: String::new(),
    }
}

fn text_log() -> AccessLog {
    AccessLog {
        target: AccessLogTarget::File("/dev/null".to_owned()),
        format: AccessLogFormat::Text("[%START_TIME%] %REQ_WITHOUT_QUERY(:PATH)% %METADATA(ROUTE:istio:config)%\n".to_owned()),
        only_flag: None,
    }
}

fn json_log() -> AccessLog {
    let fields = [("method", "%REQ(:METHOD)%"), ("bytes_sent", "%BYTES_SENT%"), ("a", "%ROUTE_NAME%")];
    AccessLog {
        target: AccessLogTarget::File("/dev/null".to_owned()),
        format: AccessLogFormat::Json(fields.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec()),
        only_flag: Some("NR".to_owned()),
    }
}

fn manager(direction: Direction, routes: RouteSource) -> HttpConnectionManager {
    HttpConnectionManager {
        stat_prefix: "0.0.0.0_80".to_owned(),
        codec: Codec::Auto,
        routes,
        http_filters: vec![
            HttpFilter::PeerMetadata(PeerMetadata { direction, skip_external_clusters: true }),
            HttpFilter::Rbac(rbac(RbacAction::Log)),
            HttpFilter::Rbac(rbac(RbacAction::Deny)),
            HttpFilter::Rbac(rbac(RbacAction::Allow)),
            HttpFilter::GrpcStats,
            HttpFilter::Alpn,
            HttpFilter::Stats(StatsFilter { direction, host_header_fallback: true }),
        ],
        server_name: Some("istio-envoy".to_owned()),
        use_remote_address: false,
        xff_num_trusted_hops: 0,
        forward_client_cert: ForwardClientCert::AppendForward,
        generate_request_id: true,
        preserve_external_request_id: true,
        path_normalization: PathNormalization::DecodeAndMergeSlashes,
        upgrades: vec!["websocket".to_owned()],
        accept_http_10: true,
        stream_idle_timeout: Some(Duration::ZERO),
        request_headers_timeout: Some(10 * SECOND),
        max_request_headers_kib: 60,
        idle_timeout: Some(3600 * SECOND),
        tracing: Some(Tracing {
            provider: Some(TracingProvider {
                cluster: "static".to_owned(),
                authority: "otel".to_owned(),
                service_name: "a.ns".to_owned(),
            }),
            random_sampling_hundredths: 150,
            max_path_tag_length: 256,
            tags: vec![("istio.mesh_id".to_owned(), "cluster.local".to_owned())],
        }),
        access_log: vec![text_log(), json_log()],
    }
}

fn mesh_server_tls() -> DownstreamTls {
    DownstreamTls {
        params: TlsParams::default(),
        alpn: vec!["istio-peer-exchange".to_owned(), "h2".to_owned(), "http/1.1".to_owned()],
        certificate: SecretRef::workload_certificate(),
        client_roots: Some(SecretRef::workload_roots()),
        client_sans: vec![StringMatch::prefix("spiffe://cluster.local/")],
        require_client_certificate: true,
        crl_file: None,
    }
}

fn tcp(name: &str, destination: TcpDestination) -> FilterChain {
    FilterChain {
        name: name.to_owned(),
        matches: FilterChainMatch::default(),
        tls: None,
        network_filters: vec![
            NetworkFilter::MetadataExchange,
            NetworkFilter::Rbac(rbac(RbacAction::Deny)),
            NetworkFilter::Stats(StatsFilter { direction: Direction::Outbound, host_header_fallback: true }),
        ],
        terminal: Terminal::Tcp(TcpProxy {
            stat_prefix: name.to_owned(),
            destination,
            idle_timeout: Some(Duration::ZERO),
            hash_source_ip: true,
            tunnel: None,
            access_log: vec![text_log()],
        }),
    }
}

fn listener(name: &str, direction: Direction, filter_chains: Vec<FilterChain>) -> Listener {
    Listener {
        name: name.to_owned(),
        address: ([127, 0, 0, 1], 0).into(),
        additional_addresses: Vec::new(),
        bind_to_port: true,
        use_original_dst: false,
        direction,
        listener_filters: ListenerFilters {
            original_dst: true,
            tls_inspector: true,
            http_inspector: Some(HttpInspector { disabled_ports: vec![3306, 5432] }),
            timeout: None,
            continue_on_timeout: true,
        },
        filter_chains,
        default_filter_chain: None,
        access_log: vec![json_log()],
    }
}

fn http(name: &str, manager: HttpConnectionManager) -> FilterChain {
    FilterChain {
        network_filters: Vec::new(),
        terminal: Terminal::Http(Box::new(manager)),
        ..tcp(name, TcpDestination::Cluster(String::new()))
    }
}

pub(crate) fn listeners() -> Vec<Listener> {
    let passthrough = || TcpDestination::Cluster("PassthroughCluster".to_owned());
    let blackhole = || TcpDestination::Cluster("BlackHoleCluster".to_owned());
    let alpn = |list: &[&str]| list.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
    let outbound = Listener {
        use_original_dst: true,
        listener_filters: ListenerFilters { original_dst: true, ..ListenerFilters::default() },
        default_filter_chain: Some(tcp("virtualOutbound-catchall-tcp", passthrough())),
        ..listener(
            "virtualOutbound",
            Direction::Outbound,
            vec![FilterChain {
                matches: FilterChainMatch { destination_port: Some(15001), ..FilterChainMatch::default() },
                ..tcp("virtualOutbound-blackhole", blackhole())
            }],
        )
    };
    let port_80 = Listener {
        address: ([0, 0, 0, 0], 80).into(),
        bind_to_port: false,
        default_filter_chain: Some(tcp(
            "PassthroughFilterChain",
            TcpDestination::Weighted(vec![("PassthroughCluster".to_owned(), 1), ("BlackHoleCluster".to_owned(), 3)]),
        )),
        ..listener(
            "0.0.0.0_80",
            Direction::Outbound,
            vec![FilterChain {
                matches: FilterChainMatch {
                    transport_protocol: Some(TransportProtocol::RawBuffer),
                    application_protocols: alpn(&["http/1.1", "h2c"]),
                    ..FilterChainMatch::default()
                },
                ..http("0.0.0.0_80", manager(Direction::Outbound, RouteSource::Rds("80".to_owned())))
            }],
        )
    };
    let inline = || RouteSource::Inline(Box::new(routes("inbound|8080||")));
    let inbound = listener(
        "virtualInbound",
        Direction::Inbound,
        vec![
            FilterChain {
                matches: FilterChainMatch {
                    destination_port: Some(8080),
                    transport_protocol: Some(TransportProtocol::Tls),
                    application_protocols: alpn(&["istio", "istio-peer-exchange", "istio-http/1.1", "istio-h2"]),
                    source_prefixes: vec!["10.0.0.0/8".parse().unwrap()],
                    destination_prefixes: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
                    server_names: vec!["*.ns.svc.cluster.local".to_owned()],
                },
                tls: Some(Box::new(mesh_server_tls())),
                ..http("0.0.0.0_8080", manager(Direction::Inbound, inline()))
            },
            FilterChain {
                matches: FilterChainMatch {
                    destination_port: Some(8080),
                    transport_protocol: Some(TransportProtocol::RawBuffer),
                    ..FilterChainMatch::default()
                },
                ..http(
                    "0.0.0.0_8080-plain",
                    HttpConnectionManager {
                        forward_client_cert: ForwardClientCert::SanitizeSet,
                        server_name: None,
                        path_normalization: PathNormalization::None,
                        codec: Codec::Http2,
                        tracing: None,
                        ..manager(Direction::Inbound, inline())
                    },
                )
            },
            tcp("virtualInbound", TcpDestination::Cluster("inbound|8080||".to_owned())),
        ],
    );
    let mut gone = listener("gone", Direction::Unspecified, vec![tcp("gone", passthrough())]);
    gone.additional_addresses = vec![([127, 0, 0, 1], 0).into()];
    vec![outbound, port_80, inbound, gone]
}
