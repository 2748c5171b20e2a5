//! `networking.istio.io Sidecar`: what a sidecar knows and where it listens.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::check::{self, report_at};
use super::destination_rule::{ConnectionPoolSettings, H2UpgradePolicy, check_connection_pool};
use super::host::Host;
use super::meta::Object;
use super::selector::{SidecarSelector, validate_istio_labels};
use super::virtual_service::{Destination, check_destination};
use super::{FieldIssue, Issues, Passthrough, shorten};

/// What a sidecar knows and where it listens.
pub type Sidecar = Object<SidecarSpec>;

/// Istio's `Sidecar` message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct SidecarSpec {
    /// Pods that it is for; absent: all of the namespace (of the mesh, in the root namespace).
    pub workload_selector: Option<SidecarSelector>,
    /// Inbound listeners instead of the services' ports.
    pub ingress: Vec<IstioIngressListener>,
    /// What is known of other services; empty: everything.
    pub egress: Vec<IstioEgressListener>,
    /// What becomes of traffic to unknown addresses; absent: as `MeshConfig.outboundTrafficPolicy` says.
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    /// Limits for connections to the application, instead of those of the services' DestinationRules.
    pub inbound_connection_pool: Option<ConnectionPoolSettings>,
}

/// One inbound listener.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct IstioIngressListener {
    /// Where it listens.
    pub port: Option<SidecarPort>,
    /// Address to listen on.
    pub bind: String,
    /// How traffic gets there.
    pub capture_mode: CaptureMode,
    /// Where the application listens.
    pub default_endpoint: String,
    /// TLS instead of the mesh's own.
    pub tls: Option<Passthrough>,
    /// Limits for connections to the application.
    pub connection_pool: Option<ConnectionPoolSettings>,
}

/// One outbound listener.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct IstioEgressListener {
    /// For services with this port only; such a port is then known to no listener without one.
    pub port: Option<SidecarPort>,
    /// Address to listen on, instead of every address of the services.
    pub bind: String,
    /// How traffic gets there; with `NONE` the application connects itself.
    pub capture_mode: CaptureMode,
    /// Services that are known, as `NAMESPACE/HOST`; `~NAMESPACE/HOST` takes them out again.
    pub hosts: Vec<String>,
}

/// A port of a listener.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct SidecarPort {
    /// 1 to 65535, or 0 with a Unix socket.
    pub number: u32,
    /// E.g. `HTTP`.
    pub protocol: String,
    /// Its name.
    pub name: String,
    /// Deprecated.
    pub target_port: Option<u32>,
}

/// How traffic gets to a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CaptureMode {
    /// As the environment has it.
    #[default]
    Default,
    /// Redirected.
    Iptables,
    /// Sent there by the application itself.
    None,
}

/// What becomes of traffic to unknown addresses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct OutboundTrafficPolicy {
    /// An empty `outboundTrafficPolicy: {}` means `REGISTRY_ONLY`, the first value of the enumeration.
    pub mode: OutboundTrafficMode,
    /// A service that such traffic is sent to instead.
    pub egress_proxy: Option<Destination>,
}

/// `mode` of [`OutboundTrafficPolicy`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OutboundTrafficMode {
    /// It is dropped.
    #[default]
    RegistryOnly,
    /// It goes on unchanged.
    AllowAny,
    /// Only in `MeshConfig`, and not supported yet.
    AllowAnyDynamicDns,
}

impl Sidecar {
    /// Finds what Istio's validation would refuse or warn about.
    pub fn validate(&self, issues: &mut Issues) {
        issues.field("spec", |issues| {
            let spec = &self.spec;
            if *spec == SidecarSpec::default() {
                issues.error("must set at least one field");
            }
            issues.optional("workloadSelector", spec.workload_selector.as_ref(), check_selector);
            check_egress(&spec.egress, issues);
            check_ingress(&spec.ingress, issues);
            issues.optional("outboundTrafficPolicy", spec.outbound_traffic_policy.as_ref(), |issues, policy| {
                if policy.mode == OutboundTrafficMode::AllowAnyDynamicDns {
                    issues.error_at("mode", "ALLOW_ANY_DYNAMIC_DNS is for MeshConfig only");
                }
                issues.optional("egressProxy", policy.egress_proxy.as_ref(), |issues, destination| {
                    if policy.mode != OutboundTrafficMode::AllowAny {
                        issues.error("needs mode: ALLOW_ANY");
                    }
                    check_destination(destination, issues);
                });
            });
            issues.optional("inboundConnectionPool", spec.inbound_connection_pool.as_ref(), check_inbound_pool);
        });
    }

