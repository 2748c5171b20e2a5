//! The sending half of a connection.

use super::encode::{write_chunk_size, write_last_chunk};
use crate::http::{Frame, Io, LENT, StreamError, give_write, take_write};
use bytes::{Buf, Bytes};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// A payload up to this size is copied next to the head, so that one plain write carries both; a larger one is written from
/// where it is.
const COALESCE: usize = 4096;

/// What may be written next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteState {
    /// A head.
    Head,
    /// A body of so many more bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// A body that ends with the connection.
    UntilClose,
    /// A body that this message must not have: it is dropped.
    Discard,
    /// A tunnel that the response has not opened.
    AwaitTunnel,
    /// A tunnel.
    Tunnel,
    /// Nothing: the message is complete; the flag says that the direction is to be closed after it.
    Ended { shutdown: bool },
    /// Nothing: the connection is unusable.
    Broken,
}

/// The sending half of a connection: `buffer`, then `large`, then `tail`.
#[derive(Debug)]
pub(super) struct WriteSide {
    pub(super) buffer: Vec<u8>,
    sent: usize,
    large: Bytes,
    tail: &'static [u8],
    unflushed: bool,
    shut: bool,
    pub(super) state: WriteState,
}

impl WriteSide {
    pub(super) fn new() -> Self {
        Self {
            buffer: Vec::new(),
            sent: 0,
            large: Bytes::new(),
            tail: b"",
            unflushed: false,
            shut: false,
            state: WriteState::Head,
        }
    }

    /// The buffer for a head or for chunk lines, after what waits already. Only while no large payload waits.
    pub(super) fn begin(&mut self) -> &mut Vec<u8> {
        debug_assert!(self.large.is_empty(), "poll_ready was not waited for");
        if self.buffer.capacity() == 0 {
            self.buffer = take_write();
        }
        self.buffer.extend_from_slice(std::mem::take(&mut self.tail));
        &mut self.buffer
    }

    pub(super) fn is_ended(&self) -> bool {
        matches!(self.state, WriteState::Ended { .. })
    }

    /// Whether the message is complete and everything is with the transport.
    pub(super) fn is_finished(&self) -> bool {
        matches!(self.state, WriteState::Ended { shutdown } if !shutdown || self.shut) && self.is_drained() && !self.unflushed
    }

    fn is_drained(&self) -> bool {
        self.sent == self.buffer.len() && self.large.is_empty() && self.tail.is_empty()
    }

    /// Whether a frame may be added without letting the backlog grow.
    pub(super) fn poll_ready<S: Io>(&mut self, io: &mut S, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        match self.state {
            WriteState::Broken => Poll::Ready(Err(StreamError::Closed)),
            WriteState::AwaitTunnel => Poll::Pending,
            _ if self.large.is_empty() && self.buffer.len() - self.sent < LENT => Poll::Ready(Ok(())),
            _ => self.poll_drain(io, cx),
        }
    }

    pub(super) fn start_send(&mut self, frame: Frame, end: bool) -> Result<(), StreamError> {
        match (frame, self.state) {
            (_, WriteState::Broken) => Err(StreamError::Closed),
            (_, WriteState::Head | WriteState::AwaitTunnel | WriteState::Ended { .. }) => Err(StreamError::Length),
            (_, WriteState::Discard) => {
                if end {
                    self.state = WriteState::Ended { shutdown: false };
                }
                Ok(())
            }
            (Frame::Trailers(trailers), WriteState::Chunked) => {
                write_last_chunk(self.begin(), Some(&trailers));
                self.state = WriteState::Ended { shutdown: false };
                Ok(())
            }
            // Only chunks have a place for trailers; RFC 9110 §6.5.1 lets a gateway drop them.
            (Frame::Trailers(_), _) => self.end(),
            (Frame::Raw(chunks), WriteState::Chunked) => {
                self.queue(chunks, b"");
                if end { self.end() } else { Ok(()) }
            }
            (Frame::Raw(_), _) => Err(StreamError::Length),
            (Frame::Data(data), _) => self.send_data(data, end),
        }
    }

