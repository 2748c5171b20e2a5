//! Everything that is in force at one moment. A request loads one snapshot and never sees two.

use super::compiled::Listener;
use super::lazy_cluster::LazyCluster;
use crate::upstream::Cluster;
use foldhash::HashMap;
use lateen_policy::route::RouteTable;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// Clusters by name.
pub(crate) type Clusters = HashMap<Arc<str>, Arc<LazyCluster>>;

/// Route tables by name.
pub(crate) type Routes = HashMap<Arc<str>, Arc<RouteTable>>;

/// One state of the configuration.
#[derive(Default)]
pub(crate) struct Snapshot {
    pub(crate) listeners: HashMap<Arc<str>, Arc<Listener>>,
    by_address: HashMap<SocketAddr, Arc<Listener>>,
    pub(crate) clusters: Clusters,
    pub(crate) routes: Routes,
}

impl Snapshot {
    /// Puts the parts together.
    pub(crate) fn new(listeners: HashMap<Arc<str>, Arc<Listener>>, clusters: Clusters, routes: Routes) -> Self {
        let addresses = |l: &Arc<Listener>| {
            let all = std::iter::once(l.model.address).chain(l.model.additional_addresses.iter().copied());
            all.map(|a| (a, l.clone())).collect::<Vec<_>>()
        };
        let by_address = listeners.values().filter(|l| !l.model.bind_to_port).flat_map(addresses).collect();
        Self { listeners, by_address, clusters, routes }
    }

    /// A cluster, compiled if it never was.
    pub(crate) fn cluster(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.clusters.get(name)?.get()
    }

    /// The clusters that were used, or have something to do without.
    pub(crate) fn compiled_clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.clusters.values().filter_map(|cluster| cluster.compiled())
    }

    /// Whether an address has a listener of its own.
    pub(crate) fn has_listener_of(&self, address: SocketAddr) -> bool {
        self.by_address.contains_key(&address)
    }

    /// The listener that serves a connection which `accepting` accepted: that of the original destination, if connections are
    /// handed over and there is one (the exact address first, then any address of the port), else `accepting` itself.
    pub(crate) fn listener_for(&self, accepting: &str, original: SocketAddr) -> Option<&Arc<Listener>> {
        let accepting = self.listeners.get(accepting)?;
        if !accepting.model.use_original_dst {
            return Some(accepting);
        }
        let any: IpAddr = if original.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let found = self.by_address.get(&original).or_else(|| self.by_address.get(&SocketAddr::new(any, original.port())));
        Some(found.unwrap_or(accepting))
    }
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
