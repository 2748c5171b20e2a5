//! `networking.istio.io Sidecar`: what a sidecar knows and where it listens.

use serde::{Deserialize, Serialize};

use super::Passthrough;
use super::destination_rule::ConnectionPoolSettings;
use super::meta::Object;
use super::selector::SidecarSelector;
use super::virtual_service::Destination;

/// What a sidecar knows and where it listens.
pub type Sidecar = Object<SidecarSpec>;

/// Istio's `Sidecar` message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct SidecarSpec {
    /// Pods that it is for; absent: all of the namespace (of the mesh, in the root namespace).
    pub workload_selector: Option<SidecarSelector>,
    /// Inbound listeners instead of the services' ports; not supported yet.
    pub ingress: Vec<IstioIngressListener>,
    /// What is known of other services; empty: everything.
    pub egress: Vec<IstioEgressListener>,
    /// What becomes of traffic to unknown addresses; absent: as `MeshConfig.outboundTrafficPolicy` says.
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    /// Limits for connections to the application; not supported yet.
    pub inbound_connection_pool: Option<ConnectionPoolSettings>,
}

/// One inbound listener.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct IstioIngressListener {
    /// Where it listens.
    pub port: Option<SidecarPort>,
    /// Address to listen on.
    pub bind: String,
    /// How traffic gets there.
    pub capture_mode: CaptureMode,
    /// Where the application listens.
    pub default_endpoint: String,
    /// TLS instead of the mesh's own.
    pub tls: Option<Passthrough>,
    /// Limits for connections to the application.
    pub connection_pool: Option<ConnectionPoolSettings>,
}

/// One outbound listener.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct IstioEgressListener {
    /// Listens on this port only; not supported yet.
    pub port: Option<SidecarPort>,
    /// Address to listen on; not supported yet.
    pub bind: String,
    /// How traffic gets there; not supported yet.
    pub capture_mode: CaptureMode,
    /// Services that are known, as `NAMESPACE/HOST`; `~NAMESPACE/HOST` takes them out again.
    pub hosts: Vec<String>,
}

/// A port of a listener.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct SidecarPort {
    /// 1 to 65535, or 0 with a Unix socket.
    pub number: u32,
    /// E.g. `HTTP`.
    pub protocol: String,
    /// Its name.
    pub name: String,
    /// Deprecated.
    pub target_port: Option<u32>,
}

/// How traffic gets to a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CaptureMode {
    /// As the environment has it.
    #[default]
    Default,
    /// Redirected.
    Iptables,
    /// Sent there by the application itself.
    None,
}

/// What becomes of traffic to unknown addresses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct OutboundTrafficPolicy {
    /// An empty `outboundTrafficPolicy: {}` means `REGISTRY_ONLY`, the first value of the enumeration.
    pub mode: OutboundTrafficMode,
    /// A service that such traffic is sent to; not supported yet.
    pub egress_proxy: Option<Destination>,
}

/// `mode` of [`OutboundTrafficPolicy`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OutboundTrafficMode {
    /// It is dropped.
    #[default]
    RegistryOnly,
    /// It goes on unchanged.
    AllowAny,
    /// Only in `MeshConfig`, and not supported yet.
    AllowAnyDynamicDns,
}
