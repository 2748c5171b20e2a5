//! From one world to the next.

use super::change::{ChangeKey, ChangeSet, Kind, Name};
use super::namespace::{List, Listed, NamespaceWorld, SecretEntry, entry};
use super::service::{Service, ServiceEndpoints, Workload};
use super::{Rev, World};
use lateen_model::mesh_config::MeshConfig;
use lateen_model::resource::{
    ClusterChange, ClusterState, GivenEndpoints, Kind as ResourceKind, Object, PodRecord, Resource, ResourceKey, StringMap,
    TrafficDistribution,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::time::Instant;

/// What the world is made from.
#[derive(Clone, Debug)]
pub enum WorldEvent {
    /// A resource is new or altered.
    Put(Resource),
    /// A resource is gone.
    Remove(ResourceKey),
    /// The pods and cluster IPs that there are.
    Cluster(Arc<ClusterState>),
    /// What is different in them.
    ClusterChange(Arc<ClusterChange>),
    /// The mesh's configuration.
    Mesh(Arc<MeshConfig>),
    /// The roots of trust, PEM.
    Roots(Arc<[u8]>),
}

/// A world in the making.
pub(super) struct Edit {
    pub(super) world: World,
    pub(super) changes: ChangeSet,
    /// Services whose endpoints must be found anew.
    pub(super) stale: BTreeSet<(Name, Name)>,
    /// Namespaces and hosts whose ServiceEntries changed.
    pub(super) stale_hosts: BTreeSet<(Name, Name)>,
    /// Whether the objects of the Gateway API have to be translated anew.
    pub(super) stale_gateway_api: bool,
}

impl World {
    /// The world after these events, and what is different in it. An event that changes nothing leaves no trace.
    #[must_use]
    pub fn apply(&self, events: impl IntoIterator<Item = WorldEvent>, now: Instant) -> (Self, ChangeSet) {
        let mut edit = Edit {
            world: self.clone(),
            changes: ChangeSet::new(now),
            stale: BTreeSet::new(),
            stale_hosts: BTreeSet::new(),
            stale_gateway_api: false,
        };
        for event in events {
            edit.event(event);
        }
        edit.refresh_entries();
        edit.refresh_managed_services();
        edit.refresh_endpoints();
        edit.refresh_gateway_api();
        (edit.world, edit.changes)
    }
}

impl Edit {
    fn event(&mut self, event: WorldEvent) {
        match event {
            WorldEvent::Put(resource) => self.put(&resource),
            WorldEvent::Remove(key) => self.remove(&key),
            WorldEvent::Cluster(state) => self.cluster(&state),
            WorldEvent::ClusterChange(change) => self.cluster_change(&change),
            WorldEvent::Mesh(mesh) => {
                if *self.world.mesh != *mesh {
                    self.world.mesh = mesh;
                    self.world.mesh_rev = self.next_rev();
                    self.changed(Kind::MeshConfig, "", "");
                }
            }
            WorldEvent::Roots(roots) => {
                if self.world.roots != roots {
                    self.world.roots = roots;
                    self.world.roots_rev = self.next_rev();
                    self.changed(Kind::TrustBundle, "", "");
                }
            }
        }
    }

    pub(super) fn next_rev(&mut self) -> Rev {
        self.world.last_rev += 1;
        Rev(self.world.last_rev)
    }

    pub(super) fn changed(&mut self, kind: Kind, namespace: &str, name: &str) {
        // Also where something goes, which leaves no revision of its own.
        self.next_rev();
        self.changes.insert(ChangeKey::new(kind, namespace, name));
    }

    /// The namespace, copied (its maps of references, not what they refer to) on the first change.
    pub(super) fn namespace(&mut self, name: &str) -> &mut NamespaceWorld {
        Arc::make_mut(Arc::make_mut(&mut self.world.namespaces).entry(name.into()).or_default())
    }

    fn put(&mut self, resource: &Resource) {
        self.put_gateway_api(resource);
        match resource {
            Resource::Service(service) => self.put_service(service),
            Resource::Secret(secret) => {
                let (namespace, name) = (&secret.metadata.namespace, &secret.metadata.name);
                let old = self.world.namespace(namespace).and_then(|ns| ns.secrets.get(name.as_str()));
                if old.is_some_and(|old| old.resource.data == secret.data && old.resource.string_data == secret.string_data) {
                    return;
                }
                let rev = self.next_rev();
                let entry = Arc::new(SecretEntry { rev, resource: Arc::clone(secret) });
                self.namespace(namespace).secrets.insert(name.as_str().into(), entry);
                self.changed(Kind::Secret, namespace, name);
            }
            Resource::VirtualService(r) => self.put_listed(r, Kind::VirtualService, |ns| &mut ns.virtual_services),
            Resource::DestinationRule(r) => self.put_listed(r, Kind::DestinationRule, |ns| &mut ns.destination_rules),
            Resource::Gateway(r) => self.put_listed(r, Kind::Gateway, |ns| &mut ns.gateways),
            Resource::Sidecar(r) => self.put_listed(r, Kind::Sidecar, |ns| &mut ns.sidecars),
            Resource::ServiceEntry(r) => self.put_service_entry_resource(r),
            Resource::EndpointSlice(r) => {
                let object = format!("slice/{}", r.metadata.name);
                self.put_given((&r.metadata.namespace, &object), r.service(), vec![r.given()], false);
            }
            Resource::Endpoints(r) => {
                let object = format!("endpoints/{}", r.metadata.name);
                self.put_given((&r.metadata.namespace, &object), Some(&r.metadata.name), r.given().collect(), true);
            }
            Resource::WorkloadEntry(r) => self.put_workload_entry(r),
            Resource::WorkloadGroup(r) => {
                let (namespace, name) = (&r.metadata.namespace, &r.metadata.name);
                let old = self.namespace(namespace).workload_groups.insert(name.as_str().into(), Arc::clone(r));
                if old.is_none_or(|old| old.spec != r.spec) {
                    self.changed(Kind::Workload, namespace, name);
                }
            }
            Resource::PeerAuthentication(r) => self.put_listed(r, Kind::PeerAuthentication, |ns| &mut ns.peer_authentications),
            Resource::AuthorizationPolicy(r) => {
                self.put_listed(r, Kind::AuthorizationPolicy, |ns| &mut ns.authorization_policies);
            }
            Resource::LocalRateLimit(r) => self.put_listed(r, Kind::LocalRateLimit, |ns| &mut ns.rate_limits),
            Resource::Namespace(r) => self.namespace_says(&r.metadata.name, super::service::traffic_distribution(&r.metadata)),
            // Pods reach the control plane as the platform's ClusterState; the rest concerns the platform alone.
            Resource::ServiceAccount(_)
            | Resource::ConfigMap(_)
            | Resource::Pod(_)
            | Resource::WorkloadProxyConfig(_)
            | Resource::GatewayClass(_)
            | Resource::KubeGateway(_)
            | Resource::KubeHttpRoute(_)
            | Resource::KubeGrpcRoute(_)
            | Resource::KubeTcpRoute(_)
            | Resource::KubeTlsRoute(_)
            | Resource::ReferenceGrant(_)
            | Resource::BackendTlsPolicy(_)
            | Resource::StatefulSet(_)
            | Resource::Deployment(_) => {}
        }
    }

    /// What a namespace says of the clients of its services, all of which prefer other endpoints when it changes.
    fn namespace_says(&mut self, name: &str, distribution: Option<TrafficDistribution>) {
        if self.world.namespace(name).and_then(|ns| ns.traffic_distribution) == distribution {
            return;
        }
        let rev = self.next_rev();
        let ns = self.namespace(name);
        ns.traffic_distribution = distribution;
        let keys: Vec<Name> = ns.services.keys().cloned().collect();
        for service in ns.services.values_mut() {
            *service = Arc::new(Service { rev, ..Service::clone(service) });
        }
        for key in keys {
            self.changed(Kind::Service, name, &key);
        }
    }

    fn put_listed<S: PartialEq>(
        &mut self,
        resource: &Arc<Object<S>>,
        kind: Kind,
        list: fn(&mut NamespaceWorld) -> &mut Arc<List<Object<S>>>,
    ) where
        Object<S>: Listed,
    {
        let (namespace, name) = (resource.metadata.namespace.clone(), resource.metadata.name.clone());
        let domain = Arc::clone(&self.world.settings);
        let fresh = entry(resource, &domain.domain, Rev::default());
        let current = Arc::clone(list(self.namespace(&namespace)));
        if let Some(old) = current.get(&name)
            && old.order == fresh.order
            && old.resource.spec == fresh.resource.spec
            && old.resource.metadata.labels == fresh.resource.metadata.labels
            && old.resource.metadata.annotations == fresh.resource.metadata.annotations
        {
            return;
        }
        let rev = self.next_rev();
        Arc::make_mut(list(self.namespace(&namespace))).put(super::Entry { rev, ..fresh });
        self.changed(kind, &namespace, &name);
    }

    fn remove(&mut self, key: &ResourceKey) {
        let (ns, name) = (key.namespace.as_str(), key.name.as_str());
        self.remove_gateway_api(key);
        match key.kind {
            ResourceKind::Service => self.remove_service(ns, name),
            ResourceKind::Secret => {
                if self.namespace(ns).secrets.remove(name).is_some() {
                    self.changed(Kind::Secret, ns, name);
                }
            }
            ResourceKind::VirtualService => self.remove_listed(key, Kind::VirtualService, |ns| &mut ns.virtual_services),
            ResourceKind::DestinationRule => self.remove_listed(key, Kind::DestinationRule, |ns| &mut ns.destination_rules),
            ResourceKind::Gateway => self.remove_listed(key, Kind::Gateway, |ns| &mut ns.gateways),
            ResourceKind::Sidecar => self.remove_listed(key, Kind::Sidecar, |ns| &mut ns.sidecars),
            ResourceKind::ServiceEntry => self.remove_service_entry(ns, name),
            ResourceKind::EndpointSlice => self.remove_given(ns, &format!("slice/{name}")),
            ResourceKind::Endpoints => self.remove_given(ns, &format!("endpoints/{name}")),
            ResourceKind::WorkloadEntry => self.remove_workload_entry(ns, name),
            ResourceKind::WorkloadGroup => {
                if self.namespace(ns).workload_groups.remove(name).is_some() {
                    self.changed(Kind::Workload, ns, name);
                }
            }
            ResourceKind::PeerAuthentication => {
                self.remove_listed(key, Kind::PeerAuthentication, |ns| &mut ns.peer_authentications);
            }
            ResourceKind::LocalRateLimit => self.remove_listed(key, Kind::LocalRateLimit, |ns| &mut ns.rate_limits),
            ResourceKind::AuthorizationPolicy => {
                self.remove_listed(key, Kind::AuthorizationPolicy, |ns| &mut ns.authorization_policies);
            }
            ResourceKind::Namespace => {
                self.namespace_says(name, None);
                self.forget_if_empty(name);
            }
            ResourceKind::ServiceAccount
            | ResourceKind::ConfigMap
            | ResourceKind::Pod
            | ResourceKind::WorkloadProxyConfig
            | ResourceKind::GatewayClass
            | ResourceKind::KubeGateway
            | ResourceKind::KubeHttpRoute
            | ResourceKind::KubeGrpcRoute
            | ResourceKind::KubeTcpRoute
            | ResourceKind::KubeTlsRoute
            | ResourceKind::ReferenceGrant
            | ResourceKind::BackendTlsPolicy
            | ResourceKind::StatefulSet
            | ResourceKind::Deployment => {}
        }
        self.forget_if_empty(ns);
    }

    pub(super) fn remove_listed<S>(
        &mut self,
        key: &ResourceKey,
        kind: Kind,
        list: fn(&mut NamespaceWorld) -> &mut Arc<List<Object<S>>>,
    ) {
        let rev = self.next_rev();
        if Arc::make_mut(list(self.namespace(&key.namespace))).remove(&key.name, rev) {
            self.changed(kind, &key.namespace, &key.name);
        }
    }

    fn put_given(&mut self, (namespace, object): (&str, &str), service: Option<&str>, given: Vec<GivenEndpoints>, legacy: bool) {
        let rev = self.next_rev();
        let stale = self.namespace(namespace).given.put(object, service, given, (legacy, rev));
        self.stale.extend(stale.into_iter().map(|name| (namespace.into(), name)));
    }

    fn remove_given(&mut self, namespace: &str, object: &str) {
        if self.world.namespace(namespace).is_none() {
            return;
        }
        let stale = self.namespace(namespace).given.remove(object);
        self.stale.extend(stale.map(|name| (namespace.into(), name)));
    }

    pub(super) fn put_service(&mut self, resource: &lateen_model::resource::Service) {
        let (namespace, name) = (&resource.metadata.namespace, &resource.metadata.name);
        let vips = self.world.cluster_ips.get(&format!("{namespace}/{name}")).cloned().unwrap_or_default();
        let service = Service::new(resource, &vips, &self.world.settings.domain, Rev::default());
        self.put_service_entry(service, Some(resource));
    }

    fn put_service_entry(&mut self, service: Service, resource: Option<&lateen_model::resource::Service>) {
        let (namespace, name) = (Name::clone(&service.namespace), Name::clone(&service.name));
        let old = self.world.namespace(&namespace).and_then(|ns| ns.services.get(&name)).cloned();
        if let Some(resource) = resource {
            let wanted = Service::new(resource, &[], &self.world.settings.domain, Rev::default()).vips;
            self.namespace(&namespace).wanted_vips.insert(Name::clone(&name), wanted);
        }
        if old.is_some_and(|old| old.same_as(&service)) {
            return;
        }
        let rev = self.next_rev();
        self.namespace(&namespace).services.insert(Name::clone(&name), Arc::new(Service { rev, ..service }));
        self.changed(Kind::Service, &namespace, &name);
        self.stale.insert((namespace, name));
    }

    pub(super) fn remove_service(&mut self, namespace: &str, name: &str) {
        let ns = self.namespace(namespace);
        if ns.services.remove(name).is_some() {
            ns.endpoints.remove(name);
            ns.wanted_vips.remove(name);
            self.changed(Kind::Service, namespace, name);
            self.changed(Kind::Endpoints, namespace, name);
        }
    }

    pub(super) fn forget_if_empty(&mut self, name: &str) {
        if self.world.namespaces.get(name).is_some_and(|ns| ns.is_empty()) {
            Arc::make_mut(&mut self.world.namespaces).remove(name);
        }
    }

    fn cluster(&mut self, state: &ClusterState) {
        if self.world.cluster_generation.is_some_and(|seen| state.generation < seen) {
            return;
        }
        self.world.cluster_generation = Some(state.generation);
        self.cluster_ips(&state.cluster_ips);
        let mut wanted: BTreeMap<(&str, &str), &PodRecord> = BTreeMap::new();
        for pod in &state.pods {
            wanted.insert((&pod.namespace, &pod.name), pod);
        }
        let mut gone: Vec<(Name, Name)> = Vec::new();
        for (namespace, ns) in self.world.namespaces.iter() {
            for name in ns.workloads.keys() {
                if !wanted.contains_key(&(&**namespace, &**name)) {
                    gone.push((Name::clone(namespace), Name::clone(name)));
                }
            }
        }
        for (namespace, name) in gone {
            self.remove_pod(&namespace, &name);
        }
        for record in wanted.into_values() {
            self.put_pod(record);
        }
    }

    /// The caller has seen to it that this is a change of the state that is known.
    fn cluster_change(&mut self, change: &ClusterChange) {
        self.world.cluster_generation = Some(change.generation);
        if !change.cluster_ips.is_empty() {
            let mut ips = BTreeMap::clone(&self.world.cluster_ips);
            for (service, addresses) in &change.cluster_ips {
                if addresses.is_empty() {
                    ips.remove(service);
                } else {
                    ips.insert(service.clone(), addresses.clone());
                }
            }
            self.cluster_ips(&ips);
        }
        for (namespace, name) in change.gone.iter().filter_map(|pod| pod.split_once('/')) {
            self.remove_pod(namespace, name);
        }
        for record in &change.pods {
            self.put_pod(record);
        }
    }

    fn remove_pod(&mut self, namespace: &str, name: &str) {
        if self.world.workload(namespace, name).is_none() {
            return;
        }
        if let Some(old) = self.namespace(namespace).workloads.remove(name) {
            self.workload_changed(namespace, name, &[&old.record.labels]);
        }
        self.forget_if_empty(namespace);
    }

    fn put_pod(&mut self, record: &PodRecord) {
        let (namespace, name) = (&*record.namespace, &*record.name);
        let old = self.world.workload(namespace, name).cloned();
        if old.as_ref().is_some_and(|old| old.record == *record) {
            return;
        }
        let rev = self.next_rev();
        let workload = Arc::new(Workload { rev, record: record.clone(), entry: None });
        self.namespace(namespace).workloads.insert(name.into(), workload);
        let mut labels = vec![&record.labels];
        labels.extend(old.as_ref().map(|o| &o.record.labels));
        self.stale_services(namespace, &labels);
        if old.is_none_or(|old| !same_for_own_proxy(&old.record, record)) {
            self.changed(Kind::Workload, namespace, name);
        }
    }

    fn workload_changed(&mut self, namespace: &str, name: &str, labels: &[&StringMap]) {
        self.stale_services(namespace, labels);
        self.changed(Kind::Workload, namespace, name);
    }

    /// Notes the services of a namespace that select any of these sets of labels.
    pub(super) fn stale_services(&mut self, namespace: &str, labels: &[&StringMap]) {
        let Some(ns) = self.world.namespaces.get(namespace) else { return };
        let selected = ns.services.values().filter(|s| labels.iter().any(|l| s.selects(l)));
        self.stale.extend(selected.map(|s| (Name::clone(&s.namespace), s.key())));
        // Endpoints that are given may be pods.
        self.stale.extend(ns.given.services().map(|name| (Name::from(namespace), Name::clone(name))));
    }

    fn cluster_ips(&mut self, ips: &BTreeMap<String, Vec<std::net::IpAddr>>) {
        if *self.world.cluster_ips == *ips {
            return;
        }
        let old = std::mem::replace(&mut self.world.cluster_ips, Arc::new(ips.clone()));
        let keys: BTreeSet<&String> = old.keys().chain(ips.keys()).collect();
        for key in keys.into_iter().filter(|key| old.get(*key) != ips.get(*key)) {
            let Some((namespace, name)) = key.split_once('/') else { continue };
            let Some(ns) = self.world.namespace(namespace) else { continue };
            let Some(service) = ns.services.get(name) else { continue };
            if service.headless || service.alias.is_some() {
                continue;
            }
            let wanted = ns.wanted_vips.get(name).cloned().unwrap_or_default();
            let vips = ips.get(key).cloned().filter(|ips| !ips.is_empty()).unwrap_or(wanted);
            let service = Service { vips, ..Service::clone(service) };
            self.put_service_entry(service, None);
        }
    }

    fn refresh_endpoints(&mut self) {
        for (namespace, name) in std::mem::take(&mut self.stale) {
            let Some(ns) = self.world.namespaces.get(&namespace) else { continue };
            let Some(service) = ns.services.get(&name).cloned() else { continue };
            let old = ns.endpoints.get(&name).cloned();
            let workloads = ns.workloads.values().chain(ns.entry_workloads.values());
            let mut fresh =
                ServiceEndpoints::new(&service, workloads, ns.given.of(&service, ns.workloads.values()), Rev::default());
            let same_accounts = old.as_ref().is_some_and(|old| old.accounts == fresh.accounts);
            let same_for_clients = old.as_ref().is_some_and(|old| old.same_for_clients(&fresh));
            fresh.rev = match &old {
                Some(old) if same_for_clients => old.rev,
                _ => self.next_rev(),
            };
            fresh.accounts_rev = match &old {
                Some(old) if same_accounts => old.accounts_rev,
                _ => self.next_rev(),
            };
            self.namespace(&namespace).endpoints.insert(Name::clone(&name), Arc::new(fresh));
            if !same_for_clients {
                self.changed(Kind::Endpoints, &namespace, &name);
            }
            if !same_accounts {
                // Clients verify servers by their accounts: that is in the cluster, not in its endpoints.
                self.changed(Kind::Service, &namespace, &name);
            }
        }
    }
}

/// Whether a pod's own proxy is configured alike by both records.
fn same_for_own_proxy(a: &PodRecord, b: &PodRecord) -> bool {
    a.labels == b.labels && a.ips == b.ips && a.ports == b.ports && a.service_account == b.service_account
}
