//! Our side of a connection to an upstream.

use super::body::{BodyReader, BodyWriter};
use super::encode::write_request;
use super::framing::{Framing, RequestKind};
use super::parse::{Limits, Parsed, has_head_end, parse_response};
use super::read::ReadState;
use super::server::state_of;
use super::shared::{Handle, Inner, Shared};
use super::write::WriteState;
use crate::http::{BodyWriter as AnyWriter, ClientExchange, Head, Io, ResponseReader as AnyResponse, StreamError};
use bytes::BytesMut;
use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Interim responses before the final one; more are an attack or a fault.
const INTERIM: usize = 32;

/// A connection to an upstream. Requests go one after the other.
pub struct ClientConnection<S> {
    shared: Shared<S>,
    limits: Limits,
    requests: u64,
}

impl<S> std::fmt::Debug for ClientConnection<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientConnection").field("requests", &self.requests).finish_non_exhaustive()
    }
}

impl<S: Io> ClientConnection<S> {
    /// Uses `io`; `limits` bound the heads and trailers of responses.
    #[must_use]
    pub fn new(io: S, limits: Limits) -> Self {
        let mut inner = Inner::new(io, BytesMut::new());
        inner.read.state = ReadState::Done;
        inner.write.state = WriteState::Ended { shutdown: false };
        Self { shared: Rc::new(RefCell::new(inner)), limits, requests: 0 }
    }

    /// How many requests it has carried.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Queues a request; `end` says that no body and no trailers follow. Nothing leaves before the response is waited for, or
    /// the writer is given frames, flushed or finished.
    ///
    /// # Errors
    /// `Closed` if the connection is not [at rest](Self::is_at_rest); `Length` if `end` contradicts the `content-length`.
    /// Nothing was sent then.
    pub fn send_request(&mut self, head: &Head, end: bool) -> Result<ClientExchange<S>, StreamError> {
        if !self.is_at_rest() {
            return Err(StreamError::Closed);
        }
        let framing = request_framing(head, end)?;
        let inner = &mut *self.shared.borrow_mut();
        write_request(inner.write.begin(), head, framing);
        inner.write.state = state_of(framing);
        if end && framing != Framing::Tunnel {
            inner.write.end()?;
        }
        inner.kind = RequestKind::of(head);
        inner.read.state = ReadState::Head;
        inner.message += 1;
        self.requests += 1;
        let handle = Handle { shared: Rc::clone(&self.shared), message: inner.message };
        let response =
            ResponseReader { handle: handle.clone(), limits: self.limits, scanned: 0, interim: 0, state: ResponseState::Waiting };
        Ok(ClientExchange { writer: AnyWriter::H1(BodyWriter(handle)), response: AnyResponse::H1(response) })
    }

    /// Whether another request may follow, as far as was seen: the last exchange is complete in both directions, neither side
    /// wants to close, and nothing has come that no request asked for. Also gives the buffers back, so it is to be asked when
    /// the connection is put into a pool.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        let inner = &mut *self.shared.borrow_mut();
        if !(inner.keep_alive && inner.read.is_done() && !inner.read.eof && inner.write.is_finished()) {
            return false;
        }
        inner.read.release();
        inner.read.buffer.is_empty()
    }

    /// Whether another request can be sent: the connection [is at rest](Self::is_at_rest), and the upstream has neither closed it
    /// meanwhile nor sent anything. To be asked when it is taken from a pool.
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        self.is_at_rest()
            && self.poll_idle_inner(&mut self.shared.borrow_mut(), &mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// While the connection is idle: ready when the upstream has closed it or sent something unasked; then it must be dropped.
    pub fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_idle_inner(&mut self.shared.borrow_mut(), cx)
    }

    #[allow(clippy::unused_self, reason = "keeps the two callers alike")]
    fn poll_idle_inner(&self, inner: &mut Inner<S>, cx: &mut Context<'_>) -> Poll<()> {
        inner.read.poll_fill(&mut inner.io, cx).map(|_| ())
    }

    /// The stream and what was read from it but not consumed. `None` while a handle of an exchange lives.
    #[must_use]
    pub fn into_parts(self) -> Option<(S, BytesMut)> {
        let inner = Rc::try_unwrap(self.shared).ok()?.into_inner();
        Some((inner.io, inner.read.buffer))
    }
}

