//! Large reads for bulk transfers, without memory for idle connections.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What one system call reads in bulk: two TLS records of the largest size.
const BULK: usize = 32 * 1024;

/// The smallest read whose being filled is a sign of more to come. rustls asks for 4 KB at a time.
const SIGN_OF_MORE: usize = 4096;

/// A transport under a TLS stream that reads 32 KB at a time while data keeps coming.
///
/// rustls reads 4 KB at a time, which costs a system call for each. When a read comes back full, the next one goes to a larger
/// buffer, which is given back as soon as a read comes back short, or nothing is there.
pub struct BulkReader<S> {
    inner: S,
    /// Data that was read ahead; `None` unless a bulk transfer is going on.
    ahead: Option<Ahead>,
    last_was_full: bool,
}

struct Ahead {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl<S> BulkReader<S> {
    /// Wraps a transport.
    pub fn new(inner: S) -> Self {
        Self { inner, ahead: None, last_was_full: false }
    }

    /// The transport.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The transport. Reading from it directly loses what was read ahead.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Bytes that were read from the transport and not yet passed on.
    pub fn buffered(&self) -> usize {
        self.ahead.as_ref().map_or(0, |a| a.end - a.start)
    }
}

impl<S> fmt::Debug for BulkReader<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BulkReader").field("buffered", &self.buffered()).finish_non_exhaustive()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for BulkReader<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.buffered() == 0 {
            let wanted = out.remaining();
            if !this.last_was_full || wanted >= BULK {
                let before = out.filled().len();
                let polled = Pin::new(&mut this.inner).poll_read(cx, out);
                this.last_was_full = polled.is_ready() && wanted >= SIGN_OF_MORE && out.filled().len() - before == wanted;
                return polled;
            }
            let mut buffer = this.ahead.take().map_or_else(|| vec![0; BULK].into_boxed_slice(), |a| a.buffer);
            let mut read = ReadBuf::new(&mut buffer);
            let polled = Pin::new(&mut this.inner).poll_read(cx, &mut read);
            let end = read.filled().len();
            this.last_was_full = end > SIGN_OF_MORE;
            if !matches!(polled, Poll::Ready(Ok(()))) || end == 0 {
                return polled;
            }
            this.ahead = Some(Ahead { buffer, start: 0, end });
        }
        if let Some(ahead) = &mut this.ahead {
            let n = out.remaining().min(ahead.end - ahead.start);
            out.put_slice(&ahead.buffer[ahead.start..ahead.start + n]);
            ahead.start += n;
            if ahead.start == ahead.end && !this.last_was_full {
                this.ahead = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for BulkReader<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn every_byte_in_order_whatever_the_sizes() {
        let sent: Vec<u8> = (0..300_000u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
        for chunk in [1, 100, 4096, 5000, 40_000, 65_536] {
            let (mut near, far) = duplex(50_000);
            let expected = sent.clone();
            let writer = tokio::spawn(async move { near.write_all(&expected).await.unwrap() });
            let (mut reader, mut got) = (BulkReader::new(far), Vec::new());
            let mut buffer = vec![0; chunk];
            loop {
                match reader.read(&mut buffer).await.unwrap() {
                    0 => break,
                    n => got.extend_from_slice(&buffer[..n]),
                }
            }
            writer.await.unwrap();
            assert!(got == sent, "chunk {chunk}");
        }
    }

    #[tokio::test]
    async fn memory_is_given_back_when_nothing_comes() {
        let (mut near, far) = duplex(100_000);
        let mut reader = BulkReader::new(far);
        let mut buffer = [0; SIGN_OF_MORE];
        near.write_all(&[1; 2 * SIGN_OF_MORE + 10]).await.unwrap();
        reader.read_exact(&mut buffer).await.unwrap();
        assert!(reader.last_was_full && reader.ahead.is_none(), "the first read is direct");
        reader.read_exact(&mut buffer).await.unwrap();
        assert_eq!(reader.buffered(), 10);
        reader.read_exact(&mut buffer[..10]).await.unwrap();
        // Polled once, there is nothing.
        tokio::select! {
            biased;
            read = reader.read(&mut buffer) => panic!("unexpected {read:?}"),
            () = std::future::ready(()) => {}
        }
        assert!(reader.ahead.is_none() && !reader.last_was_full);
        // A small message is read directly again.
        near.write_all(b"small").await.unwrap();
        assert_eq!(reader.read(&mut buffer).await.unwrap(), 5);
        assert!(reader.ahead.is_none());
    }
}
