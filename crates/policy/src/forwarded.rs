//! The client's address, and what may be trusted of the headers that tell it.

use std::net::IpAddr;

/// The connection manager's settings that matter here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// Whether the peer is the client itself, unless `trusted_hops` says otherwise (`use_remote_address`; gateways).
    pub use_remote_address: bool,
    /// Proxies in front that are trusted to have appended to `x-forwarded-for` (`xff_num_trusted_hops`).
    pub trusted_hops: u32,
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The client's address (`remote.ip`, `%DOWNSTREAM_REMOTE_ADDRESS%`).
    pub address: IpAddr,
    /// Whether `x-forwarded-for` gave it.
    pub from_header: bool,
    /// Whether `x-envoy-*` headers of the peer that tell, e.g. of paths before a rewrite, may go on: only those of a part of the
    /// mesh may. Never concluded from an address being private (ISTIO-SECURITY-2024-006). Those that steer may never.
    pub envoy_headers_trusted: bool,
    /// Whether `x-forwarded-proto` and `x-forwarded-host` of the peer hold: it is a part of the mesh, or one of the trusted hops.
    pub forwarded_headers_trusted: bool,
    /// Whether the proxy appends the direct peer's address to `x-forwarded-for`.
    pub append_forwarded_for: bool,
}

/// The address `hops` from the right end of all `x-forwarded-for` values (0 is the last). `None` if there are not so many, or if
/// it is not a plain IP address: Envoy then keeps the peer's address.
pub fn forwarded_for<'a>(values: impl Iterator<Item = &'a [u8]>, hops: u32) -> Option<IpAddr> {
    let mut last = smallvec::SmallVec::<[&[u8]; 16]>::new();
    for value in values {
        last.extend(value.split(|b| *b == b','));
    }
    let index = last.len().checked_sub(usize::try_from(hops).ok()?.checked_add(1)?)?;
    let text = std::str::from_utf8(last[index]).ok()?.trim_matches([' ', '\t']);
    text.parse().ok().map(|ip: IpAddr| ip.to_canonical())
}

/// Derives the client's address by Envoy's rules.
///
/// - With `use_remote_address` and no trusted hops the peer is the client. With N trusted hops the client is the N-th address from
///   the right of `x-forwarded-for` (the peer itself is the first hop), or the peer if there are fewer.
/// - Without it (sidecars) the client is the (N+1)-th address from the right, or the peer.
///
/// `in_mesh` says that the peer proved a mesh identity by mTLS, or that it is the pod's own application.
pub fn derive<'a>(peer: IpAddr, values: impl Iterator<Item = &'a [u8]>, trust: Trust, in_mesh: bool) -> Client {
    let hops = match (trust.use_remote_address, trust.trusted_hops) {
        (true, 0) => None,
        (true, n) => Some(n - 1),
        (false, n) => Some(n),
    };
    let found = hops.and_then(|h| forwarded_for(values, h));
    Client {
        address: found.unwrap_or_else(|| peer.to_canonical()),
        from_header: found.is_some(),
        envoy_headers_trusted: in_mesh,
        forwarded_headers_trusted: in_mesh || trust.trusted_hops > 0,
        append_forwarded_for: trust.use_remote_address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xff(values: &[&'static str]) -> impl Iterator<Item = &'static [u8]> {
        values.iter().map(|v| v.as_bytes()).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn addresses_from_the_right() {
        for (values, hops, expected) in [
            (&["1.1.1.1"][..], 0, Some("1.1.1.1")),
            (&["1.1.1.1, 2.2.2.2"], 0, Some("2.2.2.2")),
            (&["1.1.1.1, 2.2.2.2"], 1, Some("1.1.1.1")),
            (&["1.1.1.1, 2.2.2.2"], 2, None),
            (&["1.1.1.1", "2.2.2.2,3.3.3.3"], 2, Some("1.1.1.1")),
            (&["1.1.1.1,\t2001:db8::1 "], 0, Some("2001:db8::1")),
            (&["::ffff:1.2.3.4"], 0, Some("1.2.3.4")),
            (&["1.1.1.1:80"], 0, None),
            (&["unknown"], 0, None),
            (&[""], 0, None),
            (&[], 0, None),
            (&["1.1.1.1"], u32::MAX, None),
        ] {
            let expected = expected.map(|e: &str| e.parse::<IpAddr>().unwrap());
            assert_eq!(forwarded_for(xff(values), hops), expected, "{values:?} {hops}");
        }
    }

    /// The examples of Envoy's page on `x-forwarded-for`.
    #[test]
    fn client_addresses() {
        let trust = |use_remote_address, trusted_hops| Trust { use_remote_address, trusted_hops };
        let header = "203.0.113.128,203.0.113.10,203.0.113.1";
        for (peer, trust, values, expected) in [
            // Edge: the peer is the client, whatever the header says.
            ("192.0.2.5", trust(true, 0), &[header][..], "192.0.2.5"),
            // Sidecar: the last address.
            ("10.11.12.13", trust(false, 0), &[header], "203.0.113.1"),
            ("10.11.12.13", trust(false, 0), &[], "10.11.12.13"),
            // Two trusted hops.
            ("192.0.2.5", trust(true, 2), &[header], "203.0.113.10"),
            ("10.11.12.13", trust(false, 2), &[header], "203.0.113.128"),
            ("10.11.12.13", trust(false, 3), &[header], "10.11.12.13"),
            ("::ffff:10.0.0.1", trust(true, 0), &[], "10.0.0.1"),
        ] {
            let client = derive(peer.parse().unwrap(), xff(values), trust, false);
            assert_eq!(client.address, expected.parse::<IpAddr>().unwrap(), "{peer} {trust:?} {values:?}");
            assert_eq!(client.append_forwarded_for, trust.use_remote_address);
        }
    }

    #[test]
    fn a_private_address_earns_no_trust() {
        for peer in ["10.0.0.1", "192.168.1.1", "127.0.0.1", "::1"] {
            let client = derive(peer.parse().unwrap(), xff(&["10.0.0.2"]), Trust::default(), false);
            assert!(!client.envoy_headers_trusted && !client.forwarded_headers_trusted, "{peer}");
        }
        let hop = derive("10.0.0.1".parse().unwrap(), xff(&[]), Trust { use_remote_address: true, trusted_hops: 1 }, false);
        assert!(hop.forwarded_headers_trusted && !hop.envoy_headers_trusted);
        assert!(derive("10.0.0.1".parse().unwrap(), xff(&[]), Trust::default(), true).envoy_headers_trusted);
    }
}
