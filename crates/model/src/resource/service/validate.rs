//! What makes a Service valid: Kubernetes' own rules.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{IpFamilyPolicy, Service, ServicePort, ServiceType, SessionAffinity};
use crate::resource::check::{self, report, report_at};
use crate::resource::export_to::ExportTo;
use crate::resource::{FieldIssue, IntOrString, Issues, shorten};

/// Istio's annotation of a service's visibility.
pub const EXPORT_TO_ANNOTATION: &str = "networking.istio.io/exportTo";

impl Service {
    /// Which namespaces see it, or `None` if the mesh's default applies.
    pub fn export_to(&self) -> Option<ExportTo> {
        let value = self.metadata.annotations.get(EXPORT_TO_ANNOTATION)?;
        ExportTo::parse(value.split(','), &self.metadata.namespace)
    }

    /// Finds what Kubernetes' validation would refuse.
    pub fn validate(&self, issues: &mut Issues) {
        if self.metadata.labels.contains_key("topology.istio.io/network") {
            issues.warn("is not used as a gateway between networks: endpoints of all networks are reached directly");
        }
        issues.field("spec", |issues| {
            if self.spec.type_ == ServiceType::ExternalName {
                let name = self.spec.external_name.as_deref().unwrap_or_default();
                if issues.require("externalName", name) {
                    report_at(issues, "externalName", check::dns_subdomain(name.strip_suffix('.').unwrap_or(name)));
                }
                if self.spec.cluster_ip.as_ref().is_some_and(|ip| !ip.is_empty()) {
                    issues.error_at("clusterIP", "must not be set with ExternalName");
                }
                if !self.spec.selector.is_empty() {
                    issues.warn_at("selector", "has no effect with ExternalName");
                }
            } else if self.spec.ports.is_empty() && !self.spec.is_headless() {
                issues.error_at("ports", "is required");
            }
            self.check_ports(issues);
            self.check_addresses(issues);
            if self.spec.session_affinity == Some(SessionAffinity::ClientIp) {
                issues.warn_at(
                    "sessionAffinity",
                    "has no effect on clients with a sidecar, in Istio too: consistentHash.useSourceIp of a DestinationRule has",
                );
            }
            issues.field("selector", |issues| {
                for (key, value) in &self.spec.selector {
                    issues.field(key, |issues| {
                        report(issues, check::qualified_name(key));
                        report(issues, check::label_value(value));
                    });
                }
            });
            if matches!(self.spec.type_, ServiceType::NodePort | ServiceType::LoadBalancer) {
                issues.warn_at("type", "is treated as ClusterIP: there are no node ports and no load balancers on one machine");
            }
        });
    }

    fn check_ports(&self, issues: &mut Issues) {
        let mut names = BTreeSet::new();
        let mut numbers = BTreeSet::new();
        let several = self.spec.ports.len() > 1;
        issues.each("ports", &self.spec.ports, |issues, port| {
            check_port(port, several, issues);
            if !port.name.is_empty() && !names.insert(port.name.as_str()) {
                issues.error_at("name", format!("the name {:?} is used twice", shorten(&port.name)));
            }
            if !numbers.insert((port.port, port.protocol as u8)) {
                issues.error_at("port", format!("the port {} is listed twice for one protocol", port.port));
            }
        });
    }

    fn check_addresses(&self, issues: &mut Issues) {
        let spec = &self.spec;
        let check = |issues: &mut Issues, address: &str| {
            if !matches!(address, "" | "None") && address.parse::<IpAddr>().is_err() {
                issues.error(format!("{:?} must be an IP address, or None", shorten(address)));
            }
        };
        issues.optional("clusterIP", spec.cluster_ip.as_ref(), |issues, address| check(issues, address));
        issues.each("clusterIPs", &spec.cluster_ips, |issues, address| check(issues, address));
        if let (Some(one), Some(first)) = (&spec.cluster_ip, spec.cluster_ips.first()) {
            if one != first {
                issues.error_at("clusterIPs", "must begin with the address in clusterIP");
            }
        } else if !spec.cluster_ips.is_empty() {
            issues.error_at("clusterIP", "must be the first address of clusterIPs");
        }
        let families: Vec<bool> =
            spec.cluster_ips.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()).map(|ip| ip.is_ipv4()).collect();
        if spec.cluster_ips.len() > 2 || families.windows(2).any(|pair| pair[0] == pair[1]) {
            issues.error_at("clusterIPs", "may hold one IPv4 and one IPv6 address");
        }
        let has_two = spec.ip_families.len() > 1 || spec.cluster_ips.len() > 1;
        if has_two && spec.ip_family_policy == Some(IpFamilyPolicy::SingleStack) {
            issues.error_at("ipFamilyPolicy", "SingleStack contradicts two families");
        }
        if spec.ip_families.len() > 2 || spec.ip_families.windows(2).any(|pair| pair[0] == pair[1]) {
            issues.error_at("ipFamilies", "may list IPv4 and IPv6 once each");
        }
    }

    /// Fields that are set and not implemented.
    pub(in crate::resource) fn unsupported(&self) -> Vec<FieldIssue> {
        let mut issues = Issues::default();
        issues.field("spec", |issues| {
            issues.unsupported_if(!self.spec.external_ips.is_empty(), "externalIPs");
        });
        issues.into_errors()
    }
}

fn check_port(port: &ServicePort, several: bool, issues: &mut Issues) {
    match port.name.as_str() {
        "" if several => issues.error_at("name", "is required when there are several ports"),
        "" => {}
        name => report_at(issues, "name", check::dns_label(name)),
    }
    report_at(issues, "port", check::port(port.port));
    issues.optional("targetPort", port.target_port.as_ref(), |issues, target| match target {
        IntOrString::Int(number) => report(issues, check::port((*number).into())),
        IntOrString::String(name) => report(issues, check::port_name(name)),
    });
    issues
        .optional("appProtocol", port.app_protocol.as_ref(), |issues, protocol| report(issues, check::qualified_name(protocol)));
    if let Some(number) = port.node_port.filter(|number| *number != 0) {
        report_at(issues, "nodePort", check::port(number));
    }
}
