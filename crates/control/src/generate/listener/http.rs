//! HTTP connection managers of sidecars.

use crate::generate::proxy::Proxy;
use crate::generate::{mesh, rate_limit};
use crate::world::World;
use lateen_model::dataplane::{
    Codec, Direction, ForwardClientCert, HttpConnectionManager, HttpFilter, PeerMetadata, Rbac, RouteSource,
};
use std::time::Duration;

/// The largest head of a request, in KiB (Envoy's default).
const MAX_REQUEST_HEADERS_KIB: u32 = 60;

/// A connection manager of a direction, without filters of its own.
fn manager(world: &World, proxy: &Proxy, direction: Direction, routes: RouteSource) -> HttpConnectionManager {
    let headers = mesh::headers(world.mesh());
    HttpConnectionManager {
        stat_prefix: String::new(),
        codec: Codec::Auto,
        routes,
        http_filters: Vec::new(),
        server_name: headers.server,
        use_remote_address: false,
        xff_num_trusted_hops: 0,
        forward_client_cert: match direction {
            Direction::Inbound => headers.forward_client_cert,
            Direction::Outbound | Direction::Unspecified => ForwardClientCert::Sanitize,
        },
        generate_request_id: headers.request_id,
        preserve_external_request_id: true,
        path_normalization: mesh::path_normalization(world.mesh()),
        upgrades: vec!["websocket".to_owned()],
        accept_http_10: proxy.http10,
        // Istio turns Envoy's 5 minutes off: streams may be silent for as long as the application wants.
        stream_idle_timeout: Some(Duration::ZERO),
        request_headers_timeout: None,
        max_request_headers_kib: MAX_REQUEST_HEADERS_KIB,
        idle_timeout: None,
        tracing: mesh::tracing(world, proxy),
        access_log: mesh::access_log(world.mesh()),
    }
}

/// From the application to the mesh.
pub(super) fn outbound(world: &World, proxy: &Proxy, stat_prefix: String, route: &str) -> HttpConnectionManager {
    let direction = Direction::Outbound;
    HttpConnectionManager {
        stat_prefix,
        http_filters: vec![
            HttpFilter::PeerMetadata(PeerMetadata { direction, skip_external_clusters: true }),
            HttpFilter::GrpcStats,
            HttpFilter::Alpn,
            HttpFilter::Fault,
            HttpFilter::Cors,
            HttpFilter::Stats(super::stats(direction)),
        ],
        ..manager(world, proxy, direction, RouteSource::Rds(route.to_owned()))
    }
}

/// From anywhere to the mesh. Who connects is the client itself, unless proxies in front are trusted.
pub(super) fn gateway(
    world: &World,
    proxy: &Proxy,
    stat_prefix: String,
    (route, rbac): (&str, &[Rbac]),
) -> HttpConnectionManager {
    let direction = Direction::Outbound;
    let topology = mesh::gateway_topology(world.mesh(), proxy);
    let mut http_filters = vec![HttpFilter::PeerMetadata(PeerMetadata { direction, skip_external_clusters: true })];
    http_filters.extend(rbac.iter().cloned().map(HttpFilter::Rbac));
    // After authorization: who may not come takes nobody's token.
    http_filters.extend(rate_limit::limits(world, proxy).into_iter().map(HttpFilter::RateLimit));
    http_filters.extend([HttpFilter::GrpcStats, HttpFilter::Alpn, HttpFilter::Fault, HttpFilter::Cors]);
    http_filters.push(HttpFilter::Stats(super::stats(direction)));
    HttpConnectionManager {
        stat_prefix,
        http_filters,
        use_remote_address: true,
        xff_num_trusted_hops: topology.trusted_proxies,
        forward_client_cert: topology.forward_client_cert,
        ..manager(world, proxy, direction, RouteSource::Rds(route.to_owned()))
    }
}

/// From the mesh to the application. Metadata comes first, so that a refused request is counted with its peer.
pub(super) fn inbound(
    world: &World,
    proxy: &Proxy,
    stat_prefix: String,
    (routes, rbac): (RouteSource, &[Rbac]),
) -> HttpConnectionManager {
    let direction = Direction::Inbound;
    let mut http_filters = vec![HttpFilter::PeerMetadata(PeerMetadata { direction, skip_external_clusters: false })];
    http_filters.extend(rbac.iter().cloned().map(HttpFilter::Rbac));
    // After authorization: who may not come takes nobody's token.
    http_filters.extend(rate_limit::limits(world, proxy).into_iter().map(HttpFilter::RateLimit));
    http_filters.push(HttpFilter::GrpcStats);
    http_filters.push(HttpFilter::Stats(super::stats(direction)));
    HttpConnectionManager { stat_prefix, http_filters, ..manager(world, proxy, direction, routes) }
}
