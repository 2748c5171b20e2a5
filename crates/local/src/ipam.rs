//! Addresses of pods and services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use lateen_capture::link::{BridgeAddresses, PodAddresses, has_ipv6};
use lateen_model::resource::{IpFamily, IpFamilyPolicy, Service, ServiceType};

/// The networks of a mesh. They exist inside the mesh's own network namespace only, so every mesh uses the same.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Network {
    pub(crate) bridge: BridgeAddresses,
    pub(crate) services_v4: Ipv4Net,
    pub(crate) services_v6: Ipv6Net,
    /// Whether the machine has IPv6. Without it pods and services have IPv4 addresses only.
    pub(crate) ipv6: bool,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            ipv6: true,
            bridge: BridgeAddresses {
                v4: Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 1), 16),
                v6: Ipv6Net::new_assert(Ipv6Addr::new(0xfd6c, 0x6174, 0x6565, 0xf0, 0, 0, 0, 1), 64),
            },
            services_v4: Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16),
            services_v6: Ipv6Net::new_assert(Ipv6Addr::new(0xfd6c, 0x6174, 0x6565, 0x60, 0, 0, 0, 0), 112),
        }
    }
}

impl Network {
    /// The networks of a mesh on this machine.
    pub(crate) fn of_this_machine() -> Self {
        Self { ipv6: has_ipv6(), ..Self::default() }
    }

    /// A pod's addresses that exist, the primary one first.
    pub(crate) fn ips(&self, addresses: PodAddresses) -> Vec<IpAddr> {
        let v6 = self.ipv6.then_some(IpAddr::V6(addresses.v6));
        std::iter::once(IpAddr::V4(addresses.v4)).chain(v6).collect()
    }

    /// The address of the bridge: the node's, the gateway's, the DNS server's and the control plane's.
    pub(crate) fn node_ip(&self) -> IpAddr {
        IpAddr::V4(self.bridge.v4.addr())
    }

    /// The ranges of service addresses.
    pub(crate) fn service_ranges(&self) -> [IpNet; 2] {
        [IpNet::V4(self.services_v4), IpNet::V6(self.services_v6)]
    }
}

/// Gives addresses to pods. A returned address is given again only after all others, so that late packets for a pod
/// that ended do not reach its successor.
#[derive(Debug)]
pub(crate) struct PodPool {
    network: Network,
    next: u16,
    used: BTreeSet<u16>,
}

impl PodPool {
    pub(crate) fn new(network: Network) -> Self {
        // 0 is the network's own address, 1 the bridge's.
        Self { network, next: 2, used: BTreeSet::new() }
    }

    /// The next free address of each IP version; `None` when there is none left.
    pub(crate) fn take(&mut self) -> Option<PodAddresses> {
        const LAST: u16 = u16::MAX - 1;
        let candidates = (self.next..=LAST).chain(2..self.next);
        let host = candidates.into_iter().find(|n| !self.used.contains(n))?;
        self.used.insert(host);
        self.next = if host >= LAST { 2 } else { host + 1 };
        let v4 = u32::from(self.network.bridge.v4.network()) | u32::from(host);
        let v6 = u128::from(self.network.bridge.v6.network()) | u128::from(host);
        Some(PodAddresses { v4: v4.into(), v6: v6.into() })
    }

    pub(crate) fn give_back(&mut self, addresses: PodAddresses) {
        let host = u32::from(addresses.v4) & 0xffff;
        if let Ok(host) = u16::try_from(host) {
            self.used.remove(&host);
        }
    }
}

/// Gives addresses to services. A service keeps its addresses as long as it exists.
#[derive(Debug)]
pub(crate) struct ServicePool {
    network: Network,
    given: BTreeMap<String, Vec<IpAddr>>,
    next: u16,
}

/// Why a service got no address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ServiceAddressError {
    #[error("clusterIP {0} is not in the mesh's service networks {1} and {2}")]
    OutOfRange(String, Ipv4Net, Ipv6Net),
    #[error("clusterIP {0} is already {1}'s")]
    Taken(IpAddr, String),
    #[error("the mesh's service network is full")]
    Full,
    #[error("it needs an IPv6 address, and this machine has no IPv6")]
    NoIpv6,
}

