//! Automatic scope: what the workload calls for the first time is learnt before the call goes on.
//!
//! The control plane's index says what the mesh has. What it does not have is treated as unknown at once, without a question. What
//! it has and this proxy does not hold is asked for, once, while the connection, the request or the DNS question waits; from then
//! on it is held like any other configuration. A question without an answer in time fails its call: it is never treated as if the
//! mesh did not know the destination, because that would send it past mutual TLS and policies.

use crate::bootstrap::AutomaticScope;
use crate::config::{Hcm, RoutesOf, Snapshot};
use arc_swap::ArcSwap;
use lateen_xds::on_demand::{Index, Question};
use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// The end of the names of the platform's services.
const DOMAIN: &str = "cluster.local";

/// Virtual hosts of requests that no other one takes (Istio's names).
const CATCH_ALL: [&str; 2] = ["allow_any", "block_all"];

/// What all threads share.
#[derive(Default)]
pub(crate) struct OnDemand {
    settings: AutomaticScope,
    /// The proxy's own, which short names of services leave out.
    namespace: String,
    index: ArcSwap<Index>,
    /// Questions that are answered, and whose answers are in force.
    known: ArcSwap<HashSet<Question>>,
    waiting: Mutex<Waiting>,
    pub(crate) stats: Stats,
}

/// Questions under way, and how they reach the subscription.
#[derive(Default)]
struct Waiting {
    answers: BTreeMap<Question, watch::Sender<bool>>,
    ask: Option<mpsc::UnboundedSender<Question>>,
}

/// How often it was asked, and how long calls waited.
#[derive(Default)]
pub(crate) struct Stats {
    pub(crate) asked: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) forgotten: AtomicU64,
    /// Calls that waited, and for how long in sum.
    pub(crate) waits: AtomicU64,
    pub(crate) waited_micros: AtomicU64,
}

/// A question has no answer in time; the call must fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unanswered;

impl OnDemand {
    /// Of a proxy of a namespace.
    pub(crate) fn new(settings: &AutomaticScope, namespace: &str) -> Self {
        Self { settings: settings.clone(), namespace: namespace.to_owned(), ..Self::default() }
    }

