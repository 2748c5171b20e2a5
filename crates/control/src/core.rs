//! The one task that owns the store and the world: inputs in, pushes out.

use crate::analysis::Subject;
use crate::debounce::{Debounce, DebounceConfig, Merge};
use crate::gateway_api::Transitions;
use crate::metrics::Metrics;
use crate::push::Hub;
use crate::registration;
use crate::resources;
use crate::source::Input;
use crate::store::{Refusal, Store};
use crate::world::{ChangeSet, World, WorldEvent};
use arc_swap::ArcSwap;
use lateen_model::analysis::Context;
use lateen_model::resource::{Kind, ResourceKey, WorkloadEntry};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Documents that are refused now.
pub type Refusals = Arc<ArcSwap<Vec<Refusal>>>;

/// Which sources must have been read before proxies are served. A proxy that is served from half a world loses what it had.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// Manifests.
    pub files: bool,
    /// The platform's pods.
    pub cluster: bool,
}

/// Owns the store and the world.
pub struct Core {
    store: Store,
    world: World,
    debounce: Debounce<ChangeSet>,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    refusals: Refusals,
    expected: Expected,
    files_read: Arc<AtomicBool>,
    /// Since when conditions hold.
    transitions: Transitions,
    /// Entries of workloads that have registered themselves, by namespace and name.
    registered: BTreeMap<(String, String), WorkloadEntry>,
    /// When the next of them ends, if its workload does not come back.
    expires: Option<Instant>,
    /// Who looks for what is strange between resources.
    subjects: watch::Sender<Arc<Subject>>,
}

impl Core {
    /// Starts from an empty world.
    pub fn new(hub: Arc<Hub>, metrics: Arc<Metrics>, debounce: DebounceConfig, expected: Expected) -> Self {
        let (world, _) = hub.world();
        Self {
            store: Store::new(),
            world,
            debounce: Debounce::new(debounce),
            hub,
            metrics,
            refusals: Refusals::default(),
            expected,
            files_read: Arc::new(AtomicBool::new(!expected.files)),
            transitions: Transitions::default(),
            registered: BTreeMap::new(),
            expires: None,
            subjects: watch::Sender::default(),
        }
    }

    /// The resources that are in force, as they change.
    pub fn subjects(&self) -> watch::Receiver<Arc<Subject>> {
        self.subjects.subscribe()
    }

