//! The hosts of a Gateway's server, with the namespaces whose VirtualServices may serve them.

use crate::resource::host::{self, Host};
use crate::resource::{check, shorten};

/// One entry of a server's `hosts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayHost {
    /// Whose VirtualServices may attach.
    pub namespace: GatewayHostNamespace,
    /// Which names they may serve; `*` is all.
    pub host: Host,
}

/// The namespace of a [`GatewayHost`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewayHostNamespace {
    /// `*`, or nothing: all.
    Any,
    /// `.`: the Gateway's own.
    Own,
    /// One by name.
    Named(String),
}

impl GatewayHost {
    /// Reads `NAME` or `NAMESPACE/NAME`.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (namespace, name) = match text.split_once('/') {
            None => (GatewayHostNamespace::Any, text),
            Some(("*", name)) => (GatewayHostNamespace::Any, name),
            Some((".", name)) => (GatewayHostNamespace::Own, name),
            Some((namespace, name)) => {
                check::dns_label(namespace).map_err(|_| {
                    format!("{:?} must be HOST or NAMESPACE/HOST, where NAMESPACE is a name, '.' or '*'", shorten(text))
                })?;
                (GatewayHostNamespace::Named(namespace.to_owned()), name)
            }
        };
        let host = Host::try_new(name).map_err(|error| error.to_string())?;
        Ok(Self { namespace, host })
    }

    /// Whether VirtualServices of `namespace` may attach; `own` is the Gateway's namespace.
    pub fn admits(&self, namespace: &str, own: &str) -> bool {
        match &self.namespace {
            GatewayHostNamespace::Any => true,
            GatewayHostNamespace::Own => namespace == own,
            GatewayHostNamespace::Named(name) => name == namespace,
        }
    }

    /// The names that both this and `wanted` cover: the narrower of the two, if they have any in common.
    pub fn intersection<'a>(&'a self, wanted: &'a str) -> Option<&'a str> {
        let own = self.host.as_str();
        if host::subset_of(wanted, own) { Some(wanted) } else { host::subset_of(own, wanted).then_some(own) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_and_namespaces() {
        for (text, namespace, admitted) in [
            ("a.com", "other", true),
            ("*/a.com", "other", true),
            ("./a.com", "other", false),
            ("./a.com", "own", true),
            ("other/a.com", "other", true),
            ("other/a.com", "own", false),
        ] {
            let host = GatewayHost::parse(text).unwrap();
            assert_eq!(host.host.as_str(), "a.com");
            assert_eq!(host.admits(namespace, "own"), admitted, "{text} {namespace}");
        }
        for text in ["", "a/", "/a.com", "A B/a.com", "ns/a_b.com", "ns/x/a.com", "a.*.com"] {
            assert!(GatewayHost::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_narrower_name_is_served() {
        for (own, wanted, expected) in [
            ("a.com", "a.com", Some("a.com")),
            ("*.a.com", "x.a.com", Some("x.a.com")),
            ("x.a.com", "*.a.com", Some("x.a.com")),
            ("a.com", "*", Some("a.com")),
            ("*", "b.com", Some("b.com")),
            ("*.a.com", "*.x.a.com", Some("*.x.a.com")),
            ("a.com", "b.com", None),
            ("*.a.com", "a.com", None),
        ] {
            assert_eq!(GatewayHost::parse(own).unwrap().intersection(wanted), expected, "{own} {wanted}");
        }
    }
}
