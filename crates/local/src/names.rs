//! Names of pods, made from what they run, so that the same manifests give the same names.

use std::hash::{Hash, Hasher};

/// Characters of generated names, as Kubernetes chooses them: no vowels, so no words, and nothing easily misread.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// FNV-1a, 64 bits: a hash that is the same in every build, unlike the standard library's.
#[derive(Clone)]
struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

fn hash(parts: &[&str]) -> u64 {
    let mut fnv = Fnv(0xcbf2_9ce4_8422_2325);
    parts.hash(&mut fnv);
    // The low bits of FNV mix poorly for short inputs.
    let h = fnv.finish();
    (h ^ (h >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn letters(mut value: u64, count: usize) -> String {
    let base = 27_u64;
    (0..count)
        .map(|_| {
            let index = usize::try_from(value % base).unwrap_or_default();
            value /= base;
            char::from(ALPHABET[index])
        })
        .collect()
}

/// The value of the label `pod-template-hash`: equal templates, equal hash.
pub(crate) fn template_hash(template_json: &str) -> String {
    letters(hash(&[template_json]), 10)
}

/// The name of the `serial`th pod that a deployment makes of a template.
pub(crate) fn pod_name(deployment: &str, template_hash: &str, serial: u64) -> String {
    let suffix = letters(hash(&[deployment, template_hash, &serial.to_string()]), 5);
    // A label holds 63 bytes, and a host name too.
    let room = 63 - template_hash.len() - suffix.len() - 2;
    let stem = deployment.get(..deployment.len().min(room)).unwrap_or(deployment);
    format!("{stem}-{template_hash}-{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_reproducible_distinct_and_short_enough() {
        let hash = template_hash("{}");
        assert_eq!(hash, template_hash("{}"));
        assert_ne!(hash, template_hash("{ }"));
        let names: BTreeSet<String> = (0..1000).map(|n| pod_name("frontend", &hash, n)).collect();
        assert_eq!(names.len(), 1000);
        assert!(names.iter().all(|n| n.starts_with(&format!("frontend-{hash}-"))));
        assert_eq!(pod_name(&"x".repeat(100), &hash, 0).len(), 63);
    }
}
