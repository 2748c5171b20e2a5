//! Which filter chain of a listener serves a connection (`FilterChainMatch`), and what must be known of the connection to tell.
//!
//! Envoy's order of precedence: destination port, destination address (longest prefix), server name (exact, then the longest
//! wildcard), transport protocol, application protocols, source address (longest prefix). At each step the most specific value that
//! exists decides, and nothing is tried again: where its branch has no chain for the rest, the default chain serves.

use crate::CompileError;
use foldhash::HashMap;
use ipnet::IpNet;
use lateen_model::dataplane::{FilterChainMatch, Listener, TransportProtocol};
use std::net::{IpAddr, SocketAddr};

/// What is known of a connection when its chain is chosen.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionFacts<'a> {
    /// Where the client wanted to go.
    pub destination: SocketAddr,
    /// The other end.
    pub source: SocketAddr,
    /// SNI, lower case; `None` without TLS, or without SNI.
    pub server_name: Option<&'a str>,
    /// What the connection carries.
    pub transport: TransportProtocol,
    /// ALPN of a ClientHello in the client's order, or what HTTP inspection found.
    pub application_protocols: &'a [&'a str],
}

/// Which chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainChoice {
    /// `Listener.filter_chains[_]`.
    Chain(usize),
    /// `Listener.default_filter_chain`.
    Default,
}

/// What must be read of a connection before its chain can be chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// Whether it is TLS; if so SNI and ALPN.
    pub tls: bool,
    /// Whether plaintext is HTTP, and which.
    pub http: bool,
}

impl Inspection {
    /// Whether the chain can be chosen before the client has sent a byte, so that protocols in which the server speaks first are
    /// not held up.
    pub fn is_none(self) -> bool {
        !self.tls && !self.http
    }
}

/// The chains of a listener, ready for look-up.
#[derive(Debug)]
pub struct FilterChainIndex {
    ports: HashMap<u16, Destinations>,
    any_port: Option<Destinations>,
    has_default: bool,
    tls_inspector: bool,
    /// `None`: no HTTP inspection.
    http_disabled_ports: Option<Vec<u16>>,
}

/// By destination prefix, longest first.
type Destinations = Vec<(Prefix, Names)>;

/// A network, or `None` for every address.
type Prefix = Option<IpNet>;

#[derive(Debug, Default)]
struct Names {
    exact: HashMap<String, Transports>,
    /// `*.example.com` by `.example.com`.
    wildcard: HashMap<String, Transports>,
    any: Option<Transports>,
}

#[derive(Debug, Default)]
struct Transports {
    tls: Option<Applications>,
    raw: Option<Applications>,
    any: Option<Applications>,
}

#[derive(Debug, Default)]
struct Applications {
    by_name: HashMap<String, Sources>,
    any: Option<Sources>,
}

/// By source prefix, longest first.
type Sources = Vec<(Prefix, usize)>;

impl FilterChainIndex {
    /// Indexes the chains.
    ///
    /// # Errors
    /// Two chains with the same match, or a server name that is neither exact nor `*.suffix`.
    pub fn compile(listener: &Listener) -> Result<Self, CompileError> {
        let mut index = Self {
            ports: HashMap::default(),
            any_port: None,
            has_default: listener.default_filter_chain.is_some(),
            tls_inspector: listener.listener_filters.tls_inspector,
            http_disabled_ports: listener.listener_filters.http_inspector.as_ref().map(|h| h.disabled_ports.clone()),
        };
        for (i, chain) in listener.filter_chains.iter().enumerate() {
            index.insert(&chain.matches, i).map_err(|reason| {
                CompileError::new(format!("filter_chains[{i}].filter_chain_match"), format!("chain {:?}: {reason}", chain.name))
            })?;
        }
        let levels = index.ports.values_mut().chain(&mut index.any_port);
        for destinations in levels {
            sort(destinations);
            destinations.iter_mut().for_each(|(_, names)| names.sort());
        }
        Ok(index)
    }

    fn insert(&mut self, matches: &FilterChainMatch, chain: usize) -> Result<(), String> {
        let destinations = match matches.destination_port {
            Some(port) => self.ports.entry(port).or_default(),
            None => self.any_port.get_or_insert_default(),
        };
        for destination in prefixes(&matches.destination_prefixes) {
            let names = entry(destinations, destination);
            for name in any_or_each(&matches.server_names) {
                let transports = names.entry(name)?;
                let applications = transports.entry(matches.transport_protocol);
                for protocol in any_or_each(&matches.application_protocols) {
                    let sources = applications.entry(protocol);
                    for source in prefixes(&matches.source_prefixes) {
                        if sources.iter().any(|(s, _)| *s == source) {
                            return Err("another chain has the same match; which one is meant cannot be told".to_owned());
                        }
                        sources.push((source, chain));
                    }
                }
            }
        }
        Ok(())
    }

    /// The chain for a connection; `None` closes it (response flag `NR`).
    pub fn find(&self, facts: &ConnectionFacts<'_>) -> Option<ChainChoice> {
        let chain = self
            .names(facts.destination)
            .and_then(|names| names.find(facts.server_name.unwrap_or_default()))
            .and_then(|transports| transports.find(facts.transport))
            .and_then(|applications| applications.find(facts.application_protocols))
            .and_then(|sources| longest(sources, facts.source.ip()));
        match chain {
            Some(chain) => Some(ChainChoice::Chain(*chain)),
            None => self.has_default.then_some(ChainChoice::Default),
        }
    }

