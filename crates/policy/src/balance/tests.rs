use super::*;
use lateen_model::dataplane::{MaglevTableSize, RingSize};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;

#[derive(Debug)]
struct Host {
    id: usize,
    weight: u32,
    active: Cell<u32>,
    usable: Cell<bool>,
    joined: Cell<Duration>,
}

impl HostView for Rc<Host> {
    fn weight(&self) -> u32 {
        self.weight
    }

    fn active_requests(&self) -> u32 {
        self.active.get()
    }

    fn is_usable(&self) -> bool {
        self.usable.get()
    }

    fn hash_key(&self) -> String {
        format!("10.0.0.{}:80", self.id)
    }

    fn joined(&self) -> Duration {
        self.joined.get()
    }
}

struct Lab {
    hosts: Vec<Rc<Host>>,
    picker: Picker<Rc<Host>>,
    rng: SmallRng,
    epoch: u64,
}

impl Lab {
    /// Groups of (priority, locality weight, host weights).
    fn new(policy: LbPolicy, panic_threshold: u8, groups: &[(u32, Option<u32>, &[u32])]) -> Self {
        let mut hosts = Vec::new();
        let groups: Vec<_> = groups
            .iter()
            .map(|(priority, weight, weights)| {
                let first = hosts.len();
                for (i, weight) in weights.iter().enumerate() {
                    let host = Host {
                        id: first + i,
                        weight: *weight,
                        active: Cell::new(0),
                        usable: Cell::new(true),
                        joined: Cell::default(),
                    };
                    hosts.push(Rc::new(host));
                }
                HostGroup { priority: *priority, weight: *weight, locality: Locality::default(), hosts: hosts[first..].to_vec() }
            })
            .collect();
        let weighted_localities = groups.iter().any(|g| g.weight.is_some());
        Self::of(
            BalanceSettings { policy, panic_threshold, weighted_localities, slow_start: None, zone_aware: None },
            hosts,
            groups,
        )
    }

    fn of(settings: BalanceSettings, hosts: Vec<Rc<Host>>, groups: Vec<HostGroup<Rc<Host>>>) -> Self {
        let set = HostSet::new(settings, groups);
        #[expect(clippy::arc_with_non_send_sync, reason = "a test on one thread")]
        let picker = Picker::new(Arc::new(set));
        Self { hosts, picker, rng: SmallRng::seed_from_u64(42), epoch: 0 }
    }

    fn simple(policy: LbPolicy, weights: &[u32]) -> Self {
        Self::new(policy, 50, &[(0, None, weights)])
    }

    fn set_usable(&mut self, ids: &[usize], usable: bool) {
        ids.iter().for_each(|id| self.hosts[*id].usable.set(usable));
        self.epoch += 1;
    }

    fn pick(&mut self) -> Option<usize> {
        self.picker.pick(self.epoch, &mut self.rng, Avoid::NOTHING, |_| false).map(|p| p.host.id)
    }

    fn counts(&mut self, n: usize) -> Vec<u32> {
        let mut counts = vec![0; self.hosts.len()];
        for _ in 0..n {
            counts[self.pick().expect("a host")] += 1;
        }
        counts
    }
}

#[test]
fn round_robin_is_exact() {
    let mut lab = Lab::simple(LbPolicy::RoundRobin, &[1, 1, 1]);
    assert_eq!(lab.counts(3000), [1000; 3]);
    let picks: Vec<_> = (0..6).map(|_| lab.pick().unwrap()).collect();
    assert_eq!(picks[..3], picks[3..]);
    assert_eq!(picks[..3].iter().collect::<HashSet<_>>().len(), 3);
    // Weighted: exact over a period, within one pick.
    let counts = Lab::simple(LbPolicy::RoundRobin, &[1, 3, 6]).counts(10_000);
    for (count, expected) in counts.iter().zip([1000i64, 3000, 6000]) {
        assert!((i64::from(*count) - expected).abs() <= 1, "{counts:?}");
    }
}

#[test]
fn random_follows_weights() {
    // Six standard deviations of a binomial distribution.
    for weights in [&[1u32, 1, 1, 1][..], &[1, 2, 5]] {
        let n = 20_000;
        let total: u32 = weights.iter().sum();
        let counts = Lab::simple(LbPolicy::Random, weights).counts(n);
        for (count, weight) in counts.iter().zip(weights) {
            let p = f64::from(*weight) / f64::from(total);
            let deviation = (f64::from(*count) - p * n as f64).abs();
            assert!(deviation < 6.0 * (n as f64 * p * (1.0 - p)).sqrt(), "{weights:?} {counts:?}");
        }
    }
}

