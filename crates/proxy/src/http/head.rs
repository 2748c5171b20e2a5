//! One type for the heads of requests and responses of both versions, and for trailers.
//!
//! A head is an arena of bytes and a list of spans in it. Parsing copies the head out of the read buffer once; an edit appends
//! to the arena and moves a span. Every header lies in the arena as the line that HTTP/1 sends, so that writing a head copies
//! whole runs of lines that nobody touched.
//!
//! A head says the same thing whichever version it came in: the authority is the `host` header, a WebSocket handshake is a
//! `GET` with `upgrade`, and headers that belong to one hop (`connection` and what it names, `transfer-encoding`,
//! `keep-alive`) are not in it. The codec that writes it adds its own.

use super::name::{KnownHeader, Name, Names, Value, list};
use super::target;
use std::cell::RefCell;
use std::fmt;

/// A head keeps its memory for the next one of the worker up to this many bytes.
const KEPT_BYTES: usize = 8 * 1024;
const KEPT_HEADS: usize = 64;

thread_local! {
    static SPARE: RefCell<Vec<(Vec<u8>, Vec<Entry>)>> = const { RefCell::new(Vec::new()) };
}

/// The version of HTTP a message came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    #[default]
    Http11,
    /// HTTP/2
    Http2,
}

impl Version {
    /// As access logs write it, e.g. `HTTP/1.1`. Envoy writes `HTTP/2` without a minor version.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// The scheme of a request's target, if the request names one: HTTP/2's `:scheme` or an absolute-form target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

impl Scheme {
    /// The scheme in lower case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// Reads a scheme, whatever its case (RFC 3986 §3.1).
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.eq_ignore_ascii_case(b"http") {
            Some(Self::Http)
        } else if bytes.eq_ignore_ascii_case(b"https") {
            Some(Self::Https)
        } else {
            None
        }
    }
}

/// A part of a request line that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHead {
    /// The method is not a token.
    #[error("the method must be a token")]
    Method,
    /// The target is not a path of visible ASCII without a fragment, nor `*`.
    #[error("the path must start with `/` and have only visible ASCII characters and no `#`")]
    Path,
    /// The authority is not `host[:port]`.
    #[error("the authority must be a host and an optional port")]
    Authority,
    /// The status is not within 100 to 999.
    #[error("the status must be from 100 to 999")]
    Status,
}

/// A piece of the arena.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    pub(crate) fn new(start: usize, end: usize) -> Self {
        Self { start: offset(start), end: offset(end) }
    }

    fn of(self, arena: &[u8]) -> &[u8] {
        &arena[self.start as usize..self.end as usize]
    }
}

fn offset(at: usize) -> u32 {
    u32::try_from(at).expect("a head stays far below 4 GiB: parsing bounds it and filters add a bounded number of headers")
}

/// One header: the line `name: value CRLF`, starting with the name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    name: Span,
    value: Span,
    line_end: u32,
    known: KnownHeader,
    removed: bool,
}

/// The head of a request or a response, or trailers.
pub struct Head {
    arena: Vec<u8>,
    entries: Vec<Entry>,
    method: Span,
    target: Span,
    reason: Span,
    scheme: Option<Scheme>,
    version: Version,
    /// 0 in requests and trailers.
    status: u16,
    /// The known names that may be among the entries: most that are asked for are not, and need no search.
    present: Names,
}

impl Default for Head {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Head {
    fn drop(&mut self) {
        let arena = std::mem::take(&mut self.arena);
        let entries = std::mem::take(&mut self.entries);
        if arena.capacity() == 0 || arena.capacity() > KEPT_BYTES {
            return;
        }
        // During the end of a thread the list may be gone already; then the memory is freed.
        let _ = SPARE.try_with(|spare| {
            if let Ok(mut spare) = spare.try_borrow_mut()
                && spare.len() < KEPT_HEADS
            {
                spare.push((arena, entries));
            }
        });
    }
}

impl Clone for Head {
    fn clone(&self) -> Self {
        let mut copy = Self::new();
        copy.arena.extend_from_slice(&self.arena);
        copy.entries.extend_from_slice(&self.entries);
        (copy.method, copy.target, copy.reason) = (self.method, self.target, self.reason);
        (copy.scheme, copy.version, copy.status) = (self.scheme, self.version, self.status);
        copy.present = self.present;
        copy
    }
}

impl Head {
    /// An empty head in memory that another head of this worker has left, if there is some.
    #[must_use]
    pub fn new() -> Self {
        let (mut arena, mut entries) = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        arena.clear();
        entries.clear();
        let none = Span::default();
        let (scheme, version, status, present) = (None, Version::Http11, 0, Names::NONE);
        Self { arena, entries, method: none, target: none, reason: none, scheme, version, status, present }
    }

