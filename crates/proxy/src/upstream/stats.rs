//! What is counted of clusters and hosts, under the names that Envoy's users know.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter that any worker may add to.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// Counts one.
    pub(crate) fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The sum so far.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Of a cluster, all workers together. Survives updates of the cluster.
#[derive(Debug, Default)]
pub(crate) struct ClusterStats {
    pub(crate) upstream_rq_total: Count,
    pub(crate) upstream_rq_retry: Count,
    pub(crate) upstream_rq_retry_success: Count,
    pub(crate) upstream_rq_retry_limit_exceeded: Count,
    pub(crate) upstream_rq_retry_overflow: Count,
    pub(crate) upstream_rq_timeout: Count,
    pub(crate) upstream_rq_per_try_timeout: Count,
    pub(crate) upstream_rq_reset: Count,
    pub(crate) upstream_cx_total: Count,
    pub(crate) upstream_cx_connect_fail: Count,
    pub(crate) upstream_cx_connect_timeout: Count,
    pub(crate) ssl_handshake_fail: Count,
}

impl ClusterStats {
    /// Names without `envoy_cluster_`, and values.
    pub(crate) fn all(&self) -> [(&'static str, u64); 12] {
        [
            ("upstream_rq_total", self.upstream_rq_total.get()),
            ("upstream_rq_retry", self.upstream_rq_retry.get()),
            ("upstream_rq_retry_success", self.upstream_rq_retry_success.get()),
            ("upstream_rq_retry_limit_exceeded", self.upstream_rq_retry_limit_exceeded.get()),
            ("upstream_rq_retry_overflow", self.upstream_rq_retry_overflow.get()),
            ("upstream_rq_timeout", self.upstream_rq_timeout.get()),
            ("upstream_rq_per_try_timeout", self.upstream_rq_per_try_timeout.get()),
            ("upstream_rq_reset", self.upstream_rq_reset.get()),
            ("upstream_cx_total", self.upstream_cx_total.get()),
            ("upstream_cx_connect_fail", self.upstream_cx_connect_fail.get()),
            ("upstream_cx_connect_timeout", self.upstream_cx_connect_timeout.get()),
            ("ssl_handshake_fail", self.ssl_handshake_fail.get()),
        ]
    }
}

/// Of a host.
#[derive(Debug, Default)]
pub(crate) struct HostStats {
    pub(crate) rq_total: Count,
    pub(crate) rq_error: Count,
    pub(crate) cx_connect_fail: Count,
}
