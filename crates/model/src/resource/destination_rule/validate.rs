//! What makes a DestinationRule valid: Istio's own rules.

use std::collections::BTreeSet;

use super::settings_check;
use super::{DestinationRule, OutlierDetection, PortTrafficPolicy, Subset, TrafficPolicy};
use crate::resource::check::{self, report, report_at};
use crate::resource::selector::validate_match_labels;
use crate::resource::{Issues, export_to, shorten};

impl DestinationRule {
    /// Finds what Istio's validation would refuse or warn about.
    pub fn validate(&self, issues: &mut Issues) {
        issues.field("spec", |issues| {
            if issues.require("host", &self.spec.host) {
                report_at(issues, "host", check::wildcard_host(&self.spec.host));
            }
            issues.optional("trafficPolicy", self.spec.traffic_policy.as_ref(), check_policy);
            let mut names = BTreeSet::new();
            issues.each("subsets", &self.spec.subsets, |issues, subset| {
                check_subset(subset, issues);
                if !names.insert(subset.name.as_str()) {
                    issues.error_at("name", format!("the subset {:?} is defined twice", shorten(&subset.name)));
                }
            });
            export_to::validate(&self.spec.export_to, &self.metadata.namespace, issues);
            issues.optional("workloadSelector", self.spec.workload_selector.as_ref(), |issues, selector| {
                validate_match_labels(&selector.match_labels, issues);
            });
            let own = |entry: &String| entry == "." || *entry == self.metadata.namespace;
            if self.spec.workload_selector.is_some() && !self.spec.export_to.iter().all(own) {
                issues.error_at("exportTo", "must be the own namespace alone when there is a workloadSelector");
            }
        });
    }
}

fn check_subset(subset: &Subset, issues: &mut Issues) {
    match subset.name.as_str() {
        "" => issues.error_at("name", "is required"),
        name => report_at(issues, "name", check::dns_label(name)),
    }
    issues.field("labels", |issues| {
        for (key, value) in &subset.labels {
            issues.field(key, |issues| {
                report(issues, check::qualified_name(key));
                report(issues, check::label_value(value));
            });
        }
    });
    issues.optional("trafficPolicy", subset.traffic_policy.as_ref(), check_policy);
}

fn check_policy(issues: &mut Issues, policy: &TrafficPolicy) {
    if *policy == TrafficPolicy::default() {
        issues.error("must set at least one field");
    }
    issues.optional("loadBalancer", policy.load_balancer.as_ref(), |issues, settings| {
        settings_check::load_balancer(settings, policy.outlier_detection.is_some(), issues);
    });
    issues.optional("connectionPool", policy.connection_pool.as_ref(), settings_check::connection_pool);
    issues.optional("outlierDetection", policy.outlier_detection.as_ref(), check_outlier_detection);
    issues.optional("tls", policy.tls.as_ref(), settings_check::tls);
    issues.each("portLevelSettings", &policy.port_level_settings, check_port_policy);
    if policy.tunnel.is_some() && policy.proxy_protocol.is_some() {
        issues.error("has tunnel and proxyProtocol: only one of them is allowed");
    }
    issues.optional("tunnel", policy.tunnel.as_ref(), |issues, tunnel| {
        if !matches!(tunnel.protocol.as_str(), "" | "CONNECT" | "POST") {
            issues.error_at("protocol", format!("is {:?}, must be CONNECT or POST", shorten(&tunnel.protocol)));
        }
        if issues.require("targetHost", &tunnel.target_host) {
            report_at(issues, "targetHost", check::fqdn(&tunnel.target_host));
        }
        report_at(issues, "targetPort", check::port(tunnel.target_port.into()));
    });
    issues.optional("retryBudget", policy.retry_budget.as_ref(), |issues, budget| {
        if let Some(percent) = budget.percent.filter(|percent| !(0.0..=100.0).contains(percent)) {
            issues.error_at("percent", format!("is {percent}, must be 0 to 100"));
        }
        if let Some(interval) = budget.budget_interval {
            report_at(issues, "budgetInterval", check::whole_millis_or_zero(interval));
        }
    });
}

fn check_port_policy(issues: &mut Issues, policy: &PortTrafficPolicy) {
    match &policy.port {
        None => issues.error_at("port", "is required"),
        Some(port) => issues.field("port", |issues| report_at(issues, "number", check::port(port.number.into()))),
    }
    let is_empty = policy.load_balancer.is_none()
        && policy.connection_pool.is_none()
        && policy.outlier_detection.is_none()
        && policy.tls.is_none();
    if is_empty {
        issues.error("must set at least one of loadBalancer, connectionPool, outlierDetection and tls");
    }
    issues.optional("loadBalancer", policy.load_balancer.as_ref(), |issues, settings| {
        settings_check::load_balancer(settings, policy.outlier_detection.is_some(), issues);
    });
    issues.optional("connectionPool", policy.connection_pool.as_ref(), settings_check::connection_pool);
    issues.optional("outlierDetection", policy.outlier_detection.as_ref(), check_outlier_detection);
    issues.optional("tls", policy.tls.as_ref(), settings_check::tls);
}

fn check_outlier_detection(issues: &mut Issues, detection: &OutlierDetection) {
    if detection.consecutive_errors.is_some() {
        issues.warn_at(
            "consecutiveErrors",
            "is deprecated and has no effect: use consecutive5xxErrors or consecutiveGatewayErrors",
        );
    }
    if detection.consecutive_local_origin_failures.is_some_and(|count| count > 0) && !detection.split_external_local_origin_errors
    {
        issues.error_at("consecutiveLocalOriginFailures", "needs splitExternalLocalOriginErrors: true");
    }
    for (key, duration) in [("interval", detection.interval), ("baseEjectionTime", detection.base_ejection_time)] {
        if let Some(duration) = duration {
            report_at(issues, key, check::whole_millis(duration));
        }
    }
    report_at(issues, "maxEjectionPercent", check::whole_percent(detection.max_ejection_percent));
    report_at(issues, "minHealthPercent", check::whole_percent(detection.min_health_percent));
    issues.each("outlierDetectionHttpErrorCodes", &detection.outlier_detection_http_error_codes, |issues, status| {
        if !(100..=599).contains(status) {
            issues.error(format!("is {status}, must be an HTTP status from 100 to 599"));
        }
    });
}
