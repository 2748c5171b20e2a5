//! Consistent choices: tables in which a hash finds its host, so that hosts that come or go move few of the others' keys.
//!
//! Both tables are filled exactly as Envoy fills its own, from the hosts' addresses as text, so that a mesh of both kinds of
//! proxies agrees on the host of a key.

use crate::hash::{xx_hash, xx_hash_seeded};
use lateen_model::dataplane::{LbPolicy, RingSize};

/// A host and its share of the keys.
#[derive(Clone, Debug)]
pub(super) struct Share {
    /// Index into the set.
    pub(super) host: usize,
    /// Of all hosts together: 1.
    pub(super) share: f64,
    /// The host's address as text.
    pub(super) key: String,
}

/// Where a hash leads.
#[derive(Debug)]
pub(super) enum Table {
    /// Points on a ring, in order; a hash leads to the next one (ketama).
    Ring(Vec<(u64, usize)>),
    /// A prime number of places (Maglev).
    Maglev(Vec<usize>),
}

impl Table {
    /// Fills a table; `None` without hosts, or if the policy needs none.
    pub(super) fn build(policy: LbPolicy, hosts: &[Share]) -> Option<Self> {
        if hosts.is_empty() {
            return None;
        }
        match policy {
            LbPolicy::RingHash(size) => Some(Self::Ring(ring(hosts, size))),
            LbPolicy::Maglev(size) => Some(Self::Maglev(maglev(hosts, size.get() as usize))),
            LbPolicy::RoundRobin | LbPolicy::LeastRequest | LbPolicy::Random | LbPolicy::ClusterProvided => None,
        }
    }

    /// The host of a hash. `attempt` counts hosts that were refused: the next place on the ring, or another place of the
    /// Maglev table, which is not always another host.
    pub(super) fn find(&self, hash: u64, attempt: u32) -> Option<usize> {
        match self {
            Self::Ring(points) => {
                let next = points.partition_point(|(point, _)| *point < hash);
                let at = (next % points.len() + attempt as usize) % points.len();
                points.get(at).map(|(_, host)| *host)
            }
            Self::Maglev(places) => {
                let hash = if attempt == 0 { hash } else { hash ^ u64::MAX.wrapping_sub(u64::from(attempt)).wrapping_add(1) };
                let at = hash % places.len() as u64;
                places.get(usize::try_from(at).ok()?).copied()
            }
        }
    }
}

/// Each host gets points in proportion to its share, the least at least one; all together at least `minimum` where `maximum`
/// leaves room. Fractions of points are carried over from host to host.
fn ring(hosts: &[Share], size: RingSize) -> Vec<(u64, usize)> {
    let least = hosts.iter().map(|h| h.share).fold(1.0, f64::min);
    let scale = ((least * f64::from(size.minimum())).ceil() / least).min(f64::from(size.maximum()));
    let mut points = Vec::new();
    let (mut made, mut wanted) = (0.0, 0.0);
    for host in hosts {
        wanted += scale * host.share;
        let mut i = 0_u64;
        while made < wanted {
            points.push((xx_hash(format!("{}_{i}", host.key).as_bytes()), host.host));
            i += 1;
            made += 1.0;
        }
    }
    points.sort_by_key(|(point, _)| *point);
    points
}

/// Listing 1 of the Maglev paper (Eisenbud et al., NSDI 2016), with weights: a host takes its turn in proportion to its share.
fn maglev(hosts: &[Share], size: usize) -> Vec<usize> {
    struct Turn {
        host: usize,
        offset: usize,
        skip: usize,
        next: usize,
        share: f64,
        due: f64,
    }
    let most = hosts.iter().map(|h| h.share).fold(0.0, f64::max);
    // The order of turns decides who gets a contested place: it must not depend on the order of the endpoints.
    let mut sorted: Vec<&Share> = hosts.iter().collect();
    sorted.sort_by(|a, b| a.key.cmp(&b.key));
    let modulo = |hash: u64, n: usize| usize::try_from(hash % n as u64).unwrap_or(0);
    let turn = |host: &&Share| Turn {
        host: host.host,
        offset: modulo(xx_hash(host.key.as_bytes()), size),
        skip: modulo(xx_hash_seeded(host.key.as_bytes(), 1), size - 1) + 1,
        next: 0,
        share: host.share,
        due: 0.0,
    };
    let mut turns: Vec<Turn> = sorted.iter().map(turn).collect();
    let mut places = vec![usize::MAX; size];
    let (mut filled, mut round) = (0, 1.0_f64);
    while filled < size {
        for turn in &mut turns {
            if filled == size {
                break;
            }
            if round * turn.share < turn.due {
                continue;
            }
            turn.due += most;
            let place = |turn: &Turn| (turn.offset + turn.skip * turn.next) % size;
            while places[place(turn)] != usize::MAX {
                turn.next += 1;
            }
            places[place(turn)] = turn.host;
            turn.next += 1;
            filled += 1;
        }
        round += 1.0;
    }
    places
}
