//! What every resource has: metadata, and where it was read.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Passthrough, Timestamp};

/// Text keys to text values: labels, annotations, selectors. Ordered, so that what is made from it is reproducible.
pub type StringMap = BTreeMap<String, String>;

/// Kubernetes' `ObjectMeta`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectMeta {
    /// Unique within kind and namespace. Empty only in a pod template.
    pub name: String,
    /// Prefix for a generated name; refused in files, where an edit must find its object again.
    pub generate_name: Option<String>,
    /// Empty for cluster-scoped kinds; filled with `default` by [`crate::manifest`] for the others when left out.
    pub namespace: String,
    /// Identifying pairs that selectors match.
    pub labels: StringMap,
    /// Pairs that do not identify.
    pub annotations: StringMap,
    /// When the API server made the object. In files usually absent; see [`super::CreationOrder`].
    pub creation_timestamp: Option<Timestamp>,
    /// Set by an API server.
    pub uid: Option<String>,
    /// Set by an API server.
    pub resource_version: Option<String>,
    /// Set by an API server.
    pub generation: Option<i64>,
    /// Set by an API server.
    pub deletion_timestamp: Option<Timestamp>,
    /// Set by an API server.
    pub deletion_grace_period_seconds: Option<i64>,
    /// No meaning without an API server.
    pub finalizers: Vec<String>,
    /// No meaning without an API server.
    pub owner_references: Vec<Passthrough>,
    /// No meaning without an API server.
    pub managed_fields: Vec<Passthrough>,
    /// Removed from Kubernetes, still found in exported files.
    pub self_link: Option<String>,
    /// Where and in which order the object was read; not part of what people write.
    #[serde(skip)]
    pub provenance: Provenance,
}

impl ObjectMeta {
    /// Forgets what an API server or the reader adds, leaving what a person writes.
    pub(super) fn clear_server_fields(&mut self) {
        self.resource_version = None;
        self.generation = None;
        self.managed_fields.clear();
        self.self_link = None;
        self.provenance = Provenance::default();
    }
}

/// Where an object was read, and when relative to others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    /// File and line.
    pub origin: Origin,
    /// Rank of first sight: set by the store when it sees a key for the first time, kept when the object is edited,
    /// strictly rising. Zero until then. A path and a place in a file say nothing about age, so they are not used.
    pub sequence: u64,
}

/// File, line and column of a document or of a field. Lines and columns count from 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The file as it was named to the reader.
    pub file: Arc<str>,
    /// Line, from 1. Zero if unknown.
    pub line: u32,
    /// Column, from 1, if known.
    pub column: Option<u32>,
}

impl Default for Origin {
    fn default() -> Self {
        Self { file: "".into(), line: 0, column: None }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)?;
        match self.column {
            Some(column) => write!(f, ":{column}"),
            None => Ok(()),
        }
    }
}

/// The frame that Kubernetes puts around a `spec`.
///
/// `apiVersion` and `kind` have decided the type before this is read, and `status` is written by controllers only, so it is
/// accepted (people export objects) and dropped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Object<S> {
    /// As written; one of the kind's served versions.
    pub api_version: String,
    /// As written.
    pub kind: String,
    /// Name, namespace, labels, annotations.
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: S,
    /// Read and dropped.
    #[serde(skip_serializing)]
    pub status: Dropped,
}

/// Accepts any value and forgets it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped;

impl<'de> Deserialize<'de> for Dropped {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}
