//! Our side of a client's connection.

use super::body::{BodyReader, BodyWriter};
use super::encode::{LengthHeader, Persistence, ResponseForm, write_response};
use super::framing::{Framing, RequestKind};
use super::parse::{HeadError, Limits, Parsed, has_head_end, parse_request};
use super::read::ReadState;
use super::shared::{Handle, Inner, Shared};
use super::write::WriteState;
use crate::http::{
    BodyReader as AnyReader, Head, Io, KnownHeader, PeerGone, Responder as AnyResponder, ServerExchange, StreamError, Value,
    Version,
};
use bytes::BytesMut;
use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// Empty lines before a request line that are overlooked (RFC 9112 §2.2 asks for one).
const EMPTY_LINES: usize = 4;

/// Bytes of an unread request body that are thrown away to keep the connection; for more it is cheaper to close.
const DISCARD: usize = 64 * 1024;

/// How a connection is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// Bounds of a request head and of trailers.
    pub limits: Limits,
    /// Whether HTTP/1.0 is served; Envoy's `accept_http_10`, false unless Istio's `PILOT_HTTP10` says otherwise.
    pub accept_http10: bool,
    /// How long a connection may be without a request before it is closed; Envoy's `idle_timeout` is an hour.
    pub idle_timeout: Option<Duration>,
    /// How long a head may take from its first byte; Envoy's `request_headers_timeout`.
    pub head_timeout: Option<Duration>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            accept_http10: false,
            idle_timeout: Some(Duration::from_secs(3600)),
            head_timeout: Some(Duration::from_secs(60)),
        }
    }
}

/// Why no request was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The head is bad. It should be answered with [`ServerConnection::reject`].
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The head took too long. It should be answered with [`ServerConnection::reject`].
    #[error("the request head was not complete in time")]
    Timeout,
    /// The connection ended within a head, or failed.
    #[error(transparent)]
    Connection(StreamError),
}

impl RequestError {
    /// The status of the answer, if an answer can be given.
    #[must_use]
    pub const fn status(self) -> Option<u16> {
        match self {
            Self::Head(e) => Some(e.status()),
            Self::Timeout => Some(408),
            Self::Connection(_) => None,
        }
    }

    /// The text of the answer.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Head(e) => e.text(),
            Self::Timeout => "Request Timeout",
            Self::Connection(_) => "",
        }
    }

    /// `%RESPONSE_CODE_DETAILS%` of the answer.
    #[must_use]
    pub const fn details(self) -> &'static str {
        match self {
            Self::Head(e) => e.details(),
            Self::Timeout => "request_header_timeout",
            Self::Connection(_) => "http1.codec_error",
        }
    }

    /// Whether the head could be read, and was refused for what it says.
    #[must_use]
    pub const fn is_of_a_request(self) -> bool {
        matches!(self, Self::Head(HeadError::NoHost | HeadError::Fragment))
    }
}

/// A client's connection. Requests come one after the other; an exchange must be over before the next is asked for.
pub struct ServerConnection<S> {
    shared: Shared<S>,
    config: ServerConfig,
    timer: Timer,
    /// Bytes of the current head in which no end was found.
    scanned: usize,
    waiting_since: Option<Instant>,
    head_since: Option<Instant>,
    draining: bool,
    /// A head that was read and refused.
    refused: Option<Head>,
}

impl<S> std::fmt::Debug for ServerConnection<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerConnection").field("config", &self.config).finish_non_exhaustive()
    }
}

impl<S: Io> ServerConnection<S> {
    /// Serves `io`.
    #[must_use]
    pub fn new(io: S, config: ServerConfig) -> Self {
        Self {
            shared: Rc::new(RefCell::new(Inner::new(io, BytesMut::new()))),
            config,
            timer: Timer::default(),
            scanned: 0,
            waiting_since: None,
            head_since: None,
            draining: false,
            refused: None,
        }
    }

    /// Makes the response to the current or the next request the last one of the connection.
    pub fn drain(&mut self) {
        self.draining = true;
        self.shared.borrow_mut().keep_alive = false;
    }

