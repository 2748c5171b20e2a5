//! What generation reads: an immutable snapshot of the mesh, made from the one before it by work that grows with the change.
//!
//! Everything is shared by reference between a world and its successor: a changed pod makes a new entry for the pod, new
//! endpoints for the services that select it, and new maps for its namespace; nothing else is copied or looked at. Each
//! part carries a [`Rev`], from which generation knows whether what it made before still holds.

mod change;
mod edit;
mod edit_entries;
mod edit_gateway_api;
mod entry;
mod given;
mod namespace;
mod protocol;
mod service;

pub use change::{ChangeKey, ChangeSet, Kind, Name};
pub use edit::WorldEvent;
pub use entry::{EntryService, EntryWorkload};
pub use namespace::{Entry, List, NamespaceWorld, SecretEntry, Semantics};
pub use protocol::Protocol;
pub use service::{
    EndpointAddress, Service, ServiceEndpoints, ServicePod, ServicePort, TLS_MODE_LABEL, Target, Visibility, Workload,
};

use crate::gateway_api::{Sources, Status};
use lateen_model::mesh_config::MeshConfig;
pub use lateen_model::place;
use lateen_model::resource::ResourceKey;
use lateen_model::resource::address_allocation::AllocatedAddress;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Age of a resource; see `lateen_model::resource::CreationOrder`.
pub type Order = lateen_model::resource::CreationOrder;

/// Stands for one content of one part of a world. Never used twice by worlds that follow from one another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rev(u64);

impl Rev {
    /// As a number, for debug pages.
    pub fn get(self) -> u64 {
        self.0
    }
}

/// What does not change while a control plane runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The domain of services (`--domain`).
    pub domain: Name,
    /// The name of the cluster (`CLUSTER_ID`).
    pub cluster_id: Name,
    /// Whether a Gateway selects only pods of its own namespace (`PILOT_SCOPE_GATEWAY_TO_NAMESPACE`).
    pub scope_gateway_to_namespace: bool,
    /// Whether VirtualServices of any namespace hold for services that do not agree to it (`--foreign-routes`).
    pub foreign_routes: bool,
    /// Whether every proxy serves HTTP/1.0 (`PILOT_HTTP10`).
    pub http10: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            domain: "cluster.local".into(),
            cluster_id: "Kubernetes".into(),
            scope_gateway_to_namespace: false,
            foreign_routes: false,
            http10: false,
        }
    }
}

/// A snapshot of the mesh. Cheap to clone.
#[derive(Clone, Debug)]
pub struct World {
    last_rev: u64,
    settings: Arc<Settings>,
    mesh: Arc<MeshConfig>,
    mesh_rev: Rev,
    roots: Arc<[u8]>,
    roots_rev: Rev,
    namespaces: Arc<BTreeMap<Name, Arc<NamespaceWorld>>>,
    cluster_ips: Arc<BTreeMap<String, Vec<IpAddr>>>,
    /// Addresses that were given to ServiceEntries' hosts, by namespace and host.
    allocated: Arc<BTreeMap<(String, String), AllocatedAddress>>,
    /// Namespaces whose ServiceEntries have a host.
    entry_hosts: Arc<BTreeMap<Name, BTreeSet<Name>>>,
    cluster_generation: Option<u64>,
    /// The objects of the Gateway API.
    gateway_api: Arc<Sources>,
    /// What was made from them.
    translated: Arc<edit_gateway_api::Translated>,
}

impl World {
    /// An empty mesh.
    pub fn new(settings: Settings) -> Self {
        Self {
            last_rev: 0,
            settings: Arc::new(settings),
            mesh: Arc::new(MeshConfig::default()),
            mesh_rev: Rev(0),
            roots: Arc::from([]),
            roots_rev: Rev(0),
            namespaces: Arc::default(),
            cluster_ips: Arc::default(),
            allocated: Arc::default(),
            entry_hosts: Arc::default(),
            cluster_generation: None,
            gateway_api: Arc::default(),
            translated: Arc::default(),
        }
    }

    /// Stands for the whole content.
    pub fn rev(&self) -> Rev {
        Rev(self.last_rev)
    }

    /// What does not change while a control plane runs.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The domain of services.
    pub fn domain(&self) -> &str {
        &self.settings.domain
    }

    /// The name of the cluster.
    pub fn cluster_id(&self) -> &str {
        &self.settings.cluster_id
    }

