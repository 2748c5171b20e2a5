//! Addresses for ServiceEntries that have none: from 240.240.0.0/16 and 2001:2::/48, Istio's ranges.
//!
//! The address of a host follows from its name, so that it is the same after a restart and wherever it is worked out. Names
//! that fall on one number are told apart in the order of their namespace and name; only those can move when others come.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{ServiceEntry, host};

/// Numbers that are given: not the network's own, nor its broadcast address.
const NUMBERS: u32 = 0xfffe;

/// The addresses of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AllocatedAddress(u16);

impl AllocatedAddress {
    /// In 240.240.0.0/16.
    pub fn v4(self) -> Ipv4Addr {
        let [high, low] = self.0.to_be_bytes();
        Ipv4Addr::new(240, 240, high, low)
    }

    /// In 2001:2::/48.
    pub fn v6(self) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, self.0)
    }

    /// Both, IPv4 first.
    pub fn both(self) -> [IpAddr; 2] {
        [self.v4().into(), self.v6().into()]
    }
}

/// The hosts of an entry that are given addresses, in lower case.
pub fn hosts_to_allocate(entry: &ServiceEntry) -> impl Iterator<Item = String> + '_ {
    let wants = entry.spec.wants_addresses(&entry.metadata.labels);
    let named = |name: &&String| !host::is_wildcard(name) && name.parse::<IpAddr>().is_err();
    let hosts = entry.spec.hosts.iter().filter(named);
    hosts.filter(move |_| wants).map(|name| name.trim_end_matches('.').to_ascii_lowercase())
}

/// Gives each pair of namespace and host its address. Past 65,534 of them the rest get none.
pub fn allocate(hosts: &BTreeSet<(String, String)>) -> BTreeMap<(String, String), AllocatedAddress> {
    let mut taken: BTreeSet<u32> = BTreeSet::new();
    let mut out = BTreeMap::new();
    for pair in hosts.iter().take(NUMBERS as usize) {
        let mut number = hash(&pair.0, &pair.1) % NUMBERS;
        while !taken.insert(number) {
            number = (number + 1) % NUMBERS;
        }
        if let Ok(number) = u16::try_from(number + 1) {
            out.insert(pair.clone(), AllocatedAddress(number));
        }
    }
    out
}

/// FNV-1a: the same on every machine and in every version.
fn hash(namespace: &str, host: &str) -> u32 {
    let bytes = namespace.bytes().chain([b'/']).chain(host.bytes());
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(host: &str) -> (String, String) {
        ("ns".to_owned(), host.to_owned())
    }

    #[test]
    fn addresses_are_unique_stable_and_in_the_ranges() {
        let hosts: BTreeSet<_> = (0..2000).map(|i| pair(&format!("host-{i}.example.com"))).collect();
        let all = allocate(&hosts);
        assert_eq!(all.len(), hosts.len());
        let distinct: BTreeSet<_> = all.values().collect();
        assert_eq!(distinct.len(), hosts.len());
        for address in all.values() {
            assert_eq!(address.v4().octets()[..2], [240, 240]);
            assert_eq!(address.v6().segments()[..3], [0x2001, 2, 0]);
            assert!(!matches!(address.v4().octets()[2..], [0, 0] | [255, 255]));
        }
        let alone = allocate(&BTreeSet::from([pair("host-7.example.com")]));
        assert_eq!(alone.len(), 1);
        // Most names have the address that they have alone.
        let moved = hosts.iter().filter(|p| allocate(&BTreeSet::from([(*p).clone()]))[*p] != all[*p]).count();
        assert!(moved < 100, "{moved} of 2000 moved");
    }

    #[test]
    fn as_many_as_there_are() {
        let hosts: BTreeSet<_> = (0..70_000).map(|i| pair(&format!("h{i}"))).collect();
        assert_eq!(allocate(&hosts).len(), NUMBERS as usize);
    }
}
