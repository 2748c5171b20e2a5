//! Fields of a pod that Kubernetes implements and this version does not.

use super::container::{Container, EnvVarSource};
use super::probe::{HttpGetAction, HttpScheme};
use super::volume::Volume;
use super::{DnsPolicy, PodSpec};
use crate::resource::{Issues, shorten};

impl PodSpec {
    /// Reports fields that are set and not implemented, at the spec that `issues` is at.
    pub(in crate::resource) fn unsupported(&self, issues: &mut Issues) {
        issues.unsupported_if(self.host_network, "hostNetwork");
        issues.unsupported_if(self.dns_config.is_some(), "dnsConfig");
        issues.unsupported_if(matches!(self.dns_policy, Some(DnsPolicy::Default | DnsPolicy::None)), "dnsPolicy");
        issues.unsupported_if(self.active_deadline_seconds.is_some(), "activeDeadlineSeconds");
        issues.unsupported_if(!self.readiness_gates.is_empty(), "readinessGates");
        issues.unsupported_if(!self.ephemeral_containers.is_empty(), "ephemeralContainers");
        issues.unsupported_if(!self.resource_claims.is_empty(), "resourceClaims");
        issues.unsupported_if(!self.scheduling_gates.is_empty(), "schedulingGates");
        issues.each("volumes", &self.volumes, |issues, volume| {
            for (key, set) in volume.sources() {
                issues.unsupported_if(set && !matches!(key, "configMap" | "secret" | "emptyDir"), key);
            }
        });
        issues.each("initContainers", &self.init_containers, container);
        issues.each("containers", &self.containers, container);
    }
}

fn container(issues: &mut Issues, container: &Container) {
    // What injection replaces has no program of its own.
    let is_proxy = container.name == "istio-proxy" && container.image.as_deref() == Some("auto");
    if container.command.is_empty() && !is_proxy {
        issues.error_at("command", "is required: containers run as processes of this machine, and images are not used");
    }
    issues.unsupported_if(container.restart_policy.is_some(), "restartPolicy");
    issues.unsupported_if(!container.restart_policy_rules.is_empty(), "restartPolicyRules");
    issues.unsupported_if(!container.volume_devices.is_empty(), "volumeDevices");
    issues.each("ports", &container.ports, |issues, port| {
        issues.unsupported_if(port.host_port.is_some_and(|port| port != 0), "hostPort");
    });
    issues.each("volumeMounts", &container.volume_mounts, |issues, mount| {
        issues.unsupported_if(mount.sub_path_expr.is_some(), "subPathExpr");
    });
    issues.each("env", &container.env, |issues, variable| {
        issues.optional("valueFrom", variable.value_from.as_ref(), |issues, source: &EnvVarSource| {
            issues.unsupported_if(source.resource_field_ref.is_some(), "resourceFieldRef");
            issues.unsupported_if(source.file_key_ref.is_some(), "fileKeyRef");
        });
    });
    let probes = [
        ("readinessProbe", &container.readiness_probe),
        ("livenessProbe", &container.liveness_probe),
        ("startupProbe", &container.startup_probe),
    ];
    for (key, probe) in probes {
        issues.optional(key, probe.as_ref(), |issues, probe| {
            issues.optional("httpGet", probe.http_get.as_ref(), http_get);
            issues.optional("grpc", probe.grpc.as_ref(), |issues, grpc| {
                if grpc.service.len() > LONGEST_GRPC_SERVICE {
                    issues.error_at("service", format!("must not be longer than {LONGEST_GRPC_SERVICE} bytes"));
                }
            });
        });
    }
    issues.optional("lifecycle", container.lifecycle.as_ref(), |issues, lifecycle| {
        if let Some(name) = lifecycle.stop_signal.as_deref().filter(|name| !SIGNALS.contains(name)) {
            issues.error_at("stopSignal", format!("{:?} must be one of {}", shorten(name), SIGNALS.join(", ")));
        }
        for (key, handler) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
            issues.optional(key, handler.as_ref(), |issues, handler| {
                issues.unsupported_if(handler.tcp_socket.is_some(), "tcpSocket");
                issues.optional("httpGet", handler.http_get.as_ref(), http_get);
            });
        }
    });
}

fn http_get(issues: &mut Issues, action: &HttpGetAction) {
    if action.scheme == Some(HttpScheme::Https) {
        issues.error_at("scheme", "HTTPS is not supported by this version of Lateen");
    }
}

/// The longest name of a gRPC service that is asked for its health.
const LONGEST_GRPC_SERVICE: usize = 127;

/// Signals by which a container can be asked to stop: Linux' standard ones. Kubernetes has the real-time ones too.
const SIGNALS: &[&str] = &[
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGKILL",
    "SIGPIPE",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];

impl Volume {
    /// Every kind of source, and whether it is set.
    pub(super) fn sources(&self) -> [(&'static str, bool); 14] {
        [
            ("configMap", self.config_map.is_some()),
            ("secret", self.secret.is_some()),
            ("emptyDir", self.empty_dir.is_some()),
            ("downwardAPI", self.downward_api.is_some()),
            ("projected", self.projected.is_some()),
            ("hostPath", self.host_path.is_some()),
            ("persistentVolumeClaim", self.persistent_volume_claim.is_some()),
            ("ephemeral", self.ephemeral.is_some()),
            ("csi", self.csi.is_some()),
            ("image", self.image.is_some()),
            ("nfs", self.nfs.is_some()),
            ("iscsi", self.iscsi.is_some()),
            ("fc", self.fc.is_some()),
            ("gitRepo", self.git_repo.is_some()),
        ]
    }
}
