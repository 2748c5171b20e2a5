//! `v1 ServiceAccount`.

use serde::{Deserialize, Serialize};

use super::meta::ObjectMeta;
use super::{Dropped, FieldIssue, Issues, Passthrough};

/// A service account: what a workload's SPIFFE identity names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceAccount {
    /// As written.
    pub api_version: String,
    /// As written.
    pub kind: String,
    /// Name, namespace, labels, annotations.
    pub metadata: ObjectMeta,
    /// Accepted; tokens are not taken from Secrets.
    pub secrets: Vec<Passthrough>,
    /// Accepted; there are no images on one machine.
    pub image_pull_secrets: Vec<Passthrough>,
    /// Accepted; the application's own API token. The sidecar's token is not affected, as in Kubernetes.
    pub automount_service_account_token: Option<bool>,
    /// Read and dropped.
    #[serde(skip_serializing)]
    pub status: Dropped,
}

impl ServiceAccount {
    /// Its metadata says it all.
    pub(super) fn validate(&self, _issues: &mut Issues) {}

    /// Everything is implemented.
    pub(super) fn unsupported(&self) -> Vec<FieldIssue> {
        Vec::new()
    }
}
