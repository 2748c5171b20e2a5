//! What makes a Pod, or the pods of a Deployment, valid: Kubernetes' own rules.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::container::{Container, ContainerPort, EnvVar, EnvVarSource, Lifecycle, LifecycleHandler};
use super::probe::{HttpGetAction, Probe, TcpSocketAction};
use super::volume::{KeyToPath, Volume};
use super::{Pod, PodSpec};
use crate::resource::check::{self, Check, report, report_at};
use crate::resource::{FieldIssue, IntOrString, Issues, Passthrough, shorten};

/// Fields of a pod that variables may take, apart from single labels and annotations.
const POD_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

impl Pod {
    /// Finds what Kubernetes' validation would refuse.
    pub fn validate(&self, issues: &mut Issues) {
        issues.field("spec", |issues| self.spec.validate(issues));
    }

    /// Fields that are set and not implemented.
    pub(in crate::resource) fn unsupported(&self) -> Vec<FieldIssue> {
        let mut issues = Issues::default();
        issues.field("spec", |issues| self.spec.unsupported(issues));
        issues.into_errors()
    }
}

impl PodSpec {
    /// Checks the spec that `issues` is at.
    pub(in crate::resource) fn validate(&self, issues: &mut Issues) {
        if self.containers.is_empty() {
            issues.error_at("containers", "is required");
        }
        let volumes: BTreeSet<&str> = self.volumes.iter().map(|volume| volume.name.as_str()).collect();
        let mut names = BTreeSet::new();
        let mut check = |issues: &mut Issues, container: &Container, is_init: bool| {
            check_container(container, &volumes, is_init, issues);
            if !names.insert(container.name.clone()) {
                issues.error_at("name", format!("the name {:?} is used twice", shorten(&container.name)));
            }
        };
        issues.each("initContainers", &self.init_containers, |issues, container| check(issues, container, true));
        issues.each("containers", &self.containers, |issues, container| check(issues, container, false));
        let mut seen = BTreeSet::new();
        issues.each("volumes", &self.volumes, |issues, volume| {
            check_volume(volume, issues);
            if !seen.insert(volume.name.as_str()) {
                issues.error_at("name", format!("the name {:?} is used twice", shorten(&volume.name)));
            }
        });
        self.check_rest(issues);
    }

    fn check_rest(&self, issues: &mut Issues) {
        warn_of_security_context(self.security_context.as_ref(), issues);
        report_at(issues, "serviceAccountName", check::dns_subdomain(self.service_account_name()));
        if let (Some(name), Some(older)) = (&self.service_account_name, &self.service_account)
            && name != older
        {
            issues.error_at("serviceAccount", "must equal serviceAccountName, whose older name it is");
        }
        if self.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0) {
            issues.error_at("terminationGracePeriodSeconds", "must not be negative");
        }
        for (key, name) in [("hostname", &self.hostname), ("subdomain", &self.subdomain)] {
            issues.optional(key, name.as_ref(), |issues, name| report(issues, check::dns_label(name)));
        }
        issues.each("hostAliases", &self.host_aliases, |issues, alias| {
            if alias.ip.parse::<IpAddr>().is_err() {
                issues.error_at("ip", format!("{:?} must be an IP address", shorten(&alias.ip)));
            }
            issues.each("hostnames", &alias.hostnames, |issues, name| report(issues, check::dns_subdomain(name)));
        });
    }
}

fn check_container(container: &Container, volumes: &BTreeSet<&str>, is_init: bool, issues: &mut Issues) {
    report_at(issues, "name", check::dns_label(&container.name));
    warn_of_security_context(container.security_context.as_ref(), issues);
    let mut names = BTreeSet::new();
    issues.each("ports", &container.ports, |issues, port| {
        check_container_port(port, issues);
        if !port.name.is_empty() && !names.insert(port.name.as_str()) {
            issues.error_at("name", format!("the name {:?} is used twice", shorten(&port.name)));
        }
    });
    issues.each("env", &container.env, check_env);
    issues.each("envFrom", &container.env_from, |issues, source| match (&source.config_map_ref, &source.secret_ref) {
        (Some(source), None) => issues.field("configMapRef", |issues| issues.require_name(&source.name)),
        (None, Some(source)) => issues.field("secretRef", |issues| issues.require_name(&source.name)),
        _ => issues.error("must set exactly one of configMapRef and secretRef"),
    });
    let mut paths = BTreeSet::new();
    issues.each("volumeMounts", &container.volume_mounts, |issues, mount| {
        if issues.require("name", &mount.name) && !volumes.contains(mount.name.as_str()) {
            issues.error_at("name", format!("there is no volume {:?} in the pod", shorten(&mount.name)));
        }
        if issues.require("mountPath", &mount.mount_path) && !paths.insert(mount.mount_path.as_str()) {
            issues.error_at("mountPath", "is used by an earlier mount");
        }
        if !mount.sub_path.is_empty() {
            report_at(issues, "subPath", check::relative_path(&mount.sub_path));
        }
    });
    let probes = [
        ("readinessProbe", &container.readiness_probe),
        ("livenessProbe", &container.liveness_probe),
        ("startupProbe", &container.startup_probe),
    ];
    for (key, probe) in probes {
        issues.optional(key, probe.as_ref(), |issues, probe| {
            if is_init {
                issues.error("is not allowed in an init container");
            }
            check_probe(probe, key != "readinessProbe", &container.ports, issues);
        });
    }
    issues.optional("lifecycle", container.lifecycle.as_ref(), |issues, lifecycle| {
        if is_init {
            issues.error("is not allowed in an init container");
        }
        check_lifecycle(lifecycle, &container.ports, issues);
    });
}

