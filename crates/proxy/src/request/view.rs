//! A request's head, as decisions and logs look at it.

use crate::connection::Connection;
use crate::http::{Head, Name, Scheme, Value};
use lateen_policy::template::{HeadersMut, TemplateContext};
use lateen_policy::{ConnectionView, Peer, RequestView};
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

/// A request's head with its scheme, which HTTP/1 does not say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub(crate) head: &'a Head,
    pub(crate) scheme: &'static str,
}

impl<'a> View<'a> {
    /// A request whose scheme has been set.
    pub(crate) fn of(head: &'a Head) -> Self {
        Self { head, scheme: head.scheme().map_or("http", Scheme::as_str) }
    }
}

impl RequestView for View<'_> {
    fn method(&self) -> &str {
        self.head.method()
    }

    fn scheme(&self) -> &str {
        self.scheme
    }

    fn authority(&self) -> &str {
        self.head.authority().unwrap_or_default()
    }

    fn path_and_query(&self) -> &str {
        self.head.path_and_query()
    }

    fn header(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        values(self.head, name)
    }
}

/// All values of a header. A name that cannot be one has none.
fn values<'h, 'n>(head: &'h Head, name: &'n str) -> impl Iterator<Item = &'h [u8]> + use<'h, 'n> {
    let name = Name::new(name.as_bytes()).ok();
    name.into_iter().flat_map(|name| head.get_all(name))
}

impl lateen_policy::retry::ResponseView for View<'_> {
    fn status(&self) -> u16 {
        self.head.status()
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        values(self.head, name).next()
    }
}

/// A connection as one request sees it: with the client's address as the request's headers tell it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FromClient<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) client: IpAddr,
}

impl ConnectionView for FromClient<'_> {
    fn destination(&self) -> SocketAddr {
        self.connection.destination
    }

    fn direct_remote(&self) -> IpAddr {
        self.connection.remote.ip()
    }

    fn client(&self) -> IpAddr {
        self.client
    }

    fn server_name(&self) -> Option<&str> {
        self.connection.server_name()
    }

    fn peer(&self) -> Peer<'_> {
        self.connection.peer()
    }
}

/// Headers that a route's operations change. A name or value that is not valid is left out: it can only come from an operator
/// whose value was not foreseen, and must not become another header.
pub(crate) struct Mutable<'a>(pub(crate) &'a mut Head);

impl HeadersMut for Mutable<'_> {
    fn contains(&self, name: &str) -> bool {
        Name::new(name.as_bytes()).is_ok_and(|name| self.0.contains(name))
    }

    fn remove(&mut self, name: &str) {
        if let Ok(name) = Name::new(name.as_bytes()) {
            self.0.remove(name);
        }
    }

    fn set(&mut self, name: &str, value: &str) {
        if let (Ok(name), Ok(value)) = (Name::new(name.as_bytes()), Value::new(value.as_bytes())) {
            self.0.set(name, value);
        }
    }

    fn append(&mut self, name: &str, value: &str) {
        if let (Ok(name), Ok(value)) = (Name::new(name.as_bytes()), Value::new(value.as_bytes())) {
            self.0.append(name, value);
        }
    }
}

/// What `%COMMAND%` operators in header values may ask.
pub(crate) struct Template<'a> {
    pub(crate) view: View<'a>,
    pub(crate) connection: &'a Connection,
    pub(crate) client: IpAddr,
    pub(crate) start_time: SystemTime,
    pub(crate) upstream_host: Option<SocketAddr>,
    pub(crate) response_code: Option<u16>,
    pub(crate) hostname: &'a str,
    pub(crate) environment: &'a crate::bootstrap::Environment,
}

impl<'a> TemplateContext for Template<'a> {
    type Request = View<'a>;

    fn request(&self) -> &View<'a> {
        &self.view
    }

    fn downstream_remote_address(&self) -> Option<SocketAddr> {
        let direct = self.connection.remote;
        // A port is known of the direct peer only.
        Some(if self.client == direct.ip() { direct } else { SocketAddr::new(self.client, 0) })
    }

    fn downstream_direct_remote_address(&self) -> Option<SocketAddr> {
        Some(self.connection.remote)
    }

    fn downstream_local_address(&self) -> Option<SocketAddr> {
        Some(self.connection.destination)
    }

    fn protocol(&self) -> &str {
        self.view.head.version().as_str()
    }

    fn start_time(&self) -> SystemTime {
        self.start_time
    }

    fn upstream_host(&self) -> Option<SocketAddr> {
        self.upstream_host
    }

    fn hostname(&self) -> &str {
        self.hostname
    }

    fn environment(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str)
    }

    fn downstream_peer_uri_san(&self) -> Option<&str> {
        self.connection.peer_uri()
    }

    fn requested_server_name(&self) -> Option<&str> {
        self.connection.server_name()
    }

    fn response_code(&self) -> Option<u16> {
        self.response_code
    }
}

/// A head as access logs look it up: `:method` and its like are names too.
impl lateen_observe::HeaderLookup for Head {
    fn nth(&self, name: &str, index: usize) -> Option<&[u8]> {
        let pseudo = match name {
            ":method" => Some(self.method()),
            ":path" => Some(self.path_and_query()),
            ":authority" => self.authority(),
            ":scheme" => self.scheme().map(|s| s.as_str()),
            _ => return values(self, name).nth(index),
        };
        pseudo.filter(|p| index == 0 && !p.is_empty()).map(str::as_bytes)
    }
}
