//! Routes (RDS) of sidecars towards the mesh.

mod domains;
mod extras;
mod gateway;
mod proxied;
mod rules;

pub use rules::default_retry;

use super::proxy::{Proxy, ProxyRole};
use super::scope::{Scope, ScopedService};
use super::tenancy::may_route;
use super::{hash, mesh};
use crate::names;
use crate::world::{Entry, Name, ServicePort, World};
use domains::DomainSet;
use lateen_model::dataplane::{
    ClusterSpecifier, DirectResponse, Forward, HeaderMutation, PathMatch, Route, RouteAction, RouteConfiguration, RouteFilters,
    RouteMatch, VirtualHost,
};
use lateen_model::resource::{VirtualService, host};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The longest direct response that passes, in bytes (Istio's bound on `directResponse.body`).
const MAX_DIRECT_RESPONSE: u32 = 1024 * 1024;

/// What is needed to make routes.
#[derive(Clone, Copy)]
pub struct RouteContext<'a> {
    /// The mesh.
    pub world: &'a World,
    /// What the proxy may know.
    pub scope: &'a Scope,
    /// For whom.
    pub proxy: &'a Proxy,
    /// Where requests come from.
    pub via: Via<'a>,
}

/// Where requests come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via<'a> {
    /// The application beside the sidecar (Istio's gateway `mesh`).
    Mesh,
    /// Clients of a gateway.
    Gateway {
        /// `NAMESPACE/NAME`.
        name: &'a str,
        /// Whether they speak TLS.
        tls: bool,
    },
}

impl Via<'_> {
    /// Whether clients speak TLS to the proxy.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Gateway { tls: true, .. })
    }
}

/// Which routes a name asks for.
enum Requested<'a> {
    /// `80`: all services with an HTTP port of this number.
    Port(u16),
    /// `http_proxy`: all services with HTTP ports.
    Proxied,
    /// `HOST:80`: one service whose port is sniffed.
    Sniffed { host: &'a str, port: u16 },
}

fn parse(name: &str) -> Option<Requested<'_>> {
    if let Ok(port) = name.parse() {
        return Some(Requested::Port(port));
    }
    if name == names::HTTP_PROXY_ROUTE {
        return Some(Requested::Proxied);
    }
    let (host, port) = name.rsplit_once(':')?;
    Some(Requested::Sniffed { host, port: port.parse().ok()? })
}

/// The routes of this name. An unknown name gets routes that lead nowhere, because a listener may wait for them.
pub fn of_name(context: RouteContext<'_>, name: &str) -> RouteConfiguration {
    let virtual_hosts = match parse(name) {
        _ if context.proxy.role == ProxyRole::Router => gateway::virtual_hosts(context, name),
        Some(Requested::Port(port)) => of_port(context, port),
        Some(Requested::Proxied) => proxied::virtual_hosts_of(context, &context.scope.visible().collect::<Vec<_>>()),
        Some(Requested::Sniffed { host, port }) => of_sniffed(context, host, port),
        None => vec![catch_all(context)],
    };
    RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts,
        ignore_port_in_host_matching: !is_proxied(context, name),
        max_direct_response_body_bytes: MAX_DIRECT_RESPONSE,
    }
}

/// Whether the application uses the proxy as such there, so that the request's own port counts.
fn is_proxied(context: RouteContext<'_>, name: &str) -> bool {
    name == names::HTTP_PROXY_ROUTE || name.parse().is_ok_and(|port: u16| context.scope.proxied.contains_key(&port))
}

fn of_port(context: RouteContext<'_>, port: u16) -> Vec<VirtualHost> {
    if let Some(hosts) = context.scope.proxied.get(&port) {
        let known = context.scope.services.iter().filter(|s| hosts.contains(&s.service.host)).collect::<Vec<_>>();
        return proxied::virtual_hosts_of(context, &known);
    }
    let with_port = |s: &&ScopedService| s.port(port).is_some_and(serves_http);
    let services: Vec<&ScopedService> = context.scope.visible().filter(with_port).collect();
    let mut hosts = virtual_hosts(context, &services, port);
    hosts.sort_by(|a, b| a.name.cmp(&b.name));
    hosts.push(catch_all(context));
    hosts
}

