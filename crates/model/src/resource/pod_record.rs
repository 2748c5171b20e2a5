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

/// What is different in a later [`ClusterState`], so that one pod's change costs as much as one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterChange {
    /// The generation of the state that it is a change of.
    pub base: u64,
    /// That of the state after it; more than `base`.
    pub generation: u64,
    /// Pods that are new or altered.
    #[serde(default)]
    pub pods: Vec<PodRecord>,
    /// Pods that are gone, as `NAMESPACE/NAME`.
    #[serde(default)]
    pub gone: Vec<String>,
    /// Addresses of services that differ; none: the service has none any more.
    #[serde(default)]
    pub cluster_ips: BTreeMap<String, Vec<IpAddr>>,
}

impl ClusterChange {
    /// What has to be told to whom knows `old`.
    pub fn between(old: &ClusterState, new: &ClusterState) -> Self {
        fn by_name(state: &ClusterState) -> BTreeMap<(&str, &str), &PodRecord> {
            state.pods.iter().map(|pod| ((pod.namespace.as_str(), pod.name.as_str()), pod)).collect()
        }
        let (before, after) = (by_name(old), by_name(new));
        let altered = after.iter().filter(|(name, pod)| before.get(*name) != Some(*pod));
        let gone = before.keys().filter(|name| !after.contains_key(*name));
        let fresh = new.cluster_ips.iter().filter(|(name, ips)| old.cluster_ips.get(*name) != Some(*ips));
        let lost = old.cluster_ips.keys().filter(|name| !new.cluster_ips.contains_key(*name));
        Self {
            base: old.generation,
            generation: new.generation,
            pods: altered.map(|(_, pod)| PodRecord::clone(pod)).collect(),
            gone: gone.map(|(namespace, name)| format!("{namespace}/{name}")).collect(),
            cluster_ips: fresh
                .map(|(name, ips)| (name.clone(), ips.clone()))
                .chain(lost.map(|name| (name.clone(), Vec::new())))
                .collect(),
        }
    }
}
