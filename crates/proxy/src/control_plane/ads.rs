//! The subscription: what the control plane sends is put in force, what that refers to is asked for, and each update is
//! acknowledged or refused with a reason.

use super::channel::ControlPlane;
use crate::config::{Snapshot, Store};
use crate::listener::Socket;
use crate::shared::Shared;
use crate::worker::Job;
use bytes::Bytes;
use lateen_xds::client::{Added, ConnectionState, Endpoint, Handle, Options, Update, Updates};
use lateen_xds::{Node, ResourceType};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::watch;

/// The types whose names follow from listeners and clusters.
const REFERRED: [ResourceType; 3] = [ResourceType::Eds, ResourceType::Rds, ResourceType::Sds];

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
    subscribed: BTreeMap<ResourceType, BTreeSet<String>>,
    listening: BTreeMap<SocketAddr, Arc<str>>,
    shared: Arc<Shared>,
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
    let (handle, updates, client) = lateen_xds::client::run(node, control_plane, Options::default());
    tokio::task::spawn_local(client);
    for ty in [ResourceType::Cds, ResourceType::Lds] {
        handle.subscribe_all(ty);
    }
    let subscription = Rc::new(RefCell::new(Subscription {
        store,
        types: BTreeMap::new(),
        handle,
        subscribed: BTreeMap::new(),
        listening: BTreeMap::new(),
        shared,
    }));
    tokio::task::spawn_local(receive(subscription.clone(), updates));
    subscription
}

async fn receive(subscription: Rc<RefCell<Subscription>>, mut updates: Updates) {
    while let Some(update) = updates.recv().await {
        subscription.borrow_mut().take(update);
    }
}

impl Subscription {
    /// Whether the control plane is connected, for metrics and people.
    pub(crate) fn connection(&self) -> watch::Receiver<ConnectionState> {
        self.handle.state()
    }

    fn take(&mut self, update: Update) {
        let Update { id, ty, version, added, removed } = update;
        let added: Vec<(String, Bytes)> = added.into_iter().map(|Added { name, body, .. }| (name, body)).collect();
        let rejections = self.store.apply(ty, &added, &removed);
        let snapshot = Arc::new(self.store.snapshot());
        // In force before sockets are opened: a connection must find the listener that accepted it.
        self.shared.snapshot.store(snapshot.clone());
        self.listen(&snapshot);
        self.start_exporters();
        self.subscribe_to_what_is_referred();
        let status = self.types.entry(ty).or_default();
        status.version = version;
        status.updates += 1;
        if rejections.is_empty() {
            self.handle.ack(id);
        } else {
            let reasons: Vec<String> = rejections.iter().map(|r| format!("{}: {}", r.name, r.reason)).collect();
            let reason = reasons.join("; ");
            tracing::warn!(?ty, %reason, "refused; the last good version stays in force");
            status.rejected += 1;
            status.last_rejection = Some(reason.clone());
            self.handle.nack(id, reason);
        }
        self.note_readiness();
    }

    /// Spans are sent by the first worker, because the pools of connections are the workers'.
    fn start_exporters(&self) {
        let Some(worker) = self.shared.workers().first() else { return };
        for (provider, exporter) in self.shared.telemetry.exporters.take_new() {
            worker.send(Job::Export(Box::new(provider), Box::new(exporter)));
        }
    }

    /// Ready means: listeners and clusters have come once, and nothing of them waits.
    fn note_readiness(&self) {
        let came = |ty| self.types.contains_key(&ty);
        if came(ResourceType::Cds) && came(ResourceType::Lds) && self.store.warming() == (0, 0) {
            self.shared.configured.store(true, Ordering::Relaxed);
        }
    }

    fn subscribe_to_what_is_referred(&mut self) {
        for ty in REFERRED {
            let wanted = self.store.wanted(ty);
            let subscribed = self.subscribed.entry(ty).or_default();
            let new: Vec<String> = wanted.difference(subscribed).cloned().collect();
            let gone: Vec<String> = subscribed.difference(&wanted).cloned().collect();
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
                // Tried again with the next update: a port may still be held by a process that is ending.
                Err(error) => tracing::error!(listener = %name, %address, %error, "cannot listen"),
            }
        }
    }
}
