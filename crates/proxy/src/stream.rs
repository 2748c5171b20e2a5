//! The byte streams of a connection: TCP whose first bytes may have been read already, bare or inside TLS.

use crate::accelerated::Accelerated;
use bytes::{Buf, BytesMut};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

/// A stream of bytes that may be nothing but a socket.
pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Unpin {
    /// The socket, if reading from it and writing to it is the same as reading from and writing to the stream.
    fn socket(&self) -> Option<&TcpStream>;
}

/// A TCP stream that gives back the bytes which protocol detection took from it, then reads on.
#[derive(Debug)]
pub(crate) struct Tcp {
    inner: TcpStream,
    sniffed: BytesMut,
    accelerated: Option<Box<Accelerated>>,
}

impl Tcp {
    /// A stream nothing was read from.
    pub(crate) fn new(inner: TcpStream) -> Self {
        Self::with_sniffed(inner, BytesMut::new())
    }

    /// A stream from which `sniffed` was read.
    pub(crate) fn with_sniffed(inner: TcpStream, sniffed: BytesMut) -> Self {
        Self { inner, sniffed, accelerated: None }
    }

    /// The socket, whatever was read from it.
    #[cfg(test)]
    pub(crate) fn inner(&self) -> &TcpStream {
        &self.inner
    }

    /// The same stream, if the kernel may accelerate it.
    pub(crate) fn accelerated(mut self, yes: bool) -> Self {
        self.accelerated = yes.then(Box::default);
        self
    }

    /// Waits for the first byte, or the end; whether there was one.
    pub(crate) async fn has_begun(&mut self) -> io::Result<bool> {
        Ok(!self.sniffed.is_empty() || self.inner.read_buf(&mut self.sniffed).await? > 0)
    }

    /// Whether the first bytes are these; waits for no more of them than decide it, and leaves all to be read.
    pub(crate) async fn starts_with(&mut self, prefix: &[u8]) -> io::Result<bool> {
        loop {
            let common = self.sniffed.len().min(prefix.len());
            if self.sniffed[..common] != prefix[..common] {
                return Ok(false);
            }
            if common == prefix.len() {
                return Ok(true);
            }
            if self.inner.read_buf(&mut self.sniffed).await? == 0 {
                return Ok(false);
            }
        }
    }
}

impl ByteStream for Tcp {
    fn socket(&self) -> Option<&TcpStream> {
        // What the kernel hands over cannot be spliced.
        (self.sniffed.is_empty() && self.accelerated.is_none()).then_some(&self.inner)
    }
}

impl AsyncRead for Tcp {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { inner, sniffed, accelerated } = self.get_mut();
        if sniffed.is_empty() {
            return match accelerated {
                None => Pin::new(inner).poll_read(cx, buf),
                Some(accelerated) => accelerated.poll_read(inner, cx, buf),
            };
        }
        let n = sniffed.len().min(buf.remaining());
        buf.put_slice(&sniffed[..n]);
        sniffed.advance(n);
        if sniffed.is_empty() {
            // The allocation goes, so that a long-lived connection does not hold it.
            *sniffed = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Self { inner, accelerated, .. } = self.get_mut();
        match accelerated {
            None => Pin::new(inner).poll_write(cx, buf),
            Some(accelerated) => accelerated.poll_write(inner, cx, |tcp, cx| tcp.poll_write(cx, buf)),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let Self { inner, accelerated, .. } = self.get_mut();
        match accelerated {
            None => Pin::new(inner).poll_write_vectored(cx, bufs),
            Some(accelerated) => accelerated.poll_write(inner, cx, |tcp, cx| tcp.poll_write_vectored(cx, bufs)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// A connection's bytes, after TLS if there is TLS.
#[derive(Debug)]
pub(crate) enum Stream {
    /// Plain TCP.
    Plain(Tcp),
    /// TLS over TCP, either role.
    Tls(Box<TlsStream<Tcp>>),
}

impl ByteStream for Stream {
    fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(tcp) => tcp.socket(),
            Self::Tls(_) => None,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(tcp) => tcp.is_write_vectored(),
            Self::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_shutdown(cx),
        }
    }
}
