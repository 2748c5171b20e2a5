//! Automatic scope: a proxy holds only what its workload calls, and learns the rest on demand.
//!
//! A small extension of delta xDS, between Lateen's control plane and Lateen's sidecars alone. A proxy that wants it says so in
//! its node's metadata ([`METADATA`]); to others nothing changes. Two types of resources are added:
//!
//! - **Index** (a wildcard subscription, sent before all else): which addresses and hosts the mesh has, as 32-bit hashes in
//!   [`SHARDS`] shards, so that a change sends little. What it does not have is unknown to the mesh, and the proxy treats it as such
//!   without asking anybody. A hash that is there by chance costs one question.
//! - **Lookup** (subscriptions by name): the proxy asks for `host/NAME` or `ip/ADDRESS`. From then on the wildcard subscriptions
//!   of clusters, listeners and names hold what belongs to it, and stay up to date, until it unsubscribes; endpoints and routes
//!   that the new clusters and listeners need are sent without being asked for. The answer comes after all of these, so that one
//!   round trip is enough. Nothing is answered as `removed_resources`.
//!
//! Envoy's own on-demand discovery (VHDS, ODCDS) asks for a virtual host, then for its cluster, then for its endpoints, and has
//! nothing for listeners: that is a round trip for each, while a request waits.

use prost::Message;
use std::net::IpAddr;

/// The metadata by which a sidecar asks for it (`StringBool`).
pub const METADATA: &str = "AUTOMATIC_SCOPE";

/// The metadata with the number of services up to which it does not: a sidecar that may know no more than so many when it connects
/// holds them all.
pub const METADATA_ABOVE: &str = "AUTOMATIC_SCOPE_ABOVE";

/// Into how many resources the index is divided.
pub const SHARDS: usize = 64;

/// One of the [`SHARDS`] parts of the index.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IndexShard {
    /// [`hash`]es of hosts and addresses whose hash falls into this shard, rising.
    #[prost(fixed32, repeated, tag = "1")]
    pub hashes: Vec<u32>,
    /// Wildcard hosts that do not begin with `*.`, without their `*`; in the first shard.
    #[prost(string, repeated, tag = "2")]
    pub suffixes: Vec<String>,
}

/// The answer to a question.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LookupAnswer {
    /// Hosts whose clusters serve what was asked for: as long as one of these is used, the answer is.
    #[prost(string, repeated, tag = "1")]
    pub hosts: Vec<String>,
}

/// The shard of a hash.
pub fn shard_of(hash: u32) -> usize {
    // The lower bits: FNV mixes those best.
    hash as usize % SHARDS
}

/// The hash of a host in lower case, of a wildcard's suffix with its dot (`.example.com`), or of an address as text (FNV-1a).
pub fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Question {
    /// A host, in lower case and without a dot at its end.
    Host(String),
    /// An address.
    Ip(IpAddr),
}

impl Question {
    /// The name of the resource.
    pub fn name(&self) -> String {
        match self {
            Self::Host(host) => format!("host/{host}"),
            Self::Ip(ip) => format!("ip/{ip}"),
        }
    }

    /// Reads a resource's name; `None` if it is none of a question.
    pub fn parse(name: &str) -> Option<Self> {
        match name.split_once('/')? {
            ("host", host) if !host.is_empty() => Some(Self::Host(host.to_owned())),
            ("ip", ip) => ip.parse().ok().map(Self::Ip),
            _ => None,
        }
    }

    /// What a host asks for: an address where it is one.
    pub fn of_host(host: &str) -> Self {
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        match bare.parse() {
            Ok(ip) => Self::Ip(ip),
            Err(_) => Self::Host(host.trim_end_matches('.').to_ascii_lowercase()),
        }
    }
}

/// The index as a proxy holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    shards: Vec<Box<[u32]>>,
    suffixes: Vec<String>,
}

impl Index {
    /// With one shard replaced.
    ///
    /// # Errors
    /// The name is no shard's, or the message is none.
    pub fn with(&self, name: &str, body: &[u8]) -> Result<Self, String> {
        let number: usize =
            name.parse().ok().filter(|n| *n < SHARDS).ok_or_else(|| format!("{name:?} is not a number below {SHARDS}"))?;
        let IndexShard { mut hashes, suffixes } = IndexShard::decode(body).map_err(|e| e.to_string())?;
        hashes.sort_unstable();
        let mut next = self.clone();
        next.shards.resize(SHARDS, Box::default());
        next.shards[number] = hashes.into();
        if number == 0 {
            next.suffixes = suffixes;
        }
        Ok(next)
    }

    /// Without one shard, which is empty then.
    #[must_use]
    pub fn without(&self, name: &str) -> Self {
        self.with(name, &[]).unwrap_or_else(|_| self.clone())
    }

