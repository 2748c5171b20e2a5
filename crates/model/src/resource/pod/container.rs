//! One container of a pod: on one machine, a host process.

use serde::{Deserialize, Serialize};

use super::probe::{ExecAction, HttpGetAction, Probe, TcpSocketAction};
use crate::resource::{Passthrough, TransportProtocol};

/// Kubernetes' `Container`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Container {
    /// Unique in the pod.
    pub name: String,
    /// Not used on one machine: `command` names a host executable.
    pub image: Option<String>,
    /// Accepted: there are no images on one machine.
    pub image_pull_policy: Option<String>,
    /// The executable and its first arguments. `$(VAR)` refers to `env`.
    pub command: Vec<String>,
    /// Further arguments. `$(VAR)` refers to `env`.
    pub args: Vec<String>,
    /// The directory to run in.
    pub working_dir: Option<String>,
    /// Ports that the container listens on. `targetPort: NAME` and the sidecar's inbound configuration need them.
    pub ports: Vec<ContainerPort>,
    /// Environment variables.
    pub env: Vec<EnvVar>,
    /// Environment variables from whole ConfigMaps and Secrets; `env` wins.
    pub env_from: Vec<EnvFromSource>,
    /// Where volumes appear.
    pub volume_mounts: Vec<VolumeMount>,
    /// Block devices; not supported.
    pub volume_devices: Vec<Passthrough>,
    /// Whether traffic may come.
    pub readiness_probe: Option<Probe>,
    /// Whether the process must be restarted.
    pub liveness_probe: Option<Probe>,
    /// Holds the other probes back until it succeeds.
    pub startup_probe: Option<Probe>,
    /// What runs after the start and before the stop.
    pub lifecycle: Option<Lifecycle>,
    /// Only for init containers, where `Always` makes it run beside the others; not supported.
    pub restart_policy: Option<ContainerRestartPolicy>,
    /// Not supported.
    pub restart_policy_rules: Vec<Passthrough>,
    /// Accepted: no resource limits on one machine.
    pub resources: Option<Passthrough>,
    /// Accepted: no resource limits on one machine.
    pub resize_policy: Vec<Passthrough>,
    /// Accepted: processes run as the user who started the mesh.
    pub security_context: Option<Passthrough>,
    /// Accepted.
    pub termination_message_path: Option<String>,
    /// Accepted.
    pub termination_message_policy: Option<String>,
    /// Accepted: standard input is empty.
    pub stdin: bool,
    /// Accepted.
    pub stdin_once: bool,
    /// Accepted: there is no terminal.
    pub tty: bool,
}

/// One port of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerPort {
    /// Name for `targetPort` and probes.
    pub name: String,
    /// 1 to 65535.
    pub container_port: i64,
    /// The transport.
    pub protocol: TransportProtocol,
    /// A port of the host's; not supported.
    pub host_port: Option<i64>,
    /// Only with `hostPort`.
    #[serde(rename = "hostIP")]
    pub host_ip: Option<String>,
}

/// One environment variable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct EnvVar {
    /// The variable's name.
    pub name: String,
    /// Its value; `$(VAR)` refers to variables before it.
    pub value: Option<String>,
    /// Where its value comes from, instead of `value`.
    pub value_from: Option<EnvVarSource>,
}

/// Where a variable's value comes from; exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct EnvVarSource {
    /// A field of the pod.
    pub field_ref: Option<FieldSelector>,
    /// A key of a ConfigMap.
    pub config_map_key_ref: Option<ConfigMapKeySelector>,
    /// A key of a Secret.
    pub secret_key_ref: Option<ConfigMapKeySelector>,
    /// A resource limit; not supported.
    pub resource_field_ref: Option<Passthrough>,
    /// Not supported.
    pub file_key_ref: Option<Passthrough>,
}

/// A field of the pod, e.g. `metadata.name` or `status.podIP`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct FieldSelector {
    /// `v1` if absent.
    pub api_version: Option<String>,
    /// `metadata.name`, `metadata.namespace`, `metadata.uid`, `metadata.labels['KEY']`, `metadata.annotations['KEY']`,
    /// `spec.nodeName`, `spec.serviceAccountName`, `status.podIP`, `status.podIPs`, `status.hostIP`, `status.hostIPs`.
    pub field_path: String,
}

/// A key of a ConfigMap or of a Secret of the pod's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigMapKeySelector {
    /// The ConfigMap's or Secret's name.
    pub name: String,
    /// The key in it.
    pub key: String,
    /// Whether the pod starts without it.
    pub optional: bool,
}

/// All keys of a ConfigMap or a Secret as variables; exactly one of the two is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct EnvFromSource {
    /// Put before every name.
    pub prefix: String,
    /// A ConfigMap of the pod's namespace.
    pub config_map_ref: Option<EnvSource>,
    /// A Secret of the pod's namespace.
    pub secret_ref: Option<EnvSource>,
}

/// The name of a ConfigMap or a Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct EnvSource {
    /// Its name.
    pub name: String,
    /// Whether the pod starts without it.
    pub optional: bool,
}

/// Where a volume appears.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct VolumeMount {
    /// The volume's name.
    pub name: String,
    /// Where it appears.
    pub mount_path: String,
    /// The part of the volume that appears; all of it if empty.
    pub sub_path: String,
    /// `subPath` with `$(VAR)`s; not supported.
    pub sub_path_expr: Option<String>,
    /// Whether the container may not write there.
    pub read_only: bool,
    /// Accepted.
    pub recursive_read_only: Option<String>,
    /// Accepted.
    pub mount_propagation: Option<String>,
}

/// What runs after the start and before the stop.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Lifecycle {
    /// Right after the start.
    pub post_start: Option<LifecycleHandler>,
    /// Before the stop signal, within the grace period.
    pub pre_stop: Option<LifecycleHandler>,
    /// The stop signal instead of `SIGTERM`.
    pub stop_signal: Option<String>,
}

/// One action; exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct LifecycleHandler {
    /// A command.
    pub exec: Option<ExecAction>,
    /// A GET request.
    pub http_get: Option<HttpGetAction>,
    /// Deprecated and without an effect in Kubernetes; refused.
    pub tcp_socket: Option<TcpSocketAction>,
    /// A pause.
    pub sleep: Option<SleepAction>,
}

/// A pause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct SleepAction {
    /// Seconds.
    pub seconds: i64,
}

/// `restartPolicy` of one container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerRestartPolicy {
    /// A sidecar container.
    Always,
    /// When it ends with an error.
    OnFailure,
    /// Never.
    Never,
}
