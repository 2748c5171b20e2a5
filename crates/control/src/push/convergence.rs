//! How far behind proxies are: measured for each push, and waited for by whoever takes a pod away.

use crate::metrics::Metrics;
use lateen_xds::Generation;
use lateen_xds::server::{ConnectionId, Connections};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How often whoever waits for proxies looks at their progress.
const POLL: Duration = Duration::from_millis(5);
/// A push that no proxy has confirmed by then is no longer measured.
const GIVE_UP: Duration = Duration::from_secs(60);
/// Pushes that are measured at once; of more the oldest are forgotten.
const PUSHES: usize = 4096;

/// Watches how far proxies are.
pub struct Convergence {
    connections: Arc<Connections>,
    pushes: Arc<Mutex<VecDeque<Push>>>,
}

/// One that may not be everywhere yet; they are kept by rising generation.
struct Push {
    generation: Generation,
    since: Instant,
    /// Who connected later got it as a part of everything.
    last: ConnectionId,
}

impl Convergence {
    pub(super) fn new(connections: Arc<Connections>, metrics: Arc<Metrics>) -> Arc<Self> {
        let pushes: Arc<Mutex<VecDeque<Push>>> = Arc::default();
        let measured = Arc::clone(&pushes);
        connections.observe(move |connection, before, now| {
            let pushes = measured.lock().unwrap_or_else(PoisonError::into_inner);
            let at = Instant::now();
            let first = pushes.partition_point(|push| push.generation <= before);
            for push in pushes.range(first..).take_while(|push| push.generation <= now).filter(|push| connection <= push.last) {
                metrics.converged(at.duration_since(push.since));
            }
        });
        Arc::new(Self { connections, pushes })
    }

    /// Notes a push: from now on it is measured when each connected proxy confirms it.
    pub(super) fn pushed(&self, generation: Generation, since: Instant) {
        let last = self.connections.last();
        let now = Instant::now();
        let mut pushes = self.pushes.lock().unwrap_or_else(PoisonError::into_inner);
        let old = |push: &Push| now.duration_since(push.since) >= GIVE_UP;
        while pushes.len() >= PUSHES || pushes.front().is_some_and(old) {
            pushes.pop_front();
        }
        pushes.push_back(Push { generation, since, last });
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
