//! `MeshConfig`: settings of the mesh as a whole, as Istio's ConfigMap `istio-system/istio` holds them under the key `mesh`.
//!
//! What is absent has Istio's default. Unknown fields are errors, and so are fields that are known and not implemented, unless
//! they cannot change what the mesh does.

use serde::{Deserialize, Serialize};

use crate::identity::TrustDomain;
use crate::manifest::{Finding, Rejection};
use crate::resource::{
    FieldIssue, H2UpgradePolicy, HttpRetry, Issues, LabelSelector, LocalityLbSetting, OutboundTrafficMode, Passthrough,
    ProtoDuration, TcpKeepalive, ZoneAwareLbSetting,
};

mod providers;
mod proxy_config;
mod validate;

pub use providers::{
    DefaultProviders, EnvoyFileAccessLog, ExtensionProvider, HttpExporter, HttpHeaderValue, LogFormat, OpenTelemetry, Prometheus,
    ProviderKind,
};
pub use proxy_config::{
    ForwardClientCert, GatewayTopology, MetadataExchangeHeaders, MetadataExchangeMode, OptInHeader, ProxyConfig,
    ProxyHeaderSwitch, ProxyHeaders, ServerHeader, Tracing,
};

/// The ConfigMap's namespace.
pub const CONFIG_MAP_NAMESPACE: &str = "istio-system";
/// The ConfigMap's name.
pub const CONFIG_MAP_NAME: &str = "istio";
/// The ConfigMap's key.
pub const CONFIG_MAP_KEY: &str = "mesh";

