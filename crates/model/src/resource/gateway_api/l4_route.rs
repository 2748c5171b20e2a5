//! `TCPRoute` and `TLSRoute`: where connections go.

use serde::{Deserialize, Serialize};

use super::reference::{BackendRef, ParentReference, check_hostnames, check_parents};
use super::rule_check;
use crate::resource::meta::Object;
use crate::resource::{FieldIssue, Issues};

/// Where the connections of a port go.
pub type KubeTcpRoute = Object<KubeTcpRouteSpec>;

/// Where TLS connections go, by server name.
pub type KubeTlsRoute = Object<KubeTlsRouteSpec>;

/// The `spec` of a `TCPRoute`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct KubeTcpRouteSpec {
    /// What it is attached to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parent_refs: Vec<ParentReference>,
    /// Exactly one.
    pub rules: Vec<L4RouteRule>,
}

/// The `spec` of a `TLSRoute`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct KubeTlsRouteSpec {
    /// What it is attached to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parent_refs: Vec<ParentReference>,
    /// Server names; none is every name of the listeners.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<String>,
    /// Exactly one.
    pub rules: Vec<L4RouteRule>,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct L4RouteRule {
    /// A name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where connections go, by weight; at least one.
    pub backend_refs: Vec<BackendRef>,
}

/// The most backends of a rule.
const MAX_BACKENDS: usize = 16;

fn check_rules(rules: &[L4RouteRule], issues: &mut Issues) {
    if rules.len() != 1 {
        issues.error_at("rules", format!("must have exactly one entry, not {}", rules.len()));
    }
    rule_check::check_names(rules.iter().map(|r| r.name.as_deref()), issues);
    issues.each("rules", rules, |issues, rule| {
        if rule.backend_refs.is_empty() {
            issues.error_at("backendRefs", "is required");
        }
        rule_check::check_count("backendRefs", rule.backend_refs.len(), MAX_BACKENDS, issues);
        issues.each("backendRefs", &rule.backend_refs, |issues, backend| backend.validate(issues));
    });
}

impl KubeTcpRoute {
    /// Finds what the Gateway API's own validation would refuse.
    pub fn validate(&self, issues: &mut Issues) {
        issues.field("spec", |issues| {
            check_parents(&self.spec.parent_refs, issues);
            check_rules(&self.spec.rules, issues);
        });
    }

    /// Everything is implemented.
    pub fn unsupported(&self) -> Vec<FieldIssue> {
        Vec::new()
    }
}

impl KubeTlsRoute {
    /// Finds what the Gateway API's own validation would refuse.
    pub fn validate(&self, issues: &mut Issues) {
        issues.field("spec", |issues| {
            check_parents(&self.spec.parent_refs, issues);
            check_hostnames(&self.spec.hostnames, issues);
            check_rules(&self.spec.rules, issues);
        });
    }

    /// Everything is implemented.
    pub fn unsupported(&self) -> Vec<FieldIssue> {
        Vec::new()
    }
}
