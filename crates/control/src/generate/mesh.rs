//! What the mesh's configuration says to generation.

use super::proxy::Proxy;
use super::retry;
use crate::names;
use crate::world::{Service, World};
use lateen_model::dataplane::{
    AccessLog, AccessLogFormat, AccessLogTarget, ForwardClientCert, PathNormalization, RetryPolicy, TcpKeepalive, TlsVersion,
    Tracing, TracingProvider,
};
use lateen_model::mesh_config::{
    AccessLogEncoding, EnvoyFileAccessLog, ForwardClientCert as WrittenClientCert, InboundTrafficMode, MeshConfig,
    MetadataExchangeMode, NormalizationType, OpenTelemetry, OptInHeader, ProviderKind, ProxyHeaderSwitch, TlsProtocol,
};
use lateen_model::resource::{H2UpgradePolicy, HttpRetry, OutboundTrafficMode};
use std::sync::Arc;
use std::time::Duration;

/// Istio's default line of the access log (`EnvoyTextLogFormat`).
const TEXT_FORMAT: &str = concat!(
    "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% ",
    "%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% ",
    "\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ",
    "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" ",
    "\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% ",
    "%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% ",
    "%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
);

/// Keys and commands of Istio's default JSON log.
const JSON_FORMAT: [(&str, &str); 24] = [
    ("start_time", "%START_TIME%"),
    ("route_name", "%ROUTE_NAME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
];

/// The `server` header of answers.
const SERVER_NAME: &str = "istio-envoy";
/// The longest `http.url` tag, in bytes (Envoy's default).
const MAX_PATH_TAG_LENGTH: u32 = 256;

/// The trust domain, then its other names; each once.
pub fn trust_domains(mesh: &MeshConfig) -> impl Iterator<Item = &str> {
    let others = mesh.trust_domain_aliases.iter().map(String::as_str).filter(|a| *a != mesh.trust_domain);
    std::iter::once(mesh.trust_domain.as_str()).chain(others)
}

/// Whether traffic to unknown destinations is dropped.
pub fn registry_only(mesh: &MeshConfig) -> bool {
    mesh.outbound_traffic_policy.mode == OutboundTrafficMode::RegistryOnly
}

/// Whether clients choose mutual TLS by themselves.
pub fn auto_mtls(mesh: &MeshConfig) -> bool {
    mesh.enable_auto_mtls
}

/// The lowest TLS version between sidecars, and the suites where some are written.
pub fn mtls_params(mesh: &MeshConfig) -> (TlsVersion, Option<Vec<String>>) {
    let min = match mesh.mesh_mtls.min_protocol_version {
        TlsProtocol::V1_3 => TlsVersion::V1_3,
        TlsProtocol::Auto | TlsProtocol::V1_2 => TlsVersion::V1_2,
    };
    let suites = &mesh.mesh_mtls.cipher_suites;
    (min, (!suites.is_empty()).then(|| suites.clone()))
}

/// To establish a connection.
pub fn connect_timeout(mesh: &MeshConfig) -> Duration {
    mesh.connect_timeout.get()
}

/// After which proxies ask for a name again that could not be resolved (`dnsRefreshRate`, 60 s).
pub fn dns_refresh_rate(mesh: &MeshConfig) -> Duration {
    mesh.dns_refresh_rate.map_or(Duration::from_secs(60), Duration::from)
}

/// Probes of idle connections.
pub fn tcp_keepalive(mesh: &MeshConfig) -> Option<TcpKeepalive> {
    mesh.tcp_keepalive.as_ref().map(|k| TcpKeepalive {
        probes: Some(k.probes).filter(|n| *n > 0),
        time: k.time.map(Duration::from),
        interval: k.interval.map(Duration::from),
    })
}

/// Whether HTTP/1.1 is upgraded where a DestinationRule says nothing.
pub fn h2_upgrade(mesh: &MeshConfig) -> bool {
    mesh.h2_upgrade_policy == H2UpgradePolicy::Upgrade
}

/// Whether the application is reached at its loopback address.
pub fn inbound_localhost(mesh: &MeshConfig) -> bool {
    mesh.inbound_traffic_policy.mode == InboundTrafficMode::Localhost
}

/// How long a connection is examined; zero, the default, is as long as it takes.
pub fn protocol_detection_timeout(mesh: &MeshConfig) -> Option<Duration> {
    Some(mesh.protocol_detection_timeout.get()).filter(|t| !t.is_zero())
}

/// How paths are made normal.
pub fn path_normalization(mesh: &MeshConfig) -> PathNormalization {
    match mesh.path_normalization.normalization {
        NormalizationType::None => PathNormalization::None,
        NormalizationType::Default | NormalizationType::Base => PathNormalization::Base,
        NormalizationType::MergeSlashes => PathNormalization::MergeSlashes,
        NormalizationType::DecodeAndMergeSlashes => PathNormalization::DecodeAndMergeSlashes,
    }
}

/// What sidecars do with headers of their own (`defaultConfig.proxyHeaders`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderSettings {
    /// `x-forwarded-client-cert` of requests that come in.
    pub forward_client_cert: ForwardClientCert,
    /// Whether an `x-request-id` is made.
    pub request_id: bool,
    /// The `server` header; `None` passes the application's own on.
    pub server: Option<String>,
    /// Whether `x-envoy-attempt-count` is added.
    pub attempt_count: bool,
}

