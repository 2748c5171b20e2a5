//! `apps/v1 StatefulSet`.

use serde::{Deserialize, Serialize};

use super::deployment::PodTemplateSpec;
use super::meta::Object;
use super::selector::LabelSelector;
use super::{IntOrString, Passthrough};

mod validate;

/// Pods with numbers, each of which keeps its name when it is replaced.
pub type StatefulSet = Object<StatefulSetSpec>;

/// Kubernetes' `StatefulSetSpec`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct StatefulSetSpec {
    /// How many pods; 1 if absent.
    pub replicas: Option<i32>,
    /// Which pods are this set's; must match the template's labels.
    pub selector: LabelSelector,
    /// The headless service under which the pods have their names.
    pub service_name: String,
    /// What a pod looks like.
    pub template: PodTemplateSpec,
    /// Whether a pod waits for those of lower numbers.
    pub pod_management_policy: PodManagementPolicy,
    /// How pods are replaced.
    pub update_strategy: StatefulSetUpdateStrategy,
    /// Seconds that a pod must be ready before it counts as available; 0 if absent.
    pub min_ready_seconds: Option<i32>,
    /// The first number.
    pub ordinals: Option<StatefulSetOrdinals>,
    /// Accepted: there is no history of revisions to keep.
    pub revision_history_limit: Option<i32>,
    /// Volumes that outlive pods; not supported.
    pub volume_claim_templates: Vec<Passthrough>,
    /// Accepted: without claims there is nothing to keep.
    pub persistent_volume_claim_retention_policy: Option<Passthrough>,
}

impl StatefulSetSpec {
    /// The number of the first pod; 0 if none is written.
    pub fn first_ordinal(&self) -> u32 {
        self.ordinals.and_then(|o| u32::try_from(o.start).ok()).unwrap_or(0)
    }
}

/// Whether pods are made and ended one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodManagementPolicy {
    /// In the order of their numbers, each after the one before is ready; ended in the reverse order.
    #[default]
    OrderedReady,
    /// All at once.
    Parallel,
}

/// How the pods of a set are replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct StatefulSetUpdateStrategy {
    /// `RollingUpdate` if absent.
    #[serde(rename = "type")]
    pub type_: StatefulSetUpdateType,
    /// Only with `RollingUpdate`.
    pub rolling_update: Option<RollingUpdateStatefulSet>,
}

/// The kind of a [`StatefulSetUpdateStrategy`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StatefulSetUpdateType {
    /// From the highest number down, each when the one before is ready again.
    #[default]
    RollingUpdate,
    /// When somebody ends a pod.
    OnDelete,
}

/// Bounds of a rolling update.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RollingUpdateStatefulSet {
    /// Pods of lower numbers stay as they are.
    pub partition: Option<i32>,
    /// Pods that may be away at once: a count, or a percentage of `replicas`, rounded up; 1 if absent.
    pub max_unavailable: Option<IntOrString>,
}

/// `spec.ordinals`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct StatefulSetOrdinals {
    /// The first number.
    pub start: i32,
}
