//! A hash for keys that this process numbers itself, where the default hash's defence against chosen keys is not needed.

use std::hash::{BuildHasherDefault, Hasher};

pub(crate) type FastMap<K, V> = std::collections::HashMap<K, V, BuildHasherDefault<FastHasher>>;

/// Folds each word in by xor and a multiplication whose halves are mixed.
#[derive(Default)]
pub(crate) struct FastHasher(u64);

const MULTIPLIER: u128 = 0x9E37_79B9_7F4A_7C15;

impl Hasher for FastHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }

    fn write_u16(&mut self, value: u16) {
        self.write_u64(value.into());
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(value.into());
    }

    #[expect(clippy::cast_possible_truncation, reason = "the halves of a product are what is wanted")]
    fn write_u64(&mut self, value: u64) {
        let product = u128::from(self.0 ^ value) * MULTIPLIER;
        self.0 = (product as u64) ^ ((product >> 64) as u64) ^ self.0.rotate_left(23);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::FastHasher;
    use std::collections::HashSet;
    use std::hash::{BuildHasher, BuildHasherDefault};

    #[test]
    fn small_tuples_do_not_collide() {
        let hasher = BuildHasherDefault::<FastHasher>::default();
        let mut seen = HashSet::new();
        for peer in 0..100_u32 {
            for service in 0..100_u32 {
                for code in [200_u16, 404, 503] {
                    seen.insert(hasher.hash_one((peer, service, code)));
                }
            }
        }
        assert_eq!(seen.len(), 30_000);
        let low_bits: HashSet<u64> = seen.iter().map(|hash| hash & 0xffff).collect();
        assert!(low_bits.len() > 20_000, "{}", low_bits.len());
    }
}
