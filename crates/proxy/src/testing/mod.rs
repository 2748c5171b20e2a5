//! What unit tests of the proxy share: a process without threads, and the smallest resources of each type.

pub(crate) mod exchange;
mod profile;

use crate::bootstrap::{Environment, Role, Settings};
use crate::shared::Shared;
use crate::telemetry::Telemetry;
use crate::worker::{self, Worker};
use bytes::Bytes;
use lateen_model::dataplane::{
    CircuitBreakers, Cluster, ClusterLoadAssignment, ClusterMetadata, ClusterSpecifier, Codec, Direction, Discovery, Endpoint,
    EndpointHealth, FilterChain, FilterChainMatch, Forward, ForwardClientCert, HeaderMutation, HttpConnectionManager,
    HttpProtocolOptions, LbPolicy, Listener, ListenerFilters, Locality, LocalityEndpoints, PathMatch, PathNormalization, Route,
    RouteAction, RouteConfiguration, RouteFilters, RouteMatch, RouteSource, TcpDestination, TcpProxy, Terminal, TlsMode,
    TransportSocket, UpstreamHttp, VirtualHost, WeightedCluster,
};
use lateen_wire::encode::{self, EncodeOptions};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// The identity of [`shared`].
pub(crate) const OWN_URI: &str = "spiffe://cluster.local/ns/prod/sa/a-sa";

/// The settings of pod `a-1` in namespace `prod`.
pub(crate) fn settings() -> Settings {
    let environment: Environment = [
        ("POD_NAME", "a-1"),
        ("POD_NAMESPACE", "prod"),
        ("INSTANCE_IP", "10.1.0.4"),
        ("SERVICE_ACCOUNT", "a-sa"),
        ("ISTIO_META_WORKLOAD_NAME", "a"),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into();
    Settings::from_environment(Role::Sidecar, &environment, Path::new("/nonexistent/labels")).expect("complete")
}

/// A process with one worker that is not running.
pub(crate) fn shared() -> Arc<Shared> {
    let settings = settings();
    let telemetry = Arc::new(Telemetry::new(&settings));
    let (handle, _seat) = worker::seat(0);
    Arc::new(Shared::new(settings, Environment::new(), telemetry, vec![handle]))
}

/// A worker of [`shared`], on this thread.
pub(crate) fn worker(shared: &Arc<Shared>) -> Rc<Worker> {
    Rc::new(Worker::new(0, shared.clone()))
}

/// A cluster with these endpoints, or one that asks EDS for them under its own name.
pub(crate) fn cluster(name: &str, endpoints: Option<&[&str]>) -> Cluster {
    let discovery = match endpoints {
        Some(addresses) => Discovery::Static(assignment(name, addresses)),
        None => Discovery::Eds { service_name: name.to_owned() },
    };
    Cluster {
        name: name.to_owned(),
        stat_name: String::new(),
        discovery,
        connect_timeout: Duration::from_secs(10),
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
        tcp_metadata_exchange: false,
        metadata: ClusterMetadata::default(),
    }
}

/// Endpoints of a cluster, in one locality.
pub(crate) fn assignment(name: &str, addresses: &[&str]) -> ClusterLoadAssignment {
    let endpoint = |address: &&str| Endpoint {
        address: address.parse().expect("an address"),
        health: EndpointHealth::Healthy,
        weight: 1,
        tls_mode: TlsMode::Disabled,
        workload: None,
    };
    let endpoints: Vec<Endpoint> = addresses.iter().map(endpoint).collect();
    let locality = LocalityEndpoints { locality: Locality::default(), priority: 0, weight: None, endpoints };
    let localities = if locality.endpoints.is_empty() { Vec::new() } else { vec![locality] };
    ClusterLoadAssignment { cluster_name: name.to_owned(), localities }
}

/// A route to everywhere, by equal weight.
pub(crate) fn route(clusters: &[&str]) -> Route {
    let weighted = |name: &&str| WeightedCluster {
        name: (*name).to_owned(),
        weight: 1,
        request_headers: HeaderMutation::default(),
        response_headers: HeaderMutation::default(),
        host_rewrite: None,
    };
    let cluster = match clusters {
        [one] => ClusterSpecifier::Single((*one).to_owned()),
        many => ClusterSpecifier::Weighted(many.iter().map(weighted).collect()),
    };
    let forward = Forward {
        cluster,
        timeout: None,
        idle_timeout: None,
        max_grpc_timeout: None,
        path_rewrite: None,
        host_rewrite: None,
        retry: None,
        mirrors: Vec::new(),
        hash_policies: Vec::new(),
        cluster_not_found_status: 503,
    };
    Route {
        name: "default".to_owned(),
        matches: RouteMatch {
            path: PathMatch::Prefix("/".to_owned()),
            case_sensitive: true,
            headers: Vec::new(),
            query: Vec::new(),
        },
        action: RouteAction::Forward(Box::new(forward)),
        operation: None,
        filters: RouteFilters::default(),
        request_headers: HeaderMutation::default(),
        response_headers: HeaderMutation::default(),
        config_source: None,
    }
}

/// A route configuration with one virtual host and one route.
pub(crate) fn routes(name: &str, clusters: &[&str]) -> RouteConfiguration {
    RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![VirtualHost {
            name: "all".to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![route(clusters)],
            include_request_attempt_count: false,
            require_tls: false,
        }],
        ignore_port_in_host_matching: true,
        max_direct_response_body_bytes: 1 << 20,
    }
}

