//! Resources that replace what is in force only when what they refer to is there, and leave only when nothing in force needs
//! them.

use foldhash::HashMap;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long a resource waits for what it refers to, while the control plane is connected (Envoy's `initial_fetch_timeout`).
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// How long a resource that was removed stays for those in force that still name it: what replaces them comes in the same push.
pub(crate) const LINGER: Duration = Duration::from_secs(1);

/// A resource's newest good version.
struct Latest<T> {
    value: Arc<T>,
    /// Since when it waits.
    since: Instant,
}

/// The resources of one type.
pub(super) struct Warming<T> {
    latest: BTreeMap<Arc<str>, Latest<T>>,
    active: HashMap<Arc<str>, Arc<T>>,
    /// Those in force that were removed, and when.
    leaving: BTreeMap<String, Instant>,
}

impl<T> Default for Warming<T> {
    fn default() -> Self {
        Self { latest: BTreeMap::new(), active: HashMap::default(), leaving: BTreeMap::new() }
    }
}

impl<T> Warming<T> {
    /// Takes a new version.
    pub(super) fn put(&mut self, name: Arc<str>, value: T, now: Instant) {
        self.leaving.remove(&*name);
        self.latest.insert(name, Latest { value: Arc::new(value), since: now });
    }

    /// The newest good version, in force or not.
    pub(super) fn latest(&self, name: &str) -> Option<&Arc<T>> {
        self.latest.get(name).map(|latest| &latest.value)
    }

    /// The newest good version of each.
    pub(super) fn all_latest(&self) -> impl Iterator<Item = (&str, &Arc<T>)> {
        self.latest.iter().map(|(name, latest)| (&**name, &latest.value))
    }

    /// What is in force.
    pub(super) fn active(&self) -> &HashMap<Arc<str>, Arc<T>> {
        &self.active
    }

    /// The newest version of a resource, and the one that is still in force in its stead.
    pub(super) fn wanted_of(&self, name: &str) -> impl Iterator<Item = &Arc<T>> {
        let latest = self.latest(name);
        let outdated = self.active.get(name).filter(|active| latest.is_some_and(|latest| !Arc::ptr_eq(latest, active)));
        latest.into_iter().chain(outdated)
    }

    /// Newest versions and those that are still in force in their stead; none of what was removed.
    pub(super) fn wanted(&self) -> impl Iterator<Item = &Arc<T>> {
        let outdated = self
            .active
            .iter()
            .filter(|(name, active)| self.latest.get(&***name).is_some_and(|latest| !Arc::ptr_eq(&latest.value, active)));
        self.latest.values().map(|latest| &latest.value).chain(outdated.map(|(_, active)| active))
    }

    /// What is in force although a newer version is there.
    pub(super) fn outdated(&self) -> impl Iterator<Item = &Arc<T>> {
        let waiting = self.latest.iter().filter(|(name, latest)| !self.is_active(name, latest));
        waiting.filter_map(|(name, _)| self.active.get(name))
    }

    /// Whether there is such a resource, none of which is in force yet.
    pub(super) fn is_new(&self, name: &str) -> bool {
        self.latest.contains_key(name) && !self.active.contains_key(name)
    }

    /// Removes a resource: at the next [`Self::retire`].
    pub(super) fn remove(&mut self, name: &str, now: Instant) {
        if self.latest.remove(name).is_some() && self.active.contains_key(name) {
            self.leaving.insert(name.to_owned(), now);
        }
    }

    /// Removes what is not to be kept.
    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) -> bool {
        let before = self.active.len();
        self.latest.retain(|name, _| keep(name));
        self.active.retain(|name, _| keep(name));
        self.active.len() != before
    }

    /// Puts in force what is ready, or has waited long enough. Whether anything was. `replace` gets what a version takes the
    /// place of, and the version.
    pub(super) fn settle(&mut self, now: Instant, ready: impl Fn(&T) -> bool, replace: impl Fn(&T, &T)) -> bool {
        let mut changed = false;
        for (name, latest) in &self.latest {
            if !self.is_active(name, latest) && (latest.since + PATIENCE <= now || ready(&latest.value)) {
                if let Some(before) = self.active.insert(name.clone(), latest.value.clone()) {
                    replace(&before, &latest.value);
                }
                changed = true;
            }
        }
        changed
    }

    /// Drops what was removed, unless it is still needed. `needed` gets the name and whether [`LINGER`] is over.
    pub(super) fn retire(&mut self, now: Instant, needed: impl Fn(&str, bool) -> bool) -> bool {
        let before = self.leaving.len();
        self.leaving.retain(|name, since| {
            let keep = needed(name, *since + LINGER <= now);
            if !keep {
                self.active.remove(name.as_str());
            }
            keep
        });
        self.leaving.len() != before
    }

    /// Whether something was removed and is still in force.
    pub(super) fn is_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Waiting begins anew: the control plane could not have answered until now.
    pub(super) fn restart_clock(&mut self, now: Instant) {
        self.latest.values_mut().for_each(|latest| latest.since = now);
    }

    /// The next moment at which time alone changes something.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let waiting = self.latest.iter().filter(|(name, latest)| !self.is_active(name, latest));
        let waiting = waiting.map(|(_, latest)| latest.since + PATIENCE);
        waiting.chain(self.leaving.values().map(|since| *since + LINGER)).filter(|due| *due > now).min()
    }

    /// How many wait.
    pub(super) fn warming(&self) -> usize {
        self.latest.iter().filter(|(name, latest)| !self.is_active(name, latest)).count()
    }

    fn is_active(&self, name: &str, latest: &Latest<T>) -> bool {
        self.active.get(name).is_some_and(|active| Arc::ptr_eq(active, &latest.value))
    }
}