    fn send_data(&mut self, data: Bytes, end: bool) -> Result<(), StreamError> {
        match &mut self.state {
            WriteState::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(StreamError::Length)?;
                self.queue(data, b"");
            }
            // An empty chunk would be the last one.
            WriteState::Chunked if !data.is_empty() => {
                write_chunk_size(self.begin(), data.len());
                self.queue(data, b"\r\n");
            }
            WriteState::Chunked => {}
            _ => self.queue(data, b""),
        }
        if end { self.end() } else { Ok(()) }
    }

    /// Ends the message.
    pub(super) fn end(&mut self) -> Result<(), StreamError> {
        let shutdown = match self.state {
            WriteState::Length(0) | WriteState::Discard => false,
            WriteState::Ended { .. } => return Ok(()),
            WriteState::Chunked if self.large.is_empty() => {
                write_last_chunk(self.begin(), None);
                false
            }
            WriteState::Chunked => {
                self.tail = if self.tail.is_empty() { b"0\r\n\r\n" } else { b"\r\n0\r\n\r\n" };
                false
            }
            WriteState::UntilClose | WriteState::Tunnel => true,
            WriteState::Length(_) | WriteState::Head => return self.broken(StreamError::Length),
            // The peer refused the tunnel or has not answered: nothing was and nothing will be sent.
            WriteState::AwaitTunnel => return Err(StreamError::Length),
            WriteState::Broken => return Err(StreamError::Closed),
        };
        self.state = WriteState::Ended { shutdown };
        Ok(())
    }

    fn broken(&mut self, error: StreamError) -> Result<(), StreamError> {
        self.state = WriteState::Broken;
        Err(error)
    }

    /// Adds payload, and after it what closes its chunk.
    fn queue(&mut self, data: Bytes, tail: &'static [u8]) {
        if data.len() <= COALESCE {
            let buffer = self.begin();
            buffer.extend_from_slice(&data);
            buffer.extend_from_slice(tail);
        } else {
            self.begin();
            self.large = data;
            self.tail = tail;
        }
    }

    /// Writes out everything.
    fn poll_drain<S: Io>(&mut self, io: &mut S, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        while !self.is_drained() {
            let n =
                ready!(self.poll_write(io, cx)).and_then(|n| if n == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(n) });
            match n {
                Ok(n) => self.advance(n),
                Err(e) => {
                    self.state = WriteState::Broken;
                    self.forget();
                    return Poll::Ready(Err(e.into()));
                }
            }
        }
        self.buffer.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_write<S: Io>(&mut self, io: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let io = Pin::new(io);
        let waiting = &self.buffer[self.sent..];
        if self.large.is_empty() {
            let only = if waiting.is_empty() { self.tail } else { waiting };
            return io.poll_write(cx, only);
        }
        if io.is_write_vectored() {
            return io.poll_write_vectored(cx, &[IoSlice::new(waiting), IoSlice::new(&self.large), IoSlice::new(self.tail)]);
        }
        io.poll_write(cx, if waiting.is_empty() { &self.large } else { waiting })
    }

    fn advance(&mut self, mut n: usize) {
        self.unflushed = true;
        let of_buffer = n.min(self.buffer.len() - self.sent);
        self.sent += of_buffer;
        n -= of_buffer;
        let of_large = n.min(self.large.len());
        self.large.advance(of_large);
        self.tail = &self.tail[n - of_large..];
        if self.large.is_empty() {
            self.large = Bytes::new();
        }
    }

    /// Hands everything to the transport; the buffer is lent to others after.
    pub(super) fn poll_flush<S: Io>(&mut self, io: &mut S, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        if self.state == WriteState::Broken {
            return Poll::Ready(Err(StreamError::Closed));
        }
        ready!(self.poll_drain(io, cx))?;
        give_write(&mut self.buffer);
        if self.unflushed {
            if let Err(e) = ready!(Pin::new(&mut *io).poll_flush(cx)) {
                self.state = WriteState::Broken;
                return Poll::Ready(Err(e.into()));
            }
            self.unflushed = false;
        }
        if let WriteState::Ended { shutdown: true } = self.state
            && !self.shut
        {
            // The peer may be gone already, having got all it wanted.
            let _ = ready!(Pin::new(&mut *io).poll_shutdown(cx));
            self.shut = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Drops what waits, after the connection has failed.
    fn forget(&mut self) {
        self.large = Bytes::new();
        self.tail = b"";
        self.sent = 0;
        self.buffer = Vec::new();
    }
}
