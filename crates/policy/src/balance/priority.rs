//! How load is shared by priorities, and when a priority panics: Envoy's arithmetic, in whole percent.
//!
//! - The health of a priority is `min(100, 140 % * usable / hosts)`: with the overprovisioning factor of 1.4 it takes all of its
//!   load until fewer than 72 % of its hosts are usable.
//! - Each priority in turn takes what it can of the load that is left. If the sum of all health is below 100, loads are scaled up
//!   to 100, and what rounding leaves goes to the first priority that is available.
//! - Only if the sum is below 100 may a priority panic: it does if less than the threshold of its hosts are usable; then its load
//!   goes to all of its hosts. If every priority panics, load is shared by the number of hosts.

/// The overprovisioning factor, in percent.
const OVERPROVISIONING: usize = 140;

/// Hosts of one priority or locality.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Availability {
    /// All.
    pub hosts: usize,
    /// Those that may be used.
    pub usable: usize,
}

impl Availability {
    /// Percent, at most 100.
    fn health(self) -> usize {
        (OVERPROVISIONING * self.usable).checked_div(self.hosts).unwrap_or(0).min(100)
    }

    fn is_below(self, percent: usize) -> bool {
        // An empty priority has a share of zero.
        self.usable * 100 < percent * self.hosts || (self.hosts == 0 && percent > 0)
    }
}

/// Weight of a locality for its usable hosts: the configured weight, less once fewer than 72 % are usable.
pub fn locality_weight(weight: u32, availability: Availability) -> f64 {
    if availability.hosts == 0 || availability.usable == 0 {
        return 0.0;
    }
    #[expect(clippy::cast_precision_loss, reason = "counts of hosts are far below 2^52")]
    let ratio = availability.usable as f64 / availability.hosts as f64;
    f64::from(weight) * (ratio * 1.4).min(1.0)
}

/// The load of each priority, in percent, and which priorities panic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    health: Vec<usize>,
    loads: Vec<usize>,
    panic: Vec<bool>,
}

impl Plan {
    /// Shares the load. `panic_threshold` is in percent; 0 is no panic.
    pub fn new(priorities: &[Availability], panic_threshold: u8) -> Self {
        let threshold = usize::from(panic_threshold.min(100));
        let health: Vec<usize> = priorities.iter().map(|p| p.health()).collect();
        let total = health.iter().sum::<usize>().min(100);
        let mut plan = Self { loads: distribute(&health), panic: vec![false; health.len()], health };
        if total == 100 || plan.loads.is_empty() {
            return plan;
        }
        if threshold == 0 {
            if total == 0 {
                // No host will be found there, which is the truth.
                plan.loads[0] = 100;
            }
            return plan;
        }
        plan.panic = priorities.iter().map(|p| p.is_below(threshold)).collect();
        if plan.panic.iter().all(|p| *p) {
            plan.loads = by_hosts(priorities);
        }
        plan
    }

    /// Whether all hosts of a priority are used, unusable ones too.
    pub fn is_panic(&self, priority: usize) -> bool {
        self.panic.get(priority).copied().unwrap_or(false)
    }

    /// The load of each priority, in percent.
    pub fn loads(&self) -> &[usize] {
        &self.loads
    }

    /// The priority for a number that is uniform in `0..100`.
    pub fn choose(&self, percent: usize) -> usize {
        choose(&self.loads, percent)
    }

    /// As [`Self::choose`], with priorities left out as long as others are available.
    pub fn choose_without(&self, avoid: impl Fn(usize) -> bool, percent: usize) -> usize {
        let health: Vec<usize> = self.health.iter().enumerate().map(|(i, h)| if avoid(i) { 0 } else { *h }).collect();
        if health.iter().all(|h| *h == 0) { self.choose(percent) } else { choose(&distribute(&health), percent) }
    }
}

fn choose(loads: &[usize], percent: usize) -> usize {
    let mut sum = 0;
    let found = loads.iter().position(|load| {
        sum += load;
        percent < sum
    });
    found.unwrap_or(0)
}

/// Loads that sum up to 100, or all zero if nothing is available.
fn distribute(health: &[usize]) -> Vec<usize> {
    let total = health.iter().sum::<usize>().min(100);
    if total == 0 {
        return vec![0; health.len()];
    }
    let mut left = 100;
    let mut loads: Vec<usize> = health
        .iter()
        .map(|h| {
            let load = (h * 100 / total).min(left);
            left -= load;
            load
        })
        .collect();
    if let Some(first) = health.iter().position(|h| *h > 0) {
        loads[first] += left;
    }
    loads
}

