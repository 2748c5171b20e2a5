//! Servers of Gateways that cannot be served because an older one has their port.

use std::collections::BTreeMap;

use super::{Step, finding};
use crate::manifest::Finding;
use crate::resource::{CreationOrder, Gateway, Resource, ServerProtocol, StringMap};

pub(super) fn findings<'a>(resources: impl Iterator<Item = &'a Resource>) -> Vec<Finding> {
    let mut gateways: Vec<&Gateway> = resources
        .filter_map(|r| match r {
            Resource::Gateway(g) => Some(&**g),
            _ => None,
        })
        .collect();
    gateways.sort_by_cached_key(|g| CreationOrder::of(&g.metadata));
    let mut first: BTreeMap<(&StringMap, u16, &str), (&Gateway, ServerProtocol)> = BTreeMap::new();
    let mut found = Vec::new();
    for gateway in gateways {
        for (index, server) in gateway.spec.servers.iter().enumerate() {
            let Some((number, protocol)) = server.port.as_ref().and_then(|p| Some((p.number()?, p.protocol()?))) else {
                continue;
            };
            let Some((older, spoken)) = first.get(&(&gateway.spec.selector, number, server.bind.as_str())) else {
                first.insert((&gateway.spec.selector, number, &server.bind), (gateway, protocol));
                continue;
            };
            let together = match spoken {
                ServerProtocol::Http => protocol == ServerProtocol::Http,
                ServerProtocol::Https | ServerProtocol::Tls => protocol.is_tls(),
                ServerProtocol::Tcp => false,
            };
            if !together {
                let meta = &older.metadata;
                let text = format!(
                    "port {number} has a server already (Gateway {}/{}, {}) that this one cannot share it with: it is not served",
                    meta.namespace, meta.name, meta.provenance.origin
                );
                found.push(finding(&gateway.metadata, &[Step::Key("spec"), Step::Key("servers"), Step::Index(index)], text));
            }
        }
    }
    found
}
