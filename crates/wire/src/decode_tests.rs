//! What the decoder refuses, what it lists, and what it takes from a control plane that is not ours.

use crate::decode;
use crate::pb::{cluster, core, endpoint, extensions, google, listener, matcher, rbac, route, typ};
use extensions::filters::http::rbac::v3::Rbac as HttpRbac;
use extensions::filters::network::http_connection_manager::v3 as hcm;
use extensions::filters::network::tcp_proxy::v3 as tcp;
use lateen_model::dataplane as m;
use prost::{Message, Name};
use std::time::Duration;

fn any<M: Message + Name>(message: &M) -> google::Any {
    crate::any::any(message)
}

fn socket_address(port: u32) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: "0.0.0.0".to_owned(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
            ..Default::default()
        })),
    }
}

fn chain(filters: Vec<google::Any>) -> listener::FilterChain {
    let filter = |config| listener::Filter {
        name: "any".to_owned(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(config)),
    };
    listener::FilterChain { filters: filters.into_iter().map(filter).collect(), ..Default::default() }
}

fn tcp_proxy() -> tcp::TcpProxy {
    tcp::TcpProxy {
        stat_prefix: "x".to_owned(),
        cluster_specifier: Some(tcp::tcp_proxy::ClusterSpecifier::Cluster("x".to_owned())),
        ..Default::default()
    }
}

fn listener_with(chains: Vec<listener::FilterChain>) -> listener::Listener {
    listener::Listener { name: "x".to_owned(), address: Some(socket_address(80)), filter_chains: chains, ..Default::default() }
}

fn manager(route: route::Route, filters: Vec<hcm::HttpFilter>) -> hcm::HttpConnectionManager {
    let routes = route::RouteConfiguration {
        name: "inline".to_owned(),
        virtual_hosts: vec![route::VirtualHost {
            name: "host".to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![route],
            ..Default::default()
        }],
        ..Default::default()
    };
    let mut http_filters = filters;
    http_filters.push(http_filter("router", crate::any::empty_any("envoy.extensions.filters.http.router.v3.Router")));
    hcm::HttpConnectionManager {
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::RouteConfig(routes)),
        http_filters,
        normalize_path: Some(google::BoolValue { value: true }),
        ..Default::default()
    }
}

fn http_filter(name: &str, config: google::Any) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

fn route_to(action: route::RouteAction) -> route::Route {
    route::Route {
        r#match: Some(route::RouteMatch {
            path_specifier: Some(route::route_match::PathSpecifier::Prefix("/".to_owned())),
            ..Default::default()
        }),
        action: Some(route::route::Action::Route(action)),
        ..Default::default()
    }
}

fn to_cluster() -> route::RouteAction {
    route::RouteAction {
        cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster("x".to_owned())),
        ..Default::default()
    }
}

fn refusal(listener: &listener::Listener) -> String {
    decode::listener(&listener.encode_to_vec()).expect_err("a refusal").to_string()
}

fn http_refusal(manager: &hcm::HttpConnectionManager) -> String {
    refusal(&listener_with(vec![chain(vec![any(manager)])]))
}

