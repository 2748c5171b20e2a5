//! Where in a message something is wrong, and what.

use std::fmt;

/// One step of a [`Path`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Field(&'static str),
    Index(usize),
    Key(String),
}

/// The path of a field, e.g. `filter_chains[2].filters[0].typed_config.route_config`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(Vec<Step>);

impl Path {
    pub(crate) fn push(&mut self, step: Step) {
        self.0.push(step);
    }

    pub(crate) fn pop(&mut self) {
        self.0.pop();
    }

    pub(crate) fn child(&self, field: &'static str) -> Self {
        let mut path = self.clone();
        path.push(Step::Field(field));
        path
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            match step {
                Step::Field(name) if i == 0 => f.write_str(name)?,
                Step::Field(name) => write!(f, ".{name}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => write!(f, "[{key:?}]")?,
            }
        }
        Ok(())
    }
}

/// Why a message is refused: the path of the field, what is wrong, and what is supported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    path: Path,
    reason: String,
}

impl DecodeError {
    pub(crate) fn new(path: Path, reason: impl Into<String>) -> Self {
        Self { path, reason: reason.into() }
    }

    /// Where; empty for the message as a whole.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is wrong and what would be right.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.to_string();
        if path.is_empty() { f.write_str(&self.reason) } else { write!(f, "{path}: {}", self.reason) }
    }
}

impl std::error::Error for DecodeError {}

/// A field that was set and has no effect in Lateen, and need not have one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ignored {
    /// The field's path.
    pub path: Path,
    /// Why leaving it out is harmless.
    pub reason: &'static str,
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.reason)
    }
}

/// A decoded resource, and what was left out of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded<T> {
    /// The resource.
    pub value: T,
    /// Fields that were set and are not used.
    pub ignored: Vec<Ignored>,
}
