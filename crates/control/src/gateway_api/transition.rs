//! Since when each condition is as it is.

use super::Status;
use lateen_model::resource::{ResourceKey, Timestamp};
use std::collections::{BTreeMap, HashMap};

/// Since when each condition of each object is as it is. Kept from one world to the next.
#[derive(Debug, Default)]
pub struct Transitions {
    seen: HashMap<(ResourceKey, String, &'static str), (bool, Timestamp)>,
}

/// The conditions of one object.
pub struct Clock<'a> {
    transitions: &'a Transitions,
    key: &'a ResourceKey,
}

impl Transitions {
    /// Takes over what holds now.
    pub fn update(&mut self, statuses: &BTreeMap<ResourceKey, Status>, now: Timestamp) {
        let mut next = HashMap::with_capacity(self.seen.len());
        for (key, status) in statuses {
            for (place, condition) in status.conditions() {
                let id = (key.clone(), place, condition.type_);
                let since = self.seen.get(&id).filter(|(held, _)| *held == condition.status).map_or(now, |(_, since)| *since);
                next.insert(id, (condition.status, since));
            }
        }
        self.seen = next;
    }

    /// The conditions of one object.
    pub fn of<'a>(&'a self, key: &'a ResourceKey) -> Clock<'a> {
        Clock { transitions: self, key }
    }
}

impl Clock<'_> {
    /// When the condition became what it is; the epoch for one that was never seen.
    pub(super) fn since(&self, place: &str, type_: &'static str) -> String {
        let found = self.transitions.seen.get(&(self.key.clone(), place.to_owned(), type_));
        found.map_or(Timestamp::from_unix_seconds(0), |(_, since)| *since).to_string()
    }
}