    /// Whether no request is being received or answered, so that the connection can be closed without loss.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let inner = self.shared.borrow();
        let between = match inner.read.state {
            ReadState::Head => true,
            ReadState::Done => inner.write.is_finished(),
            _ => false,
        };
        between && inner.read.buffer.is_empty()
    }

    /// The next request, or `None` when the connection is over: closed by the client between requests, idle for too long, or
    /// not to be used any further after the last exchange. Cancelling it loses nothing.
    ///
    /// # Errors
    /// If no valid head comes. Nothing further can be received then.
    pub async fn next_request(&mut self) -> Result<Option<ServerExchange<S>>, RequestError> {
        if !self.finish_exchange().await {
            return Ok(None);
        }
        let mut head = Head::new();
        match poll_fn(|cx| self.poll_head(&mut head, cx)).await {
            Ok(Some(parsed)) => Ok(Some(self.begin_exchange(head, parsed))),
            Ok(None) => Ok(None),
            Err(error) => {
                self.refused = error.is_of_a_request().then_some(head);
                Err(error)
            }
        }
    }

    /// The head of the request that was refused, if it could be read ([`RequestError::is_of_a_request`]).
    #[must_use]
    pub fn refused(&self) -> Option<&Head> {
        self.refused.as_ref()
    }

    /// Closes the books on the last exchange; false if no other can follow.
    async fn finish_exchange(&mut self) -> bool {
        let mut budget = DISCARD;
        poll_fn(|cx| {
            let inner = &mut *self.shared.borrow_mut();
            if matches!(inner.read.state, ReadState::Head) {
                return Poll::Ready(true);
            }
            if !inner.write.is_ended() || matches!(inner.read.state, ReadState::Broken) {
                inner.break_off();
                return Poll::Ready(false);
            }
            if ready!(inner.poll_flush(cx)).is_err() || !inner.keep_alive {
                return Poll::Ready(false);
            }
            if !ready!(inner.read.poll_discard(&mut inner.io, cx, &mut budget)) {
                inner.break_off();
                return Poll::Ready(false);
            }
            inner.message += 1;
            inner.read.state = ReadState::Head;
            inner.write.state = WriteState::Head;
            Poll::Ready(true)
        })
        .await
    }

    fn poll_head(&mut self, head: &mut Head, cx: &mut Context<'_>) -> Poll<Result<Option<Parsed>, RequestError>> {
        let inner = &mut *self.shared.borrow_mut();
        loop {
            if skip_empty_lines(&mut inner.read.buffer)?
                && let Some(parsed) = try_parse(inner, head, &mut self.scanned, self.config)?
            {
                (self.waiting_since, self.head_since) = (None, None);
                return Poll::Ready(Ok(Some(parsed)));
            }
            let begun = !inner.read.buffer.is_empty();
            match inner.read.poll_fill(&mut inner.io, cx) {
                Poll::Ready(Ok(0)) if begun => return Poll::Ready(Err(RequestError::Connection(StreamError::Closed))),
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(None)),
                Poll::Ready(Ok(_)) => {}
                // Clients often end an idle connection by a reset.
                Poll::Ready(Err(_)) if !begun => return Poll::Ready(Ok(None)),
                Poll::Ready(Err(e)) => return Poll::Ready(Err(RequestError::Connection(e))),
                Poll::Pending if begun => {
                    let since = *self.head_since.get_or_insert_with(Instant::now);
                    let Some(timeout) = self.config.head_timeout else { return Poll::Pending };
                    ready!(self.timer.poll(since + timeout, cx));
                    return Poll::Ready(Err(RequestError::Timeout));
                }
                Poll::Pending => {
                    let since = *self.waiting_since.get_or_insert_with(Instant::now);
                    let Some(timeout) = self.config.idle_timeout else { return Poll::Pending };
                    ready!(self.timer.poll(since + timeout, cx));
                    return Poll::Ready(Ok(None));
                }
            }
        }
    }

    fn begin_exchange(&mut self, head: Head, parsed: Parsed) -> ServerExchange<S> {
        let kind = RequestKind::of(&head);
        let message = {
            let inner = &mut *self.shared.borrow_mut();
            inner.keep_alive = parsed.meta.keep_alive && !self.draining;
            inner.kind = kind;
            inner.read.begin_body(parsed.meta.framing, self.config.limits);
            inner.message
        };
        let handle = Handle { shared: Rc::clone(&self.shared), message };
        let body = if parsed.has_no_body() { AnyReader::Empty } else { AnyReader::H1(BodyReader(handle.clone())) };
        let expects = head.expects_continue() && !parsed.has_no_body();
        let responder = Responder { handle, version: head.version(), expects };
        ServerExchange { head, body, responder: AnyResponder::H1(responder) }
    }

    /// Answers a head that could not be read, and closes the connection in such a way that the client can read the answer:
    /// our direction first, then, at the client's end or after `linger`, the whole. `dress` may add to the answer's headers.
    pub async fn reject(self, error: RequestError, dress: impl FnOnce(&mut Head), linger: Duration) {
        if let Some(status) = error.status()
            && let Ok(mut head) = Head::response(status)
        {
            let text = error.text();
            head.set_number(KnownHeader::ContentLength, text.len() as u64);
            if !text.is_empty() {
                head.set(KnownHeader::ContentType, Value::from_static("text/plain"));
            }
            dress(&mut head);
            let inner = &mut *self.shared.borrow_mut();
            let form = ResponseForm {
                version: Version::Http11,
                chunked: false,
                length: LengthHeader::Keep,
                persistence: Persistence::Close,
            };
            inner.write.state = WriteState::UntilClose;
            let out = inner.write.begin();
            write_response(out, &head, form);
            out.extend_from_slice(text.as_bytes());
        }
        self.close(linger).await;
    }

    /// Closes the connection: what is queued is written, then our direction is closed, and at the client's end or after
    /// `linger` the whole. Closing at once would make the kernel send a reset if the client has sent something unread, and
    /// the reset can destroy the response on its way.
    pub async fn close(self, linger: Duration) {
        let farewell = poll_fn(|cx| {
            let inner = &mut *self.shared.borrow_mut();
            if inner.write.state != WriteState::Broken {
                inner.write.state = WriteState::Ended { shutdown: true };
                if ready!(inner.poll_flush(cx)).is_err() {
                    return Poll::Ready(());
                }
            }
            loop {
                inner.read.buffer.clear();
                match ready!(inner.read.poll_fill(&mut inner.io, cx)) {
                    Ok(n) if n > 0 => {}
                    _ => return Poll::Ready(()),
                }
            }
        });
        let _ = tokio::time::timeout(linger, farewell).await;
    }

    /// The stream and what was read from it but not consumed, e.g. to go on in another protocol. `None` while a handle of an
    /// exchange lives.
    #[must_use]
    pub fn into_parts(self) -> Option<(S, BytesMut)> {
        let inner = Rc::try_unwrap(self.shared).ok()?.into_inner();
        Some((inner.io, inner.read.buffer))
    }
}

