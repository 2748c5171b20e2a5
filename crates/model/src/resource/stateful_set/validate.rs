//! What makes a StatefulSet valid: Kubernetes' own rules.

use super::{StatefulSet, StatefulSetUpdateType};
use crate::resource::check::{self, report, report_at};
use crate::resource::meta::validate_labels_and_annotations;
use crate::resource::{FieldIssue, IntOrString, Issues, RestartPolicy};

impl StatefulSet {
    /// Finds what Kubernetes' validation would refuse.
    pub fn validate(&self, issues: &mut Issues) {
        issues.field("spec", |issues| {
            let spec = &self.spec;
            issues.field("selector", |issues| spec.selector.validate(issues));
            if !spec.service_name.is_empty() {
                report_at(issues, "serviceName", check::dns_label(&spec.service_name));
            }
            issues.field("template", |issues| {
                issues.field("metadata", |issues| validate_labels_and_annotations(&spec.template.metadata, issues));
                issues.field("spec", |issues| spec.template.spec.validate(issues));
                if !spec.selector.is_empty() && !spec.selector.matches(&spec.template.metadata.labels) {
                    issues.field("metadata", |issues| {
                        issues.error_at("labels", "do not match spec.selector: the set would not own its pods");
                    });
                }
                if spec.template.spec.restart_policy.is_some_and(|policy| policy != RestartPolicy::Always) {
                    issues.field("spec", |issues| issues.error_at("restartPolicy", "must be Always in a StatefulSet"));
                }
            });
            self.check_numbers(issues);
            issues.field("updateStrategy", |issues| self.check_strategy(issues));
        });
        // A pod's name is its host name and the value of a label: at most 63 bytes, of which its number takes some.
        if self.metadata.name.len() > 52 {
            issues
                .field("metadata", |issues| issues.error_at("name", "must have at most 52 bytes: pods add their numbers to it"));
        }
    }

    fn check_numbers(&self, issues: &mut Issues) {
        let numbers = [
            ("replicas", self.spec.replicas),
            ("minReadySeconds", self.spec.min_ready_seconds),
            ("revisionHistoryLimit", self.spec.revision_history_limit),
        ];
        for (key, number) in numbers {
            if number.is_some_and(|number| number < 0) {
                issues.error_at(key, "must not be negative");
            }
        }
        if self.spec.ordinals.is_some_and(|o| o.start < 0) {
            issues.field("ordinals", |issues| issues.error_at("start", "must not be negative"));
        }
    }

    fn check_strategy(&self, issues: &mut Issues) {
        let strategy = &self.spec.update_strategy;
        let Some(rolling) = &strategy.rolling_update else { return };
        if strategy.type_ == StatefulSetUpdateType::OnDelete {
            issues.error_at("rollingUpdate", "must not be set with OnDelete");
        }
        issues.field("rollingUpdate", |issues| {
            if rolling.partition.is_some_and(|n| n < 0) {
                issues.error_at("partition", "must not be negative");
            }
            issues.optional("maxUnavailable", rolling.max_unavailable.as_ref(), |issues, bound| report(issues, some(bound)));
        });
    }

    /// Fields that are set and not implemented.
    pub(in crate::resource) fn unsupported(&self) -> Vec<FieldIssue> {
        let mut issues = Issues::default();
        issues.field("spec", |issues| {
            issues.field("template", |issues| issues.field("spec", |issues| self.spec.template.spec.unsupported(issues)));
            if !self.spec.volume_claim_templates.is_empty() {
                issues.error_at(
                    "volumeClaimTemplates",
                    "are not supported by this version of Lateen: no volume outlives its pod. An emptyDir in spec.template is",
                );
            }
            if self.spec.update_strategy.type_ == StatefulSetUpdateType::OnDelete {
                issues.field("updateStrategy", |issues| {
                    issues
                        .error_at("type", "OnDelete is not supported by this version of Lateen: nobody deletes single pods here");
                });
            }
        });
        issues.into_errors()
    }
}

/// A count of at least one, or such a percentage.
fn some(bound: &IntOrString) -> check::Check {
    let fine = match bound {
        IntOrString::Int(n) => *n > 0,
        IntOrString::String(text) => {
            text.strip_suffix('%').and_then(|p| p.parse::<u32>().ok()).is_some_and(|p| (1..=100).contains(&p))
        }
    };
    if fine { Ok(()) } else { Err(format!("is {bound}, must be a number above 0 or a percentage such as 25%")) }
}