/// What a gateway trusts of proxies in front of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// How many of them have appended to `x-forwarded-for`.
    pub trusted_proxies: u32,
    /// `x-forwarded-client-cert`.
    pub forward_client_cert: ForwardClientCert,
}

/// The proxy's own `gatewayTopology`, else the mesh's.
pub fn gateway_topology(mesh: &MeshConfig, proxy: &Proxy) -> Topology {
    let written = proxy.topology.or(mesh.default_config.gateway_topology.as_ref().map(Into::into));
    let (trusted_proxies, cert) = written.map_or((0, WrittenClientCert::Undefined), |t| (t.trusted_proxies, t.client_cert));
    Topology {
        trusted_proxies,
        forward_client_cert: match cert {
            WrittenClientCert::Sanitize => ForwardClientCert::Sanitize,
            WrittenClientCert::ForwardOnly | WrittenClientCert::AlwaysForwardOnly => ForwardClientCert::ForwardOnly,
            WrittenClientCert::AppendForward => ForwardClientCert::AppendForward,
            WrittenClientCert::Undefined | WrittenClientCert::SanitizeSet => ForwardClientCert::SanitizeSet,
        },
    }
}

/// The mesh's settings for headers.
pub fn headers(mesh: &MeshConfig) -> HeaderSettings {
    let written = mesh.default_config.proxy_headers.clone().unwrap_or_default();
    let on = |switch: Option<ProxyHeaderSwitch>| switch.and_then(|s| s.disabled) != Some(true);
    let server = written.server.unwrap_or_default();
    HeaderSettings {
        forward_client_cert: match written.forwarded_client_cert {
            WrittenClientCert::Sanitize => ForwardClientCert::Sanitize,
            WrittenClientCert::ForwardOnly | WrittenClientCert::AlwaysForwardOnly => ForwardClientCert::ForwardOnly,
            WrittenClientCert::Undefined | WrittenClientCert::AppendForward => ForwardClientCert::AppendForward,
            WrittenClientCert::SanitizeSet => ForwardClientCert::SanitizeSet,
        },
        request_id: on(written.request_id),
        server: match (server.disabled, server.value) {
            (Some(true), _) => None,
            (_, value) if value.is_empty() => Some(SERVER_NAME.to_owned()),
            (_, value) => Some(value),
        },
        attempt_count: on(written.attempt_count),
    }
}