#[test]
fn paths_of_fields_in_listeners() {
    let rbac = HttpRbac {
        rules: Some(rbac::Rbac {
            policies: [(
                "p".to_owned(),
                rbac::Policy {
                    permissions: vec![rbac::Permission {
                        rule: Some(rbac::permission::Rule::NotRule(Box::new(rbac::Permission {
                            rule: Some(rbac::permission::Rule::DestinationPortRange(typ::Int32Range { start: 1, end: 2 })),
                        }))),
                    }],
                    principals: vec![rbac::Principal { identifier: Some(rbac::principal::Identifier::Any(true)) }],
                    ..Default::default()
                },
            )]
            .into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let hedged = route::RouteAction { hedge_policy: Some(route::HedgePolicy::default()), ..to_cluster() };
    let bad_regex = route::Route {
        r#match: Some(route::RouteMatch {
            path_specifier: Some(route::route_match::PathSpecifier::SafeRegex(matcher::RegexMatcher {
                regex: "(".to_owned(),
                engine_type: None,
            })),
            ..Default::default()
        }),
        ..route_to(to_cluster())
    };
    let in_route = "filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0].routes[0]";
    for (text, expected) in [
        (http_refusal(&manager(route_to(hedged), vec![])), format!("{in_route}.route.hedge_policy: is not supported")),
        (http_refusal(&manager(bad_regex, vec![])), format!("{in_route}.match.safe_regex.regex: regular expression \"(\"")),
        (
            http_refusal(&manager(route_to(to_cluster()), vec![http_filter("rbac", any(&rbac))])),
            "filter_chains[0].filters[0].typed_config.http_filters[0].typed_config.rules.policies[\"p\"].permissions[0].\
             not_rule.destination_port_range: is not supported"
                .to_owned(),
        ),
        (
            http_refusal(&manager(route_to(to_cluster()), vec![http_filter("x", crate::any::empty_any("a.B"))])),
            "filter_chains[0].filters[0].typed_config.http_filters[0].typed_config: \"type.googleapis.com/a.B\" is not \
             supported; rbac,"
                .to_owned(),
        ),
        (
            refusal(&listener_with(vec![chain(vec![any(&tcp_proxy())]), chain(vec![any(&tcp_proxy()), any(&tcp_proxy())])])),
            "filter_chains[1].filters[0]: must be the last filter".to_owned(),
        ),
        (
            refusal(&listener_with(vec![chain(vec![])])),
            "filter_chains[0].filters: the last one must be http_connection_manager or tcp_proxy".to_owned(),
        ),
    ] {
        assert!(text.starts_with(&expected), "{text}\n{expected}");
    }
}

#[test]
fn fields_of_listeners_that_would_change_behaviour() {
    type Edit = fn(&mut listener::Listener);
    let edits: [(Edit, &str); 9] = [
        (|l| l.name.clear(), "name: is required"),
        (|l| l.address = None, "address: is required"),
        (|l| l.address = Some(socket_address(65_536)), "address.socket_address.port_value: 65536 is not a port"),
        (|l| l.transparent = Some(google::BoolValue { value: true }), "transparent: is not supported; leave it unset"),
        (|l| l.traffic_direction = 9, "traffic_direction: UNSPECIFIED, INBOUND and OUTBOUND are supported"),
        (
            |l| l.filter_chains[0].filter_chain_match = Some(listener::FilterChainMatch { source_type: 1, ..Default::default() }),
            "filter_chains[0].filter_chain_match.source_type: is not supported; leave it unset",
        ),
        (
            |l| {
                l.filter_chains[0].name = "a".to_owned();
                l.filter_chains.push(l.filter_chains[0].clone());
            },
            "filter_chains: two have the name \"a\"",
        ),
        (
            |l| {
                l.listener_filters = vec![listener::ListenerFilter {
                    config_type: Some(listener::listener_filter::ConfigType::TypedConfig(crate::any::empty_any(
                        "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
                    ))),
                    ..Default::default()
                }];
            },
            "listener_filters[0]: \"type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol\" is not \
             supported; original_dst, tls_inspector and http_inspector are",
        ),
        (
            |l| l.listener_filters_timeout = Some(google::Duration { seconds: -1, nanos: 0 }),
            "listener_filters_timeout: is not a duration: 0s to 315576000000s are allowed",
        ),
    ];
    for (edit, expected) in edits {
        let mut listener = listener_with(vec![chain(vec![any(&tcp_proxy())])]);
        assert!(decode::listener(&listener.encode_to_vec()).is_ok());
        edit(&mut listener);
        assert_eq!(refusal(&listener), expected);
    }
}

fn eds_cluster() -> cluster::Cluster {
    cluster::Cluster {
        name: "x".to_owned(),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(cluster::cluster::DiscoveryType::Eds.into())),
        eds_cluster_config: Some(cluster::cluster::EdsClusterConfig {
            eds_config: Some(core::ConfigSource {
                config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(core::AggregatedConfigSource {})),
                ..Default::default()
            }),
            service_name: String::new(),
        }),
        ..Default::default()
    }
}

