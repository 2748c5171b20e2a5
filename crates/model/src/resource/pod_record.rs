//! What the platform knows of running pods and tells the control plane: the part that a Kubernetes watch plays in a cluster.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::meta::StringMap;
use super::service::TransportProtocol;

/// One pod that exists, ready or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodRecord {
    /// The pod's name.
    pub name: String,
    /// The pod's namespace.
    pub namespace: String,
    /// Unique over time: a pod that replaces one of the same name has another.
    pub uid: String,
    /// Its addresses, the primary one first.
    pub ips: Vec<IpAddr>,
    /// Its name under a headless service (`spec.hostname`); empty if it chose none.
    #[serde(default)]
    pub hostname: String,
    /// The headless service under which `hostname` is (`spec.subdomain`); empty if it chose none.
    #[serde(default)]
    pub subdomain: String,
    /// Its labels, those that injection adds included.
    #[serde(default)]
    pub labels: StringMap,
    /// Its annotations.
    #[serde(default)]
    pub annotations: StringMap,
    /// The name of its service account.
    pub service_account: String,
    /// What made it.
    pub workload: WorkloadRef,
    /// The machine that it runs on.
    pub node: String,
    /// The ports that its containers declare.
    #[serde(default)]
    pub ports: Vec<PodPort>,
    /// Whether it has a sidecar.
    pub injected: bool,
    /// Whether all its readiness probes succeed.
    pub ready: bool,
    /// Whether it is being stopped; it then gets no new traffic, whatever `ready` says.
    pub terminating: bool,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created: u64,
}

/// What made a pod, for metrics' `workload` labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadRef {
    /// `Deployment`, or `Pod` for a pod of its own.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// A port that a container declares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodPort {
    /// Empty if it has none.
    #[serde(default)]
    pub name: String,
    /// The port.
    pub port: u16,
    /// The transport.
    #[serde(default)]
    pub protocol: TransportProtocol,
}

/// All pods and cluster IPs at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterState {
    /// Every pod that exists.
    pub pods: Vec<PodRecord>,
    /// Addresses given to services, by `NAMESPACE/NAME`; headless services are absent.
    #[serde(default)]
    pub cluster_ips: BTreeMap<String, Vec<IpAddr>>,
    /// Rises with every state, so that a late one is not taken for news.
    pub generation: u64,
}
