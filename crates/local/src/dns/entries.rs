//! Names of ServiceEntries: what Istio's sidecars answer from the table of names, the mesh's server answers for all pods.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lateen_model::resource::address_allocation::{allocate, hosts_to_allocate};
use lateen_model::resource::{ServiceEntry, host};

/// Names (in lower case, with the final dot; a wildcard's begin with `*`) and their addresses.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct EntryNames(BTreeMap<String, Vec<IpAddr>>);

impl EntryNames {
    /// Addresses that are written, else those that are given, which the control plane works out alike. Of several entries of
    /// one name the first in the order of namespaces counts.
    pub(crate) fn new<'a>(entries: impl Iterator<Item = &'a ServiceEntry> + Clone, ipv6: bool) -> Self {
        let pairs = |e: &'a ServiceEntry| hosts_to_allocate(e).map(|name| (e.metadata.namespace.clone(), name));
        let given = allocate(&entries.clone().flat_map(pairs).collect::<BTreeSet<_>>());
        let mut names: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        for entry in entries.filter(|e| !e.spec.export_to.iter().any(|to| to == "~")) {
            let written: Vec<IpAddr> = entry.spec.addresses.iter().filter_map(|a| one_address(a)).collect();
            for name in &entry.spec.hosts {
                let name = name.trim_end_matches('.').to_ascii_lowercase();
                let key = (entry.metadata.namespace.clone(), name);
                let mut addresses = match (written.is_empty(), given.get(&key)) {
                    (false, _) => written.clone(),
                    (true, Some(given)) if entry.spec.wants_addresses(&entry.metadata.labels) => given.both().to_vec(),
                    _ => continue,
                };
                addresses.retain(|ip| ipv6 || ip.is_ipv4());
                names.entry(format!("{}.", key.1)).or_insert(addresses);
            }
        }
        Self(names)
    }

    /// The addresses of a name, of itself or of the most specific wildcard.
    pub(crate) fn get(&self, name: &str) -> Option<&[IpAddr]> {
        if let Some(found) = self.0.get(name) {
            return Some(found);
        }
        let covers = self.0.keys().map(String::as_str).filter(|k| host::is_wildcard(k));
        self.0.get(host::most_specific(name, covers)?).map(Vec::as_slice)
    }
}

/// An address, or a block of one.
fn one_address(text: &str) -> Option<IpAddr> {
    match text.split_once('/') {
        None => text.parse().ok(),
        Some((ip, length)) => ip.parse().ok().filter(|ip: &IpAddr| length == if ip.is_ipv4() { "32" } else { "128" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::Resources;

    #[test]
    fn written_given_and_wildcard_names() {
        let entry = |name: &str, spec: &str| {
            format!(
                "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: a}}\nspec: {spec}\n---\n"
            )
        };
        let ports = "ports: [{number: 80, name: http, protocol: HTTP}]";
        let text = [
            entry("a", &format!("{{hosts: [api.example.com], resolution: DNS, {ports}}}")),
            entry(
                "b",
                &format!(
                    "{{hosts: [DB.example.com], addresses: [10.7.7.7, 10.8.0.0/16, 10.6.6.6/32], resolution: NONE, {ports}}}"
                ),
            ),
            entry("c", &format!("{{hosts: ['*.wild.org'], addresses: [10.5.5.5], resolution: NONE, {ports}}}")),
            entry("d", &format!("{{hosts: [bare.org], resolution: NONE, {ports}}}")),
            entry("e", &format!("{{hosts: [hidden.org], resolution: DNS, exportTo: ['~'], {ports}}}")),
        ]
        .concat();
        let resources = Resources::from_text(&text);
        let names = EntryNames::new(resources.service_entries(), true);
        let without = EntryNames::new(resources.service_entries(), false);
        assert_eq!(without.get("api.example.com.").unwrap().len(), 1);
        let of = |name: &str| names.get(name).map(|ips| ips.iter().map(ToString::to_string).collect::<Vec<_>>());
        let given = of("api.example.com.").unwrap();
        assert!(given[0].starts_with("240.240.") && given[1].starts_with("2001:2::"), "{given:?}");
        assert_eq!(of("db.example.com.").unwrap(), ["10.7.7.7", "10.6.6.6"]);
        assert_eq!(of("x.y.wild.org.").unwrap(), ["10.5.5.5"]);
        for unknown in ["wild.org.", "bare.org.", "hidden.org.", "com."] {
            assert_eq!(of(unknown), None, "{unknown}");
        }
    }
}
