//! Which endpoint gets the next request.
//!
//! A [`HostSet`] is the immutable list of a cluster's hosts by priority and locality, shared by all workers. A [`Picker`] is one
//! worker's own state: lists of usable hosts, which are made anew only when the *health epoch* changes, and cursors. A pick is
//! then: choose a priority by load, a locality by weight, a host by policy; constant time, or logarithmic where weights differ.
//!
//! Priorities, panic and locality weights follow Envoy's documented arithmetic (see [`priority`]). Two things are our own: the
//! random policy respects weights, and a round robin over equal weights keeps its place when health changes.

mod consistent;
mod edf;
mod hosts;
pub mod priority;
pub mod slow_start;
#[cfg(test)]
mod tests;
pub mod zone;

use crate::retry::PrioritySet;
use consistent::{Share, Table};
use hosts::{HostList, Rules};
use lateen_model::dataplane::{
    Cluster, ClusterLoadAssignment, Endpoint, LbPolicy, Locality, LocalityEndpoints, SlowStart, ZoneAware,
};
use priority::{Availability, Plan};
use rand::Rng;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use zone::{Origin, Routing};

/// What a policy asks of a host.
pub trait HostView {
    /// Load-balancing weight; 0 counts as 1.
    fn weight(&self) -> u32;

    /// Requests (or connections) that it serves now, for least-request.
    fn active_requests(&self) -> u32;

    /// Whether new requests may go there: healthy for the control plane, not draining and not ejected.
    fn is_usable(&self) -> bool;

    /// What a consistent choice knows it by: its address and port as text.
    fn hash_key(&self) -> String;

    /// When it came into the cluster, on the clock of [`Moment::now`].
    fn joined(&self) -> Duration;
}

impl<T: HostView + ?Sized> HostView for Arc<T> {
    fn weight(&self) -> u32 {
        (**self).weight()
    }

    fn active_requests(&self) -> u32 {
        (**self).active_requests()
    }

    fn is_usable(&self) -> bool {
        (**self).is_usable()
    }

    fn hash_key(&self) -> String {
        (**self).hash_key()
    }

    fn joined(&self) -> Duration {
        (**self).joined()
    }
}

/// How hosts are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BalanceSettings {
    /// The policy. [`LbPolicy::ClusterProvided`] has no list to choose from and is treated as round robin.
    pub policy: LbPolicy,
    /// Below this percentage of usable hosts all hosts of a priority are used; 0 never.
    pub panic_threshold: u8,
    /// Whether localities are chosen by their weights (`locality_weighted_lb_config`).
    pub weighted_localities: bool,
    /// How new hosts are chosen less at first; only with round robin and least request.
    pub slow_start: Option<SlowStart>,
    /// Whether the own locality comes first, among those of the first priority; needs [`Picker::come_from`].
    pub zone_aware: Option<ZoneAware>,
}

impl BalanceSettings {
    /// Envoy's `healthy_panic_threshold` where it is not set.
    pub const DEFAULT_PANIC_THRESHOLD: u8 = 50;

    /// The settings of a cluster.
    pub fn of(cluster: &Cluster) -> Self {
        Self {
            policy: cluster.lb_policy,
            panic_threshold: cluster.healthy_panic_threshold.unwrap_or(Self::DEFAULT_PANIC_THRESHOLD),
            weighted_localities: cluster.weighted_localities.is_some(),
            slow_start: cluster.slow_start,
            zone_aware: cluster.zone_aware,
        }
    }
}

/// The hosts of one locality at one priority.
#[derive(Clone, Debug)]
pub struct HostGroup<H> {
    /// 0 is the highest.
    pub priority: u32,
    /// Weight of the locality; only with [`BalanceSettings::weighted_localities`], where a locality without weight gets nothing.
    pub weight: Option<u32>,
    /// Where they are; of meaning only with [`BalanceSettings::zone_aware`].
    pub locality: Locality,
    /// The hosts.
    pub hosts: Vec<H>,
}

/// The hosts of a cluster, shared by all workers.
#[derive(Debug)]
pub struct HostSet<H> {
    settings: BalanceSettings,
    /// By priority, then by locality.
    hosts: Vec<H>,
    priorities: Vec<PrioritySpan>,
    /// Tables of a consistent choice by position of the priority: made by one worker, used by all.
    tables: Mutex<HashMap<usize, (TableKey, Arc<Table>)>>,
}

/// What a table was made from: hosts and the bits of their shares.
type TableKey = Vec<(usize, u64)>;

