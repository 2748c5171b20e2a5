//! Tables, chains and rules as values, and how each part of a rule reads and encodes.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::wire::Writer;

/// A table of the `inet` family (IPv4 and IPv6 together).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Name, such as `istio-proxy-nat`.
    pub name: String,
    /// Its chains, in the order in which they are made.
    pub chains: Vec<Chain>,
}

impl Table {
    /// A table without chains.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), chains: Vec::new() }
    }

    /// Appends a chain that a hook calls.
    #[must_use]
    pub fn base(mut self, name: &str, hook: Hook, kind: ChainKind, priority: i32) -> Self {
        self.chains.push(Chain { name: name.to_owned(), base: Some(Base { hook, kind, priority }), rules: Vec::new() });
        self
    }

    /// Appends a chain that rules jump to.
    #[must_use]
    pub fn regular(mut self, name: &str) -> Self {
        self.chains.push(Chain { name: name.to_owned(), base: None, rules: Vec::new() });
        self
    }

    /// Appends a rule to a chain. A chain that does not exist yet is made, as a regular one.
    pub fn push(&mut self, chain: &str, matches: Vec<Match>, action: Action) {
        let rule = Rule { matches, action };
        match self.chains.iter_mut().find(|c| c.name == chain) {
            Some(found) => found.rules.push(rule),
            None => self.chains.push(Chain { name: chain.to_owned(), base: None, rules: vec![rule] }),
        }
    }

    /// Whether no chain holds a rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chains.iter().all(|c| c.rules.is_empty())
    }

    /// The rules of a chain as text, for tests and messages.
    #[must_use]
    pub fn rules_of(&self, chain: &str) -> Vec<String> {
        self.chains.iter().filter(|c| c.name == chain).flat_map(|c| c.rules.iter().map(ToString::to_string)).collect()
    }
}

/// A chain of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Name.
    pub name: String,
    /// Where packets enter it; `None` for one that is only jumped to.
    pub base: Option<Base>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// Where packets enter a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// The hook.
    pub hook: Hook,
    /// What the chain may do.
    pub kind: ChainKind,
    /// Order among the chains of the hook: -300 is raw, -150 mangle, -100 destination NAT, 0 filter.
    pub priority: i32,
}

/// A netfilter hook of the `inet` family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Packets that arrive.
    Prerouting,
    /// Packets that local processes send.
    Output,
    /// Packets that leave.
    Postrouting,
}

impl Hook {
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Output => 3,
            Self::Postrouting => 4,
        }
    }
}

/// A chain's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKind {
    /// Sees every packet.
    Filter,
    /// Sees the first packet of a connection and may change its addresses.
    Nat,
}

impl ChainKind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

/// All matches must hold for the action to be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The conditions.
    pub matches: Vec<Match>,
    /// What happens then.
    pub action: Action,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// One condition. `negate` turns it round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// The interface on which the packet came.
    InInterface(String),
    /// The interface by which it leaves.
    OutInterface(String),
    /// Its transport protocol.
    Protocol(Transport),
    /// Its transport protocol and destination port.
    DestinationPort(Transport, u16),
    /// Its transport protocol, and a destination port that is none of these.
    DestinationPortNot(Transport, Vec<u16>),
    /// Its transport protocol and source port.
    SourcePort(Transport, u16),
    /// Its destination, in (or, negated, not in) a network; also fixes the IP version.
    Destination {
        /// The network.
        net: IpNet,
        /// Not in it.
        negate: bool,
    },
    /// Its source network; also fixes the IP version.
    Source(IpNet),
    /// The user that owns the sending socket.
    OwnerUser {
        /// User number.
        uid: u32,
        /// Any other user, or no socket.
        negate: bool,
    },
    /// The group that owns the sending socket.
    OwnerGroup {
        /// Group number.
        gid: u32,
        /// Any other group, or no socket.
        negate: bool,
    },
    /// The packet's mark.
    Mark {
        /// The mark.
        mark: u32,
        /// Any other mark.
        negate: bool,
    },
    /// Connection tracking cannot place the packet.
    Invalid,
    /// Drawn at random: true once in `n` times.
    OneIn(u32),
}

