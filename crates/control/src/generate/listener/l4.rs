//! What `tcp` and `tls` routes of VirtualServices make of a sidecar's listener for one service.

use super::outbound::Outbound;
use super::tcp_chain;
use crate::generate::l4::{self, Branch, L4Context};
use crate::generate::scope::ScopedService;
use crate::generate::tenancy::may_route;
use crate::world::{Entry, ServicePort};
use lateen_model::dataplane::{Direction, FilterChain, FilterChainMatch, TransportProtocol};
use lateen_model::resource::{VirtualService, host};

/// The chains of a port in place of the one to the service as a whole.
pub(super) struct RoutedChains {
    /// For some server names, or some addresses.
    pub(super) chains: Vec<FilterChain>,
    /// For the rest; `None`: connections that no chain serves are closed.
    pub(super) rest: Option<FilterChain>,
    /// Whether server names have to be read.
    pub(super) by_server_name: bool,
}

/// Of a port with TLS the `tls` routes, of any other one the `tcp` routes. `plain` leads to the service as a whole.
pub(super) fn routed(outbound: &Outbound<'_>, service: &ScopedService, port: &ServicePort, plain: FilterChain) -> RoutedChains {
    let entries: Vec<&Entry<VirtualService>> = outbound
        .scope
        .virtual_services
        .iter()
        .map(|e| &**e)
        .filter(|e| e.hosts.iter().any(|h| host::matches(&service.service.host, h)))
        .filter(|e| may_route(outbound.world, &outbound.scope.key.namespace, e, &service.service))
        .collect();
    let context = L4Context { world: outbound.world, proxy: outbound.proxy, gateway: None, port: port.number };
    if port.protocol.is_tls() {
        let branches = l4::tls_branches(context, &entries);
        if branches.is_empty() {
            return RoutedChains { chains: Vec::new(), rest: Some(plain), by_server_name: false };
        }
        let chains = branches.into_iter().map(|b| chain(b, Some(TransportProtocol::Tls))).collect();
        return RoutedChains { chains, rest: None, by_server_name: true };
    }
    let (branches, rest) = l4::tcp_branches(context, &entries);
    let rest = match rest {
        Some(proxy) => tcp_chain("", FilterChainMatch::default(), Direction::Outbound, proxy),
        None => plain,
    };
    RoutedChains { chains: branches.into_iter().map(|b| chain(b, None)).collect(), rest: Some(rest), by_server_name: false }
}

fn chain(branch: Branch, transport_protocol: Option<TransportProtocol>) -> FilterChain {
    let server_names = if branch.server_names.iter().any(|n| n == "*") { Vec::new() } else { branch.server_names };
    let matches = FilterChainMatch {
        server_names,
        destination_prefixes: branch.subnets,
        transport_protocol,
        ..FilterChainMatch::default()
    };
    tcp_chain("", matches, Direction::Outbound, branch.proxy)
}
