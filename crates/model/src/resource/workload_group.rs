//! `networking.istio.io WorkloadGroup`: what WorkloadEntries that register themselves are made like.

use serde::{Deserialize, Serialize};

use super::check::{self, report_at};
use super::meta::{Object, StringMap};
use super::pod::{ExecAction, GrpcAction, HttpHeader};
use super::selector::validate_istio_labels;
use super::workload_entry::WorkloadEntrySpec;
use super::{FieldIssue, Issues};

/// What WorkloadEntries that register themselves are made like.
pub type WorkloadGroup = Object<WorkloadGroupSpec>;

/// Istio's `WorkloadGroup` message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadGroupSpec {
    /// Metadata of the entries.
    pub metadata: Option<WorkloadGroupMeta>,
    /// What the entries are made from.
    pub template: Option<WorkloadEntrySpec>,
    /// How their health is told.
    pub probe: Option<ReadinessProbe>,
}

/// Metadata of the entries of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadGroupMeta {
    /// Labels.
    pub labels: StringMap,
    /// Annotations.
    pub annotations: StringMap,
}

/// Istio's `ReadinessProbe`. Exactly one of `httpGet`, `tcpSocket`, `exec` and `grpc` is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ReadinessProbe {
    /// Seconds from the start to the first probe.
    pub initial_delay_seconds: i32,
    /// Seconds until a probe has failed; 1 if 0.
    pub timeout_seconds: i32,
    /// Seconds between probes; 10 if 0.
    pub period_seconds: i32,
    /// Successes in a row after a failure; 1 if 0.
    pub success_threshold: i32,
    /// Failures in a row; 3 if 0.
    pub failure_threshold: i32,
    /// Succeeds with a status of 200 to 399.
    pub http_get: Option<HealthHttpGet>,
    /// Succeeds when the connection opens.
    pub tcp_socket: Option<HealthTcpSocket>,
    /// Succeeds with exit code 0.
    pub exec: Option<ExecAction>,
    /// Succeeds when the gRPC health service says `SERVING`.
    pub grpc: Option<GrpcAction>,
}

/// A GET request of a [`ReadinessProbe`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthHttpGet {
    /// `/` if empty.
    pub path: String,
    /// 1 to 65535.
    pub port: u32,
    /// The workload's address if empty.
    pub host: String,
    /// `HTTP` or `HTTPS`.
    pub scheme: String,
    /// Sent along.
    pub http_headers: Vec<HttpHeader>,
}

/// A TCP connection of a [`ReadinessProbe`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthTcpSocket {
    /// The workload's address if empty.
    pub host: String,
    /// 1 to 65535.
    pub port: u32,
}

impl WorkloadGroup {
    /// Finds what Istio's validation would refuse or warn about.
    pub fn validate(&self, issues: &mut Issues) {
        issues.field("spec", |issues| {
            let spec = &self.spec;
            if spec.probe.is_some() {
                issues.warn_at("probe", "has no effect: a workload takes traffic for as long as its proxy is connected");
            }
            match &spec.template {
                None => issues.error_at("template", "is required"),
                Some(template) => issues.field("template", |issues| {
                    check_template(template, issues);
                    if !template.address.is_empty() {
                        issues.warn_at("address", "has no effect: it is that of the workload that registers itself");
                    }
                }),
            }
            issues.optional("metadata", spec.metadata.as_ref(), |issues, meta| {
                issues.field("labels", |issues| validate_istio_labels(&meta.labels, issues));
                if !meta.annotations.is_empty() {
                    issues.warn_at("annotations", "have no effect on traffic: the entries have them, and nothing reads them");
                }
            });
            issues.optional("probe", spec.probe.as_ref(), check_probe);
        });
    }

    /// Fields that are set and not implemented.
    pub fn unsupported(&self) -> Vec<FieldIssue> {
        Vec::new()
    }
}

/// A template has no address yet: that is the workload's own.
fn check_template(template: &WorkloadEntrySpec, issues: &mut Issues) {
    let mut entry = template.clone();
    if entry.address.is_empty() {
        entry.address = "0.0.0.0".to_owned();
    }
    super::workload_entry::check_entry(&entry, issues);
}

fn check_probe(issues: &mut Issues, probe: &ReadinessProbe) {
    for (key, number) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        report_at(issues, key, check::not_negative(number));
    }
    let methods = [probe.http_get.is_some(), probe.tcp_socket.is_some(), probe.exec.is_some(), probe.grpc.is_some()];
    if methods.iter().filter(|set| **set).count() != 1 {
        issues.error("must have exactly one of httpGet, tcpSocket and exec");
    }
    if probe.grpc.is_some() {
        issues.error_at("grpc", "is refused by Istio too: use httpGet, tcpSocket or exec");
    }
    issues.optional("httpGet", probe.http_get.as_ref(), |issues, http| {
        report_at(issues, "port", check::port(http.port.into()));
        if !matches!(http.scheme.as_str(), "" | "HTTP" | "HTTPS") {
            issues.error_at("scheme", "must be HTTP or HTTPS");
        }
        issues.each("httpHeaders", &http.http_headers, |issues, header| {
            report_at(issues, "name", check::header_name(&header.name));
        });
    });
    issues
        .optional("tcpSocket", probe.tcp_socket.as_ref(), |issues, tcp| report_at(issues, "port", check::port(tcp.port.into())));
    issues.optional("exec", probe.exec.as_ref(), |issues, exec| {
        if exec.command.is_empty() {
            issues.error_at("command", "must not be empty");
        }
    });
}
