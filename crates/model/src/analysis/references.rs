//! Routes that lead nowhere: delegates, services and subsets that do not exist.

use std::collections::{BTreeMap, BTreeSet};

use super::{Context, Step, finding, host_of, service_entries, services, virtual_services};
use crate::manifest::Finding;
use crate::resource::{Delegate, Destination, Resource, VirtualService, host};

pub(super) fn findings<'a>(resources: impl Iterator<Item = &'a Resource> + Clone, context: &Context) -> Vec<Finding> {
    let all = virtual_services(resources.clone());
    let known = Known::new(resources, context);
    let by_name: BTreeMap<(&str, &str), &VirtualService> =
        all.iter().map(|v| ((v.metadata.namespace.as_str(), v.metadata.name.as_str()), *v)).collect();
    let mut found = Vec::new();
    for entry in &all {
        for (index, http) in entry.spec.http.iter().enumerate() {
            let at = |field| [Step::Key("spec"), Step::Key("http"), Step::Index(index), Step::Key(field)];
            if let Some(problem) = http.delegate.as_ref().and_then(|d| delegate(entry, d, &by_name)) {
                found.push(finding(&entry.metadata, &at("delegate"), format!("{problem}: the route is left out")));
            }
            let routes = http.route.iter().filter_map(|r| r.destination.as_ref()).map(|d| ("route", d));
            let mirrors = http.mirrors.iter().filter_map(|m| m.destination.as_ref()).map(|d| ("mirrors", d));
            let mirror = http.mirror.iter().map(|d| ("mirror", d));
            let problems = routes.chain(mirrors).chain(mirror).filter_map(|(field, d)| Some((field, known.problem(entry, d)?)));
            found.extend(problems.map(|(field, problem)| finding(&entry.metadata, &at(field), problem)));
        }
        let tls = entry.spec.tls.iter().enumerate().map(|(i, t)| ("tls", i, &t.route));
        for (kind, index, route) in tls.chain(entry.spec.tcp.iter().enumerate().map(|(i, t)| ("tcp", i, &t.route))) {
            let problems = route.iter().filter_map(|r| known.problem(entry, r.destination.as_ref()?));
            let at = [Step::Key("spec"), Step::Key(kind), Step::Index(index), Step::Key("route")];
            found.extend(problems.map(|problem| finding(&entry.metadata, &at, problem)));
        }
    }
    found
}

fn delegate(root: &VirtualService, wanted: &Delegate, all: &BTreeMap<(&str, &str), &VirtualService>) -> Option<String> {
    let own = root.metadata.namespace.as_str();
    let namespace = if wanted.namespace.is_empty() { own } else { wanted.namespace.as_str() };
    let name = format!("VirtualService {namespace}/{}", wanted.name);
    let Some(leaf) = all.get(&(namespace, wanted.name.as_str())) else { return Some(format!("there is no {name}")) };
    if !leaf.spec.hosts.is_empty() {
        return Some(format!("{name} has hosts of its own, and so is no delegate"));
    }
    let exported = &leaf.spec.export_to;
    let visible = exported.is_empty() || exported.iter().any(|n| n == "*" || n == own || (n == "." && namespace == own));
    (!visible).then(|| format!("{name} is not exported to namespace {own}"))
}

/// What routes may lead to.
struct Known {
    hosts: BTreeSet<String>,
    wildcards: Vec<String>,
    subsets: BTreeMap<String, BTreeSet<String>>,
    domain: String,
}

impl Known {
    fn new<'a>(resources: impl Iterator<Item = &'a Resource> + Clone, context: &Context) -> Self {
        let own = services(resources.clone()).map(|s| host_of(s, context));
        let entries = service_entries(resources.clone()).flat_map(|e| e.spec.hosts.iter().map(|h| h.to_ascii_lowercase()));
        let (wildcards, hosts): (Vec<String>, Vec<String>) = own.chain(entries).partition(|h| host::is_wildcard(h));
        let mut subsets: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for resource in resources {
            if let Resource::DestinationRule(rule) = resource {
                let host = host::resolve(&rule.spec.host, &rule.metadata.namespace, &context.domain);
                subsets.entry(host).or_default().extend(rule.spec.subsets.iter().map(|s| s.name.clone()));
            }
        }
        Self { hosts: hosts.into_iter().collect(), wildcards, subsets, domain: context.domain.clone() }
    }

    fn problem(&self, entry: &VirtualService, destination: &Destination) -> Option<String> {
        let host = host::resolve(&destination.host, &entry.metadata.namespace, &self.domain);
        if !self.hosts.contains(&host) && !self.wildcards.iter().any(|w| host::subset_of(&host, w)) {
            return Some(format!("there is no Service or ServiceEntry {host}: requests are answered with 503"));
        }
        let subset = &destination.subset;
        let defines = |(rule, names): (&String, &BTreeSet<String>)| host::subset_of(&host, rule) && names.contains(subset);
        let missing = !subset.is_empty() && !self.subsets.iter().any(defines);
        missing.then(|| format!("no DestinationRule of {host} has a subset {subset:?}: requests are answered with 503"))
    }
}
