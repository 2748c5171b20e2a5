//! The configuration as the control plane sends it, resource by resource: decoded, compiled, warmed, put in force.
//!
//! A resource that is wrong is rejected alone, with its name and the reason; the last good one of that name stays in force.
//! What is right replaces what is in force only when the resources that it names are there: a cluster waits for its endpoints
//! and secrets, a route configuration for its clusters, a listener for all of these. So no request meets half of a change, in
//! whatever order its parts come. (Envoy leaves the wait of routes to the order in which the control plane sends.)

use super::compact::{Compact, Compactor};
use super::compiled::Listener;
use super::lazy_cluster::LazyCluster;
use super::references::References;
use super::secrets::{Secrets, SharedSecrets};
use super::snapshot::Snapshot;
use super::warming::Warming;
use crate::telemetry::Telemetry;
use crate::upstream::Cluster;
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use lateen_model::dataplane::{self, ClusterLoadAssignment, Discovery, LOCAL_CLUSTER, Locality, LocalityEndpoints};
use lateen_policy::balance::zone::Origin;
use lateen_policy::route::RouteTable;
use lateen_wire::{DecodeError, Decoded, decode};
use lateen_xds::ResourceType;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::time::Instant;

/// A resource that was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) name: String,
    pub(crate) reason: String,
}

/// What an update came to.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// What was refused of it.
    pub(crate) rejections: Vec<Rejection>,
    /// Whether the snapshot is another one. Endpoints and secrets come into force without.
    pub(crate) changed: bool,
}

/// How many resources wait for what they name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WarmingCounts {
    pub(crate) listeners: usize,
    pub(crate) clusters: usize,
    pub(crate) routes: usize,
}

/// All resources that were sent.
pub(crate) struct Store {
    secrets: SharedSecrets,
    telemetry: Arc<Telemetry>,
    listeners: Warming<Listener>,
    clusters: Warming<LazyCluster>,
    /// Endpoints as they came, by the name that clusters know them by.
    assignments: HashMap<Arc<str>, Arc<Compact>>,
    /// Clusters whose endpoints have another name than they (`eds_cluster_config.service_name`), by their own.
    renamed: BTreeMap<Arc<str>, Arc<str>>,
    routes: Warming<Routes>,
    compactors: Compactors,
    /// Where this proxy is, and what is told of where those of its workload are.
    own: Option<(Locality, Arc<ArcSwapOption<Origin>>)>,
    /// Fields that are not supported and change nothing, by resource.
    ignored: BTreeMap<(ResourceType, String), Vec<String>>,
    /// Why the newest version of a resource is not taken.
    rejected: BTreeMap<(ResourceType, String), String>,
}

/// Where in an update we are.
struct Moment<'a> {
    now: Instant,
    /// Resources of the update that are still to be looked at.
    to_come: HashSet<&'a str>,
}

/// Make small what is kept as it came, by type.
#[derive(Default)]
struct Compactors {
    clusters: Compactor,
    endpoints: Compactor,
    routes: Compactor,
}

/// A route configuration, compiled.
struct Routes {
    /// As they came, for people: what requests need is in the table.
    resource: Compact,
    table: Arc<RouteTable>,
    references: References,
}

impl Routes {
    /// What they say; there always is something, because they were read before.
    fn model(&self) -> Option<dataplane::RouteConfiguration> {
        decode::route_configuration(&self.resource.bytes()).ok().map(|decoded| decoded.value)
    }
}

impl Store {
    /// An empty store.
    pub(crate) fn new(secrets: Secrets, telemetry: Arc<Telemetry>) -> Self {
        Self {
            secrets: SharedSecrets::new(secrets),
            telemetry,
            listeners: Warming::default(),
            clusters: Warming::default(),
            assignments: HashMap::new(),
            renamed: BTreeMap::new(),
            routes: Warming::default(),
            compactors: Compactors::default(),
            own: None,
            ignored: BTreeMap::new(),
            rejected: BTreeMap::new(),
        }
    }

    /// Asks for the proxies of this one's workload, and tells `origin` where they are.
    pub(crate) fn discover_own(&mut self, locality: Locality, origin: Arc<ArcSwapOption<Origin>>) {
        self.own = Some((locality, origin));
    }

