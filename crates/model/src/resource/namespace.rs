//! `v1 Namespace`.

use serde::{Deserialize, Serialize};

use super::meta::Object;
use super::{FieldIssue, Issues};

/// A namespace. Its labels decide injection (`istio-injection`).
pub type Namespace = Object<NamespaceSpec>;

/// Nothing in it matters outside an API server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct NamespaceSpec {
    /// No meaning without an API server.
    pub finalizers: Vec<String>,
}

impl Namespace {
    /// Its metadata says it all.
    pub(super) fn validate(&self, _issues: &mut Issues) {}

    /// Everything is implemented.
    pub(super) fn unsupported(&self) -> Vec<FieldIssue> {
        Vec::new()
    }
}