    /// Where questions go from now on.
    pub(crate) fn questions(&self) -> mpsc::UnboundedReceiver<Question> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.lock().ask = Some(sender);
        receiver
    }

    /// The index in force.
    pub(crate) fn index(&self) -> Arc<Index> {
        self.index.load_full()
    }

    /// Another index is in force.
    pub(crate) fn set_index(&self, index: Index) {
        self.index.store(Arc::new(index));
    }

    /// What is to be asked before a call to a destination can go on. Without an index, nothing ever is.
    pub(crate) fn open_questions(&self, about: &Question) -> Vec<Question> {
        let index = self.index.load();
        if index.is_empty() {
            return Vec::new();
        }
        let known = self.known.load();
        index.find(about, &self.namespace, DOMAIN).into_iter().filter(|question| !known.contains(question)).collect()
    }

    /// What a name in a DNS question asks for, also behind the search domain that programs add first.
    pub(crate) fn open_questions_of_name(&self, name: &str) -> Vec<Question> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let found = self.open_questions(&Question::Host(name.clone()));
        let searched = format!(".{}.svc.{DOMAIN}", self.namespace);
        match name.strip_suffix(&searched).filter(|_| found.is_empty()) {
            Some(real) if real.contains('.') => self.open_questions(&Question::Host(real.to_owned())),
            _ => found,
        }
    }

    /// Asks, and waits until all of it is known and in force.
    pub(crate) async fn learn(&self, questions: Vec<Question>) -> Result<(), Unanswered> {
        if questions.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        let answers: Vec<_> = questions.into_iter().filter_map(|question| self.ask(question)).collect();
        let all = async {
            for mut answer in answers {
                // The sender goes only when there is an answer.
                let _ = answer.wait_for(|answered| *answered).await;
            }
        };
        let result = tokio::time::timeout(self.settings.patience, all).await.map_err(|_| Unanswered);
        self.stats.waits.fetch_add(1, Ordering::Relaxed);
        let waited = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.stats.waited_micros.fetch_add(waited, Ordering::Relaxed);
        if result.is_err() {
            self.stats.failed.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    /// Asks once, however many wait for the answer; `None` if it is there.
    fn ask(&self, question: Question) -> Option<watch::Receiver<bool>> {
        let mut waiting = self.lock();
        if self.known.load().contains(&question) {
            return None;
        }
        if let Some(answer) = waiting.answers.get(&question) {
            return Some(answer.subscribe());
        }
        let (sender, receiver) = watch::channel(false);
        waiting.answers.insert(question.clone(), sender);
        self.stats.asked.fetch_add(1, Ordering::Relaxed);
        if let Some(ask) = &waiting.ask {
            // The subscription lives as long as the process.
            let _ = ask.send(question);
        }
        Some(receiver)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it is held.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These are answered and in force.
    fn complete(&self, questions: impl IntoIterator<Item = Question>) {
        let mut waiting = self.lock();
        let mut known = HashSet::clone(&self.known.load());
        let mut answered = Vec::new();
        for question in questions {
            answered.extend(waiting.answers.remove(&question));
            known.insert(question);
        }
        self.known.store(Arc::new(known));
        drop(waiting);
        answered.iter().for_each(|answer| {
            answer.send_replace(true);
        });
    }

    /// These have to be asked for again.
    fn forget(&self, questions: &[Question]) {
        let _waiting = self.lock();
        let mut known = HashSet::clone(&self.known.load());
        questions.iter().for_each(|question| {
            known.remove(question);
        });
        self.known.store(Arc::new(known));
        self.stats.forgotten.fetch_add(questions.len() as u64, Ordering::Relaxed);
    }

    /// How many questions are answered.
    pub(crate) fn known(&self) -> usize {
        self.known.load().len()
    }

    /// What is to be asked before a connection to an address can be served.
    pub(crate) fn of_connection(&self, snapshot: &Snapshot, destination: SocketAddr) -> Vec<Question> {
        if snapshot.has_listener_of(destination) {
            return Vec::new();
        }
        // IPv4 as such, also inside IPv6.
        self.open_questions(&Question::Ip(destination.ip().to_canonical()))
    }

    /// What is to be asked before a request can be routed: its host, if only the catch-all takes it.
    pub(crate) fn of_request(&self, snapshot: &Snapshot, hcm: &Hcm, authority: &str) -> Vec<Question> {
        let RoutesOf::Rds(name) = &hcm.routes else { return Vec::new() };
        if self.index.load().is_empty() {
            return Vec::new();
        }
        let host = snapshot.routes.get(name).and_then(|table| table.find_host(authority));
        if host.is_some_and(|host| !CATCH_ALL.contains(&host.name())) {
            return Vec::new();
        }
        self.open_questions(&Question::of_host(lateen_policy::route::without_port(authority)))
    }
}

/// The questions of the subscription, on its thread: when each was used, and what it needs.
#[derive(Default)]
pub(crate) struct Learned {
    entries: BTreeMap<Question, Entry>,
}

struct Entry {
    /// Hosts whose clusters serve it; `None` until it is answered.
    hosts: Option<Vec<String>>,
    used: Instant,
    in_force: bool,
}

impl Learned {
    /// A question is asked.
    pub(crate) fn asked(&mut self, question: Question, now: Instant) {
        self.entries.insert(question, Entry { hosts: None, used: now, in_force: false });
    }

    /// The control plane has answered; without hosts: there is nothing.
    pub(crate) fn answered(&mut self, question: &Question, hosts: Vec<String>) {
        if let Some(entry) = self.entries.get_mut(question) {
            entry.hosts = Some(hosts);
        }
    }

    /// What the answers brought is in force.
    pub(crate) fn in_force(&mut self, shared: &OnDemand, now: Instant) {
        let fresh: Vec<Question> = self
            .entries
            .iter_mut()
            .filter(|(_, entry)| entry.hosts.is_some() && !entry.in_force)
            .map(|(question, entry)| {
                entry.in_force = true;
                entry.used = now;
                question.clone()
            })
            .collect();
        if !fresh.is_empty() {
            shared.complete(fresh);
        }
    }

    /// Takes out what was not used for long. `is_used` tells of a host whether its clusters carried anything since the last time.
    pub(crate) fn forget_unused(&mut self, shared: &OnDemand, now: Instant, is_used: impl Fn(&str) -> bool) -> Vec<Question> {
        let forget_after = shared.settings.forget_after;
        let mut unused = Vec::new();
        for (question, entry) in self.entries.iter_mut().filter(|(_, entry)| entry.in_force) {
            if entry.hosts.iter().flatten().any(|host| is_used(host)) {
                entry.used = now;
            } else if now.duration_since(entry.used) >= forget_after {
                unused.push(question.clone());
            }
        }
        self.entries.retain(|question, _| !unused.contains(question));
        if !unused.is_empty() {
            shared.forget(&unused);
        }
        unused
    }

    /// All questions, whether each is answered, and its hosts; for people.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Question, bool, &[String])> {
        self.entries.iter().map(|(q, entry)| (q, entry.in_force, entry.hosts.as_deref().unwrap_or_default()))
    }
}

/// How often it is looked for what is unused: often enough to forget about when it is due.
pub(crate) fn sweep_interval(settings: &AutomaticScope) -> Duration {
    (settings.forget_after / 8).clamp(Duration::from_millis(100), Duration::from_secs(300))
}

#[cfg(test)]
#[path = "on_demand_tests.rs"]
mod tests;
