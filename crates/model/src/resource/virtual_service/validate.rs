//! What makes a VirtualService valid: Istio's own rules.

use std::collections::BTreeMap;

use super::route_check;
use super::{HttpMatchRequest, HttpRoute, RouteDestination, StringMatch, TcpRoute, TlsRoute, VirtualService, reachability};
use crate::resource::check::{self, report, report_at};
use crate::resource::host::{Host, HostMap};
use crate::resource::{Destination, Issues, export_to};

/// The reserved gateway that means all sidecars.
pub const MESH_GATEWAY: &str = "mesh";

impl VirtualService {
    /// Whether sidecars apply it: it names no gateway, or `mesh` among others.
    pub fn applies_to_mesh(&self) -> bool {
        self.spec.gateways.is_empty() || self.spec.gateways.iter().any(|gateway| gateway == MESH_GATEWAY)
    }

    /// Finds what Istio's validation would refuse or warn about.
    pub fn validate(&self, issues: &mut Issues) {
        issues.field("spec", |issues| {
            self.check_hosts(issues);
            self.check_presence(issues);
            issues.each("gateways", &self.spec.gateways, |issues, gateway| check_gateway(gateway, issues));
            issues.each("http", &self.spec.http, |issues, route| self.check_http(route, issues));
            issues.each("tls", &self.spec.tls, |issues, route| self.check_tls(route, issues));
            issues.each("tcp", &self.spec.tcp, check_tcp);
            export_to::validate(&self.spec.export_to, &self.metadata.namespace, issues);
            issues.field("http", |issues| reachability::check(&self.spec.http, issues));
        });
    }

    fn check_presence(&self, issues: &mut Issues) {
        let spec = &self.spec;
        if spec.http.is_empty() && spec.tls.is_empty() && spec.tcp.is_empty() {
            issues.error("must have at least one route in http, tls or tcp");
        }
        if spec.hosts.is_empty() {
            for (key, present) in
                [("gateways", !spec.gateways.is_empty()), ("tls", !spec.tls.is_empty()), ("tcp", !spec.tcp.is_empty())]
            {
                if present {
                    issues.error_at(
                        key,
                        "must not be set without hosts: a VirtualService without hosts is a delegate, for http only",
                    );
                }
            }
        }
    }

    fn check_hosts(&self, issues: &mut Issues) {
        let mut earlier: HostMap<()> = HostMap::default();
        let hosts: Vec<Result<Host, _>> = self.spec.hosts.iter().map(|host| Host::try_new(host)).collect();
        issues.each("hosts", &hosts, |issues, host| match host {
            Err(error) => issues.error(error.to_string()),
            Ok(host) if host.as_str() == "*" && self.applies_to_mesh() => {
                issues.error("\"*\" is allowed only for gateways: sidecars need a name");
            }
            Ok(host) => {
                earlier.insert(host.clone(), ());
            }
        });
        // Overlaps: two names match each other if and only if one covers the other.
        let mut seen: BTreeMap<&Host, usize> = BTreeMap::new();
        issues.each("hosts", &hosts, |issues, host| {
            let Ok(host) = host else { return };
            let count = seen.entry(host).or_default();
            *count += 1;
            if *count > 1 {
                issues.error(format!("the host {host} is listed twice"));
            } else if let Some((covering, _)) = earlier.wider(host) {
                issues.error(format!("the host {host} overlaps with {covering}"));
            }
        });
    }

    fn check_http(&self, route: &HttpRoute, issues: &mut Issues) {
        route_check::check(route, self.spec.hosts.is_empty(), issues);
        issues.each("match", &route.matches, |issues, condition| self.check_match(condition, issues));
    }

    fn check_match(&self, condition: &HttpMatchRequest, issues: &mut Issues) {
        let single = [("scheme", &condition.scheme), ("method", &condition.method), ("authority", &condition.authority)];
        for (key, value) in single {
            issues.optional(key, value.as_ref(), |issues, value| check_string(value, false, issues));
        }
        issues.optional("uri", condition.uri.as_ref(), |issues, value| check_string(value, true, issues));
        for (key, map) in [("headers", &condition.headers), ("withoutHeaders", &condition.without_headers)] {
            issues.field(key, |issues| {
                for (name, value) in map {
                    issues.field(name, |issues| {
                        self.check_match_header(name, issues);
                        check_string(value, false, issues);
                    });
                }
            });
        }
        issues.field("queryParams", |issues| {
            for (name, value) in &condition.query_params {
                issues.field(name, |issues| check_string(value, false, issues));
            }
        });
        if let Some(port) = condition.port {
            report_at(issues, "port", check::port(port.into()));
        }
        issues.each("gateways", &condition.gateways, |issues, gateway| check_gateway(gateway, issues));
        check_labels("sourceLabels", &condition.source_labels, issues);
        if !condition.source_namespace.is_empty() {
            report_at(issues, "sourceNamespace", check::dns_label(&condition.source_namespace));
        }
    }

    fn check_match_header(&self, name: &str, issues: &mut Issues) {
        if name.starts_with("@request.auth.claims") {
            if self.applies_to_mesh() {
                issues.error("JWT claims can be matched at gateways only: name the gateways, without \"mesh\"");
            }
            return;
        }
        // Pseudo-headers of HTTP/2 may be matched too.
        let name = name.strip_prefix(':').unwrap_or(name);
        report(issues, check::header_name(name));
    }

