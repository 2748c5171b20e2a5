//! `security.istio.io PeerAuthentication`: which connections a workload accepts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::check::{self, report};
use super::meta::Object;
use super::selector::{WorkloadSelector, validate_match_labels};
use super::{FieldIssue, Issues};

/// Which connections a workload accepts.
pub type PeerAuthentication = Object<PeerAuthenticationSpec>;

/// Istio's `PeerAuthentication` message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerAuthenticationSpec {
    /// Pods that it is for; absent: all of the namespace (of the mesh, in the root namespace).
    pub selector: Option<WorkloadSelector>,
    /// For all ports.
    pub mtls: Option<MutualTls>,
    /// By the pod's own port (not the service's).
    pub port_level_mtls: Option<BTreeMap<u32, MutualTls>>,
}

impl PeerAuthenticationSpec {
    /// The mode for all ports; `UNSET` if nothing is said.
    pub fn mode(&self) -> MutualTlsMode {
        self.mtls.map(|mtls| mtls.mode).unwrap_or_default()
    }

    /// The mode for one of the pod's ports, if one is said.
    pub fn port_mode(&self, port: u16) -> Option<MutualTlsMode> {
        self.port_level_mtls.as_ref()?.get(&u32::from(port)).map(|mtls| mtls.mode)
    }

    /// Whether it is for some pods only.
    pub fn has_selector(&self) -> bool {
        self.selector.as_ref().is_some_and(|selector| !selector.match_labels.is_empty())
    }
}

/// The setting of a port or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct MutualTls {
    /// What is accepted.
    pub mode: MutualTlsMode,
}

/// What is accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MutualTlsMode {
    /// Inherited.
    #[default]
    Unset,
    /// Plain text only.
    Disable,
    /// Both.
    Permissive,
    /// Mutual TLS only.
    Strict,
}

impl PeerAuthentication {
    /// Finds what Istio's validation would refuse or warn about.
    pub fn validate(&self, issues: &mut Issues) {
        issues.field("spec", |issues| {
            issues.optional("selector", self.spec.selector.as_ref(), |issues, selector| {
                validate_match_labels(&selector.match_labels, issues);
            });
            if let Some(ports) = &self.spec.port_level_mtls {
                issues.field("portLevelMtls", |issues| {
                    if ports.is_empty() {
                        issues.error("must not be empty");
                    }
                    if !self.spec.has_selector() {
                        issues.error("needs a selector with labels: ports belong to single workloads");
                    }
                    for port in ports.keys() {
                        issues.field(&port.to_string(), |issues| report(issues, check::port((*port).into())));
                    }
                });
            }
        });
    }

    /// Everything is implemented.
    pub fn unsupported(&self) -> Vec<FieldIssue> {
        Vec::new()
    }
}
