//! What one client watches, has and has been told of one type.

use super::change::Names;
use crate::{Generation, Resource, Version};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// Whether a client is up to date in one type (`/debug/syncz`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyncState {
    /// It has accepted the last response, and there is none to come.
    Synced,
    /// A response is under way, or has to be made.
    Stale,
    /// It has refused the last response, with this reason, and goes on with what it had.
    Nack(String),
    /// It watches the type and nothing was sent yet.
    NotSent,
}

/// How far a client is with one type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeStatus {
    /// In a word.
    pub state: SyncState,
    /// Nonce of the last response; empty before the first.
    pub sent_nonce: String,
    /// Nonce of the last response that was accepted; empty before the first.
    pub acked_nonce: String,
    /// The newest world of which the client has accepted everything that concerns it.
    pub acked_generation: Generation,
    /// How many resources it was sent and has not been told to remove.
    pub resources: usize,
    /// Responses that it refused, in the life of the connection.
    pub nacks: u64,
}

/// A response that is neither accepted nor refused yet.
#[derive(Clone, Debug)]
pub(super) struct InFlight {
    pub(super) nonce: String,
    pub(super) generation: Generation,
    /// The resources in it.
    pub(super) names: Vec<Arc<str>>,
}

/// Work that waits for the type's turn.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    /// The client asked; has priority over what the world changed.
    pub(super) requested: Names,
    /// The world changed.
    pub(super) changed: Names,
    /// Sent even if the client has these very bytes.
    pub(super) forced: Names,
    /// A response is due even if it is empty.
    pub(super) must_respond: bool,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        !self.is_requested() && self.changed.is_none()
    }

    pub(super) fn is_requested(&self) -> bool {
        self.must_respond || !self.requested.is_none() || !self.forced.is_none()
    }
}

/// The state of one type on one connection.
#[derive(Clone, Debug, Default)]
pub(super) struct WatchState {
    /// Whether the client asked for everything.
    pub(super) wildcard: bool,
    /// Names that it asked for.
    pub(super) names: BTreeSet<Arc<str>>,
    /// What it was sent and, as far as we know, has.
    pub(super) has: HashMap<Arc<str>, Version>,
    pub(super) pending: Pending,
    pub(super) in_flight: Option<InFlight>,
    pub(super) sent_nonce: String,
    pub(super) acked_nonce: String,
    pub(super) acked_generation: Generation,
    pub(super) last_error: Option<String>,
    /// Resources that the client has refused; the error stands until each of them is accepted in a later response, or gone.
    pub(super) refused: HashSet<Arc<str>>,
    /// The newest world of which nothing but these is missing.
    pub(super) refused_generation: Generation,
    pub(super) nacks: u64,
    /// Those of `names` that the client has not asked for yet; see `Generator::implied`.
    pub(super) implied: HashSet<Arc<str>>,
}

impl WatchState {
    /// Forgets what the client no longer has or asks for.
    pub(super) fn forget(&mut self, name: &str) {
        self.has.remove(name);
        if self.refused.remove(name) && self.refused.is_empty() {
            self.last_error = None;
            self.acked_generation = self.acked_generation.max(self.refused_generation);
        }
    }

    /// The client has accepted the response under way.
    pub(super) fn acked(&mut self) {
        let Some(sent) = self.in_flight.take() else { return };
        for name in &sent.names {
            self.refused.remove(name);
        }
        self.acked_nonce = sent.nonce;
        if self.refused.is_empty() {
            self.last_error = None;
            self.acked_generation = self.acked_generation.max(sent.generation);
        } else {
            self.refused_generation = self.refused_generation.max(sent.generation);
        }
    }

    /// The client has refused a response. We go on believing that it has what was sent: a resource is not sent again until
    /// it changes. Clients refuse resources singly and name them in the reason (Envoy and Lateen do): the error stands
    /// until these are accepted. An error that names none stands until the next ACK.
    ///
    /// What is said of an older response says nothing about the last one, and is only counted.
    pub(super) fn nacked(&mut self, nonce: &str, reason: String) {
        self.nacks += 1;
        let Some(sent) = self.in_flight.take_if(|sent| sent.nonce == nonce) else { return };
        let (refused, others): (Vec<_>, Vec<_>) = sent.names.into_iter().partition(|name| mentions(&reason, name));
        if !refused.is_empty() {
            others.iter().for_each(|name| {
                self.refused.remove(name);
            });
        }
        self.refused.extend(refused.into_iter().filter(|name| self.has.contains_key(name)));
        self.refused_generation = self.refused_generation.max(sent.generation);
        self.last_error = Some(reason);
    }

    /// Nothing in `generation` concerns the client beyond what it has.
    pub(super) fn unaffected(&mut self, generation: Generation) {
        if !self.pending.is_empty() {
            return;
        }
        if self.in_flight.is_none() && self.last_error.is_none() {
            self.acked_generation = self.acked_generation.max(generation);
        } else if let Some(sent) = &mut self.in_flight {
            // With the ACK of what is under way the client is up to date.
            sent.generation = sent.generation.max(generation);
        } else {
            self.refused_generation = self.refused_generation.max(generation);
        }
    }

    /// Whether the client has exactly these bytes.
    pub(super) fn has_version(&self, resource: &Resource) -> bool {
        self.has.get(resource.name()) == Some(&resource.version())
    }

    pub(super) fn status(&self) -> TypeStatus {
        let state = match &self.last_error {
            Some(reason) if self.in_flight.is_none() => SyncState::Nack(reason.clone()),
            _ if self.in_flight.is_some() => SyncState::Stale,
            _ if self.sent_nonce.is_empty() && !self.pending.is_empty() => SyncState::NotSent,
            _ if !self.pending.is_empty() => SyncState::Stale,
            _ => SyncState::Synced,
        };
        TypeStatus {
            state,
            sent_nonce: self.sent_nonce.clone(),
            acked_nonce: self.acked_nonce.clone(),
            acked_generation: self.acked_generation,
            resources: self.has.len(),
            nacks: self.nacks,
        }
    }
}

/// Whether a text names a resource: holds its name, and not as a part of a longer one.
fn mentions(text: &str, name: &str) -> bool {
    let within_name = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '|' | '/');
    !name.is_empty()
        && text.match_indices(name).any(|(at, _)| {
            let (before, after) = (&text[..at], &text[at + name.len()..]);
            let mut rest = after.chars();
            // A full stop may end the sentence.
            let after = rest.next().is_some_and(|c| within_name(c) && !(c == '.' && rest.next().is_none_or(|c| c == ' ')));
            !before.chars().next_back().is_some_and(within_name) && !after
        })
}

#[cfg(test)]
mod tests {
    use super::mentions;

    #[test]
    fn names_in_reasons() {
        for (text, name, expected) in [
            ("Error adding/updating cluster(s) outbound|80||a: bad", "outbound|80||a", true),
            ("Error adding/updating cluster(s) outbound|80||a.b: bad", "outbound|80||a", false),
            ("8080: bad; 80: bad", "80", true),
            ("8080: bad", "80", false),
            ("the fault of 80.", "80", true),
            ("80", "80", true),
            ("'80' is bad", "80", true),
            ("bad", "a", false),
            ("bad", "", false),
        ] {
            assert_eq!(mentions(text, name), expected, "{name:?} in {text:?}");
        }
    }
}
