//! What is the same for proxies that see the same mesh, however different their own pods are: the clusters of services, the
//! outbound listeners and the routes. Made once for a state of the world, kept as the same objects for as long as their content
//! stays, so that a change costs in proportion to the different scopes and not to the proxies.

use super::memo::Memo;
use super::set::Part;
use super::view::encode_listeners;
use crate::generate::listener::outbound;
use crate::generate::proxy::ProxyRole;
use crate::generate::route::{self, RouteContext, Via};
use crate::generate::{Proxy, Scope, ScopeKey};
use crate::world::{Rev, World};
use lateen_model::resource::{StringMap, VirtualService};
use lateen_wire::encode;
use lateen_xds::Resource;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A proxy without what the outbound half of its configuration does not depend on.
pub(super) type Outlook = Arc<Proxy>;

/// Outbound listeners with the addresses that they take.
pub(super) struct Outgoing {
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) part: Arc<Part>,
}

/// What was made for one outlook, each with the state of the world that it was made from.
#[derive(Default)]
struct Made {
    scope: usize,
    clusters: Option<(Rev, Arc<Part>)>,
    listeners: Option<(Rev, Arc<Outgoing>)>,
    routes: HashMap<Arc<str>, (Rev, Arc<Resource>)>,
}

/// All that is shared in this way.
#[derive(Default)]
pub(super) struct Shared {
    made: Mutex<HashMap<(ScopeKey, Outlook), Made>>,
    /// Whether labels decide, in a state of the world.
    labels: Mutex<Option<(Rev, bool)>>,
}

impl Shared {
    /// The outlook of a proxy. What it leaves out must not be read by what is made here, which therefore gets the outlook
    /// and not the proxy.
    pub(super) fn outlook(&self, world: &World, proxy: &Arc<Proxy>) -> Outlook {
        if proxy.role == ProxyRole::Router || self.labels_decide(world) {
            return Arc::clone(proxy);
        }
        Arc::new(Proxy {
            labels: StringMap::new(),
            ports: BTreeMap::new(),
            service_name: "".into(),
            verified_namespace: None,
            ..Proxy::clone(proxy)
        })
    }

    /// The same for listeners: what reports spans tells whose they are.
    pub(super) fn listener_outlook(world: &World, outlook: &Outlook, proxy: &Arc<Proxy>) -> Outlook {
        Arc::clone(if world.mesh().enable_tracing { proxy } else { outlook })
    }

    /// Whether clusters or routes may depend on the labels of the client: rules select by them, failover follows them.
    fn labels_decide(&self, world: &World) -> bool {
        if let Some((_, decide)) = lock(&self.labels).filter(|(rev, _)| *rev == world.rev()) {
            return decide;
        }
        let decide = labels_decide(world);
        *lock(&self.labels) = Some((world.rev(), decide));
        decide
    }

    /// The clusters of all services of a scope.
    pub(super) fn clusters(&self, memo: &Memo, world: &World, (scope, outlook): (&Scope, &Outlook)) -> Arc<Part> {
        let key = (scope.key.clone(), Arc::clone(outlook));
        let old = lock(&self.made).get(&key).and_then(|made| made.clusters.clone());
        if let Some((_, part)) = old.as_ref().filter(|(rev, _)| *rev == world.rev()) {
            return Arc::clone(part);
        }
        let services = scope.services.iter().flat_map(|service| memo.clusters(world, outlook, service).to_vec());
        let fresh = Arc::new(Part::new(services.collect()));
        let kept = old.map(|(_, part)| part).filter(|part| part.same_as(&fresh)).unwrap_or(fresh);
        self.keep(key, scope, |made| made.clusters = Some((world.rev(), Arc::clone(&kept))));
        kept
    }

    /// The outbound listeners of a sidecar.
    pub(super) fn listeners(&self, memo: &Memo, world: &World, (scope, outlook): (&Scope, &Outlook)) -> Arc<Outgoing> {
        let key = (scope.key.clone(), Arc::clone(outlook));
        let old = lock(&self.made).get(&key).and_then(|made| made.listeners.clone());
        if let Some((_, outgoing)) = old.as_ref().filter(|(rev, _)| *rev == world.rev()) {
            return Arc::clone(outgoing);
        }
        let (listeners, _) = outbound::listeners(outbound::Outbound { world, scope, proxy: outlook });
        let addresses = listeners.iter().map(|l| l.address).collect();
        memo.work.listeners.add(listeners.len() as u64);
        let part = Arc::new(Part::new(encode_listeners(&listeners, outlook, memo)));
        let fresh = Arc::new(Outgoing { addresses, part });
        let same = |outgoing: &Arc<Outgoing>| outgoing.addresses == fresh.addresses && outgoing.part.same_as(&fresh.part);
        let kept = old.map(|(_, outgoing)| outgoing).filter(same).unwrap_or(Arc::clone(&fresh));
        self.keep(key, scope, |made| made.listeners = Some((world.rev(), Arc::clone(&kept))));
        kept
    }

    /// The routes of a name.
    pub(super) fn route(
        &self,
        memo: &Memo,
        world: &World,
        (scope, outlook): (&Scope, &Outlook),
        name: &Arc<str>,
    ) -> Arc<Resource> {
        let key = (scope.key.clone(), Arc::clone(outlook));
        let old = lock(&self.made).get(&key).and_then(|made| made.routes.get(name).cloned());
        if let Some((_, route)) = old.as_ref().filter(|(rev, _)| *rev == world.rev()) {
            return Arc::clone(route);
        }
        let made = route::of_name(RouteContext { world, scope, proxy: outlook, via: Via::Mesh }, name);
        memo.work.routes.increment();
        let fresh = memo.intern(name, encode::route_configuration(&made));
        let kept = old.map(|(_, route)| route).filter(|route| **route == *fresh).unwrap_or(fresh);
        self.keep(key, scope, |made| drop(made.routes.insert(Arc::clone(name), (world.rev(), Arc::clone(&kept)))));
        kept
    }

    fn keep(&self, key: (ScopeKey, Outlook), scope: &Scope, set: impl FnOnce(&mut Made)) {
        let mut all = lock(&self.made);
        let made = all.entry(key).or_default();
        made.scope = std::ptr::from_ref(scope) as usize;
        set(made);
    }

    /// Forgets what was made for scopes that nobody has any more.
    pub(super) fn retain(&self, in_use: impl Fn(usize) -> bool) {
        lock(&self.made).retain(|_, made| in_use(made.scope));
    }
}

fn labels_decide(world: &World) -> bool {
    let by_route = |routes: &VirtualService| {
        let spec = &routes.spec;
        spec.http.iter().flat_map(|h| &h.matches).any(|m| !m.source_labels.is_empty())
            || spec.tcp.iter().flat_map(|t| &t.matches).any(|m| !m.source_labels.is_empty())
            || spec.tls.iter().flat_map(|t| &t.matches).any(|m| !m.source_labels.is_empty())
    };
    // Of names that clients resolve the order of the addresses is in the cluster.
    world.services().any(|s| s.entry.as_ref().is_some_and(|e| e.is_dns()))
        || world.namespaces().any(|(_, ns)| {
            ns.destination_rules.iter().any(|e| e.resource.spec.workload_selector.is_some())
                || ns.virtual_services.iter().any(|e| by_route(&e.resource))
        })
}

/// Nothing panics while one of these locks is held, so that a poisoned one holds no half-made state.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
