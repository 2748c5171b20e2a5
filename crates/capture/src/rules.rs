//! The capture rules of a sidecar: Istio's, in Istio's order, as nftables (`istio-iptables` with `--native-nftables`).
//!
//! [`RuleSet::plan`] is pure: a configuration in, tables out. [`RuleSet::apply`] installs them in one transaction.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use thiserror::Error;

use crate::nft::{self, Action, ChainKind, Hook, InstalledTable, Match, NftError, Table, Transport};
use crate::socket::{INBOUND_SOURCE_V4, INBOUND_SOURCE_V6};

/// The tables, in the order in which a packet meets them.
pub const TABLES: [&str; 3] = ["istio-proxy-raw", "istio-proxy-mangle", "istio-proxy-nat"];
const RAW: &str = TABLES[0];
const MANGLE: &str = TABLES[1];
const NAT: &str = TABLES[2];
/// Port of the sidecar's DNS proxy.
pub const DNS_PROXY_PORT: u16 = 15053;
const DNS: u16 = 53;
const PRIORITY_RAW: i32 = -300;
const PRIORITY_MANGLE: i32 = -150;
const PRIORITY_DSTNAT: i32 = -100;

/// What is wrong with a capture configuration.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// Not a list of ports.
    #[error("`{0}` is not a list of ports: give numbers from 1 to 65535 separated by commas{or}", or = if *.1 { ", or `*` for all" } else { "" })]
    Ports(String, bool),
    /// Not a list of networks.
    #[error("`{0}` is not a list of networks: give CIDRs such as 10.0.0.0/8 or fd00::/8 separated by commas{or}", or = if *.1 { ", or `*` for all" } else { "; `*` is not allowed here, it would capture nothing" })]
    Ranges(String, bool),
    /// Not a list of users or groups.
    #[error("`{0}` is not a list of numeric user or group ids separated by commas")]
    Ids(String),
    /// Not an interception mode.
    #[error("interception mode `{0}` is unknown: REDIRECT, TPROXY or NONE")]
    Mode(String),
    /// TPROXY is not built.
    #[error("interception mode TPROXY is not supported by this version of lateen: use REDIRECT, or NONE to capture nothing")]
    Tproxy,
    /// An interface name that the kernel would not take.
    #[error("`{0}` is not an interface name: 1 to 15 bytes, without `/` and white space")]
    Interface(String),
    /// Both kinds of group lists.
    #[error("groups to capture and groups to leave out cannot both be given")]
    OwnerGroups,
    /// DNS servers wanted, none known.
    #[error("DNS capture needs the name servers of /etc/resolv.conf, and there is none: use --capture-all-dns")]
    NoNameServers,
}

/// A set of ports: `*`, or a list, possibly empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortSelection {
    /// Every port.
    All,
    /// These.
    Only(Vec<u16>),
}

impl FromStr for PortSelection {
    type Err = ConfigError;

    fn from_str(s: &str) -> Result<Self, ConfigError> {
        if s.trim() == "*" {
            return Ok(Self::All);
        }
        parse_ports(s).map(Self::Only).map_err(|_| ConfigError::Ports(s.to_owned(), true))
    }
}

/// Ports separated by commas; an empty text is an empty list.
///
/// # Errors
/// A port that is not a number from 1 to 65535.
pub fn parse_ports(s: &str) -> Result<Vec<u16>, ConfigError> {
    items(s).map(|item| item.parse().ok().filter(|p| *p != 0).ok_or_else(|| ConfigError::Ports(s.to_owned(), false))).collect()
}

/// A set of destination networks: `*`, or a list, possibly empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RangeSelection {
    /// Every destination, IPv4 and IPv6.
    All,
    /// These.
    Only(Vec<IpNet>),
}

impl RangeSelection {
    /// Whether a loopback address is named.
    fn has_loopback(&self) -> bool {
        match self {
            Self::All => false,
            Self::Only(nets) => nets.iter().any(|net| net.addr().is_loopback()),
        }
    }
}

impl FromStr for RangeSelection {
    type Err = ConfigError;

    fn from_str(s: &str) -> Result<Self, ConfigError> {
        if s.trim() == "*" {
            return Ok(Self::All);
        }
        parse_ranges(s).map(Self::Only).map_err(|_| ConfigError::Ranges(s.to_owned(), true))
    }
}

