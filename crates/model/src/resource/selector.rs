//! Label selectors, in the three shapes that the resources use.

use serde::{Deserialize, Serialize};

use super::Issues;
use super::check::{self, report};
use super::meta::StringMap;

/// Checks the `matchLabels` of Istio's selectors, at the selector that `issues` is at: no wildcards, no empty keys. An empty
/// selector is a warning.
pub(super) fn validate_match_labels(labels: &StringMap, issues: &mut Issues) {
    if labels.is_empty() {
        issues.warn("has no labels and so selects every pod of the namespace; leave it out to say so");
    }
    issues.field("matchLabels", |issues| validate_istio_labels(labels, issues));
}

/// Checks pairs of one of Istio's selectors.
pub(super) fn validate_istio_labels<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>, issues: &mut Issues) {
    for (key, value) in labels {
        issues.field(key, |issues| {
            if key.is_empty() {
                issues.error("a label's key must not be empty");
            } else if key.contains('*') || value.contains('*') {
                issues.error("labels are compared exactly: '*' is not allowed");
            } else {
                report(issues, check::qualified_name(key));
                report(issues, check::label_value(value));
            }
        });
    }
}

impl LabelSelector {
    /// Checks a selector of Kubernetes', which must demand something.
    pub(super) fn validate(&self, issues: &mut Issues) {
        if self.is_empty() {
            issues.error("must not be empty: it would select every pod");
        }
        self.check(issues);
    }

    /// Checks a selector that may be empty.
    pub(crate) fn check(&self, issues: &mut Issues) {
        issues.field("matchLabels", |issues| {
            for (key, value) in &self.match_labels {
                issues.field(key, |issues| {
                    report(issues, check::qualified_name(key));
                    report(issues, check::label_value(value));
                });
            }
        });
        issues.each("matchExpressions", &self.match_expressions, |issues, requirement| {
            check::report_at(issues, "key", check::qualified_name(&requirement.key));
            let needs_values = matches!(requirement.operator, SelectorOperator::In | SelectorOperator::NotIn);
            match (needs_values, requirement.values.is_empty()) {
                (true, true) => issues.error_at("values", "must not be empty with In and NotIn"),
                (false, false) => issues.error_at("values", "must be empty with Exists and DoesNotExist"),
                _ => {}
            }
            issues.each("values", &requirement.values, |issues, value| {
                report(issues, check::label_value(value));
            });
        });
    }
}

/// Whether every pair of `selector` is in `labels`. An empty selector matches everything, as in Istio and Kubernetes.
pub fn is_subset(selector: &StringMap, labels: &StringMap) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Kubernetes' `LabelSelector` (`Deployment.spec.selector`): pairs and expressions, all of which must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelSelector {
    /// Pairs that must be present.
    pub match_labels: StringMap,
    /// Further conditions.
    pub match_expressions: Vec<LabelSelectorRequirement>,
}

/// One condition of a [`LabelSelector`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelSelectorRequirement {
    /// The label's key.
    pub key: String,
    /// How the label's value is compared.
    pub operator: SelectorOperator,
    /// Values for `In` and `NotIn`; empty for the others.
    #[serde(default)]
    pub values: Vec<String>,
}

/// The comparison of a [`LabelSelectorRequirement`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SelectorOperator {
    /// The label exists and its value is listed.
    In,
    /// The label is absent or its value is not listed.
    NotIn,
    /// The label exists.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

impl LabelSelector {
    /// Whether nothing is demanded.
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }

    /// Whether `labels` meet every condition.
    pub fn matches(&self, labels: &StringMap) -> bool {
        is_subset(&self.match_labels, labels) && self.match_expressions.iter().all(|e| e.matches(labels))
    }
}

impl LabelSelectorRequirement {
    fn matches(&self, labels: &StringMap) -> bool {
        let value = labels.get(&self.key);
        match self.operator {
            SelectorOperator::In => value.is_some_and(|v| self.values.contains(v)),
            SelectorOperator::NotIn => value.is_none_or(|v| !self.values.contains(v)),
            SelectorOperator::Exists => value.is_some(),
            SelectorOperator::DoesNotExist => value.is_none(),
        }
    }
}

/// Istio's `type.v1beta1.WorkloadSelector` (security kinds, `DestinationRule.workloadSelector`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadSelector {
    /// Labels that a pod must have, in the policy's namespace.
    pub match_labels: StringMap,
}

impl WorkloadSelector {
    /// Whether `labels` have every pair.
    pub fn matches(&self, labels: &StringMap) -> bool {
        is_subset(&self.match_labels, labels)
    }
}

/// The `workloadSelector` of a `Sidecar`.
///
/// In Istio's networking API the field is called `labels`. Every other selector of Istio calls it `matchLabels`, and manifests
/// in use say so here too, plainly meaning the same; Lateen reads both spellings, so that those manifests run unmodified. One
/// selector may use only one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct SidecarSelector {
    /// Istio's own spelling.
    pub labels: Option<StringMap>,
    /// The spelling of all other selectors.
    pub match_labels: Option<StringMap>,
}

impl SidecarSelector {
    /// The pairs, whichever way they are spelled.
    pub fn pairs(&self) -> impl Iterator<Item = (&String, &String)> {
        self.labels.iter().chain(&self.match_labels).flatten()
    }

    /// Whether nothing is demanded.
    pub fn is_empty(&self) -> bool {
        self.pairs().next().is_none()
    }

    /// Whether `labels` have every pair.
    pub fn matches(&self, labels: &StringMap) -> bool {
        self.pairs().all(|(key, value)| labels.get(key) == Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> StringMap {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn selectors_match_labels() {
        let pod = labels(&[("app", "a"), ("version", "v1")]);
        assert!(is_subset(&labels(&[]), &pod) && is_subset(&labels(&[("app", "a")]), &pod));
        assert!(!is_subset(&labels(&[("app", "b")]), &pod) && !is_subset(&labels(&[("tier", "x")]), &pod));
        for (key, operator, values, expected) in [
            ("app", SelectorOperator::In, &["a", "b"][..], true),
            ("app", SelectorOperator::In, &["b"], false),
            ("tier", SelectorOperator::In, &["b"], false),
            ("app", SelectorOperator::NotIn, &["a"], false),
            ("tier", SelectorOperator::NotIn, &["a"], true),
            ("app", SelectorOperator::Exists, &[], true),
            ("tier", SelectorOperator::Exists, &[], false),
            ("tier", SelectorOperator::DoesNotExist, &[], true),
        ] {
            let values = values.iter().map(|&value| value.to_owned()).collect();
            let requirement = LabelSelectorRequirement { key: key.to_owned(), operator, values };
            let selector = LabelSelector { match_labels: labels(&[("version", "v1")]), match_expressions: vec![requirement] };
            assert_eq!(selector.matches(&pod), expected, "{selector:?}");
        }
    }

    #[test]
    fn both_spellings_of_a_sidecars_selector_mean_the_same() {
        let pod = labels(&[("app", "a")]);
        let pairs = Some(labels(&[("app", "a")]));
        let istio = SidecarSelector { labels: pairs.clone(), match_labels: None };
        let other = SidecarSelector { labels: None, match_labels: pairs };
        for selector in [istio, other] {
            assert!(selector.matches(&pod) && !selector.matches(&labels(&[])) && !selector.is_empty());
        }
        assert!(SidecarSelector::default().matches(&pod) && SidecarSelector::default().is_empty());
    }
}
