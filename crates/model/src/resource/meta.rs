//! What every resource has: metadata, and where it was read.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::authorization_policy::DRY_RUN_ANNOTATION;
use super::check::{self, report, report_at};
use super::{Issues, Kind, Passthrough, Scope, Timestamp};

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

/// The annotation by which a Service or ServiceEntry lets VirtualServices of other namespaces hold for all of its clients: a list
/// of namespaces with commas, or `*`. Without it they hold for clients in their own namespaces alone.
pub const ROUTES_FROM: &str = "networking.lateen.dev/routes-from";

impl ObjectMeta {
    /// The namespaces that [`ROUTES_FROM`] names.
    pub fn routes_from(&self) -> impl Iterator<Item = &str> {
        let list = self.annotations.get(ROUTES_FROM).map(String::as_str).unwrap_or_default();
        list.split(',').map(str::trim).filter(|namespace| !namespace.is_empty())
    }

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

/// All annotations of an object together, in bytes (Kubernetes' limit).
const MAX_ANNOTATIONS_BYTES: usize = 256 * 1024;

/// Annotations that the control plane writes for itself.
const INTERNAL_ANNOTATIONS: &[&str] = &["internal.istio.io/parents", "internal.istio.io/parent-namespace"];

/// Checks the metadata of an object of its own.
pub(super) fn validate_metadata(kind: Kind, metadata: &ObjectMeta, issues: &mut Issues) {
    issues.field("metadata", |issues| {
        match (metadata.name.as_str(), &metadata.generate_name) {
            ("", Some(_)) => {
                issues
                    .error_at("generateName", "cannot be used in files, where an edit must find its object again: write a name");
            }
            ("", None) => issues.error_at("name", "is required"),
            (name, _) => report_at(issues, "name", name_check(kind)(name)),
        }
        match kind.scope() {
            Scope::Cluster if !metadata.namespace.is_empty() => {
                issues.error_at("namespace", format!("must not be set: a {kind} does not live in a namespace"));
            }
            Scope::Cluster => {}
            Scope::Namespaced => report_at(issues, "namespace", check::dns_label(&metadata.namespace)),
        }
        validate_labels_and_annotations(metadata, issues);
        for name in INTERNAL_ANNOTATIONS.iter().filter(|name| metadata.annotations.contains_key(**name)) {
            issues.field("annotations", |issues| issues.error_at(name, "is reserved for the control plane"));
        }
        if kind != Kind::AuthorizationPolicy && kind.is_istio() && metadata.annotations.contains_key(DRY_RUN_ANNOTATION) {
            issues.field("annotations", |issues| issues.error_at(DRY_RUN_ANNOTATION, "is for AuthorizationPolicy only"));
        }
    });
}

/// Checks labels and annotations, at the metadata that `issues` is at.
pub(super) fn validate_labels_and_annotations(metadata: &ObjectMeta, issues: &mut Issues) {
    issues.field("labels", |issues| {
        for (key, value) in &metadata.labels {
            issues.field(key, |issues| {
                report(issues, check::qualified_name(key));
                report(issues, check::label_value(value));
            });
        }
    });
    issues.field("annotations", |issues| {
        for key in metadata.annotations.keys() {
            issues.field(key, |issues| report(issues, check::qualified_name(&key.to_ascii_lowercase())));
        }
        let size: usize = metadata.annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
        if size > MAX_ANNOTATIONS_BYTES {
            issues.error(format!("have {size} bytes together; {MAX_ANNOTATIONS_BYTES} are allowed"));
        }
    });
}

/// What names of a kind must look like.
fn name_check(kind: Kind) -> fn(&str) -> check::Check {
    match kind {
        // They become single labels of DNS names.
        Kind::Namespace | Kind::Service => check::dns_label,
        _ => check::dns_subdomain,
    }
}