    /// A request to `path` at `authority`.
    ///
    /// # Errors
    /// If one of the three is not valid.
    pub fn request(method: &str, authority: &str, path: &str) -> Result<Self, InvalidHead> {
        let mut head = Self::new();
        head.set_method(method)?;
        head.set_path_and_query(path)?;
        head.set_authority(authority)?;
        Ok(head)
    }

    /// A response.
    ///
    /// # Errors
    /// If the status is not within 100 to 999.
    pub fn response(status: u16) -> Result<Self, InvalidHead> {
        let mut head = Self::new();
        head.set_status(status)?;
        Ok(head)
    }

    /// Empties the head, keeping its memory.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.entries.clear();
        let none = Span::default();
        (self.method, self.target, self.reason) = (none, none, none);
        (self.scheme, self.version, self.status) = (None, Version::Http11, 0);
        self.present = Names::NONE;
    }

    // --- start line -----------------------------------------------------------------------------------------------------

    /// The version it came in; for a head that was made here, HTTP/1.1.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    pub(crate) fn set_version(&mut self, version: Version) {
        self.version = version;
    }

    /// The method; empty in responses.
    #[must_use]
    pub fn method(&self) -> &str {
        text(self.method.of(&self.arena))
    }

    /// Whether the method is `HEAD`, whose response has no body.
    #[must_use]
    pub fn is_head(&self) -> bool {
        self.method.of(&self.arena) == b"HEAD"
    }

    /// Whether the method is `CONNECT`, i.e. a tunnel to [`Self::authority`] is asked for.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        self.method.of(&self.arena) == b"CONNECT"
    }

    /// The path with the query, as received: starts with `/`, or is `*` (only for `OPTIONS`); empty for `CONNECT`.
    #[must_use]
    pub fn path_and_query(&self) -> &str {
        text(self.target.of(&self.arena))
    }

    /// The path without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.path_and_query().split('?').next().unwrap_or_default()
    }

    /// The query without its `?`.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.path_and_query().split_once('?').map(|(_, query)| query)
    }

    /// The authority: the target's own if it has one, else the `host` header. `None` only for HTTP/1.0 without `host`.
    #[must_use]
    pub fn authority(&self) -> Option<&str> {
        self.get(KnownHeader::Host).map(text)
    }

    /// The scheme, if the request named it.
    #[must_use]
    pub fn scheme(&self) -> Option<Scheme> {
        self.scheme
    }

    /// Sets the scheme that HTTP/2 sends as `:scheme`; HTTP/1 does not send it.
    pub fn set_scheme(&mut self, scheme: Option<Scheme>) {
        self.scheme = scheme;
    }

    /// The status; 0 in requests and trailers.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Whether the status is an interim one (1xx) other than 101.
    #[must_use]
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }

    /// # Errors
    /// If `status` is not within 100 to 999.
    pub fn set_status(&mut self, status: u16) -> Result<(), InvalidHead> {
        if !(100..=999).contains(&status) {
            return Err(InvalidHead::Status);
        }
        if status != self.status {
            self.reason = Span::default();
        }
        self.status = status;
        Ok(())
    }

    /// The reason phrase of an HTTP/1 response as received; empty if there was none or the status has been changed since.
    #[must_use]
    pub fn reason(&self) -> &[u8] {
        self.reason.of(&self.arena)
    }

    /// # Errors
    /// If `method` is not a token.
    pub fn set_method(&mut self, method: &str) -> Result<(), InvalidHead> {
        if !target::is_method(method.as_bytes()) {
            return Err(InvalidHead::Method);
        }
        self.method = self.store(method.as_bytes());
        Ok(())
    }

    /// # Errors
    /// If `path` does not start with `/` (or is not `*` or, for `CONNECT`, empty), or has a `#`, a space, a control or a
    /// non-ASCII character.
    pub fn set_path_and_query(&mut self, path: &str) -> Result<(), InvalidHead> {
        if !(path.is_empty() || path == "*" || target::is_origin_form(path.as_bytes())) {
            return Err(InvalidHead::Path);
        }
        self.target = self.store(path.as_bytes());
        Ok(())
    }

    /// Sets the authority, i.e. the one `host` header.
    ///
    /// # Errors
    /// If `authority` is not a host with an optional port.
    pub fn set_authority(&mut self, authority: &str) -> Result<(), InvalidHead> {
        if !target::is_authority(authority.as_bytes()) {
            return Err(InvalidHead::Authority);
        }
        self.set(KnownHeader::Host, Value::from_checked(authority.as_bytes()));
        Ok(())
    }

    // --- headers --------------------------------------------------------------------------------------------------------

    /// The first value of a header.
    #[must_use]
    pub fn get<'n>(&self, name: impl Into<Name<'n>>) -> Option<&[u8]> {
        let name = name.into();
        if !self.present.has(name.known()) {
            return None;
        }
        self.entries.iter().find(|e| self.is(e, name)).map(|e| e.value.of(&self.arena))
    }

    /// The first value of a header, if it is ASCII.
    #[must_use]
    pub fn get_str<'n>(&self, name: impl Into<Name<'n>>) -> Option<&str> {
        self.get(name).and_then(|v| std::str::from_utf8(v).ok()).filter(|v| v.is_ascii())
    }

    /// All values of a header, in order.
    pub fn get_all<'h, 'n>(&'h self, name: impl Into<Name<'n>>) -> impl Iterator<Item = &'h [u8]> {
        let name = name.into();
        let entries = if self.present.has(name.known()) { self.entries.as_slice() } else { &[] };
        entries.iter().filter(move |e| self.is(e, name)).map(|e| e.value.of(&self.arena))
    }

    /// Whether there is such a header.
    #[must_use]
    pub fn contains<'n>(&self, name: impl Into<Name<'n>>) -> bool {
        self.get(name).is_some()
    }

    /// Whether some element of the header's comma-separated lists is `element`, whatever its case.
    #[must_use]
    pub fn list_contains<'n>(&self, name: impl Into<Name<'n>>, element: &[u8]) -> bool {
        let name = name.into();
        self.present.has(name.known())
            && self
                .entries
                .iter()
                .filter(|e| self.is(e, name))
                .any(|e| list(e.value.of(&self.arena)).any(|x| x.eq_ignore_ascii_case(element)))
    }

    /// All headers in order. `host` is among them wherever the sender put it.
    pub fn iter(&self) -> impl Iterator<Item = (Name<'_>, &[u8])> {
        self.entries
            .iter()
            .filter(|e| !e.removed)
            .map(|e| (Name::from_parts(e.known, e.name.of(&self.arena)), e.value.of(&self.arena)))
    }

    /// The number of headers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.iter().filter(|e| !e.removed).count()
    }

    /// Whether there is no header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The size as HTTP/1 sends the headers, start line excluded, in bytes: what access logs and limits count.
    #[must_use]
    pub fn byte_size(&self) -> usize {
        self.entries.iter().filter(|e| !e.removed).map(|e| (e.line_end - e.name.start) as usize).sum()
    }

    /// Adds a header after those that are there.
    pub fn append<'n>(&mut self, name: impl Into<Name<'n>>, value: Value<'_>) {
        let name = name.into();
        self.present.add(name.known());
        let start = self.arena.len();
        self.arena.reserve(name.as_bytes().len() + value.as_bytes().len() + 4);
        self.arena.extend_from_slice(name.as_bytes());
        let name_end = self.arena.len();
        self.arena.extend_from_slice(b": ");
        self.arena.extend_from_slice(value.as_bytes());
        let value_end = self.arena.len();
        self.arena.extend_from_slice(b"\r\n");
        self.entries.push(Entry {
            name: Span::new(start, name_end),
            value: Span::new(name_end + 2, value_end),
            line_end: offset(value_end + 2),
            known: name.known(),
            removed: false,
        });
    }

    /// Adds a header with a number.
    pub fn append_number<'n>(&mut self, name: impl Into<Name<'n>>, number: u64) {
        self.append(name, Value::from_checked(itoa::Buffer::new().format(number).as_bytes()));
    }

    /// Makes a header have this one value, where the first one was, or at the end.
    pub fn set<'n>(&mut self, name: impl Into<Name<'n>>, value: Value<'_>) {
        let name = name.into();
        if !self.present.has(name.known()) {
            return self.append(name, value);
        }
        let first = self.entries.iter().position(|e| self.is(e, name));
        self.remove(name);
        self.append(name, value);
        if let Some(at) = first {
            self.entries.swap_remove(at);
        }
    }

    /// Makes a header have this number as its one value.
    pub fn set_number<'n>(&mut self, name: impl Into<Name<'n>>, number: u64) {
        self.set(name, Value::from_checked(itoa::Buffer::new().format(number).as_bytes()));
    }

    /// Takes all values of a header away; says whether there was one.
    pub fn remove<'n>(&mut self, name: impl Into<Name<'n>>) -> bool {
        let name = name.into();
        if !self.present.has(name.known()) {
            return false;
        }
        self.remove_if(|n, _| {
            n.known() == name.known() && (name.known() != KnownHeader::Other || n.as_bytes() == name.as_bytes())
        })
    }

    /// Whether there may be a header of one of these names.
    pub(crate) fn may_have(&self, names: Names) -> bool {
        self.present.intersects(names)
    }

    /// Takes away all headers of these names; says whether there was one.
    pub(crate) fn remove_all(&mut self, names: Names) -> bool {
        self.present.intersects(names) && self.remove_if(|name, _| names.has(name.known()))
    }

    /// Takes away the headers that `condition` holds for; says whether there was one.
    pub fn remove_if(&mut self, mut condition: impl FnMut(Name<'_>, &[u8]) -> bool) -> bool {
        let mut any = false;
        for entry in self.entries.iter_mut().filter(|e| !e.removed) {
            if condition(Name::from_parts(entry.known, entry.name.of(&self.arena)), entry.value.of(&self.arena)) {
                entry.removed = true;
                any = true;
            }
        }
        any
    }

    // --- meaning --------------------------------------------------------------------------------------------------------

    /// The protocol that an upgrade is asked for or granted to, e.g. `websocket`. Only a well-formed upgrade is still here:
    /// one protocol, named by `connection: upgrade` too, without a body, and not `h2c`.
    #[must_use]
    pub fn upgrade(&self) -> Option<&[u8]> {
        self.get(KnownHeader::Upgrade)
    }

    /// Whether the bytes after this request head are a tunnel's if the response allows it: `CONNECT` or an upgrade.
    #[must_use]
    pub fn asks_for_tunnel(&self) -> bool {
        self.is_connect() || self.upgrade().is_some()
    }

    /// Whether the client waits for `100 Continue` before it sends the body (RFC 9110 §10.1.1).
    #[must_use]
    pub fn expects_continue(&self) -> bool {
        self.version != Version::Http10 && self.list_contains(KnownHeader::Expect, b"100-continue")
    }

    /// The body's length if it is announced. Parsing has seen to it that there is one number.
    #[must_use]
    pub fn content_length(&self) -> Option<u64> {
        target::parse_length(self.get(KnownHeader::ContentLength)?)
    }

    // --- for codecs -----------------------------------------------------------------------------------------------------

    fn is(&self, entry: &Entry, name: Name<'_>) -> bool {
        !entry.removed
            && entry.known == name.known()
            && (name.known() != KnownHeader::Other || entry.name.of(&self.arena) == name.as_bytes())
    }

    fn store(&mut self, bytes: &[u8]) -> Span {
        let start = self.arena.len();
        self.arena.extend_from_slice(bytes);
        Span::new(start, self.arena.len())
    }

    /// Starts over with the bytes of a head as received; spans are offsets in them.
    pub(crate) fn load(&mut self, raw: &[u8]) {
        self.clear();
        self.arena.extend_from_slice(raw);
    }

    pub(crate) fn set_method_span(&mut self, span: Span) {
        self.method = span;
    }

    pub(crate) fn set_target_span(&mut self, span: Span) {
        self.target = span;
    }

    pub(crate) fn set_reason_span(&mut self, span: Span) {
        self.reason = span;
    }

    /// The bytes of a piece of the head as received.
    pub(crate) fn span(&self, span: Span) -> &[u8] {
        span.of(&self.arena)
    }

    /// Adds a header that lies in the loaded bytes already, bringing its name to lower case in place.
    pub(crate) fn push_loaded(&mut self, name: Span, value: Span, line_end: usize) -> KnownHeader {
        let bytes = &mut self.arena[name.start as usize..name.end as usize];
        bytes.make_ascii_lowercase();
        let known = KnownHeader::of(bytes);
        self.present.add(known);
        self.entries.push(Entry { name, value, line_end: offset(line_end), known, removed: false });
        known
    }

    /// Writes the header lines for which `keep` holds.
    pub(crate) fn write_lines(&self, out: &mut Vec<u8>, keep: impl Fn(KnownHeader) -> bool) {
        let mut run = 0..0;
        for entry in self.entries.iter().filter(|e| !e.removed && keep(e.known)) {
            let (start, end) = (entry.name.start as usize, entry.line_end as usize);
            if start == run.end {
                run.end = end;
            } else {
                out.extend_from_slice(&self.arena[run]);
                run = start..end;
            }
        }
        out.extend_from_slice(&self.arena[run]);
    }
}

/// What is written as text was checked to be ASCII.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut s = f.debug_struct("Head");
        if self.status != 0 {
            s.field("status", &self.status);
        } else if self.method.end > self.method.start {
            s.field("method", &self.method()).field("target", &self.path_and_query());
        }
        s.field("version", &self.version);
        for (name, value) in self.iter() {
            s.field(name.as_str(), &String::from_utf8_lossy(value));
        }
        s.finish()
    }
}
