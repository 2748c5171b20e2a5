//! Listeners of services that ServiceEntries make: by address, by block of addresses, or for the whole port.

use super::outbound::Outbound;
use super::{http, tcp_chain, tcp_proxy};
use crate::generate::scope::ScopedService;
use crate::generate::{hash, mesh};
use crate::names;
use crate::world::ServicePort;
use ipnet::IpNet;
use lateen_model::dataplane::{Direction, FilterChain, FilterChainMatch, Listener, TcpProxy, Terminal};
use std::net::{IpAddr, SocketAddr};

/// The chain of a port's listener for what no chain takes.
const FALLBACK: &str = "PassthroughFilterChain";

impl Outbound<'_> {
    /// The listeners of a port that is not HTTP: one for each address, and one for the blocks; without any, the port's own.
    pub(super) fn of_entry_port(&self, service: &ScopedService, port: &ServicePort, networks: &[IpNet]) -> Vec<Listener> {
        let families = self.proxy.families;
        let vips = service.service.vips.iter().filter(|ip| families.has(**ip));
        let mut all: Vec<Listener> = vips.map(|ip| self.address_listener(service, port, &[*ip])).collect();
        let blocks: Vec<IpNet> = networks.iter().copied().filter(|n| families.has(n.addr())).collect();
        if !blocks.is_empty() {
            all.push(self.port_listener(service, port, &blocks));
        } else if service.service.vips.is_empty() && networks.is_empty() {
            all.push(self.port_listener(service, port, &[]));
        }
        all
    }

    /// `0.0.0.0_443`: connections to any address of the port, or to these blocks. TLS is told apart by its SNI, so that several
    /// services can share the port.
    fn port_listener(&self, service: &ScopedService, port: &ServicePort, blocks: &[IpNet]) -> Listener {
        let wildcards = self.proxy.families.wildcards();
        let name = names::listener(wildcards[0], port.number);
        let addresses: Vec<SocketAddr> = wildcards.iter().map(|ip| SocketAddr::new(*ip, port.number)).collect();
        let cluster = names::outbound_cluster(port.number, "", &service.service.host);
        let proxy = TcpProxy {
            idle_timeout: self.idle_timeout(service, port),
            hash_source_ip: hash::by_source_ip(self.world, self.proxy, &cluster),
            ..tcp_proxy(&cluster, &mesh::access_log(self.world.mesh()))
        };
        let matches = FilterChainMatch {
            destination_prefixes: blocks.to_vec(),
            server_names: if port.protocol.is_tls() { sni(&service.service.host) } else { Vec::new() },
            ..FilterChainMatch::default()
        };
        let inspects = port.protocol.is_tls() || port.protocol.is_auto();
        let base = self.listener(name.clone(), &addresses, inspects);
        let chain = |matches| tcp_chain("", matches, Direction::Outbound, proxy.clone());
        let (mut filter_chains, mut default) = (Vec::new(), None);
        if matches == FilterChainMatch::default() {
            default = Some(chain(matches));
        } else {
            filter_chains.push(chain(matches));
        }
        if port.protocol.is_auto() {
            let stat_prefix = format!("outbound_{name}");
            let manager = http::outbound(self.world, self.proxy, stat_prefix, &port.number.to_string());
            let mut http = self.http_chain(Terminal::Http(Box::new(manager)));
            http.matches.destination_prefixes = blocks.to_vec();
            filter_chains.push(http);
        }
        let default_filter_chain = default.or_else(|| Some(self.fallback(FALLBACK)));
        Listener { filter_chains, default_filter_chain, ..base }
    }
}

/// The names of a TLS client hello that are for this host; a wildcard within a label is none that can be told.
fn sni(host: &str) -> Vec<String> {
    if host.starts_with('*') && !host.starts_with("*.") { Vec::new() } else { vec![host.to_owned()] }
}

/// Adds to the listener of a whole port what another service has there. `false`: the two contradict each other, and the first
/// stays as it is.
pub(super) fn merge(first: &mut Listener, second: Listener) -> bool {
    if first.filter_chains == second.filter_chains && first.default_filter_chain == second.default_filter_chain {
        return true;
    }
    if !is_for_any_address(first) {
        return false;
    }
    let mut agrees = true;
    for chain in second.filter_chains {
        match first.filter_chains.iter().find(|c| c.matches == chain.matches) {
            None => first.filter_chains.push(chain),
            Some(same) => agrees &= same.terminal == chain.terminal,
        }
    }
    let is_fallback = |chain: &FilterChain| chain.name == FALLBACK;
    if let Some(default) = second.default_filter_chain.filter(|c| !is_fallback(c)) {
        match &first.default_filter_chain {
            Some(taken) if !is_fallback(taken) => agrees &= taken.terminal == default.terminal,
            _ => first.default_filter_chain = Some(default),
        }
    }
    // What only one of them looks for is looked for.
    let (own, others) = (&mut first.listener_filters, second.listener_filters);
    own.tls_inspector |= others.tls_inspector;
    own.http_inspector = own.http_inspector.take().or(others.http_inspector);
    own.timeout = own.timeout.or(others.timeout);
    agrees
}

fn is_for_any_address(listener: &Listener) -> bool {
    let unspecified = |ip: IpAddr| ip.is_unspecified();
    unspecified(listener.address.ip())
}
