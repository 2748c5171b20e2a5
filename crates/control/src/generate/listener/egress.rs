//! Listeners that a Sidecar asks for by address: the application connects to them itself (`egress` with `bind` or
//! `captureMode: NONE`).

use super::outbound::Outbound;
use super::{http, tcp_chain, tcp_proxy};
use crate::generate::scope::sidecar_of;
use crate::generate::{hash, mesh};
use crate::names;
use crate::world::Protocol;
use lateen_model::dataplane::{Direction, FilterChainMatch, Listener, TcpProxy, Terminal};
use lateen_model::resource::{CaptureMode, IstioEgressListener, TransportProtocol};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

/// Where a Sidecar's listener is, if it asks for an address of its own.
fn place(listener: &IstioEgressListener, loopback: IpAddr) -> Option<SocketAddr> {
    let own = !listener.bind.is_empty() || listener.capture_mode == CaptureMode::None;
    let port = u16::try_from(listener.port.as_ref()?.number).ok().filter(|_| own)?;
    let ip = if listener.bind.is_empty() { loopback } else { listener.bind.parse().ok()? };
    Some(SocketAddr::new(ip, port))
}

impl Outbound<'_> {
    /// The listeners with addresses of their own, and the ports that have no others for that.
    pub(super) fn of_sidecar(&self) -> (Vec<Listener>, BTreeSet<u16>) {
        let written = sidecar_of(self.world, self.proxy).map(|s| s.resource.spec.egress.as_slice()).unwrap_or_default();
        let loopback = self.proxy.families.loopback();
        let placed = written.iter().filter_map(|l| Some((l, place(l, loopback)?)));
        let (mut listeners, mut ports) = (Vec::new(), BTreeSet::new());
        for (listener, address) in placed {
            ports.insert(address.port());
            listeners.extend(self.own_listener(listener, address));
        }
        for port in self.scope.proxied.keys().filter(|port| !ports.contains(port)).copied().collect::<Vec<_>>() {
            // Captured, whatever its address.
            ports.insert(port);
            listeners.push(self.http_listener(port));
        }
        (listeners, ports)
    }

    /// HTTP goes by its host; bytes go to the oldest service with the port, and nowhere without one.
    fn own_listener(&self, written: &IstioEgressListener, address: SocketAddr) -> Option<Listener> {
        let declared = written.port.as_ref().map(|p| p.protocol.as_str());
        let protocol = Protocol::select(TransportProtocol::Tcp, declared, "", address.port().into());
        let name = names::listener(address.ip(), address.port());
        let base = Listener {
            bind_to_port: written.capture_mode == CaptureMode::None,
            ..self.listener(name.clone(), &[address], false)
        };
        let chain = if protocol.is_http() {
            let manager = http::outbound(self.world, self.proxy, format!("outbound_{name}"), &address.port().to_string());
            let mut chain = self.http_chain(Terminal::Http(Box::new(manager)));
            // Whoever connects here speaks HTTP: there is nothing to tell apart.
            chain.matches = FilterChainMatch::default();
            chain
        } else {
            let (service, port) = self.scope.visible().find_map(|s| Some((s, s.port(address.port())?)))?;
            let cluster = names::outbound_cluster(port.number, "", &service.service.host);
            let proxy = TcpProxy {
                idle_timeout: self.idle_timeout(service, port),
                hash_source_ip: hash::by_source_ip(self.world, self.proxy, &cluster),
                ..tcp_proxy(&cluster, &mesh::access_log(self.world.mesh()))
            };
            tcp_chain("", FilterChainMatch::default(), Direction::Outbound, proxy)
        };
        Some(Listener { filter_chains: vec![chain], ..base })
    }
}
