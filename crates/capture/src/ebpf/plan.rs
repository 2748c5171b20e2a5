//! The capture rules as entries of the programs' maps: pure, and kept in step with `bpf/capture.bpf.c`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};
use thiserror::Error;

use crate::rules::{
    CaptureConfig, DNS_PROXY_PORT, DnsCapture, InterceptionMode, OwnerGroups, PortSelection, ProxyTraffic, RangeSelection,
};
use crate::socket::INBOUND_SOURCE_V6;

const BY_MARK: u32 = 1;
const ALL_OUTBOUND: u32 = 2;
const ALL_INBOUND: u32 = 4;
const DNS_ALL: u32 = 8;
const DNS_SERVERS: u32 = 16;

const USER: u32 = 1;
const GROUP: u32 = 2;
const EXCLUDED_OUT: u32 = 3;
const INCLUDED_OUT: u32 = 4;
const EXCLUDED_IN: u32 = 5;
const INCLUDED_IN: u32 = 6;

const RANGE_EXCLUDED: u32 = 1;
const RANGE_INCLUDED: u32 = 2;
const RANGE_DNS: u32 = 3;

/// What these programs do not do, and nftables does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unsupported {
    /// The interface of a connection is not known when it is made.
    #[error("rules for interfaces need nftables")]
    Interfaces,
    /// There is no connection tracking whose opinion could be asked.
    #[error("dropping invalid packets needs nftables")]
    DropInvalid,
    /// Rarely asked for.
    #[error("rules for owner groups need nftables")]
    OwnerGroups,
    /// Rarely asked for.
    #[error("capturing loopback networks needs nftables")]
    Loopback,
}

/// The entries of one pod, without the pod's own number and addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    flags: u32,
    mark: u32,
    ports: [u16; 4],
    values: Vec<(u32, u32)>,
    ranges: Vec<(u32, IpNet)>,
}

/// A range's key: bits that count, and what they are compared with.
pub(super) type RangeKey = (u32, [u8; 28]);

impl Plan {
    /// Plans the entries; none for a pod whose traffic is not intercepted.
    ///
    /// # Errors
    /// What these programs do not do.
    pub fn of(config: &CaptureConfig) -> Result<Option<Self>, Unsupported> {
        if config.mode == InterceptionMode::None {
            return Ok(None);
        }
        refuse(config)?;
        let mut plan = Self {
            flags: 0,
            mark: 0,
            ports: [config.proxy_port, config.inbound_port, config.tunnel_port, DNS_PROXY_PORT],
            values: Vec::new(),
            ranges: Vec::new(),
        };
        plan.proxy(&config.proxy);
        plan.outbound(config);
        match &config.inbound_ports {
            PortSelection::All => {
                plan.flags |= ALL_INBOUND;
                plan.ports_of(EXCLUDED_IN, &config.exclude_inbound_ports);
            }
            PortSelection::Only(ports) => plan.ports_of(INCLUDED_IN, ports),
        }
        match &config.dns {
            DnsCapture::Off => {}
            DnsCapture::All => plan.flags |= DNS_ALL,
            DnsCapture::Servers(servers) => {
                plan.flags |= DNS_SERVERS;
                plan.ranges.extend(servers.iter().map(|ip| (RANGE_DNS, IpNet::from(*ip))));
            }
        }
        Ok(Some(plan))
    }

    fn proxy(&mut self, proxy: &ProxyTraffic) {
        match proxy {
            ProxyTraffic::Mark(mark) => {
                self.flags |= BY_MARK;
                self.mark = *mark;
            }
            ProxyTraffic::Owner { uids, gids } => {
                self.values.extend(uids.iter().map(|uid| (USER, *uid)));
                self.values.extend(gids.iter().map(|gid| (GROUP, *gid)));
            }
        }
    }

    fn outbound(&mut self, config: &CaptureConfig) {
        self.ports_of(EXCLUDED_OUT, &config.exclude_outbound_ports);
        self.ports_of(INCLUDED_OUT, &config.outbound_ports);
        self.ranges.extend(config.exclude_outbound_ranges.iter().map(|net| (RANGE_EXCLUDED, *net)));
        match &config.outbound_ranges {
            RangeSelection::All => self.flags |= ALL_OUTBOUND,
            RangeSelection::Only(nets) => self.ranges.extend(nets.iter().map(|net| (RANGE_INCLUDED, *net))),
        }
    }

    fn ports_of(&mut self, kind: u32, ports: &[u16]) {
        self.values.extend(ports.iter().map(|port| (kind, u32::from(*port))));
    }

    /// `struct pod`.
    pub(super) fn pod(&self, addresses: &[IpAddr]) -> [u8; 48] {
        let [v4, v6] = own(addresses);
        let mut out = Vec::with_capacity(48);
        out.extend(self.flags.to_ne_bytes());
        out.extend(self.mark.to_ne_bytes());
        out.extend(self.ports.iter().flat_map(|port| port.to_ne_bytes()));
        out.extend(mapped(v4));
        out.extend(mapped(v6));
        sized(&out)
    }

    /// Keys of `values`.
    pub(super) fn values(&self, netns: u64) -> Vec<[u8; 16]> {
        let key =
            |(kind, number): &(u32, u32)| sized(&[&netns.to_ne_bytes()[..], &kind.to_ne_bytes(), &number.to_ne_bytes()].concat());
        self.values.iter().map(key).collect()
    }

