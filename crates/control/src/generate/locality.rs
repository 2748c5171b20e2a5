//! Which endpoints a client prefers by where they are, and how load is shared by places (`localityLbSetting`).
//!
//! (`zoneAwareLbSetting`: proxies balance by zones themselves, and regions stand in for each other.)
//!
//! Of several settings the DestinationRule's counts, else the service's own `trafficDistribution` (or its namespace's), else the mesh's. Shares
//! (`distribute`) hold always, and so does what a service says of itself. The order in which rules let places stand in for each
//! other holds only with outlier detection, without which a proxy would leave the first of them only when it is empty.

use super::destination::Policy;
use super::proxy::Proxy;
use crate::world::place::{REGION, SUBZONE, ZONE, of_text};
use crate::world::{Service, World};
use lateen_model::dataplane::{Locality, ZoneAware};
use lateen_model::resource::{
    LocalityDistribute, LocalityFailover, LocalityLbSetting, StringMap, TrafficDistribution, ZoneAwareLbSetting,
};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// What of a proxy decides about its preferences: proxies that are equal here prefer the same endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Client {
    locality: Locality,
    labels: StringMap,
}

#[cfg(test)]
impl Client {
    /// A client at this place with these labels.
    pub(super) fn new(locality: Locality, labels: StringMap) -> Self {
        Self { locality, labels }
    }
}

/// What holds for the endpoints of a cluster.
#[derive(Clone, Copy, Debug, Default)]
pub enum Preference<'a> {
    /// All are alike.
    #[default]
    None,
    /// Places have shares.
    Distribute(&'a [LocalityDistribute]),
    /// Places stand in for each other.
    Failover {
        /// Labels that should be as the client's, the most important first.
        labels: &'a [String],
        /// By places, after the labels if there are any; `None` not.
        regions: Option<&'a [LocalityFailover]>,
    },
    /// Regions stand in for each other; the proxies themselves balance by zones.
    ZoneAware(&'a ZoneAwareLbSetting),
}

/// An endpoint and what decides about its place.
#[derive(Debug)]
pub struct Placed<'a, E> {
    /// Where it is.
    pub locality: Locality,
    /// Its labels.
    pub labels: &'a StringMap,
    /// Its share.
    pub weight: u32,
    /// Itself.
    pub endpoint: E,
}

/// Endpoints of one place and priority.
#[derive(Debug, PartialEq, Eq)]
pub struct Group<E> {
    /// Where they are.
    pub locality: Locality,
    /// 0 is the highest, without gaps.
    pub priority: u32,
    /// The place's share; only where places have shares.
    pub weight: Option<u32>,
    /// Themselves, in the order in which they came.
    pub endpoints: Vec<E>,
}

impl<'a> Preference<'a> {
    /// What the rules of a cluster say, where they are silent the service, and then the mesh.
    pub fn of(world: &'a World, service: &Service, policy: &Policy<'a>) -> Self {
        let balancer = policy.load_balancer;
        if let Some(setting) = balancer.and_then(|l| l.zone_aware_lb_setting.as_ref()) {
            return Self::zone_aware(setting);
        }
        let written = balancer.and_then(|l| l.locality_lb_setting.as_ref());
        let of_namespace = || world.namespace(&service.namespace)?.traffic_distribution;
        if let Some(distribution) = service.traffic_distribution.or_else(of_namespace).filter(|_| written.is_none()) {
            let labels = match distribution {
                TrafficDistribution::PreferClose | TrafficDistribution::PreferSameZone => &NEAR[..3],
                TrafficDistribution::PreferSameNode => &NEAR[..],
            };
            return Self::Failover { labels, regions: None };
        }
        if let Some(setting) =
            world.mesh().zone_aware_lb_setting.as_ref().filter(|s| written.is_none() && s.enabled != Some(false))
        {
            return Self::ZoneAware(setting);
        }
        let setting = match written.or(world.mesh().locality_lb_setting.as_ref()) {
            Some(setting) if setting.enabled == Some(false) => return Self::None,
            Some(setting) => setting,
            None => &DEFAULT,
        };
        if !setting.distribute.is_empty() {
            return Self::Distribute(&setting.distribute);
        }
        if policy.outlier_detection.is_none() {
            return Self::None;
        }
        // Without labels places count even if nothing is said of them.
        let regions = (setting.failover_priority.is_empty() || !setting.failover.is_empty()).then_some(&*setting.failover);
        Self::Failover { labels: &setting.failover_priority, regions }
    }

