//! Where the decoder is, and what it has left out.

use crate::error::{DecodeError, Ignored, Path, Step};
use prost::Message;

pub(super) type Result<T> = std::result::Result<T, DecodeError>;

/// The decoder's position, and fields that were set without effect.
#[derive(Default)]
pub(super) struct Cx {
    path: Path,
    pub(super) ignored: Vec<Ignored>,
}

impl Cx {
    /// An error here.
    pub(super) fn fail<T>(&self, reason: impl Into<String>) -> Result<T> {
        Err(DecodeError::new(self.path.clone(), reason))
    }

    /// An error at a field of the message that is being looked at.
    pub(super) fn fail_at<T>(&self, field: &'static str, reason: impl Into<String>) -> Result<T> {
        Err(DecodeError::new(self.path.child(field), reason))
    }

    /// Goes into a field.
    pub(super) fn at<T>(&mut self, field: &'static str, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.step(Step::Field(field), f)
    }

    /// Goes into an entry of a map.
    pub(super) fn key<T>(&mut self, key: &str, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.step(Step::Key(key.chars().take(200).collect()), f)
    }

    fn step<T>(&mut self, step: Step, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.path.push(step);
        let value = f(self)?;
        // After an error the path is not used again: it is in the error.
        self.path.pop();
        Ok(value)
    }

    /// Goes into each element of a repeated field.
    pub(super) fn each<T, U>(
        &mut self,
        field: &'static str,
        items: Vec<T>,
        mut f: impl FnMut(&mut Self, T) -> Result<U>,
    ) -> Result<Vec<U>> {
        self.at(field, |cx| items.into_iter().enumerate().map(|(i, item)| cx.step(Step::Index(i), |cx| f(cx, item))).collect())
    }

    /// Goes into a message that must be there.
    pub(super) fn required<T, U>(
        &mut self,
        field: &'static str,
        value: Option<T>,
        f: impl FnOnce(&mut Self, T) -> Result<U>,
    ) -> Result<U> {
        match value {
            Some(value) => self.at(field, |cx| f(cx, value)),
            None => self.fail_at(field, "is required"),
        }
    }

    /// Goes into a message if it is there.
    pub(super) fn optional<T, U>(
        &mut self,
        field: &'static str,
        value: Option<T>,
        f: impl FnOnce(&mut Self, T) -> Result<U>,
    ) -> Result<Option<U>> {
        value.map(|value| self.at(field, |cx| f(cx, value))).transpose()
    }

    /// Refuses a field that would change behaviour.
    pub(super) fn refuse(&self, field: &'static str, set: bool) -> Result<()> {
        if set { self.fail_at(plain(field), "is not supported; leave it unset") } else { Ok(()) }
    }

    /// Lists a field that changes nothing here.
    pub(super) fn ignore(&mut self, field: &'static str, set: bool) {
        if set {
            self.note_at(plain(field), "has no effect");
        }
    }

    /// Lists a field, with a reason.
    pub(super) fn note_at(&mut self, field: &'static str, reason: &'static str) {
        self.ignored.push(Ignored { path: self.path.child(field), reason });
    }

    /// Lists what is being looked at, with a reason.
    pub(super) fn note(&mut self, reason: &'static str) {
        self.ignored.push(Ignored { path: self.path.clone(), reason });
    }

    /// Decodes a message.
    pub(super) fn message<M: Message + Default>(&self, bytes: &[u8]) -> Result<M> {
        M::decode(bytes).or_else(|error| self.fail(format!("is not a valid message: {error}")))
    }
}

/// Raw identifiers without their mark.
fn plain(field: &'static str) -> &'static str {
    field.strip_prefix("r#").unwrap_or(field)
}

/// Whether a field has another value than the one it has when unset.
pub(super) fn is_set<T: Default + PartialEq>(value: &T) -> bool {
    *value != T::default()
}

/// Takes a message apart. Every field is named, so that a new version of the API that adds one does not compile until it is
/// decided whether the field is used, refused when it is set, or ignored (and listed) when it is set.
macro_rules! fields {
    ($cx:expr, $message:expr => $ty:path {
        use: [$($used:ident),* $(,)?],
        refuse: [$($refused:ident),* $(,)?],
        ignore: [$($ignored:ident),* $(,)?] $(,)?
    }) => {
        let $ty { $($used,)* $($refused,)* $($ignored,)* } = $message;
        $($cx.refuse(stringify!($refused), $crate::decode::cx::is_set(&$refused))?;)*
        $($cx.ignore(stringify!($ignored), $crate::decode::cx::is_set(&$ignored));)*
    };
}
pub(super) use fields;