#[derive(Debug)]
struct PrioritySpan {
    number: u32,
    hosts: Range<usize>,
    localities: Vec<LocalitySpan>,
}

#[derive(Debug)]
struct LocalitySpan {
    hosts: Range<usize>,
    weight: u32,
    place: Locality,
}

impl<H> HostSet<H> {
    /// Puts the groups in order of priority; groups of equal priority keep theirs.
    pub fn new(settings: BalanceSettings, mut groups: Vec<HostGroup<H>>) -> Self {
        groups.sort_by_key(|g| g.priority);
        let mut set = Self { settings, hosts: Vec::new(), priorities: Vec::new(), tables: Mutex::default() };
        for group in groups {
            let start = set.hosts.len();
            set.hosts.extend(group.hosts);
            let span = start..set.hosts.len();
            let locality = LocalitySpan { hosts: span.clone(), weight: group.weight.unwrap_or(0), place: group.locality };
            match set.priorities.last_mut() {
                Some(last) if last.number == group.priority => {
                    last.hosts.end = span.end;
                    last.localities.push(locality);
                }
                _ => set.priorities.push(PrioritySpan { number: group.priority, hosts: span, localities: vec![locality] }),
            }
        }
        set
    }

    /// The hosts of an assignment; `host` makes the handle of each endpoint (or finds the one that is there already, so that its
    /// health and its connections outlive the update).
    pub fn from_assignment(
        settings: BalanceSettings,
        assignment: &ClusterLoadAssignment,
        mut host: impl FnMut(&LocalityEndpoints, &Endpoint) -> H,
    ) -> Self {
        let group = |group: &LocalityEndpoints| HostGroup {
            priority: group.priority,
            weight: group.weight,
            locality: group.locality.clone(),
            hosts: group.endpoints.iter().map(|endpoint| host(group, endpoint)).collect(),
        };
        Self::new(settings, assignment.localities.iter().map(group).collect())
    }

    /// All hosts, by priority and locality.
    pub fn hosts(&self) -> &[H] {
        &self.hosts
    }

    /// How hosts are chosen.
    pub fn settings(&self) -> &BalanceSettings {
        &self.settings
    }
}

/// A chosen host.
#[derive(Debug, PartialEq, Eq)]
pub struct Pick<'a, H> {
    /// The host.
    pub host: &'a H,
    /// Its priority.
    pub priority: u32,
    /// Whether its priority is in panic, so that the host may be unusable.
    pub panic: bool,
}

/// What a pick should avoid.
#[derive(Clone, Copy, Debug)]
pub struct Avoid {
    /// How often another host is picked because `exclude` refused one; the last one is taken then.
    pub attempts: u32,
    /// Priorities that get no load as long as another one is available.
    pub priorities: PrioritySet,
}

impl Avoid {
    /// Nothing: the first pick of a request.
    pub const NOTHING: Self = Self { attempts: 0, priorities: PrioritySet::EMPTY };
}

/// What a pick goes by, besides the hosts.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// What to avoid.
    pub avoid: Avoid,
    /// The hash of the request ([`crate::hash`]), for consistent choices; without one they are random.
    pub hash: Option<u64>,
}

impl From<Avoid> for Wanted {
    fn from(avoid: Avoid) -> Self {
        Self { avoid, hash: None }
    }
}

/// When a pick happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Any number that changes when [`HostView::is_usable`] of some host may have changed
    /// ([`crate::outlier::Detector::epoch`]).
    pub epoch: u64,
    /// Time since an instant of the caller's choice that never changes; of no meaning without [`BalanceSettings::slow_start`].
    pub now: Duration,
}

impl From<u64> for Moment {
    fn from(epoch: u64) -> Self {
        Self { epoch, now: Duration::ZERO }
    }
}

/// One worker's state for one [`HostSet`].
#[derive(Debug)]
pub struct Picker<H> {
    set: Arc<HostSet<H>>,
    epoch: Option<u64>,
    /// When the last of the hosts that are new is so no more.
    warm: Option<Duration>,
    plan: Plan,
    priorities: Vec<PriorityState>,
    origin: Option<Arc<Origin>>,
}

/// Lists of one priority.
#[derive(Debug, Default)]
struct PriorityState {
    /// All usable hosts, or all hosts in panic.
    all: HostList,
    /// By locality, where localities count and there is no panic.
    localities: Vec<HostList>,
    /// Chooses one of `localities`.
    schedule: edf::Schedule,
    /// Chooses one of `localities` where the own one comes first.
    routing: Option<Routing>,
    /// For a consistent choice, instead of all others.
    table: Option<Arc<Table>>,
}