fn request_framing(head: &Head, end: bool) -> Result<Framing, StreamError> {
    if head.asks_for_tunnel() {
        return Ok(Framing::Tunnel);
    }
    match head.content_length() {
        Some(n) if end && n > 0 => Err(StreamError::Length),
        Some(n) => Ok(Framing::Length(n)),
        None if end => Ok(Framing::None),
        None => Ok(Framing::Chunked),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ResponseState {
    Waiting,
    /// Some bytes have come.
    Begun,
    /// The final head has come.
    Final,
}

/// Receives the response to one request.
pub struct ResponseReader<S> {
    handle: Handle<S>,
    limits: Limits,
    scanned: usize,
    interim: usize,
    state: ResponseState,
}

impl<S> std::fmt::Debug for ResponseReader<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseReader").field("state", &self.state).finish_non_exhaustive()
    }
}

impl<S> Drop for ResponseReader<S> {
    fn drop(&mut self) {
        if self.state != ResponseState::Final {
            self.handle.with(Inner::break_off);
        }
    }
}

impl<S: Io> ResponseReader<S> {
    /// See [`crate::http::ResponseReader::poll_head`].
    ///
    /// # Errors
    /// If no valid response comes.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, StreamError>> {
        let handle = self.handle.clone();
        let result = handle.poll(|c| self.poll_head_of(c, cx));
        if let Poll::Ready(Err(_)) = result {
            handle.with(Inner::break_off);
        }
        result
    }

    fn poll_head_of(&mut self, c: &mut Inner<S>, cx: &mut Context<'_>) -> Poll<Result<Head, StreamError>> {
        // The request may still be queued. If it cannot be written, the upstream may have answered before it closed.
        if c.write.state != WriteState::Broken {
            let _ = c.poll_flush(cx);
        }
        loop {
            if !c.read.buffer.is_empty() {
                self.state = ResponseState::Begun;
                let mut head = Head::new();
                if let Some(parsed) = self.try_parse(c, &mut head)? {
                    return Poll::Ready(self.accept(c, head, parsed));
                }
            }
            match c.read.poll_fill(&mut c.io, cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(StreamError::Closed)),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn try_parse(&mut self, c: &mut Inner<S>, head: &mut Head) -> Result<Option<Parsed>, StreamError> {
        let buffer = &mut c.read.buffer;
        if self.scanned > 0 && buffer.len() < self.limits.max_head_bytes && !has_head_end(buffer, self.scanned) {
            self.scanned = buffer.len();
            return Ok(None);
        }
        let parsed = parse_response(buffer, head, self.limits, c.kind)?;
        self.scanned = if parsed.is_some() { 0 } else { buffer.len() };
        if let Some(parsed) = parsed {
            drop(buffer.split_to(parsed.consumed));
        }
        Ok(parsed)
    }

    fn accept(&mut self, c: &mut Inner<S>, head: Head, parsed: Parsed) -> Result<Head, StreamError> {
        if head.is_interim() {
            self.interim += 1;
            if self.interim > INTERIM {
                return Err(StreamError::Malformed("too many interim responses"));
            }
            return Ok(head);
        }
        self.state = ResponseState::Final;
        c.keep_alive &= parsed.meta.keep_alive;
        c.read.begin_body(parsed.meta.framing, self.limits);
        if parsed.meta.framing == Framing::Tunnel {
            c.open_tunnel();
        } else if c.write.state == WriteState::AwaitTunnel {
            c.keep_alive = false;
            c.write.state = WriteState::Ended { shutdown: false };
            c.wake();
        }
        Ok(head)
    }

    /// See [`crate::http::ResponseReader::has_begun`].
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.state != ResponseState::Waiting
    }

    /// See [`crate::http::ResponseReader::into_body`].
    ///
    /// # Errors
    /// If the final head has not been received.
    pub fn into_body(self) -> Result<BodyReader<S>, StreamError> {
        if self.state != ResponseState::Final {
            return Err(StreamError::Malformed("the response's head has not been received"));
        }
        Ok(BodyReader(self.handle.clone()))
    }
}
