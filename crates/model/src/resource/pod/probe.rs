//! Probes, and the actions that they share with lifecycle hooks.

use serde::{Deserialize, Serialize};

use crate::resource::IntOrString;

/// Kubernetes' `Probe`. Exactly one of `exec`, `httpGet`, `tcpSocket` and `grpc` is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// Succeeds with exit code 0.
    pub exec: Option<ExecAction>,
    /// Succeeds with a status of 200 to 399.
    pub http_get: Option<HttpGetAction>,
    /// Succeeds when the connection opens.
    pub tcp_socket: Option<TcpSocketAction>,
    /// Succeeds when the gRPC health service says `SERVING`.
    pub grpc: Option<GrpcAction>,
    /// Seconds from the start to the first probe; 0 if absent.
    pub initial_delay_seconds: Option<i32>,
    /// Seconds between probes; 10 if absent, at least 1.
    pub period_seconds: Option<i32>,
    /// Seconds until a probe has failed; 1 if absent, at least 1.
    pub timeout_seconds: Option<i32>,
    /// Successes in a row after a failure; 1 if absent, and always 1 for liveness and startup.
    pub success_threshold: Option<i32>,
    /// Failures in a row; 3 if absent, at least 1.
    pub failure_threshold: Option<i32>,
    /// Seconds from the stop signal to the kill, instead of the pod's.
    pub termination_grace_period_seconds: Option<i64>,
}

/// A command run beside the container's process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecAction {
    /// The executable and its arguments; no shell.
    pub command: Vec<String>,
}

/// A GET request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpGetAction {
    /// `/` if empty.
    pub path: String,
    /// A number or the name of a container port.
    pub port: Option<IntOrString>,
    /// The pod's address if absent.
    pub host: Option<String>,
    /// `HTTP` if absent.
    pub scheme: Option<HttpScheme>,
    /// Sent along.
    pub http_headers: Vec<HttpHeader>,
}

/// `scheme` of an [`HttpGetAction`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HttpScheme {
    /// Plain.
    #[default]
    #[serde(rename = "HTTP")]
    Http,
    /// TLS; the certificate is not verified.
    #[serde(rename = "HTTPS")]
    Https,
}

/// A header of an [`HttpGetAction`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpHeader {
    /// The header's name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// A TCP connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpSocketAction {
    /// A number or the name of a container port.
    pub port: Option<IntOrString>,
    /// The pod's address if absent.
    pub host: Option<String>,
}

/// A call of `grpc.health.v1.Health/Check`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcAction {
    /// The port's number.
    pub port: i64,
    /// The service asked about; the server as a whole if empty.
    pub service: String,
}
