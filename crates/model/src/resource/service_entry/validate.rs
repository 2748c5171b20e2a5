//! What Istio's validation refuses in a ServiceEntry, or warns about.

use std::collections::BTreeSet;

use super::{ServiceEntry, ServiceEntryPort, ServiceEntryResolution, ServiceEntrySpec};
use crate::resource::check::{self, report, report_at};
use crate::resource::selector::validate_istio_labels;
use crate::resource::workload_entry::{WorkloadAddress, check_entry};
use crate::resource::{FieldIssue, Issues, export_to, host, shorten};

/// The most hosts and addresses (the schema's bounds).
const MAX_ITEMS: usize = 256;

/// Protocols that a port may name (Istio's list, in upper case).
const PROTOCOLS: &[&str] =
    &["", "TCP", "UDP", "TLS", "HTTP", "HTTPS", "HTTP2", "HTTP_PROXY", "GRPC", "GRPC-WEB", "MONGO", "REDIS", "MYSQL"];

impl ServiceEntry {
    /// Finds what Istio's validation would refuse or warn about.
    pub fn validate(&self, issues: &mut Issues) {
        issues.field("spec", |issues| {
            let spec = &self.spec;
            hosts(spec, issues);
            addresses(spec, issues);
            ports(&spec.ports, issues);
            resolution(spec, issues);
            let names: BTreeSet<&str> = spec.ports.iter().map(|p| p.name.as_str()).collect();
            issues.each("endpoints", &spec.endpoints, |issues, endpoint| {
                check_entry(endpoint, issues);
                for name in endpoint.ports.keys().filter(|name| !names.contains(name.as_str())) {
                    issues.error_at("ports", format!("{:?} is not the name of a port of the service", shorten(name)));
                }
            });
            issues.optional("workloadSelector", spec.workload_selector.as_ref(), |issues, selector| {
                if selector.is_empty() {
                    issues.error("must have labels");
                }
                for (key, labels) in [("labels", &selector.labels), ("matchLabels", &selector.match_labels)] {
                    issues.optional(key, labels.as_ref(), |issues, labels| validate_istio_labels(labels, issues));
                }
                if !spec.endpoints.is_empty() {
                    issues.error("contradicts endpoints: only one of the two is allowed");
                }
                if spec.resolution == ServiceEntryResolution::None {
                    issues.warn("has no effect with resolution: NONE");
                }
            });
            export_to::validate_entry(&spec.export_to, &self.metadata.namespace, issues);
            issues.each("subjectAltNames", &spec.subject_alt_names, |issues, name| {
                if name.is_empty() {
                    issues.error("must not be empty");
                }
            });
        });
    }

    /// Fields that are set and not implemented.
    pub fn unsupported(&self) -> Vec<FieldIssue> {
        let mut issues = Issues::default();
        issues.field("spec", |issues| {
            let spec = &self.spec;
            if spec.resolution == ServiceEntryResolution::DynamicDns {
                issues.error_at(
                    "resolution",
                    "DYNAMIC_DNS is not supported by this version of Lateen; NONE, STATIC, DNS and DNS_ROUND_ROBIN are",
                );
            }
            issues.each("endpoints", &spec.endpoints, |issues, endpoint| endpoint.unsupported(issues));
        });
        issues.into_errors()
    }
}

fn hosts(spec: &ServiceEntrySpec, issues: &mut Issues) {
    match spec.hosts.len() {
        0 => issues.error_at("hosts", "must not be empty"),
        1..=MAX_ITEMS => {}
        count => issues.error_at("hosts", format!("has {count} entries, more than {MAX_ITEMS}")),
    }
    let mut seen = BTreeSet::new();
    issues.each("hosts", &spec.hosts, |issues, name| {
        if name == "*" {
            issues.error("\"*\" alone would take every name");
            return;
        }
        report(issues, check::wildcard_host(name));
        if host::is_wildcard(name) && !name.starts_with("*.") {
            issues.warn(format!("{:?} is a wildcard within a label: probably \"*.\" is meant", shorten(name)));
        }
        if !seen.insert(name.to_ascii_lowercase()) {
            issues.error(format!("{:?} is listed twice", shorten(name)));
        }
    });
    let routed = |port: &ServiceEntryPort| {
        let protocol = port.protocol.to_ascii_uppercase();
        matches!(protocol.as_str(), "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB" | "HTTP_PROXY" | "HTTPS" | "TLS")
    };
    let many = spec.hosts.len() > 1 && spec.resolution != ServiceEntryResolution::None;
    if many && !spec.ports.iter().all(routed) {
        issues.error_at("hosts", "several hosts need ports of HTTP or TLS: nothing else tells them apart");
    }
}

