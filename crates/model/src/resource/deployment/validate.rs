//! What makes a Deployment valid: Kubernetes' own rules.

use super::{Deployment, DeploymentStrategyType};
use crate::resource::check::{report, report_at};
use crate::resource::meta::validate_labels_and_annotations;
use crate::resource::{FieldIssue, IntOrString, Issues, RestartPolicy};

impl Deployment {
    /// Finds what Kubernetes' validation would refuse.
    pub fn validate(&self, issues: &mut Issues) {
        issues.field("spec", |issues| {
            let spec = &self.spec;
            issues.field("selector", |issues| spec.selector.validate(issues));
            issues.field("template", |issues| {
                issues.field("metadata", |issues| validate_labels_and_annotations(&spec.template.metadata, issues));
                issues.field("spec", |issues| spec.template.spec.validate(issues));
                if !spec.selector.is_empty() && !spec.selector.matches(&spec.template.metadata.labels) {
                    issues.field("metadata", |issues| {
                        issues.error_at("labels", "do not match spec.selector: the deployment would not own its pods");
                    });
                }
                if spec.template.spec.restart_policy.is_some_and(|policy| policy != RestartPolicy::Always) {
                    issues.field("spec", |issues| issues.error_at("restartPolicy", "must be Always in a Deployment"));
                }
            });
            self.check_numbers(issues);
            issues.field("strategy", |issues| self.check_strategy(issues));
        });
    }

    fn check_numbers(&self, issues: &mut Issues) {
        let numbers = [
            ("replicas", self.spec.replicas),
            ("minReadySeconds", self.spec.min_ready_seconds),
            ("progressDeadlineSeconds", self.spec.progress_deadline_seconds),
            ("revisionHistoryLimit", self.spec.revision_history_limit),
        ];
        for (key, number) in numbers {
            if number.is_some_and(|number| number < 0) {
                issues.error_at(key, "must not be negative");
            }
        }
        // Kubernetes' default is 600.
        if self.spec.min_ready_seconds.unwrap_or(0) >= self.spec.progress_deadline_seconds.unwrap_or(600) {
            issues.error_at("progressDeadlineSeconds", "must be greater than minReadySeconds");
        }
    }

    fn check_strategy(&self, issues: &mut Issues) {
        let strategy = &self.spec.strategy;
        let Some(rolling) = &strategy.rolling_update else { return };
        if strategy.type_ == DeploymentStrategyType::Recreate {
            issues.error_at("rollingUpdate", "must not be set with Recreate");
        }
        issues.field("rollingUpdate", |issues| {
            for (key, bound) in [("maxSurge", &rolling.max_surge), ("maxUnavailable", &rolling.max_unavailable)] {
                issues.optional(key, bound.as_ref(), |issues, bound| report(issues, check_bound(bound)));
            }
            let is_zero = |bound: &Option<IntOrString>| bound.as_ref().is_some_and(|bound| matches!(share(bound), Some(0)));
            if is_zero(&rolling.max_surge) && is_zero(&rolling.max_unavailable) {
                report_at(
                    issues,
                    "maxUnavailable",
                    Err("must not be 0 when maxSurge is 0: no pod could ever be replaced".to_owned()),
                );
            }
        });
    }

    /// Fields that are set and not implemented.
    pub(in crate::resource) fn unsupported(&self) -> Vec<FieldIssue> {
        let mut issues = Issues::default();
        issues.field("spec", |issues| {
            issues.field("template", |issues| issues.field("spec", |issues| self.spec.template.spec.unsupported(issues)));
        });
        issues.into_errors()
    }
}

/// The number in a count or a percentage.
fn share(bound: &IntOrString) -> Option<i32> {
    match bound {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(text) => {
            let digits = text.strip_suffix('%')?;
            digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
        }
    }
}

fn check_bound(bound: &IntOrString) -> Result<(), String> {
    match share(bound) {
        Some(0..) => Ok(()),
        _ => Err(format!("is {bound}, must be a number or a percentage such as 25%")),
    }
}