#[test]
fn least_request_takes_the_better_of_two() {
    let mut lab = Lab::simple(LbPolicy::LeastRequest, &[1, 1, 1]);
    lab.hosts[0].active.set(10);
    let counts = lab.counts(9000);
    // The loaded host is taken only if both draws are it: one in nine.
    assert!((800..1200).contains(&counts[0]), "{counts:?}");
    // Requests that stay: the load evens out.
    let mut lab = Lab::simple(LbPolicy::LeastRequest, &[1; 10]);
    for _ in 0..1000 {
        let id = lab.pick().unwrap();
        lab.hosts[id].active.set(lab.hosts[id].active.get() + 1);
    }
    assert!(lab.hosts.iter().all(|h| (95..=105).contains(&h.active.get())), "{:?}", lab.hosts);
}

#[test]
fn least_request_with_weights() {
    // Idle hosts: by weight.
    let counts = Lab::simple(LbPolicy::LeastRequest, &[1, 4]).counts(5000);
    assert!((i64::from(counts[0]) - 1000).abs() <= 5, "{counts:?}");
    // Nine requests in flight divide the weight by ten.
    let mut lab = Lab::simple(LbPolicy::LeastRequest, &[1, 4]);
    lab.hosts[1].active.set(9);
    let counts = lab.counts(7000);
    assert!((i64::from(counts[0]) - 5000).abs() <= 10, "{counts:?}");
}

#[test]
fn unusable_hosts_are_left_out_and_come_back() {
    for policy in [LbPolicy::RoundRobin, LbPolicy::LeastRequest, LbPolicy::Random] {
        for weights in [[1, 1, 1, 1], [1, 2, 3, 4]] {
            let mut lab = Lab::simple(policy, &weights);
            lab.counts(10);
            lab.set_usable(&[1], false);
            let counts = lab.counts(1000);
            assert!(counts[1] == 0 && counts[0] > 0 && counts[2] > 0, "{policy:?} {counts:?}");
            lab.set_usable(&[1], true);
            assert!(lab.counts(1000)[1] > 0);
        }
    }
}

#[test]
fn lists_are_made_anew_only_with_the_epoch() {
    let mut lab = Lab::simple(LbPolicy::RoundRobin, &[1, 1, 1, 1]);
    lab.pick();
    lab.hosts[1].usable.set(false);
    assert!(lab.counts(100)[1] > 0, "the same epoch");
    lab.epoch += 1;
    assert_eq!(lab.counts(100)[1], 0);
}

#[test]
fn panic_uses_all_hosts() {
    let mut lab = Lab::simple(LbPolicy::RoundRobin, &[1, 1, 1, 1]);
    lab.set_usable(&[0, 1, 2], false);
    assert_eq!(lab.counts(400), [100; 4]);
    let epoch = lab.epoch;
    assert!(lab.picker.pick(epoch, &mut lab.rng, Avoid::NOTHING, |_| false).unwrap().panic);
    // Without panic the one that is left takes all, or nobody does.
    let mut lab = Lab::new(LbPolicy::RoundRobin, 0, &[(0, None, &[1, 1, 1, 1])]);
    lab.set_usable(&[0, 1, 2], false);
    assert_eq!(lab.counts(400), [0, 0, 0, 400]);
    lab.set_usable(&[3], false);
    assert_eq!(lab.pick(), None);
}

#[test]
fn empty_sets() {
    assert_eq!(Lab::new(LbPolicy::RoundRobin, 50, &[]).pick(), None);
    assert_eq!(Lab::new(LbPolicy::LeastRequest, 50, &[(0, None, &[])]).pick(), None);
    assert_eq!(Lab::new(LbPolicy::Random, 50, &[(0, None, &[]), (3, None, &[1])]).pick(), Some(0));
}