impl ServicePool {
    pub(crate) fn new(network: Network) -> Self {
        Self { network, given: BTreeMap::new(), next: 1 }
    }

    /// Makes the addresses fit the services that exist now. Services without one (headless, `ExternalName`) are left out.
    pub(crate) fn update<'a>(
        &mut self,
        services: impl Iterator<Item = &'a Service> + Clone,
    ) -> Vec<(String, ServiceAddressError)> {
        let key = |s: &Service| format!("{}/{}", s.metadata.namespace, s.metadata.name);
        let wanting = services.filter(|s| !s.spec.is_headless() && s.spec.type_ != ServiceType::ExternalName);
        let keys: BTreeSet<String> = wanting.clone().map(key).collect();
        self.given.retain(|k, _| keys.contains(k));
        let mut errors = Vec::new();
        // Asked-for addresses first, so that a chosen one is not in the way.
        let (asking, any): (Vec<&Service>, Vec<&Service>) =
            wanting.partition(|s| s.spec.cluster_ip.as_ref().is_some_and(|ip| !ip.is_empty()));
        for service in asking {
            match self.asked(service, &key(service)) {
                Ok(addresses) => drop(self.given.insert(key(service), addresses)),
                Err(e) => errors.push((key(service), e)),
            }
        }
        for service in any {
            let families = match families(service, self.network.ipv6) {
                Ok(families) => families,
                Err(e) => {
                    errors.push((key(service), e));
                    continue;
                }
            };
            let kept = self.given.get(&key(service)).is_some_and(|ips| ips.iter().map(is_v6).eq(families.iter().copied()));
            if kept {
                continue;
            }
            match self.choose(&families) {
                Some(addresses) => drop(self.given.insert(key(service), addresses)),
                None => errors.push((key(service), ServiceAddressError::Full)),
            }
        }
        errors
    }

    /// Addresses by `NAMESPACE/NAME`.
    pub(crate) fn given(&self) -> &BTreeMap<String, Vec<IpAddr>> {
        &self.given
    }

    fn asked(&self, service: &Service, key: &str) -> Result<Vec<IpAddr>, ServiceAddressError> {
        let written: Vec<&String> = if service.spec.cluster_ips.is_empty() {
            service.spec.cluster_ip.iter().collect()
        } else {
            service.spec.cluster_ips.iter().collect()
        };
        let (v4, v6) = (self.network.services_v4, self.network.services_v6);
        written
            .into_iter()
            .map(|text| {
                let ip =
                    text.parse::<IpAddr>().ok().filter(|ip| self.network.service_ranges().iter().any(|net| net.contains(ip)));
                let ip = ip.ok_or_else(|| ServiceAddressError::OutOfRange(text.clone(), v4, v6))?;
                match self.given.iter().find(|(k, ips)| *k != key && ips.contains(&ip)) {
                    Some((owner, _)) => Err(ServiceAddressError::Taken(ip, owner.clone())),
                    None => Ok(ip),
                }
            })
            .collect()
    }

    fn choose(&mut self, families: &[bool]) -> Option<Vec<IpAddr>> {
        let at = |host: u16, v6: bool| -> IpAddr {
            if v6 {
                IpAddr::V6((u128::from(self.network.services_v6.network()) | u128::from(host)).into())
            } else {
                IpAddr::V4((u32::from(self.network.services_v4.network()) | u32::from(host)).into())
            }
        };
        let used: BTreeSet<IpAddr> = self.given.values().flatten().copied().collect();
        let host = (self.next..u16::MAX).chain(1..self.next).find(|h| families.iter().all(|v6| !used.contains(&at(*h, *v6))))?;
        let addresses = families.iter().map(|v6| at(host, *v6)).collect();
        self.next = host + 1;
        Some(addresses)
    }
}

fn is_v6(ip: &IpAddr) -> bool {
    ip.is_ipv6()
}

