//! The algebra of host names that all of Istio's resources share: what a name covers, and which of several names is the most
//! specific.
//!
//! A wildcard is a name that begins with `*`. It covers every name that ends with the rest: `*.foo.com` covers `a.foo.com` and
//! `a.b.foo.com`, not `foo.com`; `*` covers everything. Names are compared in lower case.
//!
//! [`Host`] is a checked name; the functions here are the same algebra for names that were checked and lowered before.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::shorten;

/// Whether a name covers more than one.
pub fn is_wildcard(host: &str) -> bool {
    host.starts_with('*')
}

/// Whether some name is covered by both. Symmetric.
pub fn matches(a: &str, b: &str) -> bool {
    subset_of(a, b) || subset_of(b, a)
}

/// Whether every name that `inner` covers is covered by `outer`. A wildcard is never part of an exact name.
pub fn subset_of(inner: &str, outer: &str) -> bool {
    match (inner.strip_prefix('*'), outer.strip_prefix('*')) {
        (None, None) => inner == outer,
        (None, Some(suffix)) => inner.ends_with(suffix),
        (Some(_), None) => false,
        (Some(inner), Some(outer)) => inner.ends_with(outer),
    }
}

/// Most specific first: exact names before wildcards, longer before shorter, then alphabetical.
pub fn by_specificity(a: &str, b: &str) -> Ordering {
    is_wildcard(a).cmp(&is_wildcard(b)).then(b.len().cmp(&a.len())).then(a.cmp(b))
}

/// The most specific of `hosts` that covers `needle`.
pub fn most_specific<'a>(needle: &str, hosts: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    hosts.filter(|host| subset_of(needle, host)).min_by(|a, b| by_specificity(a, b))
}

/// The full name, in lower case, of a `host` as an object of `namespace` writes it: a name without a dot is a service of that
/// namespace. `*` and IP addresses stay, and so does everything with a dot, but for one at the end, which says only that the
/// name is complete. (Istio's rule; it is the namespace of the object that is written, not of the service that is meant.)
pub fn resolve(host: &str, namespace: &str, domain: &str) -> String {
    let stays = host.is_empty() || host == "*" || host.contains('.') || host.parse::<IpAddr>().is_ok();
    match stays {
        true => host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase(),
        false => format!("{}.{namespace}.svc.{domain}", host.to_ascii_lowercase()),
    }
}

/// The longest name, in bytes.
const MAX_HOST_LEN: usize = 255;

/// A DNS name, possibly with a wildcard at its beginning, or an IP address. Lower case; cheap to clone.
///
/// The order is that of specificity: exact names before wildcards, longer before shorter, then alphabetical.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Host(Arc<str>);

/// Why a text is not a [`Host`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Empty.
    #[error("a host name must not be empty")]
    Empty,
    /// More than 255 bytes.
    #[error("the host name is longer than {MAX_HOST_LEN} characters")]
    TooLong,
    /// A part is not a DNS label.
    #[error(
        "{host:?} is not a host name: {label:?} must be at most 63 letters, digits and '-', beginning and ending with a letter or digit; \
         a '*' may stand only at the beginning"
    )]
    Label {
        /// The whole name.
        host: String,
        /// The part.
        label: String,
    },
    /// The last part has digits only, and the whole is not an IP address.
    #[error("{0:?} is not a host name: its last part must not be all digits")]
    NumericTopLevel(String),
}

impl Host {
    /// Checks and lowers a name.
    pub fn try_new(text: &str) -> Result<Self, HostError> {
        if text.is_empty() {
            return Err(HostError::Empty);
        }
        if text.len() > MAX_HOST_LEN {
            return Err(HostError::TooLong);
        }
        if text == "*" || text.parse::<IpAddr>().is_ok() {
            return Ok(Self(text.to_ascii_lowercase().into()));
        }
        // A dot at the end says that the name is complete; it is complete anyway.
        let name = text.strip_suffix('.').unwrap_or(text);
        let mut labels = name.split('.');
        let first = labels.next().unwrap_or_default();
        let first = match first {
            "*" if name.len() > 1 => "x",
            first => first.strip_prefix("*-").or_else(|| first.strip_prefix('*')).unwrap_or(first),
        };
        for label in std::iter::once(first).chain(labels) {
            if !is_label(label) {
                return Err(HostError::Label { host: shorten(text), label: shorten(label) });
            }
        }
        let top = name.rsplit('.').next().unwrap_or_default();
        if top.bytes().all(|b| b.is_ascii_digit()) {
            return Err(HostError::NumericTopLevel(shorten(text)));
        }
        Ok(Self(name.to_ascii_lowercase().into()))
    }

    /// The full name of a `host` as an object of `namespace` writes it; see [`resolve`].
    pub fn resolve(host: &str, namespace: &str, domain: &str) -> Result<Self, HostError> {
        Self::try_new(&resolve(host, namespace, domain))
    }

