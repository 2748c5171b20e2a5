//! `GRPCRoute`: how gRPC calls to a Gateway's listeners, or to a Service, are routed.

use serde::{Deserialize, Serialize};

use super::filters::GrpcRouteFilter;
use super::http_route::{HttpValueMatch, check_value};
use super::reference::{FilteredBackendRef, ParentReference, check_hostnames, check_parents};
use super::rule_check::{self, RuleParts};
use crate::resource::check::{self, report_at, report_regex_at};
use crate::resource::meta::Object;
use crate::resource::{FieldIssue, Issues, Passthrough};

/// How gRPC calls are routed.
pub type KubeGrpcRoute = Object<KubeGrpcRouteSpec>;

/// The `spec` of a `GRPCRoute`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct KubeGrpcRouteSpec {
    /// What it is attached to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parent_refs: Vec<ParentReference>,
    /// Hosts; none is every host of the listeners.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<String>,
    /// The rules.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<GrpcRouteRule>,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcRouteRule {
    /// Unique within the route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Alternatives; none matches every call.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<GrpcRouteMatch>,
    /// What is done to calls.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<GrpcRouteFilter>,
    /// Where calls go, by weight.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backend_refs: Vec<FilteredBackendRef<GrpcRouteFilter>>,
    /// Not supported, as in Istio.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<Passthrough>,
}

/// Conditions, all of which must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcRouteMatch {
    /// Service and method; any if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<GrpcMethodMatch>,
    /// Metadata.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HttpValueMatch>,
}

/// A condition on the method: at least one of `service` and `method`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcMethodMatch {
    /// How; equal if absent.
    #[serde(rename = "type")]
    pub type_: GrpcMethodMatchType,
    /// The service with its package, `foo.bar.Baz`; any if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The method; any if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
}

/// How methods are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GrpcMethodMatchType {
    /// Equal.
    #[default]
    Exact,
    /// RE2, matching the whole name.
    RegularExpression,
}

/// The most rules, and the most matches of a rule.
const MAX_RULES: usize = 16;
/// The most matches of one rule.
const MAX_MATCHES: usize = 64;

impl KubeGrpcRoute {
    /// Finds what the Gateway API's own validation would refuse.
    pub fn validate(&self, issues: &mut Issues) {
        issues.field("spec", |issues| {
            check_parents(&self.spec.parent_refs, issues);
            check_hostnames(&self.spec.hostnames, issues);
            rule_check::check_count("rules", self.spec.rules.len(), MAX_RULES, issues);
            rule_check::check_names(self.spec.rules.iter().map(|r| r.name.as_deref()), issues);
            issues.each("rules", &self.spec.rules, |issues, rule| {
                rule_check::check_count("matches", rule.matches.len(), MAX_MATCHES, issues);
                issues.each("matches", &rule.matches, check_match);
                rule_check::check_parts(
                    &RuleParts { filters: &rule.filters, backends: &rule.backend_refs, one_prefix: false },
                    issues,
                );
            });
        });
    }

    /// What Istio does not implement either.
    pub fn unsupported(&self) -> Vec<FieldIssue> {
        let mut issues = Issues::default();
        issues.field("spec", |issues| {
            issues.each("rules", &self.spec.rules, |issues, rule| {
                issues.unsupported_if(rule.session_persistence.is_some(), "sessionPersistence");
                rule_check::unsupported_backends(&rule.backend_refs, issues);
            });
        });
        issues.into_errors()
    }
}

fn check_match(issues: &mut Issues, condition: &GrpcRouteMatch) {
    issues.each("headers", &condition.headers, |issues, header| {
        report_at(issues, "name", check::header_name(&header.name));
        check_value(header, issues);
    });
    issues.optional("method", condition.method.as_ref(), |issues, method| {
        let parts = [("service", method.service.as_deref()), ("method", method.method.as_deref())];
        if parts.iter().all(|(_, part)| part.unwrap_or_default().is_empty()) {
            issues.error("must have a service or a method");
        }
        for (key, part) in parts {
            let Some(part) = part.filter(|p| !p.is_empty()) else { continue };
            match method.type_ {
                GrpcMethodMatchType::RegularExpression => report_regex_at(issues, key, part),
                GrpcMethodMatchType::Exact if !is_name(part, key == "service") => {
                    issues.error_at(key, "must be a name as protobuf has it");
                }
                GrpcMethodMatchType::Exact => {}
            }
        }
    });
}

/// An identifier of protobuf; with dots between, if it may have a package.
fn is_name(text: &str, dotted: bool) -> bool {
    let identifier = |part: &str| {
        part.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    if dotted { text.split('.').all(identifier) } else { identifier(text) }
}