/// Networks separated by commas; a plain address is a network of its own.
///
/// # Errors
/// Something that is not a network; `*`.
pub fn parse_ranges(s: &str) -> Result<Vec<IpNet>, ConfigError> {
    items(s)
        .map(|item| {
            item.parse::<IpNet>()
                .or_else(|_| item.parse::<IpAddr>().map(IpNet::from))
                .map(|net| net.trunc())
                .map_err(|_| ConfigError::Ranges(s.to_owned(), false))
        })
        .collect()
}

/// Numeric ids separated by commas.
///
/// # Errors
/// Something that is not a number.
pub fn parse_ids(s: &str) -> Result<Vec<u32>, ConfigError> {
    items(s).map(|item| item.parse().map_err(|_| ConfigError::Ids(s.to_owned()))).collect()
}

/// Interface names separated by commas.
///
/// # Errors
/// A name that the kernel would not take.
pub fn parse_interfaces(s: &str) -> Result<Vec<String>, ConfigError> {
    items(s)
        .map(|item| {
            let fine = item.len() < 16 && !item.contains('/') && !item.chars().any(char::is_whitespace);
            if fine { Ok(item.to_owned()) } else { Err(ConfigError::Interface(item.to_owned())) }
        })
        .collect()
}

fn items(s: &str) -> impl Iterator<Item = &str> {
    s.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// How captured traffic reaches the proxy (`sidecar.istio.io/interceptionMode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterceptionMode {
    /// By changing the destination.
    Redirect,
    /// Not at all.
    None,
}

impl FromStr for InterceptionMode {
    type Err = ConfigError;

    fn from_str(s: &str) -> Result<Self, ConfigError> {
        match s {
            "REDIRECT" => Ok(Self::Redirect),
            "NONE" => Ok(Self::None),
            "TPROXY" => Err(ConfigError::Tproxy),
            other => Err(ConfigError::Mode(other.to_owned())),
        }
    }
}

/// How the proxy's own traffic is told from the application's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyTraffic {
    /// By the owner of the socket, as Istio does.
    Owner {
        /// Users.
        uids: Vec<u32>,
        /// Groups.
        gids: Vec<u32>,
    },
    /// By the socket's mark, where proxy and application have one user, as in an unprivileged user namespace. The
    /// application must not hold `CAP_NET_ADMIN` or `CAP_NET_RAW`, or it could set the mark too.
    Mark(u32),
}

impl ProxyTraffic {
    /// Each owner (or the mark) as a condition, and its negation.
    fn conditions(&self) -> Vec<(Match, Match)> {
        match self {
            Self::Owner { uids, gids } => {
                let user = |uid| move |negate| Match::OwnerUser { uid, negate };
                let group = |gid| move |negate| Match::OwnerGroup { gid, negate };
                let users = uids.iter().map(|uid| (user(*uid)(false), user(*uid)(true)));
                users.chain(gids.iter().map(|gid| (group(*gid)(false), group(*gid)(true)))).collect()
            }
            Self::Mark(mark) => {
                vec![(Match::Mark { mark: *mark, negate: false }, Match::Mark { mark: *mark, negate: true })]
            }
        }
    }
}

/// Whose outbound traffic is captured (`ISTIO_OUTBOUND_OWNER_GROUPS`, `…_EXCLUDE`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnerGroups {
    /// Every group's.
    All,
    /// That of these groups only.
    Only(Vec<u32>),
    /// That of all but these groups.
    Except(Vec<u32>),
}

/// Which DNS queries are captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DnsCapture {
    /// None.
    Off,
    /// Those to these servers (`--redirect-dns`; the servers of `/etc/resolv.conf`).
    Servers(Vec<IpAddr>),
    /// All (`--capture-all-dns`).
    All,
}

