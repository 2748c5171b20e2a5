//! Which locality a request goes to where the own one comes first: Envoy's arithmetic, in ten-thousandths.
//!
//! All proxies of a workload together are to load the endpoints of another one equally. A proxy in a locality that has a larger
//! part of those endpoints than of the proxies keeps all of its requests there. Where the part is smaller, only as many stay as it
//! can take, and the others go where endpoints have room beside the requests of their own proxies.

use lateen_model::dataplane::{Locality, ZoneAware};
use std::collections::BTreeMap;

/// Where the proxies of the own workload are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    own: Locality,
    proxies: BTreeMap<Locality, u64>,
}

impl Origin {
    /// For a proxy in `own`; each of the workload's proxies, itself included, is one of `proxies`.
    pub fn new(own: Locality, proxies: impl IntoIterator<Item = Locality>) -> Self {
        let mut counts = BTreeMap::new();
        for locality in proxies {
            *counts.entry(locality).or_insert(0) += 1;
        }
        Self { own, proxies: counts }
    }
}

/// The whole, in the unit of parts.
const WHOLE: u64 = 10_000;

/// What is done with requests of the first priority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Routing {
    /// The share of requests that this holds for, in percent.
    percent: u8,
    /// The own locality's index, and how much of the requests it takes.
    own: Option<(usize, u64)>,
    /// The room of other localities, summed up.
    room: Vec<u64>,
}

impl Routing {
    /// For localities of which each has so many usable hosts. `None` if localities do not matter: there are too few of endpoints
    /// or of proxies, or the own proxy is not among the latter.
    pub(super) fn new(settings: ZoneAware, origin: &Origin, localities: &[(&Locality, usize)]) -> Option<Self> {
        let total: u64 = localities.iter().map(|(_, usable)| *usable as u64).sum();
        let known = origin.proxies.len() >= 2 && origin.proxies.contains_key(&origin.own);
        if settings.routing_percent == 0 || localities.len() < 2 || !known || total < settings.min_cluster_size || total == 0 {
            return None;
        }
        let proxies: u64 = origin.proxies.values().sum();
        // Of a locality without usable hosts it does not matter how many proxies are there.
        let parts = |(locality, usable): &(&Locality, usize)| match *usable as u64 {
            0 => (0, 0),
            usable => (WHOLE * origin.proxies.get(*locality).unwrap_or(&0) / proxies, WHOLE * usable / total),
        };
        let parts: Vec<(u64, u64)> = localities.iter().map(parts).collect();
        let own = localities.iter().position(|(locality, _)| **locality == origin.own);
        let kept = own.map(|at| match parts[at] {
            (of_proxies, of_hosts) if of_hosts > 0 && of_hosts >= of_proxies => (at, WHOLE),
            (0, _) => (at, 0),
            (of_proxies, of_hosts) => (at, of_hosts * WHOLE / of_proxies),
        });
        let mut sum = 0;
        let add = |(at, (of_proxies, of_hosts)): (usize, &(u64, u64))| {
            if own != Some(at) {
                sum += of_hosts.saturating_sub(*of_proxies);
            }
            sum
        };
        let room = parts.iter().enumerate().map(add).collect();
        Some(Self { percent: settings.routing_percent, own: kept, room })
    }

