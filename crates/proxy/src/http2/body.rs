//! Bodies of HTTP/2 streams.

use super::gate::{Gate, Passage};
use crate::http::{Frame, Head, PeerGone, ResetReason, StreamError, headers_from_h2, headers_to_h2};
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use std::task::{Context, Poll, ready};

impl From<Reason> for ResetReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::NO_ERROR => Self::NoError,
            Reason::PROTOCOL_ERROR => Self::Protocol,
            Reason::INTERNAL_ERROR => Self::Internal,
            Reason::FLOW_CONTROL_ERROR => Self::FlowControl,
            Reason::REFUSED_STREAM => Self::RefusedStream,
            Reason::CANCEL => Self::Cancel,
            Reason::CONNECT_ERROR => Self::Connect,
            Reason::ENHANCE_YOUR_CALM => Self::EnhanceYourCalm,
            Reason::HTTP_1_1_REQUIRED => Self::Http11Required,
            _ => Self::Other,
        }
    }
}

/// The code that says it on the wire.
pub(super) fn reason_of(reset: ResetReason) -> Reason {
    match reset {
        ResetReason::NoError => Reason::NO_ERROR,
        ResetReason::Protocol => Reason::PROTOCOL_ERROR,
        ResetReason::Internal | ResetReason::Other => Reason::INTERNAL_ERROR,
        ResetReason::FlowControl => Reason::FLOW_CONTROL_ERROR,
        ResetReason::RefusedStream => Reason::REFUSED_STREAM,
        ResetReason::Cancel => Reason::CANCEL,
        ResetReason::Connect => Reason::CONNECT_ERROR,
        ResetReason::EnhanceYourCalm => Reason::ENHANCE_YOUR_CALM,
        ResetReason::Http11Required => Reason::HTTP_1_1_REQUIRED,
    }
}

/// What an error of the `h2` crate means for one stream.
pub(super) fn stream_error(error: &h2::Error) -> StreamError {
    if let Some(io) = error.get_io() {
        return StreamError::Io(io.kind());
    }
    match error.reason() {
        // The error reaches only streams that the GOAWAY leaves out, which the peer has not acted on (RFC 9113 §6.8).
        Some(_) if error.is_go_away() && error.is_remote() => StreamError::Reset(ResetReason::RefusedStream),
        Some(reason) if error.is_remote() => StreamError::Reset(reason.into()),
        Some(Reason::ENHANCE_YOUR_CALM) => StreamError::Malformed("the peer overstepped a limit of HTTP/2"),
        Some(Reason::FLOW_CONTROL_ERROR) => StreamError::Malformed("the peer violated flow control"),
        Some(Reason::REFUSED_STREAM) => StreamError::HeadTooLarge,
        Some(_) => StreamError::Malformed("the peer broke the HTTP/2 protocol"),
        None => StreamError::Closed,
    }
}

/// Receives the body of one stream. A frame's bytes are given back to the peer's window when the next one is asked for, i.e.
/// when the first one has been passed on.
#[derive(Debug)]
pub struct BodyReader {
    stream: RecvStream,
    gate: Option<Gate>,
    unreleased: usize,
    done: bool,
}

impl BodyReader {
    pub(super) fn new(stream: RecvStream, gate: Option<Gate>) -> Self {
        Self { stream, gate, unreleased: 0, done: false }
    }

    /// See [`crate::http::BodyReader::is_end`].
    #[must_use]
    pub fn is_end(&self) -> bool {
        self.done || (self.gate.is_none() && self.stream.is_end_stream()) || self.gate.as_ref().is_some_and(Gate::is_refused)
    }

    /// See [`crate::http::BodyReader::poll_next`].
    ///
    /// # Errors
    /// If the stream was reset or the connection failed.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, StreamError>> {
        if let Some(gate) = &self.gate {
            if ready!(gate.poll(cx)) == Passage::Refused {
                return Poll::Ready(Ok(None));
            }
            self.gate = None;
        }
        if self.unreleased > 0 {
            // It fails only when the stream is gone; then the next poll says so.
            let _ = self.stream.flow_control().release_capacity(self.unreleased);
            self.unreleased = 0;
        }
        while !self.done {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    self.unreleased = data.len();
                    return Poll::Ready(Ok(Some(Frame::Data(data))));
                }
                // A peer that has sent all may say that it wants no more of ours; it is not an error of this direction.
                Some(Err(e)) if e.is_reset() && e.is_remote() && e.reason() == Some(Reason::NO_ERROR) => self.done = true,
                Some(Err(e)) => return Poll::Ready(Err(stream_error(&e))),
                None => {
                    let trailers = ready!(self.stream.poll_trailers(cx));
                    self.done = true;
                    match trailers {
                        Ok(Some(map)) => {
                            let head = headers_from_h2(&map);
                            return Poll::Ready(Ok(Some(Frame::Trailers(Box::new(head)))));
                        }
                        Ok(None) => {}
                        Err(e) => return Poll::Ready(Err(stream_error(&e))),
                    }
                }
            }
        }
        Poll::Ready(Ok(None))
    }
}

