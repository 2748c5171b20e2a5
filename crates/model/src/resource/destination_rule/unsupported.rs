//! Fields of a DestinationRule that Istio implements and this version does not yet.

use super::{ConnectionPoolSettings, DestinationRule, LoadBalancerSettings, OutlierDetection, TrafficPolicy};
use crate::resource::{FieldIssue, Issues};

impl DestinationRule {
    /// Fields that are set and not implemented.
    pub fn unsupported(&self) -> Vec<FieldIssue> {
        let mut issues = Issues::default();
        issues.field("spec", |issues| {
            issues.optional("trafficPolicy", self.spec.traffic_policy.as_ref(), policy);
            issues.each("subsets", &self.spec.subsets, |issues, subset| {
                issues.optional("trafficPolicy", subset.traffic_policy.as_ref(), policy);
            });
        });
        issues.into_errors()
    }
}

fn policy(issues: &mut Issues, policy: &TrafficPolicy) {
    issues.unsupported_if(policy.tunnel.is_some(), "tunnel");
    issues.unsupported_if(policy.proxy_protocol.is_some(), "proxyProtocol");
    issues.optional("loadBalancer", policy.load_balancer.as_ref(), load_balancer);
    issues.optional("connectionPool", policy.connection_pool.as_ref(), connection_pool);
    issues.optional("outlierDetection", policy.outlier_detection.as_ref(), outlier_detection);
    issues.each("portLevelSettings", &policy.port_level_settings, |issues, port| {
        issues.optional("loadBalancer", port.load_balancer.as_ref(), load_balancer);
        issues.optional("connectionPool", port.connection_pool.as_ref(), connection_pool);
        issues.optional("outlierDetection", port.outlier_detection.as_ref(), outlier_detection);
    });
}

fn connection_pool(issues: &mut Issues, settings: &ConnectionPoolSettings) {
    issues.optional("http", settings.http.as_ref(), |issues, http| {
        issues.unsupported_if(http.http2_keep_alive.is_some(), "http2KeepAlive");
    });
}

fn outlier_detection(issues: &mut Issues, detection: &OutlierDetection) {
    issues.unsupported_if(!detection.outlier_detection_http_error_codes.is_empty(), "outlierDetectionHttpErrorCodes");
}

fn load_balancer(issues: &mut Issues, settings: &LoadBalancerSettings) {
    issues.unsupported_if(settings.zone_aware_lb_setting.is_some(), "zoneAwareLbSetting");
}