    /// How many hosts and addresses it knows.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.len()).sum::<usize>() + self.suffixes.len()
    }

    /// Whether it knows nothing, so that nothing is to be asked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn has(&self, text: &str) -> bool {
        let hash = hash(text);
        self.shards.get(shard_of(hash)).is_some_and(|shard| shard.binary_search(&hash).is_ok())
    }

    /// What has to be asked for to learn what the mesh may know of this: nothing, where it knows nothing. Names are those of the
    /// index, so that there are no more questions than it has entries. `namespace` is the proxy's, which short names of services
    /// leave out.
    pub fn find(&self, question: &Question, namespace: &str, domain: &str) -> Vec<Question> {
        if self.is_empty() {
            return Vec::new();
        }
        let host = match question {
            Question::Ip(ip) => return if self.has(&ip.to_string()) { vec![question.clone()] } else { Vec::new() },
            Question::Host(host) => host,
        };
        let names = full_names(host, namespace, domain);
        let exact: Vec<Question> = names.iter().filter(|name| self.has(name)).cloned().map(Question::Host).collect();
        if !exact.is_empty() {
            return exact;
        }
        names.iter().filter_map(|name| self.wildcard_of(name)).map(Question::Host).collect()
    }

    /// The most specific wildcard that covers a name.
    fn wildcard_of(&self, name: &str) -> Option<String> {
        let suffix =
            name.match_indices('.').map(|(at, _)| &name[at..]).find(|suffix| suffix.len() < name.len() && self.has(suffix));
        let irregular =
            || self.suffixes.iter().filter(|s| name.len() > s.len() && name.ends_with(s.as_str())).max_by_key(|s| s.len());
        suffix.or_else(|| irregular().map(String::as_str)).map(|suffix| format!("*{suffix}"))
    }
}

/// The full names that a host may stand for: itself, and the services' whose short form it is.
pub fn full_names(host: &str, namespace: &str, domain: &str) -> Vec<String> {
    let mut names = vec![host.to_owned()];
    if host.ends_with(&format!(".{domain}")) {
        return names;
    }
    if host.ends_with(".svc") {
        names.push(format!("{host}.{domain}"));
        return names;
    }
    if host.contains('.') {
        names.push(format!("{host}.svc.{domain}"));
    }
    // Also a pod of a headless service: `web-0.web`.
    names.push(format!("{host}.{namespace}.svc.{domain}"));
    names
}

/// The resources of an index of these hosts (wildcards with their `*`) and addresses, by name.
pub fn shards<'a>(hosts: impl Iterator<Item = &'a str>, addresses: impl Iterator<Item = IpAddr>) -> Vec<(String, Vec<u8>)> {
    let mut shards = vec![IndexShard::default(); SHARDS];
    let mut add = |text: &str| {
        let hash = hash(text);
        shards[shard_of(hash)].hashes.push(hash);
    };
    let mut suffixes = Vec::new();
    for host in hosts {
        match host.strip_prefix('*') {
            None => add(host),
            Some(suffix) if suffix.starts_with('.') => add(suffix),
            Some(suffix) => suffixes.push(suffix.to_owned()),
        }
    }
    addresses.for_each(|ip| add(&ip.to_string()));
    suffixes.sort_unstable();
    suffixes.dedup();
    shards[0].suffixes = suffixes;
    let encode = |(number, mut shard): (usize, IndexShard)| {
        shard.hashes.sort_unstable();
        shard.hashes.dedup();
        (number.to_string(), shard.encode_to_vec())
    };
    shards.into_iter().enumerate().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(hosts: &[&str], addresses: &[&str]) -> Index {
        let addresses = addresses.iter().map(|ip| ip.parse().expect("an address"));
        let shards = shards(hosts.iter().copied(), addresses);
        shards.iter().fold(Index::default(), |index, (name, body)| index.with(name, body).expect("a shard"))
    }

    #[test]
    fn questions_read_back() {
        for (text, question) in [
            ("Order.shop.", Question::Host("order.shop".into())),
            ("10.0.0.1", Question::Ip([10, 0, 0, 1].into())),
            ("[fd00::1]", Question::Ip("fd00::1".parse().expect("an address"))),
        ] {
            assert_eq!(Question::of_host(text), question);
            assert_eq!(Question::parse(&question.name()), Some(question));
        }
        for name in ["", "host/", "ip/x", "else/a", "host"] {
            assert_eq!(Question::parse(name), None, "{name}");
        }
    }

    #[test]
    fn the_index_knows_hosts_in_all_their_forms() {
        let hosts = ["order.shop.svc.cluster.local", "*.web.shop.svc.cluster.local", "*.example.com", "*-edge.net", "api.io"];
        let index = index(&hosts, &["10.96.0.1", "fd00::1"]);
        let find = |host: &str| index.find(&Question::of_host(host), "shop", "cluster.local");
        let knows = |host: &str| !find(host).is_empty();
        assert_eq!(find("order"), [Question::Host("order.shop.svc.cluster.local".into())]);
        assert_eq!(find("a.b.example.com"), [Question::Host("*.example.com".into())]);
        assert_eq!(find("web-0.web"), [Question::Host("*.web.shop.svc.cluster.local".into())]);
        for host in [
            "order",
            "order.shop",
            "order.shop.svc",
            "order.shop.svc.cluster.local",
            "ORDER.",
            "web-0.web",
            "web-0.web.shop.svc.cluster.local",
            "a.b.example.com",
            "x-edge.net",
            "api.io",
            "10.96.0.1",
            "[fd00::1]",
        ] {
            assert!(knows(host), "{host}");
        }
        for host in ["orders", "order.other", "example.com", "edge.net", "api.io.x", "10.96.0.2", "web"] {
            assert!(!knows(host), "{host}");
        }
        assert_eq!(index.find(&Question::of_host("order"), "other", "cluster.local"), [], "another namespace's");
    }

    #[test]
    fn shards_are_replaced_one_by_one() {
        let one = index(&["a.io"], &[]);
        let shard = shard_of(hash("a.io")).to_string();
        let gone = one.without(&shard);
        assert!(!one.is_empty() && gone.is_empty());
        assert!(gone.with("64", &[]).is_err() && gone.with("x", &[]).is_err() && gone.with("1", b"\xff").is_err());
    }
}