    /// Fields that are set and not implemented.
    pub fn unsupported(&self) -> Vec<FieldIssue> {
        let mut issues = Issues::default();
        issues.field("spec", |issues| {
            issues.each("ingress", &self.spec.ingress, |issues, listener| {
                issues.optional("port", listener.port.as_ref(), unsupported_port);
                if listener.bind.starts_with("unix://") {
                    issues.error_at("bind", "Unix sockets are not supported by this version of Lateen; IP addresses are");
                }
                let endpoint = listener.default_endpoint.parse::<SocketAddr>();
                if listener.capture_mode == CaptureMode::None && !endpoint.is_ok_and(|to| to.ip().is_loopback()) {
                    issues.error_at(
                        "defaultEndpoint",
                        "must be 127.0.0.1:PORT or [::1]:PORT with captureMode: NONE: nothing else says where the application is",
                    );
                }
                if listener.tls.is_some() {
                    issues.error_at(
                        "tls",
                        "is not supported by this version of Lateen, and in Istio it is off (ENABLE_TLS_ON_SIDECAR_INGRESS): a Gateway ends TLS of clients outside of the mesh",
                    );
                }
                if listener.default_endpoint.starts_with("unix://") {
                    issues.error_at(
                        "defaultEndpoint",
                        "Unix sockets are not supported by this version of Lateen; IP addresses with a port are",
                    );
                }
            });
            issues.each("egress", &self.spec.egress, |issues, listener| {
                issues.optional("port", listener.port.as_ref(), unsupported_port);
                if listener.bind.starts_with("unix://") {
                    issues.error_at("bind", "Unix sockets are not supported by this version of Lateen; IP addresses are");
                }
                let own = !listener.bind.is_empty() || listener.capture_mode == CaptureMode::None;
                if own && listener.port.is_none() {
                    issues.error_at("port", "is required with bind or captureMode: NONE");
                }
            });
        });
        issues.into_errors()
    }
}

fn unsupported_port(issues: &mut Issues, port: &SidecarPort) {
    if port.target_port.is_some() {
        issues.error_at("targetPort", "has no effect in Istio: leave it out; defaultEndpoint says where the application listens");
    }
}

fn check_selector(issues: &mut Issues, selector: &SidecarSelector) {
    if selector.labels.is_some() && selector.match_labels.is_some() {
        issues.error("has labels and matchLabels, which mean the same here: keep one of them");
    }
    if selector.is_empty() {
        issues.warn("has no labels and so selects every pod of the namespace; leave it out to say so");
    }
    for (key, labels) in [("labels", &selector.labels), ("matchLabels", &selector.match_labels)] {
        issues.optional(key, labels.as_ref(), |issues, labels| validate_istio_labels(labels, issues));
    }
}

fn check_egress(egress: &[IstioEgressListener], issues: &mut Issues) {
    let mut ports = BTreeSet::new();
    issues.each("egress", egress, |issues, listener| {
        if listener.hosts.is_empty() {
            issues.error_at("hosts", "must not be empty");
        }
        check_egress_hosts(&listener.hosts, issues);
        check_listener_port(listener.port.as_ref(), &listener.bind, listener.capture_mode, issues);
        if listener.port.as_ref().is_some_and(|port| port.number != 0 && !ports.insert(port.number)) {
            issues.error_at("port", "is used by an earlier listener");
        }
    });
    let catch_all: Vec<usize> =
        egress.iter().enumerate().filter(|(_, l)| l.port.is_none() && l.bind.is_empty()).map(|(i, _)| i).collect();
    issues.field("egress", |issues| match catch_all.as_slice() {
        [] => {}
        [one] if one + 1 == egress.len() => {}
        [one] => issues.index(*one, |issues| issues.error("has no port and so must be the last listener")),
        [_, rest @ ..] => {
            for index in rest {
                issues.index(*index, |issues| issues.error("is a second listener without a port: only one is allowed"));
            }
        }
    });
}

fn check_egress_hosts(hosts: &[String], issues: &mut Issues) {
    let mut seen = BTreeSet::new();
    issues.each("hosts", hosts, |issues, host| {
        match EgressHost::parse(host) {
            Err(text) => issues.error(text),
            Ok(host) if host.is_everything() && hosts.len() > 1 && !hosts.iter().any(|host| host.starts_with('~')) => {
                issues.warn("\"*/*\" covers the other hosts of the list");
            }
            Ok(_) => {}
        }
        if !seen.insert(host) {
            issues.warn(format!("{:?} is listed twice", shorten(host)));
        }
    });
}

