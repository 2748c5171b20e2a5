//! The subscription: what the control plane sends is put in force, what that refers to is asked for, and each update is
//! acknowledged or refused with a reason.

use super::channel::ControlPlane;
use crate::bootstrap::Role;
use crate::config::store::{Applied, Rejection, WarmingCounts};
use crate::config::{Snapshot, Store};
use crate::listener::Socket;
use crate::name_server::Table;
use crate::on_demand::{self, Learned};
use crate::shared::Shared;
use crate::upstream::dns;
use crate::worker::Job;
use bytes::Bytes;
use lateen_policy::breaker::Resource;
use lateen_xds::client::{Added, ConnectionState, Endpoint, Handle, Options, Update, Updates};
use lateen_xds::on_demand::{Index, LookupAnswer, Question};
use lateen_xds::{Node, ResourceType};
use prost::Message;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// The types whose names follow from listeners and clusters.
const REFERRED: [ResourceType; 3] = [ResourceType::Eds, ResourceType::Rds, ResourceType::Sds];

/// The listeners that captured connections arrive at, by Istio's names: a sidecar without one of them serves nobody.
const CAPTURING: [&str; 2] = ["virtualInbound", "virtualOutbound"];

/// The pause before a socket that could not be opened is tried again: its port may be held by a process that is ending.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// How long what replaces an index may take to come.
const WARM_UP: Duration = Duration::from_secs(10);

/// How often it is looked whether certificates and roots in files were replaced.
const REREAD_FILES: Duration = Duration::from_secs(5);

/// What a type's last update came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct TypeStatus {
    pub(crate) version: String,
    pub(crate) updates: u64,
    pub(crate) rejected: u64,
    pub(crate) last_rejection: Option<String>,
}

/// The subscription's state, read by the admin pages on the same thread.
pub(crate) struct Subscription {
    pub(crate) store: Store,
    pub(crate) types: BTreeMap<ResourceType, TypeStatus>,
    handle: Handle,
    subscribed: BTreeMap<ResourceType, BTreeSet<Arc<str>>>,
    listening: BTreeMap<SocketAddr, Arc<str>>,
    /// When sockets that could not be opened are tried again.
    listen_again: Option<Instant>,
    shared: Arc<Shared>,
    /// Resolves the names of clusters.
    names: dns::Follower,
    /// What was learnt on demand.
    pub(crate) learned: Learned,
    /// Shards of the index that the control plane took back, and when that is believed: what takes their place comes in the
    /// same push.
    outdated_shards: Option<(Instant, Vec<String>)>,
    /// What clusters had carried when it was last looked.
    carried: BTreeMap<String, u64>,
}

impl Endpoint for ControlPlane {
    fn connect(&self) -> lateen_xds::server::BoxFuture<'_, Result<lateen_xds::client::Connected, String>> {
        Box::pin(async move {
            Ok(lateen_xds::client::Connected { channel: self.discovery_channel(), authorization: Some(self.authorization()?) })
        })
    }
}

/// Starts the client on the current `LocalSet`. The subscription lives as long as the process.
pub(crate) fn start(shared: Arc<Shared>, control_plane: ControlPlane, node: &Node, store: Store) -> Rc<RefCell<Subscription>> {
    let automatic_scope = shared.settings.automatic_scope.above.is_some();
    let options = Options { accept_unasked: automatic_scope, ..Options::default() };
    let (handle, updates, client) = lateen_xds::client::run(node, control_plane, options);
    tokio::task::spawn_local(client);
    if automatic_scope {
        handle.subscribe_all(ResourceType::Index);
    }
    let names = shared.settings.dns_capture.then_some(ResourceType::Nds);
    for ty in [ResourceType::Cds, ResourceType::Lds].into_iter().chain(names) {
        handle.subscribe_all(ty);
    }
    let subscription = Rc::new(RefCell::new(Subscription::new(shared, handle, store)));
    tokio::task::spawn_local(receive(subscription.clone(), updates));
    subscription
}

