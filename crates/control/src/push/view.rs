//! The resources of a class of equal proxies, at one generation of the world.

use super::memo::{self, Memo, resource};
use crate::generate::listener::{gateway, inbound, outbound};
use crate::generate::proxy::ProxyRole;
use crate::generate::route::{self, RouteContext, Via};
use crate::generate::{MergedRule, Proxy, Scope, ScopedService, cluster, endpoint, secret};
use crate::names::OutboundName;
use crate::world::{ChangeKey, ChangeSet, Kind, World};
use lateen_model::dataplane::{Cluster, ClusterLoadAssignment, Discovery, Listener, RouteConfiguration};
use lateen_model::resource::host;
use lateen_wire::{EncodeOptions, encode};
use lateen_xds::on_demand::{LookupAnswer, Question};
use lateen_xds::server::{Change, Generated, Names, Watch};
use lateen_xds::{Generation, Resource, ResourceType};
use prost::Message;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// All resources of one type.
#[derive(Debug, Default)]
pub(super) struct ResourceSet {
    ordered: Vec<Arc<Resource>>,
    by_name: HashMap<Arc<str>, usize>,
}

impl ResourceSet {
    fn new(ordered: Vec<Arc<Resource>>) -> Self {
        let by_name = ordered.iter().enumerate().map(|(i, r)| (Arc::clone(r.name()), i)).collect();
        Self { ordered, by_name }
    }

    fn get(&self, name: &str) -> Option<&Arc<Resource>> {
        self.by_name.get(name).map(|i| &self.ordered[*i])
    }

    fn select(&self, watch: Watch<'_>) -> Vec<Arc<Resource>> {
        match watch {
            Watch::Wildcard => self.ordered.clone(),
            Watch::Names(names) => names.iter().filter_map(|n| self.get(n)).map(Arc::clone).collect(),
        }
    }

    /// Names of which one of the two has something else than the other.
    fn difference(&self, other: &Self) -> Names {
        let differs = |a: &Self, b: &Self| {
            let other = |r: &&Arc<Resource>| b.get(r.name()).is_none_or(|o| !Arc::ptr_eq(o, r) && o.version() != r.version());
            a.ordered.iter().filter(other).map(|r| Arc::clone(r.name())).collect::<Vec<_>>()
        };
        differs(self, other).into_iter().chain(differs(other, self)).collect()
    }
}

/// The resources of a class. Never changes, except that routes and secrets are made when they are first asked for.
pub struct View {
    /// Which world.
    pub generation: Generation,
    /// The world.
    pub world: World,
    /// For whom.
    pub proxy: Arc<Proxy>,
    /// What they may know.
    pub scope: Arc<Scope>,
    memo: Arc<Memo>,
    /// Under an automatic scope, what can be asked for.
    learning: Option<Learning>,
    cluster_set: Arc<ResourceSet>,
    listener_set: Arc<ResourceSet>,
    routes: Mutex<BTreeMap<Arc<str>, Arc<Resource>>>,
}

/// What proxies under an automatic scope can ask for.
#[derive(Clone)]
struct Learning {
    whole: Arc<Scope>,
    index: memo::Index,
}

impl Learning {
    /// `None` where the scope is not an automatic one.
    fn new(world: &World, proxy: &Proxy, scope: &Scope, memo: &Memo) -> Option<Self> {
        scope.key.learned.as_ref()?;
        let whole = memo.whole(world, proxy, &scope.key);
        Some(Self { index: memo.index(world, &whole), whole })
    }

    /// With other endpoints: of headless services the addresses of pods can be asked for.
    fn with_endpoints(self, world: &World, changes: &ChangeSet, memo: &Memo) -> Self {
        let is_headless = |key: &ChangeKey| {
            let service = world.namespace(&key.namespace).and_then(|ns| ns.services.get(&key.name));
            service.is_some_and(|s| s.headless)
        };
        if !changes.of(Kind::Endpoints).any(is_headless) {
            return self;
        }
        Self { index: memo.index(world, &self.whole), ..self }
    }

    fn difference(old: Option<&Self>, new: Option<&Self>) -> Names {
        match (old, new) {
            (None, None) => Names::None,
            (Some(old), Some(new)) if Arc::ptr_eq(&old.index, &new.index) => Names::None,
            (Some(old), Some(new)) => {
                let differs =
                    |(a, b): (&Arc<Resource>, &Arc<Resource>)| (a.version() != b.version()).then(|| Arc::clone(a.name()));
                old.index.iter().zip(new.index.iter()).filter_map(differs).collect()
            }
            _ => Names::All,
        }
    }
}