fn check_ingress(ingress: &[IstioIngressListener], issues: &mut Issues) {
    let mut ports = BTreeSet::new();
    issues.each("ingress", ingress, |issues, listener| {
        match &listener.port {
            None => issues.error_at("port", "is required"),
            Some(port) if !ports.insert(port.number) => issues.error_at("port", "is used by an earlier listener"),
            Some(_) => {}
        }
        check_listener_port(listener.port.as_ref(), &listener.bind, listener.capture_mode, issues);
        if !listener.bind.is_empty() && listener.capture_mode != CaptureMode::None {
            issues
                .warn_at("bind", "has no effect on what is captured, whatever address it is for; it has with captureMode: NONE");
        }
        if !is_default_endpoint(&listener.default_endpoint) {
            issues.error_at("defaultEndpoint", "must be 127.0.0.1:PORT, [::1]:PORT, 0.0.0.0:PORT, [::]:PORT or unix:///PATH");
        }
        issues.optional("connectionPool", listener.connection_pool.as_ref(), check_inbound_pool);
    });
}

/// Limits of connections to the application, whose protocol is the port's own.
fn check_inbound_pool(issues: &mut Issues, pool: &ConnectionPoolSettings) {
    check_connection_pool(issues, pool);
    issues.optional("http", pool.http.as_ref(), |issues, http| {
        const NOTHING: &str = "has no effect on connections to the application, which speak what the port declares";
        if http.h2_upgrade_policy != H2UpgradePolicy::Default {
            issues.warn_at("h2UpgradePolicy", NOTHING);
        }
        if http.use_client_protocol {
            issues.warn_at("useClientProtocol", NOTHING);
        }
    });
}

fn check_listener_port(port: Option<&SidecarPort>, bind: &str, capture: CaptureMode, issues: &mut Issues) {
    let is_socket = bind.starts_with("unix://");
    if is_socket && capture != CaptureMode::Default {
        issues.error_at("captureMode", "has no meaning for a Unix socket");
    }
    if !bind.is_empty() && !is_socket && bind.parse::<IpAddr>().is_err() {
        issues.error_at("bind", format!("{:?} must be an IP address or unix:///PATH", shorten(bind)));
    }
    issues.optional("port", port, |issues, port| {
        match (is_socket, port.number) {
            (true, 0) => {}
            (true, _) => issues.error_at("number", "must be 0 for a Unix socket"),
            (false, number) => report_at(issues, "number", check::port(number.into())),
        }
        issues.require("protocol", &port.protocol);
    });
}

fn is_default_endpoint(endpoint: &str) -> bool {
    if endpoint.is_empty() {
        return true;
    }
    if let Some(path) = endpoint.strip_prefix("unix://") {
        return path.starts_with('/') || path.starts_with('@');
    }
    let address = endpoint.parse::<SocketAddr>();
    address.is_ok_and(|address| address.port() != 0 && (address.ip().is_loopback() || address.ip().is_unspecified()))
}

/// One entry of `egress.hosts`: services of namespaces, or (with `~` before it) services that are taken out again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressHost {
    /// Whether it takes services out.
    pub excludes: bool,
    /// Whose services.
    pub namespace: EgressNamespace,
    /// Which of them; `*` is all.
    pub host: Host,
}

/// The namespace of an [`EgressHost`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EgressNamespace {
    /// `*`: all.
    Any,
    /// `.`: that of the sidecar's pod.
    Own,
    /// `~`: none, so nothing is known of other services.
    Nothing,
    /// One by name.
    Named(String),
}

impl EgressHost {
    /// Parses `NAMESPACE/HOST` or `~NAMESPACE/HOST`. Host names are not expanded: short names are names as they stand.
    pub fn parse(text: &str) -> Result<Self, String> {
        let form = || {
            format!(
                "{:?} must be NAMESPACE/HOST, where NAMESPACE may be '.', '*' or '~' and HOST may be '*' or '*.NAME'",
                shorten(text)
            )
        };
        let (namespace, host) = text.split_once('/').ok_or_else(form)?;
        let (excludes, namespace) = match namespace.strip_prefix('~') {
            Some(rest) if !rest.is_empty() => (true, rest),
            _ => (false, namespace),
        };
        let namespace = match namespace {
            "*" => EgressNamespace::Any,
            "." => EgressNamespace::Own,
            "~" => EgressNamespace::Nothing,
            name if check::dns_label(name).is_ok() => EgressNamespace::Named(name.to_owned()),
            _ => return Err(form()),
        };
        let host = Host::try_new(host).map_err(|error| error.to_string())?;
        Ok(Self { excludes, namespace, host })
    }

    /// Whether it is `*/*`.
    pub fn is_everything(&self) -> bool {
        !self.excludes && self.namespace == EgressNamespace::Any && self.host.as_str() == "*"
    }
}