/// The one thing that is accepted unread although somebody may rely on it.
fn warn_of_security_context(context: Option<&Passthrough>, issues: &mut Issues) {
    let says_something = |context: &Passthrough| context.0.as_object().is_none_or(|fields| !fields.is_empty());
    if context.is_some_and(says_something) {
        issues.warn_at("securityContext", "has no effect on one machine: containers run as the user who started the mesh");
    }
}

fn check_container_port(port: &ContainerPort, issues: &mut Issues) {
    report_at(issues, "containerPort", check::port(port.container_port));
    if !port.name.is_empty() {
        report_at(issues, "name", check::port_name(&port.name));
    }
    if let Some(host_port) = port.host_port.filter(|port| *port != 0) {
        report_at(issues, "hostPort", check::port(host_port));
    }
}

fn check_env(issues: &mut Issues, variable: &EnvVar) {
    report_at(issues, "name", check::env_name(&variable.name));
    issues.optional("valueFrom", variable.value_from.as_ref(), |issues, source| {
        if variable.value.as_ref().is_some_and(|value| !value.is_empty()) {
            issues.error("must not be set together with value");
        }
        check_env_source(source, issues);
    });
}

fn check_env_source(source: &EnvVarSource, issues: &mut Issues) {
    let set = [
        source.field_ref.is_some(),
        source.config_map_key_ref.is_some(),
        source.secret_key_ref.is_some(),
        source.resource_field_ref.is_some(),
        source.file_key_ref.is_some(),
    ];
    if set.iter().filter(|set| **set).count() != 1 {
        issues.error("must set exactly one of fieldRef, configMapKeyRef and secretKeyRef");
    }
    issues.optional("fieldRef", source.field_ref.as_ref(), |issues, field| {
        report_at(issues, "fieldPath", pod_field(&field.field_path));
    });
    for (key, reference) in [("configMapKeyRef", &source.config_map_key_ref), ("secretKeyRef", &source.secret_key_ref)] {
        issues.optional(key, reference.as_ref(), |issues, reference| {
            issues.require("name", &reference.name);
            issues.require("key", &reference.key);
        });
    }
}

fn pod_field(path: &str) -> Check {
    let single = |prefix: &str| {
        let key = path.strip_prefix(prefix).and_then(|rest| rest.strip_prefix("['")).and_then(|rest| rest.strip_suffix("']"));
        key.is_some_and(|key| check::qualified_name(key).is_ok())
    };
    match POD_FIELDS.contains(&path) || single("metadata.labels") || single("metadata.annotations") {
        true => Ok(()),
        false => Err(format!(
            "{:?} must be one of {}, metadata.labels['KEY'] or metadata.annotations['KEY']",
            shorten(path),
            POD_FIELDS.join(", ")
        )),
    }
}

