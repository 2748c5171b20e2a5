//! One list of hosts and the policies on it.

use super::HostView;
use super::edf::Schedule;
use crate::WeightedIndex;
use lateen_model::dataplane::LbPolicy;
use rand::Rng;

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
    pub(super) fn replace<H: HostView, G: Rng + ?Sized>(&mut self, hosts: Vec<usize>, policy: LbPolicy, all: &[H], rng: &mut G) {
        if self.hosts.is_empty() && !hosts.is_empty() {
            self.cursor = rng.random_range(0..hosts.len());
        }
        self.weights = Weights::new(&hosts, policy, all, rng);
        self.hosts = hosts;
    }

    /// The next host.
    pub(super) fn pick<H: HostView, G: Rng + ?Sized>(&mut self, policy: LbPolicy, all: &[H], rng: &mut G) -> Option<usize> {
        let n = self.hosts.len();
        match n {
            0 => return None,
            1 => return self.hosts.first().copied(),
            _ => {}
        }
        let at = match (&mut self.weights, policy) {
            (Weights::Equal, LbPolicy::RoundRobin | LbPolicy::ClusterProvided) => {
                self.cursor = (self.cursor + 1) % n;
                self.cursor
            }
            (Weights::Equal, LbPolicy::LeastRequest) => {
                let (a, b) = (rng.random_range(0..n), rng.random_range(0..n));
                if all[self.hosts[b]].active_requests() < all[self.hosts[a]].active_requests() { b } else { a }
            }
            // Consistent choices have tables instead; without one any host is as good as another.
            (Weights::Equal, LbPolicy::Random | LbPolicy::RingHash(_) | LbPolicy::Maglev(_)) => rng.random_range(0..n),
            (Weights::Scheduled(schedule), LbPolicy::LeastRequest) => {
                schedule.next_with(|i| loaded_weight(&all[self.hosts[i]]))?
            }
            (Weights::Scheduled(schedule), _) => schedule.next()?,
            (Weights::Sums(sums), _) => sums.choose(rng.random()),
        };
        self.hosts.get(at).copied()
    }
}

impl Weights {
    fn new<H: HostView, G: Rng + ?Sized>(hosts: &[usize], policy: LbPolicy, all: &[H], rng: &mut G) -> Self {
        let weight = |i: &usize| all[*i].weight().max(1);
        let Some(first) = hosts.first().map(weight) else {
            return Self::Equal;
        };
        if hosts.iter().all(|i| weight(i) == first) {
            return Self::Equal;
        }
        match policy {
            LbPolicy::Random | LbPolicy::RingHash(_) | LbPolicy::Maglev(_) => {
                WeightedIndex::new(hosts.iter().map(weight)).map_or(Self::Equal, Self::Sums)
            }
            LbPolicy::LeastRequest => {
                let weights: Vec<f64> = hosts.iter().map(|i| loaded_weight(&all[*i])).collect();
                Self::Scheduled(Schedule::new(&weights, rng))
            }
            LbPolicy::RoundRobin | LbPolicy::ClusterProvided => {
                let weights: Vec<f64> = hosts.iter().map(|i| f64::from(weight(i))).collect();
                Self::Scheduled(Schedule::new(&weights, rng))
            }
        }
    }
}

/// Envoy's dynamic weight of least request where weights differ (`active_request_bias` 1): `weight / (active + 1)`.
fn loaded_weight<H: HostView>(host: &H) -> f64 {
    f64::from(host.weight().max(1)) / (f64::from(host.active_requests()) + 1.0)
}
