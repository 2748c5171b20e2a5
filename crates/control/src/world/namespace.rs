//! Everything that one namespace holds, each part shared with the worlds before and after it.

use super::change::Name;
use super::given::Given;
use super::service::{Service, ServiceEndpoints, Visibility, Workload};
use super::{Order, Rev};
use lateen_model::resource::{
    AuthorizationPolicy, DestinationRule, Gateway, LocalRateLimit, Object, PeerAuthentication, Secret, ServiceEntry, Sidecar,
    TrafficDistribution, VirtualService, WorkloadGroup, host,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A resource in the world, with what is needed to find it derived once.
#[derive(Clone, Debug)]
pub struct Entry<T> {
    /// Changes with the content.
    pub rev: Rev,
    /// Age, for "oldest wins".
    pub order: Order,
    /// Full, lower-case host names: `hosts` of a VirtualService, `host` of a DestinationRule, else none.
    pub hosts: Vec<Name>,
    /// `exportTo`.
    pub visibility: Visibility,
    /// By whose rules it is read.
    pub semantics: Semantics,
    /// As written.
    pub resource: Arc<T>,
}

/// By whose rules a resource is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Semantics {
    /// Istio's.
    #[default]
    Istio,
    /// The Kubernetes Gateway API's: prefixes of paths are whole elements, a missing backend is 500, a Gateway has proxies of its
    /// own namespace only.
    GatewayApi,
}

/// Kinds that are kept in [`Entry`]s.
pub(super) trait Listed: Sized {
    /// The hosts that it speaks of, as written.
    fn hosts(&self) -> &[String];
    /// As written.
    fn export_to(&self) -> &[String];
    /// The full form of one of the hosts.
    fn host(written: &str, namespace: &str, domain: &str) -> String {
        host::resolve(written, namespace, domain)
    }
}

/// An entry for a resource.
pub(super) fn entry<S>(resource: &Arc<Object<S>>, domain: &str, rev: Rev) -> Entry<Object<S>>
where
    Object<S>: Listed,
{
    let meta = &resource.metadata;
    let hosts = resource.hosts().iter().map(|h| Object::<S>::host(h, &meta.namespace, domain).into()).collect();
    let visibility = Visibility::new(resource.export_to().iter().map(String::as_str), &meta.namespace);
    Entry { rev, order: Order::of(meta), hosts, visibility, semantics: Semantics::Istio, resource: Arc::clone(resource) }
}

impl<S> Entry<Object<S>> {
    /// The resource's name.
    pub fn name(&self) -> &str {
        &self.resource.metadata.name
    }

    /// The resource's namespace.
    pub fn namespace(&self) -> &str {
        &self.resource.metadata.namespace
    }
}

impl Listed for VirtualService {
    fn hosts(&self) -> &[String] {
        &self.spec.hosts
    }
    fn export_to(&self) -> &[String] {
        &self.spec.export_to
    }
}

impl Listed for DestinationRule {
    fn hosts(&self) -> &[String] {
        std::slice::from_ref(&self.spec.host)
    }
    fn export_to(&self) -> &[String] {
        &self.spec.export_to
    }
}

impl Listed for Gateway {
    fn hosts(&self) -> &[String] {
        &[]
    }
    fn export_to(&self) -> &[String] {
        &[]
    }
}

impl Listed for ServiceEntry {
    fn hosts(&self) -> &[String] {
        &self.spec.hosts
    }
    fn export_to(&self) -> &[String] {
        &self.spec.export_to
    }
    /// Never completed: a name without a dot is a name as it stands.
    fn host(written: &str, _: &str, _: &str) -> String {
        written.trim_end_matches('.').to_ascii_lowercase()
    }
}

impl Listed for Sidecar {
    fn hosts(&self) -> &[String] {
        &[]
    }
    fn export_to(&self) -> &[String] {
        &[]
    }
}

impl Listed for PeerAuthentication {
    fn hosts(&self) -> &[String] {
        &[]
    }
    fn export_to(&self) -> &[String] {
        &[]
    }
}

impl Listed for AuthorizationPolicy {
    fn hosts(&self) -> &[String] {
        &[]
    }
    fn export_to(&self) -> &[String] {
        &[]
    }
}

