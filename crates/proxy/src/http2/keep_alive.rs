//! PINGs on a connection, which tell whether the other side is still there (RFC 9113, section 6.7).

use lateen_model::dataplane::Http2KeepAlive;
use rand::Rng;
use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Envoy's `interval_jitter`, so that connections that were opened together do not stay in step.
const JITTER: f64 = 0.15;

/// When something was last read from a connection.
#[derive(Clone, Debug)]
pub(super) struct LastHeard(Rc<Cell<Instant>>);

impl Default for LastHeard {
    fn default() -> Self {
        Self(Rc::new(Cell::new(Instant::now())))
    }
}

/// A connection's bytes, of which it is noted when some came.
#[derive(Debug)]
pub(super) struct Heard<S> {
    io: S,
    last: Option<LastHeard>,
}

impl<S> Heard<S> {
    pub(super) fn new(io: S, last: Option<LastHeard>) -> Self {
        Self { io, last }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        if let Some(last) = &self.last
            && buf.filled().len() > before
        {
            last.0.set(Instant::now());
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The PINGs of one connection.
pub(super) struct KeepAlive {
    config: Http2KeepAlive,
    pings: h2::PingPong,
    heard: LastHeard,
    timer: Pin<Box<Sleep>>,
    /// When the PING was sent that is not answered yet.
    sent: Option<Instant>,
}

impl fmt::Debug for KeepAlive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeepAlive").field("config", &self.config).field("sent", &self.sent).finish_non_exhaustive()
    }
}

impl KeepAlive {
    pub(super) fn new(config: Http2KeepAlive, pings: h2::PingPong, heard: LastHeard) -> Self {
        let timer = Box::pin(sleep(jittered(config.interval)));
        Self { config, pings, heard, timer, sent: None }
    }

    /// Ready once the other side is not there any more.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.sent.is_some() && self.pings.poll_pong(cx).is_ready() {
                self.sent = None;
                self.timer.as_mut().reset(Instant::now() + jittered(self.config.interval));
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            let Some(sent) = self.sent else {
                // A connection that is over says so itself.
                if self.pings.send_ping(h2::Ping::opaque()).is_err() {
                    return Poll::Pending;
                }
                self.sent = Some(now);
                self.timer.as_mut().reset(now + self.config.timeout);
                continue;
            };
            // Whoever sends something is there, though the answer waits behind it (as in Envoy).
            let end = self.heard.0.get().max(sent) + self.config.timeout;
            if end <= now {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(end);
        }
    }
}

fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(1.0 + rand::rng().random_range(0.0..JITTER))
}
