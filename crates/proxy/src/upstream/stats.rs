//! What is counted of clusters and hosts, under the names that Envoy's users know.

use crate::telemetry::count::Count;
use std::sync::OnceLock;

/// Statuses from 100 to 599 (RFC 9110, section 15).
const STATUSES: usize = 500;

/// A counter for each status that there can be. Most clusters of a proxy carry nothing: the table is made at the first answer.
#[derive(Debug, Default)]
pub(crate) struct StatusCounts(OnceLock<Box<[Count; STATUSES]>>);

impl StatusCounts {
    /// Counts an answer. What is no status is not counted.
    pub(crate) fn inc(&self, status: u16) {
        let Some(index) = status.checked_sub(100).map(usize::from).filter(|index| *index < STATUSES) else { return };
        self.0.get_or_init(|| Box::new(std::array::from_fn(|_| Count::default())))[index].inc();
    }

    /// Statuses that were answered, and how often each was.
    pub(crate) fn all(&self) -> impl Iterator<Item = (u16, u64)> {
        let counts = self.0.get().into_iter().flat_map(|table| table.iter());
        (100..).zip(counts.map(Count::get)).filter(|(_, count)| *count > 0)
    }

    /// How often a status of a class, from 1 to 5, was answered.
    pub(crate) fn of_class(&self, class: u16) -> u64 {
        self.all().filter(|(status, _)| status / 100 == class).map(|(_, count)| count).sum()
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
    /// What clients were answered, by the cluster or in its place.
    pub(crate) answers: StatusCounts,
    pub(crate) upstream_cx_total: Count,
    pub(crate) upstream_cx_none_healthy: Count,
    pub(crate) upstream_cx_connect_fail: Count,
    pub(crate) upstream_cx_connect_timeout: Count,
    pub(crate) ssl_handshake_fail: Count,
}

impl ClusterStats {
    /// Names as they stand behind `cluster.NAME.` in Envoy's statistics, and values.
    pub(crate) fn all(&self) -> [(&'static str, u64); 14] {
        [
            ("upstream_rq_completed", self.answers.all().map(|(_, count)| count).sum()),
            ("upstream_rq_total", self.upstream_rq_total.get()),
            ("upstream_rq_retry", self.upstream_rq_retry.get()),
            ("upstream_rq_retry_success", self.upstream_rq_retry_success.get()),
            ("upstream_rq_retry_limit_exceeded", self.upstream_rq_retry_limit_exceeded.get()),
            ("upstream_rq_retry_overflow", self.upstream_rq_retry_overflow.get()),
            ("upstream_rq_timeout", self.upstream_rq_timeout.get()),
            ("upstream_rq_per_try_timeout", self.upstream_rq_per_try_timeout.get()),
            ("upstream_rq_reset", self.upstream_rq_reset.get()),
            ("upstream_cx_total", self.upstream_cx_total.get()),
            ("upstream_cx_none_healthy", self.upstream_cx_none_healthy.get()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_counted_by_code_and_class() {
        let counts = StatusCounts::default();
        assert_eq!(counts.all().next(), None);
        for status in [0, 99, 100, 200, 200, 204, 503, 599, 600, u16::MAX] {
            counts.inc(status);
        }
        assert_eq!(counts.all().collect::<Vec<_>>(), [(100, 1), (200, 2), (204, 1), (503, 1), (599, 1)]);
        assert_eq!([1, 2, 3, 4, 5].map(|class| counts.of_class(class)), [1, 3, 0, 0, 2]);
    }
}
