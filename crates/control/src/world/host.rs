//! The algebra of host names that all of Istio's resources share: exact names and wildcards by suffix.

use std::cmp::Ordering;

/// Whether a host is a wildcard: its first byte is `*`.
pub fn is_wildcard(host: &str) -> bool {
    host.starts_with('*')
}

/// Whether the two hosts can denote a common name; either may be a wildcard.
pub fn matches(a: &str, b: &str) -> bool {
    match (a.strip_prefix('*'), b.strip_prefix('*')) {
        (None, None) => a == b,
        (Some(suffix), None) => b.ends_with(suffix),
        (None, Some(suffix)) => a.ends_with(suffix),
        (Some(a), Some(b)) => a.ends_with(b) || b.ends_with(a),
    }
}

/// Whether all that `inner` denotes is denoted by `outer`. A wildcard is never part of an exact name.
pub fn subset_of(inner: &str, outer: &str) -> bool {
    match (inner.strip_prefix('*'), outer.strip_prefix('*')) {
        (None, None) => inner == outer,
        (None, Some(suffix)) => inner.ends_with(suffix),
        (Some(_), None) => false,
        (Some(inner), Some(outer)) => inner.ends_with(outer),
    }
}

/// Most specific first: exact names, then the longer wildcard, then by text.
pub fn by_specificity(a: &str, b: &str) -> Ordering {
    is_wildcard(a).cmp(&is_wildcard(b)).then(b.len().cmp(&a.len())).then(a.cmp(b))
}

/// The most specific of `hosts` that covers `needle`.
pub fn most_specific<'a>(needle: &str, hosts: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    hosts.filter(|host| subset_of(needle, host)).min_by(|a, b| by_specificity(a, b))
}

/// A short name in a resource of `namespace` stands for a service of that namespace; what contains a dot, `*`, an address
/// and the empty text stay as they are.
pub fn resolve(name: &str, namespace: &str, domain: &str) -> String {
    let stays = name.is_empty() || name == "*" || name.contains('.') || name.parse::<std::net::IpAddr>().is_ok();
    if stays { name.to_ascii_lowercase() } else { format!("{}.{namespace}.svc.{domain}", name.to_ascii_lowercase()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn algebra() {
        for (a, b, both, sub) in [
            ("a.com", "a.com", true, true),
            ("a.com", "b.com", false, false),
            ("a.com", "*", true, true),
            ("a.foo.com", "*.foo.com", true, true),
            ("a.b.foo.com", "*.foo.com", true, true),
            ("foo.com", "*.foo.com", false, false),
            ("xfoo.com", "*foo.com", true, true),
            ("*.a.foo.com", "*.foo.com", true, true),
            ("*.foo.com", "*.a.foo.com", true, false),
            ("*.foo.com", "a.foo.com", true, false),
        ] {
            assert_eq!(matches(a, b), both, "{a} {b}");
            assert_eq!(matches(b, a), both, "{b} {a}");
            assert_eq!(subset_of(a, b), sub, "{a} {b}");
        }
    }

    #[test]
    fn specificity() {
        let hosts = ["*", "*.com", "*.foo.com", "a.foo.com"];
        assert_eq!(most_specific("a.foo.com", hosts.into_iter()), Some("a.foo.com"));
        assert_eq!(most_specific("b.foo.com", hosts.into_iter()), Some("*.foo.com"));
        assert_eq!(most_specific("b.bar.com", hosts.into_iter()), Some("*.com"));
        assert_eq!(most_specific("x", hosts.into_iter()), Some("*"));
    }

    #[test]
    fn short_names() {
        assert_eq!(resolve("order", "prod", "cluster.local"), "order.prod.svc.cluster.local");
        assert_eq!(resolve("order.prod", "x", "cluster.local"), "order.prod");
        assert_eq!(resolve("*", "x", "cluster.local"), "*");
        assert_eq!(resolve("::1", "x", "cluster.local"), "::1");
    }
}
