//! The connected proxies, grouped by what they get, and how a new world reaches them.

use super::memo::{self, Memo};
use super::view::View;
use super::{affected, convergence::Convergence};
use crate::generate::proxy::holds_up_to;
use crate::generate::{Proxy, Scope};
use crate::metrics::Metrics;
use crate::registration::{Member, Registry};
use crate::world::{ChangeSet, Kind, World};
use arc_swap::ArcSwap;
use lateen_xds::on_demand::Question;
use lateen_xds::server::{
    Change, ClientInfo, ConnectionId, Connections, ControlPlane, Generated, Generator, Protocol, Rejection, Watch,
};
use lateen_xds::{Generation, ResourceType};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant as StdInstant;
use tokio::time::Instant;

/// Serves all proxies from one world, and tells them of the next.
pub struct Hub {
    state: Mutex<State>,
    memo: Arc<Memo>,
    connections: Arc<Connections>,
    convergence: Arc<Convergence>,
    metrics: Arc<Metrics>,
    registry: Registry,
}

struct State {
    world: World,
    generation: Generation,
    /// Which generation first had which state of the platform: (platform's generation, ours), rising; see
    /// [`Hub::generation_with_cluster`].
    cluster: Option<(u64, Generation)>,
    /// Whether all sources were read once.
    ready: bool,
    classes: HashMap<Arc<Proxy>, Class>,
    class_of: HashMap<ConnectionId, Arc<Proxy>>,
    /// Connections by namespace and name of the pod.
    of_pod: HashMap<(String, String), BTreeSet<ConnectionId>>,
    /// Whether classes have gone since what they shared was looked through.
    left: bool,
}

/// Proxies that are equal.
struct Class {
    view: Arc<View>,
    members: HashMap<ConnectionId, Arc<Slot>>,
}

/// One connection's place.
struct Slot {
    client: Arc<ClientInfo>,
    view: ArcSwap<View>,
}

impl Hub {
    /// Not ready: every connection is refused until the first world comes.
    pub fn new(world: World, connections: Arc<Connections>, metrics: Arc<Metrics>) -> Arc<Self> {
        let state = State {
            world,
            generation: Generation(0),
            cluster: None,
            ready: false,
            classes: HashMap::new(),
            class_of: HashMap::new(),
            of_pod: HashMap::new(),
            left: false,
        };
        let convergence = Convergence::new(Arc::clone(&connections), Arc::clone(&metrics));
        Arc::new(Self {
            state: Mutex::new(state),
            memo: Arc::default(),
            connections,
            convergence,
            metrics,
            registry: Registry::default(),
        })
    }

    /// The connections that are served.
    pub fn connections(&self) -> &Arc<Connections> {
        &self.connections
    }

    /// The workloads that have registered themselves.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// What watches how far proxies are.
    pub fn convergence(&self) -> &Arc<Convergence> {
        &self.convergence
    }

    /// Whether proxies are served.
    pub fn is_ready(&self) -> bool {
        self.lock().ready
    }

    /// The world that proxies are told of.
    pub fn world(&self) -> (World, Generation) {
        let state = self.lock();
        (state.world.clone(), state.generation)
    }

    /// What a connection gets.
    pub fn view(&self, connection: ConnectionId) -> Option<Arc<View>> {
        let state = self.lock();
        let class = state.class_of.get(&connection)?;
        state.classes.get(class).map(|c| Arc::clone(&c.view))
    }