/// What a rule does with a packet that it matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Back to the calling chain; from a base chain: accept.
    Return,
    /// Accept, for this table.
    Accept,
    /// Drop.
    Drop,
    /// Go on in another chain of the table, and come back.
    Jump(String),
    /// Change the destination to this machine and port.
    Redirect(u16),
    /// Change the destination.
    DestinationNat(IpAddr, u16),
    /// Change the source to the address of the interface by which the packet leaves.
    Masquerade,
    /// Put the connection in a conntrack zone.
    CtZone(u16),
    /// Answer TCP with a reset.
    TcpReset,
    /// Answer with "port unreachable".
    Unreachable,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for m in &self.matches {
            write!(f, "{m} ")?;
        }
        write!(f, "{}", self.action)
    }
}

fn op(negate: bool) -> &'static str {
    if negate { "!= " } else { "" }
}

fn ip_keyword(ip: &IpNet) -> &'static str {
    if matches!(ip, IpNet::V4(_)) { "ip" } else { "ip6" }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InInterface(name) => write!(f, "iifname \"{name}\""),
            Self::OutInterface(name) => write!(f, "oifname \"{name}\""),
            Self::Protocol(p) => write!(f, "meta l4proto {}", p.name()),
            Self::DestinationPort(p, port) => write!(f, "{} dport {port}", p.name()),
            Self::DestinationPortNot(p, ports) => {
                let list: Vec<String> = ports.iter().map(ToString::to_string).collect();
                match list.as_slice() {
                    [one] => write!(f, "{} dport != {one}", p.name()),
                    _ => write!(f, "{} dport != {{ {} }}", p.name(), list.join(", ")),
                }
            }
            Self::SourcePort(p, port) => write!(f, "{} sport {port}", p.name()),
            Self::Destination { net, negate } => write!(f, "{} daddr {}{net}", ip_keyword(net), op(*negate)),
            Self::Source(net) => write!(f, "{} saddr {net}", ip_keyword(net)),
            Self::OwnerUser { uid, negate } => write!(f, "meta skuid {}{uid}", op(*negate)),
            Self::OwnerGroup { gid, negate } => write!(f, "meta skgid {}{gid}", op(*negate)),
            Self::Mark { mark, negate } => write!(f, "meta mark {}{mark}", op(*negate)),
            Self::Invalid => write!(f, "ct state invalid"),
            Self::OneIn(n) => write!(f, "numgen random mod {n} 0"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Return => f.write_str("return"),
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Redirect(port) => write!(f, "redirect to :{port}"),
            Self::DestinationNat(IpAddr::V4(ip), port) => write!(f, "dnat ip to {ip}:{port}"),
            Self::DestinationNat(IpAddr::V6(ip), port) => write!(f, "dnat ip6 to [{ip}]:{port}"),
            Self::Masquerade => f.write_str("masquerade"),
            Self::CtZone(zone) => write!(f, "ct zone set {zone}"),
            Self::TcpReset => f.write_str("reject with tcp reset"),
            Self::Unreachable => f.write_str("reject"),
        }
    }
}

// The expressions of the nf_tables virtual machine: each match loads something into register 1 and compares it.
const REG_VERDICT: u32 = 0;
const REG_1: u32 = 1;
const REG_2: u32 = 2;
const META_MARK: u32 = 3;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_SKUID: u32 = 10;
const META_SKGID: u32 = 11;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const CT_STATE: u32 = 0;
const CT_ZONE: u32 = 17;
/// `NF_CT_STATE_INVALID_BIT`.
const CT_INVALID: u32 = 1;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

