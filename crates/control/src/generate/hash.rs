//! Consistent choices of endpoints (`loadBalancer.consistentHash`): the cluster has the table, its routes say what is hashed.

use super::destination::MergedRule;
use super::proxy::Proxy;
use crate::names::OutboundName;
use crate::world::World;
use lateen_model::dataplane::{ClusterSpecifier, Forward, HashCookie, HashKey, HashPolicy, LbPolicy, MaglevTableSize, RingSize};
use lateen_model::resource::{ConsistentHash, HttpCookie};
use std::time::Duration;

/// The table of a cluster. Sizes that no table can have are refused when the manifest is read.
pub(super) fn lb_policy(written: &ConsistentHash) -> LbPolicy {
    if let Some(maglev) = &written.maglev {
        let size = maglev.table_size.and_then(|n| MaglevTableSize::try_new(n).ok());
        return LbPolicy::Maglev(size.unwrap_or_default());
    }
    let default = RingSize::default();
    let minimum = match &written.ring_hash {
        Some(ring) => ring.minimum_ring_size,
        None => written.minimum_ring_size.filter(|n| *n > 0),
    };
    let size = minimum.and_then(|n| RingSize::try_new(n, default.maximum().into()).ok());
    LbPolicy::RingHash(size.unwrap_or_default())
}

/// What is hashed; `None` for `useSourceIp: false`.
fn policy(written: &ConsistentHash) -> Option<HashPolicy> {
    let key = if let Some(name) = &written.http_header_name {
        HashKey::Header(name.to_ascii_lowercase())
    } else if let Some(written) = &written.http_cookie {
        HashKey::Cookie(cookie(written))
    } else if let Some(name) = &written.http_query_parameter_name {
        HashKey::QueryParameter(name.clone())
    } else if written.use_source_ip == Some(true) {
        HashKey::SourceIp
    } else {
        return None;
    };
    Some(HashPolicy { key, terminal: false })
}

fn cookie(written: &HttpCookie) -> HashCookie {
    HashCookie {
        name: written.name.clone(),
        ttl: written.ttl.map(Duration::from),
        path: written.path.clone(),
        attributes: written.attributes.iter().map(|a| (a.name.clone(), a.value.clone())).collect(),
    }
}

/// What is hashed for an outbound cluster, as the proxy's DestinationRule says.
fn of_cluster(world: &World, proxy: &Proxy, cluster: &str) -> Option<HashPolicy> {
    let name = OutboundName::parse(cluster)?;
    let service = world.service_seen_from(&proxy.namespace, name.host)?;
    let rule = MergedRule::lookup_for(world, proxy, service);
    policy(rule.policy(name.port, name.subset).load_balancer?.consistent_hash.as_ref()?)
}

/// Completes a route by what its clusters hash. A retry of a consistent choice goes to the same endpoint again, unless the route
/// asks for another one in so many words; as in Istio, only if it has one destination.
pub(super) fn complete(world: &World, proxy: &Proxy, mut forward: Forward, avoids_in_so_many_words: bool) -> Forward {
    forward.hash_policies = match &forward.cluster {
        ClusterSpecifier::Single(name) => of_cluster(world, proxy, name).into_iter().collect(),
        ClusterSpecifier::Weighted(branches) => branches.iter().filter_map(|b| of_cluster(world, proxy, &b.name)).collect(),
    };
    let single = matches!(forward.cluster, ClusterSpecifier::Single(_));
    if let Some(retry) = forward.retry.as_mut().filter(|_| single && !forward.hash_policies.is_empty()) {
        retry.avoid_previous_hosts = avoids_in_so_many_words;
        retry.host_selection_attempts = if avoids_in_so_many_words { retry.host_selection_attempts } else { 1 };
    }
    forward
}

/// Whether connections to a cluster are told apart by their client's address.
pub(super) fn by_source_ip(world: &World, proxy: &Proxy, cluster: &str) -> bool {
    of_cluster(world, proxy, cluster).is_some_and(|p| p.key == HashKey::SourceIp)
}
