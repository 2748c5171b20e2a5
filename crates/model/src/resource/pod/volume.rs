//! Volumes of a pod.

use serde::{Deserialize, Serialize};

use super::container::FieldSelector;
use crate::resource::Passthrough;

/// Kubernetes' `Volume`: a name and exactly one source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Volume {
    /// What volume mounts refer to.
    pub name: String,
    /// Files from a ConfigMap.
    pub config_map: Option<ConfigMapVolume>,
    /// Files from a Secret.
    pub secret: Option<SecretVolume>,
    /// A directory that lives as long as the pod.
    pub empty_dir: Option<EmptyDirVolume>,
    /// Files from the pod's own fields; not supported.
    #[serde(rename = "downwardAPI")]
    pub downward_api: Option<DownwardApiVolume>,
    /// Several sources in one directory; not supported.
    pub projected: Option<ProjectedVolume>,
    /// Not supported, as all that follow.
    pub host_path: Option<Passthrough>,
    /// Not supported.
    pub persistent_volume_claim: Option<Passthrough>,
    /// Not supported.
    pub ephemeral: Option<Passthrough>,
    /// Not supported.
    pub csi: Option<Passthrough>,
    /// Not supported.
    pub image: Option<Passthrough>,
    /// Not supported.
    pub nfs: Option<Passthrough>,
    /// Not supported.
    pub iscsi: Option<Passthrough>,
    /// Not supported.
    pub fc: Option<Passthrough>,
    /// Not supported.
    pub git_repo: Option<Passthrough>,
}

/// Files from a ConfigMap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigMapVolume {
    /// The ConfigMap's name.
    pub name: String,
    /// Which keys become which files; all keys under their own names if empty.
    pub items: Vec<KeyToPath>,
    /// Mode of the files; 0644 if absent.
    pub default_mode: Option<i32>,
    /// Whether the pod starts without it.
    pub optional: bool,
}

/// Files from a Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretVolume {
    /// The Secret's name.
    pub secret_name: String,
    /// Which keys become which files; all keys under their own names if empty.
    pub items: Vec<KeyToPath>,
    /// Mode of the files; 0644 if absent.
    pub default_mode: Option<i32>,
    /// Whether the pod starts without it.
    pub optional: bool,
}

/// One key as one file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyToPath {
    /// The key.
    pub key: String,
    /// The file's relative path.
    pub path: String,
    /// The file's mode; the volume's `defaultMode` if absent.
    pub mode: Option<i32>,
}

/// A directory that lives as long as the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct EmptyDirVolume {
    /// Empty, or `Memory` for a directory in memory.
    pub medium: String,
    /// Accepted: no resource limits on one machine.
    pub size_limit: Option<Passthrough>,
}

/// Files from the pod's own fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct DownwardApiVolume {
    /// The files.
    pub items: Vec<DownwardApiFile>,
    /// Mode of the files; 0644 if absent.
    pub default_mode: Option<i32>,
}

/// One file from a field of the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct DownwardApiFile {
    /// The file's relative path.
    pub path: String,
    /// A field of the pod.
    pub field_ref: Option<FieldSelector>,
    /// A resource limit; not supported.
    pub resource_field_ref: Option<Passthrough>,
    /// The file's mode; the volume's `defaultMode` if absent.
    pub mode: Option<i32>,
}

/// Several sources in one directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ProjectedVolume {
    /// The sources.
    pub sources: Vec<ProjectionSource>,
    /// Mode of the files; 0644 if absent.
    pub default_mode: Option<i32>,
}

/// One source of a [`ProjectedVolume`]; exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ProjectionSource {
    /// Files from a ConfigMap.
    pub config_map: Option<ConfigMapVolume>,
    /// Files from a Secret.
    pub secret: Option<SecretProjection>,
    /// Files from the pod's own fields.
    #[serde(rename = "downwardAPI")]
    pub downward_api: Option<DownwardApiVolume>,
    /// A token of the pod's service account.
    pub service_account_token: Option<ServiceAccountTokenProjection>,
    /// Not supported.
    pub cluster_trust_bundle: Option<Passthrough>,
    /// Not supported.
    pub pod_certificate: Option<Passthrough>,
}

/// Files from a Secret inside a [`ProjectedVolume`], where the field is `name` instead of `secretName`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretProjection {
    /// The Secret's name.
    pub name: String,
    /// Which keys become which files; all keys under their own names if empty.
    pub items: Vec<KeyToPath>,
    /// Whether the pod starts without it.
    pub optional: bool,
}

/// A token of the pod's service account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceAccountTokenProjection {
    /// For whom the token is.
    pub audience: Option<String>,
    /// How long it lasts, in seconds; 3600 if absent.
    pub expiration_seconds: Option<i64>,
    /// The file's relative path.
    pub path: String,
}
