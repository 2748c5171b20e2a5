//! Limits for connections and requests.

use serde::{Deserialize, Serialize};

use crate::resource::ProtoDuration;

/// Limits for connections and requests; at least one of the two is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ConnectionPoolSettings {
    /// For every connection.
    pub tcp: Option<TcpPoolSettings>,
    /// For HTTP.
    pub http: Option<HttpPoolSettings>,
}

/// Limits for every connection.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpPoolSettings {
    /// To all endpoints together; 0: no limit.
    pub max_connections: i32,
    /// 10 s if absent (`MeshConfig.connectTimeout`).
    pub connect_timeout: Option<ProtoDuration>,
    /// Probes of idle connections; none if absent.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// After it a connection is closed, busy or not; no limit if absent.
    pub max_connection_duration: Option<ProtoDuration>,
    /// After it an idle connection is closed; 1 h if absent, 0: never.
    pub idle_timeout: Option<ProtoDuration>,
}

/// Probes of idle connections; the kernel's own values for what is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpKeepalive {
    /// How many unanswered probes end the connection.
    pub probes: u32,
    /// Idle time before the first.
    pub time: Option<ProtoDuration>,
    /// Between probes.
    pub interval: Option<ProtoDuration>,
}

/// Limits for HTTP.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpPoolSettings {
    /// Requests that wait for a connection; 0: no limit.
    pub http1_max_pending_requests: i32,
    /// Requests in flight; 0: no limit. For HTTP/1.1 too, whatever the name says.
    pub http2_max_requests: i32,
    /// Then a connection is closed; 0: no limit.
    pub max_requests_per_connection: i32,
    /// Retries in flight; 0: no limit.
    pub max_retries: i32,
    /// After it a connection without requests is closed; 1 h if absent.
    pub idle_timeout: Option<ProtoDuration>,
    /// Whether HTTP/1.1 requests are sent as HTTP/2.
    pub h2_upgrade_policy: H2UpgradePolicy,
    /// Sends requests in the protocol that they came in.
    pub use_client_protocol: bool,
    /// Requests at once on one HTTP/2 connection; 0: no limit of our own.
    pub max_concurrent_streams: i32,
    /// PING frames on HTTP/2 connections; not where the client chooses the version.
    #[serde(rename = "http2KeepAlive")]
    pub http2_keep_alive: Option<Http2KeepAlive>,
}

/// Whether HTTP/1.1 requests are sent as HTTP/2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum H2UpgradePolicy {
    /// As `MeshConfig.h2UpgradePolicy` says.
    #[default]
    Default,
    /// No.
    DoNotUpgrade,
    /// Yes.
    Upgrade,
}

/// PING frames on HTTP/2 connections.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Http2KeepAlive {
    /// Between PINGs.
    pub interval: Option<ProtoDuration>,
    /// Without an answer, the connection is closed.
    pub timeout: Option<ProtoDuration>,
}
