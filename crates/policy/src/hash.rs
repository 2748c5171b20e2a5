//! The hash of a request or a connection, by which a consistent choice of endpoints goes ([`crate::balance`]).
//!
//! The function is xxHash64 with seed 0, and ingredients are combined as Envoy combines them, so that both choose the same
//! endpoint for the same request.

use crate::RequestView;
use lateen_model::dataplane::{HashCookie, HashKey, HashPolicy};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use twox_hash::XxHash64;

/// Who sends a request.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    /// The client's address, derived by [`crate::forwarded`].
    pub client: IpAddr,
    /// The other end of the connection.
    pub remote: SocketAddr,
    /// This end, as the client sees it.
    pub local: SocketAddr,
}

/// What came of a route's hash policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestHash {
    /// `None`: the request has nothing that is hashed; any endpoint will do.
    pub hash: Option<u64>,
    /// Values of `set-cookie` for the response: cookies that were made because the client had none.
    pub set_cookies: Vec<String>,
}

/// The hash of some bytes.
pub(crate) fn xx_hash(bytes: &[u8]) -> u64 {
    XxHash64::oneshot(0, bytes)
}

/// As [`xx_hash`], with another seed.
pub(crate) fn xx_hash_seeded(bytes: &[u8], seed: u64) -> u64 {
    XxHash64::oneshot(seed, bytes)
}

/// The hash of a client's address, for connections whose bytes are passed on.
pub fn of_address(client: IpAddr) -> u64 {
    xx_hash(client.to_string().as_bytes())
}

/// The hash of a request. Each ingredient is added to the earlier ones, which are rotated by one bit before, so that equal ones
/// do not cancel each other out.
pub fn of_request<R: RequestView>(policies: &[HashPolicy], request: &R, sender: Sender) -> RequestHash {
    let mut out = RequestHash::default();
    for policy in policies {
        let new = match &policy.key {
            HashKey::Header(name) => header(request, name),
            HashKey::Cookie(wanted) => match cookie(request, &wanted.name) {
                Some(value) => Some(xx_hash(value)),
                None => wanted.ttl.map(|_| make_cookie(wanted, sender, &mut out.set_cookies)),
            },
            HashKey::SourceIp => Some(of_address(sender.client)),
            HashKey::QueryParameter(name) => query_parameter(request, name).map(|value| xx_hash(value.as_bytes())),
        };
        if let Some(new) = new {
            out.hash = Some(out.hash.map_or(0, |old| old.rotate_left(1)) ^ new);
        }
        if policy.terminal && out.hash.is_some() {
            break;
        }
    }
    out
}

/// Of several values of a header the order does not matter.
fn header<R: RequestView>(request: &R, name: &str) -> Option<u64> {
    let mut values: Vec<&[u8]> = request.header(name).collect();
    values.sort_unstable();
    match values.as_slice() {
        [] => None,
        [single] => Some(xx_hash(single)),
        several => Some(xx_hash(&several.concat())),
    }
}

/// The first cookie of this name that is not empty; quotes around a value do not belong to it.
fn cookie<'r, R: RequestView>(request: &'r R, name: &str) -> Option<&'r [u8]> {
    let pairs = request.header("cookie").flat_map(|line| line.split(|b| *b == b';'));
    let mut values = pairs.filter_map(|pair| {
        let at = pair.iter().position(|b| *b == b'=')?;
        (pair[..at].trim_ascii() == name.as_bytes()).then(|| pair[at + 1..].trim_ascii())
    });
    let value = values.next()?;
    let value = value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value);
    (!value.is_empty()).then_some(value)
}

/// The same for all requests of one connection, so that those at once agree.
fn make_cookie(wanted: &HashCookie, sender: Sender, set_cookies: &mut Vec<String>) -> u64 {
    let value = format!("{:016x}", xx_hash(format!("{}{}", sender.remote, sender.local).as_bytes()));
    let mut text = format!("{}=\"{value}\"", wanted.name);
    if let Some(seconds) = wanted.ttl.map(|ttl| ttl.as_secs()).filter(|seconds| *seconds > 0) {
        let _infallible = write!(text, "; Max-Age={seconds}");
    }
    if !wanted.path.is_empty() {
        let _infallible = write!(text, "; Path={}", wanted.path);
    }
    for (name, value) in &wanted.attributes {
        text.push_str("; ");
        text.push_str(name);
        if !value.is_empty() {
            text.push('=');
            text.push_str(value);
        }
    }
    text.push_str("; HttpOnly");
    set_cookies.push(text);
    xx_hash(value.as_bytes())
}

