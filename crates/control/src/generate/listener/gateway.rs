//! Listeners of gateways: one for each port and address that their Gateways' servers have.

use super::{http, stats};
use crate::generate::gateway::{self, BoundServer, Merged, Place};
use crate::generate::l4::{self, L4Context};
use crate::generate::proxy::Proxy;
use crate::generate::rbac::{self, Layer};
use crate::generate::scope::Scope;
use crate::generate::{mesh, tls};
use crate::names;
use crate::world::{Entry, World};
use lateen_model::dataplane::{
    Direction, DownstreamTls, FilterChain, FilterChainMatch, Listener, ListenerFilters, NetworkFilter, Rbac, TcpProxy, Terminal,
    TransportProtocol,
};
use lateen_model::resource::{ServerProtocol, ServerTlsMode, VirtualService, host};
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// What is made from.
#[derive(Clone, Copy)]
pub struct Router<'a> {
    /// The mesh.
    pub world: &'a World,
    /// What the proxy may know.
    pub scope: &'a Scope,
    /// For whom.
    pub proxy: &'a Proxy,
}

/// All listeners of a gateway, by port. A port without a filter chain (no route leads anywhere) is not opened.
pub fn listeners(router: Router<'_>) -> Vec<Listener> {
    let merged = gateway::merged(router.world, router.proxy);
    let chains = Chains {
        router,
        http_rbac: rbac::filters(router.world, router.proxy, Layer::Http),
        tcp_rbac: rbac::filters(router.world, router.proxy, Layer::Tcp),
    };
    merged.places.iter().filter_map(|(place, servers)| chains.listener(*place, servers)).collect()
}

/// The services that `AUTO_PASSTHROUGH` servers lead to, as (port, host): each has a cluster by its server name.
pub fn automatic_targets(router: Router<'_>, merged: &Merged<'_>) -> BTreeSet<(u16, String)> {
    let automatic = |s: &&BoundServer<'_>| s.tls_mode() == Some(ServerTlsMode::AutoPassthrough);
    let servers: Vec<_> = merged.places.values().flatten().filter(automatic).collect();
    let mut out = BTreeSet::new();
    for service in router.scope.visible() {
        for port in service.ports() {
            if servers.iter().any(|s| leads_to(s, &service.service.host)) {
                out.insert((port.number, service.service.host.to_string()));
            }
        }
    }
    out
}

fn leads_to(server: &BoundServer<'_>, service: &str) -> bool {
    server.hosts.iter().any(|h| host::matches(service, h.host.as_str()))
}

struct Chains<'a> {
    router: Router<'a>,
    http_rbac: Vec<Rbac>,
    tcp_rbac: Vec<Rbac>,
}