    /// Takes an update.
    pub(crate) fn apply(&mut self, ty: ResourceType, added: &[(String, Bytes)], removed: &[String], now: Instant) -> Applied {
        for name in removed {
            self.remove(ty, name, now);
        }
        let mut rejections = Vec::new();
        // Addresses may move from one listener to another within an update.
        let mut moment = Moment { now, to_come: added.iter().map(|(name, _)| name.as_str()).collect() };
        for (name, bytes) in added {
            moment.to_come.remove(name.as_str());
            let key = (ty, name.clone());
            match self.put(ty, name, bytes, &moment) {
                Ok(ignored) => {
                    self.rejected.remove(&key);
                    if ignored.is_empty() {
                        self.ignored.remove(&key);
                    } else {
                        self.ignored.insert(key, ignored);
                    }
                }
                Err(reason) => {
                    self.rejected.insert(key, reason.clone());
                    rejections.push(Rejection { name: name.clone(), reason });
                }
            }
        }
        Applied { rejections, changed: self.settle(now) }
    }

    /// Puts in force what is ready, or has waited long enough. Whether anything was.
    pub(crate) fn settle(&mut self, now: Instant) -> bool {
        let (assignments, secrets) = (&self.assignments, &self.secrets);
        let is_ready = |cluster: &LazyCluster| {
            let has_endpoints = match cluster.eds_service_name() {
                Some(service) => assignments.contains_key(service),
                None => cluster.compiled().is_none_or(|c| c.is_resolved()),
            };
            has_endpoints && cluster.references().secrets.iter().all(|s| secrets.lock().has(s))
        };
        let mut changed = self.clusters.settle(now, is_ready, |before, after| after.take_over(before));
        // A cluster that the control plane does not have holds nothing back: clusters come first in a push, and requests to
        // this one are answered by the status that the route has for it.
        let clusters = &self.clusters;
        let has_clusters = |r: &References| !r.clusters.iter().any(|name| clusters.is_new(name));
        changed |= self.routes.settle(now, |r| has_clusters(&r.references), |_, _| ());
        let routes = &self.routes;
        let is_ready = |l: &Listener| {
            let references = &l.references;
            has_clusters(references)
                && references.routes.iter().all(|name| routes.active().contains_key(name))
                && references.secrets.iter().all(|s| secrets.lock().has(s))
        };
        changed |= self.listeners.settle(now, is_ready, |_, _| ());
        changed |= self.listeners.retire(now, |_, _| false);
        changed | self.retire_clusters(now)
    }

    /// Drops removed clusters that nothing in force names any more. Those that something names stay for a moment, or until the
    /// newer version of it that waits is in force.
    fn retire_clusters(&mut self, now: Instant) -> bool {
        if !self.clusters.is_leaving() {
            return false;
        }
        let named_by = |references: &References, name: &str| references.clusters.contains(name);
        let (routes, listeners) = (&self.routes, &self.listeners);
        self.clusters.retire(now, |name, lingered| {
            let outdated = routes.outdated().any(|r| named_by(&r.references, name))
                || listeners.outdated().any(|l| named_by(&l.references, name));
            let named = routes.active().values().any(|r| named_by(&r.references, name))
                || listeners.active().values().any(|l| named_by(&l.references, name));
            outdated || (named && !lingered)
        })
    }

    /// Takes one resource; gives the fields of it that are left aside.
    fn put(&mut self, ty: ResourceType, name: &str, bytes: &[u8], moment: &Moment<'_>) -> Result<Vec<String>, String> {
        let now = moment.now;
        let ignored = match ty {
            ResourceType::Lds => {
                let (model, ignored) = decoded(decode::listener(bytes))?;
                same_name(name, &model.name)?;
                self.check_addresses(&model, &moment.to_come)?;
                if self.listeners.latest(name).is_none_or(|l| *l.model != model) {
                    let compiled = Listener::compile(model, &mut self.secrets.lock(), &self.telemetry)?;
                    self.listeners.put(name.into(), compiled, now);
                }
                ignored
            }
            ResourceType::Rds => {
                let (model, ignored) = decoded(decode::route_configuration(bytes))?;
                same_name(name, &model.name)?;
                if self.routes.latest(name).is_none_or(|r| r.model() != Some(model.clone())) {
                    let table = Arc::new(RouteTable::compile(&model).map_err(|e| e.to_string())?);
                    let resource = self.compactors.routes.keep(bytes);
                    let routes = Routes { references: References::of_routes(&model), table, resource };
                    self.routes.put(name.into(), routes, now);
                }
                ignored
            }
            ResourceType::Cds => {
                let (model, ignored) = decoded(decode::cluster(bytes))?;
                same_name(name, &model.name)?;
                self.put_cluster(name, bytes, model, now)?;
                ignored
            }
            ResourceType::Eds => {
                let (assignment, ignored) = decoded(decode::cluster_load_assignment(bytes))?;
                same_name(name, &assignment.cluster_name)?;
                self.put_endpoints(name, bytes, &assignment);
                ignored
            }
            ResourceType::Sds => {
                let (secret, ignored) = decoded(decode::secret(bytes))?;
                same_name(name, &secret.name)?;
                self.secrets.lock().install(&secret)?;
                ignored
            }
            other => return Err(format!("{other:?} was not asked for")),
        };
        Ok(ignored)
    }

