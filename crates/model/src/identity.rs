//! Who a workload is: trust domains and SPIFFE identities.
//!
//! A workload's identity is `spiffe://<trust domain>/ns/<namespace>/sa/<service account>` (Istio's form of a SPIFFE ID).
//! Parsing is strict, because authorization is decided on these strings: what is not exactly of that form is not an identity.

use std::fmt;
use std::sync::Arc;

/// The longest SPIFFE ID that is accepted, in bytes (SPIFFE-ID specification, section 2.3).
pub const MAX_SPIFFE_ID_LEN: usize = 2048;

/// Why a text is not an identity. Carries the offending text, shortened and escaped for logs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The text is longer than [`MAX_SPIFFE_ID_LEN`].
    #[error("SPIFFE ID of {0} bytes is longer than {MAX_SPIFFE_ID_LEN}")]
    TooLong(usize),
    /// The text does not start with `spiffe://`.
    #[error("{0:?} does not start with spiffe://")]
    Scheme(String),
    /// The trust domain is empty or has a byte other than `a-z 0-9 . - _`.
    #[error("{0:?} is not a trust domain: lower-case letters, digits, '.', '-' and '_' are allowed")]
    TrustDomain(String),
    /// The path is not `/ns/NAMESPACE/sa/SERVICE-ACCOUNT`.
    #[error("{0:?} is not of the form spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT")]
    Path(String),
}

/// The name of a root of trust, e.g. `cluster.local` (`MeshConfig.trustDomain`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Checks the SPIFFE rule for trust domain names: 1 to 255 bytes of `a-z 0-9 . - _`.
    pub fn try_new(name: &str) -> Result<Self, IdentityError> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if name.is_empty() || name.len() > 255 || !name.bytes().all(allowed) {
            return Err(IdentityError::TrustDomain(shorten(name)));
        }
        Ok(Self(name.into()))
    }

    /// The name, without a scheme.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TrustDomain {
    /// Istio's default, `cluster.local`.
    fn default() -> Self {
        Self("cluster.local".into())
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The identity of a workload: a SPIFFE ID of Istio's form. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    uri: Arc<str>,
    /// Byte offsets in `uri`: end of the trust domain, then the namespace's start and end, then the account's start.
    trust_domain_end: u16,
    namespace: (u16, u16),
    account_start: u16,
}

const SCHEME: &str = "spiffe://";

impl SpiffeId {
    /// Puts an identity together from its parts, checking each.
    pub fn new(trust_domain: &TrustDomain, namespace: &str, service_account: &str) -> Result<Self, IdentityError> {
        Self::parse(&format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}"))
    }

    /// Parses a whole URI such as `spiffe://cluster.local/ns/production/sa/order-service-sa`.
    ///
    /// Refused are other schemes, user info, ports, queries, fragments, percent escapes, empty segments and any other path.
    pub fn parse(uri: &str) -> Result<Self, IdentityError> {
        if uri.len() > MAX_SPIFFE_ID_LEN {
            return Err(IdentityError::TooLong(uri.len()));
        }
        let rest = uri.strip_prefix(SCHEME).ok_or_else(|| IdentityError::Scheme(shorten(uri)))?;
        let path_error = || IdentityError::Path(shorten(uri));
        let mut parts = rest.split('/');
        let (trust_domain, ns, namespace, sa, account) =
            match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
                (Some(td), Some(ns), Some(namespace), Some(sa), Some(account), None) => (td, ns, namespace, sa, account),
                _ => return Err(path_error()),
            };
        TrustDomain::try_new(trust_domain)?;
        if ns != "ns" || sa != "sa" || !is_segment(namespace) || !is_segment(account) {
            return Err(path_error());
        }
        let offset = |n: usize| u16::try_from(n).map_err(|_| IdentityError::TooLong(uri.len()));
        let trust_domain_end = SCHEME.len() + trust_domain.len();
        let namespace_start = trust_domain_end + "/ns/".len();
        let namespace_end = namespace_start + namespace.len();
        Ok(Self {
            uri: uri.into(),
            trust_domain_end: offset(trust_domain_end)?,
            namespace: (offset(namespace_start)?, offset(namespace_end)?),
            account_start: offset(namespace_end + "/sa/".len())?,
        })
    }

    /// The whole URI, with `spiffe://`.
    pub fn as_uri(&self) -> &str {
        &self.uri
    }

    /// The form that policies are written in: the URI without `spiffe://`
    /// (`AuthorizationPolicy.rules[].from[].source.principals`).
    pub fn principal(&self) -> &str {
        &self.uri[SCHEME.len()..]
    }

    /// The trust domain's name.
    pub fn trust_domain(&self) -> &str {
        &self.uri[SCHEME.len()..usize::from(self.trust_domain_end)]
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        &self.uri[usize::from(self.namespace.0)..usize::from(self.namespace.1)]
    }

    /// The Kubernetes service account.
    pub fn service_account(&self) -> &str {
        &self.uri[usize::from(self.account_start)..]
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl std::str::FromStr for SpiffeId {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// SPIFFE-ID specification, section 2.2: letters, digits, `.`, `-`, `_`; not `.` or `..`.
fn is_segment(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    !text.is_empty() && text != "." && text != ".." && text.bytes().all(allowed)
}

fn shorten(text: &str) -> String {
    text.chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_an_identity() {
        let id = SpiffeId::parse("spiffe://cluster.local/ns/production/sa/order-service-sa").unwrap();
        assert_eq!(id.trust_domain(), "cluster.local");
        assert_eq!(id.namespace(), "production");
        assert_eq!(id.service_account(), "order-service-sa");
        assert_eq!(id.principal(), "cluster.local/ns/production/sa/order-service-sa");
        assert_eq!(id, SpiffeId::new(&TrustDomain::default(), "production", "order-service-sa").unwrap());
    }

    #[test]
    fn what_is_not_an_identity() {
        for text in [
            "",
            "cluster.local/ns/a/sa/b",
            "SPIFFE://cluster.local/ns/a/sa/b",
            "spiffe:///ns/a/sa/b",
            "spiffe://Cluster.local/ns/a/sa/b",
            "spiffe://cluster.local:80/ns/a/sa/b",
            "spiffe://user@cluster.local/ns/a/sa/b",
            "spiffe://cluster.local/ns/a/sa/b/",
            "spiffe://cluster.local/ns/a/sa/b/c",
            "spiffe://cluster.local/ns/a/sa/",
            "spiffe://cluster.local/ns//sa/b",
            "spiffe://cluster.local/ns/../sa/b",
            "spiffe://cluster.local/ns/a/sa/b?x",
            "spiffe://cluster.local/ns/a/sa/b#x",
            "spiffe://cluster.local/ns/a/sa/b%00",
            "spiffe://cluster.local/ns/a/sa/b\0",
            "spiffe://cluster.local/ns/a/xx/b",
        ] {
            assert!(SpiffeId::parse(text).is_err(), "{text:?}");
        }
        assert_eq!(SpiffeId::parse(&"s".repeat(3000)), Err(IdentityError::TooLong(3000)));
    }
}
