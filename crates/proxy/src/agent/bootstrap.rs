//! What Envoy is started with (`envoy.config.bootstrap.v3.Bootstrap`): who it is, where its configuration and its secrets come
//! from, and the ports that Istio's sidecars have.

use crate::bootstrap::Settings;
use crate::name_server::FORWARDER_PORT;
use lateen_model::dataplane::{LOCAL_CLUSTER, Locality};
use serde_json::{Value, json};
use std::path::Path;

/// Prometheus, on all addresses.
const PROMETHEUS: u16 = 15090;

/// `SOL_SOCKET` and `SO_MARK` of Linux, which Envoy's `socket_options` want as numbers.
const SOL_SOCKET: u8 = 1;
const SO_MARK: u8 = 36;

pub(super) fn bootstrap(settings: &Settings, discovery: &Path, secrets: &Path) -> Value {
    let mut metadata = settings.metadata.clone();
    // Says that the own engine runs, which it does not.
    metadata.remove("LATEEN_VERSION");
    let from_ads = json!({"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"});
    let mut bootstrap = json!({
        "node": {"id": settings.node_id, "cluster": settings.node_cluster, "metadata": metadata},
        "admin": {"address": tcp("127.0.0.1", super::ADMIN)},
        "layered_runtime": {"layers": [{"name": "global", "static_layer": {
            "overload.global_downstream_max_connections": "2147483647",
            "re2.max_program_size.error_level": "32768",
            // Limits on requests of each identity ask for it.
            "envoy.reloadable_features.enable_formatter_for_ratelimit_action_descriptor_value": true,
        }}]},
        "dynamic_resources": {
            "lds_config": from_ads,
            "cds_config": from_ads,
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}],
            },
        },
        "static_resources": {
            "listeners": [prometheus_listener()],
            "clusters": [
                grpc_cluster("xds-grpc", discovery),
                grpc_cluster("sds-grpc", secrets),
                static_cluster("prometheus_stats", &tcp("127.0.0.1", super::ADMIN)),
            ],
        },
    });
    let Locality { region, zone, sub_zone } = &settings.locality;
    bootstrap["node"]["locality"] = json!({"region": region, "zone": zone, "sub_zone": sub_zone});
    if settings.self_discovery {
        // Of the proxies that a cluster manager shares its load with it must know from the start.
        bootstrap["cluster_manager"]["local_cluster_name"] = LOCAL_CLUSTER.into();
        let cluster = json!({"name": LOCAL_CLUSTER, "type": "EDS", "eds_cluster_config": {"eds_config": from_ads}});
        if let Some(clusters) = bootstrap["static_resources"]["clusters"].as_array_mut() {
            clusters.push(cluster);
        }
    }
    if let Some(mark) = settings.sockets.mark {
        // So that capture leaves alone what Envoy sends.
        bootstrap["cluster_manager"]["upstream_bind_config"] = json!({"socket_options": [{
            "description": "mark", "level": SOL_SOCKET, "name": SO_MARK, "int_value": mark, "state": "STATE_PREBIND",
        }]});
    }
    if settings.dns_capture {
        // Its questions would be captured as the application's are, and answered with addresses that lead back to itself.
        bootstrap["typed_dns_resolver_config"] = json!({
            "name": "envoy.network.dns_resolver.cares",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
                "resolvers": [tcp("127.0.0.1", FORWARDER_PORT)],
            },
        });
    }
    bootstrap
}

fn tcp(address: &str, port: u16) -> Value {
    json!({"socket_address": {"address": address, "port_value": port}})
}

fn static_cluster(name: &str, address: &Value) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]},
    })
}

fn grpc_cluster(name: &str, path: &Path) -> Value {
    let mut cluster = static_cluster(name, &json!({"pipe": {"path": path}}));
    cluster["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        },
    });
    cluster
}

fn prometheus_listener() -> Value {
    let route = json!({"match": {"prefix": "/stats/prometheus"}, "route": {"cluster": "prometheus_stats"}});
    json!({
        "name": "prometheus",
        "address": tcp("0.0.0.0", PROMETHEUS),
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "stats",
                "route_config": {"virtual_hosts": [{"name": "backend", "domains": ["*"], "routes": [route]}]},
                "http_filters": [{
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
                }],
            },
        }]}],
    })
}
