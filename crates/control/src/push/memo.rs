//! What was made before and still holds: encoded once, shared by every proxy that may have it.
//!
//! Each entry is kept with a fingerprint of all that it was made from. A request with another fingerprint makes a new one.

use super::shared::Shared;
use crate::generate::locality::Client;
use crate::generate::proxy::{Families, ProxyRole};
use crate::generate::{MergedRule, Proxy, Scope, ScopeKey, ScopedService, cluster, endpoint};
use crate::metrics::Counter;
use crate::names::OutboundName;
use crate::world::{Kind, Name, Rev, World};
use bytes::Bytes;
use lateen_model::dataplane::{LOCAL_CLUSTER, Locality};
use lateen_model::resource::StringMap;
use lateen_wire::{EncodeOptions, ProxyFlavor, encode};
use lateen_xds::on_demand::{self, Question};
use lateen_xds::{Resource, Version};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Variants of one resource that are kept: proxies of different namespaces may see it by different rules.
const VARIANTS: usize = 8;

type Fingerprint = Vec<u64>;
/// What is kept for each key: variants by fingerprint, oldest first.
type Kept<K, V> = Mutex<HashMap<K, Vec<(Fingerprint, V)>>>;

/// Something for each scope.
type ByScope<V> = HashMap<ScopeKey, V>;

/// Shared between all classes of proxies.
#[derive(Default)]
pub struct Memo {
    /// Each with the state of the world that it holds for.
    scopes: Mutex<HashMap<ScopeKey, (Rev, Arc<Scope>)>>,
    /// Automatic scopes, each with the whole that it was made of.
    learned: Mutex<ByScope<(Arc<Scope>, Arc<Scope>)>>,
    /// Whole scopes of one state of the world, of which automatic scopes are made.
    wholes: Mutex<(Rev, HashMap<ScopeKey, Arc<Scope>>)>,
    /// What may be asked for, with what it was made from.
    indexes: Mutex<ByScope<(Arc<Scope>, Fingerprint, Index)>>,
    endpoints: Kept<(Arc<str>, Client), Arc<Resource>>,
    clusters: Kept<ClusterKey, ClusterBundle>,
    reads: Mutex<Reads>,
    interned: Mutex<Interned>,
    pub(super) shared: Shared,
    /// What was made so far.
    pub work: Work,
}

/// Every content once.
#[derive(Default)]
struct Interned {
    all: HashMap<(Arc<str>, Version), Weak<Resource>>,
    /// At this size what is gone is forgotten.
    sweep_at: usize,
}

/// What was worked out and encoded so far, in numbers of resources, and of scopes: it grows with what changes, not with the
/// mesh and not with the proxies.
#[derive(Debug, Default)]
pub struct Work {
    /// Scopes worked out.
    pub scopes: Counter,
    /// Clusters.
    pub clusters: Counter,
    /// Endpoints of one cluster.
    pub endpoints: Counter,
    /// Listeners.
    pub listeners: Counter,
    /// Route configurations.
    pub routes: Counter,
}

impl Work {
    /// Each by name.
    pub fn by_name(&self) -> [(&'static str, u64); 5] {
        [
            ("scope", self.scopes.get()),
            ("cds", self.clusters.get()),
            ("eds", self.endpoints.get()),
            ("lds", self.listeners.get()),
            ("rds", self.routes.get()),
        ]
    }
}

/// How often something was there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// It was.
    pub hits: u64,
    /// It was not.
    pub misses: u64,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct ClusterKey {
    host: Name,
    only_ports: Option<BTreeSet<u16>>,
    flavor: ProxyFlavor,
    /// Decides which addresses of names are asked for.
    families: Option<Families>,
    /// Decides where names of what order are; only where names are resolved.
    place: Option<(Locality, StringMap)>,
    /// Gateways may name Secrets.
    role: ProxyRole,
    /// Whether it can balance by zones.
    knows_fleet: bool,
}

/// The shards of what may be asked for, as resources.
pub(super) type Index = Arc<[Arc<Resource>]>;

type ClusterBundle = Arc<[Arc<Resource>]>;

impl Memo {
    /// The scope of a proxy in this world. An unchanged scope is the same object as before.
    pub fn scope(&self, world: &World, proxy: &Proxy) -> Arc<Scope> {
        let key = Scope::key(world, proxy);
        if let Some(questions) = &key.learned {
            return self.learned(world, proxy, &key, questions);
        }
        let old = lock(&self.scopes).get(&key).cloned();
        if let Some((_, scope)) = old.as_ref().filter(|(rev, _)| *rev == world.rev()) {
            return Arc::clone(scope);
        }
        let fresh = Scope::new(world, proxy);
        self.work.scopes.increment();
        let kept = old.map(|(_, scope)| scope).filter(|old| old.same_as(&fresh)).unwrap_or_else(|| Arc::new(fresh));
        lock(&self.scopes).insert(key, (world.rev(), Arc::clone(&kept)));
        kept
    }