/// The first parameter of this name, as it is written.
fn query_parameter<'r, R: RequestView>(request: &'r R, name: &str) -> Option<&'r str> {
    let pairs = request.query()?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::testing::Request;
    use std::time::Duration;

    const SENDER: Sender = Sender {
        client: IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9)),
        remote: SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::new(10, 0, 0, 9), 4000)),
        local: SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::new(10, 0, 0, 1), 80)),
    };

    fn policy(key: HashKey) -> HashPolicy {
        HashPolicy { key, terminal: false }
    }

    fn session(ttl: Option<u64>) -> HashKey {
        let attributes = vec![("SameSite".into(), "Lax".into()), ("Secure".into(), String::new())];
        let ttl = ttl.map(Duration::from_secs);
        HashKey::Cookie(HashCookie { name: "session".into(), ttl, path: "/shop".into(), attributes })
    }

    fn hash(keys: &[HashKey], request: &Request) -> Option<u64> {
        let policies: Vec<_> = keys.iter().cloned().map(policy).collect();
        of_request(&policies, request, SENDER).hash
    }

    #[test]
    fn the_function_is_xxhash64() {
        // The test vectors of the algorithm's specification for an empty input.
        assert_eq!(xx_hash(b""), 0xEF46_DB37_51D8_E999);
        assert_eq!(xx_hash(b"abc"), 0x44BC_2CF5_AD77_0999);
    }

    #[test]
    fn ingredients() {
        let request = Request::get("a", "/x?a=1&user=me%20too&user=2")
            .with("x-user", "joe")
            .with("cookie", "a=b; session=\"42\"; session=43");
        assert_eq!(hash(&[HashKey::Header("x-user".into())], &request), Some(xx_hash(b"joe")));
        assert_eq!(hash(&[HashKey::Header("x-none".into())], &request), None);
        assert_eq!(hash(&[HashKey::QueryParameter("user".into())], &request), Some(xx_hash(b"me%20too")));
        assert_eq!(hash(&[HashKey::QueryParameter("us".into())], &request), None);
        assert_eq!(hash(&[session(None)], &request), Some(xx_hash(b"42")));
        assert_eq!(hash(&[HashKey::SourceIp], &request), Some(xx_hash(b"10.0.0.9")));
        let both = request.with("x-user", "ann");
        let swapped = Request::get("a", "/").with("x-user", "ann").with("x-user", "joe");
        assert_eq!(hash(&[HashKey::Header("x-user".into())], &both), hash(&[HashKey::Header("x-user".into())], &swapped));
    }

    #[test]
    fn ingredients_are_combined_in_order() {
        let request = Request::get("a", "/").with("a", "x").with("b", "y");
        let [a, b, none] = ["a", "b", "c"].map(|name| HashKey::Header(name.into()));
        let (x, y) = (xx_hash(b"x"), xx_hash(b"y"));
        assert_eq!(hash(&[a.clone(), b.clone()], &request), Some(x.rotate_left(1) ^ y));
        assert_eq!(hash(&[a.clone(), none.clone(), a.clone()], &request), Some(x.rotate_left(1) ^ x));
        let terminal = [none, a].map(|key| HashPolicy { key, terminal: true });
        let policies: Vec<_> = terminal.into_iter().chain([policy(b)]).collect();
        assert_eq!(of_request(&policies, &request, SENDER).hash, Some(x));
    }

    #[test]
    fn a_cookie_is_made_if_it_has_a_lifetime() {
        let without = Request::get("a", "/");
        let made = of_request(&[policy(session(Some(60)))], &without, SENDER);
        let value = format!("{:016x}", xx_hash(b"10.0.0.9:400010.0.0.1:80"));
        assert_eq!(made.hash, Some(xx_hash(value.as_bytes())));
        let text = format!("session=\"{value}\"; Max-Age=60; Path=/shop; SameSite=Lax; Secure; HttpOnly");
        assert_eq!(made.set_cookies, [text]);
        let session_only = of_request(&[policy(session(Some(0)))], &without, SENDER);
        assert!(!session_only.set_cookies[0].contains("Max-Age"), "{session_only:?}");
        assert_eq!(of_request(&[policy(session(None))], &without, SENDER), RequestHash::default());
        // The client sends back what it was told, and the choice stays.
        let with = Request::get("a", "/").with("cookie", &format!("session={value}"));
        assert_eq!(of_request(&[policy(session(Some(60)))], &with, SENDER), RequestHash { hash: made.hash, set_cookies: vec![] });
    }
}