fn of_sniffed(context: RouteContext<'_>, host: &str, port: u16) -> Vec<VirtualHost> {
    let service = context.scope.service(host).filter(|s| s.port(port).is_some_and(serves_http));
    let services: Vec<&ScopedService> = service.into_iter().collect();
    let name = names::virtual_host(host, port);
    let mut hosts: Vec<VirtualHost> =
        virtual_hosts(context, &services, port).into_iter().filter(|v| v.name == name).take(1).collect();
    for host in &mut hosts {
        // The connection's destination has chosen the service; whatever host a request names is this one's.
        host.domains = vec!["*".into()];
    }
    hosts
}

fn serves_http(port: &ServicePort) -> bool {
    port.protocol.is_http() || port.protocol.is_auto()
}

/// Virtual hosts of VirtualServices, then of services that none of them covers.
fn virtual_hosts(context: RouteContext<'_>, services: &[&ScopedService], port: u16) -> Vec<VirtualHost> {
    let mut taken = DomainSet::new(mesh::headers(context.world.mesh()).attempt_count);
    let mut covered: BTreeSet<Name> = BTreeSet::new();
    let mut out = Vec::new();
    let claims = claims(context, services);
    for entry in &context.scope.virtual_services {
        let known: Vec<&ScopedService> =
            services.iter().copied().filter(|s| claims.get(&s.service.host).is_some_and(|rev| *rev == entry.rev.get())).collect();
        let unknown: Vec<&Name> = entry.hosts.iter().filter(|h| !is_known(h, services)).collect();
        let unknown_port = port == 80 && !unknown.is_empty();
        if known.is_empty() && !unknown_port {
            continue;
        }
        let routes = rules::routes(context, entry, port);
        if routes.is_empty() {
            continue;
        }
        for service in known {
            covered.insert(Name::clone(&service.service.host));
            let domains = domains::of_service(context, &service.service);
            out.extend(taken.virtual_host(names::virtual_host(&service.service.host, port), domains, routes.clone()));
        }
        if unknown_port {
            for host in unknown {
                let domains = domains::of_host(context, host);
                out.extend(taken.virtual_host(names::virtual_host(host, port), domains, routes.clone()));
            }
        }
    }
    for service in services.iter().filter(|s| !covered.contains(&s.service.host)) {
        let domains = domains::of_service(context, &service.service);
        let route = default_route(context, &service.service.host, port);
        out.extend(taken.virtual_host(names::virtual_host(&service.service.host, port), domains, vec![route]));
    }
    out
}

fn is_known(host: &str, services: &[&ScopedService]) -> bool {
    services.iter().any(|s| host::subset_of(&s.service.host, host))
}

/// Which VirtualService has which service, by revision: the one with the most specific host; of equal hosts the first.
fn claims(context: RouteContext<'_>, services: &[&ScopedService]) -> BTreeMap<Name, u64> {
    let mut out = BTreeMap::new();
    for service in services {
        let mut best: Option<(&str, &Arc<Entry<VirtualService>>)> = None;
        let may =
            |entry: &&Arc<Entry<VirtualService>>| may_route(context.world, &context.scope.key.namespace, entry, &service.service);
        for entry in context.scope.virtual_services.iter().filter(may) {
            let Some(host) = host::most_specific(&service.service.host, entry.hosts.iter().map(|h| &**h)) else { continue };
            if best.is_none_or(|(current, _)| host::by_specificity(host, current).is_lt()) {
                best = Some((host, entry));
            }
        }
        if let Some((_, entry)) = best {
            out.insert(Name::clone(&service.service.host), entry.rev.get());
        }
    }
    out
}