/// Settings that are valid and that proxies cannot be told: field and reason.
pub fn inexpressible(mesh: &MeshConfig) -> Vec<(&'static str, &'static str)> {
    let mut out = Vec::new();
    let headers = mesh.default_config.proxy_headers.clone().unwrap_or_default();
    let opted_in = |h: Option<OptInHeader>| h.and_then(|h| h.enabled) == Some(true);
    for (field, set) in [
        ("defaultConfig.proxyHeaders.xForwardedHost", opted_in(headers.x_forwarded_host)),
        ("defaultConfig.proxyHeaders.xForwardedPort", opted_in(headers.x_forwarded_port)),
        ("defaultConfig.proxyHeaders.envoyDebugHeaders", headers.envoy_debug_headers.and_then(|s| s.disabled) == Some(true)),
        (
            "defaultConfig.proxyHeaders.metadataExchangeHeaders",
            headers.metadata_exchange_headers.is_some_and(|m| m.mode == MetadataExchangeMode::InMesh),
        ),
        ("defaultConfig.proxyHeaders.forwardedClientCert", headers.forwarded_client_cert == WrittenClientCert::AlwaysForwardOnly),
    ] {
        if set {
            out.push((field, "this setting is not supported yet; leave it out"));
        }
    }
    for provider in &mesh.extension_providers {
        if provider.opentelemetry.as_ref().is_some_and(|o| o.http.is_some()) {
            out.push(("extensionProviders.opentelemetry.http", "only OTLP over gRPC is supported yet; leave `http` out"));
        }
        if provider.envoy_file_access_log.as_ref().is_some_and(|f| f.omit_empty_values) {
            out.push((
                "extensionProviders.envoyFileAccessLog.omitEmptyValues",
                "this setting is not supported yet; leave it out",
            ));
        }
    }
    out
}

/// Retries of routes that say nothing.
pub fn default_retry(mesh: &MeshConfig) -> Option<&HttpRetry> {
    mesh.default_http_retry_policy.as_ref()
}

/// Retries of requests to the application.
pub fn inbound_retry(mesh: &MeshConfig) -> Option<RetryPolicy> {
    retry::inbound(mesh.default_inbound_http_retry_policy.as_ref())
}

/// Where requests and connections are logged: `accessLogFile`, and the providers that are the default.
pub fn access_log(mesh: &MeshConfig) -> Vec<AccessLog> {
    let mut logs = Vec::new();
    if !mesh.access_log_file.is_empty() {
        let format = match mesh.access_log_encoding {
            AccessLogEncoding::Json => json_format(&mesh.access_log_format),
            AccessLogEncoding::Text if mesh.access_log_format.is_empty() => AccessLogFormat::Text(TEXT_FORMAT.to_owned()),
            AccessLogEncoding::Text => AccessLogFormat::Text(with_newline(&mesh.access_log_format)),
        };
        logs.push(log(&mesh.access_log_file, format));
    }
    for name in &mesh.default_providers.access_logging {
        if name == "envoy" {
            logs.push(log("/dev/stdout", AccessLogFormat::Text(TEXT_FORMAT.to_owned())));
        } else if let Some(ProviderKind::FileAccessLog(file)) = provider(mesh, name) {
            logs.push(log(&file.path, file_format(file)));
        }
    }
    logs.dedup();
    logs
}

/// A listener's own log: connections that no chain serves.
pub fn listener_access_log(mesh: &MeshConfig) -> Vec<AccessLog> {
    access_log(mesh).into_iter().map(|log| AccessLog { only_flag: Some("NR".to_owned()), ..log }).collect()
}

fn log(path: &str, format: AccessLogFormat) -> AccessLog {
    AccessLog { target: AccessLogTarget::File(path.to_owned()), format, only_flag: None }
}

fn with_newline(format: &str) -> String {
    if format.ends_with('\n') { format.to_owned() } else { format!("{format}\n") }
}

/// A format of one's own is a JSON object of texts; what is none was refused when it was read.
fn json_format(written: &str) -> AccessLogFormat {
    let own: Option<Vec<(String, String)>> = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(written)
        .ok()
        .and_then(|map| map.into_iter().map(|(k, v)| Some((k, v.as_str()?.to_owned()))).collect());
    let default = || JSON_FORMAT.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec();
    AccessLogFormat::Json(own.unwrap_or_else(default))
}