impl Rule {
    /// Appends the rule's expressions (`NFTA_RULE_EXPRESSIONS`' content). Every rule counts its packets.
    pub(crate) fn encode(&self, w: &mut Writer) {
        for m in &self.matches {
            m.encode(w);
        }
        expr(w, "counter", |_| {});
        self.action.encode(w);
    }
}

impl Match {
    fn encode(&self, w: &mut Writer) {
        match self {
            Self::InInterface(name) => interface(w, META_IIFNAME, name),
            Self::OutInterface(name) => interface(w, META_OIFNAME, name),
            Self::Protocol(p) => protocol(w, *p),
            Self::DestinationPort(p, port) => {
                protocol(w, *p);
                payload(w, TRANSPORT_HEADER, 2, 2);
                compare(w, false, &port.to_be_bytes());
            }
            Self::DestinationPortNot(p, ports) => {
                protocol(w, *p);
                payload(w, TRANSPORT_HEADER, 2, 2);
                for port in ports {
                    compare(w, true, &port.to_be_bytes());
                }
            }
            Self::SourcePort(p, port) => {
                protocol(w, *p);
                payload(w, TRANSPORT_HEADER, 0, 2);
                compare(w, false, &port.to_be_bytes());
            }
            Self::Destination { net, negate } => network(w, net, *negate, 16, 24),
            Self::Source(net) => network(w, net, false, 12, 8),
            Self::OwnerUser { uid, negate } => meta_u32(w, META_SKUID, *uid, *negate),
            Self::OwnerGroup { gid, negate } => meta_u32(w, META_SKGID, *gid, *negate),
            Self::Mark { mark, negate } => meta_u32(w, META_MARK, *mark, *negate),
            Self::Invalid => {
                expr(w, "ct", |w| {
                    w.be32(1, REG_1);
                    w.be32(2, CT_STATE);
                });
                mask(w, &CT_INVALID.to_ne_bytes());
                compare(w, true, &0_u32.to_ne_bytes());
            }
            Self::OneIn(n) => {
                expr(w, "numgen", |w| {
                    w.be32(1, REG_1);
                    w.be32(2, (*n).max(1));
                    w.be32(3, 1); // NFT_NG_RANDOM
                });
                compare(w, false, &0_u32.to_ne_bytes());
            }
        }
    }
}

impl Action {
    fn encode(&self, w: &mut Writer) {
        match self {
            Self::Return => verdict(w, -5, None),
            Self::Accept => verdict(w, 1, None),
            Self::Drop => verdict(w, 0, None),
            Self::Jump(chain) => verdict(w, -3, Some(chain)),
            Self::Redirect(port) => {
                immediate(w, REG_1, &port.to_be_bytes());
                expr(w, "redir", |w| {
                    w.be32(1, REG_1);
                    w.be32(3, 2); // NF_NAT_RANGE_PROTO_SPECIFIED
                });
            }
            Self::DestinationNat(ip, port) => {
                let family = match ip {
                    IpAddr::V4(ip) => {
                        immediate(w, REG_1, &ip.octets());
                        NFPROTO_IPV4
                    }
                    IpAddr::V6(ip) => {
                        immediate(w, REG_1, &ip.octets());
                        NFPROTO_IPV6
                    }
                };
                immediate(w, REG_2, &port.to_be_bytes());
                expr(w, "nat", |w| {
                    w.be32(1, 1); // NFT_NAT_DNAT
                    w.be32(2, u32::from(family));
                    w.be32(3, REG_1);
                    w.be32(5, REG_2);
                });
            }
            Self::Masquerade => expr(w, "masq", |_| {}),
            Self::CtZone(zone) => {
                immediate(w, REG_1, &zone.to_ne_bytes());
                expr(w, "ct", |w| {
                    w.be32(2, CT_ZONE);
                    w.be32(4, REG_1);
                });
            }
            Self::TcpReset => expr(w, "reject", |w| w.be32(1, 1)), // NFT_REJECT_TCP_RST
            Self::Unreachable => expr(w, "reject", |w| {
                w.be32(1, 2); // NFT_REJECT_ICMPX_UNREACH
                w.attr(2, &[1]); // NFT_REJECT_ICMPX_PORT_UNREACH
            }),
        }
    }
}

