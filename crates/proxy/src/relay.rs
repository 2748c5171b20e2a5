//! Bytes both ways between two streams, with half-close, until both ways have ended.
//!
//! An idle relay holds no buffer: a worker reads into one scratch buffer of its own, and only what the other side does not
//! take at once is kept.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// The size of a worker's scratch buffer; large enough that bulk transfer is bound by the kernel.
const SCRATCH: usize = 64 * 1024;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Bytes that went each way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Relayed {
    /// From downstream to upstream.
    pub(crate) sent: u64,
    /// From upstream to downstream.
    pub(crate) received: u64,
}

/// How a relay ended.
#[derive(Debug)]
pub(crate) enum RelayEnd {
    /// Both ways were closed in order.
    Closed,
    /// No byte for the idle timeout.
    Idle,
    /// Reading from or writing to the client failed.
    Downstream(io::Error),
    /// Reading from or writing to the upstream failed.
    Upstream(io::Error),
}

/// One way of a relay.
#[derive(Default)]
struct Way {
    /// Read but not written yet.
    backlog: Vec<u8>,
    written: usize,
    state: WayState,
    moved: u64,
    unflushed: bool,
}

#[derive(Default, PartialEq, Eq)]
enum WayState {
    #[default]
    Open,
    /// The source has ended; the backlog is still to be written, then the sink shut down.
    Ending,
    Ended,
}

/// Which stream an error came from.
enum Side {
    Source(io::Error),
    Sink(io::Error),
}

impl Way {
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, source: &mut R, sink: &mut W) -> Poll<Result<(), Side>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            ready!(self.poll_drain(cx, sink)).map_err(Side::Sink)?;
            match self.state {
                WayState::Ended => return Poll::Ready(Ok(())),
                WayState::Ending => {
                    // A peer that is gone already has read all it wanted.
                    match ready!(Pin::new(&mut *sink).poll_shutdown(cx)) {
                        Err(e) if e.kind() != io::ErrorKind::NotConnected => return Poll::Ready(Err(Side::Sink(e))),
                        _ => self.state = WayState::Ended,
                    }
                }
                WayState::Open => match self.poll_fill(cx, source, sink) {
                    Poll::Ready(result) => result?,
                    Poll::Pending => {
                        if self.unflushed && Pin::new(&mut *sink).poll_flush(cx).map_err(Side::Sink)?.is_ready() {
                            self.unflushed = false;
                        }
                        return Poll::Pending;
                    }
                },
            }
        }
    }

    /// Writes out the backlog.
    fn poll_drain<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, sink: &mut W) -> Poll<io::Result<()>> {
        while self.written < self.backlog.len() {
            let n = ready!(Pin::new(&mut *sink).poll_write(cx, &self.backlog[self.written..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
            self.unflushed = true;
        }
        if !self.backlog.is_empty() {
            self.backlog = Vec::new();
            self.written = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once into the scratch buffer and writes what the sink takes; the rest becomes the backlog.
    fn poll_fill<R, W>(&mut self, cx: &mut Context<'_>, source: &mut R, sink: &mut W) -> Poll<Result<(), Side>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        BUFFER.with_borrow_mut(|scratch| {
            let mut buf = ReadBuf::new(scratch);
            ready!(Pin::new(source).poll_read(cx, &mut buf)).map_err(Side::Source)?;
            let bytes = buf.filled();
            if bytes.is_empty() {
                self.state = WayState::Ending;
                return Poll::Ready(Ok(()));
            }
            self.moved += bytes.len() as u64;
            let mut written = 0;
            while written < bytes.len() {
                match Pin::new(&mut *sink).poll_write(cx, &bytes[written..]).map_err(Side::Sink)? {
                    Poll::Ready(0) => return Poll::Ready(Err(Side::Sink(io::ErrorKind::WriteZero.into()))),
                    Poll::Ready(n) => written += n,
                    Poll::Pending => {
                        self.backlog.extend_from_slice(&bytes[written..]);
                        break;
                    }
                }
            }
            self.unflushed |= written > 0;
            Poll::Ready(Ok(()))
        })
    }
}

/// Relays until both ways have ended, one fails, or nothing moved for `idle` (`None` waits for ever).
///
/// `progress` is called with the totals whenever bytes have moved, so that long connections can be accounted for while they last.
pub(crate) async fn relay<D, U>(
    downstream: &mut D,
    upstream: &mut U,
    idle: Option<Duration>,
    mut progress: impl FnMut(Relayed),
) -> (Relayed, RelayEnd)
where
    D: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (Way::default(), Way::default());
    let mut last = Relayed::default();
    let mut last_activity = Instant::now();
    let timer = tokio::time::sleep(idle.unwrap_or(Duration::MAX / 4));
    tokio::pin!(timer);
    let end = poll_fn(|cx| {
        loop {
            let up_done = match up.poll(cx, downstream, upstream) {
                Poll::Ready(Err(Side::Source(e))) => return Poll::Ready(RelayEnd::Downstream(e)),
                Poll::Ready(Err(Side::Sink(e))) => return Poll::Ready(RelayEnd::Upstream(e)),
                other => other.is_ready(),
            };
            let down_done = match down.poll(cx, upstream, downstream) {
                Poll::Ready(Err(Side::Source(e))) => return Poll::Ready(RelayEnd::Upstream(e)),
                Poll::Ready(Err(Side::Sink(e))) => return Poll::Ready(RelayEnd::Downstream(e)),
                other => other.is_ready(),
            };
            let now = Relayed { sent: up.moved, received: down.moved };
            if now != last {
                last = now;
                last_activity = Instant::now();
                progress(now);
            }
            if up_done && down_done {
                return Poll::Ready(RelayEnd::Closed);
            }
            let Some(idle) = idle else { return Poll::Pending };
            ready!(timer.as_mut().poll(cx));
            if last_activity.elapsed() >= idle {
                return Poll::Ready(RelayEnd::Idle);
            }
            timer.as_mut().reset(last_activity + idle);
        }
    })
    .await;
    (Relayed { sent: up.moved, received: down.moved }, end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn half_close_lets_the_other_way_go_on() {
        let (mut client, mut down) = tokio::io::duplex(64);
        let (mut up, mut server) = tokio::io::duplex(64);
        let relaying = tokio::spawn(async move { relay(&mut down, &mut up, None, |_| {}).await });
        let (mut got, mut answer) = (Vec::new(), Vec::new());
        let writing = async {
            client.write_all(&[7; 1000]).await.unwrap();
            client.shutdown().await.unwrap();
        };
        let (_, read) = tokio::join!(writing, server.read_to_end(&mut got));
        read.unwrap();
        assert_eq!(got.len(), 1000);
        server.write_all(b"still here").await.unwrap();
        server.shutdown().await.unwrap();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"still here");
        let (moved, end) = relaying.await.unwrap();
        assert_eq!(moved, Relayed { sent: 1000, received: 10 });
        assert!(matches!(end, RelayEnd::Closed));
    }

    #[tokio::test(start_paused = true)]
    async fn idle_is_counted_from_the_last_byte() {
        let (mut client, mut down) = tokio::io::duplex(64);
        let (mut up, _server) = tokio::io::duplex(64);
        let start = Instant::now();
        let relaying = tokio::spawn(async move { relay(&mut down, &mut up, Some(Duration::from_secs(10)), |_| {}).await.1 });
        tokio::time::sleep(Duration::from_secs(7)).await;
        client.write_all(b"x").await.unwrap();
        assert!(matches!(relaying.await.unwrap(), RelayEnd::Idle));
        assert_eq!(start.elapsed().as_secs(), 17);
    }
}
