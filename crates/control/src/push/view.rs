//! The resources of a class of equal proxies, at one generation of the world.

use super::memo::{self, Memo, resource};
use super::set::{Part, ResourceSet};
use super::shared::{Outlook, Shared};
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
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

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
    /// What its outbound half depends on.
    outlook: Outlook,
    cluster_set: ResourceSet,
    /// Of a sidecar.
    inbound: Option<Inbound>,
    listener_set: ResourceSet,
    /// Those that were asked for. Shared with the views before and after in which they are the same.
    routes: Arc<Mutex<BTreeMap<Arc<str>, Arc<Resource>>>>,
    names: OnceLock<Arc<Resource>>,
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

/// Kinds of change after which other labels may decide.
fn concerns_outlook(kind: Kind) -> bool {
    matches!(kind, Kind::Service | Kind::VirtualService | Kind::DestinationRule | Kind::MeshConfig)
}

impl View {
    /// Makes everything anew.
    pub fn new(generation: Generation, world: &World, proxy: Arc<Proxy>, memo: &Arc<Memo>) -> Self {
        let scope = memo.scope(world, &proxy);
        let learning = Learning::new(world, &proxy, &scope, memo);
        let outlook = memo.shared.outlook(world, &proxy);
        let cluster_set = ResourceSet {
            shared: memo.shared.clusters(memo, world, (&scope, &outlook)),
            own: own_cluster_part(world, &scope, &proxy, memo),
        };
        let inbound = (proxy.role == ProxyRole::Sidecar).then(|| Inbound::new(world, &proxy, memo));
        let listener_set = listener_set((world, &scope, &proxy), &outlook, inbound.as_ref(), memo);
        Self {
            generation,
            world: world.clone(),
            proxy,
            scope,
            memo: Arc::clone(memo),
            learning,
            outlook,
            cluster_set,
            inbound,
            listener_set,
            routes: Arc::default(),
            names: OnceLock::new(),
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
        let outlook = match kinds(&concerns_outlook) {
            true => self.memo.shared.outlook(world, &self.proxy),
            false => Arc::clone(&self.outlook),
        };
        let cluster_set = match concerned(ResourceType::Cds) || headless {
            true => ResourceSet {
                shared: self.memo.shared.clusters(&self.memo, world, (&scope, &outlook)),
                own: match is_router || changes.keys().any(|key| self.own_clusters_concerned(key)) {
                    true => own_cluster_part(world, &scope, &self.proxy, &self.memo),
                    false => Arc::clone(&self.cluster_set.own),
                },
            },
            false => self.cluster_set.clone(),
        };
        change.names[ResourceType::Cds] = self.cluster_set.difference(&cluster_set);
        let (inbound, listener_set) = match headless || self.listeners_concerned(world, changes, &scope) {
            true => {
                let anew = changes.keys().any(|key| self.inbound_concerned(key));
                let inbound =
                    self.inbound.clone().map(|old| if anew { Inbound::new(world, &self.proxy, &self.memo) } else { old });
                let set = listener_set((world, &scope, &self.proxy), &outlook, inbound.as_ref(), &self.memo);
                (inbound, set)
            }
            false => (self.inbound.clone(), self.listener_set.clone()),
        };
        change.names[ResourceType::Lds] = self.listener_set.difference(&listener_set);
        let routes = concerned(ResourceType::Rds) || self.hashes_changed(world, changes);
        let next = Self {
            generation,
            world: world.clone(),
            proxy: Arc::clone(&self.proxy),
            scope,
            memo: Arc::clone(&self.memo),
            learning,
            outlook,
            cluster_set,
            inbound,
            listener_set,
            routes: if routes { Arc::default() } else { Arc::clone(&self.routes) },
            names: OnceLock::new(),
        };
        change.names[ResourceType::Rds] = if routes { self.next_routes(&next) } else { Names::None };
        (next, change)
    }

    /// Whether a change may concern the clusters that lead to the proxy's own pod.
    fn own_clusters_concerned(&self, key: &ChangeKey) -> bool {
        match key.kind {
            Kind::Service => *key.namespace == *self.proxy.namespace,
            Kind::DestinationRule | Kind::Sidecar | Kind::PeerAuthentication | Kind::MeshConfig => true,
            _ => false,
        }
    }

    /// Whether a change may concern the listeners for connections to the proxy's own pod.
    fn inbound_concerned(&self, key: &ChangeKey) -> bool {
        match key.kind {
            Kind::Service => *key.namespace == *self.proxy.namespace,
            kind => concerns(ResourceType::Lds, kind) && kind != Kind::VirtualService,
        }
    }

    /// Policies concern only the listeners of their own namespace, and those of the root namespace everyone's.
    fn listeners_concerned(&self, world: &World, changes: &ChangeSet, scope: &Arc<Scope>) -> bool {
        let same_scope = Arc::ptr_eq(scope, &self.scope);
        changes.keys().filter(|k| concerns(ResourceType::Lds, k.kind)).any(|key| match key.kind {
            Kind::PeerAuthentication | Kind::AuthorizationPolicy | Kind::LocalRateLimit => {
                *key.namespace == *self.proxy.namespace || *key.namespace == *self.world.root_namespace()
            }
            Kind::Service => !same_scope || *key.namespace == *self.proxy.namespace,
            Kind::VirtualService => {
                let l4 = || [&self.world, world].into_iter().any(|w| has_l4_routes(w, key));
                !same_scope && (l4() || !scope.same_services(&self.scope))
            }
            Kind::Sidecar => !same_scope,
            Kind::Gateway => self.proxy.role == ProxyRole::Router,
            Kind::DestinationRule => [&self.world, world].into_iter().any(|w| rule_concerns_listeners(w, key, scope)),
            _ => true,
        })
    }

    fn headless_endpoints_changed(&self, changes: &ChangeSet, scope: &Scope) -> bool {
        changes.of(Kind::Endpoints).filter(|key| shows_endpoints(&self.world, key)).any(|key| {
            let is = |s: &&ScopedService| s.service.namespace == key.namespace && s.service.key() == key.name;
            scope.services.iter().any(|s| is(&s) && s.service.shows_endpoints())
        })
    }

    /// Whether a DestinationRule that came, went or changed says what of requests is hashed, which their routes tell.
    fn hashes_changed(&self, world: &World, changes: &ChangeSet) -> bool {
        let hashes = |world: &World, key: &ChangeKey| {
            let rule = world.namespace(&key.namespace).and_then(|ns| ns.destination_rules.get(&key.name));
            rule.is_some_and(|r| r.resource.uses_consistent_hash())
        };
        changes.of(Kind::DestinationRule).any(|key| hashes(&self.world, key) || hashes(world, key))
    }

    /// Makes the routes that were asked for anew, and says which differ.
    fn next_routes(&self, next: &Self) -> Names {
        let current = lock(&self.routes).clone();
        let differs = |(name, old): (Arc<str>, Arc<Resource>)| {
            let fresh = next.route(&name);
            (!Arc::ptr_eq(&fresh, &old) && fresh.version() != old.version()).then_some(name)
        };
        current.into_iter().filter_map(differs).collect()
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
            ResourceType::Nds => vec![Arc::clone(self.names.get_or_init(|| super::nds::table(self)))],
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
            ResourceType::Eds => self.scope.endpoint_names(self.cluster_set.iter().map(|c| c.name())),
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
        let made = self.memo.shared.route(&self.memo, &self.world, (&self.scope, &self.outlook), name);
        // Two connections may make the same at once; the first one's is kept, so that both share it.
        Arc::clone(lock(&self.routes).entry(Arc::clone(name)).or_insert(made))
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

/// The part of its clusters that a proxy has to itself.
fn own_cluster_part(world: &World, scope: &Scope, proxy: &Proxy, memo: &Memo) -> Arc<Part> {
    let options = EncodeOptions { flavor: proxy.flavor };
    let own = own_clusters(world, scope, proxy);
    memo.work.clusters.add(own.len() as u64);
    Arc::new(Part::new(own.iter().map(|c| memo.intern(&c.name, encode::cluster(c, options))).collect()))
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

/// The listeners for connections to a sidecar's own pod.
#[derive(Clone)]
struct Inbound {
    addresses: Arc<[SocketAddr]>,
    part: Arc<Part>,
}

impl Inbound {
    fn new(world: &World, proxy: &Proxy, memo: &Memo) -> Self {
        let listeners = inbound::listeners(world, proxy);
        memo.work.listeners.add(listeners.len() as u64);
        let part = Arc::new(Part::new(encode_listeners(&listeners, proxy, memo)));
        Self { addresses: listeners.iter().map(|l| l.address).collect(), part }
    }
}

/// All listeners. A sidecar's outbound ones are shared, unless one of its own takes the address of one of these.
fn listener_set(
    (world, scope, proxy): (&World, &Scope, &Arc<Proxy>),
    outlook: &Outlook,
    inbound: Option<&Inbound>,
    memo: &Memo,
) -> ResourceSet {
    if let Some(inbound) = inbound {
        let outlook = Shared::listener_outlook(world, outlook, proxy);
        let outgoing = memo.shared.listeners(memo, world, (scope, &outlook));
        if !inbound.addresses.iter().any(|own| outgoing.addresses.contains(own)) {
            return ResourceSet { shared: Arc::clone(&outgoing.part), own: Arc::clone(&inbound.part) };
        }
    }
    let listeners = all_listeners(world, scope, proxy);
    memo.work.listeners.add(listeners.len() as u64);
    ResourceSet { shared: Arc::default(), own: Arc::new(Part::new(encode_listeners(&listeners, proxy, memo))) }
}

/// Encoded, each content once.
pub(super) fn encode_listeners(listeners: &[Listener], proxy: &Proxy, memo: &Memo) -> Vec<Arc<Resource>> {
    let options = EncodeOptions { flavor: proxy.flavor };
    listeners.iter().map(|l| memo.intern(&l.name, encode::listener(l, options))).collect()
}

/// Whether a VirtualService speaks of connections, which listeners route.
fn has_l4_routes(world: &World, key: &ChangeKey) -> bool {
    let entry = world.namespace(&key.namespace).and_then(|ns| ns.virtual_services.get(&key.name));
    entry.is_some_and(|e| !e.resource.spec.tcp.is_empty() || !e.resource.spec.tls.is_empty())
}

/// Whether the endpoints of a service are in more than its endpoints' own resource.
pub(super) fn shows_endpoints(world: &World, key: &ChangeKey) -> bool {
    let service = world.namespace(&key.namespace).and_then(|ns| ns.services.get(&key.name));
    service.is_none_or(|s| s.shows_endpoints())
}

/// Nothing panics while one of these locks is held, so that a poisoned one holds no half-made state.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