/// One `NFTA_LIST_ELEM` with an expression's name and data.
fn expr(w: &mut Writer, name: &str, data: impl FnOnce(&mut Writer)) {
    w.nested(1, |w| {
        w.string(1, name);
        w.nested(2, data);
    });
}

fn compare(w: &mut Writer, negate: bool, value: &[u8]) {
    expr(w, "cmp", |w| {
        w.be32(1, REG_1);
        w.be32(2, u32::from(negate)); // NFT_CMP_EQ, NFT_CMP_NEQ
        w.nested(3, |w| w.attr(1, value));
    });
}

fn mask(w: &mut Writer, mask: &[u8]) {
    expr(w, "bitwise", |w| {
        w.be32(1, REG_1);
        w.be32(2, REG_1);
        w.be32(3, u32::try_from(mask.len()).unwrap_or(4));
        w.nested(4, |w| w.attr(1, mask));
        w.nested(5, |w| w.attr(1, &vec![0; mask.len()]));
    });
}

fn meta(w: &mut Writer, key: u32) {
    expr(w, "meta", |w| {
        w.be32(1, REG_1);
        w.be32(2, key);
    });
}

fn meta_u32(w: &mut Writer, key: u32, value: u32, negate: bool) {
    meta(w, key);
    compare(w, negate, &value.to_ne_bytes());
}

fn interface(w: &mut Writer, key: u32, name: &str) {
    /// `IFNAMSIZ`.
    const NAME: usize = 16;
    let mut padded = [0_u8; NAME];
    let len = name.len().min(NAME - 1);
    padded[..len].copy_from_slice(&name.as_bytes()[..len]);
    meta(w, key);
    compare(w, false, &padded);
}

fn protocol(w: &mut Writer, p: Transport) {
    meta(w, META_L4PROTO);
    compare(w, false, &[p.number()]);
}

fn payload(w: &mut Writer, base: u32, offset: u32, len: u32) {
    expr(w, "payload", |w| {
        w.be32(1, REG_1);
        w.be32(2, base);
        w.be32(3, offset);
        w.be32(4, len);
    });
}

/// Compares an address of the IP header with a network; the offsets are those of the address in an IPv4 and an IPv6 header.
fn network(w: &mut Writer, net: &IpNet, negate: bool, v4_offset: u32, v6_offset: u32) {
    meta(w, META_NFPROTO);
    match net {
        IpNet::V4(net) => {
            compare(w, false, &[NFPROTO_IPV4]);
            payload(w, NETWORK_HEADER, v4_offset, 4);
            if net.prefix_len() < 32 {
                mask(w, &net.netmask().octets());
            }
            compare(w, negate, &net.network().octets());
        }
        IpNet::V6(net) => {
            compare(w, false, &[NFPROTO_IPV6]);
            payload(w, NETWORK_HEADER, v6_offset, 16);
            if net.prefix_len() < 128 {
                mask(w, &net.netmask().octets());
            }
            compare(w, negate, &net.network().octets());
        }
    }
}

fn immediate(w: &mut Writer, register: u32, value: &[u8]) {
    expr(w, "immediate", |w| {
        w.be32(1, register);
        w.nested(2, |w| w.attr(1, value));
    });
}

fn verdict(w: &mut Writer, code: i32, chain: Option<&str>) {
    expr(w, "immediate", |w| {
        w.be32(1, REG_VERDICT);
        w.nested(2, |w| {
            w.nested(2, |w| {
                w.attr(1, &code.to_be_bytes());
                if let Some(chain) = chain {
                    w.string(2, chain);
                }
            });
        });
    });
}
