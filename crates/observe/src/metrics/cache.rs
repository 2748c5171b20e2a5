//! A worker's own table from small keys to resolved handles.

use super::Registry;
use crate::fast_hash::FastMap;
use std::hash::Hash;

/// How many entries a cache holds before it starts over.
const CAPACITY: usize = 16_384;

/// Remembers resolved handles by a key of numbers, so that a request formats no label. It lets go of everything when the
/// registry wants to remove idle series, or when it has grown too large.
pub struct SeriesCache<K, V> {
    registry: Registry,
    generation: u64,
    map: FastMap<K, V>,
}

impl<K: Copy + Eq + Hash, V> SeriesCache<K, V> {
    /// An empty cache.
    pub fn new(registry: Registry) -> Self {
        let generation = registry.generation();
        Self { registry, generation, map: FastMap::default() }
    }

    /// The value of a key; made by `resolve` when the key was not seen since the cache last started over.
    pub fn get_or_resolve(&mut self, key: K, resolve: impl FnOnce() -> V) -> &V {
        let generation = self.registry.generation();
        if generation != self.generation {
            self.generation = generation;
            self.map.clear();
        }
        if self.map.len() >= CAPACITY && !self.map.contains_key(&key) {
            self.map.clear();
        }
        self.map.entry(key).or_insert_with(resolve)
    }
}
