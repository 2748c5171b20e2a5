//! `BackendTLSPolicy`: how TLS is spoken to backends.

use serde::{Deserialize, Serialize};

use super::reference::{CORE_GROUP, LocalObjectReference, hostname};
use crate::resource::check::{report_at, wildcard_host};
use crate::resource::meta::{Object, StringMap};
use crate::resource::{FieldIssue, Issues};

/// How TLS is spoken to backends.
pub type BackendTlsPolicy = Object<BackendTlsPolicySpec>;

/// The `spec` of a `BackendTLSPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendTlsPolicySpec {
    /// Services of its namespace; at least one.
    pub target_refs: Vec<PolicyTarget>,
    /// Whom the backend must prove to be.
    pub validation: BackendTlsValidation,
    /// Settings of single implementations; there are none here.
    #[serde(skip_serializing_if = "StringMap::is_empty")]
    pub options: StringMap,
}

/// What a policy is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyTarget {
    /// Empty for core kinds.
    pub group: String,
    /// `Service`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The name of a port; all ports if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
}

/// Whom the backend must prove to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendTlsValidation {
    /// ConfigMaps with roots in the key `ca.crt`; excludes `wellKnownCACertificates`.
    #[serde(rename = "caCertificateRefs", skip_serializing_if = "Vec::is_empty")]
    pub ca_certificate_refs: Vec<LocalObjectReference>,
    /// Roots that are there already.
    #[serde(rename = "wellKnownCACertificates", skip_serializing_if = "Option::is_none")]
    pub well_known_ca_certificates: Option<WellKnownCaCertificates>,
    /// The SNI; and what the certificate must be for, unless `subjectAltNames` says that.
    pub hostname: String,
    /// What the certificate must be for, any of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subject_alt_names: Vec<SubjectAltName>,
}

/// Roots that are there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WellKnownCaCertificates {
    /// Those of the operating system.
    System,
}

/// A name in a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct SubjectAltName {
    /// Which of the two fields is set.
    #[serde(rename = "type")]
    pub type_: SubjectAltNameType,
    /// A DNS name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// A URI, such as a SPIFFE identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
}

/// The types of [`SubjectAltName`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SubjectAltNameType {
    /// A DNS name.
    #[default]
    Hostname,
    /// A URI.
    #[serde(rename = "URI")]
    Uri,
}

/// The most targets, and the most references.
const MAX_TARGETS: usize = 16;
/// The most ConfigMaps.
const MAX_REFS: usize = 8;

impl BackendTlsPolicy {
    /// Finds what the Gateway API's own validation would refuse.
    pub fn validate(&self, issues: &mut Issues) {
        issues.field("spec", |issues| {
            let count = self.spec.target_refs.len();
            if count == 0 || count > MAX_TARGETS {
                issues.error_at("targetRefs", format!("must have 1 to {MAX_TARGETS} entries"));
            }
            let mut seen: Vec<&PolicyTarget> = Vec::new();
            issues.each("targetRefs", &self.spec.target_refs, |issues, target| {
                issues.require_name(&target.name);
                issues.require("kind", &target.kind);
                if seen.contains(&target) {
                    issues.error("is listed twice");
                }
                seen.push(target);
            });
            issues.field("validation", |issues| self.spec.validation.validate(issues));
        });
    }

    /// Targets and options that nothing here knows.
    pub fn unsupported(&self) -> Vec<FieldIssue> {
        let mut issues = Issues::default();
        issues.field("spec", |issues| {
            issues.each("targetRefs", &self.spec.target_refs, |issues, target| {
                if (target.group.as_str(), target.kind.as_str()) != (CORE_GROUP, "Service") {
                    issues.error("is not supported by this version of Lateen: a Service of the group \"\" is");
                }
            });
            issues.unsupported_if(!self.spec.options.is_empty(), "options");
            if self.spec.validation.ca_certificate_refs.len() > 1 {
                issues.field("validation", |issues| {
                    issues.error_at("caCertificateRefs", "only one reference is supported by this version of Lateen");
                });
            }
        });
        issues.into_errors()
    }
}

impl BackendTlsValidation {
    fn validate(&self, issues: &mut Issues) {
        match (self.ca_certificate_refs.is_empty(), self.well_known_ca_certificates) {
            (true, None) => issues.error("needs caCertificateRefs or wellKnownCACertificates"),
            (false, Some(_)) => {
                issues
                    .error_at("wellKnownCACertificates", "must not be set beside caCertificateRefs: one of them gives the roots");
            }
            _ => {}
        }
        if self.ca_certificate_refs.len() > MAX_REFS {
            issues.error_at("caCertificateRefs", format!("has more than {MAX_REFS} entries"));
        }
        issues.each("caCertificateRefs", &self.ca_certificate_refs, |issues, reference| reference.validate(issues));
        report_at(issues, "hostname", hostname(&self.hostname));
        issues.each("subjectAltNames", &self.subject_alt_names, |issues, name| match (name.type_, &name.hostname, &name.uri) {
            (SubjectAltNameType::Hostname, Some(dns), None) => report_at(issues, "hostname", wildcard_host(dns)),
            (SubjectAltNameType::Uri, None, Some(uri)) if uri.contains("://") => {}
            (SubjectAltNameType::Uri, None, Some(_)) => issues.error_at("uri", "must be a whole URI, SCHEME://…"),
            (SubjectAltNameType::Hostname, ..) => issues.error("needs hostname, and no uri, for the type Hostname"),
            (SubjectAltNameType::Uri, ..) => issues.error("needs uri, and no hostname, for the type URI"),
        });
    }
}
