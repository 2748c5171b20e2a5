//! Bytes both ways between two streams, with half-close, until both ways have ended.
//!
//! An idle relay holds no buffer: a worker reads into one scratch buffer of its own, and only what the other side does not
//! take at once is kept. Where both sides are sockets and much is moved, the bytes do not come into this process at all.

use crate::stream::ByteStream;
use lateen_capture::pipe::Pipe;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// The size of a worker's scratch buffer; large enough that bulk transfer is bound by the kernel.
const SCRATCH: usize = 64 * 1024;

/// Full reads in a row after which bytes go through a pipe, until it moves less than a quarter of such a read at a time: few bytes
/// are sooner copied.
const MUCH: u32 = 2;

/// How many empty pipes a worker keeps.
const PIPES_KEPT: usize = 32;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
    static PIPES: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// Keeps an empty pipe for the next who needs one.
fn keep(pipe: Pipe) {
    PIPES.with_borrow_mut(|kept| {
        if kept.len() < PIPES_KEPT {
            kept.push(pipe);
        }
    });
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
    /// Full reads in a row.
    full: u32,
    /// Bytes that were moved into it and are not written yet.
    pipe: Option<Pipe>,
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
        R: ByteStream,
        W: ByteStream,
    {
        loop {
            ready!(self.poll_drain(cx, sink)).map_err(Side::Sink)?;
            ready!(self.poll_pipe(cx, sink)).map_err(Side::Sink)?;
            match self.state {
                WayState::Ended => return Poll::Ready(Ok(())),
                WayState::Ending => {
                    // A peer that is gone already has read all it wanted.
                    match ready!(Pin::new(&mut *sink).poll_shutdown(cx)) {
                        Err(e) if e.kind() != io::ErrorKind::NotConnected => return Poll::Ready(Err(Side::Sink(e))),
                        _ => self.state = WayState::Ended,
                    }
                }
                WayState::Open => match self.poll_move(cx, source, sink) {
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

    /// Moves bytes once: they are in the sink then, or in the backlog.
    fn poll_move<R: ByteStream, W: ByteStream>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut R,
        sink: &mut W,
    ) -> Poll<Result<(), Side>> {
        if self.full >= MUCH
            && let (Some(from), Some(_)) = (source.socket(), sink.socket())
            && let Some(mut pipe) = PIPES.with_borrow_mut(Vec::pop).or_else(|| Pipe::new().ok())
        {
            let result = self.poll_splice(cx, from, &mut pipe);
            if pipe.held() > 0 {
                self.pipe = Some(pipe);
            } else {
                keep(pipe);
            }
            return result;
        }
        self.poll_fill(cx, source, sink)
    }

    /// Takes bytes from a socket into an empty pipe.
    fn poll_splice(&mut self, cx: &mut Context<'_>, from: &TcpStream, pipe: &mut Pipe) -> Poll<Result<(), Side>> {
        loop {
            ready!(from.poll_read_ready(cx)).map_err(Side::Source)?;
            match from.try_io(Interest::READABLE, || pipe.fill(from)) {
                Ok(0) => self.state = WayState::Ending,
                Ok(read) => {
                    self.moved += read as u64;
                    self.full = if read < SCRATCH / 4 { 0 } else { self.full };
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Poll::Ready(Err(Side::Source(error))),
            }
            return Poll::Ready(Ok(()));
        }
    }

    /// Writes out what is in the pipe.
    fn poll_pipe<W: ByteStream>(&mut self, cx: &mut Context<'_>, sink: &mut W) -> Poll<io::Result<()>> {
        let Some(pipe) = &mut self.pipe else { return Poll::Ready(Ok(())) };
        let to = sink.socket().ok_or(io::ErrorKind::InvalidInput)?;
        while pipe.held() > 0 {
            ready!(to.poll_write_ready(cx))?;
            match to.try_io(Interest::WRITABLE, || pipe.drain(to)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
                _ => {}
            }
        }
        if let Some(pipe) = self.pipe.take() {
            keep(pipe);
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
            self.full = if bytes.len() == SCRATCH { self.full + 1 } else { 0 };
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
    D: ByteStream,
    U: ByteStream,
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
impl ByteStream for tokio::io::DuplexStream {
    fn socket(&self) -> Option<&TcpStream> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::Tcp;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// The two ends of a TCP connection.
    async fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    /// Bytes of which each tells where it stands.
    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|n| (n ^ (n >> 8) ^ (n >> 16)).to_le_bytes()[0]).collect()
    }

    /// Sends so much through a relay of sockets, in writes of this size, to a reader that rests now and then; whether it arrived, and
    /// how many pipes the worker has then.
    async fn through_sockets(length: usize, piece: usize) -> (bool, usize) {
        let ((mut client, down), (up, mut server)) = (connection().await, connection().await);
        let relaying = async { relay(&mut Tcp::new(down), &mut Tcp::new(up), None, |_| {}).await };
        let bytes = pattern(length);
        let sending = async {
            for piece in bytes.chunks(piece) {
                client.write_all(piece).await.unwrap();
                if piece.len() < SCRATCH {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            client.shutdown().await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let receiving = async {
            let (mut got, mut buffer) = (Vec::new(), vec![0; 1 << 20]);
            loop {
                let read = server.read(&mut buffer).await.unwrap();
                if read == 0 {
                    break;
                }
                got.extend_from_slice(&buffer[..read]);
                if got.len() % 7 == 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            server.write_all(b"still here").await.unwrap();
            server.shutdown().await.unwrap();
            got
        };
        let ((moved, end), answer, got) = tokio::join!(relaying, sending, receiving);
        assert!(matches!(end, RelayEnd::Closed));
        assert_eq!(moved, Relayed { sent: length as u64, received: 10 });
        assert_eq!(answer, b"still here");
        (got == bytes, PIPES.with_borrow(Vec::len))
    }

    #[tokio::test]
    async fn few_bytes_are_copied_and_many_go_through_a_pipe() {
        assert_eq!(through_sockets(100_000, 1000).await, (true, 0));
        assert_eq!(through_sockets(60_000_000, 1 << 20).await, (true, 1));
    }

    #[tokio::test]
    async fn a_reader_that_goes_away_ends_a_relay_with_bytes_on_their_way() {
        let ((mut client, down), (up, server)) = (connection().await, connection().await);
        let relaying = async { relay(&mut Tcp::new(down), &mut Tcp::new(up), None, |_| {}).await };
        let sending = async {
            let block = vec![0; 1 << 20];
            while tokio::time::timeout(Duration::from_millis(200), client.write_all(&block)).await.is_ok() {}
            drop(server);
        };
        let ((moved, end), ()) = tokio::join!(relaying, sending);
        assert!(matches!(end, RelayEnd::Upstream(_)), "{end:?}");
        assert!(moved.sent > SCRATCH as u64);
        assert_eq!(PIPES.with_borrow(Vec::len), 0, "one with bytes in it is not kept");
    }

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
