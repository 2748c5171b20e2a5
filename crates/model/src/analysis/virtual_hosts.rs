//! Hosts that several VirtualServices claim, and hosts that belong to services of other namespaces.

use std::collections::BTreeMap;

use super::{Context, Step, finding, host_of, service_entries, services, virtual_services};
use crate::manifest::Finding;
use crate::resource::{ObjectMeta, ROUTES_FROM, Resource, VirtualService, host};

pub(super) fn findings<'a>(resources: impl Iterator<Item = &'a Resource> + Clone, context: &Context) -> Vec<Finding> {
    let all = virtual_services(resources.clone());
    let for_mesh: Vec<&VirtualService> = all.into_iter().filter(|v| v.applies_to_mesh()).collect();
    let mut found = claimed_twice(&for_mesh, context);
    if !context.foreign_routes {
        let mut owners: BTreeMap<String, Vec<&ObjectMeta>> = BTreeMap::new();
        for service in services(resources.clone()) {
            owners.entry(host_of(service, context)).or_default().push(&service.metadata);
        }
        for entry in service_entries(resources) {
            for host in &entry.spec.hosts {
                owners.entry(host.to_ascii_lowercase()).or_default().push(&entry.metadata);
            }
        }
        found.extend(for_mesh.iter().flat_map(|v| foreign(v, &owners, context)));
    }
    found
}

/// Sidecars take the routes of one VirtualService for a host and do not merge them with another's.
fn claimed_twice(oldest_first: &[&VirtualService], context: &Context) -> Vec<Finding> {
    let mut first: BTreeMap<(String, Vec<String>), &VirtualService> = BTreeMap::new();
    let mut found = Vec::new();
    for entry in oldest_first {
        let mut seen_in = entry.spec.export_to.clone();
        seen_in.iter_mut().filter(|namespace| *namespace == ".").for_each(|own| own.clone_from(&entry.metadata.namespace));
        seen_in.sort();
        if seen_in.is_empty() {
            seen_in.push("*".to_owned());
        }
        for (index, written) in entry.spec.hosts.iter().enumerate() {
            let host = host::resolve(written, &entry.metadata.namespace, &context.domain);
            let key = (host, seen_in.clone());
            match first.get(&key) {
                None => {
                    first.insert(key, entry);
                }
                Some(other) => {
                    let meta = &other.metadata;
                    let text = format!(
                        "VirtualService {}/{} ({}) is older and has {} already: sidecars take its routes alone",
                        meta.namespace, meta.name, meta.provenance.origin, key.0
                    );
                    found.push(finding(&entry.metadata, &[Step::Key("spec"), Step::Key("hosts"), Step::Index(index)], text));
                }
            }
        }
    }
    found
}

fn foreign(entry: &VirtualService, owners: &BTreeMap<String, Vec<&ObjectMeta>>, context: &Context) -> Vec<Finding> {
    let from = entry.metadata.namespace.as_str();
    let only_own = !entry.spec.export_to.is_empty() && entry.spec.export_to.iter().all(|n| n == "." || n == from);
    if from == context.root_namespace || only_own {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (index, written) in entry.spec.hosts.iter().enumerate() {
        let wanted = host::resolve(written, from, &context.domain);
        let consents = |owner: &&ObjectMeta| owner.namespace == from || owner.routes_from().any(|n| n == "*" || n == from);
        let covered = owners.iter().filter(|(host, _)| host::subset_of(host, &wanted));
        let refusing = covered.flat_map(|(host, owners)| owners.iter().map(move |o| (host, o))).find(|(_, o)| !consents(o));
        if let Some((host, owner)) = refusing {
            let text = format!(
                "{host} belongs to namespace {}, which has not agreed: these routes hold for it only in {from}; the annotation \
                 {ROUTES_FROM}: {from} on {} lets them hold everywhere",
                owner.namespace, owner.name
            );
            found.push(finding(&entry.metadata, &[Step::Key("spec"), Step::Key("hosts"), Step::Index(index)], text));
        }
    }
    found
}