    /// The full name of a Kubernetes service.
    pub fn of_service(name: &str, namespace: &str, domain: &str) -> Result<Self, HostError> {
        Self::try_new(&format!("{name}.{namespace}.svc.{domain}"))
    }

    /// The name, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it covers more than one name.
    pub fn is_wildcard(&self) -> bool {
        is_wildcard(&self.0)
    }

    /// What covered names end with, if this is a wildcard.
    fn suffix(&self) -> Option<&str> {
        self.0.strip_prefix('*')
    }

    /// Whether some name is covered by both. Symmetric.
    pub fn matches(&self, other: &Self) -> bool {
        matches(&self.0, &other.0)
    }

    /// Whether every name that this covers is covered by `other`. A wildcard is never a subset of an exact name.
    pub fn is_subset_of(&self, other: &Self) -> bool {
        subset_of(&self.0, &other.0)
    }
}

fn is_label(label: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    !label.is_empty() && label.len() <= 63 && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
}

impl Ord for Host {
    fn cmp(&self, other: &Self) -> Ordering {
        by_specificity(&self.0, &other.0)
    }
}

impl PartialOrd for Host {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// Values by host, found by the most specific host that covers a name. A lookup takes time in the length of the name, not in
/// the number of hosts.
#[derive(Clone, Debug)]
pub struct HostMap<T> {
    exact: HashMap<Host, T>,
    /// By suffix, i.e. without the `*`.
    wildcards: HashMap<Box<str>, (Host, T)>,
    longest_suffix: usize,
}

impl<T> Default for HostMap<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), wildcards: HashMap::new(), longest_suffix: 0 }
    }
}

impl<T> HostMap<T> {
    /// Puts a value in; returns the one that was there.
    pub fn insert(&mut self, host: Host, value: T) -> Option<T> {
        match host.suffix() {
            None => self.exact.insert(host, value),
            Some(suffix) => {
                self.longest_suffix = self.longest_suffix.max(suffix.len());
                self.wildcards.insert(suffix.into(), (host, value)).map(|(_, old)| old)
            }
        }
    }

    /// The value of exactly this host.
    pub fn get(&self, host: &Host) -> Option<&T> {
        match host.suffix() {
            None => self.exact.get(host),
            Some(suffix) => self.wildcards.get(suffix).map(|(_, value)| value),
        }
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, host: &Host) -> Option<&mut T> {
        match host.suffix() {
            None => self.exact.get_mut(host),
            Some(suffix) => self.wildcards.get_mut(suffix).map(|(_, value)| value),
        }
    }

    /// The most specific host that covers `needle`, and its value: the same host, else the longest wildcard.
    pub fn most_specific(&self, needle: &Host) -> Option<(&Host, &T)> {
        let same = match needle.suffix() {
            None => self.exact.get_key_value(needle),
            Some(suffix) => self.wildcards.get(suffix).map(|(host, value)| (host, value)),
        };
        same.or_else(|| self.wider(needle))
    }

    /// The most specific wildcard that covers `needle` and is not `needle` itself.
    pub fn wider(&self, needle: &Host) -> Option<(&Host, &T)> {
        let (covered, first) = match needle.suffix() {
            None => (needle.as_str(), 0),
            Some(suffix) => (suffix, 1),
        };
        let first = first.max(covered.len().saturating_sub(self.longest_suffix));
        // Names are ASCII, so every index is a boundary.
        let mut suffixes = (first..=covered.len()).map(|start| &covered[start..]);
        suffixes.find_map(|suffix| self.wildcards.get(suffix)).map(|(host, value)| (host, value))
    }

    /// All hosts and values, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Host, &T)> {
        self.exact.iter().chain(self.wildcards.values().map(|(host, value)| (host, value)))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wildcards.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(text: &str) -> Host {
        Host::try_new(text).unwrap()
    }