/// Settings of the mesh as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshConfig {
    /// The root of trust of every identity.
    pub trust_domain: String,
    /// Other names of it, e.g. before a migration.
    pub trust_domain_aliases: Vec<String>,
    /// The namespace whose policies are for the whole mesh.
    pub root_namespace: String,
    /// Whether clients choose mutual TLS by themselves.
    pub enable_auto_mtls: bool,
    /// Minimum TLS version between sidecars.
    #[serde(rename = "meshMTLS")]
    pub mesh_mtls: MeshTls,
    /// To establish a connection.
    pub connect_timeout: ProtoDuration,
    /// Probes of idle connections; none if absent.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// How long the first bytes are waited for to tell the protocol; zero: as long as it takes.
    pub protocol_detection_timeout: ProtoDuration,
    /// What becomes of outbound traffic to unknown addresses.
    pub outbound_traffic_policy: MeshOutboundTrafficPolicy,
    /// What becomes of inbound traffic to ports that no service has.
    pub inbound_traffic_policy: InboundTrafficPolicy,
    /// Whether HTTP/1.1 requests are sent as HTTP/2.
    pub h2_upgrade_policy: H2UpgradePolicy,
    /// How paths are normalised before policies see them.
    pub path_normalization: PathNormalization,
    /// Retries of requests whose route says nothing; the built-in policy if absent.
    pub default_http_retry_policy: Option<HttpRetry>,
    /// Retries from a sidecar to its application; the built-in policy if absent.
    pub default_inbound_http_retry_policy: Option<HttpRetry>,
    /// Visibility of services that say nothing.
    pub default_service_export_to: Vec<String>,
    /// Visibility of VirtualServices that say nothing.
    pub default_virtual_service_export_to: Vec<String>,
    /// Visibility of DestinationRules that say nothing.
    pub default_destination_rule_export_to: Vec<String>,
    /// Where access is logged, e.g. `/dev/stdout`; empty: nowhere.
    pub access_log_file: String,
    /// Text or JSON.
    pub access_log_encoding: AccessLogEncoding,
    /// The format; Istio's default if empty.
    pub access_log_format: String,
    /// Whether requests are traced.
    pub enable_tracing: bool,
    /// Settings of every proxy.
    pub default_config: ProxyConfig,
    /// Named sinks of telemetry.
    pub extension_providers: Vec<ExtensionProvider>,
    /// Which of them are used when nothing else is said.
    pub default_providers: DefaultProviders,
    /// Where outbound traffic is captured; only 15001.
    pub proxy_listen_port: u32,
    /// Where inbound traffic is captured; only 15006.
    pub proxy_inbound_listen_port: u32,
    /// The port at which each sidecar is its application's HTTP proxy; 0 is none.
    pub proxy_http_port: u32,
    /// Policies for services that have none; not supported yet.
    pub default_traffic_policy: Option<Passthrough>,
    /// Namespaces that are known, by their labels: those that any of these selects, and the root namespace. Empty: all.
    pub discovery_selectors: Vec<LabelSelector>,
    /// Accepted with a warning: there is one cluster.
    pub service_settings: Vec<Passthrough>,
    /// Not supported yet.
    pub ca_certificates: Vec<Passthrough>,
    /// Not supported yet.
    pub certificates: Vec<Passthrough>,
    /// Not supported yet.
    pub tls_defaults: Option<Passthrough>,
    /// Not supported yet.
    pub service_scope_configs: Vec<Passthrough>,
    /// Not supported yet.
    pub service_entry_visibility: Option<Passthrough>,
    /// Not supported yet.
    pub enable_envoy_access_log_service: bool,
    /// Which endpoints are preferred by where they are, where no DestinationRule says it; enabled if absent.
    pub locality_lb_setting: Option<LocalityLbSetting>,
    /// The own zone first, where no DestinationRule says otherwise; comes before `localityLbSetting`.
    pub zone_aware_lb_setting: Option<ZoneAwareLbSetting>,
    /// Accepted: there are no Ingress resources yet.
    pub ingress_class: Option<String>,
    /// Accepted: there are no Ingress resources yet.
    pub ingress_service: Option<String>,
    /// Accepted: there are no Ingress resources yet.
    pub ingress_selector: Option<String>,
    /// Accepted: there are no Ingress resources yet.
    pub ingress_controller_mode: Option<String>,
    /// How often proxies resolve names whose answers do not say it; 60 s if absent.
    pub dns_refresh_rate: Option<ProtoDuration>,
    /// Accepted: the application's metrics are scraped at its own port.
    pub enable_prometheus_merge: Option<bool>,
    /// Accepted: deprecated.
    pub verify_certificate_at_client: Option<bool>,
    /// Accepted: listeners log no connections of their own.
    pub disable_envoy_listener_log: Option<bool>,
    /// Accepted: there are no tunnels yet.
    pub hbone_idle_timeout: Option<ProtoDuration>,
}

impl Default for MeshConfig {
    fn default() -> Self {
        let everyone = || vec!["*".to_owned()];
        Self {
            trust_domain: TrustDomain::default().as_str().to_owned(),
            trust_domain_aliases: Vec::new(),
            root_namespace: CONFIG_MAP_NAMESPACE.to_owned(),
            enable_auto_mtls: true,
            mesh_mtls: MeshTls::default(),
            connect_timeout: ProtoDuration::new(std::time::Duration::from_secs(10)),
            tcp_keepalive: None,
            protocol_detection_timeout: ProtoDuration::default(),
            outbound_traffic_policy: MeshOutboundTrafficPolicy { mode: OutboundTrafficMode::AllowAny },
            inbound_traffic_policy: InboundTrafficPolicy::default(),
            h2_upgrade_policy: H2UpgradePolicy::DoNotUpgrade,
            path_normalization: PathNormalization::default(),
            default_http_retry_policy: None,
            default_inbound_http_retry_policy: None,
            default_service_export_to: everyone(),
            default_virtual_service_export_to: everyone(),
            default_destination_rule_export_to: everyone(),
            access_log_file: String::new(),
            access_log_encoding: AccessLogEncoding::default(),
            access_log_format: String::new(),
            enable_tracing: true,
            default_config: ProxyConfig::default(),
            extension_providers: Vec::new(),
            default_providers: DefaultProviders::default(),
            proxy_listen_port: 15001,
            proxy_inbound_listen_port: 15006,
            proxy_http_port: 0,
            default_traffic_policy: None,
            discovery_selectors: Vec::new(),
            service_settings: Vec::new(),
            ca_certificates: Vec::new(),
            certificates: Vec::new(),
            tls_defaults: None,
            service_scope_configs: Vec::new(),
            service_entry_visibility: None,
            enable_envoy_access_log_service: false,
            locality_lb_setting: None,
            zone_aware_lb_setting: None,
            ingress_class: None,
            ingress_service: None,
            ingress_selector: None,
            ingress_controller_mode: None,
            dns_refresh_rate: None,
            enable_prometheus_merge: None,
            verify_certificate_at_client: None,
            disable_envoy_listener_log: None,
            hbone_idle_timeout: None,
        }
    }
}

