//! Which DestinationRule holds for a service, and what it says for a port and a subset.

use super::proxy::Proxy;
use crate::world::{Entry, List, Rev, Service, World};
use lateen_model::resource::{
    ClientTlsMode, ClientTlsSettings, ConnectionPoolSettings, DestinationRule, LoadBalancerSettings, OutlierDetection,
    ProxyProtocol, RetryBudget, StringMap, Subset, TrafficPolicy, TunnelSettings, host,
};
use std::sync::Arc;

type Rule = Arc<Entry<DestinationRule>>;

/// The DestinationRules of one host that hold together: the oldest, with the subsets of the others.
#[derive(Clone, Debug, Default)]
pub struct MergedRule {
    rules: Vec<Rule>,
}

/// What holds for one port of a service or of a subset. Each part comes whole from one place.
#[derive(Clone, Copy, Debug, Default)]
pub struct Policy<'a> {
    /// How an endpoint is chosen.
    pub load_balancer: Option<&'a LoadBalancerSettings>,
    /// Limits.
    pub connection_pool: Option<&'a ConnectionPoolSettings>,
    /// Ejection.
    pub outlier_detection: Option<&'a OutlierDetection>,
    /// TLS.
    pub tls: Option<&'a ClientTlsSettings>,
    /// Retries in flight.
    pub retry_budget: Option<&'a RetryBudget>,
    /// What each connection begins with.
    pub proxy_protocol: Option<&'a ProxyProtocol>,
    /// The tunnel for connections.
    pub tunnel: Option<&'a TunnelSettings>,
}

impl MergedRule {
    /// The rules for `service` as a proxy in `namespace` sees them. The first of these places that has any wins: the
    /// proxy's namespace, the service's, the root namespace; nothing is merged across them.
    ///
    /// Rules for single workloads are left out.
    pub fn lookup(world: &World, namespace: &str, service: &Service) -> Self {
        Self::find(world, (namespace, None), service)
    }

    /// The same as one proxy sees them: a rule of its own namespace that selects its workload comes before those for all.
    pub fn lookup_for(world: &World, proxy: &Proxy, service: &Service) -> Self {
        Self::find(world, (&proxy.namespace, Some(&proxy.labels)), service)
    }

    fn find(world: &World, (namespace, labels): (&str, Option<&StringMap>), service: &Service) -> Self {
        let default = &world.mesh().default_destination_rule_export_to;
        let root = world.root_namespace();
        let in_place = |place: &str, only_private: bool| {
            let list = &world.namespace(place)?.destination_rules;
            let seen = |e: &&Rule| match &e.resource.spec.workload_selector {
                Some(selector) => place == namespace && labels.is_some_and(|l| selector.matches(l)),
                None => e.visibility.includes(namespace, place, default) && !(only_private && e.visibility.is_public(default)),
            };
            Self::of_host(list, &service.host, seen)
        };
        // A proxy in the root namespace sees its own rules first only if they are private; the public ones are everybody's
        // last resort.
        in_place(namespace, namespace == root)
            .or_else(|| in_place(&service.namespace, false))
            .or_else(|| in_place(root, false))
            .unwrap_or_default()
    }

    fn of_host(list: &List<DestinationRule>, needle: &str, seen: impl Fn(&&Rule) -> bool) -> Option<Self> {
        if list.is_empty() {
            return None;
        }
        let candidates: Vec<&Rule> =
            list.iter().filter(|e| e.hosts.iter().any(|h| host::subset_of(needle, h))).filter(seen).collect();
        let hosts = candidates.iter().flat_map(|e| &e.hosts).map(|h| &**h);
        let host = host::most_specific(needle, hosts)?;
        let selector = |e: &Rule| e.resource.spec.workload_selector.clone();
        let mut same_host: Vec<&Rule> = candidates.into_iter().filter(|e| e.hosts.iter().any(|h| **h == *host)).collect();
        // Those that select come first, each group oldest first.
        same_host.sort_by_key(|e| selector(e).is_none());
        let (first, others) = same_host.split_first()?;
        // Rules that others see too are kept apart: what is merged must be seen by the same namespaces.
        let others = others.iter().filter(|e| e.visibility == first.visibility && selector(e) == selector(first));
        Some(Self { rules: std::iter::once(first).chain(others).map(|e| Arc::clone(e)).collect() })
    }

    /// Whether it is for single workloads, which may then have Secrets of their namespace.
    pub fn selects(&self) -> bool {
        self.base().is_some_and(|r| r.resource.spec.workload_selector.is_some())
    }

    /// What this was made from.
    pub fn revs(&self) -> impl Iterator<Item = Rev> + '_ {
        self.rules.iter().map(|r| r.rev)
    }

    /// The oldest of the rules.
    pub fn base(&self) -> Option<&Entry<DestinationRule>> {
        self.rules.first().map(|r| &**r)
    }

    /// All subsets: of subsets of one name the oldest rule's.
    pub fn subsets(&self) -> Vec<&Subset> {
        let mut out: Vec<&Subset> = Vec::new();
        for subset in self.rules.iter().flat_map(|r| &r.resource.spec.subsets) {
            if !out.iter().any(|s| s.name == subset.name) {
                out.push(subset);
            }
        }
        out
    }

    /// The subset of this name.
    pub fn subset(&self, name: &str) -> Option<&Subset> {
        self.rules.iter().flat_map(|r| &r.resource.spec.subsets).find(|s| s.name == name)
    }

    /// The labels that an endpoint must have; `None` if there is no such subset.
    pub fn subset_labels(&self, name: &str) -> Option<StringMap> {
        if name.is_empty() { Some(StringMap::new()) } else { self.subset(name).map(|s| s.labels.clone()) }
    }

    fn top(&self) -> Option<&TrafficPolicy> {
        self.rules.iter().find_map(|r| r.resource.spec.traffic_policy.as_ref())
    }

    /// What holds for a port of the service (`subset` empty) or of a subset.
    pub fn policy(&self, port: u16, subset: &str) -> Policy<'_> {
        let mut policy = Policy::default();
        for layer in [self.top(), self.subset(subset).and_then(|s| s.traffic_policy.as_ref())].into_iter().flatten() {
            policy.overlay(layer, port);
        }
        policy
    }
}

impl<'a> Policy<'a> {
    /// Lays a traffic policy over this one: each part that it has replaces the whole part here. An entry for the port then
    /// replaces all of the four, also by their absence.
    fn overlay(&mut self, layer: &'a TrafficPolicy, port: u16) {
        self.load_balancer = layer.load_balancer.as_ref().or(self.load_balancer);
        self.connection_pool = layer.connection_pool.as_ref().or(self.connection_pool);
        self.outlier_detection = layer.outlier_detection.as_ref().or(self.outlier_detection);
        self.tls = layer.tls.as_ref().or(self.tls);
        self.retry_budget = layer.retry_budget.as_ref().or(self.retry_budget);
        self.proxy_protocol = layer.proxy_protocol.as_ref().or(self.proxy_protocol);
        self.tunnel = layer.tunnel.as_ref().or(self.tunnel);
        let of_port = layer.port_level_settings.iter().find(|s| s.port.as_ref().is_some_and(|p| p.number == u32::from(port)));
        if let Some(own) = of_port {
            self.load_balancer = own.load_balancer.as_ref();
            self.connection_pool = own.connection_pool.as_ref();
            self.outlier_detection = own.outlier_detection.as_ref();
            self.tls = own.tls.as_ref();
        }
    }

    /// The TLS mode that is written, if any.
    pub fn tls_mode(&self) -> Option<ClientTlsMode> {
        self.tls.map(|t| t.mode)
    }
}
