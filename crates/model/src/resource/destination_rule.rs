//! `networking.istio.io DestinationRule`: how a service is called once a route has chosen it.

use serde::{Deserialize, Serialize};

use super::ProtoDuration;
use super::meta::{Object, StringMap};
use super::selector::WorkloadSelector;
use super::virtual_service::PortSelector;

mod connection_pool;
mod load_balancer;
mod settings_check;
mod tls;
mod unsupported;
mod validate;

pub use connection_pool::{
    ConnectionPoolSettings, H2UpgradePolicy, Http2KeepAlive, HttpPoolSettings, TcpKeepalive, TcpPoolSettings,
};
pub use load_balancer::{
    ConsistentHash, HttpCookie, HttpCookieAttribute, LoadBalancerSettings, LocalityDistribute, LocalityFailover,
    LocalityLbSetting, Maglev, RingHash, SimpleLb, Warmup, ZoneAwareLbSetting,
};
pub(crate) use settings_check::{
    connection_pool as check_connection_pool, keepalive as check_keepalive, locality as check_locality,
    zone_aware as check_zone_aware,
};
pub use tls::{ClientTlsMode, ClientTlsSettings, ProxyProtocol, ProxyProtocolVersion, TunnelSettings};

/// How a service is called.
pub type DestinationRule = Object<DestinationRuleSpec>;

/// Istio's `DestinationRule` message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct DestinationRuleSpec {
    /// The service's host, possibly with a wildcard as the first label; a short name belongs to the object's own namespace.
    pub host: String,
    /// For the whole service.
    pub traffic_policy: Option<TrafficPolicy>,
    /// Named parts of the service.
    pub subsets: Vec<Subset>,
    /// Namespaces that see it; see [`super::ExportTo`].
    pub export_to: Vec<String>,
    /// Clients that it is for; not supported yet.
    pub workload_selector: Option<WorkloadSelector>,
}

/// A named part of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Subset {
    /// A DNS label.
    pub name: String,
    /// Labels of the endpoints that belong to it; empty: all.
    pub labels: StringMap,
    /// Replaces, setting by setting, the service's own.
    pub traffic_policy: Option<TrafficPolicy>,
}

/// How endpoints are chosen, connected to, and thrown out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficPolicy {
    /// How an endpoint is chosen.
    pub load_balancer: Option<LoadBalancerSettings>,
    /// Limits for connections and requests.
    pub connection_pool: Option<ConnectionPoolSettings>,
    /// When an endpoint is thrown out for a time.
    pub outlier_detection: Option<OutlierDetection>,
    /// TLS to the endpoints; absent: decided automatically.
    pub tls: Option<ClientTlsSettings>,
    /// For single ports; each entry replaces all four settings above.
    pub port_level_settings: Vec<PortTrafficPolicy>,
    /// The HTTP tunnel in which bytes go through the host, a proxy.
    pub tunnel: Option<TunnelSettings>,
    /// The PROXY protocol tells the endpoints whose each connection is.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// How many retries may be in flight.
    pub retry_budget: Option<RetryBudget>,
}

/// A [`TrafficPolicy`] of one port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct PortTrafficPolicy {
    /// The service's port.
    pub port: Option<PortSelector>,
    /// How an endpoint is chosen.
    pub load_balancer: Option<LoadBalancerSettings>,
    /// Limits for connections and requests.
    pub connection_pool: Option<ConnectionPoolSettings>,
    /// When an endpoint is thrown out for a time.
    pub outlier_detection: Option<OutlierDetection>,
    /// TLS to the endpoints.
    pub tls: Option<ClientTlsSettings>,
}

/// When an endpoint is thrown out for a time. Defaults are Envoy's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct OutlierDetection {
    /// Deprecated and ignored, with a warning.
    pub consecutive_errors: Option<i32>,
    /// 5xx answers in a row; 5 if absent, 0 turns it off.
    #[serde(rename = "consecutive5xxErrors")]
    pub consecutive_5xx_errors: Option<u32>,
    /// 502, 503 and 504 answers in a row; off if absent or 0.
    pub consecutive_gateway_errors: Option<u32>,
    /// Counts failures to connect apart from answers.
    pub split_external_local_origin_errors: bool,
    /// Failures to connect in a row; 5 if absent. Only with `splitExternalLocalOriginErrors`.
    pub consecutive_local_origin_failures: Option<u32>,
    /// Between sweeps; 10 s if absent.
    pub interval: Option<ProtoDuration>,
    /// Times the number of ejections so far; 30 s if absent.
    pub base_ejection_time: Option<ProtoDuration>,
    /// Of the endpoints; 10 if absent or 0.
    pub max_ejection_percent: i32,
    /// Of the endpoints; below it all are used, healthy or not. 0 turns that off.
    pub min_health_percent: i32,
    /// Statuses that are failures instead of 5xx; empty is 5xx.
    pub outlier_detection_http_error_codes: Vec<u32>,
}

/// How many retries may be in flight, as a share of the requests in flight, or of those of the last while.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RetryBudget {
    /// In per cent; 20 if absent.
    pub percent: Option<f64>,
    /// Always allowed; 3 if absent.
    pub min_retry_concurrency: Option<u32>,
    /// For how long a request counts from its begin, whether it has ended or not; absent or zero: while it is in flight.
    pub budget_interval: Option<ProtoDuration>,
}
