//! `security.istio.io PeerAuthentication`: which connections a workload accepts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::meta::Object;
use super::selector::WorkloadSelector;

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
    pub port_level_mtls: BTreeMap<u32, MutualTls>,
}

impl PeerAuthenticationSpec {
    /// The mode for all ports; `UNSET` if nothing is said.
    pub fn mode(&self) -> MutualTlsMode {
        self.mtls.map(|mtls| mtls.mode).unwrap_or_default()
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