/// Sends the body of one stream within the peer's window. Dropping it before its end resets the stream.
#[derive(Debug)]
pub struct BodyWriter {
    stream: SendStream<Bytes>,
    gate: Option<Gate>,
    pending: Bytes,
    /// The last frame has been given.
    ended: bool,
    /// The last frame has been handed to the transport.
    sent_end: bool,
    trailers: Option<Box<Head>>,
    /// The message must have no body (`HEAD`, 204, 304): what is given is dropped.
    discard: bool,
}

impl BodyWriter {
    pub(super) fn new(stream: SendStream<Bytes>, gate: Option<Gate>, ended: bool, discard: bool) -> Self {
        Self { stream, gate, pending: Bytes::new(), ended, sent_end: ended, trailers: None, discard }
    }

    /// See [`crate::http::BodyWriter::is_finished`].
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.sent_end
    }

    /// See [`crate::http::BodyWriter::poll_ready`].
    ///
    /// # Errors
    /// If the stream was reset or the connection failed.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        if let Some(gate) = &self.gate {
            if ready!(gate.poll(cx)) == Passage::Refused {
                return Poll::Ready(Err(StreamError::Closed));
            }
            self.gate = None;
        }
        self.poll_drain(cx)
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        while !self.pending.is_empty() {
            self.stream.reserve_capacity(self.pending.len());
            let mut capacity = self.stream.capacity();
            if capacity == 0 {
                if let Poll::Ready(gone) = self.stream.poll_reset(cx) {
                    return Poll::Ready(Err(gone.map_or_else(|e| stream_error(&e), |reason| StreamError::Reset(reason.into()))));
                }
                capacity = match ready!(self.stream.poll_capacity(cx)) {
                    Some(Ok(capacity)) => capacity,
                    Some(Err(e)) => return Poll::Ready(Err(stream_error(&e))),
                    None => return Poll::Ready(Err(StreamError::Closed)),
                };
            }
            let piece = self.pending.split_to(capacity.min(self.pending.len()));
            let last = self.ended && self.pending.is_empty() && self.trailers.is_none();
            self.stream.send_data(piece, last).map_err(|e| stream_error(&e))?;
            self.sent_end |= last;
        }
        if self.ended && !self.sent_end {
            let result = match self.trailers.take() {
                Some(trailers) => self.stream.send_trailers(headers_to_h2(&trailers)),
                None => self.stream.send_data(Bytes::new(), true),
            };
            self.sent_end = true;
            result.map_err(|e| stream_error(&e))?;
        }
        Poll::Ready(Ok(()))
    }

    /// See [`crate::http::BodyWriter::start_send`].
    ///
    /// # Errors
    /// If the body was finished before, or the frame is of HTTP/1.
    pub fn start_send(&mut self, frame: Frame, end: bool) -> Result<(), StreamError> {
        if self.discard {
            return Ok(());
        }
        if self.ended || self.gate.is_some() || !self.pending.is_empty() {
            return Err(StreamError::Length);
        }
        match frame {
            Frame::Data(data) => {
                self.pending = data;
                self.ended = end;
            }
            Frame::Trailers(trailers) => {
                self.trailers = (!trailers.is_empty()).then_some(trailers);
                self.ended = true;
            }
            Frame::Raw(_) => return Err(StreamError::Length),
        }
        Ok(())
    }

    /// See [`crate::http::BodyWriter::poll_flush`]. The connection's own task does the writing.
    ///
    /// # Errors
    /// If the stream was reset or the connection failed.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        self.poll_drain(cx)
    }

    /// See [`crate::http::BodyWriter::poll_finish`].
    ///
    /// # Errors
    /// If the stream was reset or the connection failed.
    pub fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        if self.sent_end {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_ready(cx))?;
        self.ended = true;
        self.poll_drain(cx)
    }

    /// See [`crate::http::BodyWriter::poll_peer_gone`].
    pub fn poll_peer_gone(&mut self, cx: &mut Context<'_>) -> Poll<PeerGone> {
        self.stream.poll_reset(cx).map(|r| PeerGone::Reset(r.map_or(ResetReason::Cancel, Into::into)))
    }

    /// Resets the stream.
    pub fn reset(mut self, reason: ResetReason) {
        self.stream.send_reset(reason_of(reason));
    }
}
