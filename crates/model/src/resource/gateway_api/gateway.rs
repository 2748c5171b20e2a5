//! The Gateway API's `Gateway`: which ports are open, for which hosts and which routes.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::frontend_tls::GatewayTls;
use super::reference::{GATEWAY_GROUP, LocalObjectReference, ObjectReference, hostname};
use crate::resource::check::{self, report_at};
use crate::resource::meta::{Object, StringMap};
use crate::resource::{FieldIssue, Issues, LabelSelector, Passthrough, ServerTlsMode};

/// Which ports are open, for which hosts and which routes.
pub type KubeGateway = Object<KubeGatewaySpec>;

/// The `spec` of a `Gateway` of the Gateway API.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct KubeGatewaySpec {
    /// The name of a GatewayClass.
    pub gateway_class_name: String,
    /// At least one.
    pub listeners: Vec<Listener>,
    /// Where it is to be had; none: where its own Service is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<GatewayAddress>,
    /// What is put on the resources that are made for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub infrastructure: Option<GatewayInfrastructure>,
    /// Who may add listeners; not supported yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_listeners: Option<Passthrough>,
    /// TLS of all listeners and backends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<GatewayTls>,
    /// TLS towards backends, in an older form; not supported yet.
    #[serde(rename = "backendTLS", skip_serializing_if = "Option::is_none")]
    pub backend_tls: Option<Passthrough>,
    /// Whether routes without a parent attach to it; not supported yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_scope: Option<Passthrough>,
}

/// One open port, for some hosts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Listener {
    /// Unique within the Gateway.
    pub name: String,
    /// A DNS name, possibly with a wildcard; every host if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// 1 to 65535.
    pub port: i64,
    /// See [`ListenerProtocol`].
    pub protocol: String,
    /// For HTTPS and TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
    /// Which routes may attach; those of its own namespace if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_routes: Option<AllowedRoutes>,
}

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListenerProtocol {
    /// HTTP without TLS.
    Http,
    /// HTTP inside of TLS.
    Https,
    /// TLS, by server name.
    Tls,
    /// Bytes.
    Tcp,
}

impl ListenerProtocol {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Https => "HTTPS",
            Self::Tls => "TLS",
            Self::Tcp => "TCP",
        }
    }
}

impl Listener {
    /// The port; `None` for what validation refuses.
    pub fn port(&self) -> Option<u16> {
        u16::try_from(self.port).ok().filter(|port| *port != 0)
    }

    /// The protocol; `None` for one that is not served, which the listener's status says.
    pub fn protocol(&self) -> Option<ListenerProtocol> {
        Some(match self.protocol.as_str() {
            "HTTP" => ListenerProtocol::Http,
            "HTTPS" => ListenerProtocol::Https,
            "TLS" => ListenerProtocol::Tls,
            "TCP" => ListenerProtocol::Tcp,
            _ => return None,
        })
    }

    /// The hosts, as it counts: `*` is every host.
    pub fn hostname(&self) -> &str {
        self.hostname.as_deref().filter(|name| !name.is_empty()).unwrap_or("*")
    }

    /// Whether TLS is ended here.
    pub fn terminates(&self) -> bool {
        self.tls.as_ref().is_none_or(|tls| tls.mode == ListenerTlsMode::Terminate)
    }
}

/// TLS of a listener.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenerTls {
    /// Whether it ends here.
    pub mode: ListenerTlsMode,
    /// Secrets with the certificate; the first counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificate_refs: Vec<ObjectReference>,
    /// `gateway.istio.io/tls-terminate-mode` and `gateway.istio.io/tls-cipher-suites`.
    #[serde(skip_serializing_if = "StringMap::is_empty")]
    pub options: StringMap,
    /// Whose certificates clients must show, in an older place; not supported yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frontend_validation: Option<Passthrough>,
}

/// How TLS is ended, as Istio's own words have it.
const TERMINATE_MODE: &str = "gateway.istio.io/tls-terminate-mode";
/// The TLS 1.2 suites, separated by commas.
const CIPHER_SUITES: &str = "gateway.istio.io/tls-cipher-suites";

