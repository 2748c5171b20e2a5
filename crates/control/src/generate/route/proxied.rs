//! Routes of ports at which a sidecar is its application's HTTP proxy: there the request alone says which service it is for, and
//! which port of it.

use super::{RouteContext, catch_all_blocking, serves_http, virtual_hosts};
use crate::generate::scope::ScopedService;
use lateen_model::dataplane::VirtualHost;
use std::collections::BTreeSet;

/// All ports of these services: by `host:port`, those of 80 by `host` as well. What nobody knows is refused: the connection's own
/// destination is this proxy.
pub(super) fn virtual_hosts_of(context: RouteContext<'_>, services: &[&ScopedService]) -> Vec<VirtualHost> {
    let http_ports = |s: &&ScopedService| s.ports().filter(|p| serves_http(p)).map(|p| p.number).collect::<Vec<_>>();
    let ports: BTreeSet<u16> = services.iter().flat_map(http_ports).chain([80]).collect();
    let mut out = Vec::new();
    for port in ports {
        let with_port: Vec<&ScopedService> = services.iter().copied().filter(|s| s.port(port).is_some_and(serves_http)).collect();
        let mut hosts = virtual_hosts(context, &with_port, port);
        hosts.sort_by(|a, b| a.name.cmp(&b.name));
        for host in &mut hosts {
            host.domains = with_ports(&host.domains, port);
        }
        out.extend(hosts);
    }
    out.push(catch_all_blocking(context));
    out
}

fn with_ports(domains: &[String], port: u16) -> Vec<String> {
    let bare = domains.iter().filter(|_| port == 80).cloned();
    // A pattern that ends in `*` has no port to add.
    let named = domains.iter().filter(|d| !d.ends_with('*')).map(|domain| format!("{domain}:{port}"));
    bare.chain(named).collect()
}
