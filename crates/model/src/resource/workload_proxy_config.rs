//! `networking.istio.io ProxyConfig`: settings of the proxies of some workloads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::check::{self, report_at};
use super::meta::{Object, StringMap};
use super::selector::{WorkloadSelector, validate_match_labels};
use super::{FieldIssue, Issues};

/// Settings of the proxies of some workloads. They take effect where a proxy starts.
pub type WorkloadProxyConfig = Object<WorkloadProxyConfigSpec>;

/// Istio's `ProxyConfig` message of `networking.istio.io/v1beta1`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadProxyConfigSpec {
    /// Pods that it is for; absent: all of the namespace (of the mesh, in the root namespace).
    pub selector: Option<WorkloadSelector>,
    /// Worker threads; 0: one for every core.
    pub concurrency: Option<i32>,
    /// Variables of the proxies' environment.
    pub environment_variables: StringMap,
    /// Which image a proxy runs: there is none on one machine.
    pub image: Option<ProxyImage>,
}

/// Istio's `ProxyImage`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ProxyImage {
    /// `default`, `debug` or `distroless`.
    pub image_type: String,
}

impl WorkloadProxyConfigSpec {
    /// Whether it is for some pods only.
    pub fn has_selector(&self) -> bool {
        self.selector.as_ref().is_some_and(|selector| !selector.match_labels.is_empty())
    }

    /// Whether it is for a pod with these labels, in its place.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.selector.as_ref().is_none_or(|selector| selector.matches(labels))
    }
}

impl WorkloadProxyConfig {
    /// Finds what Istio's validation would refuse or warn about.
    pub fn validate(&self, issues: &mut Issues) {
        issues.field("spec", |issues| {
            let spec = &self.spec;
            issues.optional("selector", spec.selector.as_ref(), |issues, selector| {
                validate_match_labels(&selector.match_labels, issues);
            });
            if spec.concurrency.is_some_and(|n| n < 0) {
                issues.error_at("concurrency", "must not be negative; 0 means one worker for every core");
            }
            issues.field("environmentVariables", |issues| {
                for name in spec.environment_variables.keys() {
                    report_at(issues, name, check::env_name(name));
                }
            });
            if spec.image.is_some() {
                issues.warn_at(
                    "image",
                    "has no effect: proxies are processes of this machine, and run Lateen or what --sidecar names",
                );
            }
        });
    }

    /// Fields that are set and not implemented.
    pub fn unsupported(&self) -> Vec<FieldIssue> {
        Vec::new()
    }
}
