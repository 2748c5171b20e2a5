//! Under which names a service is asked for.

use super::RouteContext;
use crate::world::Service;
use lateen_model::dataplane::{Route, VirtualHost};
use std::collections::HashSet;
use std::net::IpAddr;

/// Domains that are taken: in one route configuration each may stand once.
pub(super) struct DomainSet {
    domains: HashSet<String>,
    names: HashSet<String>,
    /// Whether requests are told which try they are.
    attempt_count: bool,
}

impl DomainSet {
    /// None is taken.
    pub(super) fn new(attempt_count: bool) -> Self {
        Self { domains: HashSet::new(), names: HashSet::new(), attempt_count }
    }

    /// A virtual host with those of its domains that are still free; `None` if its name or all of them are taken.
    pub(super) fn virtual_host(&mut self, name: String, domains: Vec<String>, routes: Vec<Route>) -> Option<VirtualHost> {
        if !self.names.insert(name.clone()) {
            return None;
        }
        let domains: Vec<String> = domains.into_iter().filter(|d| self.domains.insert(d.clone())).collect();
        if domains.is_empty() {
            return None;
        }
        Some(VirtualHost { name, domains, routes, include_request_attempt_count: self.attempt_count, require_tls: false })
    }
}

/// The names and addresses of a service, as a proxy of this namespace may write them.
pub(super) fn of_service(context: RouteContext<'_>, service: &Service) -> Vec<String> {
    let mut domains = of_host(context, &service.host);
    // Names that stand for this one (`ExternalName`).
    domains.extend(context.scope.aliases_of(&service.host).iter().flat_map(|alias| of_host(context, alias)));
    if service.headless {
        // A pod of a headless service has a name under the service's.
        let pods: Vec<String> = domains.iter().map(|d| format!("*.{d}")).collect();
        domains.extend(pods);
    }
    domains.extend(service.vips.iter().map(|ip| match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }));
    domains
}

/// All forms of a host name: whole, with the trailing dot, and shortened as far as the client's namespace allows.
pub(super) fn of_host(context: RouteContext<'_>, host: &str) -> Vec<String> {
    let mut domains = vec![host.to_owned()];
    if host.starts_with('*') || host.parse::<IpAddr>().is_ok() {
        return domains;
    }
    domains.push(format!("{host}."));
    let suffix = format!(".svc.{}", context.world.domain());
    let Some((name, namespace)) = host.strip_suffix(&suffix).and_then(|rest| rest.split_once('.')) else { return domains };
    if namespace == &*context.proxy.namespace {
        domains.push(name.to_owned());
    }
    domains.push(format!("{name}.{namespace}.svc"));
    domains.push(format!("{name}.{namespace}"));
    domains
}
