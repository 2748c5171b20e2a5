//! Routes for connections instead of requests.

use serde::{Deserialize, Serialize};

use super::Destination;
use crate::resource::meta::StringMap;

/// Routes by TLS server name, without ending TLS.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsRoute {
    /// Alternatives; at least one.
    #[serde(rename = "match")]
    pub matches: Vec<TlsMatchAttributes>,
    /// Where connections go, by weight.
    pub route: Vec<RouteDestination>,
}

/// Conditions of a [`TlsRoute`], all of which must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsMatchAttributes {
    /// Server names; each is covered by one of the VirtualService's hosts.
    pub sni_hosts: Vec<String>,
    /// Destination addresses, as CIDR or IP.
    pub destination_subnets: Vec<String>,
    /// The service's port.
    pub port: Option<u32>,
    /// Labels of the client's pod.
    pub source_labels: StringMap,
    /// Instead of the VirtualService's own `gateways`.
    pub gateways: Vec<String>,
    /// The client's namespace.
    pub source_namespace: String,
}

/// Routes for plain TCP.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpRoute {
    /// Alternatives; empty matches everything.
    #[serde(rename = "match")]
    pub matches: Vec<L4MatchAttributes>,
    /// Where connections go, by weight.
    pub route: Vec<RouteDestination>,
}

/// Conditions of a [`TcpRoute`], all of which must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct L4MatchAttributes {
    /// Destination addresses, as CIDR or IP.
    pub destination_subnets: Vec<String>,
    /// The service's port.
    pub port: Option<u32>,
    /// Accepted, and without an effect in Istio too.
    pub source_subnet: String,
    /// Labels of the client's pod.
    pub source_labels: StringMap,
    /// Instead of the VirtualService's own `gateways`.
    pub gateways: Vec<String>,
    /// The client's namespace.
    pub source_namespace: String,
}

/// One destination of a [`TlsRoute`] or [`TcpRoute`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteDestination {
    /// The service.
    pub destination: Option<Destination>,
    /// Share of the connections, relative to the sum of all weights.
    pub weight: i32,
}
