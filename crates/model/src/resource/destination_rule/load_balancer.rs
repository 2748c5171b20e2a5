//! How an endpoint is chosen.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::DestinationRule;
use crate::resource::ProtoDuration;

/// How an endpoint is chosen: one of `simple` and `consistentHash`, or neither.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct LoadBalancerSettings {
    /// `LEAST_REQUEST` if absent.
    pub simple: Option<SimpleLb>,
    /// By a hash of the request.
    pub consistent_hash: Option<ConsistentHash>,
    /// By where endpoints are; the mesh's if absent.
    pub locality_lb_setting: Option<LocalityLbSetting>,
    /// The own zone as far as that keeps endpoints equally loaded; the mesh's if absent.
    pub zone_aware_lb_setting: Option<ZoneAwareLbSetting>,
    /// Deprecated by `warmup`, of which it is the duration.
    pub warmup_duration_secs: Option<ProtoDuration>,
    /// Sends new endpoints less at first.
    pub warmup: Option<Warmup>,
}

impl DestinationRule {
    /// Whether any port or subset chooses endpoints by a hash.
    pub fn uses_consistent_hash(&self) -> bool {
        let hashes = |lb: &Option<LoadBalancerSettings>| lb.as_ref().is_some_and(|lb| lb.consistent_hash.is_some());
        let subsets = self.spec.subsets.iter().filter_map(|s| s.traffic_policy.as_ref());
        self.spec
            .traffic_policy
            .iter()
            .chain(subsets)
            .any(|p| hashes(&p.load_balancer) || p.port_level_settings.iter().any(|port| hashes(&port.load_balancer)))
    }
}

/// Choices that look at the endpoints only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SimpleLb {
    /// The same as `LEAST_REQUEST`.
    #[default]
    Unspecified,
    /// Deprecated, the same as `LEAST_REQUEST`.
    LeastConn,
    /// Any.
    Random,
    /// The address that the client called, in mutual TLS where the mesh does that by itself. A gateway, which is called itself,
    /// chooses as with `LEAST_REQUEST`.
    Passthrough,
    /// One after the other.
    RoundRobin,
    /// Of two picked at random, the one with fewer requests in flight.
    LeastRequest,
}

/// By a hash of the request. Exactly one key, at most one algorithm.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ConsistentHash {
    /// Key: a header.
    pub http_header_name: Option<String>,
    /// Key: a cookie.
    pub http_cookie: Option<HttpCookie>,
    /// Key: the client's address.
    pub use_source_ip: Option<bool>,
    /// Key: a query parameter.
    pub http_query_parameter_name: Option<String>,
    /// Algorithm: ring hash, the default.
    pub ring_hash: Option<RingHash>,
    /// Algorithm: Maglev.
    pub maglev: Option<Maglev>,
    /// Deprecated by `ringHash.minimumRingSize`.
    pub minimum_ring_size: Option<u64>,
}

/// A cookie as a key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpCookie {
    /// Its name.
    pub name: String,
    /// Its path, if the proxy makes it.
    pub path: String,
    /// The proxy makes it if set; 0: for the session.
    pub ttl: Option<ProtoDuration>,
    /// Further attributes, if the proxy makes it.
    pub attributes: Vec<HttpCookieAttribute>,
}

/// An attribute of a [`HttpCookie`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpCookieAttribute {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Ring hash.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RingHash {
    /// 1024 if absent.
    pub minimum_ring_size: Option<u64>,
}

/// Maglev.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Maglev {
    /// A prime below 5000011.
    pub table_size: Option<u64>,
}

/// By where endpoints are. One of `distribute`, `failover` and `failoverPriority`, or none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct LocalityLbSetting {
    /// Shares by locality.
    pub distribute: Vec<LocalityDistribute>,
    /// Which region stands in for which.
    pub failover: Vec<LocalityFailover>,
    /// Labels, the most important first.
    pub failover_priority: Vec<String>,
    /// False turns the mesh's setting off.
    pub enabled: Option<bool>,
}

/// Shares for clients of one locality.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct LocalityDistribute {
    /// The clients' locality: `region/zone/subzone`, the end possibly `*`.
    pub from: String,
    /// Per cent by locality; the sum is 100.
    pub to: BTreeMap<String, u32>,
}

/// One region that stands in for another.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct LocalityFailover {
    /// The region whose endpoints are down.
    pub from: String,
    /// The region that stands in.
    pub to: String,
}

/// The own zone as far as that keeps endpoints equally loaded, and other regions when the own one is out. Balancing by zones needs
/// proxies that know those of their own workload (`ISTIO_META_ENABLE_SELF_DISCOVERY: "true"` in `proxyMetadata`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ZoneAwareLbSetting {
    /// False turns the mesh's setting off.
    pub enabled: Option<bool>,
    /// Which region stands in for which.
    pub failover: Vec<LocalityFailover>,
    /// Labels that count before regions, the most important first.
    pub failover_priority: Vec<String>,
    /// With fewer healthy endpoints in the own region, zones do not matter; 6 if absent.
    pub min_cluster_size: Option<u32>,
}

/// Sends new endpoints less at first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Warmup {
    /// For how long.
    pub duration: Option<ProtoDuration>,
    /// Per cent at the start; 10 if absent.
    pub minimum_percent: Option<f64>,
    /// Shape of the rise; 1 (a straight line) if absent.
    pub aggression: Option<f64>,
}