fn check_probe(probe: &Probe, succeeds_once: bool, ports: &[ContainerPort], issues: &mut Issues) {
    let set = [probe.exec.is_some(), probe.http_get.is_some(), probe.tcp_socket.is_some(), probe.grpc.is_some()];
    if set.iter().filter(|set| **set).count() != 1 {
        issues.error("must set exactly one of httpGet, tcpSocket, exec and grpc");
    }
    issues.optional("exec", probe.exec.as_ref(), |issues, exec| {
        if exec.command.is_empty() {
            issues.error_at("command", "is required");
        }
    });
    issues.optional("httpGet", probe.http_get.as_ref(), |issues, get| check_http_get(get, ports, issues));
    issues.optional("tcpSocket", probe.tcp_socket.as_ref(), |issues, socket| check_tcp_socket(socket, ports, issues));
    issues.optional("grpc", probe.grpc.as_ref(), |issues, grpc| report_at(issues, "port", check::port(grpc.port)));
    let bounds = [
        ("initialDelaySeconds", probe.initial_delay_seconds, 0),
        ("periodSeconds", probe.period_seconds, 1),
        ("timeoutSeconds", probe.timeout_seconds, 1),
        ("successThreshold", probe.success_threshold, 1),
        ("failureThreshold", probe.failure_threshold, 1),
    ];
    for (key, value, least) in bounds {
        // Kubernetes reads 0 as absent.
        if let Some(value) = value.filter(|value| *value != 0 && *value < least) {
            issues.error_at(key, format!("is {value}, must be at least {least}"));
        }
    }
    if succeeds_once && probe.success_threshold.is_some_and(|count| count > 1) {
        issues.error_at("successThreshold", "must be 1 in liveness and startup probes");
    }
}

fn check_http_get(get: &HttpGetAction, ports: &[ContainerPort], issues: &mut Issues) {
    check_probe_port(get.port.as_ref(), ports, issues);
    issues.each("httpHeaders", &get.http_headers, |issues, header| report_at(issues, "name", check::header_name(&header.name)));
}

fn check_tcp_socket(socket: &TcpSocketAction, ports: &[ContainerPort], issues: &mut Issues) {
    check_probe_port(socket.port.as_ref(), ports, issues);
}

fn check_probe_port(port: Option<&IntOrString>, ports: &[ContainerPort], issues: &mut Issues) {
    match port {
        None => issues.error_at("port", "is required"),
        Some(IntOrString::Int(number)) => report_at(issues, "port", check::port((*number).into())),
        Some(IntOrString::String(name)) if !ports.iter().any(|port| port.name == *name) => {
            issues.error_at("port", format!("the container has no port named {:?}", shorten(name)));
        }
        Some(IntOrString::String(_)) => {}
    }
}

fn check_lifecycle(lifecycle: &Lifecycle, ports: &[ContainerPort], issues: &mut Issues) {
    for (key, handler) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
        issues.optional(key, handler.as_ref(), |issues, handler| check_handler(handler, ports, issues));
    }
}

fn check_handler(handler: &LifecycleHandler, ports: &[ContainerPort], issues: &mut Issues) {
    let set = [handler.exec.is_some(), handler.http_get.is_some(), handler.tcp_socket.is_some(), handler.sleep.is_some()];
    if set.iter().filter(|set| **set).count() != 1 {
        issues.error("must set exactly one of exec, httpGet and sleep");
    }
    issues.optional("exec", handler.exec.as_ref(), |issues, exec| {
        if exec.command.is_empty() {
            issues.error_at("command", "is required");
        }
    });
    issues.optional("httpGet", handler.http_get.as_ref(), |issues, get| check_http_get(get, ports, issues));
    issues.optional("sleep", handler.sleep.as_ref(), |issues, sleep| {
        if sleep.seconds < 0 {
            issues.error_at("seconds", "must not be negative");
        }
    });
}

fn check_volume(volume: &Volume, issues: &mut Issues) {
    report_at(issues, "name", check::dns_label(&volume.name));
    let sources = volume.sources();
    match sources.iter().filter(|(_, set)| *set).count() {
        0 => issues.error("must have a source: configMap, secret or emptyDir (an empty directory is written \"emptyDir: {}\")"),
        1 => {}
        _ => issues.error("must have one source only"),
    }
    issues.optional("configMap", volume.config_map.as_ref(), |issues, source| {
        issues.require("name", &source.name);
        check_items(&source.items, source.default_mode, issues);
    });
    issues.optional("secret", volume.secret.as_ref(), |issues, source| {
        issues.require("secretName", &source.secret_name);
        check_items(&source.items, source.default_mode, issues);
    });
    issues.optional("emptyDir", volume.empty_dir.as_ref(), |issues, source| {
        if !matches!(source.medium.as_str(), "" | "Memory") {
            issues.error_at("medium", format!("is {:?}, must be \"\" or \"Memory\"", shorten(&source.medium)));
        }
    });
}

fn check_items(items: &[KeyToPath], default_mode: Option<i32>, issues: &mut Issues) {
    let check_mode = |issues: &mut Issues, key: &str, mode: Option<i32>| {
        if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
            issues.error_at(key, format!("is {mode} (0{mode:o} in octal), must be 0 to 0777 in octal"));
        }
    };
    check_mode(issues, "defaultMode", default_mode);
    issues.each("items", items, |issues, item| {
        issues.require("key", &item.key);
        report_at(issues, "path", check::relative_path(&item.path));
        check_mode(issues, "mode", item.mode);
    });
}