    #[test]
    fn names_are_checked_and_lowered() {
        for (text, expected) in [
            ("*", "*"),
            ("Reviews", "reviews"),
            ("a.b.c.", "a.b.c"),
            ("*.foo.com", "*.foo.com"),
            ("*foo.com", "*foo.com"),
            ("*-a.foo.com", "*-a.foo.com"),
            ("10.0.0.1", "10.0.0.1"),
            ("FE80::1", "fe80::1"),
            ("1a.b", "1a.b"),
        ] {
            assert_eq!(host(text).as_str(), expected);
        }
        let long = format!("{}com", "a.".repeat(127));
        for text in
            ["", ".", "a..b", "a.*.b", "a*.b", "**.b", "*.", "-a", "a-", "a_b", "a.1", "1.2.3", "ä.com", "a b", "*.*", &long]
        {
            assert!(Host::try_new(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn short_names_belong_to_the_objects_namespace() {
        let resolve = |text: &str| Host::resolve(text, "prod", "cluster.local").map(|host| host.to_string());
        assert_eq!(resolve("reviews").as_deref(), Ok("reviews.prod.svc.cluster.local"));
        assert_eq!(resolve("Reviews").as_deref(), Ok("reviews.prod.svc.cluster.local"));
        for text in ["*", "reviews.other", "10.0.0.1", "::1", "*.foo.com"] {
            assert_eq!(resolve(text).as_deref(), Ok(text));
        }
        assert_eq!(resolve("Reviews.other.svc.cluster.local.").as_deref(), Ok("reviews.other.svc.cluster.local"));
        assert_eq!(resolve(""), Err(HostError::Empty));
    }

    #[test]
    fn wildcards_cover_by_suffix() {
        let cases = [
            ("a.foo.com", "*.foo.com", true),
            ("a.b.foo.com", "*.foo.com", true),
            ("foo.com", "*.foo.com", false),
            ("foo.com", "*", true),
            ("foo.com", "foo.com", true),
            ("foo.com", "bar.com", false),
            ("*.foo.com", "*.com", true),
            ("*.com", "*.foo.com", false),
            ("*.foo.com", "a.foo.com", false),
            ("xfoo.com", "*foo.com", true),
            ("*", "*", true),
        ];
        for (inner, outer, covered) in cases {
            assert_eq!(host(inner).is_subset_of(&host(outer)), covered, "{inner} in {outer}");
        }
        assert!(host("*.foo.com").matches(&host("a.foo.com")) && host("a.foo.com").matches(&host("*.foo.com")));
        assert!(!host("*.foo.com").matches(&host("*.bar.com")));
    }

    #[test]
    fn specific_names_come_first() {
        let mut hosts: Vec<Host> = ["*", "*.com", "b.com", "a.com", "*.foo.com", "long.com"].map(host).into();
        hosts.sort();
        assert_eq!(hosts, ["long.com", "a.com", "b.com", "*.foo.com", "*.com", "*"].map(host));
    }

    #[test]
    fn the_most_specific_host_is_found() {
        let mut map = HostMap::default();
        for (value, name) in ["a.foo.com", "*.foo.com", "*.com", "*.b.foo.com"].into_iter().enumerate() {
            assert_eq!(map.insert(host(name), value), None);
        }
        let find = |map: &HostMap<usize>, name: &str| map.most_specific(&host(name)).map(|(_, value)| *value);
        for (name, value) in [
            ("a.foo.com", Some(0)),
            ("c.foo.com", Some(1)),
            ("x.b.foo.com", Some(3)),
            ("bar.com", Some(2)),
            ("*.foo.com", Some(1)),
            ("*.c.foo.com", Some(1)),
            ("*.org", None),
            ("foo.org", None),
            ("com", None),
        ] {
            assert_eq!(find(&map, name), value, "{name}");
        }
        map.insert(host("*"), 9);
        assert_eq!(find(&map, "foo.org"), Some(9));
        assert_eq!(map.get(&host("*.com")), Some(&2));
        assert_eq!(map.insert(host("*.com"), 7), Some(2));
    }

    fn any_host() -> impl Strategy<Value = Host> {
        let label = prop::sample::select(vec!["a", "b", "ab", "c"]);
        (any::<bool>(), any::<bool>(), prop::collection::vec(label, 1..4)).prop_map(|(wildcard, dot, labels)| {
            let prefix = match (wildcard, dot) {
                (true, true) => "*.",
                (true, false) => "*",
                (false, _) => "",
            };
            host(&format!("{prefix}{}", labels.join(".")))
        })
    }

    proptest! {
        #[test]
        fn subset_is_a_partial_order_and_matching_is_symmetric(a in any_host(), b in any_host(), c in any_host()) {
            prop_assert!(a.is_subset_of(&a));
            prop_assert_eq!(a.matches(&b), b.matches(&a));
            if a.is_subset_of(&b) && b.is_subset_of(&c) {
                prop_assert!(a.is_subset_of(&c));
            }
            if a.is_subset_of(&b) && b.is_subset_of(&a) {
                prop_assert_eq!(&a, &b);
            }
            if a.is_subset_of(&b) {
                prop_assert!(a <= b, "the more specific one sorts first");
            }
        }

        #[test]
        fn lookup_equals_searching_all(hosts in prop::collection::vec(any_host(), 0..8), needle in any_host()) {
            let mut map = HostMap::default();
            for host in &hosts {
                map.insert(host.clone(), host.clone());
            }
            let best = hosts.iter().filter(|host| needle.is_subset_of(host)).min();
            prop_assert_eq!(map.most_specific(&needle).map(|(host, _)| host), best);
            let texts = hosts.iter().map(Host::as_str);
            prop_assert_eq!(most_specific(needle.as_str(), texts), best.map(Host::as_str));
        }

        #[test]
        fn arbitrary_text_never_panics(text in any::<String>()) {
            if let Ok(host) = Host::try_new(&text) {
                prop_assert_eq!(Host::try_new(host.as_str()), Ok(host));
            }
        }
    }
}
