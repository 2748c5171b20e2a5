//! A TCP connection inside of an HTTP request: `CONNECT`, or `POST` with a body that does not end (`tunneling_config`).

use crate::http::{BodyReader, BodyWriter, ClientExchange, Frame, Head, InvalidHead, Io, StreamError};
use crate::metadata_exchange::Exchanged;
use crate::stream::ByteStream;
use crate::{http1, http2};
use bytes::{Buf, Bytes};
use lateen_model::dataplane::{HttpTunnel, TunnelMethod};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The other end of a connection that is relayed: the connection itself, or a tunnel in it.
pub(crate) enum Upstream {
    Direct(Exchanged),
    Tunnel(Box<Tunnel<Exchanged>>),
}

/// The bytes in a tunnel.
pub(crate) struct Tunnel<S> {
    reader: BodyReader<S>,
    writer: BodyWriter<S>,
    /// What has come and was not read.
    rest: Bytes,
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunnelError {
    /// The exchange failed.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The proxy does not want to.
    #[error("the proxy answered {0}")]
    Refused(u16),
}

/// The request for a tunnel.
fn request(tunnel: &HttpTunnel) -> Result<Head, InvalidHead> {
    let mut head = Head::new();
    head.set_authority(&tunnel.target)?;
    match tunnel.method {
        TunnelMethod::Connect => head.set_method("CONNECT")?,
        TunnelMethod::Post => {
            head.set_method("POST")?;
            head.set_path_and_query("/")?;
        }
    }
    Ok(head)
}

impl Upstream {
    /// Ready when the far end has sent something, or has ended; whatever it is stays for the reader.
    pub(crate) fn poll_spoken(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Direct(stream) => stream.poll_spoken(cx),
            Self::Tunnel(tunnel) => tunnel.poll_fill(cx),
        }
    }
}

impl<S: Io> Tunnel<S> {
    /// Asks for a tunnel over a new connection, and waits for the answer.
    pub(crate) async fn open(stream: S, wanted: &HttpTunnel, http2: bool) -> Result<Box<Self>, TunnelError> {
        if !http2 {
            let mut connection = http1::ClientConnection::new(stream, http1::Limits::default());
            let exchange = connection.send_request(&Self::head(wanted)?, false)?;
            return Self::begin(exchange, wanted.method).await.map(Box::new);
        }
        let (mut connection, driver) = http2::ClientConnection::handshake(stream, http2::ClientConfig::default()).await?;
        tokio::task::spawn_local(async move {
            let _ = driver.await;
        });
        connection.ready().await?;
        let exchange = connection.send_request(&Self::head(wanted)?, false)?;
        Self::begin(exchange, wanted.method).await.map(Box::new)
    }

    fn head(wanted: &HttpTunnel) -> Result<Head, StreamError> {
        request(wanted).map_err(|_| StreamError::Malformed("the tunnel's target is no authority"))
    }

    async fn begin(exchange: ClientExchange<S>, method: TunnelMethod) -> Result<Self, TunnelError> {
        let ClientExchange { mut writer, mut response } = exchange;
        if method == TunnelMethod::Post {
            // The head of a message with a body waits for the body.
            writer.flush().await?;
        }
        let head = loop {
            let head = response.head().await?;
            if !head.is_interim() {
                break head;
            }
        };
        let status = head.status();
        let opened = match method {
            TunnelMethod::Connect => (200..300).contains(&status),
            TunnelMethod::Post => status == 200,
        };
        if !opened {
            return Err(TunnelError::Refused(status));
        }
        Ok(Self { reader: response.into_body()?, writer, rest: Bytes::new() })
    }

    /// Reads until there is something, or the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.reader.poll_next(cx)).map_err(of_stream)? {
                Some(Frame::Data(data) | Frame::Raw(data)) => self.rest = data,
                // A tunnel has nothing to say after its bytes.
                Some(Frame::Trailers(_)) => {}
                None => return Poll::Ready(Ok(())),
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn of_stream(error: StreamError) -> io::Error {
    let kind = match error {
        StreamError::Io(kind) => kind,
        StreamError::Closed => io::ErrorKind::UnexpectedEof,
        StreamError::Reset(_) => io::ErrorKind::ConnectionReset,
        StreamError::Malformed(_) | StreamError::HeadTooLarge | StreamError::Length => io::ErrorKind::InvalidData,
    };
    io::Error::new(kind, error)
}

impl<S: Io> AsyncRead for Tunnel<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_fill(cx))?;
        let n = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest[..n]);
        self.rest.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl<S: Io> AsyncWrite for Tunnel<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.writer.poll_ready(cx)).map_err(of_stream)?;
        self.writer.start_send(Frame::Data(Bytes::copy_from_slice(buf)), false).map_err(of_stream)?;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.poll_flush(cx).map_err(of_stream)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.poll_finish(cx).map_err(of_stream)
    }
}

impl ByteStream for Upstream {
    fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Direct(direct) => direct.socket(),
            Self::Tunnel(_) => None,
        }
    }
}