/// Takes empty lines off the start; false if not even one byte of a request line is there.
fn skip_empty_lines(buffer: &mut BytesMut) -> Result<bool, HeadError> {
    for _ in 0..EMPTY_LINES {
        if !buffer.starts_with(b"\r\n") {
            break;
        }
        drop(buffer.split_to(2));
    }
    match buffer[..] {
        [] | [b'\r'] => Ok(false),
        [b'\r' | b'\n', ..] => Err(HeadError::Malformed("empty lines in the place of a request line")),
        _ => Ok(true),
    }
}

fn try_parse<S>(
    inner: &mut Inner<S>,
    head: &mut Head,
    scanned: &mut usize,
    config: ServerConfig,
) -> Result<Option<Parsed>, HeadError> {
    let buffer = &mut inner.read.buffer;
    if *scanned > 0 && buffer.len() < config.limits.max_head_bytes && !has_head_end(buffer, *scanned) {
        *scanned = buffer.len();
        return Ok(None);
    }
    let parsed = parse_request(buffer, head, config.limits, config.accept_http10)?;
    *scanned = if parsed.is_some() { 0 } else { buffer.len() };
    if let Some(parsed) = parsed {
        drop(buffer.split_to(parsed.consumed));
    }
    Ok(parsed)
}

/// Sends the response to one request. Dropping it unused makes the connection unusable.
#[derive(Debug)]
pub struct Responder<S> {
    handle: Handle<S>,
    version: Version,
    /// The client waits for 100 before it sends the body.
    expects: bool,
}

impl<S: Io> Responder<S> {
    /// See [`crate::http::Responder::send_interim`].
    ///
    /// # Errors
    /// If it cannot be sent, or is not interim.
    pub async fn send_interim(&mut self, head: &Head) -> Result<(), StreamError> {
        if !head.is_interim() {
            return Err(StreamError::Malformed("a final response sent as an interim one"));
        }
        if self.version == Version::Http10 {
            return Ok(());
        }
        if head.status() == 100 {
            self.expects = false;
        }
        self.handle
            .with(|c| {
                let form = ResponseForm {
                    version: self.version,
                    chunked: false,
                    length: LengthHeader::Drop,
                    persistence: Persistence::Implied,
                };
                write_response(c.write.begin(), head, form);
            })
            .ok_or(StreamError::Closed)?;
        poll_fn(|cx| self.handle.poll(|c| c.poll_flush(cx))).await
    }