    /// The one object of this content that everybody has who has it.
    pub(super) fn intern(&self, name: &str, body: Bytes) -> Arc<Resource> {
        let fresh = Resource::new(name, body);
        let mut interned = lock(&self.interned);
        let Interned { all, sweep_at } = &mut *interned;
        if all.len() >= *sweep_at {
            all.retain(|_, resource| resource.strong_count() > 0);
            *sweep_at = all.len() * 2 + 1024;
        }
        let key = (Arc::clone(fresh.name()), fresh.version());
        if let Some(known) = all.get(&key).and_then(Weak::upgrade).filter(|known| **known == fresh) {
            return known;
        }
        let fresh = Arc::new(fresh);
        all.insert(key, Arc::downgrade(&fresh));
        fresh
    }

    /// An automatic scope.
    fn learned(&self, world: &World, proxy: &Proxy, key: &ScopeKey, questions: &Arc<BTreeSet<Question>>) -> Arc<Scope> {
        let whole = self.whole(world, proxy, key);
        let old = lock(&self.learned).get(key).cloned();
        if let Some((old, _)) = old.as_ref().filter(|(_, of)| Arc::ptr_eq(of, &whole)) {
            return Arc::clone(old);
        }
        let fresh = Arc::new(Scope::learn(world, &whole, questions));
        // What has not changed stays the same object, also where the rest of the mesh has.
        let kept = old.map(|(old, _)| old).filter(|old| old.same_as(&fresh)).unwrap_or(fresh);
        lock(&self.learned).insert(key.clone(), (Arc::clone(&kept), whole));
        kept
    }

    /// All that a proxy under an automatic scope can learn: worked out once for a world.
    pub fn whole(&self, world: &World, proxy: &Proxy, key: &ScopeKey) -> Arc<Scope> {
        let key = ScopeKey { learned: None, ..key.clone() };
        let mut wholes = lock(&self.wholes);
        if wholes.0 != world.rev() {
            *wholes = (world.rev(), HashMap::new());
        }
        if let Some(whole) = wholes.1.get(&key) {
            return Arc::clone(whole);
        }
        let whole = self.scope(world, &Proxy { learned: None, ..proxy.clone() });
        wholes.1.insert(key, Arc::clone(&whole));
        whole
    }

    /// The index of a whole scope; the same object until it differs.
    pub(super) fn index(&self, world: &World, whole: &Arc<Scope>) -> Index {
        let print = whole.pods_print(world);
        let old = lock(&self.indexes).get(&whole.key).cloned();
        if let Some((_, _, index)) = old.filter(|(of, pods, _)| Arc::ptr_eq(of, whole) && *pods == print) {
            return index;
        }
        let hosts: Vec<String> = whole.known_hosts().collect();
        let shards = on_demand::shards(hosts.iter().map(String::as_str), whole.known_addresses(world).into_iter());
        let index: Index = shards.into_iter().map(|(name, body)| resource(&name, body.into())).collect();
        lock(&self.indexes).insert(whole.key.clone(), (Arc::clone(whole), print, Arc::clone(&index)));
        index
    }

    /// Forgets scopes that no class uses any more, and endpoints and clusters of services that are gone.
    pub fn retain(&self, world: &World, in_use: &BTreeSet<usize>) {
        lock(&self.learned).retain(|_, (scope, _)| in_use.contains(&address(scope)));
        // A whole scope is in use as long as a part of it is.
        let wholes: BTreeSet<usize> = lock(&self.learned).values().map(|(_, whole)| address(whole)).collect();
        let used = |scope: &Arc<Scope>| in_use.contains(&address(scope)) || wholes.contains(&address(scope));
        lock(&self.scopes).retain(|_, (_, scope)| used(scope));
        self.shared.retain(|scope| in_use.contains(&scope));
        lock(&self.indexes).retain(|_, (whole, ..)| used(whole));
        lock(&self.endpoints).retain(|(name, _), _| OutboundName::parse(name).is_some_and(|n| world.service(n.host).is_some()));
        lock(&self.clusters).retain(|key, _| world.service(&key.host).is_some());
    }

    /// Hits and misses so far, and how many entries there are.
    pub fn statistics(&self) -> (Reads, usize) {
        let size = lock(&self.endpoints).len() + lock(&self.clusters).len();
        (*lock(&self.reads), size)
    }