impl AsyncRead for Upstream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Direct(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tunnel(tunnel) => Pin::new(tunnel.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Upstream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Direct(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tunnel(tunnel) => Pin::new(tunnel.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Direct(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tunnel(tunnel) => Pin::new(tunnel.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Direct(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tunnel(tunnel) => Pin::new(tunnel.as_mut()).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::task::LocalSet;

    fn wanted(method: TunnelMethod) -> HttpTunnel {
        HttpTunnel { target: "a.example:443".to_owned(), method }
    }

    /// What a proxy reads until it has this.
    async fn read_until(proxy: &mut DuplexStream, end: &str) -> String {
        let mut read = Vec::new();
        while !read.ends_with(end.as_bytes()) {
            let count = proxy.read_buf(&mut read).await.unwrap();
            assert!(count > 0, "ended after {:?}", String::from_utf8_lossy(&read));
        }
        String::from_utf8(read).unwrap()
    }

    #[tokio::test]
    async fn connect_opens_a_tunnel_of_bytes() {
        let (client, mut proxy) = tokio::io::duplex(1024);
        let proxying = async {
            let head = read_until(&mut proxy, "\r\n\r\n").await;
            assert_eq!(head, "CONNECT a.example:443 HTTP/1.1\r\nhost: a.example:443\r\n\r\n");
            // What follows the head in the same packet belongs to the tunnel.
            proxy.write_all(b"HTTP/1.1 200 OK\r\nx: y\r\n\r\nhello").await.unwrap();
        };
        let wanted = wanted(TunnelMethod::Connect);
        let (tunnel, ()) = tokio::join!(Tunnel::open(client, &wanted, false), proxying);
        let mut tunnel = tunnel.unwrap();
        let mut got = [0; 5];
        tunnel.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hello");
        tunnel.write_all(b"from the client").await.unwrap();
        tunnel.shutdown().await.unwrap();
        assert_eq!(read_until(&mut proxy, "client").await, "from the client");
        proxy.write_all(b"still here").await.unwrap();
        drop(proxy);
        let mut rest = String::new();
        tunnel.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "still here");
    }

    #[tokio::test]
    async fn post_carries_bytes_in_chunks() {
        let (client, mut proxy) = tokio::io::duplex(1024);
        let proxying = async {
            let head = read_until(&mut proxy, "\r\n\r\n").await;
            assert_eq!(head, "POST / HTTP/1.1\r\nhost: a.example:443\r\ntransfer-encoding: chunked\r\n\r\n");
            proxy.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
        };
        let wanted = wanted(TunnelMethod::Post);
        let (tunnel, ()) = tokio::join!(Tunnel::open(client, &wanted, false), proxying);
        let mut tunnel = tunnel.unwrap();
        tunnel.write_all(b"up").await.unwrap();
        tunnel.flush().await.unwrap();
        assert_eq!(read_until(&mut proxy, "up\r\n").await, "2\r\nup\r\n");
        proxy.write_all(b"4\r\ndown\r\n0\r\n\r\n").await.unwrap();
        let mut got = String::new();
        tunnel.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "down");
        tunnel.shutdown().await.unwrap();
        assert_eq!(read_until(&mut proxy, "0\r\n\r\n").await, "0\r\n\r\n");
    }

    #[tokio::test]
    async fn over_http2_the_bytes_are_the_streams() {
        let work = async {
            let (client, proxy) = tokio::io::duplex(64 * 1024);
            let proxying = tokio::task::spawn_local(async move {
                let mut connection = h2::server::handshake(proxy).await.unwrap();
                let (request, mut respond) = connection.accept().await.unwrap().unwrap();
                assert_eq!((request.method().as_str(), request.uri().to_string().as_str()), ("CONNECT", "a.example:443"));
                let mut send = respond.send_response(::http::Response::new(()), false).unwrap();
                tokio::task::spawn_local(async move { while connection.accept().await.is_some() {} });
                let mut body = request.into_body();
                while let Some(data) = body.data().await {
                    let data = data.unwrap();
                    body.flow_control().release_capacity(data.len()).unwrap();
                    send.send_data(data, false).unwrap();
                }
                send.send_data(Bytes::from_static(b", ended"), true).unwrap();
            });
            let mut tunnel = Tunnel::open(client, &wanted(TunnelMethod::Connect), true).await.unwrap();
            tunnel.write_all(b"there and back").await.unwrap();
            tunnel.shutdown().await.unwrap();
            let mut got = String::new();
            tunnel.read_to_string(&mut got).await.unwrap();
            assert_eq!(got, "there and back, ended");
            proxying.await.unwrap();
        };
        LocalSet::new().run_until(work).await;
    }

    #[tokio::test]
    async fn what_opens_no_tunnel() {
        for (method, answer, opens) in [
            (TunnelMethod::Connect, "HTTP/1.1 204 No Content\r\n\r\n", true),
            (TunnelMethod::Connect, "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n", false),
            (TunnelMethod::Connect, "HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n", false),
            (TunnelMethod::Post, "HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n", false),
            (TunnelMethod::Post, "SSH-2.0-x\r\n\r\n", false),
            (TunnelMethod::Connect, "", false),
        ] {
            let (client, mut proxy) = tokio::io::duplex(1024);
            let proxying = async {
                read_until(&mut proxy, "\r\n\r\n").await;
                proxy.write_all(answer.as_bytes()).await.unwrap();
                proxy.shutdown().await.unwrap();
            };
            let wanted = wanted(method);
            let (tunnel, ()) = tokio::join!(Tunnel::open(client, &wanted, false), proxying);
            assert_eq!(tunnel.is_ok(), opens, "{method:?} {answer:?}: {:?}", tunnel.err());
        }
    }
}
