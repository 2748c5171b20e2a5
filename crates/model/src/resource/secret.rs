//! `v1 Secret`.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::check::{self, report_at};
use super::meta::ObjectMeta;
use super::{Base64Bytes, FieldIssue, Issues};

/// A set of secret byte strings. Its debug form shows keys and lengths only.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Secret {
    /// As written.
    pub api_version: String,
    /// As written.
    pub kind: String,
    /// Name, namespace, labels, annotations.
    pub metadata: ObjectMeta,
    /// Bytes by key, base64 in the file.
    pub data: BTreeMap<String, Base64Bytes>,
    /// Texts by key; they win over `data`, as in Kubernetes.
    pub string_data: BTreeMap<String, SecretText>,
    /// `Opaque` if absent.
    #[serde(rename = "type")]
    pub type_: Option<String>,
    /// Accepted. In a cluster it forbids a change; here an edited file is the truth.
    pub immutable: Option<bool>,
}

impl Secret {
    /// The bytes of `key`.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        let text = self.string_data.get(key).map(|text| text.0.as_bytes());
        text.or_else(|| self.data.get(key).map(Base64Bytes::as_bytes))
    }

    /// All keys with their bytes, each key once.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let texts = self.string_data.iter().map(|(key, text)| (key.as_str(), text.0.as_bytes()));
        let bytes = self.data.iter().filter(|(key, _)| !self.string_data.contains_key(*key));
        texts.chain(bytes.map(|(key, bytes)| (key.as_str(), bytes.as_bytes())))
    }
}

/// A secret written as text. Never printed.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretText(String);

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
    }
}

impl Secret {
    /// Finds what Kubernetes' validation would refuse.
    pub fn validate(&self, issues: &mut Issues) {
        for (field, keys) in [("data", keys(&self.data)), ("stringData", keys(&self.string_data))] {
            issues.field(field, |issues| {
                for key in keys {
                    report_at(issues, key, check::data_key(key));
                }
            });
        }
        if self.type_.as_deref() == Some("kubernetes.io/tls") {
            for key in ["tls.crt", "tls.key"].into_iter().filter(|key| self.get(key).is_none()) {
                issues.field("data", |issues| issues.error_at(key, "is required in a Secret of type kubernetes.io/tls"));
            }
        }
    }

    /// Everything is implemented.
    pub(super) fn unsupported(&self) -> Vec<FieldIssue> {
        Vec::new()
    }
}

fn keys<T>(map: &BTreeMap<String, T>) -> Vec<&str> {
    map.keys().map(String::as_str).collect()
}
