//! Service addresses translated to endpoints for clients without a sidecar: what kube-proxy does in a cluster.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::nft::{self, Action, ChainKind, Hook, Match, NftError, Table, Transport};

/// The table's name.
pub const TABLE: &str = "lateen-services";

/// One port of a service at its cluster address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// The service's address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// The port's transport.
    pub transport: Transport,
    /// Where connections go, each with equal share. Endpoints of the other IP version are left out.
    pub endpoints: Vec<SocketAddr>,
}

/// Plans the table: a connection to a service's address and port goes to one of its endpoints, drawn at random; one to
/// an address of `ranges` that leads nowhere is refused at once instead of left to time out.
#[must_use]
pub fn plan(ports: &[ServicePort], ranges: &[IpNet]) -> Table {
    let mut t = Table::new(TABLE)
        .base("prerouting", Hook::Prerouting, ChainKind::Nat, -100)
        .base("output", Hook::Output, ChainKind::Nat, -100)
        .base("postrouting", Hook::Postrouting, ChainKind::Nat, 100)
        // After the translation, and before routing, which knows no way to a service's address.
        .base("refuse", Hook::Prerouting, ChainKind::Filter, 0)
        .base("refuse-local", Hook::Output, ChainKind::Filter, 0)
        .regular("services");
    t.push("prerouting", Vec::new(), Action::Jump("services".to_owned()));
    t.push("output", Vec::new(), Action::Jump("services".to_owned()));
    for service in ports {
        let fits: Vec<_> = service.endpoints.iter().filter(|e| e.is_ipv4() == service.address.is_ipv4()).collect();
        for (taken, endpoint) in fits.iter().enumerate() {
            let mut matches = vec![
                Match::Destination { net: IpNet::from(service.address), negate: false },
                Match::DestinationPort(service.transport, service.port),
            ];
            // The last one takes all that the ones before it left, so that each gets an equal share.
            let left = u32::try_from(fits.len() - taken).unwrap_or(u32::MAX);
            if left > 1 {
                matches.push(Match::OneIn(left));
            }
            t.push("services", matches, Action::DestinationNat(endpoint.ip(), endpoint.port()));
        }
    }
    // A pod that reaches itself by its service's address would refuse a packet that comes from outside with its own source.
    let pods: BTreeSet<IpAddr> = ports.iter().flat_map(|s| &s.endpoints).map(SocketAddr::ip).collect();
    for pod in pods.into_iter().map(IpNet::from) {
        t.push("postrouting", vec![Match::Source(pod), Match::Destination { net: pod, negate: false }], Action::Masquerade);
    }
    for chain in ["refuse", "refuse-local"] {
        for net in ranges {
            let to = Match::Destination { net: *net, negate: false };
            t.push(chain, vec![to.clone(), Match::Protocol(Transport::Tcp)], Action::TcpReset);
            t.push(chain, vec![to], Action::Unreachable);
        }
    }
    t
}

/// Installs the table in the calling thread's network namespace, in place of the one that is there.
///
/// # Errors
/// See [`NftError`].
pub fn apply(ports: &[ServicePort], ranges: &[IpNet]) -> Result<(), NftError> {
    nft::replace(&[plan(ports, ranges)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(endpoints: &[&str]) -> ServicePort {
        ServicePort {
            address: "10.96.0.7".parse().unwrap(),
            port: 80,
            transport: Transport::Tcp,
            endpoints: endpoints.iter().map(|e| e.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn each_endpoint_gets_an_equal_share_and_the_other_ip_version_none() {
        let t = plan(&[service(&["10.244.0.2:8080", "10.244.0.3:8080", "[fd00::3]:8080", "10.244.0.4:8080"])], &[]);
        assert_eq!(
            t.rules_of("services"),
            [
                "ip daddr 10.96.0.7/32 tcp dport 80 numgen random mod 3 0 dnat ip to 10.244.0.2:8080",
                "ip daddr 10.96.0.7/32 tcp dport 80 numgen random mod 2 0 dnat ip to 10.244.0.3:8080",
                "ip daddr 10.96.0.7/32 tcp dport 80 dnat ip to 10.244.0.4:8080",
            ]
        );
    }

    #[test]
    fn a_service_address_without_endpoints_is_refused() {
        let t = plan(&[service(&[])], &["10.96.0.0/16".parse().unwrap()]);
        assert!(t.rules_of("services").is_empty());
        assert_eq!(
            t.rules_of("refuse"),
            ["ip daddr 10.96.0.0/16 meta l4proto tcp reject with tcp reset", "ip daddr 10.96.0.0/16 reject"]
        );
    }
}