/// Which kinds of change can alter a type of a sidecar. Endpoints do so only through headless services; see
/// [`View::touches`].
fn concerns(ty: ResourceType, kind: Kind) -> bool {
    match ty {
        ResourceType::Cds => matches!(
            kind,
            Kind::Service
                | Kind::VirtualService
                | Kind::Gateway
                | Kind::DestinationRule
                | Kind::Sidecar
                | Kind::PeerAuthentication
                | Kind::MeshConfig
        ),
        ResourceType::Lds => matches!(
            kind,
            Kind::Service
                | Kind::VirtualService
                | Kind::Gateway
                | Kind::Sidecar
                | Kind::PeerAuthentication
                | Kind::AuthorizationPolicy
                | Kind::LocalRateLimit
                | Kind::DestinationRule
                | Kind::MeshConfig
        ),
        ResourceType::Rds => {
            matches!(kind, Kind::Service | Kind::VirtualService | Kind::Gateway | Kind::Sidecar | Kind::MeshConfig)
        }
        _ => false,
    }
}

impl View {
    /// Makes everything anew.
    pub fn new(generation: Generation, world: &World, proxy: Arc<Proxy>, memo: &Arc<Memo>) -> Self {
        let scope = memo.scope(world, &proxy);
        let learning = Learning::new(world, &proxy, &scope, memo);
        let cluster_set = Arc::new(make_clusters(world, &scope, &proxy, memo));
        let listener_set = Arc::new(make_listeners(world, &scope, &proxy));
        Self {
            generation,
            world: world.clone(),
            proxy,
            scope,
            memo: Arc::clone(memo),
            learning,
            cluster_set,
            listener_set,
            routes: Mutex::default(),
        }
    }

    /// The view of the next world, and what differs in it for this class. `shared` is what differs for all classes alike:
    /// endpoints and secrets.
    pub fn next(&self, generation: Generation, world: &World, changes: &ChangeSet, shared: &Change) -> (Self, Change) {
        let kinds = |f: &dyn Fn(Kind) -> bool| changes.keys().any(|k| f(k.kind));
        let scope = match kinds(&memo::concerns_scope) {
            true => self.memo.scope(world, &self.proxy),
            false => Arc::clone(&self.scope),
        };
        let learning = match kinds(&memo::concerns_scope) {
            true => Learning::new(world, &self.proxy, &scope, &self.memo),
            false => self.learning.clone().map(|l| l.with_endpoints(world, changes, &self.memo)),
        };
        let headless = self.headless_endpoints_changed(changes, &scope);
        let is_router = self.proxy.role == ProxyRole::Router;
        let concerned = |ty| kinds(&|kind| concerns(ty, kind) && (is_router || kind != Kind::Gateway));
        let mut change = shared.clone();
        change.generation = generation;
        change.names[ResourceType::Index] = Learning::difference(self.learning.as_ref(), learning.as_ref());
        if !Arc::ptr_eq(&scope, &self.scope) {
            change.names[ResourceType::Lookup] = Names::All;
        } else if learning.is_some() && !headless {
            // The table has what the scope has.
            change.names[ResourceType::Nds] = Names::None;
        }
        let cluster_set = match concerned(ResourceType::Cds) || headless {
            true => Arc::new(make_clusters(world, &scope, &self.proxy, &self.memo)),
            false => Arc::clone(&self.cluster_set),
        };
        change.names[ResourceType::Cds] = self.cluster_set.difference_or_same(&cluster_set);
        let listener_set = match headless || self.listeners_concerned(world, changes, &scope) {
            true => Arc::new(make_listeners(world, &scope, &self.proxy)),
            false => Arc::clone(&self.listener_set),
        };
        change.names[ResourceType::Lds] = self.listener_set.difference_or_same(&listener_set);
        let next = Self {
            generation,
            world: world.clone(),
            proxy: Arc::clone(&self.proxy),
            scope,
            memo: Arc::clone(&self.memo),
            learning,
            cluster_set,
            listener_set,
            routes: Mutex::default(),
        };
        change.names[ResourceType::Rds] =
            self.next_routes(&next, concerned(ResourceType::Rds) || self.hashes_changed(world, changes));
        (next, change)
    }

    /// Policies concern only the listeners of their own namespace, and those of the root namespace everyone's.
    fn listeners_concerned(&self, world: &World, changes: &ChangeSet, scope: &Arc<Scope>) -> bool {
        let same_scope = Arc::ptr_eq(scope, &self.scope);
        changes.keys().filter(|k| concerns(ResourceType::Lds, k.kind)).any(|key| match key.kind {
            Kind::PeerAuthentication | Kind::AuthorizationPolicy | Kind::LocalRateLimit => {
                *key.namespace == *self.proxy.namespace || *key.namespace == *self.world.root_namespace()
            }
            Kind::Service => !same_scope || *key.namespace == *self.proxy.namespace,
            Kind::VirtualService | Kind::Sidecar => !same_scope,
            Kind::Gateway => self.proxy.role == ProxyRole::Router,
            Kind::DestinationRule => [&self.world, world].into_iter().any(|w| rule_concerns_listeners(w, key, scope)),
            _ => true,
        })
    }

