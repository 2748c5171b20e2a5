//! `networking.istio.io WorkloadEntry`: one workload that the platform does not run, e.g. a virtual machine.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::check::{self, report_at};
use super::meta::{Object, StringMap};
use super::selector::validate_istio_labels;
use super::{FieldIssue, Issues, shorten};

/// One workload that the platform does not run.
pub type WorkloadEntry = Object<WorkloadEntrySpec>;

/// Istio's `WorkloadEntry` message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadEntrySpec {
    /// An IP address, a DNS name, or `unix:///PATH`.
    pub address: String,
    /// The workload's port for a service's port, by the name of that.
    pub ports: BTreeMap<String, u32>,
    /// What selectors see.
    pub labels: StringMap,
    /// The network that the address is of; empty is the mesh's own. Without gateways between networks, of which there are none,
    /// every address is reached directly, as by Istio; clients may prefer their own network (`topology.istio.io/network`).
    pub network: String,
    /// `REGION/ZONE/SUBZONE`.
    pub locality: String,
    /// Its share of the traffic; 0 is unset.
    pub weight: u32,
    /// The service account that it runs as, in its namespace.
    pub service_account: String,
}

/// What an address of a [`WorkloadEntrySpec`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkloadAddress {
    /// An address.
    Ip(IpAddr),
    /// A DNS name, in lower case without the dot at its end.
    Name(String),
    /// The path of a Unix socket.
    Unix(String),
}

impl WorkloadEntrySpec {
    /// The address; `None` if it is empty or cannot be read.
    pub fn parsed_address(&self) -> Option<WorkloadAddress> {
        if let Ok(ip) = self.address.parse() {
            return Some(WorkloadAddress::Ip(ip));
        }
        if let Some(path) = self.address.strip_prefix("unix://") {
            return Some(WorkloadAddress::Unix(path.to_owned()));
        }
        let name = self.address.trim_end_matches('.').to_ascii_lowercase();
        check::fqdn(&name).is_ok().then_some(WorkloadAddress::Name(name))
    }

    /// Reports fields that are set and not implemented, at the entry that `issues` is at.
    pub(super) fn unsupported(&self, issues: &mut Issues) {
        if self.address.starts_with("unix://") {
            issues
                .error_at("address", "Unix sockets are not supported by this version of Lateen; IP addresses and DNS names are");
        }
        if self.address.is_empty() && !self.network.is_empty() {
            issues.error_at(
                "address",
                "is needed by this version of Lateen: without one it is reached by a gateway of its network, and there are none",
            );
        }
    }
}

impl WorkloadEntry {
    /// Finds what Istio's validation would refuse or warn about.
    pub fn validate(&self, issues: &mut Issues) {
        issues.field("spec", |issues| check_entry(&self.spec, issues));
    }

    /// Fields that are set and not implemented.
    pub fn unsupported(&self) -> Vec<FieldIssue> {
        let mut issues = Issues::default();
        issues.field("spec", |issues| self.spec.unsupported(issues));
        issues.into_errors()
    }

    /// What selectors see: the object's own labels win over those of its `spec`.
    pub fn effective_labels(&self) -> StringMap {
        let mut labels = self.spec.labels.clone();
        labels.extend(self.metadata.labels.iter().map(|(k, v)| (k.clone(), v.clone())));
        labels
    }
}

/// Checks an entry at the field that `issues` is at.
pub(super) fn check_entry(entry: &WorkloadEntrySpec, issues: &mut Issues) {
    let address = entry.parsed_address();
    match &address {
        None if entry.address.is_empty() && entry.network.is_empty() => {
            issues.error_at("address", "is required, unless there is a network");
        }
        None if entry.address.is_empty() => {}
        None => {
            issues
                .error_at("address", format!("{:?} must be an IP address, a DNS name or unix:///PATH", shorten(&entry.address)));
        }
        Some(WorkloadAddress::Unix(path)) => {
            if !path.starts_with('/') && !path.starts_with('@') {
                issues.error_at("address", "the path of a Unix socket must be absolute");
            }
            if !entry.ports.is_empty() {
                issues.error_at("ports", "have no meaning for a Unix socket");
            }
        }
        Some(WorkloadAddress::Ip(_) | WorkloadAddress::Name(_)) => {}
    }
    issues.field("ports", |issues| {
        for (name, port) in &entry.ports {
            issues.field(name, |issues| {
                check::report(issues, check::dns_label(name).map_err(|text| format!("the port's name {text}")));
                check::report(issues, check::port((*port).into()));
            });
        }
    });
    issues.field("labels", |issues| validate_istio_labels(&entry.labels, issues));
    if !entry.locality.is_empty() && entry.locality.split('/').count() > 3 {
        issues.error_at("locality", format!("{:?} must be REGION, REGION/ZONE or REGION/ZONE/SUBZONE", shorten(&entry.locality)));
    }
    if entry.locality.contains('*') {
        issues.error_at("locality", "must not have a wildcard");
    }
    if !entry.service_account.is_empty() {
        report_at(issues, "serviceAccount", check::dns_subdomain(&entry.service_account));
    }
}