/// Everything that decides the rules. The defaults are Istio's (`istio-iptables` without flags, with the injector's `*`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureConfig {
    /// Mode (`-m`).
    pub mode: InterceptionMode,
    /// Where outbound connections go (`-p`).
    pub proxy_port: u16,
    /// Where inbound connections go (`-z`).
    pub inbound_port: u16,
    /// The tunnel's port, never redirected (`-e`).
    pub tunnel_port: u16,
    /// Who the proxy is (`-u`, `-g`, `--proxy-mark`).
    pub proxy: ProxyTraffic,
    /// Inbound ports that are captured (`-b`).
    pub inbound_ports: PortSelection,
    /// Inbound ports that are not, when all are (`-d`).
    pub exclude_inbound_ports: Vec<u16>,
    /// Outbound destinations that are captured (`-i`).
    pub outbound_ranges: RangeSelection,
    /// Outbound destinations that are not (`-x`).
    pub exclude_outbound_ranges: Vec<IpNet>,
    /// Outbound ports that are captured whatever the destination (`-q`).
    pub outbound_ports: Vec<u16>,
    /// Outbound ports that are not captured (`-o`).
    pub exclude_outbound_ports: Vec<u16>,
    /// Interfaces left alone (`-c`).
    pub exclude_interfaces: Vec<String>,
    /// Interfaces of virtual machines, whose inbound traffic is this pod's outbound traffic (`-k`).
    pub reroute_interfaces: Vec<String>,
    /// Whose traffic is captured.
    pub owner_groups: OwnerGroups,
    /// Which DNS queries are captured.
    pub dns: DnsCapture,
    /// Drop what connection tracking cannot place (`--drop-invalid`).
    pub drop_invalid: bool,
    /// IPv4 loopback as seen from the pod (`ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR`).
    pub loopback_v4: Ipv4Net,
}

impl Default for CaptureConfig {
    fn default() -> Self {
        Self {
            mode: InterceptionMode::Redirect,
            proxy_port: 15001,
            inbound_port: 15006,
            tunnel_port: 15008,
            proxy: ProxyTraffic::Owner { uids: vec![1337], gids: vec![1337] },
            inbound_ports: PortSelection::All,
            exclude_inbound_ports: vec![15090, 15021, 15020],
            outbound_ranges: RangeSelection::All,
            exclude_outbound_ranges: Vec::new(),
            outbound_ports: Vec::new(),
            exclude_outbound_ports: Vec::new(),
            exclude_interfaces: Vec::new(),
            reroute_interfaces: Vec::new(),
            owner_groups: OwnerGroups::All,
            dns: DnsCapture::Off,
            drop_invalid: false,
            loopback_v4: Ipv4Net::new_assert(std::net::Ipv4Addr::LOCALHOST, 32),
        }
    }
}

/// The tables that a configuration asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSet {
    tables: Vec<Table>,
}

impl RuleSet {
    /// Plans the rules: pure, and the same for the same configuration.
    #[must_use]
    pub fn plan(config: &CaptureConfig) -> Self {
        if config.mode == InterceptionMode::None {
            return Self { tables: Vec::new() };
        }
        let tables = [raw_table(config), mangle_table(config), nat_table(config)];
        Self { tables: tables.into_iter().filter(|t| !t.is_empty()).collect() }
    }

    /// The tables, in the order in which a packet meets them.
    #[must_use]
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// Installs the rules in the calling thread's network namespace, in place of whatever capture rules are there.
    ///
    /// # Errors
    /// See [`NftError`]; on an error the old rules stay.
    pub fn apply(&self) -> Result<(), NftError> {
        // Tables that are no longer asked for go first; a crash in between leaves less capture, never a half-made table.
        let gone: Vec<&str> = TABLES.into_iter().filter(|name| !self.tables.iter().any(|t| t.name == *name)).collect();
        nft::replace(&self.tables)?;
        nft::remove(&gone)
    }

    /// Removes every capture rule from the calling thread's network namespace.
    ///
    /// # Errors
    /// See [`NftError`].
    pub fn remove() -> Result<(), NftError> {
        nft::remove(&TABLES)
    }

    /// The capture rules that are installed in the calling thread's network namespace.
    ///
    /// # Errors
    /// See [`NftError`].
    pub fn installed() -> Result<Vec<InstalledTable>, NftError> {
        nft::installed(&TABLES)
    }
}

fn tcp() -> Match {
    Match::Protocol(Transport::Tcp)
}

fn out_lo() -> Match {
    Match::OutInterface("lo".to_owned())
}

fn jump(chain: &str) -> Action {
    Action::Jump(chain.to_owned())
}

/// The networks that count as the pod's loopback, one for each IP version.
fn loopbacks(config: &CaptureConfig) -> [IpNet; 2] {
    [IpNet::V4(config.loopback_v4), IpNet::V6(Ipv6Net::new_assert(std::net::Ipv6Addr::LOCALHOST, 128))]
}

