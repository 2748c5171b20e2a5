//! The configuration as the control plane sends it, resource by resource: decoded, compiled, warmed, put in force.
//!
//! A resource that is wrong is rejected alone, with its name and the reason; the last good one of that name stays in force.
//! A listener waits for its routes and a cluster for its endpoints before they replace what is in force (Envoy's warming), so
//! that no request meets half a configuration.

use super::compiled::Listener;
use super::secrets::Secrets;
use super::snapshot::{Clusters, Routes, Snapshot};
use crate::telemetry::Telemetry;
use crate::upstream::Cluster;
use bytes::Bytes;
use lateen_model::dataplane::{self, ClusterLoadAssignment, Discovery};
use lateen_policy::route::RouteTable;
use lateen_wire::{DecodeError, Decoded, decode};
use lateen_xds::ResourceType;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// A resource that was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) name: String,
    pub(crate) reason: String,
}

/// All resources that were sent.
pub(crate) struct Store {
    secrets: Secrets,
    telemetry: Arc<Telemetry>,
    listeners: Warming<Listener>,
    clusters: Warming<Cluster>,
    assignments: HashMap<String, ClusterLoadAssignment>,
    routes: Routes,
    route_models: BTreeMap<String, dataplane::RouteConfiguration>,
    /// Fields that are not supported and change nothing, by resource.
    ignored: BTreeMap<(ResourceType, String), Vec<String>>,
}

/// Things that become active only when what they refer to is there.
struct Warming<T> {
    /// The newest good version.
    latest: BTreeMap<String, Arc<T>>,
    active: HashMap<Arc<str>, Arc<T>>,
}

impl<T> Default for Warming<T> {
    fn default() -> Self {
        Self { latest: BTreeMap::new(), active: HashMap::new() }
    }
}

impl<T> Warming<T> {
    /// Activates what is ready and forgets what is gone.
    fn settle(&mut self, ready: impl Fn(&T) -> bool) {
        for (name, latest) in &self.latest {
            let is_active = self.active.get(name.as_str()).is_some_and(|a| Arc::ptr_eq(a, latest));
            if !is_active && ready(latest) {
                self.active.insert(name.as_str().into(), latest.clone());
            }
        }
        self.active.retain(|name, _| self.latest.contains_key(&**name));
    }

    fn warming(&self) -> usize {
        let is_active =
            |(name, latest): &(&String, &Arc<T>)| self.active.get(name.as_str()).is_some_and(|a| Arc::ptr_eq(a, latest));
        self.latest.iter().filter(|entry| !is_active(entry)).count()
    }
}

impl Store {
    /// An empty store.
    pub(crate) fn new(secrets: Secrets, telemetry: Arc<Telemetry>) -> Self {
        Self {
            secrets,
            telemetry,
            listeners: Warming::default(),
            clusters: Warming::default(),
            assignments: HashMap::new(),
            routes: Routes::new(),
            route_models: BTreeMap::new(),
            ignored: BTreeMap::new(),
        }
    }

    /// Takes an update; returns what was rejected of it.
    pub(crate) fn apply(&mut self, ty: ResourceType, added: &[(String, Bytes)], removed: &[String]) -> Vec<Rejection> {
        for name in removed {
            self.remove(ty, name);
        }
        let mut rejections = Vec::new();
        for (name, bytes) in added {
            if let Err(reason) = self.put(ty, name, bytes) {
                rejections.push(Rejection { name: name.clone(), reason });
            }
        }
        let routes = &self.routes;
        self.listeners.settle(|l| l.route_names().all(|name| routes.contains_key(name)));
        let assignments = &self.assignments;
        self.clusters.settle(|c| match &c.config.discovery {
            Discovery::Eds { service_name } => assignments.contains_key(service_name),
            Discovery::Static(_) | Discovery::OriginalDst { .. } => true,
        });
        rejections
    }

