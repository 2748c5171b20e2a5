//! What makes an EndpointSlice and `v1 Endpoints` valid: Kubernetes' own rules.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{AddressType, EndpointPort, EndpointSlice, Endpoints, SERVICE_NAME_LABEL, SubsetAddress, TargetReference};
use crate::resource::check::{self, report, report_at};
use crate::resource::{FieldIssue, Issues, shorten};

/// Most endpoints and ports of one slice (Kubernetes' limits).
const MAX_ENDPOINTS: usize = 1000;
const MAX_PORTS: usize = 100;
/// Most addresses of one endpoint.
const MAX_ADDRESSES: usize = 100;

impl EndpointSlice {
    /// Finds what Kubernetes' validation would refuse.
    pub fn validate(&self, issues: &mut Issues) {
        if self.service().is_none() {
            issues.field("metadata", |issues| {
                let text = format!("have no {SERVICE_NAME_LABEL}: no service has these endpoints");
                issues.warn_at("labels", text);
            });
        }
        for (key, count, limit) in [("endpoints", self.endpoints.len(), MAX_ENDPOINTS), ("ports", self.ports.len(), MAX_PORTS)] {
            if count > limit {
                issues.error_at(key, format!("are {count}; {limit} are allowed"));
            }
        }
        issues.each("endpoints", &self.endpoints, |issues, endpoint| {
            match endpoint.addresses.len() {
                0 => issues.error_at("addresses", "must not be empty"),
                1..=MAX_ADDRESSES => {}
                count => issues.error_at("addresses", format!("are {count}; {MAX_ADDRESSES} are allowed")),
            }
            issues.each("addresses", &endpoint.addresses, |issues, text| match self.address_type {
                AddressType::V4 | AddressType::V6 => check_ip(issues, text, Some(self.address_type == AddressType::V4)),
                AddressType::Fqdn => report(issues, check::dns_subdomain(text)),
            });
            check_hostname(issues, endpoint.hostname.as_deref());
            check_reference(issues, endpoint.target_ref.as_ref(), &self.metadata.namespace);
        });
        check_ports(issues, &self.ports);
    }

    /// Fields that are set and not implemented.
    pub(in crate::resource) fn unsupported(&self) -> Vec<FieldIssue> {
        let mut issues = Issues::default();
        if self.address_type == AddressType::Fqdn {
            issues.error_at(
                "addressType",
                "FQDN is not supported by this version of Lateen (Istio ignores such slices); a ServiceEntry with resolution: DNS is",
            );
        }
        unsupported_ports(&mut issues, &self.ports);
        issues.into_errors()
    }
}

impl Endpoints {
    /// Finds what Kubernetes' validation would refuse.
    pub fn validate(&self, issues: &mut Issues) {
        issues.each("subsets", &self.subsets, |issues, subset| {
            if subset.addresses.is_empty() && subset.not_ready_addresses.is_empty() {
                issues.error("must have addresses or notReadyAddresses");
            }
            for (key, list) in [("addresses", &subset.addresses), ("notReadyAddresses", &subset.not_ready_addresses)] {
                issues.each(key, list, |issues, address| self.check_address(issues, address));
            }
            check_ports(issues, &subset.ports);
        });
    }

    fn check_address(&self, issues: &mut Issues, address: &SubsetAddress) {
        issues.field("ip", |issues| check_ip(issues, &address.ip, None));
        check_hostname(issues, address.hostname.as_deref());
        check_reference(issues, address.target_ref.as_ref(), &self.metadata.namespace);
    }

    /// Fields that are set and not implemented.
    pub(in crate::resource) fn unsupported(&self) -> Vec<FieldIssue> {
        let mut issues = Issues::default();
        issues.each("subsets", &self.subsets, |issues, subset| unsupported_ports(issues, &subset.ports));
        issues.into_errors()
    }
}

/// An address that others can be reached at; of IPv4 or of IPv6, if that is asked for.
fn check_ip(issues: &mut Issues, text: &str, v4: Option<bool>) {
    let family = match v4 {
        Some(true) => "an IPv4",
        Some(false) => "an IPv6",
        None => "an IP",
    };
    match text.parse::<IpAddr>() {
        Ok(ip) if v4.is_some_and(|v4| v4 != ip.is_ipv4()) => issues.error(format!("{ip} must be {family} address")),
        Ok(ip) if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_link_local(ip) => {
            issues.error(format!("{ip} must not be an unspecified, loopback, link-local or multicast address"));
        }
        Ok(_) => {}
        Err(_) => issues.error(format!("{:?} must be {family} address", shorten(text))),
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn check_hostname(issues: &mut Issues, name: Option<&str>) {
    if let Some(name) = name.filter(|n| !n.is_empty()) {
        report_at(issues, "hostname", check::dns_label(name));
    }
}

fn check_reference(issues: &mut Issues, reference: Option<&TargetReference>, own: &str) {
    let Some(reference) = reference.filter(|r| r.kind == "Pod") else { return };
    if !reference.namespace.is_empty() && reference.namespace != own {
        issues.field("targetRef", |issues| issues.error_at("namespace", "must be the namespace of the object itself"));
    }
}

fn check_ports(issues: &mut Issues, ports: &[EndpointPort]) {
    let mut names = BTreeSet::new();
    issues.each("ports", ports, |issues, port| {
        if !port.name.is_empty() {
            report_at(issues, "name", check::dns_label(&port.name));
        }
        if !names.insert(&port.name) {
            issues.error_at("name", format!("the name {:?} is used twice", shorten(&port.name)));
        }
        if let Some(number) = port.port {
            report_at(issues, "port", check::port(number));
        }
        if let Some(protocol) = &port.app_protocol {
            report_at(issues, "appProtocol", check::qualified_name(protocol));
        }
    });
}

/// A port without a number stands for every port in Kubernetes.
fn unsupported_ports(issues: &mut Issues, ports: &[EndpointPort]) {
    issues.each("ports", ports, |issues, port| {
        if port.port.is_none() {
            issues.error("a port without a number, which stands for all ports, is not supported by this version of Lateen");
        }
    });
}