    /// Keys of `ranges`.
    pub(super) fn ranges(&self, netns: u64) -> Vec<RangeKey> {
        let key = |(kind, net): &(u32, IpNet)| {
            // In front of the address stand the namespace and the kind, in full; an IPv4 address is the end of an IPv6 one.
            let before = 96 + if net.addr().is_ipv4() { 96 } else { 0 };
            let bits = before + u32::from(net.prefix_len());
            (bits, sized(&[&netns.to_le_bytes()[..], &kind.to_ne_bytes(), &mapped(net.network())].concat()))
        };
        self.ranges.iter().map(key).collect()
    }
}

fn refuse(config: &CaptureConfig) -> Result<(), Unsupported> {
    if !config.exclude_interfaces.is_empty() || !config.reroute_interfaces.is_empty() {
        return Err(Unsupported::Interfaces);
    }
    if config.drop_invalid {
        return Err(Unsupported::DropInvalid);
    }
    if config.owner_groups != OwnerGroups::All {
        return Err(Unsupported::OwnerGroups);
    }
    let own_loopback = config.loopback_v4 != Ipv4Net::new_assert(Ipv4Addr::LOCALHOST, 32);
    let captured = matches!(&config.outbound_ranges, RangeSelection::Only(nets) if nets.iter().any(|n| n.addr().is_loopback()));
    if own_loopback || captured { Err(Unsupported::Loopback) } else { Ok(()) }
}

/// Where captured connections go: to an address of the pod's own, from which they then come; to the loopback where there is none.
fn own(addresses: &[IpAddr]) -> [IpAddr; 2] {
    let global = |a: &&IpAddr| !matches!(a, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let first = |v4: bool| addresses.iter().filter(global).find(|a| a.is_ipv4() == v4).copied();
    [first(true).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), first(false).unwrap_or(IpAddr::V6(Ipv6Addr::LOCALHOST))]
}

/// `struct address`.
pub(super) fn mapped(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Whether an address is the pod's own in the programs' sense: not one of the loopback, which they know.
pub(super) fn counts(ip: &IpAddr) -> bool {
    !ip.is_loopback() && *ip != IpAddr::V6(INBOUND_SOURCE_V6)
}

/// Bytes of a known length.
fn sized<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(bytes);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::parse_ranges;

    fn plan(config: &CaptureConfig) -> Plan {
        Plan::of(config).unwrap().unwrap()
    }

    #[test]
    fn istios_defaults_capture_everything_but_the_sidecars_own_ports() {
        let plan = plan(&CaptureConfig::default());
        assert_eq!(plan.flags, ALL_OUTBOUND | ALL_INBOUND);
        assert_eq!(plan.values, [(USER, 1337), (GROUP, 1337), (EXCLUDED_IN, 15090), (EXCLUDED_IN, 15021), (EXCLUDED_IN, 15020)]);
        assert_eq!(plan.ports, [15001, 15006, 15008, 15053]);
    }

    #[test]
    fn networks_count_their_own_bits_behind_namespace_and_kind() {
        let config = CaptureConfig {
            outbound_ranges: RangeSelection::Only(parse_ranges("10.0.0.0/8").unwrap()),
            exclude_outbound_ranges: parse_ranges("fd00::/8").unwrap(),
            ..CaptureConfig::default()
        };
        let keys = plan(&config).ranges(7);
        let [(bits_v6, excluded), (bits_v4, included)] = keys[..] else { panic!("{keys:?}") };
        assert_eq!((bits_v6, bits_v4), (96 + 8, 96 + 96 + 8));
        assert_eq!(excluded[..13], [7, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0xfd]);
        assert_eq!(included[22..26], [0xff, 0xff, 10, 0]);
    }

    #[test]
    fn captured_connections_go_to_a_global_address_of_the_pod() {
        let pod = plan(&CaptureConfig::default()).pod(&["fe80::1", "10.0.0.9", "fd00::9"].map(|a| a.parse().unwrap()));
        assert_eq!(pod[16..32], mapped("10.0.0.9".parse().unwrap()));
        assert_eq!(pod[32..], mapped("fd00::9".parse().unwrap()));
        assert_eq!(own(&[]), ["127.0.0.1", "::1"].map(|a| a.parse::<IpAddr>().unwrap()));
    }

    #[test]
    fn what_the_programs_do_not_do_is_left_to_nftables() {
        let refused = |change: fn(&mut CaptureConfig)| {
            let mut config = CaptureConfig::default();
            change(&mut config);
            Plan::of(&config).unwrap_err()
        };
        assert_eq!(refused(|c| c.exclude_interfaces.push("eth1".to_owned())), Unsupported::Interfaces);
        assert_eq!(refused(|c| c.reroute_interfaces.push("tap0".to_owned())), Unsupported::Interfaces);
        assert_eq!(refused(|c| c.drop_invalid = true), Unsupported::DropInvalid);
        assert_eq!(refused(|c| c.owner_groups = OwnerGroups::Except(vec![1])), Unsupported::OwnerGroups);
        assert_eq!(refused(|c| c.loopback_v4 = "127.0.0.0/8".parse().unwrap()), Unsupported::Loopback);
        let loopback = |c: &mut CaptureConfig| c.outbound_ranges = RangeSelection::Only(parse_ranges("127.0.0.1").unwrap());
        assert_eq!(refused(loopback), Unsupported::Loopback);
        let none = CaptureConfig { mode: InterceptionMode::None, ..CaptureConfig::default() };
        assert_eq!(Plan::of(&none), Ok(None));
    }
}