#[test]
fn failover() {
    let mut lab = Lab::new(LbPolicy::RoundRobin, 50, &[(0, None, &[1; 10]), (1, None, &[1; 10]), (5, None, &[1; 10])]);
    let share = |lab: &mut Lab, range: Range<usize>| {
        lab.epoch += 1;
        lab.counts(10_000)[range].iter().sum::<u32>()
    };
    assert_eq!(share(&mut lab, 0..10), 10_000);
    // 80 % are usable: still everything, by overprovisioning.
    lab.set_usable(&[0, 1], false);
    assert_eq!(share(&mut lab, 0..10), 10_000);
    // 50 %: 70 % stay.
    lab.set_usable(&[2, 3, 4], false);
    assert!((6_700..7_300).contains(&share(&mut lab, 0..10)));
    assert_eq!(share(&mut lab, 20..30), 0);
    // None: the next priority, whole.
    lab.set_usable(&[5, 6, 7, 8, 9], false);
    assert_eq!(share(&mut lab, 10..20), 10_000);
    lab.set_usable(&(10..20).collect::<Vec<_>>(), false);
    assert_eq!(share(&mut lab, 20..30), 10_000);
    let epoch = lab.epoch;
    assert_eq!(lab.picker.pick(epoch, &mut lab.rng, Avoid::NOTHING, |_| false).unwrap().priority, 5);
}

#[test]
fn localities_by_weight() {
    let mut lab = Lab::new(LbPolicy::RoundRobin, 50, &[(0, Some(80), &[1; 10]), (0, Some(20), &[1; 10]), (0, None, &[1; 10])]);
    let counts = lab.counts(1000);
    assert!(counts[..10].iter().sum::<u32>().abs_diff(800) <= 1, "{counts:?}");
    assert_eq!(counts[20..].iter().sum::<u32>(), 0, "a locality without weight gets nothing");
    // Half of the first is gone: 80 * 0.7 = 56 to 20.
    lab.set_usable(&[0, 1, 2, 3, 4], false);
    let counts = lab.counts(7600);
    assert!(counts[5..10].iter().sum::<u32>().abs_diff(5600) <= 1, "{counts:?}");
}

#[test]
fn hosts_that_were_tried_are_avoided_as_long_as_attempts_last() {
    let mut lab = Lab::simple(LbPolicy::RoundRobin, &[1, 1, 1]);
    let avoid = |attempts| Avoid { attempts, priorities: PrioritySet::EMPTY };
    for _ in 0..100 {
        let pick = lab.picker.pick(0, &mut lab.rng, avoid(5), |h| h.id != 2).unwrap();
        assert_eq!(pick.host.id, 2);
    }
    // All refused: the last one is taken.
    assert!(lab.picker.pick(0, &mut lab.rng, avoid(5), |_| true).is_some());
    let asked = Cell::new(0);
    let count = |_: &Rc<Host>| {
        asked.set(asked.get() + 1);
        true
    };
    lab.picker.pick(0, &mut lab.rng, avoid(2), count).unwrap();
    assert_eq!(asked.get(), 2);
}

#[test]
fn priorities_that_were_tried_are_avoided() {
    let mut lab = Lab::new(LbPolicy::Random, 50, &[(0, None, &[1]), (1, None, &[1])]);
    let mut priorities = PrioritySet::EMPTY;
    priorities.insert(0);
    let avoid = Avoid { attempts: 0, priorities };
    for _ in 0..50 {
        assert_eq!(lab.picker.pick(0, &mut lab.rng, avoid, |_| false).unwrap().priority, 1);
    }
    lab.set_usable(&[1], false);
    let epoch = lab.epoch;
    assert_eq!(lab.picker.pick(epoch, &mut lab.rng, avoid, |_| false).unwrap().priority, 0);
}

#[test]
fn hosts_of_an_assignment() {
    use lateen_model::dataplane::{EndpointHealth, Locality, TlsMode};
    let endpoint = |port: u16| Endpoint {
        address: ([10, 0, 0, 1], port).into(),
        health: EndpointHealth::Healthy,
        weight: 1,
        tls_mode: TlsMode::Istio,
        workload: None,
    };
    let group = |priority, ports: &[u16]| LocalityEndpoints {
        locality: Locality { region: format!("r{priority}"), ..Locality::default() },
        priority,
        weight: None,
        endpoints: ports.iter().map(|p| endpoint(*p)).collect(),
    };
    let assignment = ClusterLoadAssignment { cluster_name: "c".into(), localities: vec![group(1, &[3]), group(0, &[1, 2])] };
    let settings = BalanceSettings {
        policy: LbPolicy::RoundRobin,
        panic_threshold: 50,
        weighted_localities: false,
        slow_start: None,
        zone_aware: None,
    };
    let set = HostSet::from_assignment(settings, &assignment, |group, e| (group.locality.region.clone(), e.address.port()));
    assert_eq!(set.hosts(), [("r0".to_owned(), 1), ("r0".to_owned(), 2), ("r1".to_owned(), 3)]);
}

