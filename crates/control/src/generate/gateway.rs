//! Which Gateways hold for a proxy of the type `router`, and what of their servers it serves on which port.

use super::inbound;
use super::proxy::Proxy;
use crate::world::{Entry, Semantics, World};
use lateen_model::resource::{
    Gateway, GatewayHost, MESH_GATEWAY, Server, ServerProtocol, ServerTlsMode, VirtualService, is_subset,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// One server of a Gateway, as a proxy serves it.
#[derive(Clone, Debug)]
pub struct BoundServer<'a> {
    /// The Gateway.
    pub gateway: &'a Arc<Entry<Gateway>>,
    /// The server.
    pub server: &'a Server,
    /// What is spoken.
    pub protocol: ServerProtocol,
    /// Its hosts, with the namespaces that may attach to them.
    pub hosts: Vec<GatewayHost>,
    /// The port as it is written: that of the Service in front.
    pub written_port: u16,
    /// The port that the proxy listens on.
    pub port: u16,
    /// The address that the proxy listens on; `None`: all.
    pub bind: Option<IpAddr>,
}

/// Where a proxy listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The port of the pod.
    pub port: u16,
    /// The address; `None`: all.
    pub bind: Option<IpAddr>,
}

/// What all Gateways of a proxy ask for together.
#[derive(Clone, Debug, Default)]
pub struct Merged<'a> {
    /// Servers by where they listen, those of the oldest Gateway first. All of one place are plain HTTP, or one server of
    /// bytes, or TLS with different hosts.
    pub places: BTreeMap<Place, Vec<BoundServer<'a>>>,
    /// Servers that cannot be served because an older one has their place or their hosts.
    pub rejected: Vec<BoundServer<'a>>,
}

impl BoundServer<'_> {
    /// The Gateway as VirtualServices name it, `NAMESPACE/NAME`.
    pub fn gateway_name(&self) -> String {
        format!("{}/{}", self.gateway.namespace(), self.gateway.name())
    }

    /// The name of its routes: shared by plain HTTP of a port, own for each server with HTTPS.
    pub fn route_name(&self) -> String {
        if self.protocol.is_tls() {
            let name = self.server.port.as_ref().map(|p| p.name.as_str()).unwrap_or_default();
            return format!("https.{}.{name}.{}.{}", self.port, self.gateway.name(), self.gateway.namespace());
        }
        match self.bind {
            None => format!("http.{}", self.port),
            Some(bind) => format!("http.{}.{bind}", self.port),
        }
    }

    /// How TLS is done; without TLS it is none.
    pub fn tls_mode(&self) -> Option<ServerTlsMode> {
        self.server.tls.as_ref().filter(|_| self.protocol.is_tls()).map(|t| t.mode)
    }

    /// Whether requests are read.
    pub fn reads_http(&self) -> bool {
        match self.protocol {
            ServerProtocol::Http => true,
            ServerProtocol::Https => self.tls_mode().is_some_and(ServerTlsMode::terminates),
            ServerProtocol::Tls | ServerProtocol::Tcp => false,
        }
    }

    /// Whether plain requests are sent to the same URL with `https`.
    pub fn redirects_to_https(&self) -> bool {
        self.protocol == ServerProtocol::Http && self.server.tls.as_ref().is_some_and(|t| t.https_redirect)
    }

    /// The server names of its TLS clients; empty: any.
    pub fn server_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.hosts.iter().map(|h| h.host.as_str().to_owned()).collect();
        names.sort();
        names.dedup();
        if names.iter().any(|n| n == "*") { Vec::new() } else { names }
    }

    /// The hosts of a VirtualService that this server serves, each narrowed to what both cover.
    pub fn hosts_of(&self, entry: &Entry<VirtualService>) -> BTreeSet<String> {
        let admitting = self.hosts.iter().filter(|h| h.admits(entry.namespace(), self.gateway.namespace()));
        admitting.flat_map(|h| entry.hosts.iter().filter_map(|wanted| h.intersection(wanted))).map(str::to_owned).collect()
    }
}