    fn check_tls(&self, route: &TlsRoute, issues: &mut Issues) {
        if route.matches.is_empty() {
            issues.error_at("match", "must not be empty");
        }
        let hosts: Vec<Host> = self.spec.hosts.iter().filter_map(|host| Host::try_new(host).ok()).collect();
        issues.each("match", &route.matches, |issues, condition| {
            if condition.sni_hosts.is_empty() {
                issues.error_at("sniHosts", "must not be empty");
            }
            issues.each("sniHosts", &condition.sni_hosts, |issues, name| match Host::try_new(name) {
                Err(error) => issues.error(error.to_string()),
                Ok(name) if name.as_str().parse::<std::net::IpAddr>().is_ok() => {
                    issues.warn(format!("{name} is an IP address; TLS clients send no server name for one"));
                }
                Ok(name) if !hosts.iter().any(|host| name.is_subset_of(host)) => {
                    issues.error(format!("{name} is not covered by the VirtualService's hosts"));
                }
                Ok(_) => {}
            });
            check_l4(&condition.destination_subnets, condition.port, issues);
            issues.each("gateways", &condition.gateways, |issues, gateway| check_gateway(gateway, issues));
            check_labels("sourceLabels", &condition.source_labels, issues);
        });
        check_l4_route(&route.route, issues);
    }
}

fn check_tcp(issues: &mut Issues, route: &TcpRoute) {
    issues.each("match", &route.matches, |issues, condition| {
        check_l4(&condition.destination_subnets, condition.port, issues);
        if !condition.source_subnet.is_empty() {
            report_at(issues, "sourceSubnet", check::ip_block(&condition.source_subnet));
        }
        issues.each("gateways", &condition.gateways, |issues, gateway| check_gateway(gateway, issues));
        check_labels("sourceLabels", &condition.source_labels, issues);
    });
    check_l4_route(&route.route, issues);
}

fn check_l4(subnets: &[String], port: Option<u32>, issues: &mut Issues) {
    issues.each("destinationSubnets", subnets, |issues, subnet| report(issues, check::ip_block(subnet)));
    if let Some(port) = port {
        report_at(issues, "port", check::port(port.into()));
    }
}

fn check_l4_route(route: &[RouteDestination], issues: &mut Issues) {
    if route.is_empty() {
        issues.error_at("route", "must not be empty");
    }
    issues.each("route", route, |issues, entry| {
        check_destination_field(entry.destination.as_ref(), issues);
        report_at(issues, "weight", check::not_negative(entry.weight));
    });
    route_check::check_weights(route.iter().map(|entry| entry.weight), issues);
}

pub(super) fn check_destination_field(destination: Option<&Destination>, issues: &mut Issues) {
    match destination {
        None => issues.error_at("destination", "is required"),
        Some(destination) => issues.field("destination", |issues| check_destination(destination, issues)),
    }
}

/// Checks a service that a route names.
pub(crate) fn check_destination(destination: &Destination, issues: &mut Issues) {
    match destination.host.as_str() {
        "" => issues.error_at("host", "is required"),
        "*" => issues.error_at("host", "must be one service, not \"*\""),
        host => report_at(issues, "host", check::wildcard_host(host)),
    }
    if !destination.subset.is_empty() {
        report_at(issues, "subset", check::dns_label(&destination.subset));
    }
    issues.optional("port", destination.port.as_ref(), |issues, port| {
        report_at(issues, "number", check::port(port.number.into()));
    });
}

fn check_string(value: &StringMatch, may_be_empty: bool, issues: &mut Issues) {
    match value {
        StringMatch::Prefix(prefix) if prefix.is_empty() && !may_be_empty => {
            issues.error_at("prefix", "must not be empty: it would match everything");
        }
        // For headers and parameters, a lone star asks for presence.
        StringMatch::Regex(pattern) if pattern == "*" && !may_be_empty => {}
        StringMatch::Regex(pattern) => check::report_regex_at(issues, "regex", pattern),
        StringMatch::Present | StringMatch::Exact(_) | StringMatch::Prefix(_) => {}
    }
}

fn check_gateway(gateway: &str, issues: &mut Issues) {
    if gateway == MESH_GATEWAY {
        return;
    }
    match gateway.split_once('/') {
        Some((namespace, name)) => {
            if namespace != "." {
                report(issues, check::dns_label(namespace).map_err(|text| format!("the namespace {text}")));
            }
            report(issues, check::dns_subdomain(name));
        }
        None => {
            report(issues, check::dns_subdomain(gateway));
            if gateway.contains('.') {
                issues.warn("is read as NAME.NAMESPACE, a form that Istio no longer recommends: write NAMESPACE/NAME");
            }
        }
    }
}

fn check_labels(key: &str, labels: &BTreeMap<String, String>, issues: &mut Issues) {
    issues.field(key, |issues| {
        for (name, value) in labels {
            issues.field(name, |issues| {
                report(issues, check::qualified_name(name));
                report(issues, check::label_value(value));
            });
        }
    });
}