    fn headless_endpoints_changed(&self, changes: &ChangeSet, scope: &Scope) -> bool {
        let headless = |s: &ScopedService| s.service.shows_endpoints();
        let changed = |key: &ChangeKey| {
            scope.services.iter().any(|s| headless(s) && s.service.namespace == key.namespace && s.service.key() == key.name)
        };
        changes.of(Kind::Endpoints).any(changed)
    }

    /// Whether a DestinationRule that came, went or changed says what of requests is hashed, which their routes tell.
    fn hashes_changed(&self, world: &World, changes: &ChangeSet) -> bool {
        let hashes = |world: &World, key: &ChangeKey| {
            let rule = world.namespace(&key.namespace).and_then(|ns| ns.destination_rules.get(&key.name));
            rule.is_some_and(|r| r.resource.uses_consistent_hash())
        };
        changes.of(Kind::DestinationRule).any(|key| hashes(&self.world, key) || hashes(world, key))
    }

    /// Carries the routes over, made anew where they may differ, and says which do.
    fn next_routes(&self, next: &Self, concerned: bool) -> Names {
        let current = lock(&self.routes).clone();
        if !concerned {
            *lock(&next.routes) = current;
            return Names::None;
        }
        let mut changed = Vec::new();
        for (name, old) in current {
            let fresh = next.make_route(&name);
            let same = fresh.version() == old.version();
            if !same {
                changed.push(Arc::clone(&name));
            }
            lock(&next.routes).insert(name, if same { old } else { fresh });
        }
        changed.into_iter().collect()
    }

    /// The resources of a type that a client asks for.
    pub fn generate(&self, ty: ResourceType, watch: Watch<'_>) -> Generated {
        let names: &[Arc<str>] = match watch {
            Watch::Names(names) => names,
            Watch::Wildcard => &[],
        };
        let resources = match ty {
            ResourceType::Index => self.learning.iter().flat_map(|l| l.index.iter().cloned()).collect(),
            ResourceType::Lookup => names.iter().filter_map(|name| self.answer(name)).collect(),
            ResourceType::Cds => self.cluster_set.select(watch),
            ResourceType::Lds => self.listener_set.select(watch),
            ResourceType::Eds => {
                names.iter().map(|name| self.memo.endpoints(&self.world, (&self.scope, &self.proxy), name)).collect()
            }
            ResourceType::Rds => names.iter().map(|name| self.route(name)).collect(),
            ResourceType::Sds => names.iter().filter_map(|name| self.secret(name)).collect(),
            ResourceType::Nds => super::nds::table(self).into_iter().collect(),
            ResourceType::Address
            | ResourceType::Workload
            | ResourceType::Authorization
            | ResourceType::Ecds
            | ResourceType::Pcds => Vec::new(),
        };
        Generated { generation: self.generation, resources }
    }

    /// The names of endpoints and routes that its clusters and listeners need, as far as they can be told.
    pub fn implied(&self, ty: ResourceType) -> Vec<Arc<str>> {
        match ty {
            ResourceType::Eds => self.scope.endpoint_names(self.cluster_set.ordered.iter().map(|c| c.name())),
            ResourceType::Rds => self.scope.route_names(),
            _ => Vec::new(),
        }
    }

    fn answer(&self, name: &Arc<str>) -> Option<Arc<Resource>> {
        let whole = self.learning.as_ref().map_or(&self.scope, |l| &l.whole);
        let hosts = whole.answer(&self.world, &Question::parse(name)?)?;
        let answer = LookupAnswer { hosts: hosts.iter().map(ToString::to_string).collect() };
        Some(resource(name, answer.encode_to_vec().into()))
    }

    /// All clusters, for people.
    pub fn clusters(&self) -> Vec<Cluster> {
        let rule = |s: &ScopedService| MergedRule::lookup_for(&self.world, &self.proxy, &s.service);
        let services = self.scope.services.iter().flat_map(|s| cluster::of_service(&self.world, &self.proxy, s, &rule(s)));
        services.chain(own_clusters(&self.world, &self.scope, &self.proxy)).collect()
    }

    /// All listeners, for people.
    pub fn listeners(&self) -> Vec<Listener> {
        all_listeners(&self.world, &self.scope, &self.proxy)
    }

    /// The routes that were asked for, for people.
    pub fn routes(&self) -> Vec<RouteConfiguration> {
        let names: Vec<Arc<str>> = lock(&self.routes).keys().cloned().collect();
        names.iter().map(|name| self.route_configuration(name)).collect()
    }