    /// The index of a locality, or `None`: any host of the priority. `random` gives a number below another one.
    pub(super) fn choose(&self, mut random: impl FnMut(u64) -> u64) -> Option<usize> {
        if self.percent < 100 && random(100) >= u64::from(self.percent) {
            return None;
        }
        if let Some((own, kept)) = self.own
            && (kept == WHOLE || random(WHOLE) < kept)
        {
            return Some(own);
        }
        // Without any room, which only rounding makes, any host.
        let all = self.room.last().copied().filter(|all| *all > 0)?;
        let at = random(all);
        Some(self.room.partition_point(|sum| *sum <= at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    fn place(zone: u8) -> Locality {
        Locality { region: "eu".into(), zone: char::from(b'a' + zone).to_string(), sub_zone: String::new() }
    }

    /// Proxies and usable hosts by zone; the own proxy is in the first.
    fn routing(settings: ZoneAware, proxies: &[usize], usable: &[usize]) -> Option<Routing> {
        let places: Vec<Locality> = (0..).take(usable.len().max(proxies.len())).map(place).collect();
        let all = proxies.iter().zip(&places).flat_map(|(n, place)| std::iter::repeat_n(place.clone(), *n));
        let origin = Origin::new(place(0), all);
        let localities: Vec<_> = places.iter().zip(usable.iter().copied()).collect();
        Routing::new(settings, &origin, &localities)
    }

    const ANY_SIZE: ZoneAware = ZoneAware { routing_percent: 100, min_cluster_size: 1 };

    /// Shares of zones in hundredths; empty if zones do not matter.
    fn shares(settings: ZoneAware, proxies: &[usize], usable: &[usize]) -> Vec<u32> {
        let mut rng = SmallRng::seed_from_u64(1);
        let Some(routing) = routing(settings, proxies, usable) else { return Vec::new() };
        let mut counts = vec![0_u32; usable.len()];
        for _ in 0..20_000 {
            counts[routing.choose(|n| rng.random_range(0..n)).expect("a zone")] += 1;
        }
        counts.into_iter().map(|count| (count + 100) / 200).collect()
    }

    #[test]
    fn as_documented() {
        for (proxies, usable, expected) in [
            // As many proxies as endpoints, or fewer: all stay.
            (&[1, 1][..], &[1, 1][..], &[100, 0][..]),
            (&[1, 1], &[3, 1], &[100, 0]),
            (&[2, 2, 1], &[2, 1, 1], &[100, 0, 0]),
            // Half of the proxies and a quarter of the endpoints: half of the requests stay.
            (&[1, 1], &[1, 3], &[50, 50]),
            // The example of Envoy's documentation: 40, 40 and 20 % of proxies for 25, 50 and 25 %.
            (&[2, 2, 1], &[1, 2, 1], &[63, 25, 13]),
            // None here: by room.
            (&[2, 0, 0], &[0, 1, 3], &[]),
            (&[1, 1, 0, 0], &[0, 0, 1, 3], &[0, 0, 25, 75]),
        ] {
            let got = shares(ANY_SIZE, proxies, usable);
            let near = got.len() == expected.len() && got.iter().zip(expected).all(|(a, b)| a.abs_diff(*b) <= 2);
            assert!(near, "{proxies:?} {usable:?}: {got:?}");
        }
    }

    #[test]
    fn when_zones_do_not_matter() {
        let sized = |min_cluster_size| ZoneAware { routing_percent: 100, min_cluster_size };
        for (settings, proxies, usable, matter) in [
            (sized(6), &[1, 1][..], &[3, 3][..], true),
            (sized(6), &[1, 1], &[3, 2], false),
            (ZoneAware::OFF, &[1, 1], &[9, 9], false),
            // One zone of endpoints, one zone of proxies, the own proxy not among them.
            (ANY_SIZE, &[1, 1], &[9], false),
            (ANY_SIZE, &[3], &[3, 3], false),
            (ANY_SIZE, &[0, 1, 1], &[3, 3, 3], false),
            (ANY_SIZE, &[1, 1], &[0, 0], false),
        ] {
            assert_eq!(routing(settings, proxies, usable).is_some(), matter, "{settings:?} {proxies:?} {usable:?}");
        }
        let mut rng = SmallRng::seed_from_u64(1);
        let half = routing(ZoneAware { routing_percent: 50, min_cluster_size: 1 }, &[1, 1], &[1, 1]).expect("zones");
        let anywhere = (0..2000).filter(|_| half.choose(|n| rng.random_range(0..n)).is_none()).count();
        assert!((800..1200).contains(&anywhere), "{anywhere}");
    }

    proptest! {
        /// A zone that is chosen has a usable host.
        #[test]
        fn only_where_hosts_are(proxies in prop::collection::vec(0usize..5, 1..5), usable in prop::collection::vec(0usize..5, 2..6), seed in any::<u64>()) {
            let mut rng = SmallRng::seed_from_u64(seed);
            if let Some(routing) = routing(ANY_SIZE, &proxies, &usable) {
                for _ in 0..50 {
                    if let Some(at) = routing.choose(|n| rng.random_range(0..n)) {
                        prop_assert!(usable[at] > 0, "{} of {:?}", at, usable);
                    }
                }
            }
        }

        /// If each zone's proxies send the same, each endpoint gets the same, but for rounding.
        #[test]
        fn endpoints_are_loaded_equally(proxies in prop::collection::vec(1usize..5, 2..5), usable in prop::collection::vec(1usize..9, 2..5)) {
            let n = proxies.len().min(usable.len());
            let (proxies, usable) = (&proxies[..n], &usable[..n]);
            let mut rng = SmallRng::seed_from_u64(7);
            let mut load = vec![0_u32; n];
            for zone in 0..n {
                // The zone of the own proxy comes first in `routing`.
                let turned = |list: &[usize]| list[zone..].iter().chain(&list[..zone]).copied().collect::<Vec<_>>();
                let routing = routing(ANY_SIZE, &turned(proxies), &turned(usable)).expect("zones");
                for _ in 0..3000 * proxies[zone] {
                    if let Some(at) = routing.choose(|n| rng.random_range(0..n)) {
                        load[(at + zone) % n] += 1;
                    }
                }
            }
            let (sent, hosts): (usize, usize) = (3000 * proxies.iter().sum::<usize>(), usable.iter().sum());
            for (zone, load) in load.into_iter().enumerate() {
                let fair = (sent * usable[zone]) as f64 / hosts as f64;
                prop_assert!((f64::from(load) / fair - 1.0).abs() < 0.12, "zone {}: {} for {}", zone, load, fair);
            }
        }
    }
}