fn any_policy() -> impl Strategy<Value = LbPolicy> {
    prop::sample::select(vec![LbPolicy::RoundRobin, LbPolicy::LeastRequest, LbPolicy::Random])
}

proptest! {
    /// Outside of panic only usable hosts are picked; `None` only if there is nothing to pick.
    #[test]
    fn only_usable_hosts(
        policy in any_policy(),
        threshold in prop::sample::select(vec![0u8, 50, 100]),
        groups in prop::collection::vec((0u32..3, prop::option::of(1u32..5), prop::collection::vec(1u32..4, 0..5)), 0..5),
        unusable in prop::collection::vec(0usize..25, 0..20),
    ) {
        let all_or_none = groups.iter().all(|g| g.1.is_some());
        let groups: Vec<_> = groups.iter().map(|(p, w, h)| (*p, w.filter(|_| all_or_none), h.as_slice())).collect();
        let mut lab = Lab::new(policy, threshold, &groups);
        let unusable: Vec<_> = unusable.into_iter().filter(|i| *i < lab.hosts.len()).collect();
        lab.set_usable(&unusable, false);
        let usable = lab.hosts.iter().filter(|h| h.usable.get()).count();
        for _ in 0..40 {
            match lab.picker.pick(1, &mut lab.rng, Avoid::NOTHING, |_| false) {
                Some(pick) => prop_assert!(pick.panic || pick.host.usable.get()),
                None => prop_assert!(usable == 0 && (threshold == 0 || lab.hosts.is_empty())),
            }
        }
    }

    /// Every usable host is picked in a while: none starves.
    #[test]
    fn none_starves(policy in any_policy(), weights in prop::collection::vec(1u32..5, 1..8)) {
        let mut lab = Lab::simple(policy, &weights);
        let counts = lab.counts(2000);
        prop_assert!(counts.iter().all(|c| *c > 0), "{counts:?}");
        let by_host: BTreeMap<usize, u32> = counts.into_iter().enumerate().collect();
        prop_assert_eq!(by_host.len(), weights.len());
    }
}

/// Two hosts of old and one that came at 1,000 s, of a window of 100 s.
fn warming(policy: LbPolicy, minimum_percent: f64, aggression: f64) -> Lab {
    let slow_start = SlowStart::try_new(Duration::from_secs(100), minimum_percent, aggression).ok();
    let hosts: Vec<Rc<Host>> = [0, 0, 1000]
        .iter()
        .enumerate()
        .map(|(id, joined)| {
            let joined = Cell::new(Duration::from_secs(*joined));
            Rc::new(Host { id, weight: 1, active: Cell::new(0), usable: Cell::new(true), joined })
        })
        .collect();
    let group = HostGroup { priority: 0, weight: None, locality: Locality::default(), hosts: hosts.clone() };
    Lab::of(
        BalanceSettings { policy, panic_threshold: 50, weighted_localities: false, slow_start, zone_aware: None },
        hosts,
        vec![group],
    )
}

impl Lab {
    fn counts_at(&mut self, seconds: u64, n: usize) -> Vec<u32> {
        let moment = Moment { epoch: self.epoch, now: Duration::from_secs(seconds) };
        let mut counts = vec![0; self.hosts.len()];
        for _ in 0..n {
            counts[self.picker.pick(moment, &mut self.rng, Avoid::NOTHING, |_| false).expect("a host").host.id] += 1;
        }
        counts
    }
}

#[test]
fn new_hosts_are_chosen_less() {
    for policy in [LbPolicy::RoundRobin, LbPolicy::LeastRequest] {
        for (minimum, aggression, seconds, weight) in [
            (10.0, 1.0, 1000, 0.1),
            (10.0, 1.0, 1050, 0.5),
            (50.0, 1.0, 1000, 0.5),
            (10.0, 2.0, 1025, 0.5),
            (10.0, 0.1, 1079, 0.1),
            (10.0, 1.0, 1100, 1.0),
        ] {
            let counts = warming(policy, minimum, aggression).counts_at(seconds, 4200);
            let expected = 4200.0 * weight / (2.0 + weight);
            // Of equal weights, least request draws.
            let allowed = if weight < 1.0 { 2.0 } else { 200.0 };
            assert!(
                (f64::from(counts[2]) - expected).abs() <= allowed,
                "{policy:?} {minimum} {aggression} {seconds}: {counts:?}"
            );
        }
    }
    // Other policies take new hosts as they are.
    let counts = warming(LbPolicy::Random, 10.0, 1.0).counts_at(1000, 3000);
    assert!((800..1200).contains(&counts[2]), "{counts:?}");
}

