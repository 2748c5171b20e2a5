//! Who the peer has to be, once its chain is known to lead to a trusted root.

use std::net::IpAddr;
use std::sync::Arc;

use lateen_model::dataplane::{StringMatch, StringPredicate};
use lateen_model::identity::{SpiffeId, TrustDomain};
use rustls_pki_types::ServerName;

use crate::certificate::{AltName, Certificate};
use crate::verify::VerifyError;

/// What the certificate of a peer has to say, besides leading to a root of the trust bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerExpectation {
    /// Exactly one of these identities; none, if the list is empty. What a client expects of a service of the mesh.
    AnyOf(Arc<[SpiffeId]>),
    /// An identity in one of these trust domains: the mesh's own and its aliases (`MeshConfig.trustDomainAliases`). What a
    /// server of the mesh expects.
    TrustDomains(Arc<[TrustDomain]>),
    /// One of the alternative names matches one of these (`match_subject_alt_names` of Envoy). A DNS name of the certificate
    /// may have a wildcard as its first label.
    AltNames(Arc<[StringMatch]>),
    /// A DNS or IP name that equals the name the connection is made to (RFC 9525): servers outside of the mesh, and the
    /// control plane.
    ServerName,
    /// Nothing more: an identity may be there or not (Istio sets no names where a service's accounts are unknown).
    AnyInTrustBundle,
    /// Not even a trusted chain (Envoy's `UpstreamTlsContext` without `trusted_ca`, Istio's `insecureSkipVerify`). Encrypts
    /// against onlookers only; the peer counts as unauthenticated.
    Unverified,
}

impl PeerExpectation {
    /// The tightest expectation that says what a list of xDS matchers says. An empty list checks no names, as in Envoy.
    pub fn from_san_matches(matches: &[StringMatch]) -> Self {
        if matches.is_empty() {
            return Self::AnyInTrustBundle;
        }
        if let Some(ids) = matches.iter().map(exact_identity).collect::<Option<Vec<_>>>() {
            return Self::AnyOf(ids.into());
        }
        if let Some(domains) = matches.iter().map(whole_trust_domain).collect::<Option<Vec<_>>>() {
            return Self::TrustDomains(domains.into());
        }
        Self::AltNames(matches.into())
    }

    /// Checks the names of a certificate whose chain has been verified.
    ///
    /// # Errors
    /// [`VerifyError::NoIdentity`] and the `Unexpected…` variants.
    pub fn check(&self, certificate: &Certificate, server_name: Option<&ServerName<'_>>) -> Result<(), VerifyError> {
        match self {
            Self::AnyOf(ids) => {
                let id = certificate.identity().ok_or(VerifyError::NoIdentity)?;
                if ids.contains(id) { Ok(()) } else { Err(VerifyError::UnexpectedIdentity(id.clone())) }
            }
            Self::TrustDomains(domains) => {
                let id = certificate.identity().ok_or(VerifyError::NoIdentity)?;
                let known = domains.iter().any(|d| d.as_str() == id.trust_domain());
                if known { Ok(()) } else { Err(VerifyError::UnexpectedTrustDomain(id.clone())) }
            }
            Self::AltNames(matches) => {
                let any = certificate.names().iter().any(|name| matches.iter().any(|m| name_matches(name, m)));
                if any { Ok(()) } else { Err(VerifyError::UnexpectedName) }
            }
            Self::ServerName => match server_name {
                Some(wanted) if certificate.names().iter().any(|name| is_server_name(name, wanted)) => Ok(()),
                _ => Err(VerifyError::UnexpectedName),
            },
            Self::AnyInTrustBundle | Self::Unverified => Ok(()),
        }
    }
}

fn exact_identity(matcher: &StringMatch) -> Option<SpiffeId> {
    match &matcher.predicate {
        StringPredicate::Exact(uri) if !matcher.ignore_case => SpiffeId::parse(uri).ok(),
        _ => None,
    }
}

fn whole_trust_domain(matcher: &StringMatch) -> Option<TrustDomain> {
    match &matcher.predicate {
        StringPredicate::Prefix(prefix) if !matcher.ignore_case => {
            TrustDomain::try_new(prefix.strip_prefix("spiffe://")?.strip_suffix('/')?).ok()
        }
        _ => None,
    }
}

fn name_matches(name: &AltName, matcher: &StringMatch) -> bool {
    match (name, &matcher.predicate) {
        (AltName::Dns(pattern), StringPredicate::Exact(wanted)) => dns_matches(pattern, wanted),
        (AltName::Dns(text) | AltName::Uri(text) | AltName::Email(text), _) => matcher.matches(text),
        (AltName::Ip(address), _) => matcher.matches(&address.to_string()),
    }
}

fn is_server_name(name: &AltName, wanted: &ServerName<'_>) -> bool {
    match (name, wanted) {
        (AltName::Dns(pattern), ServerName::DnsName(dns)) => dns_matches(pattern, dns.as_ref()),
        (AltName::Ip(address), ServerName::IpAddress(ip)) => *address == IpAddr::from(*ip),
        _ => false,
    }
}

/// RFC 9525, section 6.3: case does not count; `*` alone may stand for the whole first label, and for one label only.
fn dns_matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        None => pattern.eq_ignore_ascii_case(name),
        Some(parent) => match name.split_once('.') {
            Some((first, rest)) => !first.is_empty() && parent.contains('.') && parent.eq_ignore_ascii_case(rest),
            None => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(uri: &str) -> SpiffeId {
        SpiffeId::parse(uri).unwrap()
    }

    #[test]
    fn san_matchers_become_the_tightest_expectation() {
        let exact = |s: &str| StringMatch::exact(s);
        assert_eq!(PeerExpectation::from_san_matches(&[]), PeerExpectation::AnyInTrustBundle);
        assert_eq!(
            PeerExpectation::from_san_matches(&[exact("spiffe://cluster.local/ns/a/sa/b")]),
            PeerExpectation::AnyOf([id("spiffe://cluster.local/ns/a/sa/b")].into())
        );
        assert_eq!(
            PeerExpectation::from_san_matches(&[StringMatch::prefix("spiffe://old.local/")]),
            PeerExpectation::TrustDomains([TrustDomain::try_new("old.local").unwrap()].into())
        );
        // Without the slash, `spiffe://cluster.local` would let in `cluster.local.evil`: it stays a plain prefix, as written.
        for loose in [
            vec![StringMatch::prefix("spiffe://cluster.local")],
            vec![exact("spiffe://cluster.local/ns/a/sa/b"), exact("example.com")],
            vec![StringMatch { predicate: StringPredicate::Exact("spiffe://c/ns/a/sa/b".into()), ignore_case: true }],
        ] {
            assert_eq!(PeerExpectation::from_san_matches(&loose), PeerExpectation::AltNames(loose.clone().into()), "{loose:?}");
        }
    }

    #[test]
    fn wildcards_stand_for_one_label() {
        for (pattern, name, expected) in [
            ("example.com", "EXAMPLE.com", true),
            ("example.com", "a.example.com", false),
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "a.b.example.com", false),
            ("*.example.com", "example.com", false),
            ("*.example.com", ".example.com", false),
            ("*.com", "example.com", false),
            ("a*.example.com", "ab.example.com", false),
            ("*", "example", false),
            ("", "example", false),
        ] {
            assert_eq!(dns_matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
