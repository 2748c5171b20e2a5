//! `security.istio.io AuthorizationPolicy`: who may do what.

use serde::{Deserialize, Serialize};

use super::meta::Object;
use super::selector::WorkloadSelector;

mod validate;
mod value_check;

pub(crate) use validate::DRY_RUN_ANNOTATION;

/// Who may do what.
pub type AuthorizationPolicy = Object<AuthorizationPolicySpec>;

/// Istio's `AuthorizationPolicy` message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationPolicySpec {
    /// Pods that it is for; absent: all of the namespace (of the mesh, in the root namespace).
    pub selector: Option<WorkloadSelector>,
    /// The older, single form of `targetRefs`.
    pub target_ref: Option<PolicyTargetReference>,
    /// Gateways and services that it is for; not supported yet.
    pub target_refs: Vec<PolicyTargetReference>,
    /// The policy matches if any rule does. Absent or empty: it matches nothing, so an `ALLOW` policy then denies everything.
    pub rules: Vec<Rule>,
    /// What a match means.
    pub action: Action,
    /// Who decides, for `CUSTOM`.
    pub provider: Option<ExtensionProviderRef>,
}

/// What a match means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Action {
    /// Allowed; once there is such a policy, what matches none is denied.
    #[default]
    Allow,
    /// Denied; decided before `ALLOW`.
    Deny,
    /// Marked for auditing; nothing is enforced.
    Audit,
    /// An outside service decides; not supported yet.
    Custom,
}

/// The name of an extension provider of the mesh's configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ExtensionProviderRef {
    /// Its name.
    pub name: String,
}

/// A resource that a policy is attached to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyTargetReference {
    /// Its API group.
    pub group: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Must be empty: the policy's own namespace.
    pub namespace: String,
}

/// Matches if any of `from`, any of `to` and all of `when` do; what is absent matches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// Who asks.
    pub from: Option<Vec<RuleFrom>>,
    /// What for.
    pub to: Option<Vec<RuleTo>>,
    /// Under which further conditions.
    pub when: Vec<Condition>,
}

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RuleFrom {
    /// All fields that are set must match.
    pub source: Option<Source>,
}

/// What for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RuleTo {
    /// All fields that are set must match.
    pub operation: Option<Operation>,
}

/// Who asks. Each list matches if any value does; each `not…` list if none does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Source {
    /// Peers, as `TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
    pub principals: Vec<String>,
    /// Not these.
    pub not_principals: Vec<String>,
    /// Users, as `ISSUER/SUBJECT` of a JWT; not supported yet.
    pub request_principals: Vec<String>,
    /// Not these.
    pub not_request_principals: Vec<String>,
    /// Namespaces of peers.
    pub namespaces: Vec<String>,
    /// Not these.
    pub not_namespaces: Vec<String>,
    /// Service accounts of peers, as `NAMESPACE/ACCOUNT` or, in the policy's own namespace, `ACCOUNT`.
    pub service_accounts: Vec<String>,
    /// Not these.
    pub not_service_accounts: Vec<String>,
    /// Addresses that connect, as IP or CIDR.
    pub ip_blocks: Vec<String>,
    /// Not these.
    pub not_ip_blocks: Vec<String>,
    /// Addresses of clients, as proxies before this one tell them.
    pub remote_ip_blocks: Vec<String>,
    /// Not these.
    pub not_remote_ip_blocks: Vec<String>,
    /// Trust domains of peers.
    pub trust_domains: Vec<String>,
    /// Not these.
    pub not_trust_domains: Vec<String>,
}

/// What is asked for. Each list matches if any value does; each `not…` list if none does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Operation {
    /// The `Host` or `:authority`.
    pub hosts: Vec<String>,
    /// Not these.
    pub not_hosts: Vec<String>,
    /// The pod's own ports.
    pub ports: Vec<String>,
    /// Not these.
    pub not_ports: Vec<String>,
    /// Methods.
    pub methods: Vec<String>,
    /// Not these.
    pub not_methods: Vec<String>,
    /// Paths without the query: exact, prefix, suffix, `*`, or templates with `{*}` and `{**}`.
    pub paths: Vec<String>,
    /// Not these.
    pub not_paths: Vec<String>,
}

/// A further condition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Condition {
    /// An attribute, e.g. `request.headers[x-team]`.
    pub key: String,
    /// Any of these.
    pub values: Vec<String>,
    /// None of these.
    pub not_values: Vec<String>,
}
