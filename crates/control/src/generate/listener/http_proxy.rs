//! Ports at which a sidecar is its application's HTTP proxy: one of the mesh (`proxyHttpPort`, or the proxy's own
//! `HTTP_PROXY_PORT`), and those of a Sidecar (`egress` with protocol `HTTP_PROXY`).

use super::http;
use super::outbound::Outbound;
use crate::names;
use lateen_model::dataplane::{FilterChainMatch, Listener, Terminal};
use std::net::SocketAddr;

impl Outbound<'_> {
    /// `127.0.0.1_15080`: the application connects to it itself.
    pub(super) fn http_proxy(&self) -> Option<Listener> {
        let port = self.proxy.http_proxy_port.or_else(|| u16::try_from(self.world.mesh().proxy_http_port).ok())?;
        if port == 0 {
            return None;
        }
        let loopback = self.proxy.families.loopback();
        let name = names::listener(loopback, port);
        let manager = http::outbound(self.world, self.proxy, format!("outbound_{name}"), names::HTTP_PROXY_ROUTE);
        let mut chain = self.http_chain(Terminal::Http(Box::new(manager)));
        // Whoever connects here speaks HTTP: there is nothing to tell apart.
        chain.matches = FilterChainMatch::default();
        let base = self.listener(name, &[SocketAddr::new(loopback, port)], false);
        Some(Listener { bind_to_port: true, filter_chains: vec![chain], ..base })
    }
}