    fn zone_aware(setting: &'a ZoneAwareLbSetting) -> Self {
        if setting.enabled == Some(false) { Self::None } else { Self::ZoneAware(setting) }
    }

    /// How the proxy balances by zones; only one that knows its [`lateen_model::dataplane::LOCAL_CLUSTER`] can.
    pub fn by_zones(&self) -> ZoneAware {
        match self {
            Self::ZoneAware(setting) => ZoneAware {
                routing_percent: 100,
                min_cluster_size: setting.min_cluster_size.map_or(ZoneAware::DEFAULT_MIN_CLUSTER_SIZE, u64::from),
            },
            Self::None | Self::Distribute(_) | Self::Failover { .. } => ZoneAware::OFF,
        }
    }

    /// Whether places have shares.
    pub fn is_weighted(&self) -> bool {
        matches!(self, Self::Distribute(_))
    }

    /// What of a proxy counts here.
    pub fn client(&self, proxy: &Proxy) -> Client {
        match self {
            Self::None => Client::default(),
            Self::Distribute(_) => Client { locality: proxy.locality.clone(), labels: StringMap::new() },
            Self::Failover { labels, .. } => Self::own_labels(labels, proxy),
            Self::ZoneAware(setting) => Self::own_labels(&setting.failover_priority, proxy),
        }
    }

    fn own_labels(labels: &[String], proxy: &Proxy) -> Client {
        let keys = labels.iter().filter(|l| !l.contains('='));
        let label = |key: &String| Some((key.clone(), proxy.labels.get(key)?.clone()));
        Client { locality: proxy.locality.clone(), labels: keys.filter_map(label).collect() }
    }

    /// Endpoints by place and priority, as this client prefers them.
    pub fn arrange<E>(&self, client: &Client, endpoints: Vec<Placed<'_, E>>) -> Vec<Group<E>> {
        match self {
            Self::None => gather(endpoints, |_| 0),
            Self::Distribute(rules) => share(rules, client, endpoints),
            Self::Failover { labels, regions } => gather(endpoints, |e| {
                // No more than five by places, which come second.
                5 * by_labels(labels, client, e) + regions.map_or(0, |r| by_place(r, &client.locality, &e.locality))
            }),
            Self::ZoneAware(setting) => gather(endpoints, |e| {
                3 * by_labels(&setting.failover_priority, client, e) + by_region(&setting.failover, &client.locality, &e.locality)
            }),
        }
    }
}

/// What the clients of a service have in common with its near endpoints; the first three are those of one zone.
static NEAR: LazyLock<[String; 5]> =
    LazyLock::new(|| ["topology.istio.io/network", REGION, ZONE, SUBZONE, "kubernetes.io/hostname"].map(str::to_owned));

/// What the mesh does where nothing is written.
static DEFAULT: LocalityLbSetting =
    LocalityLbSetting { distribute: Vec::new(), failover: Vec::new(), failover_priority: Vec::new(), enabled: None };

fn gather<E>(endpoints: Vec<Placed<'_, E>>, rank: impl Fn(&Placed<'_, E>) -> u32) -> Vec<Group<E>> {
    let mut groups: BTreeMap<(u32, Locality), Vec<E>> = BTreeMap::new();
    for placed in endpoints {
        groups.entry((rank(&placed), placed.locality)).or_default().push(placed.endpoint);
    }
    let mut ranks: Vec<u32> = groups.keys().map(|(rank, _)| *rank).collect();
    ranks.dedup();
    let priority = |rank: u32| u32::try_from(ranks.partition_point(|r| *r < rank)).unwrap_or(u32::MAX);
    let group = |((rank, locality), endpoints)| Group { locality, priority: priority(rank), weight: None, endpoints };
    groups.into_iter().map(group).collect()
}

