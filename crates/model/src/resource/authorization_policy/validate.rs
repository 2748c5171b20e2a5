//! What makes an AuthorizationPolicy valid: Istio's own rules.

use super::value_check;
use super::{Action, AuthorizationPolicy, Operation, PolicyTargetReference, Rule, Source};
use crate::resource::check::{self, report, report_at};
use crate::resource::selector::validate_match_labels;
use crate::resource::{FieldIssue, Issues, shorten};

/// Turns enforcement off, in Istio; its value is a boolean of Go's.
pub(crate) const DRY_RUN_ANNOTATION: &str = "istio.io/dry-run";

/// The most entries that `targetRefs` may have.
const MAX_TARGETS: usize = 16;

impl AuthorizationPolicy {
    /// Finds what Istio's validation would refuse or warn about.
    pub fn validate(&self, issues: &mut Issues) {
        self.check_dry_run(issues);
        issues.field("spec", |issues| {
            self.check_attachment(issues);
            self.check_action(issues);
            issues.each("rules", &self.spec.rules, |issues, rule| self.check_rule(rule, issues));
        });
    }

    fn check_dry_run(&self, issues: &mut Issues) {
        let Some(value) = self.metadata.annotations.get(DRY_RUN_ANNOTATION) else { return };
        issues.field("metadata", |issues| {
            issues.field("annotations", |issues| {
                issues.field(DRY_RUN_ANNOTATION, |issues| {
                    if go_bool(value).is_none() {
                        issues.error(format!("is {:?}, must be \"true\" or \"false\"", shorten(value)));
                    }
                    if !matches!(self.spec.action, Action::Allow | Action::Deny) {
                        issues.error("works with ALLOW and DENY only");
                    }
                });
            });
        });
    }

    fn check_attachment(&self, issues: &mut Issues) {
        let spec = &self.spec;
        let attached = [spec.selector.is_some(), spec.target_ref.is_some(), !spec.target_refs.is_empty()];
        if attached.iter().filter(|set| **set).count() > 1 {
            issues.error("only one of selector, targetRef and targetRefs is allowed");
        }
        issues.optional("selector", spec.selector.as_ref(), |issues, selector| {
            validate_match_labels(&selector.match_labels, issues);
        });
        issues.optional("targetRef", spec.target_ref.as_ref(), check_target);
        if spec.target_refs.len() > MAX_TARGETS {
            issues.error_at("targetRefs", format!("has {} entries; {MAX_TARGETS} are allowed", spec.target_refs.len()));
        }
        issues.each("targetRefs", &spec.target_refs, check_target);
    }

    fn check_action(&self, issues: &mut Issues) {
        let spec = &self.spec;
        match (spec.action, &spec.provider) {
            (Action::Custom, None) => issues.error_at("provider", "is required with CUSTOM"),
            (Action::Custom, Some(provider)) => issues.field("provider", |issues| issues.require_name(&provider.name)),
            (_, Some(_)) => issues.error_at("provider", "is allowed with CUSTOM only"),
            (_, None) => {}
        }
        if spec.rules.is_empty() && matches!(spec.action, Action::Deny | Action::Custom) {
            issues.error_at("rules", "is required with DENY and CUSTOM: without rules the policy matches nothing");
        }
    }

    fn check_rule(&self, rule: &Rule, issues: &mut Issues) {
        if rule.from.as_ref().is_some_and(Vec::is_empty) {
            issues.error_at("from", "must not be empty: leave it out to match every source");
        }
        if rule.to.as_ref().is_some_and(Vec::is_empty) {
            issues.error_at("to", "must not be empty: leave it out to match every operation");
        }
        issues.each("from", rule.from.iter().flatten(), |issues, from| match &from.source {
            None => issues.error_at("source", "is required"),
            Some(source) => issues.field("source", |issues| self.check_source(source, issues)),
        });
        issues.each("to", rule.to.iter().flatten(), |issues, to| match &to.operation {
            None => issues.error_at("operation", "is required"),
            Some(operation) => issues.field("operation", |issues| check_operation(operation, issues)),
        });
        issues.each("when", &rule.when, |issues, condition| {
            value_check::condition(condition, issues);
            if self.spec.action == Action::Custom && value_check::is_identity_key(&condition.key) {
                issues.error_at("key", "cannot be used with CUSTOM");
            }
        });
        if self.spec.action == Action::Deny && is_http_only(rule) {
            issues.warn("has only attributes of HTTP and no ports: on TCP ports it denies every connection");
        }
    }

    fn check_source(&self, source: &Source, issues: &mut Issues) {
        if *source == Source::default() {
            issues.error("must set at least one field");
        }
        for (key, values) in source.lists() {
            let check: fn(&str) -> check::Check = match key {
                "ipBlocks" | "notIpBlocks" | "remoteIpBlocks" | "notRemoteIpBlocks" => check::ip_block,
                "serviceAccounts" | "notServiceAccounts" => value_check::service_account,
                "trustDomains" | "notTrustDomains" => value_check::trust_domain,
                "principals" | "notPrincipals" => value_check::principal,
                _ => value_check::not_empty,
            };
            issues.each(key, values, |issues, value| report(issues, check(value)));
            let is_network = matches!(key, "ipBlocks" | "notIpBlocks" | "remoteIpBlocks" | "notRemoteIpBlocks");
            if self.spec.action == Action::Custom && !is_network && !values.is_empty() {
                issues.error_at(key, "cannot be used with CUSTOM");
            }
        }
        for (key, values) in [("serviceAccounts", &source.service_accounts), ("notServiceAccounts", &source.not_service_accounts)]
        {
            if values.len() > value_check::MAX_SERVICE_ACCOUNTS {
                issues.error_at(key, format!("has {} values; {} are allowed", values.len(), value_check::MAX_SERVICE_ACCOUNTS));
            }
        }
        let accounts = !source.service_accounts.is_empty() || !source.not_service_accounts.is_empty();
        let others = [&source.principals, &source.not_principals, &source.namespaces, &source.not_namespaces];
        if accounts && others.into_iter().any(|values| !values.is_empty()) {
            issues.error("serviceAccounts cannot be combined with principals or namespaces");
        }
    }

