//! How far behind proxies are: measured for each push, and waited for by whoever takes a pod away.

use crate::metrics::Metrics;
use lateen_xds::Generation;
use lateen_xds::server::{ConnectionId, Connections};
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How often proxies' progress is looked at while something is under way.
const POLL: Duration = Duration::from_millis(5);
/// A push that no proxy has confirmed by then is no longer measured.
const GIVE_UP: Duration = Duration::from_secs(60);

/// Watches how far proxies are.
pub struct Convergence {
    connections: Arc<Connections>,
    metrics: Arc<Metrics>,
    pending: Mutex<VecDeque<Push>>,
    wake: Notify,
}

struct Push {
    generation: Generation,
    since: Instant,
    waiting: BTreeSet<ConnectionId>,
}

impl Convergence {
    pub(super) fn new(connections: Arc<Connections>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { connections, metrics, pending: Mutex::default(), wake: Notify::new() })
    }

    /// Notes a push and who is connected.
    pub(super) fn pushed(&self, generation: Generation, since: Instant) {
        let waiting = self.connections.list().iter().map(|c| c.client().connection).collect();
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.push_back(Push { generation, since, waiting });
        drop(pending);
        self.wake.notify_one();
    }

    /// Measures every push until each connected proxy has confirmed it; runs for ever.
    pub async fn run(&self) {
        loop {
            while self.measure() {
                tokio::time::sleep(POLL).await;
            }
            self.wake.notified().await;
        }
    }

    /// Whether something is still under way.
    fn measure(&self) -> bool {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.is_empty() {
            return false;
        }
        let now = Instant::now();
        for push in pending.iter_mut() {
            push.waiting.retain(|id| {
                let Some(connection) = self.connections.get(*id) else { return false };
                let done = connection.status().acked_generation >= push.generation;
                if done {
                    self.metrics.converged(now.duration_since(push.since));
                }
                !done
            });
        }
        pending.retain(|p| !p.waiting.is_empty() && now.duration_since(p.since) < GIVE_UP);
        !pending.is_empty()
    }

    /// Waits until every connected proxy has confirmed all that follows from `generation`; false after `patience`.
    pub async fn reached(&self, generation: Generation, patience: Duration) -> bool {
        let wait = async {
            while self.connections.acked_generation().is_some_and(|acked| acked < generation) {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(patience, wait).await.is_ok()
    }
}
