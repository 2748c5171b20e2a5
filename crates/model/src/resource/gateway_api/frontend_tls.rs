//! TLS of a whole Gateway: whose certificates clients of its HTTPS listeners must show.

use serde::{Deserialize, Serialize};

use super::reference::ObjectReference;
use crate::resource::check::{self, report_at};
use crate::resource::{Issues, Passthrough};

/// TLS of a whole Gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewayTls {
    /// The Gateway's own certificate towards backends; not supported, as in Istio.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<Passthrough>,
    /// Towards clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frontend: Option<FrontendTls>,
}

/// TLS towards clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct FrontendTls {
    /// Of all HTTPS listeners that `perPort` does not speak of.
    pub default: FrontendSettings,
    /// Of single ports.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub per_port: Vec<PortFrontendTls>,
}

/// TLS towards clients of one port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct PortFrontendTls {
    /// 1 to 65535.
    pub port: i64,
    /// In place of the default.
    pub tls: FrontendSettings,
}

/// Whether clients show certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct FrontendSettings {
    /// They do; they do not if it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<FrontendValidation>,
}

/// What clients' certificates are verified against.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct FrontendValidation {
    /// A ConfigMap or a Secret with roots in the key `ca.crt`.
    pub ca_certificate_refs: Vec<ObjectReference>,
    /// Whether a client without one gets in.
    pub mode: FrontendValidationMode,
}

/// Whether a client without a certificate gets in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FrontendValidationMode {
    /// No.
    #[default]
    AllowValidOnly,
    /// Yes.
    AllowInsecureFallback,
}

impl GatewayTls {
    /// What holds for a port.
    pub fn validation(&self, port: i64) -> Option<&FrontendValidation> {
        let frontend = self.frontend.as_ref()?;
        let own = frontend.per_port.iter().find(|p| p.port == port).map(|p| &p.tls);
        own.unwrap_or(&frontend.default).validation.as_ref()
    }

    pub(super) fn validate(&self, issues: &mut Issues) {
        issues.optional("frontend", self.frontend.as_ref(), |issues, frontend| {
            issues.field("default", |issues| frontend.default.validate(issues));
            let mut seen = Vec::new();
            issues.each("perPort", &frontend.per_port, |issues, entry| {
                report_at(issues, "port", check::port(entry.port));
                if seen.contains(&entry.port) {
                    issues.error_at("port", "stands here twice");
                }
                seen.push(entry.port);
                issues.field("tls", |issues| entry.tls.validate(issues));
            });
        });
    }

    pub(super) fn unsupported(&self, issues: &mut Issues) {
        issues.unsupported_if(self.backend.is_some(), "backend");
        issues.optional("frontend", self.frontend.as_ref(), |issues, frontend| {
            issues.field("default", |issues| frontend.default.unsupported(issues));
            issues.each("perPort", &frontend.per_port, |issues, entry| {
                issues.field("tls", |issues| entry.tls.unsupported(issues));
            });
        });
    }
}

impl FrontendSettings {
    fn validate(&self, issues: &mut Issues) {
        issues.optional("validation", self.validation.as_ref(), |issues, validation| {
            if validation.ca_certificate_refs.is_empty() {
                issues.error_at("caCertificateRefs", "is required");
            }
            issues.each("caCertificateRefs", &validation.ca_certificate_refs, |issues, reference| reference.validate(issues));
        });
    }

    fn unsupported(&self, issues: &mut Issues) {
        issues.optional("validation", self.validation.as_ref(), |issues, validation| {
            if validation.ca_certificate_refs.len() > 1 {
                issues.error_at("caCertificateRefs", "only one reference is supported by this version of Lateen");
            }
        });
    }
}
