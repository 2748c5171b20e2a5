//! All connections of a control plane.

use super::change::Change;
use super::session::Session;
use super::watch::TypeStatus;
use super::{ClientInfo, ConnectionId};
use crate::{Generation, Resource, ResourceType};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use tokio::sync::Notify;

/// How far a client is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientStatus {
    /// The types that it watches, in push order.
    pub types: Vec<(ResourceType, TypeStatus)>,
    /// The newest world of which it has accepted everything that concerns it.
    pub acked_generation: Generation,
    /// Requests with a nonce that had expired.
    pub expired_nonces: u64,
}

/// A connection, seen from outside: changes go in, its status comes out.
pub struct Connection {
    client: Arc<ClientInfo>,
    /// Shared with every other connection that was told the same and has not looked at it yet.
    pending: Mutex<Option<Arc<Change>>>,
    acked: AtomicU64,
    /// What the observer was told last: a new subscription takes `acked` back for a while.
    observed: AtomicU64,
    /// What tells the status when somebody asks.
    session: OnceLock<Weak<Mutex<Session>>>,
    wake: Notify,
    close: Mutex<Option<String>>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("client", &self.client).field("acked", &self.acked).finish_non_exhaustive()
    }
}

impl Connection {
    /// Who is connected.
    pub fn client(&self) -> &Arc<ClientInfo> {
        &self.client
    }

    /// How far it is. It is worked out for the caller, who must hold no lock that the control plane's `Generator` takes when it
    /// is dropped.
    pub fn status(&self) -> ClientStatus {
        let Some(session) = self.session.get().and_then(Weak::upgrade) else { return ClientStatus::default() };
        let session = lock(&session);
        ClientStatus {
            types: session.status().collect(),
            acked_generation: session.acked_generation(),
            expired_nonces: session.expired_nonces(),
        }
    }

    /// The newest world of which it has accepted everything that concerns it.
    pub fn acked_generation(&self) -> Generation {
        Generation(self.acked.load(Ordering::Acquire))
    }

    /// Tells the connection of a change; changes that wait are merged, so that what waits is bounded however long the client
    /// takes. Never blocks.
    pub fn notify(&self, change: &Change) {
        self.notify_shared(&Arc::new(change.clone()));
    }

    fn notify_shared(&self, change: &Arc<Change>) {
        match &mut *lock(&self.pending) {
            Some(pending) => Arc::make_mut(pending).merge(change),
            none => *none = Some(Arc::clone(change)),
        }
        self.wake.notify_one();
    }

    /// Ends the connection; the client is told `reason` (gRPC `UNAVAILABLE`) and connects again.
    pub fn close(&self, reason: &str) {
        *lock(&self.close) = Some(reason.to_owned());
        self.wake.notify_one();
    }

    pub(super) fn take_change(&self) -> Option<Arc<Change>> {
        lock(&self.pending).take()
    }

    pub(super) fn close_reason(&self) -> Option<String> {
        lock(&self.close).clone()
    }

    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Whose status it is.
    pub(super) fn serves(&self, session: &Arc<Mutex<Session>>) {
        // Told once.
        let _ = self.session.set(Arc::downgrade(session));
    }
}

/// Told when a client gets further: which, from which world (exclusive) to which.
type Observer = Box<dyn Fn(ConnectionId, Generation, Generation) + Send + Sync>;

/// The connections of a control plane.
#[derive(Default)]
pub struct Connections {
    open: Mutex<Open>,
    observer: OnceLock<Observer>,
    /// Resources sent, and their bytes.
    sent: [AtomicU64; 2],
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("open", &self.open).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Open {
    last: u64,
    connections: BTreeMap<ConnectionId, Arc<Connection>>,
}

impl Connections {
    /// None yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// All that are open, oldest first.
    pub fn list(&self) -> Vec<Arc<Connection>> {
        lock(&self.open).connections.values().cloned().collect()
    }

    /// One of them.
    pub fn get(&self, id: ConnectionId) -> Option<Arc<Connection>> {
        lock(&self.open).connections.get(&id).cloned()
    }

    /// The newest connection there has been.
    pub fn last(&self) -> ConnectionId {
        ConnectionId(lock(&self.open).last)
    }

    /// How many resources were sent so far, and how many bytes they had.
    pub fn sent(&self) -> (u64, u64) {
        let [resources, bytes] = &self.sent;
        (resources.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed))
    }

    /// Has `observer` called whenever a client has accepted a newer world than before, on that connection's task: it must not
    /// block. Only the first one is.
    pub fn observe(&self, observer: impl Fn(ConnectionId, Generation, Generation) + Send + Sync + 'static) {
        let _ = self.observer.set(Box::new(observer));
    }

    /// Tells each of these connections, if it is still open, of a change.
    pub fn notify_each<'a>(&self, changes: impl IntoIterator<Item = (ConnectionId, &'a Arc<Change>)>) {
        let open = lock(&self.open);
        for (id, change) in changes {
            if let Some(connection) = open.connections.get(&id) {
                connection.notify_shared(change);
            }
        }
    }

    /// Tells every connection of a change. Each finds out itself whether its client sees it.
    pub fn notify_all(&self, change: &Change) {
        let change = Arc::new(change.clone());
        for connection in self.list() {
            connection.notify_shared(&change);
        }
    }

    /// The newest world that every client has accepted as far as it concerns it; `None` without clients.
    pub fn acked_generation(&self) -> Option<Generation> {
        lock(&self.open).connections.values().map(|c| c.acked_generation()).min()
    }

    pub(super) fn next_id(&self) -> ConnectionId {
        let mut open = lock(&self.open);
        open.last += 1;
        ConnectionId(open.last)
    }

    /// Adds a connection; it is gone when the guard is dropped.
    pub(super) fn open(self: &Arc<Self>, client: Arc<ClientInfo>) -> OpenGuard {
        let connection = Arc::new(Connection {
            client,
            pending: Mutex::default(),
            acked: AtomicU64::new(0),
            observed: AtomicU64::new(0),
            session: OnceLock::new(),
            wake: Notify::new(),
            close: Mutex::default(),
        });
        lock(&self.open).connections.insert(connection.client.connection, connection.clone());
        OpenGuard { connections: self.clone(), connection }
    }
}

/// Keeps a connection in [`Connections`].
pub(super) struct OpenGuard {
    connections: Arc<Connections>,
    pub(super) connection: Arc<Connection>,
}

impl OpenGuard {
    /// These are sent.
    pub(super) fn sends(&self, resources: &[Arc<Resource>]) {
        let [count, bytes] = &self.connections.sent;
        count.fetch_add(resources.len() as u64, Ordering::Relaxed);
        bytes.fetch_add(resources.iter().map(|r| r.body().len() as u64).sum(), Ordering::Relaxed);
    }

    /// The client has accepted everything up to this world.
    pub(super) fn acknowledged(&self, now: Generation) {
        self.connection.acked.store(now.0, Ordering::Release);
        let before = Generation(self.connection.observed.fetch_max(now.0, Ordering::Relaxed));
        if let Some(observer) = self.connections.observer.get().filter(|_| before < now) {
            observer(self.connection.client.connection, before, now);
        }
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        lock(&self.connections.open).connections.remove(&self.connection.client.connection);
    }
}

/// No code panics while it holds one of these locks, so that a poisoned one holds no half-made state.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
