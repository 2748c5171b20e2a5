//! The header of the PROXY protocol, by which the far end learns whose connection it is (HAProxy's proxy-protocol.txt).

use lateen_model::dataplane::ProxyProtocolVersion;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// What version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const PROXY: u8 = 0x21;
/// Version 2, command LOCAL: no connection of anybody else.
const LOCAL: u8 = 0x20;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// Whose connection is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    /// The client's end.
    pub(crate) source: SocketAddr,
    /// Where the client wanted to go.
    pub(crate) destination: SocketAddr,
}

/// The header of a connection on behalf of `origin`. A connection of our own is told by its own ends in version 1 (`own`: ours and
/// theirs), and as local in version 2, as Envoy does.
pub(super) fn header(version: ProxyProtocolVersion, origin: Option<Origin>, own: Origin) -> Vec<u8> {
    match (version, origin) {
        (ProxyProtocolVersion::V1, origin) => text(origin.unwrap_or(own)),
        (ProxyProtocolVersion::V2, Some(origin)) => binary(origin),
        (ProxyProtocolVersion::V2, None) => [SIGNATURE.as_slice(), &[LOCAL, 0, 0, 0]].concat(),
    }
}

fn text(Origin { source, destination }: Origin) -> Vec<u8> {
    let (family, from, to) = match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ("TCP4", from.to_string(), to.to_string()),
        (from, to) => ("TCP6", as_v6(from).to_string(), as_v6(to).to_string()),
    };
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
}

fn binary(Origin { source, destination }: Origin) -> Vec<u8> {
    let mut out = SIGNATURE.to_vec();
    out.push(PROXY);
    match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            out.extend_from_slice(&[TCP_OVER_IPV4, 0, 12]);
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
        }
        (from, to) => {
            out.extend_from_slice(&[TCP_OVER_IPV6, 0, 36]);
            out.extend_from_slice(&as_v6(from).octets());
            out.extend_from_slice(&as_v6(to).octets());
        }
    }
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
    out
}

/// Both addresses of a header are of one family.
fn as_v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ProxyProtocolVersion::{V1, V2};

    fn origin(source: &str, destination: &str) -> Origin {
        Origin { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    #[test]
    fn the_line_of_version_1() {
        let own = origin("127.0.0.1:1", "127.0.0.2:2");
        let of = |origin| String::from_utf8(header(V1, origin, own)).unwrap();
        assert_eq!(of(Some(origin("10.0.0.1:40000", "10.96.0.7:80"))), "PROXY TCP4 10.0.0.1 10.96.0.7 40000 80\r\n");
        assert_eq!(of(Some(origin("[fd00::1]:40000", "[fd00::2]:80"))), "PROXY TCP6 fd00::1 fd00::2 40000 80\r\n");
        assert_eq!(of(Some(origin("[::ffff:10.0.0.1]:4", "10.96.0.7:80"))), "PROXY TCP4 10.0.0.1 10.96.0.7 4 80\r\n");
        assert_eq!(of(None), "PROXY TCP4 127.0.0.1 127.0.0.2 1 2\r\n");
    }

    #[test]
    fn the_bytes_of_version_2() {
        let own = origin("127.0.0.1:1", "127.0.0.2:2");
        let start = [0x0d, 0x0a, 0x0d, 0x0a, 0, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a];
        let with = |rest: &[u8]| [start.as_slice(), rest].concat();
        assert_eq!(
            header(V2, Some(origin("10.0.0.1:258", "10.96.0.7:80")), own),
            with(&[0x21, 0x11, 0, 12, 10, 0, 0, 1, 10, 96, 0, 7, 1, 2, 0, 80])
        );
        let v6 = header(V2, Some(origin("[fd00::1]:258", "[fd00::2]:80")), own);
        assert_eq!(v6.len(), 16 + 36);
        assert_eq!(v6[12..18], [0x21, 0x21, 0, 36, 0xfd, 0]);
        assert_eq!(v6[48..], [1, 2, 0, 80]);
        assert_eq!(header(V2, None, own), with(&[0x20, 0, 0, 0]));
    }
}
