//! `networking.istio.io ServiceEntry`: a service that the platform does not know, inside or outside of the mesh.

use serde::{Deserialize, Serialize};

use super::meta::{Object, StringMap};
use super::selector::SidecarSelector;
use super::service::TransportProtocol;
use super::workload_entry::WorkloadEntrySpec;

mod validate;

/// A service that the platform does not know.
pub type ServiceEntry = Object<ServiceEntrySpec>;

/// Istio's `ServiceEntry` message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceEntrySpec {
    /// Its names, 1 to 256; one may begin with a wildcard. Never expanded.
    pub hosts: Vec<String>,
    /// Addresses or CIDR blocks that clients connect to, up to 256; none: they may be given automatically.
    pub addresses: Vec<String>,
    /// Its ports.
    pub ports: Vec<ServiceEntryPort>,
    /// Whether its workloads are part of the mesh.
    pub location: ServiceEntryLocation,
    /// How its endpoints are found.
    pub resolution: ServiceEntryResolution,
    /// Its endpoints.
    pub endpoints: Vec<WorkloadEntrySpec>,
    /// WorkloadEntries and pods of its namespace that are its endpoints.
    pub workload_selector: Option<SidecarSelector>,
    /// Namespaces that see it; see [`super::ExportTo`].
    pub export_to: Vec<String>,
    /// Names that servers' certificates may have.
    pub subject_alt_names: Vec<String>,
}

/// A port of a [`ServiceEntrySpec`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceEntryPort {
    /// 1 to 65535.
    pub number: u32,
    /// E.g. `HTTP`; empty: told from what is said.
    pub protocol: String,
    /// Its name.
    pub name: String,
    /// The endpoints' port, if it is another.
    pub target_port: u32,
}

/// Whether a service's workloads are part of the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ServiceEntryLocation {
    /// They are not: no mutual TLS by default.
    #[default]
    MeshExternal,
    /// They are.
    MeshInternal,
}

/// How endpoints are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ServiceEntryResolution {
    /// The client knows: connections go where it wanted to go.
    #[default]
    None,
    /// They are written.
    Static,
    /// Proxies resolve names and use all addresses.
    Dns,
    /// Proxies resolve one name and use the first address of each answer.
    DnsRoundRobin,
    /// Proxies resolve the name that a request asks for; not supported yet.
    DynamicDns,
}

impl ServiceEntrySpec {
    /// Whether its hosts are given addresses automatically: it has none of its own, and clients do not have to know better
    /// (Istio's rule; wildcards have none).
    pub fn wants_addresses(&self, labels: &StringMap) -> bool {
        self.addresses.is_empty()
            && self.resolution != ServiceEntryResolution::None
            && labels.get(NO_ADDRESSES_LABEL).is_none_or(|value| value != "false")
    }

    /// The transport of a port: `UDP` is never proxied.
    pub fn transport(port: &ServiceEntryPort) -> TransportProtocol {
        if port.protocol.eq_ignore_ascii_case("udp") { TransportProtocol::Udp } else { TransportProtocol::Tcp }
    }
}

/// With the value `false`, a ServiceEntry's hosts get no addresses.
pub const NO_ADDRESSES_LABEL: &str = "networking.istio.io/enable-autoallocate-ip";