impl Chains<'_> {
    fn listener(&self, place: Place, servers: &[BoundServer<'_>]) -> Option<Listener> {
        let Router { world, proxy, .. } = self.router;
        let ips = match place.bind {
            Some(ip) => vec![ip],
            None => proxy.families.wildcards().to_vec(),
        };
        let name = names::listener(ips[0], place.port);
        let tls = servers.first()?.protocol.is_tls();
        let chains = if tls { self.by_server_name(&name, servers) } else { self.plain(&name, servers) };
        if chains.is_empty() {
            return None;
        }
        let addresses: Vec<SocketAddr> = ips.into_iter().map(|ip| SocketAddr::new(ip, place.port)).collect();
        Some(Listener {
            name,
            address: addresses[0],
            additional_addresses: addresses[1..].to_vec(),
            bind_to_port: true,
            use_original_dst: false,
            direction: Direction::Outbound,
            listener_filters: ListenerFilters { tls_inspector: tls, ..ListenerFilters::default() },
            filter_chains: chains,
            default_filter_chain: None,
            access_log: mesh::listener_access_log(world.mesh()),
        })
    }

    /// One chain without a condition.
    fn plain(&self, listener: &str, servers: &[BoundServer<'_>]) -> Vec<FilterChain> {
        let Some(first) = servers.first() else { return Vec::new() };
        if first.protocol == ServerProtocol::Http {
            return vec![self.http(listener, first, FilterChainMatch::default(), None)];
        }
        let found = self.first_tcp_route(first);
        found.into_iter().map(|proxy| self.tcp("", FilterChainMatch::default(), None, proxy)).collect()
    }

    fn by_server_name(&self, listener: &str, servers: &[BoundServer<'_>]) -> Vec<FilterChain> {
        let mut chains: Vec<FilterChain> = Vec::new();
        // Each server name stands in one chain only: that of the oldest Gateway that has it.
        let mut taken: BTreeSet<(String, bool)> = BTreeSet::new();
        for server in servers {
            for mut chain in self.of_tls_server(listener, server) {
                // Chains with ALPN are chosen beside those without.
                let alpn = !chain.matches.application_protocols.is_empty();
                let names = &mut chain.matches.server_names;
                if names.is_empty() {
                    if !taken.insert(("*".to_owned(), alpn)) {
                        continue;
                    }
                } else {
                    names.retain(|name| taken.insert((name.clone(), alpn)));
                    if names.is_empty() {
                        continue;
                    }
                }
                chains.push(chain);
            }
        }
        chains
    }

    fn of_tls_server(&self, listener: &str, server: &BoundServer<'_>) -> Vec<FilterChain> {
        match server.tls_mode() {
            None => Vec::new(),
            Some(ServerTlsMode::AutoPassthrough) => self.automatic(server),
            Some(ServerTlsMode::Passthrough) => self.passthrough(server),
            Some(_) => {
                let matches = tls_match(server.server_names());
                let tls = Some(self.terminated(server));
                if server.reads_http() {
                    return vec![self.http(listener, server, matches, tls)];
                }
                let found = self.first_tcp_route(server);
                found.into_iter().map(|proxy| self.tcp("", matches.clone(), tls.clone(), proxy)).collect()
            }
        }
    }

    /// TLS that the gateway ends.
    fn terminated(&self, server: &BoundServer<'_>) -> Box<DownstreamTls> {
        let alpn: &[&str] = match (server.reads_http(), server.tls_mode()) {
            (true, _) => &["h2", "http/1.1"],
            (false, Some(ServerTlsMode::IstioMutual)) => &[tls::PEER_EXCHANGE, "h2", "http/1.1"],
            (false, _) => &[],
        };
        Box::new(tls::gateway(self.router.world, server.server.tls.as_ref(), alpn))
    }

    fn http(
        &self,
        listener: &str,
        server: &BoundServer<'_>,
        matches: FilterChainMatch,
        tls: Option<Box<DownstreamTls>>,
    ) -> FilterChain {
        let Router { world, proxy, .. } = self.router;
        let name = if tls.is_some() { server.route_name() } else { String::new() };
        let stat_prefix = format!("outbound_{listener}");
        let manager = http::gateway(world, proxy, stat_prefix, (&server.route_name(), &self.http_rbac));
        FilterChain { name, matches, tls, network_filters: Vec::new(), terminal: Terminal::Http(Box::new(manager)) }
    }

    fn tcp(&self, name: &str, matches: FilterChainMatch, tls: Option<Box<DownstreamTls>>, proxy: TcpProxy) -> FilterChain {
        let mut network_filters: Vec<NetworkFilter> = Vec::new();
        if tls.as_ref().is_some_and(|t| t.alpn.iter().any(|a| a == tls::PEER_EXCHANGE)) {
            network_filters.push(NetworkFilter::MetadataExchange);
        }
        network_filters.extend(self.tcp_rbac.iter().cloned().map(NetworkFilter::Rbac));
        network_filters.push(NetworkFilter::Stats(stats(Direction::Outbound)));
        FilterChain { name: name.to_owned(), matches, tls, network_filters, terminal: Terminal::Tcp(proxy) }
    }

    fn bound<'s>(&'s self, server: &BoundServer<'_>) -> impl Iterator<Item = &'s Entry<VirtualService>> {
        let name = server.gateway_name();
        let server = server.clone();
        let entries = self.router.scope.virtual_services.iter().map(|e| &**e);
        entries.filter(move |e| gateway::is_bound(e, &name) && !server.hosts_of(e).is_empty()).collect::<Vec<_>>().into_iter()
    }

    fn context<'s>(&'s self, server: &BoundServer<'_>, gateway: &'s str) -> L4Context<'s> {
        L4Context { world: self.router.world, proxy: self.router.proxy, gateway: Some(gateway), port: server.written_port }
    }

    /// The first `tcp` route of the server's VirtualServices that holds.
    fn first_tcp_route(&self, server: &BoundServer<'_>) -> Option<TcpProxy> {
        let name = server.gateway_name();
        let context = self.context(server, &name);
        self.bound(server).find_map(|entry| {
            let mut routes = entry.resource.spec.tcp.iter();
            let route = routes.find(|route| l4::holds_at_gateway(context, entry, route))?;
            context.proxy_to(entry, &route.route)
        })
    }

    /// A chain for each server name of the `tls` routes.
    fn passthrough(&self, server: &BoundServer<'_>) -> Vec<FilterChain> {
        let name = server.gateway_name();
        let entries: Vec<_> = self.bound(server).collect();
        let branches = l4::tls_branches(self.context(server, &name), &entries);
        let chain = |branch: l4::Branch| {
            // Of the names of a route only those that the server has, too.
            let own = |name: &String| server.hosts.iter().any(|h| h.intersection(name).is_some());
            let mut names: Vec<String> = branch.server_names.into_iter().filter(own).collect();
            if names.is_empty() {
                return None;
            }
            if names.iter().any(|n| n == "*") {
                names.clear();
            }
            Some(self.tcp("", tls_match(names), None, branch.proxy))
        };
        branches.into_iter().filter_map(chain).collect()
    }

    /// A chain for each service that the server's hosts cover: other gateways send the mesh's own server names here. Only
    /// mutual TLS of the mesh is passed on, which its ALPN tells.
    fn automatic(&self, server: &BoundServer<'_>) -> Vec<FilterChain> {
        let access_log = mesh::access_log(self.router.world.mesh());
        let mut chains = Vec::new();
        for service in self.router.scope.visible().filter(|s| leads_to(server, &s.service.host)) {
            for port in service.ports() {
                let name = names::mtls_sni(port.number, "", &service.service.host);
                let matches = FilterChainMatch { application_protocols: tls::istio_alpns(), ..tls_match(vec![name.clone()]) };
                chains.push(self.tcp("", matches, None, super::tcp_proxy(&name, &access_log)));
            }
        }
        chains
    }
}

fn tls_match(server_names: Vec<String>) -> FilterChainMatch {
    FilterChainMatch { server_names, transport_protocol: Some(TransportProtocol::Tls), ..FilterChainMatch::default() }
}