fn addresses(spec: &ServiceEntrySpec, issues: &mut Issues) {
    if spec.addresses.len() > MAX_ITEMS {
        issues.error_at("addresses", format!("has {} entries, more than {MAX_ITEMS}", spec.addresses.len()));
    }
    let resolves = matches!(
        spec.resolution,
        ServiceEntryResolution::Dns | ServiceEntryResolution::DnsRoundRobin | ServiceEntryResolution::DynamicDns
    );
    issues.each("addresses", &spec.addresses, |issues, address| {
        report(issues, check::ip_block(address));
        if resolves && address.contains('/') {
            issues.error("a CIDR block needs resolution: NONE or STATIC");
        }
    });
    let opaque = |p: &ServiceEntryPort| matches!(p.protocol.to_ascii_uppercase().as_str(), "TCP" | "MONGO" | "REDIS" | "MYSQL");
    if spec.addresses.is_empty() && spec.resolution == ServiceEntryResolution::None && spec.ports.iter().any(opaque) {
        issues.warn_at("addresses", "TCP ports without an address match every connection to the port");
    }
}

fn ports(ports: &[ServiceEntryPort], issues: &mut Issues) {
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    issues.each("ports", ports, |issues, port| {
        issues.require("name", &port.name);
        if !port.name.is_empty() {
            report_at(issues, "name", check::dns_label(&port.name));
        }
        report_at(issues, "number", check::port(port.number.into()));
        if port.target_port != 0 {
            report_at(issues, "targetPort", check::port(port.target_port.into()));
        }
        if !PROTOCOLS.contains(&port.protocol.to_ascii_uppercase().as_str()) {
            issues.error_at(
                "protocol",
                format!("{:?} is not a protocol; HTTP, TCP and TLS are, for example", shorten(&port.protocol)),
            );
        }
        if !names.insert(&port.name) {
            issues.error_at("name", format!("{:?} is the name of an earlier port", shorten(&port.name)));
        }
        if !numbers.insert(port.number) {
            issues.error_at("number", "is the number of an earlier port");
        }
    });
}

fn resolution(spec: &ServiceEntrySpec, issues: &mut Issues) {
    let wildcard = spec.hosts.iter().any(|h| host::is_wildcard(h));
    match spec.resolution {
        ServiceEntryResolution::None => {
            if !spec.endpoints.is_empty() {
                issues.error_at("endpoints", "contradict resolution: NONE");
            }
        }
        ServiceEntryResolution::Static => {
            issues.each("endpoints", &spec.endpoints, |issues, endpoint| match endpoint.parsed_address() {
                Some(WorkloadAddress::Name(_)) => {
                    issues.error_at("address", "must be an IP address with resolution: STATIC; DNS resolves names");
                }
                _ if endpoint.address.is_empty() && endpoint.network.is_empty() => {
                    issues.error_at("address", "is required");
                }
                _ => {}
            });
        }
        ServiceEntryResolution::Dns | ServiceEntryResolution::DnsRoundRobin => {
            if spec.endpoints.is_empty() && spec.workload_selector.is_none() && wildcard {
                issues.error_at("endpoints", "are required: the name of a wildcard host cannot be resolved");
            }
            if spec.resolution == ServiceEntryResolution::DnsRoundRobin && spec.endpoints.len() > 1 {
                issues.error_at("endpoints", "only one is allowed with resolution: DNS_ROUND_ROBIN");
            }
            issues.each("endpoints", &spec.endpoints, |issues, endpoint| match endpoint.parsed_address() {
                None if endpoint.address.is_empty() => issues.error_at("address", "is required"),
                Some(WorkloadAddress::Unix(_)) => issues.error_at("address", "a Unix socket needs resolution: STATIC"),
                _ => {}
            });
        }
        ServiceEntryResolution::DynamicDns => dynamic(spec, issues),
    }
}

fn dynamic(spec: &ServiceEntrySpec, issues: &mut Issues) {
    if !spec.hosts.iter().all(|h| host::is_wildcard(h)) {
        issues.error_at("hosts", "must all be wildcards with resolution: DYNAMIC_DNS");
    }
    for (key, present) in [("addresses", !spec.addresses.is_empty()), ("endpoints", !spec.endpoints.is_empty())] {
        if present {
            issues.error_at(key, "contradict resolution: DYNAMIC_DNS");
        }
    }
    issues.each("ports", &spec.ports, |issues, port| {
        if !matches!(port.protocol.to_ascii_uppercase().as_str(), "HTTP" | "TLS" | "GRPC" | "HTTP2") {
            issues.error_at("protocol", "must be HTTP, HTTP2, GRPC or TLS with resolution: DYNAMIC_DNS");
        }
    });
}