async fn receive(subscription: Rc<RefCell<Subscription>>, mut updates: Updates) {
    let mut connection = subscription.borrow().connection();
    let resolved = subscription.borrow().names.resolved();
    let mut files = tokio::time::interval(REREAD_FILES);
    let (mut questions, sweep) = {
        let subscription = subscription.borrow();
        let shared = &subscription.shared;
        (shared.on_demand.questions(), on_demand::sweep_interval(&shared.settings.automatic_scope))
    };
    let mut sweep = tokio::time::interval(sweep);
    loop {
        let connected = connection.borrow_and_update().connected;
        let due = subscription.borrow().due(connected);
        tokio::select! {
            biased;
            changed = connection.changed() => match changed {
                Ok(()) => subscription.borrow_mut().store.restart_clock(Instant::now()),
                Err(_) => return,
            },
            update = updates.recv() => match update {
                Some(update) => subscription.borrow_mut().take(update),
                None => return,
            },
            () = resolved.notified() => subscription.borrow_mut().on_time(),
            Some(question) = questions.recv() => subscription.borrow_mut().ask(question),
            _ = sweep.tick() => subscription.borrow_mut().forget_unused(),
            _ = files.tick() => subscription.borrow_mut().store.reread_files(),
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                subscription.borrow_mut().on_time();
            }
        }
    }
}

/// All that is refused of an update, for people.
fn reason(rejections: &[Rejection]) -> String {
    let reasons: Vec<String> = rejections.iter().map(|r| format!("{}: {}", r.name, r.reason)).collect();
    reasons.join("; ")
}

impl Subscription {
    fn new(shared: Arc<Shared>, handle: Handle, store: Store) -> Self {
        Self {
            store,
            types: BTreeMap::new(),
            handle,
            subscribed: BTreeMap::new(),
            listening: BTreeMap::new(),
            listen_again: None,
            names: dns::Follower::new(shared.settings.sockets.mark),
            learned: Learned::default(),
            outdated_shards: None,
            carried: BTreeMap::new(),
            shared,
        }
    }

    /// Whether the control plane is connected, for metrics and people.
    pub(crate) fn connection(&self) -> watch::Receiver<ConnectionState> {
        self.handle.state()
    }

    fn take(&mut self, update: Update) {
        let Update { id, ty, version, added, removed } = update;
        let added: Vec<(String, Bytes)> = added.into_iter().map(|Added { name, body, .. }| (name, body)).collect();
        let rejections = self.apply(ty, version, &added, &removed);
        if rejections.is_empty() {
            self.handle.ack(id);
        } else {
            let reason = reason(&rejections);
            tracing::warn!(?ty, %reason, "refused; the last good version stays in force");
            // The others of the update are in force.
            self.handle.nack_partly(id, rejections.into_iter().map(|r| r.name).collect(), reason);
        }
    }

    /// Takes an update; what is refused of it is to be told to the control plane.
    pub(crate) fn apply(
        &mut self,
        ty: ResourceType,
        version: String,
        added: &[(String, Bytes)],
        removed: &[String],
    ) -> Vec<Rejection> {
        match ty {
            ResourceType::Nds => return self.take_names(version, added),
            ResourceType::Index => return self.take_index(version, added, removed),
            ResourceType::Lookup => return self.take_answers(version, added, removed),
            _ => {}
        }
        let Applied { rejections, changed } = self.store.apply(ty, added, removed, Instant::now());
        // Endpoints and secrets are referred to, and refer to nothing.
        if changed || matches!(ty, ResourceType::Lds | ResourceType::Cds) {
            self.put_in_force();
        }
        self.note_update(ty, version, &rejections);
        self.note_readiness();
        self.note_learnt();
        rejections
    }

    /// Asks the control plane.
    fn ask(&mut self, question: Question) {
        self.handle.subscribe(ResourceType::Lookup, [question.name()]);
        self.learned.asked(question, Instant::now());
    }

    /// Takes what the mesh has. A shard that is taken back, because a Sidecar now says what this proxy holds, counts a while
    /// longer: until all that has come, calls wait for an answer instead of going where unknown ones go.
    fn take_index(&mut self, version: String, added: &[(String, Bytes)], removed: &[String]) -> Vec<Rejection> {
        let on_demand = &self.shared.on_demand;
        let mut index = Index::clone(&on_demand.index());
        let mut rejections = Vec::new();
        for (name, body) in added {
            match index.with(name, body) {
                Ok(next) => index = next,
                Err(reason) => rejections.push(Rejection { name: name.clone(), reason }),
            }
        }
        on_demand.set_index(index);
        let names = removed.iter().filter(|name| added.iter().all(|(there, _)| there != *name));
        let removed: Vec<String> = names.cloned().collect();
        self.outdated_shards = (!removed.is_empty()).then(|| (Instant::now() + WARM_UP, removed));
        self.note_update(ResourceType::Index, version, &rejections);
        rejections
    }

