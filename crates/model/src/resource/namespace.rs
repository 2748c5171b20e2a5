//! `v1 Namespace`.

use serde::{Deserialize, Serialize};

use super::meta::Object;

/// A namespace. Its labels decide injection (`istio-injection`).
pub type Namespace = Object<NamespaceSpec>;

/// Nothing in it matters outside an API server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct NamespaceSpec {
    /// No meaning without an API server.
    pub finalizers: Vec<String>,
}