#[test]
fn weights_rise_while_picks_go_on_and_then_are_equal() {
    let mut lab = warming(LbPolicy::RoundRobin, 10.0, 1.0);
    let mut before = 0;
    for seconds in (1000..1100).step_by(10) {
        let count = lab.counts_at(seconds, 210)[2];
        assert!(count + 2 >= before, "{count} after {before} at {seconds}");
        before = count;
    }
    assert!((60..=70).contains(&before), "{before}");
    assert_eq!(lab.counts_at(1100, 300), [100; 3]);
    assert!(lab.picker.warm.is_none());
    // One that comes back from ejection is not new.
    lab.set_usable(&[2], false);
    assert_eq!(lab.counts_at(1101, 300), [150, 150, 0]);
    lab.set_usable(&[2], true);
    assert_eq!(lab.counts_at(1102, 300), [100; 3]);
}

#[test]
fn hosts_that_are_all_new_share_alike() {
    for policy in [LbPolicy::RoundRobin, LbPolicy::LeastRequest] {
        let mut lab = warming(policy, 10.0, 1.0);
        lab.hosts.iter().for_each(|h| h.joined.set(Duration::from_secs(1000)));
        for seconds in [1000, 1010, 1099] {
            let counts = lab.counts_at(seconds, 300);
            assert!(counts.iter().all(|c| (98..=102).contains(c)), "{policy:?} at {seconds}: {counts:?}");
        }
    }
}

#[test]
fn the_own_zone_comes_first_among_those_of_the_first_priority() {
    let host = |id| Rc::new(Host { id, weight: 1, active: Cell::new(0), usable: Cell::new(true), joined: Cell::default() });
    let hosts: Vec<Rc<Host>> = (0..6).map(host).collect();
    let place = |zone: &str| Locality { region: "eu".into(), zone: zone.into(), sub_zone: String::new() };
    let group = |priority, zone, ids: Range<usize>| HostGroup {
        priority,
        weight: None,
        locality: place(zone),
        hosts: hosts[ids].to_vec(),
    };
    // A place in two groups is one.
    let groups = vec![group(0, "a", 0..1), group(0, "b", 1..3), group(0, "a", 3..4), group(1, "c", 4..6)];
    let zone_aware = Some(ZoneAware { routing_percent: 100, min_cluster_size: 1 });
    let settings = BalanceSettings {
        policy: LbPolicy::RoundRobin,
        panic_threshold: 50,
        weighted_localities: false,
        slow_start: None,
        zone_aware,
    };
    let mut lab = Lab::of(settings, hosts.clone(), groups);
    assert_eq!(lab.counts(400), [100, 100, 100, 100, 0, 0], "who the own proxies are is not known");
    let origin = |zones: &[&str]| Some(Arc::new(Origin::new(place("a"), zones.iter().map(|zone| place(zone)))));
    let both = origin(&["a", "b"]);
    lab.picker.come_from(both.as_ref());
    assert_eq!(lab.counts(400), [200, 0, 0, 200, 0, 0]);
    lab.picker.come_from(origin(&["a", "a", "a", "b"]).as_ref());
    let counts = lab.counts(6000);
    // Half of the hosts for three quarters of the proxies: two thirds stay.
    assert!((1800..2200).contains(&counts[0]) && (800..1200).contains(&counts[1]), "{counts:?}");
    // With the own zone ejected, the other one takes 70 % of the requests, and the next priority the rest.
    lab.picker.come_from(both.as_ref());
    lab.set_usable(&[0, 3], false);
    let counts = lab.counts(1000);
    assert!(counts[1] + counts[2] > 600 && counts[4] + counts[5] > 200, "{counts:?}");
    assert_eq!((counts[0], counts[3]), (0, 0));
    lab.set_usable(&[1, 2], false);
    assert_eq!(lab.counts(400), [0, 0, 0, 0, 200, 200]);
}

fn consistent_policies() -> [LbPolicy; 2] {
    [LbPolicy::RingHash(RingSize::default()), LbPolicy::Maglev(MaglevTableSize::default())]
}

/// The host of each of so many keys.
fn owners(lab: &mut Lab, keys: u64) -> Vec<usize> {
    let hash = |key: u64| crate::hash::xx_hash(&key.to_le_bytes());
    let mut find = |key| {
        let wanted = Wanted { avoid: Avoid::NOTHING, hash: Some(hash(key)) };
        lab.picker.pick(lab.epoch, &mut lab.rng, wanted, |_| false).unwrap().host.id
    };
    (0..keys).map(&mut find).collect()
}

