//! A connection as its handles share it. One task owns them all, so a `RefCell` that is borrowed only within a poll is all the
//! synchronisation there is.

use super::framing::RequestKind;
use super::read::{ReadSide, ReadState};
use super::write::{WriteSide, WriteState};
use crate::http::{Frame, Io, LENT, PeerGone, ResetReason, StreamError};
use bytes::BytesMut;
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

/// Everything about a connection.
pub(super) struct Inner<S> {
    pub(super) io: S,
    pub(super) read: ReadSide,
    pub(super) write: WriteSide,
    /// Which message the connection is at; a handle of an earlier one can do nothing any more.
    pub(super) message: u64,
    /// Whether another message may follow.
    pub(super) keep_alive: bool,
    pub(super) kind: RequestKind,
    /// The message is a tunnel that has been opened.
    tunnel: bool,
    /// Wakes who waits for a tunnel to open or a body to be read to its end.
    waiters: Vec<Waker>,
}

impl<S> Inner<S> {
    pub(super) fn new(io: S, buffer: BytesMut) -> Self {
        Self {
            io,
            read: ReadSide::new(buffer),
            write: WriteSide::new(),
            message: 0,
            keep_alive: true,
            kind: RequestKind::Ordinary,
            tunnel: false,
            waiters: Vec::new(),
        }
    }

    fn wait(&mut self, cx: &Context<'_>) {
        if !self.waiters.iter().any(|w| w.will_wake(cx.waker())) {
            self.waiters.push(cx.waker().clone());
        }
    }

    pub(super) fn wake(&mut self) {
        self.waiters.drain(..).for_each(Waker::wake);
    }

    /// Makes the connection unusable.
    pub(super) fn break_off(&mut self) {
        self.keep_alive = false;
        self.read.state = ReadState::Broken;
        self.write.state = WriteState::Broken;
        self.wake();
    }

    /// Lets the bytes of a tunnel flow, both ways.
    pub(super) fn open_tunnel(&mut self) {
        self.keep_alive = false;
        self.tunnel = true;
        if matches!(self.read.state, ReadState::AwaitTunnel) {
            self.read.state = ReadState::Tunnel;
        }
        if self.write.state == WriteState::AwaitTunnel {
            self.write.state = WriteState::Tunnel;
        }
        self.wake();
    }
}

impl<S: Io> Inner<S> {
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, StreamError>> {
        let frame = self.read.poll_frame(&mut self.io, cx);
        if frame.is_pending() && matches!(self.read.state, ReadState::AwaitTunnel) {
            self.wait(cx);
        } else if self.read.is_done() && !self.waiters.is_empty() {
            self.wake();
        }
        frame
    }

    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let ready = self.write.poll_ready(&mut self.io, cx);
        if ready.is_pending() && self.write.state == WriteState::AwaitTunnel {
            // The head that asks for the tunnel may still have to leave.
            let flushed = self.write.poll_flush(&mut self.io, cx);
            self.wait(cx);
            if let Poll::Ready(Err(e)) = flushed {
                return Poll::Ready(Err(e));
            }
        }
        ready
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        self.write.poll_flush(&mut self.io, cx)
    }

    /// Watches for the peer's end while its message has been read: pipelined bytes are taken in, up to a bound.
    pub(super) fn poll_peer_gone(&mut self, cx: &mut Context<'_>) -> Poll<PeerGone> {
        if self.tunnel {
            // One direction of a tunnel may end long before the other; a peer that is gone shows in the writing.
            return Poll::Pending;
        }
        if !matches!(self.read.state, ReadState::Done | ReadState::AwaitTunnel) {
            self.wait(cx);
            return Poll::Pending;
        }
        while self.read.buffer.len() < LENT {
            match ready!(self.read.poll_fill(&mut self.io, cx)) {
                Ok(0) => return Poll::Ready(PeerGone::Closed),
                Ok(_) => {}
                Err(_) => return Poll::Ready(PeerGone::Reset(ResetReason::Cancel)),
            }
        }
        Poll::Pending
    }
}

/// A connection, shared by its handles.
pub(super) type Shared<S> = Rc<RefCell<Inner<S>>>;

/// A handle on one message of a connection.
pub(super) struct Handle<S> {
    pub(super) shared: Shared<S>,
    pub(super) message: u64,
}

impl<S> Clone for Handle<S> {
    fn clone(&self) -> Self {
        Self { shared: Rc::clone(&self.shared), message: self.message }
    }
}

impl<S> fmt::Debug for Handle<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("message", &self.message).finish_non_exhaustive()
    }
}

impl<S> Handle<S> {
    /// The connection, if it is still at this message.
    pub(super) fn with<T>(&self, f: impl FnOnce(&mut Inner<S>) -> T) -> Option<T> {
        let mut inner = self.shared.borrow_mut();
        (inner.message == self.message).then(|| f(&mut inner))
    }

    /// As [`Self::with`], for polls.
    pub(super) fn poll<T>(&self, f: impl FnOnce(&mut Inner<S>) -> Poll<Result<T, StreamError>>) -> Poll<Result<T, StreamError>> {
        self.with(f).unwrap_or(Poll::Ready(Err(StreamError::Closed)))
    }
}
