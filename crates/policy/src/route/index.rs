//! Which routes of a virtual host can match a path at all, without asking each.
//!
//! First match wins must stay exactly as it is, so the index only leaves out routes whose path predicate is certain to fail, and
//! yields the others in order. Exact and prefix predicates become keys in one sorted array. All keys that are prefixes of a path
//! form a chain: the last key that is not greater than the path, or one of its ancestors, is the longest of them, and each key
//! knows the next shorter key that is a prefix of it. So a lookup is one binary search and a short walk.

use lateen_model::dataplane::{PathMatch, Route};
use smallvec::SmallVec;
use std::collections::BTreeMap;

/// Below this many routes asking each is as fast.
const MIN_ROUTES: usize = 12;

#[derive(Debug)]
pub(super) enum PathIndex {
    /// All routes are asked.
    All(usize),
    Sorted {
        /// In order of key.
        keys: Vec<Key>,
        /// Routes that are asked for every path: regexes, and those that ignore case.
        always: Vec<u32>,
    },
}

#[derive(Debug)]
pub(super) struct Key {
    text: Box<str>,
    /// The longest other key that is a prefix of this one.
    parent: Option<u32>,
    /// Routes for exactly this path.
    exact: Vec<u32>,
    /// Routes for each path that begins with the key.
    prefix: Vec<u32>,
}

impl PathIndex {
    pub(super) fn build(routes: &[Route]) -> Self {
        if routes.len() < MIN_ROUTES {
            return Self::All(routes.len());
        }
        let mut by_text: BTreeMap<&str, (Vec<u32>, Vec<u32>)> = BTreeMap::new();
        let mut always = Vec::new();
        for (i, route) in (0u32..).zip(routes) {
            match &route.matches.path {
                PathMatch::Exact(text) if route.matches.case_sensitive => by_text.entry(text).or_default().0.push(i),
                PathMatch::Prefix(text) | PathMatch::PathSeparatedPrefix(text) if route.matches.case_sensitive => {
                    by_text.entry(text).or_default().1.push(i);
                }
                _ => always.push(i),
            }
        }
        let mut keys: Vec<Key> = Vec::with_capacity(by_text.len());
        for (text, (exact, prefix)) in by_text {
            // In sorted order a key's ancestors stand before it, and the nearest is on the chain of its predecessor.
            let mut parent = u32::try_from(keys.len()).ok().and_then(|n| n.checked_sub(1));
            while let Some(p) = parent {
                let candidate = &keys[p as usize];
                if text.starts_with(&*candidate.text) {
                    break;
                }
                parent = candidate.parent;
            }
            keys.push(Key { text: text.into(), parent, exact, prefix });
        }
        Self::Sorted { keys, always }
    }

    /// Indexes of the routes that may match, ascending.
    pub(super) fn candidates<'a>(&'a self, path: &str) -> Candidates<'a> {
        let (keys, always) = match self {
            Self::All(n) => return Candidates::All(0..*n),
            Self::Sorted { keys, always } => (keys, always),
        };
        let mut lists: SmallVec<[&[u32]; 8]> = SmallVec::new();
        lists.push(always);
        let mut at = keys.partition_point(|k| *k.text <= *path).checked_sub(1);
        while let Some(i) = at {
            let key = &keys[i];
            if path.starts_with(&*key.text) {
                lists.push(&key.prefix);
                if key.text.len() == path.len() {
                    lists.push(&key.exact);
                }
            }
            at = key.parent.map(|p| p as usize);
        }
        lists.retain(|list| !list.is_empty());
        Candidates::Merge(lists)
    }
}

/// The merge of sorted lists; a route stands in one of them only.
pub(super) enum Candidates<'a> {
    All(std::ops::Range<usize>),
    Merge(SmallVec<[&'a [u32]; 8]>),
}

impl Iterator for Candidates<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let lists = match self {
            Self::All(range) => return range.next(),
            Self::Merge(lists) => lists,
        };
        let (at, least) = lists.iter().enumerate().filter_map(|(i, l)| l.first().map(|f| (i, *f))).min_by_key(|(_, f)| *f)?;
        lists[at] = &lists[at][1..];
        Some(least as usize)
    }
}
