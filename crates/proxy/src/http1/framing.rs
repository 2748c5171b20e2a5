//! Where a body ends, and what else the headers of one hop say (RFC 9112 §6, §9).

use super::parse::HeadError;
use crate::http::{Head, KnownHeader, Names, Value, Version, list};

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// Everything until the connection ends; only responses.
    UntilClose,
    /// A tunnel, if the response opens it: a `CONNECT` or an upgrade and its response.
    Tunnel,
}

/// What of a request decides how its response is read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RequestKind {
    /// None of the others.
    #[default]
    Ordinary,
    /// `HEAD`: the response has no body.
    Head,
    /// `CONNECT`: a 2xx opens a tunnel.
    Connect,
    /// An upgrade: 101 opens a tunnel.
    Upgrade,
}

impl RequestKind {
    /// The kind of a request.
    #[must_use]
    pub fn of(head: &Head) -> Self {
        if head.is_head() {
            Self::Head
        } else if head.is_connect() {
            Self::Connect
        } else if head.upgrade().is_some() {
            Self::Upgrade
        } else {
            Self::Ordinary
        }
    }

    /// Whether a response with this status opens a tunnel.
    #[must_use]
    pub const fn opens_tunnel(self, status: u16) -> bool {
        match self {
            Self::Connect => status >= 200 && status < 300,
            Self::Upgrade => status == 101,
            Self::Ordinary | Self::Head => false,
        }
    }
}

/// Which known headers a head has as received, and which more than once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    once: Names,
    twice: Names,
}

impl Seen {
    pub(super) fn add(&mut self, known: KnownHeader) {
        if self.once.has(known) {
            self.twice.add(known);
        }
        self.once.add(known);
    }

    pub(super) fn has(self, known: KnownHeader) -> bool {
        self.once.has(known)
    }

    pub(super) fn repeats(self, known: KnownHeader) -> bool {
        self.twice.has(known)
    }
}

/// What a head says about its message and its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Where the body ends.
    pub framing: Framing,
    /// Whether the connection outlives the message, as far as the sender is concerned.
    pub keep_alive: bool,
}

impl Meta {
    /// Reads, checks and takes away what concerns only this hop.
    pub(super) fn of_request(head: &mut Head, seen: Seen) -> Result<Self, HeadError> {
        let declared = Declared::read(head, seen)?;
        let framing = match declared {
            Declared { chunked: true, .. } => Framing::Chunked,
            Declared { length: Some(n), .. } if n > 0 => Framing::Length(n),
            _ => Framing::None,
        };
        let hop = Hop::take(head, seen)?;
        if hop.names_needed {
            return Err(HeadError::Malformed("a connection header that names a header which is no hop's"));
        }
        // A server may ignore an upgrade (RFC 9110 §7.8), and ignores what it could misread: several protocols, a body
        // before the switch, and h2c, with which requests have been smuggled past proxies.
        let upgrade_ok = seen.has(KnownHeader::Upgrade)
            && hop.names_upgrade
            && head.version() == Version::Http11
            && framing == Framing::None
            && !head.is_connect();
        if seen.has(KnownHeader::Upgrade) && !(upgrade_ok && has_one_protocol(head)) {
            head.remove(KnownHeader::Upgrade);
        }
        if seen.has(KnownHeader::Http2Settings) {
            head.remove(KnownHeader::Http2Settings);
        }
        let framing = if head.is_connect() || (seen.has(KnownHeader::Upgrade) && head.upgrade().is_some()) {
            if framing != Framing::None {
                return Err(HeadError::Malformed("a CONNECT with a body"));
            }
            head.remove(KnownHeader::ContentLength);
            Framing::Tunnel
        } else {
            framing
        };
        Ok(Self { framing, keep_alive: hop.keep_alive(head.version()) })
    }

    /// Reads, checks and takes away what concerns only this hop.
    pub(super) fn of_response(head: &mut Head, request: RequestKind, seen: Seen) -> Result<Self, HeadError> {
        let declared = Declared::read(head, seen)?;
        let hop = Hop::take(head, seen)?;
        let status = head.status();
        let mut keep_alive = hop.keep_alive(head.version());
        let tunnel = request.opens_tunnel(status);
        if status == 101 && !(tunnel && hop.names_upgrade && has_one_protocol(head)) {
            return Err(HeadError::Malformed("a 101 response to a request that asked for no upgrade"));
        }
        if seen.has(KnownHeader::Upgrade) && !(tunnel || status == 426) {
            head.remove(KnownHeader::Upgrade);
        }
        let framing = if tunnel {
            Framing::Tunnel
        } else if request == RequestKind::Head || status < 200 || matches!(status, 204 | 304) {
            Framing::None
        } else if declared.chunked {
            Framing::Chunked
        } else if let Some(n) = declared.length {
            Framing::Length(n)
        } else {
            keep_alive = false;
            Framing::UntilClose
        };
        if tunnel || status < 200 || status == 204 {
            // These must not have one (RFC 9110 §8.6); a tunnel's is to be ignored.
            head.remove(KnownHeader::ContentLength);
        }
        Ok(Self { framing, keep_alive })
    }
}

/// Whether the upgrade header names one protocol that may be passed on.
fn has_one_protocol(head: &Head) -> bool {
    let mut protocols = head.get_all(KnownHeader::Upgrade).flat_map(list);
    match (protocols.next(), protocols.next()) {
        (Some(protocol), None) => !protocol.eq_ignore_ascii_case(b"h2c") && !protocol.eq_ignore_ascii_case(b"h2"),
        _ => false,
    }
}

/// What the framing headers declare.
struct Declared {
    length: Option<u64>,
    chunked: bool,
}