#[test]
fn a_bare_cluster_has_envoys_defaults() {
    let mut pb = eds_cluster();
    pb.outlier_detection = Some(cluster::OutlierDetection {
        enforcing_success_rate: Some(google::UInt32Value { value: 0 }),
        base_ejection_time: Some(google::Duration { seconds: 400, nanos: 0 }),
        ..Default::default()
    });
    let decoded = decode::cluster(&pb.encode_to_vec()).unwrap();
    let cluster = decoded.value;
    assert_eq!(cluster.discovery, m::Discovery::Eds { service_name: "x".to_owned() }, "the name stands in");
    assert_eq!(cluster.connect_timeout, Duration::from_secs(5));
    assert_eq!(cluster.lb_policy, m::LbPolicy::RoundRobin);
    assert_eq!(cluster.circuit_breakers.max_connections, 1024);
    assert_eq!(cluster.circuit_breakers.max_retries, 3);
    assert_eq!(cluster.http.protocol, m::HttpProtocolOptions::Http1);
    let outlier = cluster.outlier_detection.unwrap();
    assert_eq!((outlier.consecutive_5xx, outlier.consecutive_gateway_failure), (5, 0));
    assert_eq!(outlier.max_ejection_time, Duration::from_secs(400), "never below the base");
    let ignored: Vec<_> = decoded.ignored.iter().map(ToString::to_string).collect();
    assert_eq!(ignored, ["outlier_detection.always_eject_one_host: one host may always be ejected"]);
}

#[test]
fn fields_of_clusters_that_would_change_behaviour() {
    type Edit = fn(&mut cluster::Cluster);
    let edits: [(Edit, &str); 9] = [
        (
            |c| c.lb_policy = cluster::cluster::LbPolicy::LoadBalancingPolicyConfig.into(),
            "lb_policy: ROUND_ROBIN, LEAST_REQUEST, RANDOM, RING_HASH",
        ),
        (|c| c.lb_policy = cluster::cluster::LbPolicy::ClusterProvided.into(), "lb_policy: CLUSTER_PROVIDED goes with type"),
        (|c| c.health_checks = vec![core::HealthCheck::default()], "health_checks: is not supported"),
        (
            |c| {
                c.cluster_discovery_type =
                    Some(cluster::cluster::ClusterDiscoveryType::ClusterType(cluster::cluster::CustomClusterType::default()));
            },
            "cluster_type: is not supported; types EDS, STATIC, STRICT_DNS, LOGICAL_DNS and ORIGINAL_DST are",
        ),
        (
            |c| {
                c.cluster_discovery_type =
                    Some(cluster::cluster::ClusterDiscoveryType::Type(cluster::cluster::DiscoveryType::LogicalDns.into()));
            },
            "load_assignment: LOGICAL_DNS needs exactly one endpoint",
        ),
        (
            |c| {
                c.cluster_discovery_type =
                    Some(cluster::cluster::ClusterDiscoveryType::Type(cluster::cluster::DiscoveryType::StrictDns.into()));
                c.typed_dns_resolver_config = Some(core::TypedExtensionConfig::default());
            },
            "dns_resolvers: is not supported",
        ),
        (
            |c| c.outlier_detection = Some(cluster::OutlierDetection::default()),
            "outlier_detection.enforcing_success_rate: success rates and failure percentages are not evaluated",
        ),
        (
            |c| {
                c.typed_extension_protocol_options = [("x".to_owned(), google::Any::default())].into();
            },
            "typed_extension_protocol_options[\"x\"]: is not supported; envoy.extensions.upstreams.http.v3.HttpProtocolOptions is",
        ),
        (
            |c| {
                c.transport_socket_matches = vec![cluster::cluster::TransportSocketMatch {
                    r#match: Some(google::Struct { fields: [("tunnel".to_owned(), google::Value::default())].into() }),
                    ..Default::default()
                }];
            },
            "transport_socket_matches[0].match: \"tunnel\": only tlsMode",
        ),
    ];
    for (edit, expected) in edits {
        let mut cluster = eds_cluster();
        assert!(decode::cluster(&cluster.encode_to_vec()).is_ok());
        edit(&mut cluster);
        let error = decode::cluster(&cluster.encode_to_vec()).expect_err("a refusal").to_string();
        assert!(error.starts_with(expected), "{error}\n{expected}");
    }
}