    /// Two listeners with one address: which of them served a connection would be chance.
    fn check_addresses(&self, model: &dataplane::Listener, to_come: &HashSet<&str>) -> Result<(), String> {
        let own: BTreeSet<SocketAddr> = addresses(model).collect();
        let others = self.listeners.all_latest().filter(|(name, _)| *name != model.name && !to_come.contains(name));
        for (other, listener) in others {
            if let Some(address) = addresses(&listener.model).find(|a| own.contains(a)) {
                return Err(format!("address {address} is that of listener {other:?}; each needs its own"));
            }
        }
        Ok(())
    }

    fn put_cluster(&mut self, name: &str, resource: &[u8], model: dataplane::Cluster, now: Instant) -> Result<(), String> {
        if self.clusters.latest(name).is_some_and(|c| c.is(resource, &model)) {
            return Ok(());
        }
        let previous = self.clusters.latest(name).or_else(|| self.clusters.active().get(name));
        let resource = self.compactors.clusters.keep(resource);
        let cluster = LazyCluster::new(resource, model, &self.secrets, previous.map(Arc::as_ref))?;
        let name = cluster.name().clone();
        match cluster.eds_service_name() {
            Some(service) if **service != *name => self.renamed.insert(name.clone(), service.clone()),
            _ => self.renamed.remove(&name),
        };
        if let Some(assignment) = cluster.eds_service_name().and_then(|service| self.assignments.get(service)) {
            cluster.set_endpoints(assignment.clone());
        }
        self.clusters.put(name, cluster, now);
        Ok(())
    }

    fn put_endpoints(&mut self, name: &str, resource: &[u8], assignment: &ClusterLoadAssignment) {
        if let Some((own, origin)) = self.own.as_ref().filter(|_| name == LOCAL_CLUSTER) {
            let of_group = |group: &LocalityEndpoints| std::iter::repeat_n(group.locality.clone(), group.endpoints.len());
            origin.store(Some(Arc::new(Origin::new(own.clone(), assignment.localities.iter().flat_map(of_group)))));
        }
        let resource = Arc::new(self.compactors.endpoints.keep(resource));
        let renamed = self.renamed.iter().filter(|(_, service)| ***service == *name).map(|(cluster, _)| &**cluster);
        let clusters = std::iter::once(name).chain(renamed).flat_map(|cluster| self.clusters.wanted_of(cluster));
        for cluster in clusters.filter(|c| c.eds_service_name().is_some_and(|service| **service == *name)) {
            cluster.set_endpoints(resource.clone());
        }
        self.assignments.insert(name.into(), resource);
    }

    fn remove(&mut self, ty: ResourceType, name: &str, now: Instant) {
        let key = (ty, name.to_owned());
        self.ignored.remove(&key);
        self.rejected.remove(&key);
        match ty {
            ResourceType::Lds => self.listeners.remove(name, now),
            ResourceType::Cds => {
                self.renamed.remove(name);
                self.clusters.remove(name, now);
            }
            // Routes, endpoints and secrets belong to listeners and clusters, which stop asking for them (see
            // `forget_unwanted`).
            _ => {}
        }
    }

    /// The names that must be subscribed to, as the listeners and clusters refer to them.
    pub(crate) fn wanted(&self, ty: ResourceType) -> BTreeSet<Arc<str>> {
        match ty {
            ResourceType::Rds => self.listeners.wanted().flat_map(|l| &l.references.routes).cloned().collect(),
            ResourceType::Eds => {
                let own = self.own.is_some().then(|| LOCAL_CLUSTER.into());
                self.clusters.wanted().filter_map(|c| c.eds_service_name()).cloned().chain(own).collect()
            }
            ResourceType::Sds => {
                let of_listeners = self.listeners.wanted().flat_map(|l| &l.references.secrets);
                let of_clusters = self.clusters.wanted().flat_map(|c| &c.references().secrets);
                of_listeners.chain(of_clusters).map(|secret| secret.name().into()).collect()
            }
            _ => BTreeSet::new(),
        }
    }

