//! Which of a pod's ports its services name.

use super::proxy::Proxy;
use super::scope::sidecar_of;
use crate::world::{Protocol, Service, Target, World};
use lateen_model::resource::{CaptureMode, ConnectionPoolSettings, IstioIngressListener, TransportProtocol};
use std::net::SocketAddr;
use std::sync::Arc;

/// A port of the pod that a service names.
#[derive(Clone, Debug)]
pub struct InboundPort {
    /// The pod's port.
    pub target: u16,
    /// The port of the oldest service that leads here.
    pub service_port: u16,
    /// That service port's protocol, which holds for all of them.
    pub protocol: Protocol,
    /// All services that lead here, oldest first. None at all only for a listener of a Sidecar.
    pub services: Vec<Arc<Service>>,
    /// What a Sidecar says of the port.
    pub own: Option<OwnListener>,
}

/// An inbound listener of a Sidecar (`ingress`).
#[derive(Clone, Debug)]
pub struct OwnListener {
    /// Where the proxy itself listens, because nothing is captured (`captureMode: NONE`).
    pub bound: Option<SocketAddr>,
    /// Where the application listens, if the port alone does not say it.
    pub endpoint: Option<SocketAddr>,
    /// Limits of connections to it.
    pub pool: Option<ConnectionPoolSettings>,
}

impl InboundPort {
    /// Where the proxy itself listens for it, if it does.
    pub fn bound(&self) -> Option<SocketAddr> {
        self.own.as_ref()?.bound
    }
}

/// The services that select a proxy's pod, oldest first.
pub fn services(world: &World, proxy: &Proxy) -> Vec<Arc<Service>> {
    let Some(ns) = world.namespace(&proxy.namespace) else { return Vec::new() };
    let mut services: Vec<_> =
        ns.services.values().filter(|s| s.alias.is_none() && s.selects(&proxy.labels)).map(Arc::clone).collect();
    services.sort_by(|a, b| a.order.cmp(&b.order));
    services
}

/// The ports of a proxy's pod that services name, by number. Of several services with one target port the oldest one
/// defines the protocol.
pub fn ports(world: &World, proxy: &Proxy) -> Vec<InboundPort> {
    let known = ports_of_services(world, proxy);
    let sidecar = sidecar_of(world, proxy).map(|s| &s.resource.spec);
    match sidecar.filter(|s| !s.ingress.is_empty()) {
        Some(sidecar) => sidecar.ingress.iter().filter_map(|listener| own_port(listener, &known, proxy)).collect(),
        None => known,
    }
}

/// A port that a Sidecar names, in place of those of services: these say only whose the port is.
fn own_port(listener: &IstioIngressListener, known: &[InboundPort], proxy: &Proxy) -> Option<InboundPort> {
    let port = listener.port.as_ref()?;
    let target = u16::try_from(port.number).ok().filter(|n| *n > 0)?;
    let of_services = known.iter().find(|p| p.target == target);
    Some(InboundPort {
        target,
        service_port: of_services.map_or(target, |p| p.service_port),
        protocol: Protocol::select(TransportProtocol::Tcp, Some(&port.protocol), "", target.into()),
        services: of_services.map(|p| p.services.clone()).unwrap_or_default(),
        own: Some(OwnListener {
            bound: (listener.capture_mode == CaptureMode::None).then(|| {
                let ip = listener.bind.parse().unwrap_or(proxy.families.wildcard());
                SocketAddr::new(ip, target)
            }),
            endpoint: listener.default_endpoint.parse().ok(),
            pool: listener.connection_pool.clone(),
        }),
    })
}

fn ports_of_services(world: &World, proxy: &Proxy) -> Vec<InboundPort> {
    let mut out: Vec<InboundPort> = Vec::new();
    for service in services(world, proxy) {
        for port in &service.ports {
            let Some(target) = resolve(proxy, &port.target) else { continue };
            match out.iter_mut().find(|p| p.target == target) {
                Some(known) if known.services.iter().any(|s| s.host == service.host) => {}
                Some(known) => known.services.push(Arc::clone(&service)),
                None => out.push(InboundPort {
                    target,
                    service_port: port.number,
                    protocol: port.protocol,
                    services: vec![Arc::clone(&service)],
                    own: None,
                }),
            }
        }
    }
    out.sort_by_key(|p| p.target);
    out
}

/// The number of a target port on a proxy's pod.
pub fn resolve(proxy: &Proxy, target: &Target) -> Option<u16> {
    match target {
        Target::Number(n) => Some(*n),
        Target::Name(name) => proxy.ports.get(&**name).copied(),
    }
}