impl ListenerTls {
    /// How TLS is ended; `None` for a word that is no mode.
    pub fn terminate_mode(&self) -> Option<ServerTlsMode> {
        Some(match self.options.get(TERMINATE_MODE).map(String::as_str) {
            None | Some("SIMPLE" | "ISTIO_SIMPLE") => ServerTlsMode::Simple,
            Some("MUTUAL") => ServerTlsMode::Mutual,
            Some("OPTIONAL_MUTUAL") => ServerTlsMode::OptionalMutual,
            Some("ISTIO_MUTUAL") => ServerTlsMode::IstioMutual,
            Some(_) => return None,
        })
    }

    /// The TLS 1.2 suites that are written.
    pub fn cipher_suites(&self) -> Vec<String> {
        let list = self.options.get(CIPHER_SUITES).map(String::as_str).unwrap_or_default();
        list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
    }
}

/// Whether TLS ends at the listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ListenerTlsMode {
    /// It does.
    #[default]
    Terminate,
    /// It goes on to the backend.
    Passthrough,
}

/// Which routes may attach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct AllowedRoutes {
    /// Of which namespaces; of its own if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<RouteNamespaces>,
    /// Of which kinds; of all that the protocol has if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<RouteGroupKind>,
}

/// Namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteNamespaces {
    /// Which.
    pub from: FromNamespaces,
    /// For `Selector`: labels of the namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// Which namespaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromNamespaces {
    /// The Gateway's own.
    #[default]
    Same,
    /// All.
    All,
    /// Those with some labels.
    Selector,
    /// None at all.
    None,
}

/// A kind of route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteGroupKind {
    /// `gateway.networking.k8s.io` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Its name.
    pub kind: String,
}

impl RouteGroupKind {
    /// The group, as it counts.
    pub fn group(&self) -> &str {
        self.group.as_deref().unwrap_or(GATEWAY_GROUP)
    }
}

/// Where a Gateway is to be had.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewayAddress {
    /// What `value` is.
    #[serde(rename = "type")]
    pub type_: AddressType,
    /// An address, or the name of a Service (`NAME`, `NAME.NAMESPACE`, or in full).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// The types of addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum AddressType {
    /// An IP address for the Gateway's own Service.
    #[default]
    IpAddress,
    /// A Service that exists.
    Hostname,
    /// Another, which the status refuses.
    Other(String),
}

impl From<String> for AddressType {
    fn from(text: String) -> Self {
        match text.as_str() {
            "IPAddress" => Self::IpAddress,
            "Hostname" => Self::Hostname,
            _ => Self::Other(text),
        }
    }
}

impl From<AddressType> for String {
    fn from(address: AddressType) -> Self {
        match address {
            AddressType::IpAddress => "IPAddress".to_owned(),
            AddressType::Hostname => "Hostname".to_owned(),
            AddressType::Other(text) => text,
        }
    }
}

/// What is put on the resources that are made for a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewayInfrastructure {
    /// Labels.
    #[serde(skip_serializing_if = "StringMap::is_empty")]
    pub labels: StringMap,
    /// Annotations.
    #[serde(skip_serializing_if = "StringMap::is_empty")]
    pub annotations: StringMap,
    /// A ConfigMap that changes them; not supported, which the status says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters_ref: Option<LocalObjectReference>,
}

/// The most listeners of a Gateway.
const MAX_LISTENERS: usize = 64;
/// Classes of modes of the mesh that are not there.
const AMBIENT_CLASSES: [&str; 4] = ["istio-waypoint", "istio-east-west", "istio-agentgateway", "istio-agentgateway-waypoint"];

impl KubeGateway {
    /// Finds what the Gateway API's own validation would refuse.
    pub fn validate(&self, issues: &mut Issues) {
        issues.field("spec", |issues| {
            issues.require("gatewayClassName", &self.spec.gateway_class_name);
            let count = self.spec.listeners.len();
            if count == 0 || count > MAX_LISTENERS {
                issues.error_at("listeners", format!("must have 1 to {MAX_LISTENERS} entries"));
            }
            let mut names = BTreeSet::new();
            let mut places = BTreeSet::new();
            issues.each("listeners", &self.spec.listeners, |issues, listener| {
                check_listener(listener, issues);
                if !names.insert(&listener.name) {
                    issues.error_at("name", format!("{} is the name of another listener", listener.name));
                }
                if !places.insert((listener.port, &listener.protocol, listener.hostname())) {
                    issues.error("has the port, protocol and hostname of another listener");
                }
            });
            issues.optional("tls", self.spec.tls.as_ref(), |issues, tls| tls.validate(issues));
            issues.each("addresses", &self.spec.addresses, |issues, address| {
                let value = address.value.as_deref().unwrap_or_default();
                if address.type_ == AddressType::IpAddress && !value.is_empty() && value.parse::<std::net::IpAddr>().is_err() {
                    issues.error_at("value", "must be an IP address; a Service is named with the type Hostname");
                }
            });
        });
    }

