//! From a host name to its virtual host.

use crate::CompileError;
use foldhash::HashMap;
use smallvec::SmallVec;

/// Domains of all virtual hosts. Envoy's order: exact, longest `*suffix`, longest `prefix*`, `*`.
#[derive(Debug, Default)]
pub(super) struct HostIndex {
    exact: HashMap<Box<str>, usize>,
    /// By the length of what follows `*`, longest first.
    suffixes: Vec<(usize, HashMap<Box<str>, usize>)>,
    /// By the length of what precedes `*`, longest first.
    prefixes: Vec<(usize, HashMap<Box<str>, usize>)>,
    any: Option<usize>,
}

impl HostIndex {
    /// Takes the domains of each virtual host, in order.
    pub(super) fn build<'a>(hosts: impl Iterator<Item = &'a [String]>) -> Result<Self, CompileError> {
        let mut index = Self::default();
        for (host, domains) in hosts.enumerate() {
            for (i, domain) in domains.iter().enumerate() {
                let path = || format!("virtual_hosts[{host}].domains[{i}]");
                if domain.is_empty() {
                    return Err(CompileError::new(path(), "a domain must not be empty; '*' is every host"));
                }
                if index.insert(&domain.to_ascii_lowercase(), host).is_some() {
                    return Err(CompileError::new(path(), format!("{domain:?} stands in two virtual hosts, or twice in one")));
                }
            }
        }
        index.suffixes.sort_by_key(|(len, _)| std::cmp::Reverse(*len));
        index.prefixes.sort_by_key(|(len, _)| std::cmp::Reverse(*len));
        Ok(index)
    }

    fn insert(&mut self, domain: &str, host: usize) -> Option<usize> {
        if domain == "*" {
            return self.any.replace(host);
        }
        let (map, key) = if let Some(suffix) = domain.strip_prefix('*') {
            (of_length(&mut self.suffixes, suffix.len()), suffix)
        } else if let Some(prefix) = domain.strip_suffix('*') {
            (of_length(&mut self.prefixes, prefix.len()), prefix)
        } else {
            (&mut self.exact, domain)
        };
        map.insert(key.into(), host)
    }

    /// `host` in any case. A wildcard stands for at least one character.
    pub(super) fn find(&self, host: &str) -> Option<usize> {
        // Nearly always lower case and exact already.
        if let Some(found) = self.exact.get(host) {
            return Some(*found);
        }
        if host.bytes().any(|b| b.is_ascii_uppercase()) {
            let mut lower: SmallVec<[u8; 128]> = SmallVec::from_slice(host.as_bytes());
            lower.make_ascii_lowercase();
            // Lower-casing ASCII letters keeps UTF-8 valid.
            return std::str::from_utf8(&lower).ok().and_then(|h| self.find_lower(h));
        }
        self.find_lower(host)
    }

    fn find_lower(&self, host: &str) -> Option<usize> {
        if let Some(found) = self.exact.get(host) {
            return Some(*found);
        }
        let suffix = |(len, map): &(usize, HashMap<Box<str>, usize>)| {
            host.get(host.len().checked_sub(*len).filter(|rest| *rest > 0)?..).and_then(|s| map.get(s)).copied()
        };
        let prefix = |(len, map): &(usize, HashMap<Box<str>, usize>)| {
            host.get(..*len).filter(|p| p.len() < host.len()).and_then(|p| map.get(p)).copied()
        };
        self.suffixes.iter().find_map(suffix).or_else(|| self.prefixes.iter().find_map(prefix)).or(self.any)
    }
}

fn of_length(maps: &mut Vec<(usize, HashMap<Box<str>, usize>)>, len: usize) -> &mut HashMap<Box<str>, usize> {
    let at = maps.iter().position(|(l, _)| *l == len).unwrap_or_else(|| {
        maps.push((len, HashMap::default()));
        maps.len() - 1
    });
    &mut maps[at].1
}

/// `host:port` or `[v6]:port` without the port; anything else as it is.
pub fn without_port(authority: &str) -> &str {
    let Some(colon) = memchr::memrchr(b':', authority.as_bytes()) else {
        return authority;
    };
    let (host, port) = (&authority[..colon], &authority[colon + 1..]);
    let is_port = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    // A bare IPv6 address has colons of its own and no port.
    let is_host = host.ends_with(']') || !host.contains(':');
    if is_port && is_host { host } else { authority }
}