/// A configuration that is valid and implemented, and what is strange about it.
#[derive(Clone, Debug, PartialEq)]
pub struct ParsedMeshConfig {
    /// The configuration.
    pub config: MeshConfig,
    /// Accepted, and probably not meant.
    pub warnings: Vec<Finding>,
}

impl MeshConfig {
    /// Reads a configuration from YAML, strictly. `file` is used in messages. An empty text gives the defaults.
    pub fn parse(text: &str, file: &str) -> Result<ParsedMeshConfig, Rejection> {
        let (config, warnings) = crate::manifest::read_mesh_config(text, file)?;
        Ok(ParsedMeshConfig { config, warnings })
    }

    /// The root of trust, checked.
    pub fn trust_domain(&self) -> TrustDomain {
        // A parsed configuration was validated; one put together by hand may be wrong, and then has the default's identity.
        TrustDomain::try_new(&self.trust_domain).unwrap_or_default()
    }

    /// Finds what Istio's validation would refuse or warn about.
    pub fn validate(&self, issues: &mut Issues) {
        validate::validate(self, issues);
    }

    /// Fields that are set and not implemented.
    pub fn unsupported(&self) -> Vec<FieldIssue> {
        validate::unsupported(self)
    }
}

/// `meshMTLS`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshTls {
    /// Lateen's proxies speak TLS 1.3 to each other in any case; it raises the bound for other peers.
    pub min_protocol_version: TlsProtocol,
    /// Not supported yet.
    pub ecdh_curves: Vec<String>,
    /// Of TLS 1.2, which Lateen's proxies do not speak to each other: they are for other peers.
    pub cipher_suites: Vec<String>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsProtocol {
    /// TLS 1.2.
    #[default]
    #[serde(rename = "TLS_AUTO")]
    Auto,
    /// TLS 1.2.
    #[serde(rename = "TLSV1_2")]
    V1_2,
    /// TLS 1.3.
    #[serde(rename = "TLSV1_3")]
    V1_3,
}

/// `outboundTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshOutboundTrafficPolicy {
    /// An empty message means `REGISTRY_ONLY`, the first value of the enumeration; an absent one `ALLOW_ANY`.
    pub mode: OutboundTrafficMode,
}

/// `inboundTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct InboundTrafficPolicy {
    /// How the application is reached.
    pub mode: InboundTrafficMode,
}

/// How a sidecar reaches its application.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum InboundTrafficMode {
    /// At the pod's address.
    #[default]
    Passthrough,
    /// At the loopback address.
    Localhost,
}

/// `pathNormalization`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct PathNormalization {
    /// How much is normalised.
    pub normalization: NormalizationType,
}

/// How much of a path is normalised; each value includes those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum NormalizationType {
    /// The same as `BASE`.
    #[default]
    Default,
    /// Nothing.
    None,
    /// RFC 3986: `.` and `..` segments, and `\` as `/`.
    Base,
    /// Repeated slashes too.
    MergeSlashes,
    /// Escaped slashes too.
    DecodeAndMergeSlashes,
}

/// The form of the access log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AccessLogEncoding {
    /// Lines of text.
    #[default]
    Text,
    /// Lines of JSON.
    Json,
}
