//! `HTTPRoute`: how HTTP requests to a Gateway's listeners, or to a Service, are routed.

use serde::{Deserialize, Serialize};

use super::filters::HttpRouteFilter;
use super::reference::{FilteredBackendRef, ParentReference, check_hostnames, check_parents};
use super::rule_check::{self, RuleParts};
use crate::resource::check::{self, report_at, report_regex_at};
use crate::resource::meta::Object;
use crate::resource::{FieldIssue, Issues, Passthrough, ProtoDuration};

/// How HTTP requests are routed.
pub type KubeHttpRoute = Object<KubeHttpRouteSpec>;

/// The `spec` of an `HTTPRoute`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct KubeHttpRouteSpec {
    /// What it is attached to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parent_refs: Vec<ParentReference>,
    /// Hosts; none is every host of the listeners. Of no meaning for a Service.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<String>,
    /// The rules; which of them serves a request is decided by how specific they are, not by their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<KubeHttpRouteRule>,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct KubeHttpRouteRule {
    /// Unique within the route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Alternatives; none matches everything.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<KubeHttpRouteMatch>,
    /// What is done to requests and responses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<HttpRouteFilter>,
    /// Where requests go, by weight.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backend_refs: Vec<FilteredBackendRef<HttpRouteFilter>>,
    /// How long requests may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<HttpTimeouts>,
    /// When to try again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<HttpRetryPolicy>,
    /// Not supported, as in Istio.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<Passthrough>,
}

/// Conditions, all of which must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct KubeHttpRouteMatch {
    /// The path; any if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<HttpPathMatch>,
    /// Headers; of entries with one name the first counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HttpValueMatch>,
    /// Parameters of the query.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub query_params: Vec<HttpValueMatch>,
    /// The method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
}

/// A condition on the path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpPathMatch {
    /// How; by whole elements of the path if absent.
    #[serde(rename = "type")]
    pub type_: PathMatchType,
    /// `/` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

impl HttpPathMatch {
    /// The value, as it counts.
    pub fn value(&self) -> &str {
        self.value.as_deref().unwrap_or("/")
    }
}

/// How paths are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathMatchType {
    /// Equal.
    Exact,
    /// Begins with these elements: `/a` is a prefix of `/a/b`, not of `/ab`.
    #[default]
    PathPrefix,
    /// RE2, matching the whole path.
    RegularExpression,
}

/// A condition on a header or a parameter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpValueMatch {
    /// How; equal if absent.
    #[serde(rename = "type")]
    pub type_: ValueMatchType,
    /// The name.
    pub name: String,
    /// What the value must be.
    pub value: String,
}

/// How values are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ValueMatchType {
    /// Equal.
    #[default]
    Exact,
    /// RE2, matching the whole value.
    RegularExpression,
}

/// How long requests may take; zero is without limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpTimeouts {
    /// For the whole request, retries included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<ProtoDuration>,
    /// For one try.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_request: Option<ProtoDuration>,
}

/// When to try again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRetryPolicy {
    /// Statuses that are tried again, besides failures to connect.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub codes: Vec<u32>,
    /// Tries after the first; 2 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<i32>,
    /// The least pause between tries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<ProtoDuration>,
}

/// The methods that a match may ask for.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
/// The most rules of a route, and the most matches and backends of a rule.
const MAX_RULES: usize = 16;
/// The most matches of one rule.
const MAX_MATCHES: usize = 64;
/// The most matches of a whole route.
const MAX_ALL_MATCHES: usize = 128;

impl KubeHttpRoute {
    /// Finds what the Gateway API's own validation would refuse.
    pub fn validate(&self, issues: &mut Issues) {
        issues.field("spec", |issues| {
            check_parents(&self.spec.parent_refs, issues);
            check_hostnames(&self.spec.hostnames, issues);
            rule_check::check_count("rules", self.spec.rules.len(), MAX_RULES, issues);
            let all: usize = self.spec.rules.iter().map(|r| r.matches.len()).sum();
            if all > MAX_ALL_MATCHES {
                issues.error_at("rules", format!("have {all} matches together; {MAX_ALL_MATCHES} are allowed"));
            }
            rule_check::check_names(self.spec.rules.iter().map(|r| r.name.as_deref()), issues);
            issues.each("rules", &self.spec.rules, check_rule);
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

fn check_rule(issues: &mut Issues, rule: &KubeHttpRouteRule) {
    rule_check::check_count("matches", rule.matches.len(), MAX_MATCHES, issues);
    issues.each("matches", &rule.matches, check_match);
    let prefix = |m: &KubeHttpRouteMatch| m.path.as_ref().is_none_or(|p| p.type_ == PathMatchType::PathPrefix);
    rule_check::check_parts(
        &RuleParts {
            filters: &rule.filters,
            backends: &rule.backend_refs,
            // Without a match there is the prefix `/`.
            one_prefix: rule.matches.len() <= 1 && rule.matches.iter().all(prefix),
        },
        issues,
    );
    if let Some(timeouts) = rule.timeouts {
        issues.field("timeouts", |issues| check_timeouts(timeouts, issues));
    }
    issues.optional("retry", rule.retry.as_ref(), check_retry);
}

fn check_match(issues: &mut Issues, condition: &KubeHttpRouteMatch) {
    issues.optional("path", condition.path.as_ref(), check_path);
    issues.each("headers", &condition.headers, |issues, header| {
        report_at(issues, "name", check::header_name(&header.name));
        check_value(header, issues);
    });
    issues.each("queryParams", &condition.query_params, |issues, parameter| {
        issues.require_name(&parameter.name);
        check_value(parameter, issues);
    });
    if let Some(method) = &condition.method
        && !METHODS.contains(&method.as_str())
    {
        issues.error_at("method", format!("must be one of {}", METHODS.join(", ")));
    }
}

pub(super) fn check_value(value: &HttpValueMatch, issues: &mut Issues) {
    if value.value.is_empty() {
        issues.error_at("value", "is required");
    }
    if value.type_ == ValueMatchType::RegularExpression {
        report_regex_at(issues, "value", &value.value);
    }
}

fn check_path(issues: &mut Issues, path: &HttpPathMatch) {
    let value = path.value();
    if path.type_ == PathMatchType::RegularExpression {
        return report_regex_at(issues, "value", value);
    }
    report_at(issues, "value", rule_check::plain_path(value));
}

fn check_timeouts(timeouts: HttpTimeouts, issues: &mut Issues) {
    for (key, value) in [("request", timeouts.request), ("backendRequest", timeouts.backend_request)] {
        if value.is_some_and(|v| !super::filters::is_duration(v)) {
            issues.error_at(key, "must be a whole number of milliseconds");
        }
    }
    if let (Some(request), Some(backend)) = (timeouts.request, timeouts.backend_request)
        && !request.get().is_zero()
        && backend > request
    {
        issues.error_at("backendRequest", "must not be longer than request, which contains it");
    }
}

fn check_retry(issues: &mut Issues, retry: &HttpRetryPolicy) {
    issues.each("codes", &retry.codes, |issues, code| {
        if !(400..600).contains(code) {
            issues.error("must be 400 to 599");
        }
    });
    if retry.attempts.is_some_and(|n| n < 0) {
        issues.error_at("attempts", "must not be below zero");
    }
    if retry.backoff.is_some_and(|b| !super::filters::is_duration(b)) {
        issues.error_at("backoff", "must be a whole number of milliseconds");
    }
}