    /// The mesh's configuration.
    pub fn mesh(&self) -> &MeshConfig {
        &self.mesh
    }

    /// Stands for the mesh's configuration.
    pub fn mesh_rev(&self) -> Rev {
        self.mesh_rev
    }

    /// The roots of trust, PEM.
    pub fn roots(&self) -> &[u8] {
        &self.roots
    }

    /// Stands for the roots of trust.
    pub fn roots_rev(&self) -> Rev {
        self.roots_rev
    }

    /// The namespace of mesh-wide policies (`MeshConfig.rootNamespace`).
    pub fn root_namespace(&self) -> &str {
        &self.mesh.root_namespace
    }

    /// The generation of the platform's state that this world includes; `None` before the first.
    pub fn cluster_generation(&self) -> Option<u64> {
        self.cluster_generation
    }

    /// The objects of the Gateway API, and what decides about them.
    pub fn gateway_api(&self) -> &Sources {
        &self.gateway_api
    }

    /// What became of the objects of the Gateway API.
    pub fn statuses(&self) -> &Arc<BTreeMap<ResourceKey, Status>> {
        &self.translated.statuses
    }

    /// All namespaces that hold anything, by name.
    pub fn namespaces(&self) -> impl Iterator<Item = (&Name, &Arc<NamespaceWorld>)> {
        self.namespaces.iter()
    }

    /// One namespace.
    pub fn namespace(&self, name: &str) -> Option<&Arc<NamespaceWorld>> {
        self.namespaces.get(name)
    }

    /// All services, by namespace and name.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.namespaces.values().flat_map(|ns| ns.services.values())
    }

    /// The service of a host, for whom it does not matter of which namespace: the platform's, else the oldest ServiceEntry's.
    pub fn service(&self, host: &str) -> Option<&Arc<Service>> {
        self.services_of(host).min_by(|a, b| self.by_precedence(a, b, ""))
    }

    /// The service of a host as proxies of a namespace see it: of its own namespace, else the platform's, else the oldest.
    pub fn service_seen_from(&self, namespace: &str, host: &str) -> Option<&Arc<Service>> {
        let seen = |s: &&Arc<Service>| s.visibility.includes(namespace, &s.namespace, &self.mesh.default_service_export_to);
        self.services_of(host).filter(seen).min_by(|a, b| self.by_precedence(a, b, namespace))
    }

    /// Which of two services of one host proxies of a namespace get.
    pub fn by_precedence(&self, a: &Service, b: &Service, namespace: &str) -> std::cmp::Ordering {
        let rank = |s: &Service| (*s.namespace != *namespace, s.entry.is_some());
        rank(a).cmp(&rank(b)).then_with(|| a.order.cmp(&b.order))
    }

    /// All services of a host: at most one of the platform's, whose host says its namespace and name, and one of each
    /// namespace with ServiceEntries.
    pub fn services_of(&self, host: &str) -> impl Iterator<Item = &Arc<Service>> {
        let platform = self.split_host(host).and_then(|(name, namespace)| self.namespaces.get(namespace)?.services.get(name));
        let keyed = self.entry_hosts.get(host).map(|namespaces| (namespaces, entry::key(host)));
        let of_entries = keyed.into_iter().flat_map(move |(namespaces, key)| {
            namespaces.iter().filter_map(move |ns| self.namespaces.get(ns)?.services.get(&key))
        });
        platform.into_iter().chain(of_entries)
    }

    /// The endpoints of the service of a host; see [`Self::service`].
    pub fn endpoints(&self, host: &str) -> Option<&Arc<ServiceEndpoints>> {
        self.endpoints_of(self.service(host)?)
    }

    /// The endpoints of a service.
    pub fn endpoints_of(&self, service: &Service) -> Option<&Arc<ServiceEndpoints>> {
        self.namespaces.get(&service.namespace)?.endpoints.get(&service.key())
    }

    /// The pod of this name.
    pub fn workload(&self, namespace: &str, name: &str) -> Option<&Arc<Workload>> {
        self.namespaces.get(namespace)?.workloads.get(name)
    }

    fn split_host<'a>(&self, host: &'a str) -> Option<(&'a str, &'a str)> {
        let rest = host.strip_suffix(&*self.settings.domain)?.strip_suffix(".svc.")?;
        let (name, namespace) = rest.split_once('.')?;
        (!name.is_empty() && !namespace.is_empty() && !namespace.contains('.')).then_some((name, namespace))
    }
}

#[cfg(test)]
mod tests;