    /// Takes answers: what they have brought came before them.
    fn take_answers(&mut self, version: String, added: &[(String, Bytes)], removed: &[String]) -> Vec<Rejection> {
        let mut rejections = Vec::new();
        for (name, body) in added {
            match (Question::parse(name), LookupAnswer::decode(body.clone())) {
                (Some(question), Ok(answer)) => self.learned.answered(&question, answer.hosts),
                (None, _) => rejections.push(Rejection { name: name.clone(), reason: "it is no question".to_owned() }),
                (_, Err(error)) => rejections.push(Rejection { name: name.clone(), reason: error.to_string() }),
            }
        }
        for question in removed.iter().filter_map(|name| Question::parse(name)) {
            self.learned.answered(&question, Vec::new());
        }
        self.note_update(ResourceType::Lookup, version, &rejections);
        self.note_learnt();
        rejections
    }

    /// Calls go on when what they asked for is in force.
    fn note_learnt(&mut self) {
        if self.store.warming() == WarmingCounts::default() {
            self.learned.in_force(&self.shared.on_demand, Instant::now());
        }
    }

    /// Unsubscribes from what the workload has not called for long.
    fn forget_unused(&mut self) {
        let now = Instant::now();
        if let Some((_, shards)) = self.outdated_shards.take_if(|(when, _)| *when <= now) {
            let on_demand = &self.shared.on_demand;
            on_demand.set_index(shards.iter().fold(Index::clone(&on_demand.index()), |index, name| index.without(name)));
        }
        let mut used = BTreeSet::new();
        let mut carried = BTreeMap::new();
        for cluster in self.shared.snapshot.load().compiled_clusters() {
            let Some(host) = cluster.name.strip_prefix("outbound|").and_then(|name| name.rsplit('|').next()) else { continue };
            let stats = &cluster.stats;
            let count = stats.upstream_rq_total.get() + stats.upstream_cx_total.get();
            let is_open = cluster.breakers.active(Resource::Connections) > 0 || cluster.breakers.active(Resource::Requests) > 0;
            if is_open || self.carried.get(&*cluster.name).copied().unwrap_or_default() != count {
                used.insert(host.to_owned());
            }
            carried.insert(cluster.name.to_string(), count);
        }
        self.carried = carried;
        let unused = self.learned.forget_unused(&self.shared.on_demand, now, |host| used.contains(host));
        if !unused.is_empty() {
            self.handle.unsubscribe(ResourceType::Lookup, unused.iter().map(Question::name));
        }
    }

    fn note_update(&mut self, ty: ResourceType, version: String, rejections: &[Rejection]) {
        let status = self.types.entry(ty).or_default();
        status.version = version;
        status.updates += 1;
        if !rejections.is_empty() {
            status.rejected += 1;
            status.last_rejection = Some(reason(rejections));
        }
    }

    /// Takes the table of names, which is one resource.
    fn take_names(&mut self, version: String, added: &[(String, Bytes)]) -> Vec<Rejection> {
        let mut rejections = Vec::new();
        for (name, body) in added {
            match Table::decode(body, &self.shared.settings.namespace) {
                Ok(table) => self.shared.names.table.store(Arc::new(table)),
                Err(error) => rejections.push(Rejection { name: name.clone(), reason: error.to_string() }),
            }
        }
        self.note_update(ResourceType::Nds, version, &rejections);
        self.note_readiness();
        rejections
    }

    /// Time has passed: what waited for too long goes into force as it is, and sockets are tried again.
    fn on_time(&mut self) {
        if self.store.settle(Instant::now()) || self.listen_again.is_some() {
            self.put_in_force();
        }
        self.note_readiness();
        self.note_learnt();
    }

    /// When [`Self::on_time`] is to be called. Without a control plane nothing can come, so nothing waits in vain.
    fn due(&self, connected: bool) -> Option<Instant> {
        let waiting = self.store.due(Instant::now()).filter(|_| connected);
        [waiting, self.listen_again].into_iter().flatten().min()
    }

    fn put_in_force(&mut self) {
        self.subscribe_to_what_is_referred();
        self.names.follow(self.store.named_clusters());
        let snapshot = Arc::new(self.store.snapshot());
        // In force before sockets are opened: a connection must find the listener that accepted it.
        self.shared.snapshot.store(snapshot.clone());
        self.listen(&snapshot);
        self.start_exporters();
    }

    /// Spans are sent by the first worker, because the pools of connections are the workers'.
    fn start_exporters(&self) {
        let Some(worker) = self.shared.workers().first() else { return };
        for (provider, exporter) in self.shared.telemetry.exporters.take_new() {
            worker.send(Job::Export(Box::new(provider), Box::new(exporter)));
        }
    }

