//! `StringMatch`: how a part of a request is compared.

use serde::{Deserialize, Serialize};

/// Istio's `StringMatch`: one of `exact`, `prefix` and `regex`; none of them demands presence only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Fields", into = "Fields")]
pub enum StringMatch {
    /// `{}`: the header or parameter is present, with any value.
    #[default]
    Present,
    /// Equal.
    Exact(String),
    /// Starts with.
    Prefix(String),
    /// RE2, matching the whole value. For a header, `*` (which is no RE2) demands presence only.
    Regex(String),
}

/// The message as protobuf's JSON has it.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Fields {
    #[serde(skip_serializing_if = "Option::is_none")]
    exact: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    regex: Option<String>,
}

impl TryFrom<Fields> for StringMatch {
    type Error = &'static str;

    fn try_from(fields: Fields) -> Result<Self, Self::Error> {
        match (fields.exact, fields.prefix, fields.regex) {
            (None, None, None) => Ok(Self::Present),
            (Some(text), None, None) => Ok(Self::Exact(text)),
            (None, Some(text), None) => Ok(Self::Prefix(text)),
            (None, None, Some(text)) => Ok(Self::Regex(text)),
            _ => Err("only one of exact, prefix and regex may be set"),
        }
    }
}

impl From<StringMatch> for Fields {
    fn from(value: StringMatch) -> Self {
        let mut fields = Self::default();
        match value {
            StringMatch::Present => {}
            StringMatch::Exact(text) => fields.exact = Some(text),
            StringMatch::Prefix(text) => fields.prefix = Some(text),
            StringMatch::Regex(text) => fields.regex = Some(text),
        }
        fields
    }
}
