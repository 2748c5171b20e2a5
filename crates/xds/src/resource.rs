//! Resources as they are sent, and what says which one it is.

use bytes::Bytes;
use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

/// A version of the world, counted from 1 by the control plane. Zero is before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The version of one resource: a hash of its bytes, equal wherever and whenever it is made, so that a proxy that
/// reconnects, to this control plane or to another, is not sent what it has.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version(u64);

impl Version {
    /// A version that no content has: what the peer holds is not known to us.
    pub const UNKNOWN: Self = Self(0);

    /// The version of these bytes.
    pub fn of(content: &[u8]) -> Self {
        // SipHash with fixed keys. It is no protection against somebody who looks for collisions, and need not be: who
        // can write a resource can only hide a change of that very resource from the proxies that see it.
        let mut hasher = DefaultHasher::new();
        hasher.write(content);
        Self(hasher.finish().max(1))
    }

    /// Reads what [`fmt::Display`] wrote; anything else is [`Self::UNKNOWN`].
    pub fn parse(text: &str) -> Self {
        let hex = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        Self(if hex { u64::from_str_radix(text, 16).unwrap_or(0) } else { 0 })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A resource, encoded once and shared by every connection that sends it.
#[derive(Clone, PartialEq, Eq)]
pub struct Resource {
    name: Arc<str>,
    version: Version,
    body: Bytes,
}

impl Resource {
    /// `body` is the encoded message itself, as made by `lateen_wire::encode`.
    pub fn new(name: impl Into<Arc<str>>, body: Bytes) -> Self {
        Self { name: name.into(), version: Version::of(&body), body }
    }

    /// The resource's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The hash of the body.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The encoded message.
    pub fn body(&self) -> &Bytes {
        &self.body
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{} ({} bytes)", self.name, self.version, self.body.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_back() {
        let version = Version::of(b"x");
        assert_eq!(Version::parse(&version.to_string()), version);
        assert_ne!(version, Version::of(b"y"));
        for text in ["", "1", "+000000000000001", "2024-01-01T00:00:00Z/3", "000000000000000G", "00000000000000001"] {
            assert_eq!(Version::parse(text), Version::UNKNOWN, "{text}");
        }
    }
}
