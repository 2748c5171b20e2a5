//! Why a configuration cannot be compiled.

use std::fmt;

/// A part of a resource that cannot be compiled: where it is, and what would be right.
///
/// The field path grows from the inside out, so that a caller puts its own part in front: see [`CompileError::within`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct CompileError {
    path: String,
    reason: String,
}

impl CompileError {
    /// An error at `path` (e.g. `routes[3].match.path`).
    pub fn new(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { path: path.into(), reason: reason.into() }
    }

    /// The same error, seen from the message that holds the field: `outer` is put in front of the path.
    #[must_use]
    pub fn within(self, outer: impl fmt::Display) -> Self {
        Self { path: format!("{outer}.{}", self.path), reason: self.reason }
    }

    /// Where: a field path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What is wrong.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}