    /// Fields that are set and not implemented: what needs JWTs, targets other than workloads, and outside decisions.
    pub fn unsupported(&self) -> Vec<FieldIssue> {
        let mut issues = Issues::default();
        if self.metadata.annotations.get(DRY_RUN_ANNOTATION).and_then(|value| go_bool(value)) == Some(true) {
            issues.field("metadata", |issues| {
                issues.field("annotations", |issues| issues.unsupported_if(true, DRY_RUN_ANNOTATION));
            });
        }
        issues.field("spec", |issues| {
            issues.unsupported_if(self.spec.target_ref.is_some(), "targetRef");
            issues.unsupported_if(!self.spec.target_refs.is_empty(), "targetRefs");
            if self.spec.action == Action::Custom {
                const INSTEAD: &str = "CUSTOM is not supported by this version of Lateen; ALLOW, DENY and AUDIT are";
                issues.error_at("action", INSTEAD);
                if self.spec.provider.is_some() {
                    issues.error_at("provider", INSTEAD);
                }
            }
            issues.each("rules", &self.spec.rules, |issues, rule| {
                issues.each("from", rule.from.iter().flatten(), |issues, from| {
                    issues.optional("source", from.source.as_ref(), |issues, source| {
                        issues.unsupported_if(!source.request_principals.is_empty(), "requestPrincipals");
                        issues.unsupported_if(!source.not_request_principals.is_empty(), "notRequestPrincipals");
                    });
                });
                issues.each("when", &rule.when, |issues, condition| {
                    let later = ["request.auth.", "experimental.envoy.filters."];
                    if later.iter().any(|prefix| condition.key.starts_with(prefix)) {
                        issues.error_at("key", format!("{} is not supported by this version of Lateen", shorten(&condition.key)));
                    }
                });
            });
        });
        issues.into_errors()
    }
}

impl Source {
    /// Every list with its field's name.
    pub fn lists(&self) -> [(&'static str, &[String]); 14] {
        [
            ("principals", &self.principals),
            ("notPrincipals", &self.not_principals),
            ("requestPrincipals", &self.request_principals),
            ("notRequestPrincipals", &self.not_request_principals),
            ("namespaces", &self.namespaces),
            ("notNamespaces", &self.not_namespaces),
            ("serviceAccounts", &self.service_accounts),
            ("notServiceAccounts", &self.not_service_accounts),
            ("ipBlocks", &self.ip_blocks),
            ("notIpBlocks", &self.not_ip_blocks),
            ("remoteIpBlocks", &self.remote_ip_blocks),
            ("notRemoteIpBlocks", &self.not_remote_ip_blocks),
            ("trustDomains", &self.trust_domains),
            ("notTrustDomains", &self.not_trust_domains),
        ]
    }
}

impl Operation {
    /// Every list with its field's name.
    pub fn lists(&self) -> [(&'static str, &[String]); 8] {
        [
            ("hosts", &self.hosts),
            ("notHosts", &self.not_hosts),
            ("ports", &self.ports),
            ("notPorts", &self.not_ports),
            ("methods", &self.methods),
            ("notMethods", &self.not_methods),
            ("paths", &self.paths),
            ("notPaths", &self.not_paths),
        ]
    }
}

fn check_operation(operation: &Operation, issues: &mut Issues) {
    if *operation == Operation::default() {
        issues.error("must set at least one field");
    }
    for (key, values) in operation.lists() {
        let check: fn(&str) -> check::Check = match key {
            "ports" | "notPorts" => value_check::port,
            "paths" | "notPaths" => value_check::path,
            _ => value_check::not_empty,
        };
        issues.each(key, values, |issues, value| report(issues, check(value)));
    }
}

/// Whether a rule says nothing about a connection: a DENY rule then denies all of TCP.
fn is_http_only(rule: &Rule) -> bool {
    let http_operation = |operation: &Operation| operation.ports.is_empty() && operation.not_ports.is_empty();
    let http_source = |source: &Source| {
        source
            .lists()
            .iter()
            .all(|(key, values)| matches!(*key, "requestPrincipals" | "notRequestPrincipals") || values.is_empty())
    };
    let sources = rule.from.iter().flatten().filter_map(|from| from.source.as_ref());
    let operations = rule.to.iter().flatten().filter_map(|to| to.operation.as_ref());
    let conditions = || rule.when.iter().all(|condition| condition.key.starts_with("request."));
    let says_something = rule.from.is_some() || rule.to.is_some() || !rule.when.is_empty();
    says_something && sources.into_iter().all(http_source) && operations.into_iter().all(http_operation) && conditions()
}

fn check_target(issues: &mut Issues, target: &PolicyTargetReference) {
    let known = matches!(
        (target.group.as_str(), target.kind.as_str()),
        ("" | "core", "Service")
            | ("networking.istio.io", "ServiceEntry")
            | ("gateway.networking.k8s.io", "Gateway" | "GatewayClass")
    );
    if !known {
        issues.error_at("kind", "must be Service, ServiceEntry, Gateway or GatewayClass, with its group");
    }
    issues.require("name", &target.name);
    if !target.namespace.is_empty() {
        report_at(issues, "namespace", Err("must be empty: targets are in the policy's own namespace".to_owned()));
    }
}

/// The booleans that Go's `strconv.ParseBool` reads.
fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}
