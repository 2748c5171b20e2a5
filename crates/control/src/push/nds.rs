//! The table of names (NDS) for a proxy's own DNS: services that its scope knows, with their addresses.

use super::memo::resource;
use super::view::View;
use crate::world::Service;
use lateen_xds::Resource;
use lateen_xds::nds::{NameInfo, NameTable};
use prost::Message;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// The table of a view: one resource without a name. A service without any address is left out.
pub(super) fn table(view: &View) -> Option<Arc<Resource>> {
    let mut table = BTreeMap::new();
    let has = |ip: &IpAddr| view.proxy.families.has(*ip);
    for scoped in view.scope.visible() {
        let service = &scoped.service;
        if !service.headless {
            add(&mut table, service, (service.host.to_string(), &service.name), service.vips.iter().copied().filter(has));
            continue;
        }
        let pods = view.world.endpoints_of(service).map(|e| e.ready.as_slice()).unwrap_or_default();
        add(&mut table, service, (service.host.to_string(), &service.name), pods.iter().flat_map(|p| p.ips(service)).filter(has));
        for pod in pods {
            if let Some(name) = &pod.hostname {
                let (host, short) = (format!("{name}.{}", service.host), format!("{name}.{}", service.name));
                add(&mut table, service, (host, &short), pod.ips(service).filter(has));
            }
        }
    }
    Some(resource("", NameTable { table }.encode_to_vec().into()))
}

/// Adds addresses to a name: pods of one name share it.
fn add(
    table: &mut BTreeMap<String, NameInfo>,
    service: &Service,
    (host, short): (String, &str),
    ips: impl Iterator<Item = IpAddr>,
) {
    for ip in ips {
        let info = table.entry(host.clone()).or_insert_with(|| NameInfo {
            ips: Vec::new(),
            registry: if service.entry.is_some() { "External" } else { "Kubernetes" }.to_owned(),
            shortname: short.to_owned(),
            namespace: service.namespace.to_string(),
        });
        let ip = ip.to_string();
        if !info.ips.contains(&ip) {
            info.ips.push(ip);
        }
    }
}
