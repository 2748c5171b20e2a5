//! `apps/v1 Deployment`.

use serde::{Deserialize, Serialize};

use super::meta::{Object, ObjectMeta};
use super::pod::PodSpec;
use super::selector::LabelSelector;
use super::{Dropped, IntOrString};

mod validate;

/// A set of equal pods, replaced step by step when their template changes.
pub type Deployment = Object<DeploymentSpec>;

/// Kubernetes' `DeploymentSpec`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct DeploymentSpec {
    /// How many pods; 1 if absent.
    pub replicas: Option<i32>,
    /// Which pods are this deployment's; must match the template's labels.
    pub selector: LabelSelector,
    /// What a pod looks like.
    pub template: PodTemplateSpec,
    /// How pods are replaced.
    pub strategy: DeploymentStrategy,
    /// Seconds that a pod must be ready before it counts as available; 0 if absent.
    pub min_ready_seconds: Option<i32>,
    /// Seconds without progress after which a roll-out has failed; 600 if absent.
    pub progress_deadline_seconds: Option<i32>,
    /// Accepted: there is no history of replica sets to keep.
    pub revision_history_limit: Option<i32>,
    /// No roll-out starts while true.
    pub paused: bool,
}

/// Metadata and spec of the pods to make.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct PodTemplateSpec {
    /// Labels and annotations of the pods.
    pub metadata: ObjectMeta,
    /// What a pod runs.
    pub spec: PodSpec,
    /// Read and dropped; Kubernetes' exporters write it.
    #[serde(skip_serializing)]
    pub status: Dropped,
}

/// How pods are replaced.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct DeploymentStrategy {
    /// `RollingUpdate` if absent.
    #[serde(rename = "type")]
    pub type_: DeploymentStrategyType,
    /// Only with `RollingUpdate`.
    pub rolling_update: Option<RollingUpdate>,
}

/// The kind of a [`DeploymentStrategy`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeploymentStrategyType {
    /// New pods first, then old ones away.
    #[default]
    RollingUpdate,
    /// All old pods away, then new ones.
    Recreate,
}

/// Bounds of a rolling update: counts, or percentages of `replicas`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RollingUpdate {
    /// Pods above `replicas`; 25% if absent, rounded up.
    pub max_surge: Option<IntOrString>,
    /// Pods below `replicas`; 25% if absent, rounded down.
    pub max_unavailable: Option<IntOrString>,
}