/// A connection manager as Istio's sidecars have it.
pub(crate) fn hcm(routes: RouteSource) -> HttpConnectionManager {
    HttpConnectionManager {
        stat_prefix: "test".to_owned(),
        codec: Codec::Auto,
        routes,
        http_filters: Vec::new(),
        server_name: Some("istio-envoy".to_owned()),
        use_remote_address: false,
        xff_num_trusted_hops: 0,
        forward_client_cert: ForwardClientCert::Sanitize,
        generate_request_id: true,
        preserve_external_request_id: false,
        path_normalization: PathNormalization::Base,
        upgrades: vec!["websocket".to_owned()],
        accept_http_10: false,
        stream_idle_timeout: None,
        request_headers_timeout: None,
        max_request_headers_kib: 60,
        idle_timeout: None,
        tracing: None,
        access_log: Vec::new(),
    }
}

/// A listener with one chain.
pub(crate) fn listener(name: &str, address: &str, terminal: Terminal) -> Listener {
    Listener {
        name: name.to_owned(),
        address: address.parse().expect("an address"),
        additional_addresses: Vec::new(),
        bind_to_port: false,
        use_original_dst: false,
        direction: Direction::Outbound,
        listener_filters: ListenerFilters::default(),
        filter_chains: vec![FilterChain {
            name: "chain".to_owned(),
            matches: FilterChainMatch::default(),
            tls: None,
            network_filters: Vec::new(),
            terminal,
        }],
        default_filter_chain: None,
        access_log: Vec::new(),
    }
}

/// Serves HTTP by a route configuration of RDS.
pub(crate) fn http(routes: &str) -> Terminal {
    Terminal::Http(Box::new(hcm(RouteSource::Rds(routes.to_owned()))))
}

/// Passes bytes to a cluster.
pub(crate) fn tcp(cluster: &str) -> Terminal {
    Terminal::Tcp(TcpProxy {
        stat_prefix: "test".to_owned(),
        destination: TcpDestination::Cluster(cluster.to_owned()),
        idle_timeout: None,
        hash_source_ip: false,
        tunnel: None,
        access_log: Vec::new(),
    })
}

/// A resource as it travels.
pub(crate) trait Encode {
    /// Its name and its bytes.
    fn encoded(&self) -> (String, Bytes);
}

impl Encode for Cluster {
    fn encoded(&self) -> (String, Bytes) {
        (self.name.clone(), encode::cluster(self, EncodeOptions::default()))
    }
}

impl Encode for ClusterLoadAssignment {
    fn encoded(&self) -> (String, Bytes) {
        (self.cluster_name.clone(), encode::cluster_load_assignment(self))
    }
}

impl Encode for RouteConfiguration {
    fn encoded(&self) -> (String, Bytes) {
        (self.name.clone(), encode::route_configuration(self))
    }
}

impl Encode for Listener {
    fn encoded(&self) -> (String, Bytes) {
        (self.name.clone(), encode::listener(self, EncodeOptions::default()))
    }
}
