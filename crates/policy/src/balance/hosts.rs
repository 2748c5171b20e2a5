//! One list of hosts and the policies on it.

use super::edf::Schedule;
use super::{HostView, slow_start};
use crate::WeightedIndex;
use lateen_model::dataplane::{LbPolicy, SlowStart};
use rand::Rng;
use std::time::Duration;

/// What decides between hosts at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules<'a, H> {
    pub(super) policy: LbPolicy,
    /// While some host is new.
    pub(super) slow_start: Option<SlowStart>,
    pub(super) now: Duration,
    /// All hosts; lists have indexes into it.
    pub(super) hosts: &'a [H],
}

impl<H: HostView> Rules<'_, H> {
    /// The written weight of a host.
    fn written(&self, index: usize) -> u32 {
        self.hosts[index].weight().max(1)
    }

    /// Its weight now: less if it is new, and of least request, less by the requests that it serves (Envoy's dynamic weight with
    /// the `active_request_bias` 1: `weight / (active + 1)`).
    fn weight(&self, index: usize) -> f64 {
        let host = &self.hosts[index];
        let mut weight = f64::from(self.written(index));
        if self.policy == LbPolicy::LeastRequest {
            weight /= f64::from(host.active_requests()) + 1.0;
        }
        if let Some(settings) = &self.slow_start {
            weight *= slow_start::factor(settings, self.now.saturating_sub(host.joined()));
        }
        weight
    }

    /// Whether weights are not the same at each turn.
    fn is_dynamic(&self) -> bool {
        self.policy == LbPolicy::LeastRequest || self.slow_start.is_some()
    }
}

/// Hosts that may be chosen, as indexes into the set.
#[derive(Debug, Default)]
pub(super) struct HostList {
    hosts: Vec<usize>,
    /// For a round robin over equal weights.
    cursor: usize,
    weights: Weights,
}

#[derive(Debug, Default)]
enum Weights {
    #[default]
    Equal,
    /// Round robin and least request.
    Scheduled(Schedule),
    /// Random.
    Sums(WeightedIndex),
}

impl HostList {
    /// Takes another list. The place of a round robin over equal weights is kept; a new one begins at random.
    pub(super) fn replace<H: HostView, G: Rng + ?Sized>(&mut self, hosts: Vec<usize>, rules: &Rules<'_, H>, rng: &mut G) {
        if self.hosts.is_empty() && !hosts.is_empty() {
            self.cursor = rng.random_range(0..hosts.len());
        }
        self.weights = Weights::new(&hosts, rules, rng);
        self.hosts = hosts;
    }

    /// The next host.
    pub(super) fn pick<H: HostView, G: Rng + ?Sized>(&mut self, rules: &Rules<'_, H>, rng: &mut G) -> Option<usize> {
        let n = self.hosts.len();
        match n {
            0 => return None,
            1 => return self.hosts.first().copied(),
            _ => {}
        }
        let at = match (&mut self.weights, rules.policy) {
            (Weights::Equal, LbPolicy::RoundRobin | LbPolicy::ClusterProvided) => {
                self.cursor = (self.cursor + 1) % n;
                self.cursor
            }
            (Weights::Equal, LbPolicy::LeastRequest) => {
                let (a, b) = (rng.random_range(0..n), rng.random_range(0..n));
                let active = |at: usize| rules.hosts[self.hosts[at]].active_requests();
                if active(b) < active(a) { b } else { a }
            }
            // Consistent choices have tables instead; without one any host is as good as another.
            (Weights::Equal, LbPolicy::Random | LbPolicy::RingHash(_) | LbPolicy::Maglev(_)) => rng.random_range(0..n),
            (Weights::Scheduled(schedule), _) if rules.is_dynamic() => schedule.next_with(|i| rules.weight(self.hosts[i]))?,
            (Weights::Scheduled(schedule), _) => schedule.next()?,
            (Weights::Sums(sums), _) => sums.choose(rng.random()),
        };
        self.hosts.get(at).copied()
    }
}

impl Weights {
    fn new<H: HostView, G: Rng + ?Sized>(hosts: &[usize], rules: &Rules<'_, H>, rng: &mut G) -> Self {
        let Some(first) = hosts.first().map(|i| rules.written(*i)) else {
            return Self::Equal;
        };
        if rules.slow_start.is_none() && hosts.iter().all(|i| rules.written(*i) == first) {
            return Self::Equal;
        }
        match rules.policy {
            LbPolicy::Random | LbPolicy::RingHash(_) | LbPolicy::Maglev(_) => {
                WeightedIndex::new(hosts.iter().map(|i| rules.written(*i))).map_or(Self::Equal, Self::Sums)
            }
            LbPolicy::RoundRobin | LbPolicy::LeastRequest | LbPolicy::ClusterProvided => {
                let weights: Vec<f64> = hosts.iter().map(|i| rules.weight(*i)).collect();
                Self::Scheduled(Schedule::new(&weights, rng))
            }
        }
    }
}