fn nat_table(config: &CaptureConfig) -> Table {
    let mut t = Table::new(NAT)
        .base("prerouting", Hook::Prerouting, ChainKind::Nat, PRIORITY_DSTNAT)
        .base("output", Hook::Output, ChainKind::Nat, PRIORITY_DSTNAT)
        .regular("istio-inbound")
        .regular("istio-redirect")
        .regular("istio-in-redirect")
        .regular("istio-output");
    reroute_interfaces(&mut t, config);
    for name in &config.exclude_interfaces {
        t.push("prerouting", vec![Match::InInterface(name.clone())], Action::Return);
        t.push("output", vec![Match::OutInterface(name.clone())], Action::Return);
    }
    t.push("istio-inbound", vec![Match::DestinationPort(Transport::Tcp, config.tunnel_port)], Action::Return);
    t.push("istio-redirect", vec![tcp()], Action::Redirect(config.proxy_port));
    t.push("istio-in-redirect", vec![tcp()], Action::Redirect(config.inbound_port));
    inbound(&mut t, config);
    t.push("output", Vec::new(), jump("istio-output"));
    output(&mut t, config);
    t
}

/// What a virtual machine behind an interface sends is this pod's outbound traffic, and is captured before anything else.
fn reroute_interfaces(t: &mut Table, config: &CaptureConfig) {
    for name in &config.reroute_interfaces {
        let from = Match::InInterface(name.clone());
        match &config.outbound_ranges {
            RangeSelection::All => t.push("prerouting", vec![from], jump("istio-redirect")),
            RangeSelection::Only(nets) => {
                for net in nets {
                    let to = Match::Destination { net: *net, negate: false };
                    t.push("prerouting", vec![from.clone(), to], jump("istio-redirect"));
                }
            }
        }
    }
}

fn inbound(t: &mut Table, config: &CaptureConfig) {
    match &config.inbound_ports {
        PortSelection::All => {
            t.push("prerouting", vec![tcp()], jump("istio-inbound"));
            for port in &config.exclude_inbound_ports {
                t.push("istio-inbound", vec![Match::DestinationPort(Transport::Tcp, *port)], Action::Return);
            }
            t.push("istio-inbound", vec![tcp()], jump("istio-in-redirect"));
        }
        PortSelection::Only(ports) => {
            if ports.is_empty() {
                return;
            }
            t.push("prerouting", vec![tcp()], jump("istio-inbound"));
            for port in ports {
                t.push("istio-inbound", vec![Match::DestinationPort(Transport::Tcp, *port)], jump("istio-in-redirect"));
            }
        }
    }
}

fn output(t: &mut Table, config: &CaptureConfig) {
    const CHAIN: &str = "istio-output";
    for port in &config.exclude_outbound_ports {
        t.push(CHAIN, vec![Match::DestinationPort(Transport::Tcp, *port)], Action::Return);
        t.push(CHAIN, vec![Match::DestinationPort(Transport::Udp, *port)], Action::Return);
    }
    // The proxy hands a request to its application from this source; capturing it again would loop.
    for source in [IpNet::from(IpAddr::V4(INBOUND_SOURCE_V4)), IpNet::from(IpAddr::V6(INBOUND_SOURCE_V6))] {
        t.push(CHAIN, vec![out_lo(), Match::Source(source)], Action::Return);
    }
    for (is_proxy, is_not) in config.proxy.conditions() {
        proxy_traffic(t, config, is_proxy, is_not);
    }
    owner_groups(t, &config.owner_groups);
    if config.dns != DnsCapture::Off {
        t.push(CHAIN, Vec::new(), jump("istio-output-dns"));
        dns_redirect(t, &config.dns);
    }
    for net in loopbacks(config) {
        t.push(CHAIN, vec![Match::Destination { net, negate: false }], Action::Return);
    }
    for net in &config.exclude_outbound_ranges {
        t.push(CHAIN, vec![Match::Destination { net: *net, negate: false }], Action::Return);
    }
    for port in &config.outbound_ports {
        t.push(CHAIN, vec![Match::DestinationPort(Transport::Tcp, *port)], jump("istio-redirect"));
    }
    match &config.outbound_ranges {
        RangeSelection::All => t.push(CHAIN, Vec::new(), jump("istio-redirect")),
        RangeSelection::Only(nets) => {
            for net in nets {
                t.push(CHAIN, vec![Match::Destination { net: *net, negate: false }], jump("istio-redirect"));
            }
        }
    }
}

