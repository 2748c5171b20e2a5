//! Listeners for connections of the application.

use super::{entry, http, l4, plain_http, tcp_chain, tcp_proxy};
use crate::generate::destination::MergedRule;
use crate::generate::proxy::Proxy;
use crate::generate::scope::{Scope, ScopedService};
use crate::generate::{hash, mesh};
use crate::names;
use crate::world::{Protocol, ServicePod, ServicePort, World};
use lateen_model::dataplane::{
    Direction, FilterChain, FilterChainMatch, HttpInspector, Listener, ListenerFilters, TcpProxy, Terminal, TransportProtocol,
};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What is made from.
#[derive(Clone, Copy)]
pub struct Outbound<'a> {
    /// The mesh.
    pub world: &'a World,
    /// What the proxy may know.
    pub scope: &'a Scope,
    /// For whom.
    pub proxy: &'a Proxy,
}

/// All outbound listeners: those of services by name, then the one that all connections arrive at. Also how many services
/// found their address and port taken (metric `pilot_conflict_outbound_listener_tcp_over_current_tcp`).
pub fn listeners(outbound: Outbound<'_>) -> (Vec<Listener>, u64) {
    let mut made: BTreeMap<String, Listener> = BTreeMap::new();
    let mut conflicts = 0;
    let (own, taken) = outbound.of_sidecar();
    for service in outbound.scope.visible() {
        for port in service.ports().filter(|p| !taken.contains(&p.number)) {
            for listener in outbound.of_port(service, port) {
                // Oldest first: who comes later does not get the address. HTTP listeners are the same for all services.
                match made.get_mut(&listener.name) {
                    None => {
                        made.insert(listener.name.clone(), listener);
                    }
                    Some(first) => {
                        conflicts += u64::from(!entry::merge(first, listener) && !port.protocol.is_http());
                    }
                }
            }
        }
    }
    for port in &outbound.scope.http_ports {
        let listener = outbound.http_listener(*port);
        match made.get_mut(&listener.name) {
            None => drop(made.insert(listener.name.clone(), listener)),
            Some(others) => drop(entry::merge(others, listener)),
        }
    }
    let mut all: Vec<Listener> = made.into_values().chain(own).chain(outbound.http_proxy()).collect();
    all.push(outbound.virtual_outbound());
    (all, conflicts)
}