/// The IP versions that a service asks for, the first being the primary one; `true` is IPv6. Where it leaves the choice,
/// it does without IPv6 on a machine that has none.
fn families(service: &Service, ipv6: bool) -> Result<Vec<bool>, ServiceAddressError> {
    let mut families: Vec<bool> = service.spec.families().iter().map(|f| *f == IpFamily::V6).collect();
    let policy = service.spec.ip_family_policy;
    if !ipv6 {
        let needed = matches!(families.as_slice(), [true]) || policy == Some(IpFamilyPolicy::RequireDualStack);
        families.retain(|v6| !v6);
        if needed || families.is_empty() {
            return Err(ServiceAddressError::NoIpv6);
        }
    }
    Ok(families)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, edit: impl FnOnce(&mut Service)) -> Service {
        let mut s = Service::default();
        s.metadata.name = name.to_owned();
        s.metadata.namespace = "n".to_owned();
        edit(&mut s);
        s
    }

    #[test]
    fn pod_addresses_are_not_given_again_soon() {
        let mut pool = PodPool::new(Network::default());
        let first = pool.take().unwrap();
        assert_eq!(first.v4.to_string(), "10.244.0.2");
        assert_eq!(first.v6.to_string(), "fd6c:6174:6565:f0::2");
        pool.give_back(first);
        assert_eq!(pool.take().unwrap().v4.to_string(), "10.244.0.3");
        for _ in 0..65_531 {
            assert_ne!(pool.take().unwrap().v4, first.v4);
        }
        assert_eq!(pool.take().unwrap(), first);
        assert!(pool.take().is_none());
    }

    #[test]
    fn services_keep_their_addresses_and_get_the_ones_that_they_ask_for() {
        let mut pool = ServicePool::new(Network::default());
        let a = service("a", |_| ());
        let fixed = service("fixed", |s| s.spec.cluster_ip = Some("10.96.0.1".to_owned()));
        let headless = service("headless", |s| s.spec.cluster_ip = Some("None".to_owned()));
        let dual = service("dual", |s| s.spec.ip_family_policy = Some(IpFamilyPolicy::PreferDualStack));
        assert_eq!(pool.update([&a, &fixed, &headless, &dual].into_iter()), []);
        let before = pool.given().clone();
        assert_eq!(before["n/fixed"], ["10.96.0.1".parse::<IpAddr>().unwrap()]);
        assert!(!before.contains_key("n/headless"));
        assert_eq!(before["n/dual"].len(), 2);
        assert_ne!(before["n/a"], before["n/fixed"]);
        pool.update([&fixed, &dual].into_iter());
        let b = service("b", |_| ());
        pool.update([&b, &fixed, &dual].into_iter());
        assert_eq!(pool.given()["n/dual"], before["n/dual"]);
    }

    #[test]
    fn without_ipv6_only_those_that_need_it_get_no_address() {
        let network = Network { ipv6: false, ..Network::default() };
        assert_eq!(network.ips(PodPool::new(network).take().unwrap()), ["10.244.0.2".parse::<IpAddr>().unwrap()]);
        let mut pool = ServicePool::new(network);
        let plain = service("plain", |_| ());
        let prefers = service("prefers", |s| s.spec.ip_family_policy = Some(IpFamilyPolicy::PreferDualStack));
        let requires = service("requires", |s| s.spec.ip_family_policy = Some(IpFamilyPolicy::RequireDualStack));
        let six = service("six", |s| s.spec.ip_families = vec![IpFamily::V6]);
        let errors = pool.update([&plain, &prefers, &requires, &six].into_iter());
        let refused: Vec<_> = errors.iter().map(|(key, e)| (key.as_str(), e)).collect();
        assert_eq!(refused, [("n/requires", &ServiceAddressError::NoIpv6), ("n/six", &ServiceAddressError::NoIpv6)]);
        assert!(pool.given().values().all(|ips| ips.len() == 1 && ips[0].is_ipv4()), "{:?}", pool.given());
    }

    #[test]
    fn addresses_that_cannot_be_had_are_refused() {
        let mut pool = ServicePool::new(Network::default());
        let one = service("one", |s| s.spec.cluster_ip = Some("10.96.0.9".to_owned()));
        let two = service("two", |s| s.spec.cluster_ip = Some("10.96.0.9".to_owned()));
        let far = service("far", |s| s.spec.cluster_ip = Some("192.0.2.1".to_owned()));
        let errors = pool.update([&one, &two, &far].into_iter());
        assert!(matches!(&errors[0].1, ServiceAddressError::Taken(_, owner) if owner == "n/one"));
        assert!(matches!(&errors[1].1, ServiceAddressError::OutOfRange(..)));
    }
}