    /// Drops what nothing refers to any more. Whether that changed the snapshot.
    pub(crate) fn forget_unwanted(&mut self) -> bool {
        let [routes, endpoints, secrets] = [ResourceType::Rds, ResourceType::Eds, ResourceType::Sds].map(|ty| self.wanted(ty));
        self.assignments.retain(|name, _| endpoints.contains(name));
        self.secrets.lock().retain(|name| secrets.contains(name));
        let is_gone = |ty: ResourceType, name: &str| match ty {
            ResourceType::Rds => !routes.contains(name),
            ResourceType::Eds => !endpoints.contains(name),
            ResourceType::Sds => !secrets.contains(name),
            _ => false,
        };
        self.ignored.retain(|(ty, name), _| !is_gone(*ty, name));
        self.rejected.retain(|(ty, name), _| !is_gone(*ty, name));
        self.routes.retain(|name| routes.contains(name))
    }

    /// The clusters whose names are to be resolved.
    pub(crate) fn named_clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        let compiled = self.clusters.wanted().filter_map(|c| c.compiled());
        compiled.filter(|c| matches!(c.config.discovery, Discovery::Dns(_)))
    }

    /// Reads certificates and roots from files again, where those have changed.
    pub(crate) fn reread_files(&mut self) {
        self.secrets.lock().reread_files();
    }

    /// What is in force now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let routes = self.routes.active().iter().map(|(name, routes)| (name.clone(), routes.table.clone())).collect();
        Snapshot::new(self.listeners.active().clone(), self.clusters.active().clone(), routes)
    }

    /// How many resources wait for what they refer to.
    pub(crate) fn warming(&self) -> WarmingCounts {
        WarmingCounts { listeners: self.listeners.warming(), clusters: self.clusters.warming(), routes: self.routes.warming() }
    }

    /// The next moment at which [`Self::settle`] has to be called because time has passed.
    pub(crate) fn due(&self, now: Instant) -> Option<Instant> {
        [self.listeners.due(now), self.clusters.due(now), self.routes.due(now)].into_iter().flatten().min()
    }

    /// The control plane is connected again: what waits could not have come before.
    pub(crate) fn restart_clock(&mut self, now: Instant) {
        self.listeners.restart_clock(now);
        self.clusters.restart_clock(now);
        self.routes.restart_clock(now);
    }

    /// Route configurations in force, for people.
    pub(crate) fn route_models(&self) -> impl Iterator<Item = dataplane::RouteConfiguration> {
        self.routes.active().values().filter_map(|routes| routes.model())
    }

    /// Fields that were left aside because they change nothing.
    pub(crate) fn ignored(&self) -> &BTreeMap<(ResourceType, String), Vec<String>> {
        &self.ignored
    }

    /// Resources whose newest version is refused, and why; an older one may be in force.
    pub(crate) fn rejected(&self) -> &BTreeMap<(ResourceType, String), String> {
        &self.rejected
    }

    /// Why a listener is refused of which no version was ever good.
    pub(crate) fn listener_never_good(&self, name: &str) -> Option<&str> {
        let reason = self.rejected.get(&(ResourceType::Lds, name.to_owned()))?;
        self.listeners.latest(name).is_none().then_some(reason)
    }
}

fn decoded<T>(result: Result<Decoded<T>, DecodeError>) -> Result<(T, Vec<String>), String> {
    let Decoded { value, ignored } = result.map_err(|e| e.to_string())?;
    Ok((value, ignored.iter().map(ToString::to_string).collect()))
}

/// A resource is kept, looked up and removed by one name.
fn same_name(resource: &str, message: &str) -> Result<(), String> {
    if resource == message {
        return Ok(());
    }
    Err(format!("the resource is named {resource:?}, but the message in it {message:?}; they must be equal"))
}

fn addresses(model: &dataplane::Listener) -> impl Iterator<Item = SocketAddr> {
    std::iter::once(model.address).chain(model.additional_addresses.iter().copied())
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