impl Outbound<'_> {
    fn of_port(&self, service: &ScopedService, port: &ServicePort) -> Vec<Listener> {
        if port.number == names::OUTBOUND_PORT || port.number == names::INBOUND_PORT {
            // Such a listener would take what arrives at the proxy itself.
            return Vec::new();
        }
        if port.protocol.is_http() {
            return vec![self.http_listener(port.number)];
        }
        if port.protocol == Protocol::Udp {
            return Vec::new();
        }
        if let Some(external) = &service.service.entry {
            return self.of_entry_port(service, port, &external.networks);
        }
        if service.service.headless {
            return self.pod_addresses(service).iter().map(|ips| self.address_listener(service, port, ips)).collect();
        }
        let vips: Vec<IpAddr> = service.service.vips.iter().copied().filter(|ip| self.proxy.families.has(*ip)).collect();
        if vips.is_empty() { Vec::new() } else { vec![self.address_listener(service, port, &vips)] }
    }

    /// Clients of a headless service connect to its pods, so that each pod has a listener.
    ///
    /// Istio leaves out the proxy's own pod. What an application sends to itself is not captured, so that this listener is never
    /// used; with it, proxies of one kind share their listeners.
    fn pod_addresses(&self, service: &ScopedService) -> Vec<Vec<IpAddr>> {
        let pods = self.world.endpoints_of(&service.service).map(|e| e.ready.as_slice()).unwrap_or_default();
        let of_pod =
            |pod: &ServicePod| -> Vec<IpAddr> { pod.ips(&service.service).filter(|ip| self.proxy.families.has(*ip)).collect() };
        pods.iter().map(of_pod).filter(|ips| !ips.is_empty()).collect()
    }

    /// `0.0.0.0_80`: HTTP to any host; what is no HTTP goes where unknown traffic goes.
    pub(super) fn http_listener(&self, port: u16) -> Listener {
        let wildcards = self.proxy.families.wildcards();
        let stat_prefix = format!("outbound_{}", names::listener(wildcards[0], port));
        let manager = http::outbound(self.world, self.proxy, stat_prefix, &port.to_string());
        let chain = self.http_chain(Terminal::Http(Box::new(manager)));
        let addresses: Vec<SocketAddr> = wildcards.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
        Listener {
            filter_chains: vec![chain],
            default_filter_chain: Some(self.fallback("PassthroughFilterChain")),
            ..self.listener(names::listener(wildcards[0], port), &addresses, true)
        }
    }

    /// `10.96.0.1_443`: one service's own address.
    pub(super) fn address_listener(&self, service: &ScopedService, port: &ServicePort, ips: &[IpAddr]) -> Listener {
        let cluster = names::outbound_cluster(port.number, "", &service.service.host);
        let proxy = TcpProxy {
            idle_timeout: self.idle_timeout(service, port),
            hash_source_ip: hash::by_source_ip(self.world, self.proxy, &cluster),
            ..tcp_proxy(&cluster, &mesh::access_log(self.world.mesh()))
        };
        let tcp = tcp_chain("", FilterChainMatch::default(), Direction::Outbound, proxy);
        let addresses: Vec<SocketAddr> = ips.iter().map(|ip| SocketAddr::new(*ip, port.number)).collect();
        let name = names::listener(ips[0], port.number);
        let routed = l4::routed(self, service, port, tcp);
        if !port.protocol.is_auto() {
            let base = self.listener(name, &addresses, false);
            return Listener {
                filter_chains: routed.chains.into_iter().chain(routed.rest).collect(),
                listener_filters: ListenerFilters { tls_inspector: routed.by_server_name, ..base.listener_filters.clone() },
                ..base
            };
        }
        let route = names::virtual_host(&service.service.host, port.number);
        let manager = http::outbound(self.world, self.proxy, format!("outbound_{name}"), &route);
        Listener {
            filter_chains: [self.http_chain(Terminal::Http(Box::new(manager)))].into_iter().chain(routed.chains).collect(),
            default_filter_chain: routed.rest,
            ..self.listener(name, &addresses, true)
        }
    }

    /// `connectionPool.tcp.idleTimeout` of the service's DestinationRule.
    pub(super) fn idle_timeout(&self, service: &ScopedService, port: &ServicePort) -> Option<Duration> {
        let rule = MergedRule::lookup_for(self.world, self.proxy, &service.service);
        let tcp = rule.policy(port.number, "").connection_pool?.tcp.as_ref()?;
        tcp.idle_timeout.map(Duration::from)
    }

    pub(super) fn http_chain(&self, terminal: Terminal) -> FilterChain {
        let matches = FilterChainMatch {
            transport_protocol: Some(TransportProtocol::RawBuffer),
            application_protocols: plain_http(self.proxy.http10),
            ..FilterChainMatch::default()
        };
        FilterChain { name: String::new(), matches, tls: None, network_filters: Vec::new(), terminal }
    }

    /// Where unknown traffic goes.
    pub(super) fn fallback(&self, name: &str) -> FilterChain {
        let cluster = match &self.scope.egress_proxy {
            _ if self.scope.registry_only => names::BLACK_HOLE,
            Some(proxy) => proxy,
            None => names::PASSTHROUGH,
        };
        let proxy = tcp_proxy(cluster, &mesh::access_log(self.world.mesh()));
        tcp_chain(name, FilterChainMatch::default(), Direction::Outbound, proxy)
    }

    pub(super) fn listener(&self, name: String, addresses: &[SocketAddr], inspects: bool) -> Listener {
        let timeout = mesh::protocol_detection_timeout(self.world.mesh());
        Listener {
            name,
            address: addresses[0],
            additional_addresses: addresses[1..].to_vec(),
            bind_to_port: false,
            use_original_dst: false,
            direction: Direction::Outbound,
            listener_filters: ListenerFilters {
                original_dst: false,
                tls_inspector: inspects,
                http_inspector: inspects.then(HttpInspector::default),
                timeout: if inspects { timeout } else { None },
                continue_on_timeout: true,
            },
            filter_chains: Vec::new(),
            default_filter_chain: None,
            access_log: mesh::listener_access_log(self.world.mesh()),
        }
    }

    /// All captured connections arrive here and are handed to the listener of their destination.
    fn virtual_outbound(&self) -> Listener {
        let wildcards = self.proxy.families.wildcards();
        let addresses: Vec<SocketAddr> = wildcards.iter().map(|ip| SocketAddr::new(*ip, names::OUTBOUND_PORT)).collect();
        let base = self.listener("virtualOutbound".into(), &addresses, false);
        Listener {
            bind_to_port: true,
            use_original_dst: true,
            listener_filters: ListenerFilters { original_dst: true, ..base.listener_filters.clone() },
            filter_chains: vec![
                super::black_hole("virtualOutbound-blackhole", names::OUTBOUND_PORT, Direction::Outbound),
                self.fallback("virtualOutbound-catchall-tcp"),
            ],
            ..base
        }
    }
}