fn file_format(file: &EnvoyFileAccessLog) -> AccessLogFormat {
    let format = file.log_format.as_ref();
    match (format.and_then(|f| f.text.as_deref()), format.and_then(|f| f.labels.as_ref())) {
        (Some(text), _) if !text.is_empty() => AccessLogFormat::Text(with_newline(text)),
        (_, Some(labels)) => AccessLogFormat::Json(labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect()),
        _ => AccessLogFormat::Text(TEXT_FORMAT.to_owned()),
    }
}

fn provider<'a>(mesh: &'a MeshConfig, name: &str) -> Option<ProviderKind<'a>> {
    mesh.extension_providers.iter().find(|p| p.name == name)?.kind()
}

/// The provider of spans, if one is the default.
fn tracing_provider(mesh: &MeshConfig) -> Option<&OpenTelemetry> {
    let name = mesh.default_providers.tracing.first()?;
    match provider(mesh, name) {
        Some(ProviderKind::OpenTelemetry(otel)) => Some(otel),
        Some(ProviderKind::Prometheus(_) | ProviderKind::FileAccessLog(_)) | None => None,
    }
}

/// Tracing of requests. Without a provider contexts are still passed on.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=10,000 before")]
pub fn tracing(world: &World, proxy: &Proxy) -> Option<Tracing> {
    let mesh = world.mesh();
    if !mesh.enable_tracing {
        return None;
    }
    let settings = &mesh.default_config.tracing;
    let provider = tracing_provider(mesh);
    let longest = provider.and_then(|p| p.max_tag_length).or(settings.max_path_tag_length);
    Some(Tracing {
        provider: receiver(world, proxy),
        random_sampling_hundredths: (settings.sampling.clamp(0.0, 100.0) * 100.0).round() as u32,
        max_path_tag_length: longest.unwrap_or(MAX_PATH_TAG_LENGTH),
        tags: tags(world, proxy),
    })
}

/// The service and port that spans go to. Every proxy must have its cluster, whatever its Sidecar lets it see.
pub fn tracing_service(world: &World) -> Option<(Arc<Service>, u16)> {
    let provider = tracing_provider(world.mesh()).filter(|_| world.mesh().enable_tracing)?;
    let port = u16::try_from(provider.port).ok()?;
    let host = provider.service.rsplit('/').next().unwrap_or_default();
    let service = world.service(host).or_else(|| {
        // `name.namespace` and `name.namespace.svc` are ways to write it too.
        let short = host.strip_suffix(".svc").unwrap_or(host);
        world.service(&format!("{short}.svc.{}", world.domain()))
    })?;
    service.port(port).map(|_| (Arc::clone(service), port))
}

/// The receiver as a proxy is told of it.
fn receiver(world: &World, proxy: &Proxy) -> Option<TracingProvider> {
    let (service, port) = tracing_service(world)?;
    Some(TracingProvider {
        cluster: names::outbound_cluster(port, "", &service.host),
        authority: service.host.to_string(),
        service_name: proxy.service_name.to_string(),
    })
}

/// Istio's tags of each span.
fn tags(world: &World, proxy: &Proxy) -> Vec<(String, String)> {
    let label = |keys: &[&str]| keys.iter().find_map(|k| proxy.labels.get(*k)).cloned();
    let canonical = ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"];
    let revision = ["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"];
    let mesh = world.mesh();
    let mesh_id = mesh.default_config.mesh_id.clone().unwrap_or_else(|| mesh.trust_domain.clone());
    [
        ("istio.canonical_revision", label(&revision).unwrap_or_else(|| "latest".to_owned())),
        ("istio.canonical_service", label(&canonical).unwrap_or_else(|| "unknown".to_owned())),
        ("istio.cluster_id", world.cluster_id().to_owned()),
        ("istio.mesh_id", mesh_id),
        ("istio.namespace", proxy.namespace.to_string()),
    ]
    .map(|(k, v)| (k.to_owned(), v))
    .to_vec()
}