impl Listed for LocalRateLimit {
    fn hosts(&self) -> &[String] {
        &[]
    }
    fn export_to(&self) -> &[String] {
        &[]
    }
}

/// The resources of one kind in one namespace, oldest first.
#[derive(Debug)]
pub struct List<T> {
    /// Changes with any of them.
    pub rev: Rev,
    items: Vec<Arc<Entry<T>>>,
}

impl<T> Clone for List<T> {
    fn clone(&self) -> Self {
        Self { rev: self.rev, items: self.items.clone() }
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self { rev: Rev::default(), items: Vec::new() }
    }
}

impl<T> List<T> {
    /// Oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Entry<T>>> {
        self.items.iter()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

impl<S> List<Object<S>> {
    pub(super) fn put(&mut self, entry: Entry<Object<S>>) {
        self.rev = entry.rev;
        self.items.retain(|e| e.name() != entry.name());
        let at = self.items.partition_point(|e| e.order < entry.order);
        self.items.insert(at, Arc::new(entry));
    }

    pub(super) fn remove(&mut self, name: &str, rev: Rev) -> bool {
        let before = self.items.len();
        self.items.retain(|e| e.name() != name);
        let removed = self.items.len() != before;
        if removed {
            self.rev = rev;
        }
        removed
    }

    /// The entry of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Entry<Object<S>>>> {
        self.items.iter().find(|e| e.name() == name)
    }
}

/// A Secret of the platform.
#[derive(Clone, Debug)]
pub struct SecretEntry {
    /// Changes with the content.
    pub rev: Rev,
    /// As written.
    pub resource: Arc<Secret>,
}

/// One namespace.
#[derive(Clone, Debug, Default)]
pub struct NamespaceWorld {
    /// By short name.
    pub services: BTreeMap<Name, Arc<Service>>,
    /// Which endpoints clients of its services prefer, where neither a service nor a rule says it (an annotation of the namespace).
    pub traffic_distribution: Option<TrafficDistribution>,
    /// By the service's short name; present for every service.
    pub endpoints: BTreeMap<Name, Arc<ServiceEndpoints>>,
    /// Addresses that manifests ask for, by the service's name; the platform's win.
    pub(super) wanted_vips: BTreeMap<Name, Vec<std::net::IpAddr>>,
    /// Pods by name.
    pub workloads: BTreeMap<Name, Arc<Workload>>,
    /// What WorkloadEntries describe, by their names.
    pub entry_workloads: BTreeMap<Name, Arc<Workload>>,
    /// What workloads that register themselves are made like, by name.
    pub workload_groups: BTreeMap<Name, Arc<WorkloadGroup>>,
    /// Endpoints that EndpointSlices and `v1 Endpoints` give.
    pub(super) given: Given,
    /// networking.istio.io.
    pub service_entries: Arc<List<ServiceEntry>>,
    /// networking.istio.io.
    pub virtual_services: Arc<List<VirtualService>>,
    /// networking.istio.io.
    pub destination_rules: Arc<List<DestinationRule>>,
    /// networking.istio.io.
    pub gateways: Arc<List<Gateway>>,
    /// networking.istio.io.
    pub sidecars: Arc<List<Sidecar>>,
    /// security.istio.io.
    pub peer_authentications: Arc<List<PeerAuthentication>>,
    /// security.istio.io.
    pub authorization_policies: Arc<List<AuthorizationPolicy>>,
    /// policy.lateen.dev.
    pub rate_limits: Arc<List<LocalRateLimit>>,
    /// Kubernetes, by name.
    pub secrets: BTreeMap<Name, Arc<SecretEntry>>,
}

impl NamespaceWorld {
    pub(super) fn is_empty(&self) -> bool {
        self.services.is_empty()
            && self.traffic_distribution.is_none()
            && self.workloads.is_empty()
            && self.entry_workloads.is_empty()
            && self.workload_groups.is_empty()
            && self.given.is_empty()
            && self.service_entries.is_empty()
            && self.virtual_services.is_empty()
            && self.destination_rules.is_empty()
            && self.gateways.is_empty()
            && self.sidecars.is_empty()
            && self.peer_authentications.is_empty()
            && self.authorization_policies.is_empty()
            && self.rate_limits.is_empty()
            && self.secrets.is_empty()
    }
}
