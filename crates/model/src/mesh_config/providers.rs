//! Named sinks of telemetry.

use serde::{Deserialize, Serialize};

use crate::resource::{Passthrough, ProtoDuration, StringMap};

/// A named provider; exactly one of the kinds is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ExtensionProvider {
    /// What `defaultProviders` refers to.
    pub name: String,
    /// Metrics that are scraped.
    pub prometheus: Option<Prometheus>,
    /// Access logs in a file.
    pub envoy_file_access_log: Option<EnvoyFileAccessLog>,
    /// Spans over OTLP.
    pub opentelemetry: Option<OpenTelemetry>,
    /// Not supported yet, as all that follow.
    pub zipkin: Option<Passthrough>,
    /// Not supported yet.
    pub datadog: Option<Passthrough>,
    /// Not supported yet.
    pub skywalking: Option<Passthrough>,
    /// Not supported yet.
    pub stackdriver: Option<Passthrough>,
    /// Not supported yet.
    pub lightstep: Option<Passthrough>,
    /// Not supported yet.
    pub opencensus: Option<Passthrough>,
    /// Not supported yet.
    pub envoy_ext_authz_http: Option<Passthrough>,
    /// Not supported yet.
    pub envoy_ext_authz_grpc: Option<Passthrough>,
    /// Not supported yet.
    pub envoy_http_als: Option<Passthrough>,
    /// Not supported yet.
    pub envoy_tcp_als: Option<Passthrough>,
    /// Not supported yet.
    pub envoy_otel_als: Option<Passthrough>,
    /// Not supported yet.
    pub sds: Option<Passthrough>,
}

/// The kind of an [`ExtensionProvider`] that is implemented.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ProviderKind<'a> {
    /// Metrics that are scraped.
    Prometheus(&'a Prometheus),
    /// Access logs in a file.
    FileAccessLog(&'a EnvoyFileAccessLog),
    /// Spans over OTLP.
    OpenTelemetry(&'a OpenTelemetry),
}

impl ExtensionProvider {
    /// What it is; `None` for kinds that are not implemented.
    pub fn kind(&self) -> Option<ProviderKind<'_>> {
        let prometheus = self.prometheus.as_ref().map(ProviderKind::Prometheus);
        let log = || self.envoy_file_access_log.as_ref().map(ProviderKind::FileAccessLog);
        let traces = || self.opentelemetry.as_ref().map(ProviderKind::OpenTelemetry);
        prometheus.or_else(log).or_else(traces)
    }

    /// Every kind's field, and whether it is set.
    pub(super) fn kinds(&self) -> [(&'static str, bool); 15] {
        [
            ("prometheus", self.prometheus.is_some()),
            ("envoyFileAccessLog", self.envoy_file_access_log.is_some()),
            ("opentelemetry", self.opentelemetry.is_some()),
            ("zipkin", self.zipkin.is_some()),
            ("datadog", self.datadog.is_some()),
            ("skywalking", self.skywalking.is_some()),
            ("stackdriver", self.stackdriver.is_some()),
            ("lightstep", self.lightstep.is_some()),
            ("opencensus", self.opencensus.is_some()),
            ("envoyExtAuthzHttp", self.envoy_ext_authz_http.is_some()),
            ("envoyExtAuthzGrpc", self.envoy_ext_authz_grpc.is_some()),
            ("envoyHttpAls", self.envoy_http_als.is_some()),
            ("envoyTcpAls", self.envoy_tcp_als.is_some()),
            ("envoyOtelAls", self.envoy_otel_als.is_some()),
            ("sds", self.sds.is_some()),
        ]
    }
}

/// Metrics that are scraped; without settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Prometheus {}

/// Access logs in a file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct EnvoyFileAccessLog {
    /// E.g. `/dev/stdout`.
    pub path: String,
    /// The format; Istio's default if absent.
    pub log_format: Option<LogFormat>,
    /// Leaves empty values out of JSON instead of writing `-` or null; not supported yet.
    pub omit_empty_values: bool,
}

/// A format of the access log; one of the two is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct LogFormat {
    /// A line of text with commands such as `%START_TIME%`.
    pub text: Option<String>,
    /// JSON: names and texts with commands.
    pub labels: Option<StringMap>,
}

/// Spans over OTLP.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct OpenTelemetry {
    /// The collector: a host, or `NAMESPACE/HOST`.
    pub service: String,
    /// The collector's port.
    pub port: u32,
    /// The longest value of a tag; 256 if absent.
    pub max_tag_length: Option<u32>,
    /// OTLP over HTTP, which is not supported yet; over gRPC if absent.
    pub http: Option<HttpExporter>,
    /// Not supported yet.
    pub grpc: Option<Passthrough>,
    /// Not supported yet.
    pub resource_detectors: Option<Passthrough>,
    /// Not supported yet.
    pub dynatrace_sampler: Option<Passthrough>,
}

/// OTLP over HTTP.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpExporter {
    /// The path, e.g. `/v1/traces`.
    pub path: String,
    /// For one export; 1 s if absent.
    pub timeout: Option<ProtoDuration>,
    /// Sent along.
    pub headers: Vec<HttpHeaderValue>,
}

/// A header of an [`HttpExporter`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpHeaderValue {
    /// The header's name.
    pub name: String,
    /// Its value.
    pub value: Option<String>,
    /// The variable of the proxy's environment that has its value; not supported yet.
    pub env_name: Option<String>,
}

/// Which providers are used when nothing else is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct DefaultProviders {
    /// For spans.
    pub tracing: Vec<String>,
    /// For metrics. Prometheus is scraped in any case.
    pub metrics: Vec<String>,
    /// For access logs.
    pub access_logging: Vec<String>,
}