    /// Ready means: listeners and clusters have come once, nothing of them waits, and connections can arrive. What was ready
    /// stays so: a later refusal or a control plane that is gone leaves the last good configuration in force.
    fn note_readiness(&self) {
        let came = |ty| self.types.contains_key(&ty);
        let named = !self.shared.settings.dns_capture || came(ResourceType::Nds);
        let complete =
            named && came(ResourceType::Cds) && came(ResourceType::Lds) && self.store.warming() == WarmingCounts::default();
        if complete && self.unreachable().is_none() {
            self.shared.configured.store(true, Ordering::Relaxed);
        }
    }

    /// Why connections cannot arrive, if they cannot.
    pub(crate) fn unreachable(&self) -> Option<String> {
        if self.listen_again.is_some() {
            return Some("a port cannot be listened on".to_owned());
        }
        let capturing: &[&str] = match self.shared.settings.role {
            Role::Sidecar => &CAPTURING,
            // Which ports a gateway opens is its Gateways' business; it may have none yet.
            Role::Gateway => &[],
        };
        capturing.iter().find_map(|name| {
            let reason = self.store.listener_never_good(name)?;
            Some(format!("listener {name} is refused: {reason}"))
        })
    }

    fn subscribe_to_what_is_referred(&mut self) {
        for ty in REFERRED {
            let wanted = self.store.wanted(ty);
            let subscribed = self.subscribed.entry(ty).or_default();
            let new: Vec<String> = wanted.difference(subscribed).map(|name| (**name).to_owned()).collect();
            let gone: Vec<String> = subscribed.difference(&wanted).map(|name| (**name).to_owned()).collect();
            if !new.is_empty() {
                self.handle.subscribe(ty, new);
            }
            if !gone.is_empty() {
                self.handle.unsubscribe(ty, gone);
            }
            *subscribed = wanted;
        }
        self.store.forget_unwanted();
    }