    /// What was worked out so far, by type.
    #[cfg(test)]
    pub(super) fn work(&self) -> [(&'static str, u64); 5] {
        self.memo.work.by_name()
    }

    /// Proxies with equal resources share them: how many different ones there are.
    pub fn classes(&self) -> usize {
        self.lock().classes.len()
    }

    /// The generation that includes the platform's state `cluster`, if proxies were told of it.
    pub fn generation_with_cluster(&self, cluster: u64) -> Option<Generation> {
        let state = self.lock();
        let (seen, generation) = state.cluster?;
        (seen >= cluster).then_some(generation)
    }

    /// A state of the platform brought nothing new: what proxies have includes it.
    pub fn unchanged(&self, world: &World) {
        let mut state = self.lock();
        state.world = world.clone();
        let generation = state.generation;
        if let Some(cluster) = world.cluster_generation()
            && state.cluster.is_none_or(|(seen, _)| seen < cluster)
        {
            state.cluster = Some((cluster, generation));
        }
    }

    /// The first world is complete: proxies are served from now on.
    pub fn set_ready(&self) {
        self.lock().ready = true;
    }

    /// Makes `world` the one that is served, and tells every proxy which of its resources may differ.
    pub fn push(&self, world: World, changes: &ChangeSet) -> Generation {
        let started = StdInstant::now();
        let mut state = self.lock();
        let generation = Generation(state.generation.0 + 1);
        let shared = affected::shared(&state.world, &world, changes, generation);
        if let Some(cluster) = world.cluster_generation()
            && state.cluster.is_none_or(|(seen, _)| seen != cluster)
        {
            state.cluster = Some((cluster, generation));
        }
        state.world = world;
        state.generation = generation;
        let state = &mut *state;
        for class in state.classes.values_mut() {
            let (view, change) = class.view.next(generation, &state.world, changes, &shared);
            class.view = Arc::new(view);
            for slot in class.members.values() {
                slot.view.store(Arc::clone(&class.view));
            }
            let change = Arc::new(change);
            self.connections.notify_each(class.members.keys().map(|id| (*id, &change)));
        }
        if changes.touches(Kind::Workload) || changes.touches(Kind::Service) {
            self.reclassify(state, changes);
        }
        if std::mem::take(&mut state.left) || changes.touches(Kind::Service) || changes.touches(Kind::Sidecar) {
            let in_use: BTreeSet<usize> = state.classes.values().map(|c| memo::address(&c.view.scope)).collect();
            self.memo.retain(&state.world, &in_use);
        }
        self.metrics.observe_push(started.elapsed(), &self.memo, &state.world);
        self.convergence.pushed(generation, changes.since);
        generation
    }

    /// Proxies whose own pod has changed may belong to another class now.
    fn reclassify(&self, state: &mut State, changes: &ChangeSet) {
        for key in changes.of(Kind::Workload) {
            let ids = state.of_pod.get(&(key.namespace.to_string(), key.name.to_string())).cloned().unwrap_or_default();
            let slot = |id: &ConnectionId| state.classes.get(state.class_of.get(id)?)?.members.get(id).cloned();
            let moved: Vec<(ConnectionId, Arc<Slot>)> = ids.iter().filter_map(|id| Some((*id, slot(id)?))).collect();
            for (id, slot) in moved {
                let mut proxy = proxy_of(&slot.client, &state.world);
                if let Some(old) = state.class_of.get(&id) {
                    proxy.learned.clone_from(&old.learned);
                }
                let proxy = Arc::new(proxy);
                if state.class_of.get(&id).is_some_and(|old| *old == proxy) {
                    continue;
                }
                leave(state, id, &slot.client);
                let view = self.join(state, id, &proxy, &slot);
                slot.view.store(view);
                if let Some(connection) = self.connections.get(id) {
                    connection.notify(&Change::everything(state.generation));
                }
            }
        }
    }

    /// A proxy under an automatic scope asks for these. Whether that changes what it is to have.
    fn learn(&self, id: ConnectionId, slot: &Arc<Slot>, questions: BTreeSet<Question>) -> bool {
        let mut state = self.lock();
        let Some(old) = state.class_of.get(&id).cloned() else { return false };
        if old.learned.as_deref().is_none_or(|asked| *asked == questions) {
            return false;
        }
        let proxy = Arc::new(Proxy { learned: Some(Arc::new(questions)), ..Proxy::clone(&old) });
        leave(&mut state, id, &slot.client);
        let view = self.join(&mut state, id, &proxy, slot);
        slot.view.store(view);
        true
    }

    /// A proxy that may know no more services than it wants to learn from is given them all. Decided when it connects, so that
    /// nothing is taken from a proxy because the mesh has grown. Where a Sidecar scopes it there is nothing to decide: should that
    /// go, the mesh may be large.
    fn hold_a_small_mesh(&self, world: &World, client: &ClientInfo, proxy: &mut Proxy) {
        let enough = holds_up_to(&client.node);
        let key = Scope::key(world, proxy);
        if enough == 0 || key.learned.is_none() {
            return;
        }
        let whole = self.memo.whole(world, proxy, &key);
        if whole.services.len() <= enough {
            proxy.learned = None;
        }
    }

    fn join(&self, state: &mut State, id: ConnectionId, proxy: &Arc<Proxy>, slot: &Arc<Slot>) -> Arc<View> {
        let view = self.class_view(state, proxy);
        if let Some(class) = state.classes.get_mut(proxy) {
            class.members.insert(id, Arc::clone(slot));
        }
        state.class_of.insert(id, Arc::clone(proxy));
        state.of_pod.entry(pod_of(&slot.client)).or_default().insert(id);
        view
    }

    /// The view of a class, which is made if it is the first of its kind.
    fn class_view(&self, state: &mut State, proxy: &Arc<Proxy>) -> Arc<View> {
        let (world, generation) = (&state.world, state.generation);
        let class = state.classes.entry(Arc::clone(proxy)).or_insert_with(|| Class {
            view: Arc::new(View::new(generation, world, Arc::clone(proxy), &self.memo)),
            members: HashMap::new(),
        });
        Arc::clone(&class.view)
    }

    /// Nothing in here panics while it holds the lock, except on a fault of our own, after which the state still is whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn proxy_of(client: &ClientInfo, world: &World) -> Proxy {
    let mut proxy = Proxy::new(&client.node, client.identity.as_ref().map(|id| id.namespace()), world);
    // Only delta xDS can say what is asked for.
    proxy.learned.take_if(|_| client.protocol != Protocol::Delta);
    proxy
}

fn pod_of(client: &ClientInfo) -> (String, String) {
    (client.node.namespace.clone(), client.node.name.clone())
}

/// Takes a connection out of its class; a class without members is forgotten.
fn leave(state: &mut State, id: ConnectionId, client: &ClientInfo) {
    let pod = pod_of(client);
    if let Some(ids) = state.of_pod.get_mut(&pod) {
        ids.remove(&id);
        if ids.is_empty() {
            state.of_pod.remove(&pod);
        }
    }
    let Some(proxy) = state.class_of.remove(&id) else { return };
    if let Some(class) = state.classes.get_mut(&proxy) {
        class.members.remove(&id);
        if class.members.is_empty() {
            state.classes.remove(&proxy);
            state.left = true;
        }
    }
}

/// What the ADS server asks.
pub struct HubControlPlane(pub Arc<Hub>);

impl ControlPlane for HubControlPlane {
    fn connect(&self, client: &Arc<ClientInfo>) -> Result<Box<dyn Generator>, Rejection> {
        let hub = &self.0;
        let mut state = hub.lock();
        if !state.ready {
            return Err(Rejection::Unavailable("server is not ready to serve discovery information".to_owned()));
        }
        if !Proxy::is_supported(client.node.node_type) {
            let kind = client.node.node_type.as_str();
            return Err(Rejection::Denied(format!(
                "proxies of type {kind:?} are not served yet; \"sidecar\" and \"router\" are"
            )));
        }
        let member = Member::of(client, &state.world).map_err(Rejection::Denied)?;
        let id = client.connection;
        let mut proxy = proxy_of(client, &state.world);
        hub.hold_a_small_mesh(&state.world, client, &mut proxy);
        let proxy = Arc::new(proxy);
        let view = hub.class_view(&mut state, &proxy);
        let slot = Arc::new(Slot { client: Arc::clone(client), view: ArcSwap::new(view) });
        hub.join(&mut state, id, &proxy, &slot);
        if let Some(member) = member {
            hub.registry.join(id, member);
        }
        Ok(Box::new(ConnectionGenerator { hub: Arc::clone(hub), slot, id }))
    }
}

struct ConnectionGenerator {
    hub: Arc<Hub>,
    slot: Arc<Slot>,
    id: ConnectionId,
}

impl Generator for ConnectionGenerator {
    fn generate(&mut self, ty: ResourceType, watch: Watch<'_>) -> Generated {
        let view = self.slot.view.load_full();
        let generated = view.generate(ty, watch);
        self.hub.metrics.pushed(ty, &generated.resources);
        generated
    }

    fn ask(&mut self, questions: &BTreeSet<Arc<str>>) -> bool {
        let questions = questions.iter().filter_map(|name| Question::parse(name)).collect();
        self.hub.learn(self.id, &self.slot, questions)
    }

    fn implied(&mut self, ty: ResourceType) -> Vec<Arc<str>> {
        self.slot.view.load().implied(ty)
    }
}

impl Drop for ConnectionGenerator {
    fn drop(&mut self) {
        leave(&mut self.hub.lock(), self.id, &self.slot.client);
        self.hub.registry.leave(self.id, Instant::now());
    }
}