/// By number of hosts; what rounding leaves goes to the first priority that has any.
fn by_hosts(priorities: &[Availability]) -> Vec<usize> {
    let total: usize = priorities.iter().map(|p| p.hosts).sum();
    let mut loads: Vec<usize> = priorities.iter().map(|p| (100 * p.hosts).checked_div(total).unwrap_or(0)).collect();
    let first = priorities.iter().position(|p| p.hosts > 0).unwrap_or(0);
    loads[first] += 100 - loads.iter().sum::<usize>();
    loads
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plan(priorities: &[(usize, usize)], threshold: u8) -> (Vec<usize>, Vec<bool>) {
        let priorities: Vec<_> =
            priorities.iter().map(|(usable, hosts)| Availability { hosts: *hosts, usable: *usable }).collect();
        let plan = Plan::new(&priorities, threshold);
        (plan.loads, plan.panic)
    }

    /// The tables of Envoy's documentation ("Priority levels", "Panic threshold"), as usable of 100 hosts.
    #[test]
    fn documented_tables() {
        for (usable, loads, panic) in [
            // Two priorities.
            (vec![100, 100], vec![100, 0], vec![false, false]),
            (vec![72, 72], vec![100, 0], vec![false, false]),
            (vec![71, 71], vec![99, 1], vec![false, false]),
            (vec![50, 50], vec![70, 30], vec![false, false]),
            (vec![25, 100], vec![35, 65], vec![false, false]),
            // The sum of health is 70 (35 + 35): scaled, and both are below 50 %.
            (vec![25, 25], vec![50, 50], vec![true, true]),
            // Three priorities.
            (vec![100, 100, 100], vec![100, 0, 0], vec![false; 3]),
            (vec![71, 71, 71], vec![99, 1, 0], vec![false; 3]),
            (vec![25, 50, 100], vec![35, 65, 0], vec![false; 3]),
            (vec![25, 25, 100], vec![35, 35, 30], vec![false; 3]),
            // Panic of one priority only.
            (vec![5, 65], vec![8, 92], vec![true, false]),
        ] {
            let input: Vec<_> = usable.iter().map(|u| (*u, 100)).collect();
            assert_eq!(plan(&input, 50), (loads, panic), "{usable:?}");
        }
    }

    #[test]
    fn total_panic_shares_by_hosts() {
        assert_eq!(plan(&[(0, 3), (0, 1)], 50), (vec![75, 25], vec![true, true]));
        assert_eq!(plan(&[(0, 0), (0, 3)], 50), (vec![0, 100], vec![true, true]));
        assert_eq!(plan(&[(0, 1), (0, 1), (0, 1)], 50), (vec![34, 33, 33], vec![true; 3]));
        assert_eq!(plan(&[(0, 0)], 50), (vec![100], vec![true]));
    }

    #[test]
    fn panic_can_be_disabled() {
        assert_eq!(plan(&[(0, 4)], 0), (vec![100], vec![false]));
        assert_eq!(plan(&[(1, 4)], 0), (vec![100], vec![false]));
        assert_eq!(plan(&[(0, 4), (1, 4)], 0), (vec![0, 100], vec![false, false]));
    }

    #[test]
    fn panic_threshold_is_strict() {
        assert_eq!(plan(&[(2, 4)], 50).1, [false]);
        assert_eq!(plan(&[(1, 4)], 50).1, [true]);
        assert_eq!(plan(&[(1, 4)], 25).1, [false]);
    }

    #[test]
    fn avoided_priorities() {
        let p = Plan::new(&[Availability { hosts: 1, usable: 1 }, Availability { hosts: 1, usable: 1 }], 50);
        assert_eq!(p.choose(99), 0);
        assert_eq!(p.choose_without(|i| i == 0, 0), 1);
        assert_eq!(p.choose_without(|_| true, 0), 0);
    }

    #[test]
    fn locality_weights() {
        for (usable, hosts, expected) in [(10, 10, 100.0), (8, 10, 100.0), (5, 10, 70.0), (0, 10, 0.0), (0, 0, 0.0)] {
            let weight = locality_weight(100, Availability { hosts, usable });
            assert!((weight - expected).abs() < 1e-9, "{usable}/{hosts}: {weight}");
        }
    }

    proptest! {
        #[test]
        fn loads_are_shared_completely(input in prop::collection::vec((0usize..20, 0usize..20), 1..5), threshold in 0u8..=100) {
            let input: Vec<_> = input.into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect();
            let (loads, panic) = plan(&input, threshold);
            prop_assert_eq!(loads.iter().sum::<usize>(), 100);
            let anything = input.iter().any(|(usable, _)| *usable > 0);
            for (i, load) in loads.iter().enumerate() {
                // Load goes only where a host is to be found, if one is to be found at all.
                prop_assert!(*load == 0 || !anything || input[i].0 > 0 || panic[i]);
            }
            if threshold == 0 {
                prop_assert!(panic.iter().all(|p| !p));
            }
        }
    }
}
