//! Label selectors, in the three shapes that the resources use.

use serde::{Deserialize, Serialize};

use super::meta::StringMap;

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