    /// Opens the sockets of new listeners and closes those that are gone. A socket whose address is kept goes on as it is.
    fn listen(&mut self, snapshot: &Snapshot) {
        let bound = snapshot.listeners.values().filter(|l| l.model.bind_to_port);
        let wanted: BTreeMap<SocketAddr, Arc<str>> = bound
            .flat_map(|l| {
                std::iter::once(l.model.address).chain(l.model.additional_addresses.iter().copied()).map(|a| (a, l.name.clone()))
            })
            .collect();
        let workers = self.shared.workers();
        self.listening.retain(|address, name| {
            let kept = wanted.get(address) == Some(name);
            if !kept {
                workers.iter().for_each(|w| w.send(Job::Unlisten(*address)));
            }
            kept
        });
        self.listen_again = None;
        for (address, name) in wanted {
            if self.listening.contains_key(&address) {
                continue;
            }
            let opened = Socket::bind(name.clone(), address)
                .and_then(|s| workers.iter().map(|_| s.try_clone()).collect::<Result<Vec<_>, _>>());
            match opened {
                Ok(sockets) => {
                    workers.iter().zip(sockets).for_each(|(w, s)| w.send(Job::Listen(s)));
                    self.listening.insert(address, name);
                }
                Err(error) => {
                    tracing::error!(listener = %name, %address, %error, "cannot listen; trying again in {LISTEN_AGAIN:?}");
                    self.listen_again = Some(Instant::now() + LISTEN_AGAIN);
                }
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::secrets::Secrets;
    use crate::testing::{self, Encode, assignment, cluster, http, listener, routes, tcp};
    use ResourceType::{Cds, Eds, Lds, Rds};
    use lateen_xds::NodeType;
    use std::net::TcpListener;

    /// A control plane that is never reached.
    struct Nowhere;

    impl Endpoint for Nowhere {
        fn connect(&self) -> lateen_xds::server::BoxFuture<'_, Result<lateen_xds::client::Connected, String>> {
            Box::pin(async { Err("nowhere".to_owned()) })
        }
    }

    fn subscription() -> Subscription {
        subscription_of(&testing::shared())
    }

    /// A subscription of this process, to nobody.
    pub(crate) fn subscription_of(shared: &Arc<Shared>) -> Subscription {
        let shared = shared.clone();
        let node = Node::new(NodeType::Sidecar, [10, 1, 0, 4].into(), "a-1", "prod", "prod.svc.cluster.local");
        let (handle, _, _) = lateen_xds::client::run(&node, Nowhere, Options::default());
        let store = Store::new(Secrets::new(shared.identity.clone()), shared.telemetry.clone());
        Subscription::new(shared, handle, store)
    }

    impl Subscription {
        fn send(&mut self, ty: ResourceType, resources: &[&dyn Encode]) {
            let encoded: Vec<_> = resources.iter().map(|r| r.encoded()).collect();
            assert_eq!(self.apply(ty, "v".to_owned(), &encoded, &[]), []);
        }

        fn is_ready(&self) -> bool {
            self.shared.configured.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn ready_when_everything_is_in_force() {
        let mut s = subscription();
        s.send(Lds, &[&listener("virtualOutbound", "127.0.0.1:15001", http("80"))]);
        s.send(Cds, &[&cluster("v1", None)]);
        assert!(!s.is_ready());
        s.send(Eds, &[&assignment("v1", &["10.0.0.1:80"])]);
        assert!(!s.is_ready(), "the routes have not come");
        s.send(Rds, &[&routes("80", &["v1"])]);
        assert!(s.is_ready());
        s.send(Cds, &[&cluster("v2", None)]);
        assert!(s.is_ready(), "once and for all");
    }

    #[test]
    fn not_ready_when_the_inbound_listener_is_refused() {
        let mut s = subscription();
        s.send(Cds, &[&cluster("v1", Some(&["10.0.0.1:80"]))]);
        let good = listener("virtualOutbound", "127.0.0.1:15001", tcp("v1")).encoded();
        let bad = ("virtualInbound".to_owned(), Bytes::from_static(b"\xff"));
        assert_eq!(s.apply(Lds, "1".to_owned(), &[good, bad], &[]).len(), 1);
        assert!(s.shared.snapshot.load().listeners.contains_key("virtualOutbound"), "the good one is in force");
        assert!(!s.is_ready());
        let why = s.unreachable().expect("a reason");
        assert!(why.starts_with("listener virtualInbound is refused: "), "{why}");
        let status = &s.types[&Lds];
        assert_eq!((status.updates, status.rejected), (1, 1));

        s.send(Lds, &[&listener("virtualInbound", "127.0.0.1:15006", tcp("v1"))]);
        assert!(s.is_ready());
        s.apply(Lds, "3".to_owned(), &[("virtualInbound".to_owned(), Bytes::from_static(b"\xff"))], &[]);
        assert!(s.is_ready() && s.unreachable().is_none(), "the last good one serves");
    }

    #[test]
    fn not_ready_when_another_listener_is_refused_is_nobodys_wish() {
        let mut s = subscription();
        s.send(Cds, &[&cluster("v1", Some(&["10.0.0.1:80"]))]);
        let good = listener("virtualInbound", "127.0.0.1:15006", tcp("v1")).encoded();
        let bad = ("10.0.0.9_5432".to_owned(), Bytes::from_static(b"\xff"));
        s.apply(Lds, "1".to_owned(), &[good, bad], &[]);
        assert!(s.is_ready(), "one service that cannot be served must not stop a pod that may not need it");
    }

    #[test]
    fn a_port_that_is_taken_is_tried_again() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("bound");
        let mut s = subscription();
        s.send(Cds, &[&cluster("v1", Some(&["10.0.0.1:80"]))]);
        let mut bound = listener("virtualInbound", &address.to_string(), tcp("v1"));
        bound.bind_to_port = true;
        s.send(Lds, &[&bound]);
        assert!(!s.is_ready() && s.due(false).is_some(), "{:?}", s.unreachable());
        drop(taken);
        s.on_time();
        assert!(s.is_ready() && s.due(false).is_none());
        assert!(s.listening.contains_key(&address));
    }
    #[tokio::test(start_paused = true)]
    async fn endpoints_that_never_come_are_waited_for_as_long_as_they_could_come() {
        let mut s = subscription();
        s.send(Lds, &[]);
        s.send(Cds, &[&cluster("v1", None)]);
        assert!(!s.is_ready());
        assert_eq!(s.due(false), None, "nobody could send them");
        let due = s.due(true).expect("somebody could");
        tokio::time::advance(due - Instant::now() - Duration::from_millis(1)).await;
        s.on_time();
        assert!(!s.is_ready());
        tokio::time::advance(Duration::from_millis(1)).await;
        s.on_time();
        assert!(s.is_ready() && s.shared.snapshot.load().clusters.contains_key("v1"));
    }
}