/// Everything to the service, with the mesh's retries and without a timeout.
fn default_route(context: RouteContext<'_>, host: &str, port: u16) -> Route {
    let forward = Forward {
        retry: default_retry(context.world.mesh()),
        ..forward(ClusterSpecifier::Single(names::outbound_cluster(port, "", host)))
    };
    Route {
        name: "default".into(),
        matches: everything(),
        action: RouteAction::Forward(Box::new(hash::complete(context.world, context.proxy, forward, false))),
        operation: Some(format!("{host}:{port}/*")),
        filters: RouteFilters::default(),
        request_headers: HeaderMutation::default(),
        response_headers: HeaderMutation::default(),
        config_source: None,
    }
}

/// A route without a timeout, retries or rewrites. `grpc-timeout` is honoured without a limit of our own.
pub(super) fn forward(cluster: ClusterSpecifier) -> Forward {
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

/// Matches each request.
pub(super) fn everything() -> RouteMatch {
    RouteMatch { path: PathMatch::Prefix("/".into()), case_sensitive: true, headers: Vec::new(), query: Vec::new() }
}

/// Requests to hosts that nobody knows: on to where the client wanted, or 502.
fn catch_all(context: RouteContext<'_>) -> VirtualHost {
    catch_all_if(context, context.scope.registry_only)
}

/// Requests to hosts that nobody knows: 502.
fn catch_all_blocking(context: RouteContext<'_>) -> VirtualHost {
    catch_all_if(context, true)
}

fn catch_all_if(context: RouteContext<'_>, blocks: bool) -> VirtualHost {
    let (name, action) = if blocks {
        ("block_all", RouteAction::DirectResponse(DirectResponse { status: 502, body: Vec::new() }))
    } else {
        let cluster = context.scope.egress_proxy.clone().unwrap_or_else(|| names::PASSTHROUGH.to_owned());
        let cluster = ClusterSpecifier::Single(cluster);
        ("allow_any", RouteAction::Forward(Box::new(forward(cluster))))
    };
    let route = Route {
        name: name.into(),
        matches: everything(),
        action,
        operation: None,
        filters: RouteFilters::default(),
        request_headers: HeaderMutation::default(),
        response_headers: HeaderMutation::default(),
        config_source: None,
    };
    let include_request_attempt_count = mesh::headers(context.world.mesh()).attempt_count;
    VirtualHost {
        name: name.into(),
        domains: vec!["*".into()],
        routes: vec![route],
        include_request_attempt_count,
        require_tls: false,
    }
}

/// The one route of an inbound port, written in its listener.
pub fn inbound(world: &World, port: &super::inbound::InboundPort) -> RouteConfiguration {
    let cluster = names::inbound_cluster(port.target);
    let retry = if port.protocol.is_grpc() { None } else { mesh::inbound_retry(world.mesh()) };
    let operation = port.services.first().map(|s| format!("{}:{}/*", s.host, port.service_port));
    inbound_route((cluster, port.service_port), retry, operation)
}

/// The route of inbound ports that no service names.
pub fn inbound_passthrough(world: &World) -> RouteConfiguration {
    inbound_route((names::INBOUND_PASSTHROUGH.to_owned(), 0), mesh::inbound_retry(world.mesh()), None)
}

fn inbound_route(
    (cluster, service_port): (String, u16),
    retry: Option<lateen_model::dataplane::RetryPolicy>,
    operation: Option<String>,
) -> RouteConfiguration {
    let forward = Forward { retry, ..forward(ClusterSpecifier::Single(cluster.clone())) };
    let route = Route {
        name: "default".into(),
        matches: everything(),
        action: RouteAction::Forward(Box::new(forward)),
        operation,
        filters: RouteFilters::default(),
        request_headers: HeaderMutation::default(),
        response_headers: HeaderMutation::default(),
        config_source: None,
    };
    RouteConfiguration {
        name: cluster,
        virtual_hosts: vec![VirtualHost {
            name: format!("inbound|http|{service_port}"),
            domains: vec!["*".into()],
            routes: vec![route],
            // The application sees the client's tries; this proxy's own would overwrite their number.
            include_request_attempt_count: false,
            require_tls: false,
        }],
        ignore_port_in_host_matching: false,
        max_direct_response_body_bytes: MAX_DIRECT_RESPONSE,
    }
}

#[cfg(test)]
mod tests;