impl<H: HostView> Picker<H> {
    /// A worker's state that has seen nothing yet.
    pub fn new(set: Arc<HostSet<H>>) -> Self {
        let priorities = set.priorities.iter().map(|_| PriorityState::default()).collect();
        Self { set, epoch: None, warm: None, plan: Plan::default(), priorities, origin: None }
    }

    /// The hosts.
    pub fn set(&self) -> &Arc<HostSet<H>> {
        &self.set
    }

    /// Where the proxies of the own workload are, if that is known; lists are made anew if it is another object than before.
    pub fn come_from(&mut self, origin: Option<&Arc<Origin>>) {
        if self.origin.as_ref().map(Arc::as_ptr) != origin.map(Arc::as_ptr) {
            self.origin = origin.cloned();
            self.epoch = None;
        }
    }

    /// Chooses a host. Lists are made anew when the epoch is another one, and when no host is new any more. `exclude` says which
    /// hosts should not be taken again.
    ///
    /// `None`: no host (response flag `UH`).
    pub fn pick<G: Rng + ?Sized>(
        &mut self,
        at: impl Into<Moment>,
        rng: &mut G,
        wanted: impl Into<Wanted>,
        exclude: impl Fn(&H) -> bool,
    ) -> Option<Pick<'_, H>> {
        let Wanted { avoid, hash } = wanted.into();
        let moment = at.into();
        if self.epoch != Some(moment.epoch) || self.warm.is_some_and(|warm| moment.now >= warm) {
            self.refresh(moment.now, rng);
            self.epoch = Some(moment.epoch);
        }
        let mut attempts = avoid.attempts;
        let hash = self.set.settings.policy.is_consistent().then(|| hash.unwrap_or_else(|| rng.random()));
        let (at, index) = loop {
            let (at, index) = match hash {
                Some(hash) => self.find(hash, avoid.attempts - attempts)?,
                None => self.pick_once(moment.now, rng, avoid.priorities)?,
            };
            if attempts == 0 || !exclude(&self.set.hosts[index]) {
                break (at, index);
            }
            attempts -= 1;
        };
        let priority = self.set.priorities[at].number;
        Some(Pick { host: &self.set.hosts[index], priority, panic: self.plan.is_panic(at) })
    }

    /// A consistent choice: the hash decides the priority, too. As in Envoy, priorities that were tried are not avoided.
    fn find(&self, hash: u64, attempt: u32) -> Option<(usize, usize)> {
        let at = self.plan.choose(usize::try_from(hash % 100).unwrap_or(0));
        Some((at, self.priorities.get(at)?.table.as_ref()?.find(hash, attempt)?))
    }

    /// A position among the priorities and an index of a host.
    fn pick_once<G: Rng + ?Sized>(&mut self, now: Duration, rng: &mut G, avoided: PrioritySet) -> Option<(usize, usize)> {
        let set = &*self.set;
        let rules = set.rules(self.warm.is_some(), now);
        let at = if avoided.is_empty() {
            self.plan.choose(rng.random_range(0..100))
        } else {
            self.plan.choose_without(|i| avoided.contains(set.priorities[i].number), rng.random_range(0..100))
        };
        let state = self.priorities.get_mut(at)?;
        let locality = match &state.routing {
            Some(routing) => routing.choose(|n| rng.random_range(0..n)),
            None => state.schedule.next(),
        };
        let list = match locality {
            Some(locality) => &mut state.localities[locality],
            None => &mut state.all,
        };
        Some((at, list.pick(&rules, rng)?))
    }

    /// Makes the lists anew.
    fn refresh<G: Rng + ?Sized>(&mut self, now: Duration, rng: &mut G) {
        let set = &*self.set;
        self.warm = set.warm(now);
        let rules = set.rules(self.warm.is_some(), now);
        let usable = |range: &Range<usize>| range.clone().filter(|i| set.hosts[*i].is_usable()).collect::<Vec<usize>>();
        let lists: Vec<Vec<usize>> = set.priorities.iter().map(|p| usable(&p.hosts)).collect();
        let availability: Vec<Availability> =
            set.priorities.iter().zip(&lists).map(|(p, l)| Availability { hosts: p.hosts.len(), usable: l.len() }).collect();
        self.plan = Plan::new(&availability, set.settings.panic_threshold);
        for (i, ((span, usable_hosts), state)) in set.priorities.iter().zip(lists).zip(&mut self.priorities).enumerate() {
            let panic = self.plan.is_panic(i);
            if set.settings.policy.is_consistent() {
                state.table = set.table(i, panic);
                continue;
            }
            let list = if panic { span.hosts.clone().collect() } else { usable_hosts };
            state.all.replace(list, &rules, rng);
            state.localities.clear();
            state.schedule = edf::Schedule::default();
            state.routing = None;
            if panic {
                continue;
            }
            // Other priorities stand in for the first one, wherever they are.
            if let Some((settings, origin)) = set.settings.zone_aware.zip(self.origin.as_deref()).filter(|_| i == 0) {
                let places = span.places(usable);
                let sizes: Vec<(&Locality, usize)> = places.iter().map(|(place, hosts)| (*place, hosts.len())).collect();
                state.routing = Routing::new(settings, origin, &sizes);
                if state.routing.is_some() {
                    let list = |(_, hosts)| {
                        let mut list = HostList::default();
                        list.replace(hosts, &rules, rng);
                        list
                    };
                    state.localities = places.into_iter().map(list).collect();
                }
                continue;
            }
            if !set.settings.weighted_localities {
                continue;
            }
            let mut weights = Vec::with_capacity(span.localities.len());
            for LocalitySpan { hosts, weight, .. } in &span.localities {
                let list = usable(hosts);
                weights.push(priority::locality_weight(*weight, Availability { hosts: hosts.len(), usable: list.len() }));
                let mut locality = HostList::default();
                locality.replace(list, &rules, rng);
                state.localities.push(locality);
            }
            state.schedule = edf::Schedule::new(&weights, rng);
        }
    }
}

