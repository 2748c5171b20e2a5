//! Request ids: random UUIDs (RFC 9562, version 4), made without a system call or an allocation.

use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use std::fmt;

/// A worker's source of request ids. They are unique, not secret: whoever sees many can guess the next.
#[derive(Debug)]
pub struct RequestIds {
    random: SmallRng,
}

impl Default for RequestIds {
    fn default() -> Self {
        Self::new()
    }
}

impl RequestIds {
    /// Seeded by the system.
    pub fn new() -> Self {
        Self { random: SmallRng::from_os_rng() }
    }

    /// The next id.
    pub fn next_id(&mut self) -> RequestId {
        let mut bytes = [0; 16];
        self.random.fill_bytes(&mut bytes);
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let mut text = [b'-'; 36];
        let mut at = 0;
        for (index, byte) in bytes.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                at += 1;
            }
            text[at] = HEX[usize::from(byte >> 4)];
            text[at + 1] = HEX[usize::from(byte & 0xf)];
            at += 2;
        }
        RequestId(text)
    }
}

pub(crate) const HEX: [u8; 16] = *b"0123456789abcdef";

/// An id in its printed form.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId([u8; 36]);

impl RequestId {
    /// The printed form, e.g. for the header `x-request-id`.
    pub fn as_bytes(&self) -> &[u8; 36] {
        &self.0
    }

    /// The printed form as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hexadecimal digits and hyphens")
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::RequestIds;
    use std::collections::HashSet;

    #[test]
    fn ids_are_version_4_uuids_and_differ() {
        let mut ids = RequestIds::new();
        let mut seen = HashSet::new();
        for _ in 0..10_000 {
            let id = ids.next_id();
            let text = id.as_str();
            assert!(seen.insert(id), "{text}");
            let hyphens: Vec<_> = text.match_indices('-').map(|(at, _)| at).collect();
            assert_eq!(hyphens, [8, 13, 18, 23], "{text}");
            assert_eq!(text.as_bytes()[14], b'4', "{text}");
            assert!(matches!(text.as_bytes()[19], b'8' | b'9' | b'a' | b'b'), "{text}");
            assert!(text.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)), "{text}");
        }
    }
}