    /// The clusters of one service.
    pub fn clusters(&self, world: &World, proxy: &Proxy, scoped: &ScopedService) -> ClusterBundle {
        let (service, flavor) = (&scoped.service, proxy.flavor);
        let rule = MergedRule::lookup_for(world, proxy, service);
        let endpoints = world.endpoints_of(service);
        let mut print = vec![service.rev.get(), world.mesh_rev().get()];
        print.extend(endpoints.map(|e| e.accounts_rev.get()));
        if service.shows_endpoints() {
            print.extend(endpoints.map(|e| e.rev.get()));
        }
        print.extend(peer_authentication_revs(world, &service.namespace));
        print.extend(rule.revs().map(Rev::get));
        let by_name = service.entry.as_ref().is_some_and(|e| e.is_dns());
        let key = ClusterKey {
            host: Name::clone(&service.host),
            only_ports: scoped.only_ports.clone(),
            flavor,
            families: by_name.then_some(proxy.families),
            place: by_name.then(|| (proxy.locality.clone(), proxy.labels.clone())),
            role: proxy.role,
            knows_fleet: proxy.fleet.is_some(),
        };
        self.get(&self.clusters, key, print, || {
            let options = EncodeOptions { flavor };
            let encode = |c: &lateen_model::dataplane::Cluster| resource(&c.name, encode::cluster(c, options));
            let made = cluster::of_service(world, proxy, scoped, &rule);
            self.work.clusters.add(made.len() as u64);
            made.iter().map(encode).collect()
        })
    }

    /// The endpoints of one cluster.
    pub fn endpoints(&self, world: &World, (scope, proxy): (&Scope, &Proxy), name: &Arc<str>) -> Arc<Resource> {
        if **name == *LOCAL_CLUSTER {
            return resource(name, encode::cluster_load_assignment(&endpoint::local_cluster(world, proxy)));
        }
        let found = OutboundName::parse(name).and_then(|n| Some((scope.service_or_visible(world, n.host)?, n)));
        let Some((service, parsed)) = found else {
            let nothing = endpoint::of_cluster(world, (proxy, &MergedRule::default()), None, name);
            return resource(name, encode::cluster_load_assignment(&nothing));
        };
        let rule = MergedRule::lookup_for(world, proxy, service);
        let mut print = vec![service.rev.get(), world.mesh_rev().get()];
        print.extend(world.endpoints_of(service).map(|e| e.rev.get()));
        print.extend(peer_authentication_revs(world, &service.namespace));
        print.extend(rule.revs().map(Rev::get));
        let client = endpoint::preference(world, service, &rule, &parsed).client(proxy);
        self.get(&self.endpoints, (Arc::clone(name), client), print, || {
            self.work.endpoints.increment();
            let assignment = endpoint::of_cluster(world, (proxy, &rule), Some(service), name);
            resource(name, encode::cluster_load_assignment(&assignment))
        })
    }

    /// What is kept for the key under this fingerprint, else what `make` makes.
    fn get<K: Eq + std::hash::Hash, V: Clone>(
        &self,
        map: &Kept<K, V>,
        key: K,
        print: Fingerprint,
        make: impl FnOnce() -> V,
    ) -> V {
        let found = lock(map).get(&key).and_then(|v| v.iter().find(|(p, _)| *p == print)).map(|(_, v)| v.clone());
        if let Some(value) = found {
            lock(&self.reads).hits += 1;
            return value;
        }
        let value = make();
        lock(&self.reads).misses += 1;
        let mut map = lock(map);
        let variants = map.entry(key).or_default();
        if variants.len() >= VARIANTS {
            variants.remove(0);
        }
        variants.push((print, value.clone()));
        value
    }
}

/// Both lists that decide about mutual TLS in a namespace.
fn peer_authentication_revs(world: &World, namespace: &str) -> [u64; 2] {
    let rev = |ns: &str| world.namespace(ns).map_or(0, |n| n.peer_authentications.rev.get());
    [rev(namespace), rev(world.root_namespace())]
}

/// An encoded resource.
pub(super) fn resource(name: &str, body: Bytes) -> Arc<Resource> {
    Arc::new(Resource::new(name, body))
}

/// Tells one scope object from another.
pub(super) fn address(scope: &Arc<Scope>) -> usize {
    Arc::as_ptr(scope) as usize
}

/// Whether a change of this kind can change what a proxy may know.
pub(super) fn concerns_scope(kind: Kind) -> bool {
    matches!(kind, Kind::Service | Kind::VirtualService | Kind::Sidecar | Kind::MeshConfig)
}

/// Nothing panics while one of these locks is held, so that a poisoned one holds no half-made state.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
