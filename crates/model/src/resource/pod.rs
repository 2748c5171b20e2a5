//! `v1 Pod`, and the pod template of a Deployment.

use serde::{Deserialize, Serialize};

use super::Passthrough;
use super::meta::Object;

mod container;
mod probe;
mod unsupported;
mod validate;
mod volume;

pub use container::{
    ConfigMapKeySelector, Container, ContainerPort, ContainerRestartPolicy, EnvFromSource, EnvSource, EnvVar, EnvVarSource,
    FieldSelector, Lifecycle, LifecycleHandler, SleepAction, VolumeMount,
};
pub use probe::{ExecAction, GrpcAction, HttpGetAction, HttpHeader, HttpScheme, Probe, TcpSocketAction};
pub use volume::{
    ConfigMapVolume, DownwardApiFile, DownwardApiVolume, EmptyDirVolume, KeyToPath, ProjectedVolume, ProjectionSource,
    SecretProjection, SecretVolume, ServiceAccountTokenProjection, Volume,
};

/// A single pod.
pub type Pod = Object<PodSpec>;

/// Kubernetes' `PodSpec`.
///
/// Fields that place a pod, size it or confine it have no meaning on one machine and are accepted unread.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSpec {
    /// Run one after the other before the others start.
    pub init_containers: Vec<Container>,
    /// The pod's processes. At least one.
    pub containers: Vec<Container>,
    /// Files for the containers.
    pub volumes: Vec<Volume>,
    /// The identity; `default` if absent.
    pub service_account_name: Option<String>,
    /// The older name of `serviceAccountName`.
    pub service_account: Option<String>,
    /// When containers are started again; `Always` if absent.
    pub restart_policy: Option<RestartPolicy>,
    /// Seconds from the stop signal to the kill; 30 if absent.
    pub termination_grace_period_seconds: Option<i64>,
    /// The pod's host name; its own name if absent.
    pub hostname: Option<String>,
    /// Makes the pod `HOSTNAME.SUBDOMAIN.NAMESPACE.svc.…` under a headless service.
    pub subdomain: Option<String>,
    /// Extra lines for the pod's hosts file.
    pub host_aliases: Vec<HostAlias>,
    /// Where names are resolved; only `ClusterFirst` (the default) and `ClusterFirstWithHostNet`.
    pub dns_policy: Option<DnsPolicy>,
    /// Own name servers and search domains; not supported.
    pub dns_config: Option<Passthrough>,
    /// No network namespace of its own; not supported.
    pub host_network: bool,
    /// Environment variables for every service, as Kubernetes makes them by default; accepted, none are made.
    pub enable_service_links: Option<bool>,
    /// Ends the pod after a time; not supported.
    pub active_deadline_seconds: Option<i64>,
    /// Further conditions of readiness, set by other controllers; not supported.
    pub readiness_gates: Vec<Passthrough>,
    /// Not supported.
    pub ephemeral_containers: Vec<Passthrough>,
    /// Not supported.
    pub resource_claims: Vec<Passthrough>,
    /// Not supported: the pod would never be scheduled.
    pub scheduling_gates: Vec<Passthrough>,
    /// Accepted: processes share the machine's process list anyway.
    #[serde(rename = "hostPID")]
    pub host_pid: bool,
    /// Accepted: processes share the machine's IPC namespace anyway.
    #[serde(rename = "hostIPC")]
    pub host_ipc: bool,
    /// Accepted: processes share the machine's process list anyway.
    pub share_process_namespace: Option<bool>,
    /// Accepted; see [`super::ServiceAccount::automount_service_account_token`].
    pub automount_service_account_token: Option<bool>,
    /// Accepted: processes run as the user who started the mesh.
    pub security_context: Option<Passthrough>,
    /// Accepted: there are no images on one machine.
    pub image_pull_secrets: Vec<Passthrough>,
    /// Accepted: one machine.
    pub node_name: Option<String>,
    /// Accepted: one machine.
    pub node_selector: Option<Passthrough>,
    /// Accepted: one machine.
    pub affinity: Option<Passthrough>,
    /// Accepted: one machine.
    pub tolerations: Vec<Passthrough>,
    /// Accepted: one machine.
    pub topology_spread_constraints: Vec<Passthrough>,
    /// Accepted: one machine.
    pub scheduler_name: Option<String>,
    /// Accepted: one machine.
    pub priority_class_name: Option<String>,
    /// Accepted: one machine.
    pub priority: Option<i32>,
    /// Accepted: one machine.
    pub preemption_policy: Option<String>,
    /// Accepted: no container runtime.
    pub runtime_class_name: Option<String>,
    /// Accepted: no resource limits.
    pub overhead: Option<Passthrough>,
    /// Accepted: no resource limits.
    pub resources: Option<Passthrough>,
    /// Accepted; Linux is the only one.
    pub os: Option<Passthrough>,
    /// Accepted: no container runtime.
    pub host_users: Option<bool>,
    /// Accepted: the short host name is used.
    #[serde(rename = "setHostnameAsFQDN")]
    pub set_hostname_as_fqdn: Option<bool>,
    /// Accepted.
    pub hostname_override: Option<String>,
}

impl PodSpec {
    /// The service account's name, `default` if none is written.
    pub fn service_account_name(&self) -> &str {
        let written = self.service_account_name.as_deref().or(self.service_account.as_deref());
        written.filter(|name| !name.is_empty()).unwrap_or("default")
    }
}

/// When containers are started again after they end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// Whenever they end.
    #[default]
    Always,
    /// When they end with an error.
    OnFailure,
    /// Never.
    Never,
}

/// `spec.dnsPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DnsPolicy {
    /// The mesh's names first, then the machine's.
    ClusterFirst,
    /// The same for pods on the host's network.
    ClusterFirstWithHostNet,
    /// The machine's resolver alone; not supported.
    Default,
    /// `dnsConfig` alone; not supported.
    None,
}

/// Extra names for an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HostAlias {
    /// The address.
    pub ip: String,
    /// Its names.
    pub hostnames: Vec<String>,
}
