//! What decisions may know of a request and of its connection. The proxy implements these views on its own types, so that a
//! decision copies nothing.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

/// A request's head. Method, scheme, authority and path are given by the implementation after validation and path
/// normalisation ([`crate::path`]), so that authorization, routing and the upstream see the same text.
pub trait RequestView {
    /// `:method`, e.g. `GET`.
    fn method(&self) -> &str;

    /// `:scheme`, lower case: `http` or `https`.
    fn scheme(&self) -> &str;

    /// `:authority`, or the `host` header of HTTP/1; as received, with its port if it has one.
    fn authority(&self) -> &str;

    /// `:path`: the normalised path and, after `?`, the query. Empty for a plain `CONNECT`.
    fn path_and_query(&self) -> &str;

    /// The path without its query.
    fn path(&self) -> &str {
        split_path(self.path_and_query()).0
    }

    /// The query without `?`; `None` if there is no `?`.
    fn query(&self) -> Option<&str> {
        split_path(self.path_and_query()).1
    }

    /// All values of the header of this lower-case name, in order, each without surrounding white space. Pseudo-headers are
    /// not asked for here.
    fn header(&self, name: &str) -> impl Iterator<Item = &[u8]>;

    /// The first value of a header, if it is UTF-8.
    fn header_text(&self, name: &str) -> Option<&str> {
        self.header(name).next().and_then(|v| std::str::from_utf8(v).ok())
    }
}

impl<T: RequestView + ?Sized> RequestView for &T {
    fn method(&self) -> &str {
        (**self).method()
    }

    fn scheme(&self) -> &str {
        (**self).scheme()
    }

    fn authority(&self) -> &str {
        (**self).authority()
    }

    fn path_and_query(&self) -> &str {
        (**self).path_and_query()
    }

    fn path(&self) -> &str {
        (**self).path()
    }

    fn query(&self) -> Option<&str> {
        (**self).query()
    }

    fn header(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        (**self).header(name)
    }
}

/// Splits a path at its first `?`: the path, and the query without the `?`.
pub fn split_path(path_and_query: &str) -> (&str, Option<&str>) {
    match memchr::memchr(b'?', path_and_query.as_bytes()) {
        Some(at) => (&path_and_query[..at], Some(&path_and_query[at + 1..])),
        None => (path_and_query, None),
    }
}

/// What is known of the other end's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer<'a> {
    /// No TLS, or no certificate that was verified.
    Unauthenticated,
    /// A verified certificate, with its URI SAN (`spiffe://…`) if it has one.
    Verified(Option<&'a str>),
}

/// A connection, as authorization sees it.
pub trait ConnectionView {
    /// The original destination: where the client wanted to go.
    fn destination(&self) -> SocketAddr;

    /// The other end of the TCP connection (`source.ip`; behind a PROXY protocol header the address that it names).
    fn direct_remote(&self) -> IpAddr;

    /// The client's address (`remote.ip`), derived by [`crate::forwarded`] where a request has forwarding headers.
    fn client(&self) -> IpAddr;

    /// The server name that the client asked for in TLS.
    fn server_name(&self) -> Option<&str>;

    /// The verified peer.
    fn peer(&self) -> Peer<'_>;
}

/// A header's bytes as text. Bytes that are not UTF-8 become U+FFFD, which no pattern names, but which "any character" of a
/// regular expression matches: a stray byte hides a value from no rule that would refuse it.
pub(crate) fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

#[cfg(test)]
pub(crate) mod testing {
    //! A request and connection for tests.

    use super::{ConnectionView, Peer, RequestView};
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};

    /// A request put together by hand.
    #[derive(Clone, Debug)]
    pub(crate) struct Request {
        pub(crate) method: String,
        pub(crate) scheme: String,
        pub(crate) authority: String,
        pub(crate) path: String,
        pub(crate) headers: Vec<(String, Vec<u8>)>,
        pub(crate) destination: SocketAddr,
        pub(crate) direct_remote: IpAddr,
        pub(crate) client: IpAddr,
        pub(crate) server_name: Option<String>,
        pub(crate) verified: bool,
        pub(crate) uri_san: Option<String>,
    }

    impl Request {
        pub(crate) fn get(authority: &str, path: &str) -> Self {
            let ip = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));
            Self {
                method: "GET".into(),
                scheme: "http".into(),
                authority: authority.into(),
                path: path.into(),
                headers: Vec::new(),
                destination: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 8080),
                direct_remote: ip,
                client: ip,
                server_name: None,
                verified: false,
                uri_san: None,
            }
        }

        pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
            self.headers.push((name.into(), value.as_bytes().to_vec()));
            self
        }

        pub(crate) fn peer_san(mut self, san: &str) -> Self {
            self.verified = true;
            self.uri_san = Some(san.into());
            self
        }
    }

    impl RequestView for Request {
        fn method(&self) -> &str {
            &self.method
        }

        fn scheme(&self) -> &str {
            &self.scheme
        }

        fn authority(&self) -> &str {
            &self.authority
        }

        fn path_and_query(&self) -> &str {
            &self.path
        }

        fn header(&self, name: &str) -> impl Iterator<Item = &[u8]> {
            self.headers.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_slice())
        }
    }

    impl ConnectionView for Request {
        fn destination(&self) -> SocketAddr {
            self.destination
        }

        fn direct_remote(&self) -> IpAddr {
            self.direct_remote
        }

        fn client(&self) -> IpAddr {
            self.client
        }

        fn server_name(&self) -> Option<&str> {
            self.server_name.as_deref()
        }

        fn peer(&self) -> Peer<'_> {
            if self.verified { Peer::Verified(self.uri_san.as_deref()) } else { Peer::Unauthenticated }
        }
    }
}