    /// What must be read of a connection to `destination` before [`Self::find`] can be asked: nothing that no chain for this
    /// destination distinguishes, and nothing that the listener's filters do not look at.
    pub fn inspection(&self, destination: SocketAddr) -> Inspection {
        let Some(names) = self.names(destination) else {
            return Inspection::default();
        };
        let http_enabled = self.http_disabled_ports.as_ref().is_some_and(|ports| !ports.contains(&destination.port()));
        Inspection { tls: self.tls_inspector && names.need_tls(), http: http_enabled && names.need_http() }
    }

    fn names(&self, destination: SocketAddr) -> Option<&Names> {
        let destinations = self.ports.get(&destination.port()).or(self.any_port.as_ref())?;
        longest(destinations, destination.ip())
    }
}

impl Names {
    fn entry(&mut self, name: Option<&str>) -> Result<&mut Transports, String> {
        let Some(name) = name else {
            return Ok(self.any.get_or_insert_default());
        };
        let lower = name.to_ascii_lowercase();
        if lower == "*" {
            return Ok(self.any.get_or_insert_default());
        }
        match lower.strip_prefix('*') {
            Some(suffix) if suffix.starts_with('.') && suffix.len() > 1 && !suffix.contains('*') => {
                Ok(self.wildcard.entry(suffix.to_owned()).or_default())
            }
            None if !lower.is_empty() && !lower.contains('*') => Ok(self.exact.entry(lower).or_default()),
            _ => Err(format!("server name {name:?} must be a name or '*.suffix'")),
        }
    }

    fn find(&self, name: &str) -> Option<&Transports> {
        if name.is_empty() || (self.exact.is_empty() && self.wildcard.is_empty()) {
            return self.any.as_ref();
        }
        let lower;
        let name = if name.bytes().any(|b| b.is_ascii_uppercase()) {
            lower = name.to_ascii_lowercase();
            lower.as_str()
        } else {
            name
        };
        self.exact.get(name).or_else(|| self.wildcard_of(name)).or(self.any.as_ref())
    }

    /// Each suffix that begins with a dot, longest first; `*` stands for at least one character.
    fn wildcard_of(&self, name: &str) -> Option<&Transports> {
        name.match_indices('.').filter(|(at, _)| *at > 0).find_map(|(at, _)| self.wildcard.get(&name[at..]))
    }

    fn all(&self) -> impl Iterator<Item = &Transports> {
        self.exact.values().chain(self.wildcard.values()).chain(&self.any)
    }

    fn need_tls(&self) -> bool {
        let named = !self.exact.is_empty() || !self.wildcard.is_empty();
        named || self.all().any(|t| t.tls.is_some() || t.raw.is_some() || t.all().any(|a| !a.by_name.is_empty()))
    }

    /// Of the chains that plaintext can reach.
    fn need_http(&self) -> bool {
        let plaintext = |t: &Transports| t.raw.as_ref().or(t.any.as_ref()).is_some_and(|a| !a.by_name.is_empty());
        self.any.as_ref().is_some_and(plaintext)
    }

    fn sort(&mut self) {
        for transports in self.exact.values_mut().chain(self.wildcard.values_mut()).chain(&mut self.any) {
            for applications in transports.tls.iter_mut().chain(&mut transports.raw).chain(&mut transports.any) {
                applications.by_name.values_mut().chain(&mut applications.any).for_each(|sources| sort(sources));
            }
        }
    }
}

impl Transports {
    fn entry(&mut self, protocol: Option<TransportProtocol>) -> &mut Applications {
        let slot = match protocol {
            Some(TransportProtocol::Tls) => &mut self.tls,
            Some(TransportProtocol::RawBuffer) => &mut self.raw,
            None => &mut self.any,
        };
        slot.get_or_insert_default()
    }

    fn find(&self, protocol: TransportProtocol) -> Option<&Applications> {
        let exact = match protocol {
            TransportProtocol::Tls => &self.tls,
            TransportProtocol::RawBuffer => &self.raw,
        };
        exact.as_ref().or(self.any.as_ref())
    }

    fn all(&self) -> impl Iterator<Item = &Applications> {
        self.tls.iter().chain(&self.raw).chain(&self.any)
    }
}

impl Applications {
    fn entry(&mut self, protocol: Option<&str>) -> &mut Sources {
        match protocol {
            Some(name) => self.by_name.entry(name.to_owned()).or_default(),
            None => self.any.get_or_insert_default(),
        }
    }

    fn find(&self, protocols: &[&str]) -> Option<&Sources> {
        protocols.iter().find_map(|p| self.by_name.get(*p)).or(self.any.as_ref())
    }
}

fn prefixes(nets: &[IpNet]) -> impl Iterator<Item = Prefix> {
    let any = nets.is_empty().then_some(None);
    // 0.0.0.0/0 and ::/0 stay what they are: they match one family only.
    nets.iter().map(|net| Some(net.trunc())).chain(any)
}

fn any_or_each(list: &[String]) -> impl Iterator<Item = Option<&str>> {
    let any = list.is_empty().then_some(None);
    list.iter().map(|item| Some(item.as_str())).chain(any)
}

fn entry<T: Default>(list: &mut Vec<(Prefix, T)>, prefix: Prefix) -> &mut T {
    let at = list.iter().position(|(p, _)| *p == prefix).unwrap_or_else(|| {
        list.push((prefix, T::default()));
        list.len() - 1
    });
    &mut list[at].1
}

/// Longest first; "every address" last.
fn sort<T>(list: &mut [(Prefix, T)]) {
    list.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.map_or(-1, |net| i16::from(net.prefix_len()))));
}

fn longest<T>(list: &[(Prefix, T)], address: IpAddr) -> Option<&T> {
    let address = address.to_canonical();
    list.iter().find(|(prefix, _)| prefix.is_none_or(|net| net.contains(&address))).map(|(_, value)| value)
}

#[cfg(test)]
#[path = "filter_chain_tests.rs"]
mod tests;
