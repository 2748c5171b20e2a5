//! `ProxyConfig`: settings of one proxy or of all (`MeshConfig.defaultConfig`).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::resource::{Passthrough, ProtoDuration, StringMap};

/// Settings of a proxy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ProxyConfig {
    /// Worker threads; 0: one for every core. Absent: 2.
    pub concurrency: Option<u32>,
    /// How long old connections live on when listeners change or end.
    pub drain_duration: ProtoDuration,
    /// How long a proxy serves on after it is told to end.
    pub termination_drain_duration: ProtoDuration,
    /// Whether the application starts only when the proxy is ready.
    pub hold_application_until_proxy_starts: Option<bool>,
    /// Spans.
    pub tracing: Tracing,
    /// Headers that the proxy adds or takes away.
    pub proxy_headers: Option<ProxyHeaders>,
    /// Where the control plane is; `lateen up` knows that itself.
    pub discovery_address: Option<String>,
    /// Metadata that the proxy shows to the control plane.
    pub proxy_metadata: StringMap,
    /// How the application's readiness is probed in its place; not supported yet.
    pub readiness_probe: Option<Passthrough>,
    /// What is trusted of proxies in front of a gateway.
    pub gateway_topology: Option<GatewayTopology>,
    /// Which of Envoy's own statistics are kept; accepted: there are none of Envoy's.
    pub proxy_stats_matcher: Option<Passthrough>,
    /// Accepted: deprecated.
    pub extra_stat_tags: Vec<String>,
    /// Only `REDIRECT`.
    pub interception_mode: Option<String>,
    /// Only 15000.
    pub proxy_admin_port: Option<u32>,
    /// Accepted: there is no separate agent with a port of its own.
    pub status_port: Option<u32>,
    /// Accepted: a path of Envoy's.
    pub config_path: Option<String>,
    /// Accepted: a path of Envoy's.
    pub binary_path: Option<String>,
    /// Accepted: a name for Envoy's own statistics.
    pub service_cluster: Option<String>,
    /// Accepted: a bound for Envoy's own statistics.
    pub stat_name_length: Option<u32>,
    /// Accepted: it is mutual TLS.
    pub control_plane_auth_policy: Option<String>,
    /// Accepted: there are no images on one machine.
    pub image: Option<Passthrough>,
    /// Accepted: there is no wasm runtime and no crypto provider to choose.
    pub private_key_provider: Option<Passthrough>,
    /// The mesh's name for telemetry.
    pub mesh_id: Option<String>,
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            concurrency: None,
            drain_duration: ProtoDuration::new(Duration::from_secs(45)),
            termination_drain_duration: ProtoDuration::new(Duration::from_secs(5)),
            hold_application_until_proxy_starts: None,
            tracing: Tracing::default(),
            proxy_headers: None,
            discovery_address: None,
            proxy_metadata: StringMap::new(),
            readiness_probe: None,
            gateway_topology: None,
            proxy_stats_matcher: None,
            extra_stat_tags: Vec::new(),
            interception_mode: None,
            proxy_admin_port: None,
            status_port: None,
            config_path: None,
            binary_path: None,
            service_cluster: None,
            stat_name_length: None,
            control_plane_auth_policy: None,
            image: None,
            private_key_provider: None,
            mesh_id: None,
        }
    }
}

/// Spans.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Tracing {
    /// Share of new traces that are recorded, in per cent.
    pub sampling: f64,
    /// The longest path in a tag, in bytes; 256 if absent.
    pub max_path_tag_length: Option<u32>,
    /// Further tags; not supported yet.
    pub custom_tags: Option<Passthrough>,
    /// Not supported: an OpenTelemetry provider is.
    pub zipkin: Option<Passthrough>,
    /// Not supported: an OpenTelemetry provider is.
    pub lightstep: Option<Passthrough>,
    /// Not supported: an OpenTelemetry provider is.
    pub datadog: Option<Passthrough>,
    /// Not supported: an OpenTelemetry provider is.
    pub stackdriver: Option<Passthrough>,
    /// Not supported: an OpenTelemetry provider is.
    pub open_census_agent: Option<Passthrough>,
}

impl Default for Tracing {
    /// One trace in a hundred, as `PILOT_TRACE_SAMPLING` has it.
    fn default() -> Self {
        Self {
            sampling: 1.0,
            max_path_tag_length: None,
            custom_tags: None,
            zipkin: None,
            lightstep: None,
            datadog: None,
            stackdriver: None,
            open_census_agent: None,
        }
    }
}

/// Headers that the proxy adds or takes away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ProxyHeaders {
    /// `x-forwarded-client-cert`.
    pub forwarded_client_cert: ForwardClientCert,
    /// `x-request-id`.
    pub request_id: Option<ProxyHeaderSwitch>,
    /// `server`.
    pub server: Option<ServerHeader>,
    /// `x-envoy-attempt-count`.
    pub attempt_count: Option<ProxyHeaderSwitch>,
    /// `x-envoy-…` headers for debugging; turning them off is not supported yet.
    pub envoy_debug_headers: Option<ProxyHeaderSwitch>,
    /// `x-envoy-peer-metadata` and its `-id`.
    pub metadata_exchange_headers: Option<MetadataExchangeHeaders>,
    /// `x-forwarded-host`; not supported yet.
    pub x_forwarded_host: Option<OptInHeader>,
    /// `x-forwarded-port`; not supported yet.
    pub x_forwarded_port: Option<OptInHeader>,
    /// What of the client's certificate is put into `x-forwarded-client-cert`; not supported yet.
    pub set_current_client_cert_details: Option<Passthrough>,
    /// Keeps the case of HTTP/1.1 headers; not supported yet.
    pub preserve_http1_header_case: Option<bool>,
}

/// What is trusted of proxies in front of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewayTopology {
    /// How many proxies in front have appended to `x-forwarded-for`.
    pub num_trusted_proxies: u32,
    /// `x-forwarded-client-cert`; `SANITIZE_SET` if nothing is said.
    pub forward_client_cert_details: ForwardClientCert,
    /// The PROXY protocol; not supported yet.
    pub proxy_protocol: Option<Passthrough>,
}

/// What becomes of `x-forwarded-client-cert`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ForwardClientCert {
    /// `APPEND_FORWARD` for sidecars' servers, `SANITIZE_SET` for gateways.
    #[default]
    Undefined,
    /// Taken away.
    Sanitize,
    /// Passed on over mutual TLS.
    ForwardOnly,
    /// Passed on over mutual TLS with the peer added.
    AppendForward,
    /// Replaced by the peer.
    SanitizeSet,
    /// Passed on always; not supported yet.
    AlwaysForwardOnly,
}

/// Whether a header is handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ProxyHeaderSwitch {
    /// True turns it off.
    pub disabled: Option<bool>,
}

/// A header that is off unless it is turned on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct OptInHeader {
    /// True turns it on.
    pub enabled: Option<bool>,
}

/// `server`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ServerHeader {
    /// True passes the application's own on.
    pub disabled: Option<bool>,
    /// Instead of `istio-envoy`.
    pub value: String,
}

/// Headers by which proxies know each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct MetadataExchangeHeaders {
    /// When they are sent.
    pub mode: MetadataExchangeMode,
}

/// When metadata headers are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MetadataExchangeMode {
    /// Always.
    #[default]
    Undefined,
    /// Only inside the mesh; not supported yet.
    InMesh,
}