/// The three rules for one owner of proxy traffic: what the proxy sends to its own pod is inbound; what the application
/// sends to its own pod is left alone; what else the proxy sends leaves as it is.
fn proxy_traffic(t: &mut Table, config: &CaptureConfig, is_proxy: Match, is_not: Match) {
    const CHAIN: &str = "istio-output";
    let dns = config.dns != DnsCapture::Off;
    let never = if dns { vec![DNS, config.tunnel_port] } else { vec![config.tunnel_port] };
    for net in loopbacks(config) {
        let matches = vec![
            out_lo(),
            Match::Destination { net, negate: true },
            Match::DestinationPortNot(Transport::Tcp, never.clone()),
            is_proxy.clone(),
        ];
        t.push(CHAIN, matches, jump("istio-in-redirect"));
    }
    if !config.outbound_ranges.has_loopback() {
        let mut matches = vec![out_lo()];
        if dns {
            matches.push(Match::DestinationPortNot(Transport::Tcp, vec![DNS]));
        }
        matches.push(is_not);
        t.push(CHAIN, matches, Action::Return);
    }
    t.push(CHAIN, vec![is_proxy], Action::Return);
}

fn owner_groups(t: &mut Table, groups: &OwnerGroups) {
    match groups {
        OwnerGroups::All => {}
        OwnerGroups::Only(gids) => {
            let others = gids.iter().map(|gid| Match::OwnerGroup { gid: *gid, negate: true }).collect();
            t.push("istio-output", others, Action::Return);
        }
        OwnerGroups::Except(gids) => {
            for gid in gids {
                t.push("istio-output", vec![Match::OwnerGroup { gid: *gid, negate: false }], Action::Return);
            }
        }
    }
}

/// The destinations of captured queries: anywhere, or each server.
fn dns_destinations(dns: &DnsCapture) -> Vec<Vec<Match>> {
    match dns {
        DnsCapture::Off => Vec::new(),
        DnsCapture::All => vec![Vec::new()],
        DnsCapture::Servers(servers) => {
            servers.iter().map(|ip| vec![Match::Destination { net: IpNet::from(*ip), negate: false }]).collect()
        }
    }
}

fn dns_redirect(t: &mut Table, dns: &DnsCapture) {
    for to in dns_destinations(dns) {
        for transport in [Transport::Tcp, Transport::Udp] {
            let mut matches = to.clone();
            matches.push(Match::DestinationPort(transport, DNS));
            t.push("istio-output-dns", matches, Action::Redirect(DNS_PROXY_PORT));
        }
    }
}

/// A captured query and the proxy's own query to the same server, from the same port, would be one connection to
/// conntrack; zones keep them apart.
fn raw_table(config: &CaptureConfig) -> Table {
    let mut t = Table::new(RAW);
    if config.dns == DnsCapture::Off {
        return t;
    }
    t = t
        .base("prerouting", Hook::Prerouting, ChainKind::Filter, PRIORITY_RAW)
        .base("output", Hook::Output, ChainKind::Filter, PRIORITY_RAW)
        .regular("istio-output-dns");
    t.push("output", Vec::new(), jump("istio-output-dns"));
    let query = Match::DestinationPort(Transport::Udp, DNS);
    for (is_proxy, _) in config.proxy.conditions() {
        t.push("istio-output-dns", vec![query.clone(), is_proxy.clone()], Action::CtZone(1));
        let answer = Match::SourcePort(Transport::Udp, DNS_PROXY_PORT);
        t.push("istio-output-dns", vec![answer, is_proxy], Action::CtZone(2));
    }
    for mut matches in dns_destinations(&config.dns) {
        matches.push(query.clone());
        t.push("istio-output-dns", matches, Action::CtZone(2));
    }
    let answer = Match::SourcePort(Transport::Udp, DNS);
    match &config.dns {
        DnsCapture::Servers(servers) => {
            for ip in servers {
                t.push("prerouting", vec![Match::Source(IpNet::from(*ip)), answer.clone()], Action::CtZone(1));
            }
        }
        DnsCapture::All | DnsCapture::Off => t.push("prerouting", vec![answer], Action::CtZone(1)),
    }
    t
}

fn mangle_table(config: &CaptureConfig) -> Table {
    let mut t = Table::new(MANGLE);
    if config.drop_invalid {
        t = t.base("prerouting", Hook::Prerouting, ChainKind::Filter, PRIORITY_MANGLE).regular("istio-drop");
        t.push("prerouting", vec![Match::Invalid], jump("istio-drop"));
        t.push("istio-drop", Vec::new(), Action::Drop);
    }
    t
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
