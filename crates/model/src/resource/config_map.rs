//! `v1 ConfigMap`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::check::{self, report_at};
use super::meta::{ObjectMeta, StringMap};
use super::{Base64Bytes, FieldIssue, Issues};

/// A set of texts and of byte strings, for volumes and environment variables; `istio-system/istio` holds the mesh's configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigMap {
    /// As written.
    pub api_version: String,
    /// As written.
    pub kind: String,
    /// Name, namespace, labels, annotations.
    pub metadata: ObjectMeta,
    /// Texts by key.
    pub data: StringMap,
    /// Bytes by key; no key may also be in `data`.
    pub binary_data: BTreeMap<String, Base64Bytes>,
    /// Accepted. In a cluster it forbids a change; here an edited file is the truth.
    pub immutable: Option<bool>,
}

impl ConfigMap {
    /// The bytes of `key`, from either map.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        let text = self.data.get(key).map(|text| text.as_bytes());
        text.or_else(|| self.binary_data.get(key).map(Base64Bytes::as_bytes))
    }

    /// All keys with their bytes.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let texts = self.data.iter().map(|(key, text)| (key.as_str(), text.as_bytes()));
        texts.chain(self.binary_data.iter().map(|(key, bytes)| (key.as_str(), bytes.as_bytes())))
    }
}

impl ConfigMap {
    /// Finds what Kubernetes' validation would refuse.
    pub fn validate(&self, issues: &mut Issues) {
        issues.field("data", |issues| {
            for key in self.data.keys() {
                report_at(issues, key, check::data_key(key));
            }
        });
        issues.field("binaryData", |issues| {
            for key in self.binary_data.keys() {
                report_at(issues, key, check::data_key(key));
                if self.data.contains_key(key) {
                    issues.error_at(key, "is in data too");
                }
            }
        });
    }

    /// Everything is implemented.
    pub(super) fn unsupported(&self) -> Vec<FieldIssue> {
        Vec::new()
    }
}
