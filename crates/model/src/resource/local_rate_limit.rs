//! `policy.lateen.dev LocalRateLimit`: how many requests a pod answers in a time, of everybody or of each client.
//!
//! The project's own kind: Istio has none, and leaves local limits to patches of Envoy's configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::check::{self, report_at};
use super::meta::Object;
use super::selector::{WorkloadSelector, validate_match_labels};
use super::virtual_service::StringMatch;
use super::{FieldIssue, Issues, ProtoDuration, shorten};

/// The most rules of one object: each costs every request a comparison.
const MAX_RULES: usize = 64;

/// The most clients that one rule may tell apart, in one pod.
pub const MAX_CLIENTS: u32 = 1_000_000;

/// Clients that a rule tells apart where nothing is written.
pub const DEFAULT_CLIENTS: u32 = 10_000;

/// How many requests a pod answers.
pub type LocalRateLimit = Object<LocalRateLimitSpec>;

/// What is written of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct LocalRateLimitSpec {
    /// Pods that it is for, sidecars and gateways; absent: all of the namespace (of the mesh, in the root namespace).
    pub selector: Option<WorkloadSelector>,
    /// At least one. A request needs a token of every rule that it matches.
    pub rules: Vec<RateLimitRule>,
    /// Whether a refusal says in `retry-after` how many seconds there is no token, at least 1.
    pub retry_after: bool,
    /// How many clients each rule with `perClient` tells apart, in each pod; 0: [`DEFAULT_CLIENTS`]. When there are more, those
    /// that asked for nothing for longest are forgotten, and begin with a full bucket again.
    pub max_clients: u32,
}

/// One limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimitRule {
    /// Unique within the object.
    pub name: String,
    /// Requests that it is for; absent: all.
    pub r#match: Option<RateLimitMatch>,
    /// Each client has a bucket of its own; absent: all share one.
    pub per_client: Option<RateLimitClient>,
    /// How many.
    pub limit: RateLimit,
}

/// Requests that a rule is for: all that is written has to hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimitMatch {
    /// The path, without its query.
    pub path: Option<StringMatch>,
    /// Any of these methods; empty: all.
    pub methods: Vec<String>,
    /// By lower-case name.
    pub headers: BTreeMap<String, StringMatch>,
}

/// What tells clients apart: exactly one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimitClient {
    /// The identity that a client proved by mutual TLS; all that proved none share a bucket.
    pub identity: bool,
    /// The client's address: the connection's, or what trusted proxies in front say.
    pub source_address: bool,
    /// The value of this header; the rule is not for requests without it.
    pub header: String,
}

/// A token bucket: it holds `burst` tokens, and `requests` of them come back in each `per`, evenly.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimit {
    /// At least 1.
    pub requests: u32,
    /// Absent: a second.
    pub per: Option<ProtoDuration>,
    /// How many may come at once; 0: as many as `requests`.
    pub burst: u32,
}

impl RateLimit {
    /// The time in which the tokens come back.
    pub fn interval(&self) -> Duration {
        self.per.map_or(Duration::from_secs(1), ProtoDuration::get)
    }

    /// How many tokens the bucket holds.
    pub fn size(&self) -> u32 {
        if self.burst == 0 { self.requests } else { self.burst }
    }
}

impl LocalRateLimitSpec {
    /// How many clients each rule tells apart.
    pub fn clients(&self) -> u32 {
        if self.max_clients == 0 { DEFAULT_CLIENTS } else { self.max_clients }
    }
}

impl LocalRateLimit {
    /// Finds what cannot be meant.
    pub fn validate(&self, issues: &mut Issues) {
        issues.field("spec", |issues| {
            let spec = &self.spec;
            issues.optional("selector", spec.selector.as_ref(), |issues, selector| {
                validate_match_labels(&selector.match_labels, issues);
            });
            match spec.rules.len() {
                0 => issues.error_at("rules", "must not be empty"),
                1..=MAX_RULES => {}
                count => issues.error_at("rules", format!("has {count} entries, more than {MAX_RULES}")),
            }
            let mut names = BTreeSet::new();
            issues.each("rules", &spec.rules, |issues, rule| {
                report_at(issues, "name", check::dns_label(&rule.name));
                if !names.insert(rule.name.as_str()) {
                    issues.error_at("name", format!("{:?} is the name of an earlier rule", shorten(&rule.name)));
                }
                check_rule(rule, issues);
            });
            if spec.max_clients > MAX_CLIENTS {
                issues.error_at("maxClients", format!("must be at most {MAX_CLIENTS}"));
            }
        });
    }

    /// Fields that are set and not implemented.
    pub fn unsupported(&self) -> Vec<FieldIssue> {
        Vec::new()
    }
}

fn check_rule(rule: &RateLimitRule, issues: &mut Issues) {
    issues.optional("match", rule.r#match.as_ref(), check_match);
    issues.optional("perClient", rule.per_client.as_ref(), |issues, client| {
        let set = [client.identity, client.source_address, !client.header.is_empty()];
        if set.iter().filter(|set| **set).count() != 1 {
            issues.error("must have exactly one of identity: true, sourceAddress: true and header");
        }
        if !client.header.is_empty() {
            report_at(issues, "header", check::header_name(&client.header));
        }
    });
    issues.field("limit", |issues| {
        if rule.limit.requests == 0 {
            issues.error_at("requests", "must be at least 1; an AuthorizationPolicy refuses requests altogether");
        }
        // What Envoy takes too, and what keeps the arithmetic of buckets exact.
        if !(Duration::from_millis(50)..=Duration::from_secs(86_400)).contains(&rule.limit.interval()) {
            issues.error_at("per", "must be between 50ms and 24h");
        }
    });
}

fn check_match(issues: &mut Issues, found: &RateLimitMatch) {
    if *found == RateLimitMatch::default() {
        issues.error("must have path, methods or headers; leave it out for all requests");
    }
    issues.optional("path", found.path.as_ref(), |issues, path| check_text(issues, path, true));
    issues.each("methods", &found.methods, |issues, method| {
        if !check::is_token(method) {
            issues.error(format!("{:?} is no method", shorten(method)));
        }
    });
    issues.field("headers", |issues| {
        for (name, value) in &found.headers {
            report_at(issues, name, check::header_name(name));
            if name.chars().any(|c| c.is_ascii_uppercase()) {
                issues.error_at(name, "must be in lower case");
            }
            issues.field(name, |issues| check_text(issues, value, false));
        }
    });
}

fn check_text(issues: &mut Issues, text: &StringMatch, is_path: bool) {
    match text {
        StringMatch::Present if is_path => issues.error("must have exact, prefix or regex"),
        StringMatch::Prefix(prefix) if prefix.is_empty() => issues.error_at("prefix", "must not be empty"),
        StringMatch::Exact(path) | StringMatch::Prefix(path) if is_path && !path.starts_with('/') => {
            issues.error("a path begins with /");
        }
        StringMatch::Regex(pattern) => check::report_regex_at(issues, "regex", pattern),
        _ => {}
    }
}