    fn put(&mut self, ty: ResourceType, name: &str, bytes: &[u8]) -> Result<(), String> {
        match ty {
            ResourceType::Lds => {
                let model = self.decoded(ty, name, decode::listener(bytes))?;
                if self.listeners.latest.get(name).is_none_or(|l| *l.model != model) {
                    let compiled = Listener::compile(model, &mut self.secrets, &self.telemetry)?;
                    self.listeners.latest.insert(name.to_owned(), Arc::new(compiled));
                }
            }
            ResourceType::Rds => {
                let model = self.decoded(ty, name, decode::route_configuration(bytes))?;
                let table = RouteTable::compile(&model).map_err(|e| e.to_string())?;
                self.routes.insert(name.into(), Arc::new(table));
                self.route_models.insert(name.to_owned(), model);
            }
            ResourceType::Cds => {
                let model = self.decoded(ty, name, decode::cluster(bytes))?;
                self.put_cluster(name, model)?;
            }
            ResourceType::Eds => {
                let assignment = self.decoded(ty, name, decode::cluster_load_assignment(bytes))?;
                for cluster in self.clusters.latest.values().chain(self.clusters.active.values()) {
                    if cluster.eds_service_name() == Some(name) {
                        cluster.set_endpoints(&assignment);
                    }
                }
                self.assignments.insert(name.to_owned(), assignment);
            }
            ResourceType::Sds => {
                let secret = self.decoded(ty, name, decode::secret(bytes))?;
                self.secrets.install(&secret)?;
            }
            other => return Err(format!("{other:?} was not asked for")),
        }
        Ok(())
    }

    fn put_cluster(&mut self, name: &str, model: dataplane::Cluster) -> Result<(), String> {
        let previous = self.clusters.latest.get(name);
        if previous.is_some_and(|c| c.config == model) {
            return Ok(());
        }
        let cluster = Cluster::compile(model, &mut self.secrets, previous.map(Arc::as_ref))?;
        if let Some(assignment) = cluster.eds_service_name().and_then(|s| self.assignments.get(s)) {
            cluster.set_endpoints(assignment);
        }
        self.clusters.latest.insert(name.to_owned(), Arc::new(cluster));
        Ok(())
    }

    fn decoded<T>(&mut self, ty: ResourceType, name: &str, result: Result<Decoded<T>, DecodeError>) -> Result<T, String> {
        let Decoded { value, ignored } = result.map_err(|e| e.to_string())?;
        let key = (ty, name.to_owned());
        if ignored.is_empty() {
            self.ignored.remove(&key);
        } else {
            self.ignored.insert(key, ignored.iter().map(ToString::to_string).collect());
        }
        Ok(value)
    }

    fn remove(&mut self, ty: ResourceType, name: &str) {
        self.ignored.remove(&(ty, name.to_owned()));
        match ty {
            ResourceType::Lds => {
                self.listeners.latest.remove(name);
            }
            ResourceType::Cds => {
                self.clusters.latest.remove(name);
            }
            // Routes and endpoints belong to listeners and clusters, which stop asking for them (see `forget_unwanted`).
            _ => {}
        }
    }

    /// The names that must be subscribed to, as the listeners and clusters refer to them.
    pub(crate) fn wanted(&self, ty: ResourceType) -> BTreeSet<String> {
        match ty {
            ResourceType::Rds => self.all_listeners().flat_map(|l| l.route_names()).map(|n| n.to_string()).collect(),
            ResourceType::Eds => self.clusters.latest.values().filter_map(|c| c.eds_service_name()).map(str::to_owned).collect(),
            ResourceType::Sds => self.secrets.wanted().map(str::to_owned).collect(),
            _ => BTreeSet::new(),
        }
    }

    fn all_listeners(&self) -> impl Iterator<Item = &Arc<Listener>> {
        self.listeners.latest.values().chain(self.listeners.active.values())
    }

    /// Drops routes and endpoints that nothing refers to any more.
    pub(crate) fn forget_unwanted(&mut self) {
        let (routes, endpoints) = (self.wanted(ResourceType::Rds), self.wanted(ResourceType::Eds));
        self.routes.retain(|name, _| routes.contains(&**name));
        self.route_models.retain(|name, _| routes.contains(name));
        self.assignments.retain(|name, _| endpoints.contains(name));
    }

    /// What is in force now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let clusters: Clusters = self.clusters.active.clone();
        Snapshot::new(self.listeners.active.clone(), clusters, self.routes.clone())
    }

    /// How many listeners and clusters wait for what they refer to.
    pub(crate) fn warming(&self) -> (usize, usize) {
        (self.listeners.warming(), self.clusters.warming())
    }

    /// Route configurations in force, for people.
    pub(crate) fn route_models(&self) -> impl Iterator<Item = &dataplane::RouteConfiguration> {
        self.route_models.values()
    }

    /// Fields that were left aside because they change nothing.
    pub(crate) fn ignored(&self) -> &BTreeMap<(ResourceType, String), Vec<String>> {
        &self.ignored
    }
}