impl Declared {
    /// Any doubt is an error: two readers of the message could disagree where it ends.
    fn read(head: &mut Head, seen: Seen) -> Result<Self, HeadError> {
        if seen.repeats(KnownHeader::ContentLength) {
            return Err(HeadError::Malformed("more than one content-length"));
        }
        let length = if seen.has(KnownHeader::ContentLength) {
            Some(head.content_length().ok_or(HeadError::Malformed("an invalid content-length"))?)
        } else {
            None
        };
        if !seen.has(KnownHeader::TransferEncoding) {
            return Ok(Self { length, chunked: false });
        }
        let chunked = Self::read_coding(head)?;
        if chunked && length.is_some() {
            return Err(HeadError::Malformed("both content-length and transfer-encoding"));
        }
        if chunked && head.version() == Version::Http10 {
            return Err(HeadError::Malformed("a transfer-encoding in HTTP/1.0"));
        }
        head.remove(KnownHeader::TransferEncoding);
        Ok(Self { length, chunked })
    }

    fn read_coding(head: &Head) -> Result<bool, HeadError> {
        let mut values = head.get_all(KnownHeader::TransferEncoding);
        let Some(first) = values.next() else { return Ok(false) };
        if values.next().is_none() && first.eq_ignore_ascii_case(b"chunked") {
            return Ok(true);
        }
        // A list that ends in `chunked` after some other coding is well formed but not supported; all else is in doubt.
        let mut last_is_chunked = false;
        let mut chunked = 0;
        let mut other = 0;
        for coding in head.get_all(KnownHeader::TransferEncoding).flat_map(list) {
            last_is_chunked = coding.eq_ignore_ascii_case(b"chunked");
            if last_is_chunked {
                chunked += 1;
            } else if coding.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-') {
                other += 1;
            } else {
                return Err(HeadError::Malformed("an invalid transfer-encoding"));
            }
        }
        if other > 0 && (chunked == 0 || (chunked == 1 && last_is_chunked)) {
            return Err(HeadError::UnsupportedCoding);
        }
        Err(HeadError::Malformed("an invalid transfer-encoding"))
    }
}

/// What speaks of the connection alone.
const OF_A_HOP: Names = Names::of(&[KnownHeader::Connection, KnownHeader::KeepAlive, KnownHeader::ProxyConnection]);

/// Names that `connection` may list. Each is compared with every header, so a long list would be an attack.
const MAX_NAMED: usize = 16;

/// Whether an option of `connection` names a header that is never one of a hop, or what HTTP/2 has in the place of such a one.
fn names_needed(option: &[u8]) -> bool {
    const NEEDED: [&[u8]; 3] = [b"host", b"content-length", b"transfer-encoding"];
    option.starts_with(b":") || NEEDED.iter().any(|name| option.eq_ignore_ascii_case(name))
}

/// What `connection` says.
struct Hop {
    close: bool,
    keep: bool,
    names_upgrade: bool,
    /// It lists a header that says where the message goes or ends. Whoever obeyed would read another message.
    names_needed: bool,
}

impl Hop {
    /// Reads `connection` and takes away the headers of this hop: those that it names, and those known to be (RFC 9110 §7.6.1).
    fn take(head: &mut Head, seen: Seen) -> Result<Self, HeadError> {
        let mut hop = Self { close: false, keep: false, names_upgrade: false, names_needed: false };
        if seen.has(KnownHeader::Connection) || seen.has(KnownHeader::KeepAlive) || seen.has(KnownHeader::ProxyConnection) {
            hop.take_connection(head)?;
        }
        if seen.has(KnownHeader::Te) {
            if head.list_contains(KnownHeader::Te, b"trailers") {
                head.set(KnownHeader::Te, Value::from_static("trailers"));
            } else {
                head.remove(KnownHeader::Te);
            }
        }
        Ok(hop)
    }

    fn take_connection(&mut self, head: &mut Head) -> Result<(), HeadError> {
        if self.take_usual_connection(head) {
            head.remove_all(OF_A_HOP);
            return Ok(());
        }
        let mut named = smallvec::SmallVec::<[smallvec::SmallVec<[u8; 24]>; 2]>::new();
        for option in head.get_all(KnownHeader::Connection).flat_map(list) {
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.names_upgrade = true;
            } else if names_needed(option) {
                self.names_needed = true;
            } else if named.len() == MAX_NAMED {
                return Err(HeadError::Malformed("a connection header that names too many others"));
            } else if !option.eq_ignore_ascii_case(b"te") {
                named.push(option.iter().map(u8::to_ascii_lowercase).collect());
            }
        }
        head.remove_if(|name, _| match name.known() {
            known if OF_A_HOP.has(known) => true,
            // A sender that names a header which others rely on wants it to vanish behind their backs; only headers that
            // nobody here knows can be of its own hop.
            KnownHeader::Other => named.iter().any(|n| n.as_slice() == name.as_bytes()),
            _ => false,
        });
        Ok(())
    }

    /// Reads a `connection` that says no more than whether it persists, as nearly all do.
    fn take_usual_connection(&mut self, head: &Head) -> bool {
        let mut values = head.get_all(KnownHeader::Connection);
        match (values.next(), values.next()) {
            (Some(only), None) if only.eq_ignore_ascii_case(b"keep-alive") => self.keep = true,
            (Some(only), None) if only.eq_ignore_ascii_case(b"close") => self.close = true,
            (None, _) => {}
            _ => return false,
        }
        true
    }

    fn keep_alive(&self, version: Version) -> bool {
        !self.close && (version != Version::Http10 || self.keep)
    }
}
