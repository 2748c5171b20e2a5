//! Istio's metadata exchange over TCP: where `istio-peer-exchange` was agreed, each side sends a frame about itself before its
//! first byte. Ours goes out at once; the other's is taken off the front of what comes, whenever it comes, so that neither side
//! waits for the other.

use crate::stream::{ByteStream, Stream};
use bytes::{Buf, BytesMut};
use lateen_observe::peer_metadata::{ALPN, PeerMetadata};
use lateen_tls::PeerInfo;
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

/// Where a peer's metadata is put when its frame has come.
pub(crate) type Told = Rc<RefCell<Option<PeerMetadata>>>;

/// A stream whose beginning may be a frame.
pub(crate) struct Exchanged {
    stream: Stream,
    expected: Option<(BytesMut, Told)>,
    /// What came behind the frame.
    rest: BytesMut,
}

/// Whether the two sides agreed to exchange frames.
fn is_agreed(tls: Option<&PeerInfo>) -> bool {
    tls.and_then(|t| t.alpn.as_deref()) == Some(ALPN)
}

impl Exchanged {
    /// A stream that carries nothing but the application's bytes.
    pub(crate) fn plain(stream: Stream) -> Self {
        Self { stream, expected: None, rest: BytesMut::new() }
    }

    /// Sends our frame if one is agreed on, and expects the other's.
    pub(crate) async fn begin(mut stream: Stream, tls: Option<&PeerInfo>, own: &[u8], told: Told) -> io::Result<Self> {
        if !is_agreed(tls) {
            return Ok(Self::plain(stream));
        }
        stream.write_all(own).await?;
        stream.flush().await?;
        Ok(Self { stream, expected: Some((BytesMut::new(), told)), rest: BytesMut::new() })
    }

    /// Ready when the other side's application has sent something, or has ended, or the connection failed; whatever it is stays for
    /// the reader.
    pub(crate) fn poll_spoken(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_frame(cx))?;
        if self.rest.is_empty() {
            let mut chunk = [0; 1024];
            let mut read = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
            self.rest.extend_from_slice(read.filled());
        }
        Poll::Ready(Ok(()))
    }

    /// Reads until the frame is whole; what follows it stays for the reader.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some((buffer, told)) = &mut self.expected {
            match PeerMetadata::from_frame(buffer) {
                Ok(Some((metadata, length))) => {
                    *told.borrow_mut() = Some(metadata);
                    buffer.advance(length);
                    self.rest = std::mem::take(buffer);
                    self.expected = None;
                    return Poll::Ready(Ok(()));
                }
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error))),
            }
            let mut chunk = [0; 1024];
            let mut read = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                let cut = !buffer.is_empty();
                self.expected = None;
                let error = io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended within a metadata frame");
                return Poll::Ready(if cut { Err(error) } else { Ok(()) });
            }
            buffer.extend_from_slice(read.filled());
        }
        Poll::Ready(Ok(()))
    }
}

impl ByteStream for Exchanged {
    fn socket(&self) -> Option<&TcpStream> {
        let bare = self.expected.is_none() && self.rest.is_empty();
        self.stream.socket().filter(|_| bare)
    }
}

impl AsyncRead for Exchanged {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_frame(cx))?;
        if self.rest.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let n = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest[..n]);
        self.rest.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Exchanged {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