/// How many labels there are from the first that differs on; 0 if none differs.
fn by_labels<E>(labels: &[String], client: &Client, endpoint: &Placed<'_, E>) -> u32 {
    let differs = |label: &String| {
        let (key, wanted) = match label.split_once('=') {
            Some((key, value)) => (key, value),
            None => (label.as_str(), value_of(label, &client.locality, &client.labels)),
        };
        wanted != value_of(key, &endpoint.locality, endpoint.labels)
    };
    let at = labels.iter().position(differs).unwrap_or(labels.len());
    u32::try_from(labels.len() - at).unwrap_or(u32::MAX)
}

/// A label; those of places follow from the place, wherever that is written.
fn value_of<'a>(key: &str, locality: &'a Locality, labels: &'a StringMap) -> &'a str {
    let of_place = match key {
        REGION => &locality.region,
        ZONE => &locality.zone,
        SUBZONE => &locality.sub_zone,
        _ => "",
    };
    if of_place.is_empty() { labels.get(key).map_or("", String::as_str) } else { of_place }
}

/// 0: the same place; 1: the same zone; 2: the same region; 3: another; 4: another, while the client's region has one that
/// stands in for it.
fn by_place(failover: &[LocalityFailover], client: &Locality, endpoint: &Locality) -> u32 {
    if client.region == endpoint.region {
        return match (client.zone == endpoint.zone, client.sub_zone == endpoint.sub_zone) {
            (true, true) => 0,
            (true, false) => 1,
            (false, _) => 2,
        };
    }
    let stands_in = failover.iter().find(|f| f.from == client.region).is_none_or(|f| f.to == endpoint.region);
    if stands_in { 3 } else { 4 }
}

/// 0: the same region; 1: another; 2: another, while the client's region has one that stands in for it.
fn by_region(failover: &[LocalityFailover], client: &Locality, endpoint: &Locality) -> u32 {
    // As by places, where 0 to 2 are within a region.
    by_place(failover, client, endpoint).saturating_sub(2)
}

/// Shares of places: of the first rule for the client's place. What it does not name gets nothing. Without a rule for the
/// client places share by their endpoints' weights.
fn share<E>(rules: &[LocalityDistribute], client: &Client, endpoints: Vec<Placed<'_, E>>) -> Vec<Group<E>> {
    let mut own: BTreeMap<Locality, u64> = BTreeMap::new();
    for placed in &endpoints {
        *own.entry(placed.locality.clone()).or_default() += u64::from(placed.weight);
    }
    let mut groups = gather(endpoints, |_| 0);
    let whole = |weight: u64| Some(u32::try_from(weight).unwrap_or(u32::MAX));
    let Some(rule) = rules.iter().find(|r| covers(&r.from, &client.locality)) else {
        groups.iter_mut().for_each(|g| g.weight = whole(own[&g.locality]));
        return groups;
    };
    for (pattern, share) in &rule.to {
        let total: u64 = own.iter().filter(|(place, _)| covers(pattern, place)).map(|(_, weight)| weight).sum();
        for group in groups.iter_mut().filter(|g| g.weight.is_none() && covers(pattern, &g.locality)) {
            group.weight = whole((own[&group.locality] * u64::from(*share)).div_ceil(total));
        }
    }
    groups.retain(|g| g.weight.is_some());
    groups
}

/// Whether a pattern `REGION/ZONE/SUBZONE`, of which `*` and what is missing fit all, covers a place.
fn covers(pattern: &str, place: &Locality) -> bool {
    let wanted = of_text(pattern);
    let fits = |pattern: &str, part: &str| pattern == "*" || pattern == part;
    fits(&wanted.region, &place.region)
        && (wanted.zone.is_empty() || fits(&wanted.zone, &place.zone))
        && (wanted.sub_zone.is_empty() || fits(&wanted.sub_zone, &place.sub_zone))
}
