//! Balancing by zones, as far as that keeps endpoints equally loaded.

use serde::Serialize;

/// The cluster of the proxies that have a proxy's load with it: those of its own workload, itself included (Envoy's
/// `local_cluster_name`, as Istio calls it).
pub const LOCAL_CLUSTER: &str = "local_cluster";

/// Requests stay in the proxy's zone as far as its endpoints get no more than their part of the load of all proxies of its workload
/// (`zone_aware_lb_config`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ZoneAware {
    /// The share of requests that this holds for (percent, 0 to 100).
    pub routing_percent: u8,
    /// With fewer healthy endpoints of the first priority, zones do not matter.
    pub min_cluster_size: u64,
}

impl ZoneAware {
    /// Envoy's `min_cluster_size` where nothing is written.
    pub const DEFAULT_MIN_CLUSTER_SIZE: u64 = 6;

    /// Zones do not matter. An Envoy that knows its [`LOCAL_CLUSTER`] has to be told.
    pub const OFF: Self = Self { routing_percent: 0, min_cluster_size: Self::DEFAULT_MIN_CLUSTER_SIZE };
}