    /// Becomes true once all files were read. The platform may wait for it before it tells of its pods, which proxies in
    /// turn wait for.
    pub fn files_read(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.files_read)
    }

    /// Documents that are refused, as they change.
    pub fn refusals(&self) -> Refusals {
        Arc::clone(&self.refusals)
    }

    /// Runs until every source is gone.
    pub async fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        loop {
            let due = until(self.debounce.timer());
            let expired = until(self.expires);
            let hub = Arc::clone(&self.hub);
            tokio::select! {
                biased;
                () = due => {
                    let due = self.debounce.fire(Instant::now());
                    self.push(due);
                }
                () = hub.registry().changed() => self.register(Instant::now()),
                () = expired => self.register(Instant::now()),
                input = inputs.recv() => match input {
                    Some(input) => self.input(input, Instant::now()),
                    None => return,
                }
            }
        }
    }

    fn input(&mut self, input: Input, now: Instant) {
        match input {
            Input::Files(contents) => {
                self.metrics.inbound_updates.increment("config");
                let (events, refused) = self.store.apply(contents);
                self.refused(&refused);
                let started = self.expected.files;
                self.expected.files = false;
                self.files_read.store(true, Ordering::Release);
                if started {
                    self.store.set_started();
                }
                let differs = !events.is_empty();
                let changes = self.apply(events, now);
                if differs {
                    self.subjects.send_replace(Arc::new(self.subject()));
                }
                self.debounced(changes, now);
                // Their groups may be others.
                self.register(now);
            }
            Input::Roots(roots) => {
                let changes = self.apply(vec![WorldEvent::Roots(roots)], now);
                self.debounced(changes, now);
            }
            Input::Cluster { state, done } => {
                self.metrics.inbound_updates.increment("eds");
                self.expected.cluster = false;
                let changes = self.apply(vec![WorldEvent::Cluster(state)], now);
                self.at_once(changes, now);
                // Whoever asked may have gone.
                let _ = done.send(self.world.cluster_generation().unwrap_or(0));
            }
            Input::ClusterChange { change, done } => {
                let known = self.world.cluster_generation();
                if known != Some(change.base) || change.generation <= change.base {
                    // Whoever asked may have gone.
                    let _ = done.send(Err(known));
                    return;
                }
                self.metrics.inbound_updates.increment("eds");
                let generation = change.generation;
                let changes = self.apply(vec![WorldEvent::ClusterChange(Arc::new(change))], now);
                self.at_once(changes, now);
                let _ = done.send(Ok(generation));
            }
            Input::Show { query, done } => {
                let _ = done.send(resources::show(&self.store, &self.world, (&self.transitions, &self.registered), &query));
            }
        }
    }

    fn apply(&mut self, events: Vec<WorldEvent>, now: Instant) -> ChangeSet {
        let (world, changes) = self.world.apply(events, now);
        if !Arc::ptr_eq(world.statuses(), self.world.statuses()) {
            self.transitions.update(world.statuses(), resources::now());
        }
        self.world = world;
        changes
    }

    /// Makes and ends the entries of workloads that register themselves. One that is written wins over one that is made.
    fn register(&mut self, now: Instant) {
        let (members, expires) = self.hub.registry().members(now);
        self.expires = expires;
        let mut wanted = registration::entries(&members, &self.world);
        let key = |(namespace, name): &(String, String)| ResourceKey {
            kind: Kind::WorkloadEntry,
            namespace: namespace.clone(),
            name: name.clone(),
        };
        wanted.retain(|name, _| !self.store.holds(&key(name)));
        let gone = self.registered.keys().map(key).filter(|k| !wanted.contains_key(&(k.namespace.clone(), k.name.clone())));
        // What is written under the name of one that was made is in force already.
        let mut events: Vec<WorldEvent> = gone.filter(|k| !self.store.holds(k)).map(WorldEvent::Remove).collect();
        let fresh = wanted.iter().filter(|(name, entry)| self.registered.get(*name) != Some(*entry));
        events.extend(fresh.map(|(_, entry)| WorldEvent::Put(entry.clone().into())));
        self.registered = wanted;
        if !events.is_empty() {
            let changes = self.apply(events, now);
            self.at_once(changes, now);
        }
    }

    fn subject(&self) -> Subject {
        let settings = self.world.settings();
        let context = Context {
            domain: settings.domain.to_string(),
            root_namespace: self.world.root_namespace().to_owned(),
            foreign_routes: settings.foreign_routes,
        };
        Subject { resources: self.store.in_force().collect(), context }
    }

    fn debounced(&mut self, changes: ChangeSet, now: Instant) {
        if self.is_starting(&changes) || changes.is_empty() {
            return;
        }
        let due = self.debounce.event(now, changes);
        self.push(due);
    }

    /// What concerns pods is never held back, and takes along what is: proxies see one world, not two.
    fn at_once(&mut self, mut changes: ChangeSet, now: Instant) {
        if self.is_starting(&changes) {
            return;
        }
        if let Some(held) = self.debounce.flush(now) {
            changes.merge(held);
        }
        if changes.is_empty() {
            self.hub.unchanged(&self.world);
        } else {
            self.push(Some(changes));
        }
    }

    /// Before all sources were read once nothing is pushed; then everything is there at once.
    fn is_starting(&mut self, changes: &ChangeSet) -> bool {
        if self.hub.is_ready() {
            return false;
        }
        if !self.expected.files && !self.expected.cluster {
            self.push(Some(changes.clone()));
            self.hub.set_ready();
            tracing::info!("all sources were read, proxies are served: {} resources", self.store.len());
        }
        true
    }

    fn push(&mut self, changes: Option<ChangeSet>) {
        let Some(changes) = changes else { return };
        self.metrics.debounced(changes.since.elapsed());
        for kind in changes.kinds() {
            self.metrics.triggers.increment(kind.as_str());
        }
        let generation = self.hub.push(self.world.clone(), &changes);
        tracing::debug!("generation {generation}: {} changes", changes.keys().count());
    }

    fn refused(&self, refused: &[Refusal]) {
        for refusal in refused {
            let kind = refusal.rejection.key.as_ref().map_or("unknown", |k| k.kind.name());
            self.metrics.rejected.increment(kind);
            tracing::warn!("refused: {} (in force instead: {})", refusal.rejection, refusal.in_force.as_str());
        }
        self.refusals.store(Arc::new(self.store.refusals()));
    }
}

/// Never, if there is no such moment.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
