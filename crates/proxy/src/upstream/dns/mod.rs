//! Clusters whose endpoints are names (`STRICT_DNS`, `LOGICAL_DNS`): the names are resolved, and resolved again.
//!
//! As in Envoy each name has its own time: that of its answer's life, or the cluster's; after a failure the last good addresses
//! stay, and it is asked again after the cluster's wait for failures. An answer that there are no addresses is an answer.

mod resolver;
mod target;

use super::Cluster;
use foldhash::HashMap;
use lateen_model::dataplane::{ClusterLoadAssignment, Discovery, DnsDiscovery, DnsKind, Endpoint, LocalityEndpoints};
use resolver::Resolver;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use target::Target;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Keeps one task for each cluster with names. Lives on the thread of the subscription.
pub(crate) struct Follower {
    resolver: Rc<Resolver>,
    resolved: Rc<Notify>,
    followed: Vec<(Weak<Cluster>, AbortHandle)>,
}

impl Follower {
    /// Follows nothing yet. `mark` is put on the sockets, so that capture leaves the questions alone.
    pub(crate) fn new(mark: Option<u32>) -> Self {
        Self { resolver: Rc::new(Resolver::new(mark)), resolved: Rc::default(), followed: Vec::new() }
    }

    /// Told when a cluster's names were resolved for the first time.
    pub(crate) fn resolved(&self) -> Rc<Notify> {
        self.resolved.clone()
    }

    /// Follows these clusters, and no others. Must be called within a `LocalSet`, unless there are none.
    pub(crate) fn follow<'a>(&mut self, clusters: impl Iterator<Item = &'a Arc<Cluster>>) {
        let wanted: Vec<&Arc<Cluster>> = clusters.collect();
        let is = |weak: &Weak<Cluster>, cluster: &Arc<Cluster>| weak.as_ptr() == Arc::as_ptr(cluster);
        self.followed.retain(|(followed, task)| {
            let keep = wanted.iter().any(|w| is(followed, w));
            if !keep {
                task.abort();
            }
            keep
        });
        for cluster in wanted {
            if self.followed.iter().any(|(followed, _)| is(followed, cluster)) {
                continue;
            }
            let task = follow(Arc::downgrade(cluster), self.resolver.clone(), self.resolved.clone());
            let task = tokio::task::spawn_local(task);
            self.followed.push((Arc::downgrade(cluster), task.abort_handle()));
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.followed.iter().for_each(|(_, task)| task.abort());
    }
}

/// Resolves a cluster's names for as long as there is the cluster.
async fn follow(cluster: Weak<Cluster>, resolver: Rc<Resolver>, resolved: Rc<Notify>) {
    let Some(dns) = cluster.upgrade().and_then(|c| match &c.config.discovery {
        Discovery::Dns(dns) => Some(dns.clone()),
        _ => None,
    }) else {
        return;
    };
    let names = dns.localities.iter().flat_map(|l| &l.endpoints);
    let mut targets: Vec<Target> = names.map(|e| Target::new(&e.host, Instant::now())).collect();
    loop {
        let now = Instant::now();
        let due = targets.iter_mut().filter(|t| t.due() <= now);
        futures_util::future::join_all(due.map(|target| target.resolve(&resolver, &dns))).await;
        let Some(cluster) = cluster.upgrade() else { return };
        let first = !cluster.is_resolved();
        if targets.iter_mut().fold(first, |changed, t| t.take_changed() | changed) {
            let name = &cluster.config.name;
            let further = further(&dns, &targets);
            cluster.set_resolved(&assignment(name.to_string(), &dns, &targets), further);
        }
        if first {
            resolved.notify_one();
        }
        drop(cluster);
        let Some(next) = targets.iter().map(Target::due).min() else { return };
        tokio::time::sleep_until(next).await;
    }
}

/// The endpoints that the names stand for now. An address that several names have counts once, as in Envoy.
fn assignment(cluster_name: String, dns: &DnsDiscovery, targets: &[Target]) -> ClusterLoadAssignment {
    let mut seen = HashSet::new();
    let mut targets = targets.iter();
    let mut localities = Vec::with_capacity(dns.localities.len());
    for locality in &dns.localities {
        let mut endpoints = Vec::new();
        for (written, target) in locality.endpoints.iter().zip(&mut targets) {
            let count = if dns.kind == DnsKind::Logical { 1 } else { usize::MAX };
            for ip in target.addresses().iter().take(count) {
                let address = SocketAddr::new(*ip, written.port);
                if seen.insert(address) {
                    endpoints.push(Endpoint {
                        address,
                        health: written.health,
                        weight: written.weight,
                        tls_mode: written.tls_mode,
                        workload: written.workload.clone(),
                    });
                }
            }
        }
        localities.push(LocalityEndpoints {
            locality: locality.locality.clone(),
            priority: locality.priority,
            weight: locality.weight,
            endpoints,
        });
    }
    ClusterLoadAssignment { cluster_name, localities }
}

/// What a logical name leads to beside its first address, the families in turn, so that one that does not work costs little.
fn further(dns: &DnsDiscovery, targets: &[Target]) -> HashMap<SocketAddr, Vec<SocketAddr>> {
    if dns.kind != DnsKind::Logical {
        return HashMap::default();
    }
    let endpoints = dns.localities.iter().flat_map(|l| &l.endpoints);
    let of_name = |(target, port): (&Target, u16)| {
        let (first, rest) = target.addresses().split_first()?;
        let (same, other): (Vec<IpAddr>, Vec<IpAddr>) = rest.iter().partition(|ip| ip.is_ipv4() == first.is_ipv4());
        let (mut same, mut other) = (same.into_iter(), other.into_iter());
        let mut turns = Vec::with_capacity(rest.len());
        while turns.len() < rest.len() {
            turns.extend(other.next().into_iter().chain(same.next()));
        }
        Some((SocketAddr::new(*first, port), turns.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()))
    };
    targets.iter().zip(endpoints.map(|e| e.port)).filter_map(of_name).collect()
}

#[cfg(test)]
mod tests;
