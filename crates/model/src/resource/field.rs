//! Where in an object something is wrong, and the collector that validation fills.

use std::fmt;

/// One step from an object to a field.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Segment {
    /// A field, or a key of a map.
    Key(String),
    /// An element of a list, from 0.
    Index(usize),
}

/// The way from an object to a field, e.g. `spec.http[0].route[1].weight`. Empty: the object itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FieldPath(Vec<Segment>);

impl FieldPath {
    /// The object itself.
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// The steps.
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// Goes one step down.
    pub fn push(&mut self, segment: Segment) {
        self.0.push(segment);
    }

    /// Goes one step up.
    pub fn pop(&mut self) {
        self.0.pop();
    }

    /// Whether this is the object itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// A copy that goes on to a field.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        let mut path = self.clone();
        path.push(Segment::Key(key.to_owned()));
        path
    }
}

impl FromIterator<Segment> for FieldPath {
    fn from_iter<I: IntoIterator<Item = Segment>>(segments: I) -> Self {
        Self(segments.into_iter().collect())
    }
}

impl fmt::Display for FieldPath {
    /// Dots between fields; brackets around indexes and around keys that are not plain words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Key(key) if is_word(key) && position == 0 => f.write_str(key)?,
                Segment::Key(key) if is_word(key) => write!(f, ".{key}")?,
                Segment::Key(key) => write!(f, "[{}]", shorten(key))?,
            }
        }
        Ok(())
    }
}

fn is_word(key: &str) -> bool {
    !key.is_empty() && key.len() <= 64 && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// `text` fit for a message: escaped, and cut if it is long.
pub(crate) fn shorten(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut short: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        short.push('…');
    }
    short
}

/// Something wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldIssue {
    /// The field.
    pub path: FieldPath,
    /// What is wrong and what would be right.
    pub text: String,
}

impl fmt::Display for FieldIssue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_root() {
            return f.write_str(&self.text);
        }
        write!(f, "{}: {}", self.path, self.text)
    }
}

/// Something accepted that is probably not meant. Distinct from [`FieldIssue`] by type, so that neither is taken for the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The field.
    pub path: FieldPath,
    /// What is strange about it.
    pub text: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_root() {
            return f.write_str(&self.text);
        }
        write!(f, "{}: {}", self.path, self.text)
    }
}

/// What validation found so far, and the field that it is at.
#[derive(Debug, Default)]
pub struct Issues {
    path: FieldPath,
    errors: Vec<FieldIssue>,
    warnings: Vec<Warning>,
    large_regexes: usize,
}

impl Issues {
    /// Runs `check` one field down.
    pub fn field<R>(&mut self, key: &str, check: impl FnOnce(&mut Self) -> R) -> R {
        self.path.push(Segment::Key(key.to_owned()));
        let result = check(self);
        self.path.pop();
        result
    }

    /// Runs `check` on a field if it is set.
    pub fn optional<T>(&mut self, key: &str, value: Option<&T>, check: impl FnOnce(&mut Self, &T)) {
        if let Some(value) = value {
            self.field(key, |issues| check(issues, value));
        }
    }

    /// Runs `check` on every element of a list.
    pub fn each<'a, T: 'a>(
        &mut self,
        key: &str,
        items: impl IntoIterator<Item = &'a T>,
        mut check: impl FnMut(&mut Self, &'a T),
    ) {
        self.field(key, |issues| {
            for (index, item) in items.into_iter().enumerate() {
                issues.path.push(Segment::Index(index));
                check(issues, item);
                issues.path.pop();
            }
        });
    }

    /// Runs `check` on one element of the list that this is at.
    pub fn index(&mut self, index: usize, check: impl FnOnce(&mut Self)) {
        self.path.push(Segment::Index(index));
        check(self);
        self.path.pop();
    }

    /// Something is wrong with the field that this is at.
    pub fn error(&mut self, text: impl Into<String>) {
        self.errors.push(FieldIssue { path: self.path.clone(), text: text.into() });
    }

    /// Something is wrong with a field one step down.
    pub fn error_at(&mut self, key: &str, text: impl Into<String>) {
        self.field(key, |issues| issues.error(text));
    }

    /// Something is strange about the field that this is at.
    pub fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(Warning { path: self.path.clone(), text: text.into() });
    }

    /// Something is strange about a field one step down.
    pub fn warn_at(&mut self, key: &str, text: impl Into<String>) {
        self.field(key, |issues| issues.warn(text));
    }

    /// A field that must not be empty.
    pub fn require(&mut self, key: &str, value: &str) -> bool {
        if value.is_empty() {
            self.error_at(key, "is required");
        }
        !value.is_empty()
    }

    /// A `name` that must not be empty.
    pub fn require_name(&mut self, name: &str) {
        self.require("name", name);
    }

    /// Marks a field as valid in Istio or Kubernetes and not implemented here, if `present`.
    pub fn unsupported_if(&mut self, present: bool, key: &str) {
        if present {
            self.error_at(key, "is not supported by this version of Lateen");
        }
    }

    /// Counts one more regular expression that is costly to check, and answers how many there are.
    pub(super) fn count_large_regex(&mut self) -> usize {
        self.large_regexes += 1;
        self.large_regexes
    }

    /// What was found.
    pub fn finish(self) -> (Vec<FieldIssue>, Vec<Warning>) {
        (self.errors, self.warnings)
    }

    /// Errors alone.
    pub fn into_errors(self) -> Vec<FieldIssue> {
        self.errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_as_people_write_them() {
        let mut path = FieldPath::root().key("spec").key("http");
        path.push(Segment::Index(0));
        let path = path.key("match");
        assert_eq!(path.to_string(), "spec.http[0].match");
        let labels = FieldPath::root().key("metadata").key("labels").key("app.kubernetes.io/name");
        assert_eq!(labels.to_string(), "metadata.labels[app.kubernetes.io/name]");
        assert_eq!(FieldPath::root().key("a b\n").to_string(), "[a b\\n]");
    }

    #[test]
    fn issues_carry_the_field_they_were_found_at() {
        let mut issues = Issues::default();
        issues.field("spec", |issues| {
            issues.each("hosts", &["a", ""], |issues, host| {
                if host.is_empty() {
                    issues.error("is empty");
                }
            });
            issues.warn_at("timeout", "is long");
        });
        issues.error("whole");
        let (errors, warnings) = issues.finish();
        assert_eq!(errors[0].to_string(), "spec.hosts[1]: is empty");
        assert_eq!(errors[1].to_string(), "whole");
        assert_eq!(warnings[0].to_string(), "spec.timeout: is long");
    }
}
