//! Names in which limits on requests are written, for Envoy and for Lateen's own proxy.

/// The filter.
pub(crate) const LOCAL_RATE_LIMIT: &str = "envoy.filters.http.local_ratelimit";

/// The key of a descriptor that names a rule.
pub(crate) const RULE: &str = "rule";

/// The key of a descriptor that tells clients apart.
pub(crate) const CLIENT: &str = "client";

/// The key that Envoy gives the client's address.
pub(crate) const REMOTE_ADDRESS: &str = "remote_address";

/// A header that refusals have, which tells clients' proxies not to try again, and its value.
pub(crate) const RATE_LIMITED: (&str, &str) = ("x-envoy-ratelimited", "true");

/// The URI of the certificate that a client has shown and that was verified.
pub(crate) const URI_SAN: &str = "%DOWNSTREAM_PEER_URI_SAN%";
