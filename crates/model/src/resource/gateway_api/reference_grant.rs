//! `ReferenceGrant`: which objects of other namespaces may refer to objects of its own.

use serde::{Deserialize, Serialize};

use crate::resource::check::{self, report_at};
use crate::resource::meta::Object;
use crate::resource::{FieldIssue, Issues};

/// Which objects of other namespaces may refer to objects of its own.
pub type ReferenceGrant = Object<ReferenceGrantSpec>;

/// The `spec` of a `ReferenceGrant`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ReferenceGrantSpec {
    /// Who may refer; at least one.
    pub from: Vec<GrantFrom>,
    /// To what; at least one.
    pub to: Vec<GrantTo>,
}

/// Objects that may refer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct GrantFrom {
    /// Their group; empty for core kinds.
    pub group: String,
    /// Their kind.
    pub kind: String,
    /// Their namespace.
    pub namespace: String,
}

/// Objects that may be referred to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct GrantTo {
    /// Their group; empty for core kinds.
    pub group: String,
    /// Their kind.
    pub kind: String,
    /// One of them; all if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// The most entries of either list.
const MAX_ENTRIES: usize = 16;

impl ReferenceGrant {
    /// Finds what the Gateway API's own validation would refuse.
    pub fn validate(&self, issues: &mut Issues) {
        issues.field("spec", |issues| {
            for (key, count) in [("from", self.spec.from.len()), ("to", self.spec.to.len())] {
                if count == 0 || count > MAX_ENTRIES {
                    issues.error_at(key, format!("must have 1 to {MAX_ENTRIES} entries"));
                }
            }
            issues.each("from", &self.spec.from, |issues, from| {
                issues.require("kind", &from.kind);
                report_at(issues, "namespace", check::dns_label(&from.namespace));
            });
            issues.each("to", &self.spec.to, |issues, to| {
                issues.require("kind", &to.kind);
            });
        });
    }

    /// Everything is implemented.
    pub fn unsupported(&self) -> Vec<FieldIssue> {
        Vec::new()
    }
}
