//! Remembers decoded headers, because a peer sends the same one with every request.

use super::PeerMetadata;
use std::collections::HashMap;
use std::sync::Arc;

/// A worker's table from header values to what they decode to. It keeps about the most recently used `capacity` values:
/// two generations of half that size, of which the older one is dropped when the younger one is full.
#[derive(Debug)]
pub struct PeerCache<T> {
    half: usize,
    young: HashMap<Box<[u8]>, Option<Arc<T>>>,
    old: HashMap<Box<[u8]>, Option<Arc<T>>>,
}

impl<T> PeerCache<T> {
    /// A cache of about `capacity` values, at least 2.
    pub fn new(capacity: usize) -> Self {
        Self { half: capacity.div_ceil(2).max(1), young: HashMap::new(), old: HashMap::new() }
    }

    /// What a header value stands for; `make` turns the decoded metadata into what the caller wants to keep. None if it
    /// does not decode, which is remembered too.
    pub fn get_or_decode(&mut self, header: &[u8], make: impl FnOnce(PeerMetadata) -> T) -> Option<Arc<T>> {
        if let Some(known) = self.young.get(header) {
            return known.clone();
        }
        // What is too large to decode is too large to remember.
        if header.len() > super::MAX_HEADER {
            return None;
        }
        let (key, known) = match self.old.remove_entry(header) {
            Some(entry) => entry,
            None => (header.into(), PeerMetadata::from_header(header).ok().map(|metadata| Arc::new(make(metadata)))),
        };
        if self.young.len() >= self.half {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, known.clone());
        known
    }
}

#[cfg(test)]
mod tests {
    use super::PeerCache;
    use crate::peer_metadata::PeerMetadata;
    use std::cell::Cell;

    #[test]
    fn decodes_once_while_in_use_and_stays_small() {
        let mut cache = PeerCache::new(8);
        let made = Cell::new(0);
        let mut lookup = |name: &str| {
            let header = PeerMetadata { workload_name: name.into(), ..PeerMetadata::default() }.to_header();
            cache.get_or_decode(header.as_bytes(), |metadata| {
                made.set(made.get() + 1);
                metadata.workload_name
            })
        };
        for round in 0..100 {
            assert_eq!(lookup("steady").as_deref().map(String::as_str), Some("steady"));
            lookup(&format!("passing-{round}"));
        }
        assert_eq!(made.get(), 101);
        assert!(cache.young.len() + cache.old.len() <= 8);
    }

    #[test]
    fn failures_are_remembered() {
        let mut cache = PeerCache::new(8);
        for _ in 0..2 {
            assert_eq!(cache.get_or_decode(b"not base64!", |_| panic!("does not decode")), None::<std::sync::Arc<()>>);
        }
        assert_eq!(cache.young.len(), 1);
    }
}