    /// See [`crate::http::Responder::send_response`].
    ///
    /// # Errors
    /// If the connection is gone, the status is interim, or the body's length contradicts `end`.
    pub fn send_response(self, head: &Head, end: bool) -> Result<BodyWriter<S>, StreamError> {
        if head.is_interim() || head.status() == 0 {
            return Err(StreamError::Malformed("an interim response sent as the final one"));
        }
        let (version, expects) = (self.version, self.expects);
        self.handle.with(|c| c.send_response(head, version, expects, end)).unwrap_or(Err(StreamError::Closed))?;
        Ok(BodyWriter(self.handle))
    }

    /// See [`crate::http::Responder::close_after`].
    pub fn close_after(&mut self) {
        self.handle.with(|c| c.keep_alive = false);
    }

    /// See [`crate::http::Responder::poll_peer_gone`].
    pub fn poll_peer_gone(&mut self, cx: &mut Context<'_>) -> Poll<PeerGone> {
        self.handle.with(|c| c.poll_peer_gone(cx)).unwrap_or(Poll::Ready(PeerGone::Closed))
    }

    /// Makes the connection unusable.
    pub fn abort(self) {
        self.handle.with(Inner::break_off);
    }
}

impl<S: Io> Inner<S> {
    fn send_response(&mut self, head: &Head, version: Version, expects: bool, end: bool) -> Result<(), StreamError> {
        if self.write.state != WriteState::Head {
            return Err(StreamError::Closed);
        }
        let (state, length) = response_body(head, self.kind, version, end)?;
        let tunnel = state == WriteState::Tunnel;
        if matches!(self.read.state, ReadState::AwaitTunnel) && !tunnel {
            // What the client sent in the hope of a tunnel must not be read as a request.
            self.read.state = ReadState::Done;
            self.keep_alive = false;
        }
        // Whether the body comes without the 100 that was not sent is the client's choice, so nobody can tell what comes next.
        self.keep_alive &= state != WriteState::UntilClose && (!expects || self.read.is_done());
        let persistence = match (self.keep_alive, version) {
            _ if tunnel => Persistence::Implied,
            (false, _) => Persistence::Close,
            (true, Version::Http10) => Persistence::KeepAlive,
            (true, _) => Persistence::Implied,
        };
        let form = ResponseForm { version, chunked: state == WriteState::Chunked, length, persistence };
        write_response(self.write.begin(), head, form);
        self.write.state = state;
        if tunnel {
            self.open_tunnel();
        } else {
            self.wake();
        }
        if end && !tunnel { self.write.end() } else { Ok(()) }
    }
}

/// How the body of a response is sent, and what becomes of its `content-length` (RFC 9112 §6.3).
fn response_body(head: &Head, kind: RequestKind, version: Version, end: bool) -> Result<(WriteState, LengthHeader), StreamError> {
    let status = head.status();
    if kind.opens_tunnel(status) {
        return Ok((WriteState::Tunnel, LengthHeader::Drop));
    }
    if status == 101 {
        return Err(StreamError::Malformed("a 101 response to a request that asked for no upgrade"));
    }
    if kind == RequestKind::Head || status == 304 {
        return Ok((WriteState::Discard, LengthHeader::Keep));
    }
    if status == 204 {
        return Ok((WriteState::Discard, LengthHeader::Drop));
    }
    match head.content_length() {
        Some(n) if end && n > 0 => Err(StreamError::Length),
        Some(n) => Ok((WriteState::Length(n), LengthHeader::Keep)),
        None if end => Ok((WriteState::Length(0), LengthHeader::Zero)),
        None if version == Version::Http10 => Ok((WriteState::UntilClose, LengthHeader::Drop)),
        None => Ok((WriteState::Chunked, LengthHeader::Drop)),
    }
}

/// How a body of this framing is sent.
pub(super) const fn state_of(framing: Framing) -> WriteState {
    match framing {
        Framing::None => WriteState::Length(0),
        Framing::Length(n) => WriteState::Length(n),
        Framing::Chunked => WriteState::Chunked,
        Framing::UntilClose => WriteState::UntilClose,
        Framing::Tunnel => WriteState::AwaitTunnel,
    }
}

/// One timer for all waits of a connection. Most waits end long before; then it is left running, and looked at again only
/// when it goes off.
#[derive(Default)]
struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    fn poll(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}