impl PrioritySpan {
    /// The usable hosts of each place.
    fn places(&self, usable: impl Fn(&Range<usize>) -> Vec<usize>) -> Vec<(&Locality, Vec<usize>)> {
        let mut places: Vec<(&Locality, Vec<usize>)> = Vec::new();
        for span in &self.localities {
            match places.iter_mut().find(|(place, _)| **place == span.place) {
                Some((_, hosts)) => hosts.extend(usable(&span.hosts)),
                None => places.push((&span.place, usable(&span.hosts))),
            }
        }
        places
    }
}

impl<H: HostView> HostSet<H> {
    /// When the last of the hosts that are new now is so no more; `None` if none is new.
    fn warm(&self, now: Duration) -> Option<Duration> {
        let window = self.settings.slow_start?.window();
        self.hosts.iter().map(|host| host.joined().saturating_add(window)).max().filter(|warm| now < *warm)
    }

    fn rules(&self, warming: bool, now: Duration) -> Rules<'_, H> {
        let slow_start = self.settings.slow_start.filter(|_| warming);
        Rules { policy: self.settings.policy, slow_start, now, hosts: &self.hosts }
    }

    /// The table of a priority, for the hosts that may be used now.
    fn table(&self, at: usize, panic: bool) -> Option<Arc<Table>> {
        let shares = self.shares(self.priorities.get(at)?, panic);
        let key: TableKey = shares.iter().map(|s| (s.host, s.share.to_bits())).collect();
        // A worker that failed while it held the lock has left whole tables behind.
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, table)) = tables.get(&at).filter(|(made_from, _)| *made_from == key) {
            return Some(table.clone());
        }
        let table = Arc::new(Table::build(self.settings.policy, &shares)?);
        tables.insert(at, (key, table.clone()));
        Some(table)
    }

    /// Each host's share of the keys: by weight, and where localities have weights, by theirs first.
    fn shares(&self, span: &PrioritySpan, panic: bool) -> Vec<Share> {
        let group = |hosts: &Range<usize>| hosts.clone().filter(|i| panic || self.hosts[*i].is_usable()).collect::<Vec<usize>>();
        let groups: Vec<(Vec<usize>, f64)> = if self.settings.weighted_localities {
            let groups = span.localities.iter().map(|span| (group(&span.hosts), span.weight));
            let groups: Vec<_> = groups.filter(|(hosts, weight)| !hosts.is_empty() && *weight > 0).collect();
            let total: f64 = groups.iter().map(|(_, weight)| f64::from(*weight)).sum();
            groups.into_iter().map(|(hosts, weight)| (hosts, f64::from(weight) / total)).collect()
        } else {
            vec![(group(&span.hosts), 1.0)]
        };
        let mut out = Vec::new();
        for (hosts, share) in groups {
            let weight = |i: usize| f64::from(self.hosts[i].weight().max(1));
            let total: f64 = hosts.iter().map(|i| weight(*i)).sum();
            out.extend(hosts.iter().map(|i| Share {
                host: *i,
                share: weight(*i) * share / total,
                key: self.hosts[*i].hash_key(),
            }));
        }
        out
    }
}
