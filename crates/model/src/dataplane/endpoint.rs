//! Endpoints of a cluster (EDS, `envoy.config.endpoint.v3`).

use serde::Serialize;
use std::net::SocketAddr;

/// The endpoints of one cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClusterLoadAssignment {
    /// The cluster's (service) name.
    pub cluster_name: String,
    /// Endpoints by locality and priority.
    pub localities: Vec<LocalityEndpoints>,
}

/// A place, from wide to narrow (`envoy.config.core.v3.Locality`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Locality {
    /// e.g. `us-east1`.
    pub region: String,
    /// e.g. `us-east1-b`.
    pub zone: String,
    /// Istio's subzone.
    pub sub_zone: String,
}

/// The endpoints of one locality at one priority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LocalityEndpoints {
    /// Where they are.
    pub locality: Locality,
    /// 0 is the highest; priorities have no gaps.
    pub priority: u32,
    /// Weight of the locality; `None` where localities are not weighted.
    pub weight: Option<u32>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// What the control plane knows of an endpoint's health (`HealthStatus`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointHealth {
    /// May be used.
    #[default]
    Healthy,
    /// Must not be used unless everything is unhealthy.
    Unhealthy,
    /// Takes no new traffic except for persistent sessions.
    Draining,
}

/// How an endpoint expects to be spoken to (metadata `envoy.transport_socket_match`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TlsMode {
    /// No metadata.
    #[default]
    Disabled,
    /// `tlsMode: istio`: mutual TLS with workload certificates.
    Istio,
}

/// The workload behind an endpoint (metadata `istio`, key `workload`: `workload;namespace;canonical name;revision;cluster`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct WorkloadRef {
    /// Name of the workload, e.g. the Deployment's.
    pub workload: String,
    /// Its namespace.
    pub namespace: String,
    /// Canonical service name.
    pub canonical_name: String,
    /// Canonical revision.
    pub canonical_revision: String,
    /// Cluster id.
    pub cluster_id: String,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// Health as the control plane sees it.
    pub health: EndpointHealth,
    /// Load-balancing weight; at least 1.
    pub weight: u32,
    /// How to speak to it.
    pub tls_mode: TlsMode,
    /// Who it is, for telemetry.
    pub workload: Option<WorkloadRef>,
}
