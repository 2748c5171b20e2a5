//! Upstreams: clusters and their hosts, shared by all workers, and each worker's own connections to them.

mod cluster;
mod connect;
pub(crate) mod dns;
mod pool;
mod proxy_protocol;
mod stats;

pub(crate) use cluster::{Cluster, Host, now};
pub(crate) use connect::{ConnectError, Opened, Purpose, Sockets, connect};
pub(crate) use pool::{Asked, ConnectionMeta, Lease, LeaseError, Pools};

use crate::shared::Shared;
use crate::worker::Worker;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How often idle connections are looked at.
const REAP_INTERVAL: Duration = Duration::from_secs(1);

/// How often it is looked for clusters whose sweep is due. Shorter than any sensible `interval`.
const SWEEP_TICK: Duration = Duration::from_millis(100);

/// The host of an original-destination cluster.
pub(crate) fn original_destination(wanted: SocketAddr, port_override: Option<u16>) -> Arc<Host> {
    let port = port_override.unwrap_or(wanted.port());
    Arc::new(Host::original_destination(SocketAddr::new(wanted.ip(), port)))
}

/// Drops a worker's connections that are over, for as long as the worker runs.
pub(crate) async fn reap_idle(worker: Rc<Worker>) {
    loop {
        tokio::time::sleep(REAP_INTERVAL).await;
        worker.pools.reap(&worker);
    }
}

/// Brings ejected hosts back when their time is over, each cluster at its own interval.
pub(crate) async fn sweep_outliers(shared: Arc<Shared>) {
    let mut swept: HashMap<Arc<str>, Instant> = HashMap::new();
    loop {
        tokio::time::sleep(SWEEP_TICK).await;
        let snapshot = shared.snapshot.load_full();
        let now = Instant::now();
        for cluster in snapshot.compiled_clusters() {
            let Some(detector) = cluster.detector() else { continue };
            let last = swept.entry(cluster.name.clone()).or_insert(now);
            if now.duration_since(*last) >= detector.interval() {
                *last = now;
                cluster.sweep();
            }
        }
        swept.retain(|name, _| snapshot.clusters.contains_key(name));
    }
}
