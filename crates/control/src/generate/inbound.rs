//! Which of a pod's ports its services name.

use super::proxy::Proxy;
use crate::world::{Protocol, Service, Target, World};
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
    /// All services that lead here, oldest first; at least one.
    pub services: Vec<Arc<Service>>,
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
                }),
            }
        }
    }
    out.sort_by_key(|p| p.target);
    out
}

fn resolve(proxy: &Proxy, target: &Target) -> Option<u16> {
    match target {
        Target::Number(n) => Some(*n),
        Target::Name(name) => proxy.ports.get(&**name).copied(),
    }
}