#[test]
fn consistent_choices_follow_weights() {
    for policy in consistent_policies() {
        let mut lab = Lab::simple(policy, &[1, 2, 5]);
        let owners = owners(&mut lab, 40_000);
        for (id, share) in [(0, 0.125), (1, 0.25), (2, 0.625)] {
            let count = owners.iter().filter(|o| **o == id).count() as f64 / 40_000.0;
            // A ring of 1,024 points: the share of a host with k points deviates by about 1/sqrt(k).
            assert!((count / share - 1.0).abs() < 0.35, "{policy:?}: host {id} has {count}");
        }
    }
}

#[test]
fn a_host_that_refused_stands_for_others() {
    for policy in consistent_policies() {
        let mut lab = Lab::simple(policy, &[1, 1, 1]);
        let first = owners(&mut lab, 200);
        for (key, owner) in first.into_iter().enumerate() {
            let hash = Some(crate::hash::xx_hash(&(key as u64).to_le_bytes()));
            let wanted = Wanted { avoid: Avoid { attempts: 50, priorities: PrioritySet::EMPTY }, hash };
            let pick = |lab: &mut Lab| lab.picker.pick(0, &mut lab.rng, wanted, |h| h.id == owner).unwrap().host.id;
            let second = pick(&mut lab);
            assert_ne!(second, owner, "{policy:?}");
            assert_eq!(pick(&mut lab), second, "the same request goes the same way");
        }
    }
}

#[test]
fn without_a_hash_a_consistent_choice_is_random() {
    for policy in consistent_policies() {
        let counts = Lab::simple(policy, &[1, 1, 1]).counts(3000);
        assert!(counts.iter().all(|c| *c > 600), "{policy:?} {counts:?}");
    }
}

#[test]
fn consistent_choices_by_weighted_localities() {
    for policy in consistent_policies() {
        let mut lab = Lab::new(policy, 50, &[(0, Some(80), &[1, 1]), (0, Some(20), &[1, 1]), (0, None, &[1])]);
        let owners = owners(&mut lab, 20_000);
        let first = owners.iter().filter(|o| **o < 2).count();
        assert!((15_000..17_000).contains(&first), "{policy:?} {first}");
        assert!(!owners.contains(&4), "a locality without weight gets nothing");
    }
}

#[test]
fn workers_share_a_table() {
    let mut lab = Lab::simple(LbPolicy::Maglev(MaglevTableSize::default()), &[1, 1, 1]);
    let mut other = Picker::new(lab.picker.set().clone());
    lab.pick();
    other.pick(0, &mut lab.rng, Avoid::NOTHING, |_| false);
    let table = |picker: &Picker<Rc<Host>>| picker.priorities[0].table.clone().unwrap();
    assert!(Arc::ptr_eq(&table(&lab.picker), &table(&other)));
    lab.set_usable(&[0], false);
    lab.pick();
    assert!(!Arc::ptr_eq(&table(&lab.picker), &table(&other)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// When one of n hosts leaves, its keys move, and with Maglev a few others; with a ring no other.
    #[test]
    fn one_nth_of_the_keys_moves(n in 2usize..20, gone in 0usize..20, maglev in any::<bool>()) {
        let gone = gone % n;
        let policy = consistent_policies()[usize::from(maglev)];
        let mut lab = Lab::new(policy, 0, &[(0, None, &vec![1; n])]);
        let keys = 4000;
        let before = owners(&mut lab, keys);
        lab.set_usable(&[gone], false);
        let after = owners(&mut lab, keys);
        let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count() as f64 / keys as f64;
        let others = before.iter().zip(&after).filter(|(a, b)| a != b && **a != gone).count() as f64 / keys as f64;
        prop_assert!(!after.contains(&gone));
        let share = 1.0 / n as f64;
        if maglev {
            prop_assert!(others < 0.08, "{others} of the keys of hosts that stay moved");
            prop_assert!(moved > share * 0.8 && moved < share * 1.2 + 0.08, "{moved} of {share}");
        } else {
            // The ring keeps its size: each host that stays gets more points, and of four hosts an eighth of the keys moves to them.
            prop_assert!(others < 0.17, "{others} of the keys of hosts that stay moved");
            prop_assert!(moved > share * 0.5 && moved < share * 1.7 + 0.10, "{moved} of {share}");
        }
        lab.set_usable(&[gone], true);
        prop_assert_eq!(owners(&mut lab, keys), before, "a host that comes back has its keys again");
    }
}
