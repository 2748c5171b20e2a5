//! Which endpoints and secrets a change can alter, for all proxies alike.

use super::view::shows_endpoints;
use crate::generate::secret;
use crate::names;
use crate::world::{ChangeKey, ChangeSet, Kind, World};
use lateen_model::dataplane::LOCAL_CLUSTER;
use lateen_model::resource::host;
use lateen_xds::server::{Change, Names};
use lateen_xds::{Generation, ResourceType};
use std::collections::BTreeSet;

/// Names of endpoints and secrets that may differ between the two worlds. Too many are harmless.
pub(super) fn shared(old: &World, new: &World, changes: &ChangeSet, generation: Generation) -> Change {
    let mut change = Change::new(generation);
    if changes.touches(Kind::MeshConfig) {
        change.names[ResourceType::Eds] = Names::All;
        change.names[ResourceType::Sds] = Names::All;
    } else {
        change.names[ResourceType::Eds] = endpoint_names(old, new, changes);
        if changes.touches(Kind::Workload) {
            change.names[ResourceType::Eds].insert(LOCAL_CLUSTER.into());
        }
    }
    let pods = changes.of(Kind::Endpoints).any(|key| shows_endpoints(old, key) || shows_endpoints(new, key));
    let services = changes.touches(Kind::Service) || pods || changes.touches(Kind::Sidecar);
    if services || changes.touches(Kind::VirtualService) || changes.touches(Kind::MeshConfig) {
        change.names[ResourceType::Nds] = Names::All;
    }
    for key in changes.keys() {
        match key.kind {
            Kind::TrustBundle => change.names[ResourceType::Sds].insert(secret::ROOT_CA.into()),
            Kind::Secret => {
                for name in secret::names_of(&key.namespace, &key.name) {
                    change.names[ResourceType::Sds].insert(name.into());
                }
            }
            _ => {}
        }
    }
    change
}

fn endpoint_names(old: &World, new: &World, changes: &ChangeSet) -> Names {
    let mut hosts: BTreeSet<String> = BTreeSet::new();
    for key in changes.keys() {
        match key.kind {
            Kind::Endpoints | Kind::Service => {
                for world in [old, new] {
                    let service = world.namespace(&key.namespace).and_then(|ns| ns.services.get(&key.name));
                    hosts.extend(service.map(|s| s.host.to_string()));
                }
            }
            Kind::DestinationRule => hosts.extend(hosts_of_rule(old, key).chain(hosts_of_rule(new, key))),
            Kind::PeerAuthentication => {
                if *key.namespace == *new.root_namespace() {
                    return Names::All;
                }
                let services = new.namespace(&key.namespace).map(|ns| &ns.services);
                hosts.extend(services.into_iter().flat_map(|s| s.values()).map(|s| s.host.to_string()));
            }
            _ => {}
        }
    }
    let mut names = BTreeSet::new();
    for host in &hosts {
        for world in [old, new] {
            names.extend(cluster_names(world, host));
        }
    }
    names.into_iter().collect()
}

fn hosts_of_rule<'a>(world: &'a World, key: &ChangeKey) -> impl Iterator<Item = String> + use<'a> {
    let rule = world.namespace(&key.namespace).and_then(|ns| ns.destination_rules.get(&key.name)).cloned();
    let covered = move |host: &str| rule.as_ref().is_some_and(|r| r.hosts.iter().any(|h| host::subset_of(host, h)));
    world.services().filter(move |s| covered(&s.host)).map(|s| s.host.to_string())
}

/// All clusters that any rule makes of a service.
fn cluster_names(world: &World, host: &str) -> Vec<String> {
    let mut subsets: BTreeSet<&str> = BTreeSet::from([""]);
    for (_, ns) in world.namespaces() {
        for rule in ns.destination_rules.iter().filter(|r| r.hosts.iter().any(|h| host::subset_of(host, h))) {
            subsets.extend(rule.resource.spec.subsets.iter().map(|s| s.name.as_str()));
        }
    }
    let of_port = |port: u16| subsets.iter().map(move |s| names::outbound_cluster(port, s, host)).collect::<Vec<_>>();
    let ports = || world.services_of(host).flat_map(|s| &s.ports).map(|p| p.number);
    let by_server_name = ports().map(|p| names::mtls_sni(p, "", host));
    ports().flat_map(of_port).chain(by_server_name).collect()
}