/// The name of a gateway as a VirtualService of `namespace` writes it, in full: `NAMESPACE/NAME`, or `mesh`.
pub fn full_name(written: &str, namespace: &str) -> String {
    if written == MESH_GATEWAY {
        return MESH_GATEWAY.to_owned();
    }
    match written.split_once('/') {
        Some((".", name)) => format!("{namespace}/{name}"),
        Some(_) => written.to_owned(),
        None => match written.split('.').collect::<Vec<_>>().as_slice() {
            // The old form, NAME.NAMESPACE.
            [name, other, ..] => format!("{other}/{name}"),
            _ => format!("{namespace}/{written}"),
        },
    }
}

/// Whether a VirtualService is bound to a gateway, by its full name.
pub fn is_bound(entry: &Entry<VirtualService>, gateway: &str) -> bool {
    entry.resource.spec.gateways.iter().any(|g| full_name(g, entry.namespace()) == gateway)
}

/// The Gateways that select a proxy, oldest first.
pub fn of_proxy<'a>(world: &'a World, proxy: &Proxy) -> Vec<&'a Arc<Entry<Gateway>>> {
    let near = |gateway: &Entry<Gateway>| {
        let scoped = world.settings().scope_gateway_to_namespace || gateway.semantics == Semantics::GatewayApi;
        !scoped || gateway.namespace() == &*proxy.namespace
    };
    let all = world.namespaces().flat_map(|(_, ns)| ns.gateways.iter()).filter(|g| near(g));
    let mut selected: Vec<_> = all.filter(|g| is_subset(&g.resource.spec.selector, &proxy.labels)).collect();
    selected.sort_by(|a, b| a.order.cmp(&b.order));
    selected
}

/// What the Gateways of a proxy ask for together.
pub fn merged<'a>(world: &'a World, proxy: &Proxy) -> Merged<'a> {
    let mut merged = Merged::default();
    for gateway in of_proxy(world, proxy) {
        for server in &gateway.resource.spec.servers {
            if let Some(bound) = bind(world, proxy, gateway, server) {
                merged.add(bound);
            }
        }
    }
    merged
}

/// `None`: what cannot be read was refused when the manifest was read.
fn bind<'a>(world: &World, proxy: &Proxy, gateway: &'a Arc<Entry<Gateway>>, server: &'a Server) -> Option<BoundServer<'a>> {
    let port = server.port.as_ref()?;
    let number = port.number()?;
    Some(BoundServer {
        gateway,
        server,
        protocol: port.protocol()?,
        hosts: server.hosts.iter().filter_map(|h| GatewayHost::parse(h).ok()).collect(),
        written_port: number,
        port: own_port(world, proxy, number),
        bind: server.bind.parse().ok(),
    })
}

/// The pod's port behind a port of the Service in front of it (the oldest with that port); without one it is the same.
fn own_port(world: &World, proxy: &Proxy, number: u16) -> u16 {
    let services = inbound::services(world, proxy);
    let target = services.iter().find_map(|service| inbound::resolve(proxy, &service.port(number)?.target));
    target.unwrap_or(number)
}

impl<'a> Merged<'a> {
    fn add(&mut self, server: BoundServer<'a>) {
        let place = Place { port: server.port, bind: server.bind };
        let there = self.places.entry(place).or_default();
        let fits = match there.first() {
            None => true,
            Some(first) if first.protocol == ServerProtocol::Http => server.protocol == ServerProtocol::Http,
            Some(first) => {
                let names = |s: &BoundServer<'_>| s.hosts.iter().map(|h| h.host.as_str().to_owned()).collect::<BTreeSet<_>>();
                let taken: BTreeSet<String> = there.iter().flat_map(names).collect();
                first.protocol.is_tls() && server.protocol.is_tls() && taken.is_disjoint(&names(&server))
            }
        };
        if fits {
            there.push(server);
        } else {
            self.rejected.push(server);
        }
    }

    /// The servers whose routes have this name.
    pub fn with_routes(&self, name: &str) -> Vec<&BoundServer<'a>> {
        self.places.values().flatten().filter(|s| s.reads_http() && s.route_name() == name).collect()
    }

    /// Whether any server passes TLS on by its name alone, for which there are clusters of their own.
    pub fn passes_automatically(&self) -> bool {
        self.places.values().flatten().any(|s| s.tls_mode() == Some(ServerTlsMode::AutoPassthrough))
    }
}

#[cfg(test)]
#[path = "gateway_tests.rs"]
mod tests;