    /// The endpoints of all clusters that have any, for people.
    pub fn endpoints(&self) -> Vec<ClusterLoadAssignment> {
        let of = |cluster: Cluster| match cluster.discovery {
            Discovery::Eds { service_name } => {
                let name = OutboundName::parse(&service_name)?;
                let service = self.scope.service_or_visible(&self.world, name.host)?;
                let rule = MergedRule::lookup_for(&self.world, &self.proxy, service);
                Some(endpoint::of_cluster(&self.world, (&self.proxy, &rule), Some(service), &service_name))
            }
            Discovery::Static(_) | Discovery::OriginalDst { .. } | Discovery::Dns(_) => None,
        };
        self.clusters().into_iter().filter_map(of).collect()
    }

    fn route(&self, name: &Arc<str>) -> Arc<Resource> {
        if let Some(made) = lock(&self.routes).get(name) {
            return Arc::clone(made);
        }
        let made = self.make_route(name);
        // Two connections may make the same at once; the first one's is kept, so that both share it.
        Arc::clone(lock(&self.routes).entry(Arc::clone(name)).or_insert(made))
    }

    fn make_route(&self, name: &str) -> Arc<Resource> {
        resource(name, encode::route_configuration(&self.route_configuration(name)))
    }

    fn route_configuration(&self, name: &str) -> RouteConfiguration {
        route::of_name(RouteContext { world: &self.world, scope: &self.scope, proxy: &self.proxy, via: Via::Mesh }, name)
    }

    fn secret(&self, name: &Arc<str>) -> Option<Arc<Resource>> {
        secret::of_name(&self.world, &self.proxy, name).map(|s| resource(name, encode::secret(&s)))
    }
}

/// Whether a DestinationRule speaks of a service that is called in TCP, whose listener has its idle timeout.
fn rule_concerns_listeners(world: &World, key: &ChangeKey, scope: &Scope) -> bool {
    let Some(rule) = world.namespace(&key.namespace).and_then(|ns| ns.destination_rules.get(&key.name)) else { return false };
    let opaque = |s: &&ScopedService| s.ports().any(|p| !p.protocol.is_http());
    scope.visible().filter(opaque).any(|s| rule.hosts.iter().any(|h| host::subset_of(&s.service.host, h)))
}

impl ResourceSet {
    fn difference_or_same(self: &Arc<Self>, other: &Arc<Self>) -> Names {
        if Arc::ptr_eq(self, other) { Names::None } else { self.difference(other) }
    }
}

fn make_clusters(world: &World, scope: &Scope, proxy: &Proxy, memo: &Memo) -> ResourceSet {
    let options = EncodeOptions { flavor: proxy.flavor };
    let mut all: Vec<Arc<Resource>> = Vec::new();
    for service in &scope.services {
        all.extend(memo.clusters(world, proxy, service).iter().cloned());
    }
    all.extend(own_clusters(world, scope, proxy).iter().map(|c| resource(&c.name, encode::cluster(c, options))));
    ResourceSet::new(all)
}

/// Clusters that do not lead to services, and those that do so by the server name of clients' TLS.
fn own_clusters(world: &World, scope: &Scope, proxy: &Proxy) -> Vec<Cluster> {
    match proxy.role {
        ProxyRole::Sidecar => {
            let own = [cluster::black_hole(world), cluster::passthrough(world)];
            own.into_iter().chain(cluster::inbound(world, proxy)).collect()
        }
        ProxyRole::Router => {
            let merged = crate::generate::gateway::merged(world, proxy);
            let targets = gateway::automatic_targets(gateway::Router { world, scope, proxy }, &merged);
            let by_name = targets.iter().map(|(port, host)| cluster::by_server_name(world, *port, host));
            std::iter::once(cluster::black_hole(world)).chain(by_name).collect()
        }
    }
}

fn all_listeners(world: &World, scope: &Scope, proxy: &Proxy) -> Vec<Listener> {
    if proxy.role == ProxyRole::Router {
        return gateway::listeners(gateway::Router { world, scope, proxy });
    }
    let (mut listeners, _) = outbound::listeners(outbound::Outbound { world, scope, proxy });
    let inbound = inbound::listeners(world, proxy);
    // Where a Sidecar listens for its application, nothing else can.
    listeners.retain(|l| inbound.iter().all(|own| own.address != l.address));
    listeners.extend(inbound);
    listeners
}

fn make_listeners(world: &World, scope: &Scope, proxy: &Proxy) -> ResourceSet {
    let options = EncodeOptions { flavor: proxy.flavor };
    let listeners = all_listeners(world, scope, proxy);
    ResourceSet::new(listeners.iter().map(|l| resource(&l.name, encode::listener(l, options))).collect())
}

/// Nothing panics while one of these locks is held, so that a poisoned one holds no half-made state.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
