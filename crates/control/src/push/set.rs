//! Resources of one type: those that many classes of proxies share, and a class's own.

use lateen_xds::Resource;
use lateen_xds::server::{Names, Watch};
use std::collections::HashMap;
use std::sync::Arc;

/// Lists up to this length are searched from end to end.
const SHORT: usize = 16;

/// Some resources, in order; the same object for all who have them.
#[derive(Debug, Default)]
pub(super) struct Part {
    ordered: Vec<Arc<Resource>>,
    /// Empty for short lists.
    by_name: HashMap<Arc<str>, usize>,
}

impl Part {
    pub(super) fn new(ordered: Vec<Arc<Resource>>) -> Self {
        let names = ordered.iter().enumerate().filter(|_| ordered.len() > SHORT);
        let by_name = names.map(|(i, r)| (Arc::clone(r.name()), i)).collect();
        Self { ordered, by_name }
    }

    fn get(&self, name: &str) -> Option<&Arc<Resource>> {
        if self.ordered.len() <= SHORT {
            return self.ordered.iter().find(|r| **r.name() == *name);
        }
        self.by_name.get(name).map(|i| &self.ordered[*i])
    }

    /// Whether the other has the same resources in the same order.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        let same = |(a, b): (&Arc<Resource>, &Arc<Resource>)| Arc::ptr_eq(a, b) || **a == **b;
        self.ordered.len() == other.ordered.len() && self.ordered.iter().zip(&other.ordered).all(same)
    }
}

/// All resources of one type: the shared ones, then a class's own.
#[derive(Clone, Debug, Default)]
pub(super) struct ResourceSet {
    pub(super) shared: Arc<Part>,
    pub(super) own: Arc<Part>,
}

impl ResourceSet {
    /// All of them, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.shared.ordered.iter().chain(&self.own.ordered)
    }

    fn get(&self, name: &str) -> Option<&Arc<Resource>> {
        self.own.get(name).or_else(|| self.shared.get(name))
    }

    /// Those that are asked for.
    pub(super) fn select(&self, watch: Watch<'_>) -> Vec<Arc<Resource>> {
        match watch {
            Watch::Wildcard => self.iter().cloned().collect(),
            Watch::Names(names) => names.iter().filter_map(|n| self.get(n)).map(Arc::clone).collect(),
        }
    }

    /// Names of which one of the two has something else than the other.
    pub(super) fn difference(&self, other: &Self) -> Names {
        let same_shared = Arc::ptr_eq(&self.shared, &other.shared);
        if same_shared && Arc::ptr_eq(&self.own, &other.own) {
            return Names::None;
        }
        let differs = |a: &Self, b: &Self| {
            let other = |r: &&Arc<Resource>| b.get(r.name()).is_none_or(|o| !Arc::ptr_eq(o, r) && o.version() != r.version());
            let shared = a.shared.ordered.iter().filter(|_| !same_shared);
            shared.chain(&a.own.ordered).filter(other).map(|r| Arc::clone(r.name())).collect::<Vec<_>>()
        };
        differs(self, other).into_iter().chain(differs(other, self)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(resources: &[(&str, &'static str)]) -> Arc<Part> {
        let made = resources.iter().map(|(name, body)| Arc::new(Resource::new(*name, body.as_bytes().into())));
        Arc::new(Part::new(made.collect()))
    }

    #[test]
    fn differences_are_exact_across_both_parts() {
        let shared = part(&[("a", "1"), ("b", "1")]);
        let old = ResourceSet { shared: Arc::clone(&shared), own: part(&[("c", "1")]) };
        for (shared, own, expected) in [
            (Arc::clone(&shared), part(&[("c", "1")]), vec![]),
            (Arc::clone(&shared), part(&[("c", "2")]), vec!["c"]),
            (Arc::clone(&shared), part(&[]), vec!["c"]),
            (part(&[("a", "1"), ("b", "2")]), part(&[("c", "1")]), vec!["b"]),
            (part(&[("b", "1")]), part(&[("a", "1"), ("c", "1")]), vec![]),
            (part(&[]), part(&[("a", "1"), ("b", "3"), ("c", "1"), ("d", "1")]), vec!["b", "d"]),
        ] {
            let new = ResourceSet { shared, own };
            assert_eq!(old.difference(&new), expected.iter().copied().collect::<Names>(), "{expected:?}");
        }
    }

    #[test]
    fn long_lists_are_found_by_name_as_short_ones_are() {
        for n in [SHORT, SHORT + 1] {
            let names: Vec<String> = (0..n).map(|i| i.to_string()).collect();
            let all: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "x")).collect();
            let set = ResourceSet { shared: part(&all), own: Arc::default() };
            let wanted: [Arc<str>; 2] = [names[n - 1].as_str().into(), "none".into()];
            assert_eq!(set.select(Watch::Names(&wanted)).len(), 1);
            assert_eq!(set.select(Watch::Wildcard).len(), n);
        }
    }
}
