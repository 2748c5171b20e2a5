//! Label sets, kept as the text that is exposed.

use crate::trace::floor_char_boundary;
use std::fmt::Write;
use std::sync::Arc;

/// The longest label value that is kept, in bytes; more is cut off.
const MAX_VALUE: usize = 512;

/// A set of labels, rendered once as `a="x",b="y"`. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LabelSet(Arc<str>);

impl LabelSet {
    /// No labels.
    pub fn none() -> Self {
        Self(Arc::from(""))
    }

    /// Renders names and values in the order given.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        pairs.into_iter().fold(LabelSetBuilder::default(), |builder, (name, value)| builder.with(name, value)).build()
    }

    /// The text between the braces.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Puts a [`LabelSet`] together.
#[derive(Debug, Default)]
pub struct LabelSetBuilder {
    text: String,
}

impl LabelSetBuilder {
    /// Adds a label. Characters that a name cannot have become `_`; the value is cut to 512 bytes and escaped as
    /// Prometheus' text format demands (backslash, quote, line feed).
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        if !self.text.is_empty() {
            self.text.push(',');
        }
        for (index, c) in name.chars().enumerate() {
            let allowed = c == '_' || c.is_ascii_alphabetic() || (index > 0 && c.is_ascii_digit());
            self.text.push(if allowed { c } else { '_' });
        }
        self.text.push_str("=\"");
        for c in value[..floor_char_boundary(value, MAX_VALUE)].chars() {
            match c {
                '\\' => self.text.push_str("\\\\"),
                '"' => self.text.push_str("\\\""),
                '\n' => self.text.push_str("\\n"),
                c => self.text.push(c),
            }
        }
        self.text.push('"');
        self
    }

    /// Adds a label whose value is a number or another short printed thing.
    #[must_use]
    pub fn with_display(self, name: &str, value: impl std::fmt::Display) -> Self {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = write!(text, "{value}");
        self.with(name, &text)
    }

    /// The finished set.
    pub fn build(self) -> LabelSet {
        LabelSet(self.text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::LabelSet;

    #[test]
    fn escapes_and_bounds() {
        let labels = LabelSet::new([("a", "x\"y\\z\nw"), ("bad-name é", "1"), ("9x", "2")]);
        assert_eq!(labels.as_str(), "a=\"x\\\"y\\\\z\\nw\",bad_name__=\"1\",_x=\"2\"");
        let long = LabelSet::new([("a", "é".repeat(300).as_str())]);
        assert_eq!(long.as_str().len(), "a=\"\"".len() + 512);
        assert_eq!(LabelSet::none().as_str(), "");
    }
}
