//! All connections of a control plane.

use super::change::Change;
use super::watch::TypeStatus;
use super::{ClientInfo, ConnectionId};
use crate::{Generation, ResourceType};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
#[derive(Debug)]
pub struct Connection {
    client: Arc<ClientInfo>,
    pending: Mutex<Option<Change>>,
    status: Mutex<ClientStatus>,
    wake: Notify,
    close: Mutex<Option<String>>,
}

impl Connection {
    /// Who is connected.
    pub fn client(&self) -> &Arc<ClientInfo> {
        &self.client
    }

    /// How far it is.
    pub fn status(&self) -> ClientStatus {
        lock(&self.status).clone()
    }

    /// Tells the connection of a change; changes that wait are merged. Never blocks.
    pub fn notify(&self, change: &Change) {
        match &mut *lock(&self.pending) {
            Some(pending) => pending.merge(change),
            none => *none = Some(change.clone()),
        }
        self.wake.notify_one();
    }

    /// Ends the connection; the client is told `reason` (gRPC `UNAVAILABLE`) and connects again.
    pub fn close(&self, reason: &str) {
        *lock(&self.close) = Some(reason.to_owned());
        self.wake.notify_one();
    }

    pub(super) fn take_change(&self) -> Option<Change> {
        lock(&self.pending).take()
    }

    pub(super) fn close_reason(&self) -> Option<String> {
        lock(&self.close).clone()
    }

    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    pub(super) fn set_status(&self, status: ClientStatus) {
        *lock(&self.status) = status;
    }
}

/// The connections of a control plane.
#[derive(Debug, Default)]
pub struct Connections {
    open: Mutex<Open>,
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

    /// Tells every connection of a change. Each finds out itself whether its client sees it.
    pub fn notify_all(&self, change: &Change) {
        for connection in self.list() {
            connection.notify(change);
        }
    }

    /// The newest world that every client has accepted as far as it concerns it; `None` without clients.
    pub fn acked_generation(&self) -> Option<Generation> {
        lock(&self.open).connections.values().map(|c| lock(&c.status).acked_generation).min()
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
            status: Mutex::default(),
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

impl Drop for OpenGuard {
    fn drop(&mut self) {
        lock(&self.connections.open).connections.remove(&self.connection.client.connection);
    }
}

/// No code panics while it holds one of these locks, so that a poisoned one holds no half-made state.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