#[test]
fn endpoints_with_names_are_refused() {
    let address = core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: "example.com".to_owned(),
            ..Default::default()
        })),
    };
    let assignment = endpoint::ClusterLoadAssignment {
        cluster_name: "x".to_owned(),
        endpoints: vec![endpoint::LocalityLbEndpoints {
            lb_endpoints: vec![endpoint::LbEndpoint {
                host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
                    address: Some(address),
                    ..Default::default()
                })),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    assert_eq!(
        decode::cluster_load_assignment(&assignment.encode_to_vec()).expect_err("a refusal").to_string(),
        "endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address: \"example.com\" is not an IP address; names are \
         not supported"
    );
}

/// `udpa.type.v1.TypedStruct`, in which Istio sends some of its filters.
fn typed_struct(type_url: &str, fields: google::Struct) -> google::Any {
    #[derive(Clone, PartialEq, Message)]
    struct TypedStruct {
        #[prost(string, tag = "1")]
        type_url: String,
        #[prost(message, optional, tag = "2")]
        value: Option<google::Struct>,
    }
    google::Any {
        type_url: "type.googleapis.com/udpa.type.v1.TypedStruct".to_owned(),
        value: TypedStruct { type_url: type_url.to_owned(), value: Some(fields) }.encode_to_vec(),
    }
}

fn structure(fields: Vec<(&str, google::value::Kind)>) -> google::Struct {
    google::Struct {
        fields: fields.into_iter().map(|(key, kind)| (key.to_owned(), google::Value { kind: Some(kind) })).collect(),
    }
}

#[test]
fn istios_filters_as_istio_sends_them() {
    use google::value::Kind;
    let list = |item: google::Struct| {
        Kind::ListValue(google::ListValue { values: vec![google::Value { kind: Some(Kind::StructValue(item)) }] })
    };
    let headers = |fields| structure(vec![("istio_headers", Kind::StructValue(structure(fields)))]);
    let peer = typed_struct(
        "type.googleapis.com/io.istio.http.peer_metadata.Config",
        structure(vec![
            ("upstream_discovery", list(headers(vec![]))),
            ("upstream_propagation", list(headers(vec![("skip_external_clusters", Kind::BoolValue(true))]))),
        ]),
    );
    let exchange = typed_struct(
        "type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange",
        structure(vec![
            ("protocol", Kind::StringValue("istio-peer-exchange".to_owned())),
            ("enable_discovery", Kind::BoolValue(true)),
        ]),
    );
    let stats = typed_struct(
        "type.googleapis.com/stats.PluginConfig",
        structure(vec![("disableHostHeaderFallback", Kind::BoolValue(true))]),
    );
    let empty = |name: &str| crate::any::empty_any(name);
    let filters = vec![
        http_filter("istio.metadata_exchange", peer),
        http_filter("fault", empty("envoy.extensions.filters.http.fault.v3.HTTPFault")),
        http_filter("cors", empty("envoy.extensions.filters.http.cors.v3.Cors")),
        http_filter("istio.stats", stats),
        hcm::HttpFilter { is_optional: true, ..http_filter("of another vendor", empty("a.B")) },
    ];
    let http = manager(route_to(to_cluster()), filters);
    let mut pb = listener_with(vec![chain(vec![exchange, any(&http)])]);
    pb.traffic_direction = core::TrafficDirection::Outbound.into();
    let decoded = decode::listener(&pb.encode_to_vec()).unwrap();
    let chain = &decoded.value.filter_chains[0];
    assert_eq!(chain.network_filters, [m::NetworkFilter::MetadataExchange]);
    let m::Terminal::Http(http) = &chain.terminal else { panic!("{chain:?}") };
    let direction = m::Direction::Outbound;
    assert_eq!(
        http.http_filters,
        [
            m::HttpFilter::PeerMetadata(m::PeerMetadata { direction, skip_external_clusters: true }),
            m::HttpFilter::Fault,
            m::HttpFilter::Cors,
            m::HttpFilter::Stats(m::StatsFilter { direction, host_header_fallback: false }),
        ]
    );
    let paths: Vec<_> = decoded.ignored.iter().map(|i| i.path.to_string()).collect();
    let filter = "filter_chains[0].filters[1].typed_config.http_filters";
    assert_eq!(
        paths,
        ["filter_chains[0].filters[0].typed_config.enable_discovery".to_owned(), format!("{filter}[4].typed_config"),]
    );
}

#[test]
fn routes_as_istio_sends_them() {
    let zero = || Some(google::Duration::default());
    let action = route::RouteAction {
        timeout: zero(),
        max_stream_duration: Some(route::route_action::MaxStreamDuration {
            max_stream_duration: zero(),
            grpc_timeout_header_max: zero(),
            ..Default::default()
        }),
        retry_policy: Some(route::RetryPolicy {
            retry_on: "connect-failure, unavailable,of-tomorrow".to_owned(),
            ..Default::default()
        }),
        ..to_cluster()
    };
    let pb = route::RouteConfiguration {
        name: "80".to_owned(),
        validate_clusters: Some(google::BoolValue { value: false }),
        virtual_hosts: vec![route::VirtualHost {
            name: "host".to_owned(),
            domains: vec!["A.example".to_owned()],
            routes: vec![route_to(action), route_to(to_cluster())],
            ..Default::default()
        }],
        ..Default::default()
    };
    let decoded = decode::route_configuration(&pb.encode_to_vec()).unwrap();
    let host = &decoded.value.virtual_hosts[0];
    assert_eq!(host.domains, ["a.example"]);
    let forward = |index: usize| match &host.routes[index].action {
        m::RouteAction::Forward(forward) => forward,
        other => panic!("{other:?}"),
    };
    assert_eq!(forward(0).timeout, None, "zero is no timeout");
    assert_eq!(forward(0).max_grpc_timeout, Some(Duration::ZERO));
    let retry = forward(0).retry.as_ref().unwrap();
    assert_eq!(retry.on, m::RetryOn::CONNECT_FAILURE.union(m::RetryOn::GRPC_UNAVAILABLE));
    assert_eq!((retry.num_retries, retry.back_off), (1, m::RetryBackOff::default()));
    assert_eq!(forward(1).timeout, Some(Duration::from_secs(15)), "Envoy's default");
    assert_eq!(decoded.ignored.len(), 1);
    assert_eq!(decoded.ignored[0].path.to_string(), "virtual_hosts[0].routes[0].route.retry_policy.retry_on");
}

#[test]
fn what_is_no_message() {
    let error = decode::cluster(b"\xff\xff\xff").expect_err("a refusal");
    assert!(error.to_string().starts_with("is not a valid message: "), "{error}");
    // Deeper than the decoder goes.
    let mut permission = rbac::Permission { rule: Some(rbac::permission::Rule::Any(true)) };
    for _ in 0..200 {
        permission = rbac::Permission { rule: Some(rbac::permission::Rule::NotRule(Box::new(permission))) };
    }
    let policy = rbac::Policy { permissions: vec![permission], ..Default::default() };
    let rbac = HttpRbac {
        rules: Some(rbac::Rbac { policies: [("p".to_owned(), policy)].into(), ..Default::default() }),
        ..Default::default()
    };
    let text = http_refusal(&manager(route_to(to_cluster()), vec![http_filter("rbac", any(&rbac))]));
    assert!(text.contains("http_filters[0].typed_config: is not a valid message"), "{text}");
}