    /// What is valid and not there yet.
    pub fn unsupported(&self) -> Vec<FieldIssue> {
        let mut issues = Issues::default();
        issues.field("spec", |issues| {
            let spec = &self.spec;
            if AMBIENT_CLASSES.contains(&spec.gateway_class_name.as_str()) {
                issues.error_at(
                    "gatewayClassName",
                    format!("{} is not supported by this version of Lateen: istio and istio-remote are", spec.gateway_class_name),
                );
            }
            issues.unsupported_if(spec.allowed_listeners.is_some(), "allowedListeners");
            issues.optional("tls", spec.tls.as_ref(), |issues, tls| tls.unsupported(issues));
            issues.unsupported_if(spec.backend_tls.is_some(), "backendTLS");
            issues.unsupported_if(spec.default_scope.is_some(), "defaultScope");
            issues.each("listeners", &spec.listeners, |issues, listener| {
                issues.optional("tls", listener.tls.as_ref(), |issues, tls| {
                    issues.unsupported_if(tls.frontend_validation.is_some(), "frontendValidation");
                    if tls.certificate_refs.len() > 1 {
                        issues.error_at("certificateRefs", "only one certificate is supported by this version of Lateen");
                    }
                    issues.field("options", |issues| {
                        for key in tls.options.keys().filter(|k| ![TERMINATE_MODE, CIPHER_SUITES].contains(&k.as_str())) {
                            issues.unsupported_if(true, key);
                        }
                    });
                });
            });
        });
        issues.into_errors()
    }
}

fn check_listener(listener: &Listener, issues: &mut Issues) {
    report_at(issues, "name", check::dns_subdomain(&listener.name));
    report_at(issues, "port", check::port(listener.port));
    issues.require("protocol", &listener.protocol);
    let protocol = listener.protocol();
    if let Some(name) = listener.hostname.as_deref().filter(|name| !name.is_empty()) {
        report_at(issues, "hostname", hostname(name));
        if protocol == Some(ListenerProtocol::Tcp) {
            issues.error_at("hostname", "must not be set for the protocol TCP");
        }
    }
    match (protocol, &listener.tls) {
        (Some(ListenerProtocol::Http | ListenerProtocol::Tcp), Some(_)) => {
            issues.error_at("tls", "must not be set for the protocols HTTP and TCP");
        }
        (Some(ListenerProtocol::Https), Some(tls)) if tls.mode == ListenerTlsMode::Passthrough => {
            issues.field("tls", |issues| issues.error_at("mode", "must be Terminate for the protocol HTTPS"));
        }
        (Some(ListenerProtocol::Tls), None) => issues.error_at("tls", "is required for the protocol TLS"),
        _ => {}
    }
    issues.optional("tls", listener.tls.as_ref(), |issues, tls| {
        issues.each("certificateRefs", &tls.certificate_refs, |issues, reference| reference.validate(issues));
        if tls.terminate_mode().is_none() {
            issues.field("options", |issues| {
                issues.error_at(TERMINATE_MODE, "must be SIMPLE, MUTUAL, OPTIONAL_MUTUAL or ISTIO_MUTUAL");
            });
        }
    });
    issues.optional("allowedRoutes", listener.allowed_routes.as_ref(), |issues, allowed| {
        issues.optional("namespaces", allowed.namespaces.as_ref(), |issues, namespaces| {
            match (namespaces.from, &namespaces.selector) {
                (FromNamespaces::Selector, None) => issues.error_at("selector", "is required with from: Selector"),
                (FromNamespaces::Selector, Some(_)) | (_, None) => {}
                (_, Some(_)) => issues.error_at("selector", "must not be set without from: Selector"),
            }
        });
        issues.each("kinds", &allowed.kinds, |issues, kind| {
            issues.require("kind", &kind.kind);
        });
    });
}
