//! The handles of a message's body.

use super::read::ReadState;
use super::shared::Handle;
use super::write::WriteState;
use crate::http::{Frame, Io, PeerGone, StreamError};
use std::task::{Context, Poll};

/// Receives the body of one message.
#[derive(Debug)]
pub struct BodyReader<S>(pub(super) Handle<S>);

impl<S: Io> BodyReader<S> {
    /// See [`crate::http::BodyReader::set_raw`].
    pub fn set_raw(&mut self, raw: bool) {
        self.0.with(|c| c.read.raw = raw);
    }

    /// See [`crate::http::BodyReader::take_raw_payload`].
    pub fn take_raw_payload(&mut self) -> u64 {
        self.0.with(|c| std::mem::take(&mut c.read.raw_payload)).unwrap_or_default()
    }

    /// See [`crate::http::BodyReader::is_end`].
    #[must_use]
    pub fn is_end(&self) -> bool {
        self.0.with(|c| c.read.is_done()).unwrap_or(true)
    }

    /// See [`crate::http::BodyReader::poll_next`].
    ///
    /// # Errors
    /// If the rest of the body will not come.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, StreamError>> {
        self.0.poll(|c| c.poll_frame(cx))
    }
}

/// Sends the body of one message. Dropping it before [`Self::is_finished`] makes the connection unusable.
#[derive(Debug)]
pub struct BodyWriter<S>(pub(super) Handle<S>);

impl<S: Io> BodyWriter<S> {
    /// See [`crate::http::BodyWriter::accepts_raw`].
    #[must_use]
    pub fn accepts_raw(&self) -> bool {
        self.0.with(|c| c.write.state == WriteState::Chunked).unwrap_or(false)
    }

    /// See [`crate::http::BodyWriter::is_finished`].
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.with(|c| c.write.is_finished()).unwrap_or(true)
    }

    /// See [`crate::http::BodyWriter::poll_ready`].
    ///
    /// # Errors
    /// If the connection failed.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        self.0.poll(|c| c.poll_ready(cx))
    }

    /// See [`crate::http::BodyWriter::start_send`].
    ///
    /// # Errors
    /// If the frame does not fit.
    pub fn start_send(&mut self, frame: Frame, end: bool) -> Result<(), StreamError> {
        self.0.with(|c| c.write.start_send(frame, end)).unwrap_or(Err(StreamError::Closed))
    }

    /// See [`crate::http::BodyWriter::poll_flush`].
    ///
    /// # Errors
    /// If the connection failed.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        self.0.poll(|c| c.poll_flush(cx))
    }

    /// See [`crate::http::BodyWriter::poll_finish`].
    ///
    /// # Errors
    /// If the body is too short or the connection failed.
    pub fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        self.0.poll(|c| {
            // A tunnel that was asked for and not opened yet has to open before it can end.
            if c.write.state == WriteState::AwaitTunnel {
                return match c.poll_ready(cx) {
                    Poll::Ready(Ok(())) => Poll::Pending,
                    other => other,
                };
            }
            if let Err(e) = c.write.end() {
                return Poll::Ready(Err(e));
            }
            c.poll_flush(cx)
        })
    }

    /// See [`crate::http::BodyWriter::poll_peer_gone`].
    pub fn poll_peer_gone(&mut self, cx: &mut Context<'_>) -> Poll<PeerGone> {
        self.0.with(|c| c.poll_peer_gone(cx)).unwrap_or(Poll::Ready(PeerGone::Closed))
    }

    /// Makes the connection unusable, so that the peer sees a message that is not whole.
    pub fn abort(self) {
        self.0.with(super::shared::Inner::break_off);
    }
}

impl<S> BodyReader<S> {
    /// Whether the bytes are a tunnel's.
    #[must_use]
    pub fn is_tunnel(&self) -> bool {
        self.0.with(|c| matches!(c.read.state, ReadState::Tunnel)).unwrap_or(false)
    }
}
