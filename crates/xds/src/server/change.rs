//! What a new world changes.

use crate::{Generation, ResourceType, TypeMap};
use std::collections::HashSet;
use std::sync::Arc;

/// Names that are told one by one; of more it is only known that there are some, so that what waits for a client that does not
/// read is bounded.
const MERGED: usize = 1024;

/// Names of resources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Names {
    /// No name.
    #[default]
    None,
    /// These.
    Some(HashSet<Arc<str>>),
    /// Any name.
    All,
}

impl Names {
    /// Whether there is no name.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// Adds one name.
    pub fn insert(&mut self, name: Arc<str>) {
        match self {
            Self::None => *self = Self::Some(HashSet::from([name])),
            Self::Some(names) => {
                names.insert(name);
            }
            Self::All => {}
        }
    }

    /// Adds all names of `other`; too many become [`Self::All`].
    pub fn merge(&mut self, other: &Self) {
        match (&mut *self, other) {
            (_, Self::None) | (Self::All, _) => {}
            (_, Self::All) => *self = Self::All,
            (Self::None, Self::Some(_)) => *self = other.clone(),
            (Self::Some(mine), Self::Some(theirs)) => {
                mine.extend(theirs.iter().cloned());
                if mine.len() > MERGED {
                    *self = Self::All;
                }
            }
        }
    }

    /// Whether `name` is among them.
    pub fn contains(&self, name: &str) -> bool {
        match self {
            Self::None => false,
            Self::Some(names) => names.contains(name),
            Self::All => true,
        }
    }
}

impl<S: Into<Arc<str>>> FromIterator<S> for Names {
    fn from_iter<I: IntoIterator<Item = S>>(iter: I) -> Self {
        let names: HashSet<Arc<str>> = iter.into_iter().map(Into::into).collect();
        if names.is_empty() { Self::None } else { Self::Some(names) }
    }
}

/// A new generation of the world and which resources may differ in it. To say too much costs processor time only: nothing
/// is sent whose bytes are the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The world that has the change.
    pub generation: Generation,
    /// What may differ, per type: resources that are new, changed or gone.
    pub names: TypeMap<Names>,
}

impl Change {
    /// A new generation in which nothing differs yet.
    pub fn new(generation: Generation) -> Self {
        Self { generation, names: TypeMap::default() }
    }

    /// A new generation in which everything may differ.
    pub fn everything(generation: Generation) -> Self {
        let mut change = Self::new(generation);
        for ty in ResourceType::ALL {
            change.names[ty] = Names::All;
        }
        change
    }

    /// Adds the names of a type.
    #[must_use]
    pub fn with(mut self, ty: ResourceType, names: &Names) -> Self {
        self.names[ty].merge(names);
        self
    }

    /// Adds a later change to this one.
    pub fn merge(&mut self, other: &Self) {
        self.generation = self.generation.max(other.generation);
        for ty in ResourceType::ALL {
            self.names[ty].merge(&other.names[ty]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging() {
        let some = |names: &[&str]| names.iter().copied().collect::<Names>();
        for (a, b, expected) in [
            (Names::None, Names::None, Names::None),
            (Names::None, some(&["a"]), some(&["a"])),
            (some(&["a"]), Names::None, some(&["a"])),
            (some(&["a"]), some(&["b"]), some(&["a", "b"])),
            (some(&["a"]), Names::All, Names::All),
            (Names::All, some(&["a"]), Names::All),
            (Names::None, Names::All, Names::All),
        ] {
            let mut merged = a.clone();
            merged.merge(&b);
            assert_eq!(merged, expected, "{a:?} + {b:?}");
        }
        assert_eq!(Vec::<String>::new().into_iter().collect::<Names>(), Names::None);
        let many = |from: usize| (from..from + MERGED).map(|n| n.to_string()).collect::<Names>();
        let mut merged = many(0);
        merged.merge(&many(0));
        assert_eq!(merged, many(0));
        merged.merge(&many(1));
        assert_eq!(merged, Names::All, "what waits is bounded");
    }

    #[test]
    fn the_later_generation_wins() {
        let mut change = Change::new(Generation(3)).with(ResourceType::Eds, &["a"].into_iter().collect());
        change.merge(&Change::new(Generation(2)).with(ResourceType::Cds, &Names::All));
        assert_eq!(change.generation, Generation(3));
        assert!(change.names[ResourceType::Cds].contains("x"));
        assert!(change.names[ResourceType::Eds].contains("a"));
        assert!(change.names[ResourceType::Lds].is_none());
    }
}
