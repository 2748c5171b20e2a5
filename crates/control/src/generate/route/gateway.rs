//! Routes (RDS) of gateways.

use super::{RouteContext, Via, rules};
use crate::generate::gateway::{self, BoundServer};
use crate::generate::mesh;
use crate::names;
use crate::world::Semantics;
use lateen_model::dataplane::{Route, VirtualHost};
use std::collections::BTreeMap;

/// What becomes a virtual host.
#[derive(Default)]
struct Pending {
    routes: Vec<Route>,
    /// Whether more than one VirtualService has the host.
    merged: bool,
    require_tls: bool,
}

/// The virtual hosts of a route name. VirtualServices of one host are merged, the oldest first; without any host there is
/// one that answers every request with 404.
pub(super) fn virtual_hosts(context: RouteContext<'_>, name: &str) -> Vec<VirtualHost> {
    let merged = gateway::merged(context.world, context.proxy);
    let servers = merged.with_routes(name);
    let port = servers.first().map_or_else(|| port_of(name), |s| s.written_port);
    let mut hosts: BTreeMap<String, Pending> = BTreeMap::new();
    let mut done: Vec<(String, u64, String)> = Vec::new();
    for server in servers {
        add_routes(context, server, &mut hosts, &mut done);
        if server.gateway.semantics == Semantics::GatewayApi {
            // A host that a listener has is not served by the routes of another one with a wildcard.
            for host in server.hosts.iter().filter(|h| h.host.as_str() != "*") {
                hosts.entry(host.host.as_str().to_owned()).or_default();
            }
        }
        if server.redirects_to_https() {
            for host in &server.hosts {
                hosts.entry(host.host.as_str().to_owned()).or_default();
            }
            for (host, pending) in &mut hosts {
                pending.require_tls |= server.hosts.iter().any(|h| h.intersection(host).is_some());
            }
        }
    }
    let include_request_attempt_count = mesh::headers(context.world.mesh()).attempt_count;
    if hosts.is_empty() {
        return vec![VirtualHost {
            name: format!("blackhole:{port}"),
            domains: vec!["*".to_owned()],
            routes: Vec::new(),
            include_request_attempt_count: false,
            require_tls: false,
        }];
    }
    let host = |(host, pending): (String, Pending)| VirtualHost {
        name: names::virtual_host(&host, port),
        domains: vec![domain(host)],
        routes: if pending.merged { sorted(pending.routes) } else { pending.routes },
        include_request_attempt_count,
        require_tls: pending.require_tls,
    };
    hosts.into_iter().map(host).collect()
}

/// `http.8080`, `https.8443.…`: the port of a name that no server has.
fn port_of(name: &str) -> u16 {
    name.split('.').nth(1).and_then(|p| p.parse().ok()).unwrap_or(0)
}

/// An IPv6 address stands in brackets in `:authority`.
fn domain(host: String) -> String {
    if host.parse::<std::net::Ipv6Addr>().is_ok() { format!("[{host}]") } else { host }
}

fn add_routes(
    context: RouteContext<'_>,
    server: &BoundServer<'_>,
    hosts: &mut BTreeMap<String, Pending>,
    done: &mut Vec<(String, u64, String)>,
) {
    let name = server.gateway_name();
    let context = RouteContext { via: Via::Gateway { name: &name, tls: server.protocol.is_tls() }, ..context };
    for entry in context.scope.virtual_services.iter().filter(|e| gateway::is_bound(e, &name)) {
        let served = server.hosts_of(entry);
        if served.is_empty() {
            continue;
        }
        let routes = rules::routes(context, entry, server.written_port);
        if routes.is_empty() {
            continue;
        }
        for host in served {
            // Two servers of one Gateway may have the same host.
            let key = (name.clone(), entry.rev.get(), host.clone());
            if done.contains(&key) {
                continue;
            }
            done.push(key);
            let pending = hosts.entry(host).or_default();
            pending.merged |= !pending.routes.is_empty();
            pending.routes.extend(routes.iter().cloned());
        }
    }
}

/// Routes that match everything come last; of equal conditions the first holds.
fn sorted(routes: Vec<Route>) -> Vec<Route> {
    let mut kept: Vec<Route> = Vec::with_capacity(routes.len());
    for route in routes {
        if !kept.iter().any(|k| k.matches == route.matches) {
            kept.push(route);
        }
    }
    let (last, mut first): (Vec<_>, Vec<_>) = kept.into_iter().partition(|r| rules::is_catch_all(&r.matches));
    first.extend(last);
    first
}
