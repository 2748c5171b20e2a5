//! Fields of a DestinationRule that Istio implements and this version does not: none.

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
