//! An HTTP/1.1 client that sends exactly the bytes it is given: for requests that no polite client would send.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a test waits for bytes before it gives up.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What came back instead of a response.
#[derive(Debug, thiserror::Error)]
pub enum RawHttpError {
    /// Nothing, for [`PATIENCE`]; holds what had come until then.
    #[error("no complete response in {PATIENCE:?}; got {:?}", String::from_utf8_lossy(.0))]
    Timeout(Vec<u8>),
    /// The connection ended in the middle of a response, or before one.
    #[error("connection closed; got {:?}", String::from_utf8_lossy(.0))]
    Closed(Vec<u8>),
    /// Not an HTTP/1 response, or broken framing.
    #[error("not a response: {reason}; got {:?}", String::from_utf8_lossy(.bytes))]
    Malformed {
        /// What is wrong.
        reason: String,
        /// What came.
        bytes: Vec<u8>,
    },
    /// The network failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A response, taken off the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawResponse {
    /// 100 to 999.
    pub status: u16,
    /// Names as sent, in order.
    pub headers: Vec<(String, String)>,
    /// Without chunk framing.
    pub body: Vec<u8>,
}

impl RawResponse {
    /// The first value of a header, regardless of the case of its name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One connection, over TCP or anything like it.
pub struct RawConnection<S = TcpStream> {
    stream: S,
    /// Read, and not yet part of a response.
    buffer: Vec<u8>,
}

impl RawConnection {
    /// Connects over TCP, without delay of small writes.
    ///
    /// # Errors
    /// [`RawHttpError::Io`].
    pub async fn connect(address: SocketAddr) -> Result<Self, RawHttpError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self::over(stream))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> RawConnection<S> {
    /// Uses a connection that exists, e.g. of TLS.
    pub fn over(stream: S) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// [`RawHttpError::Io`], among others if the peer has closed.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), RawHttpError> {
        self.stream.write_all(bytes.as_ref()).await?;
        self.stream.flush().await?;
        Ok(())
    }

    /// Ends our direction.
    ///
    /// # Errors
    /// [`RawHttpError::Io`].
    pub async fn finish(&mut self) -> Result<(), RawHttpError> {
        Ok(self.stream.shutdown().await?)
    }

    /// Sends a request and reads the response to it.
    ///
    /// # Errors
    /// [`RawHttpError`].
    pub async fn exchange(&mut self, bytes: impl AsRef<[u8]>) -> Result<RawResponse, RawHttpError> {
        let request = bytes.as_ref();
        self.send(request).await?;
        self.read_response(request.starts_with(b"HEAD ")).await
    }

    /// Reads one response: by `Content-Length`, by chunks, or until the end. `head` says that it answers a HEAD request.
    ///
    /// # Errors
    /// [`RawHttpError`].
    pub async fn read_response(&mut self, head: bool) -> Result<RawResponse, RawHttpError> {
        let (mut response, head_len) = loop {
            match parse_head(&self.buffer) {
                Ok(Some(parsed)) => break parsed,
                Ok(None) => self.fill().await?,
                Err(reason) => return Err(self.malformed(reason)),
            }
        };
        self.buffer.drain(..head_len);
        let without_body = head || response.status < 200 || matches!(response.status, 204 | 304);
        if without_body {
            return Ok(response);
        }
        if response.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            response.body = self.read_chunks().await?;
        } else if let Some(length) = response.header("content-length").map(str::to_owned) {
            let length = length.parse::<usize>().map_err(|e| self.malformed(format!("content-length {length:?}: {e}")))?;
            response.body = self.take(length).await?;
        } else {
            response.body = self.read_to_end().await?;
        }
        Ok(response)
    }

    /// Reads all there is until the peer closes.
    ///
    /// # Errors
    /// [`RawHttpError::Timeout`] if it does not, [`RawHttpError::Io`] if it resets the connection.
    pub async fn read_to_end(&mut self) -> Result<Vec<u8>, RawHttpError> {
        loop {
            match self.fill().await {
                Ok(()) => {}
                Err(RawHttpError::Closed(bytes)) => return Ok(bytes),
                Err(other) => return Err(other),
            }
        }
    }

    /// Whether the peer closes, or resets, without sending anything more.
    pub async fn is_closed_by_peer(&mut self) -> bool {
        match self.fill().await {
            Err(RawHttpError::Closed(rest)) => rest.is_empty(),
            Err(RawHttpError::Io(e)) => e.kind() == io::ErrorKind::ConnectionReset,
            _ => false,
        }
    }

    /// Reads some more bytes into the buffer; an error hands back all that was read.
    async fn fill(&mut self) -> Result<(), RawHttpError> {
        match timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await {
            Err(_) => Err(RawHttpError::Timeout(std::mem::take(&mut self.buffer))),
            Ok(Ok(0)) => Err(RawHttpError::Closed(std::mem::take(&mut self.buffer))),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(e.into()),
        }
    }

    async fn take(&mut self, length: usize) -> Result<Vec<u8>, RawHttpError> {
        while self.buffer.len() < length {
            self.fill().await?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    async fn line(&mut self) -> Result<String, RawHttpError> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                let line = self.take(end + 2).await?;
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.fill().await?;
        }
    }

    async fn read_chunks(&mut self) -> Result<Vec<u8>, RawHttpError> {
        let mut body = Vec::new();
        loop {
            let line = self.line().await?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|e| self.malformed(format!("chunk size {line:?}: {e}")))?;
            if size == 0 {
                while !self.line().await?.is_empty() {}
                return Ok(body);
            }
            body.extend(self.take(size).await?);
            if self.take(2).await? != b"\r\n" {
                return Err(self.malformed("chunk without CRLF at its end".into()));
            }
        }
    }

    fn malformed(&self, reason: String) -> RawHttpError {
        RawHttpError::Malformed { reason, bytes: self.buffer.clone() }
    }
}

fn parse_head(bytes: &[u8]) -> Result<Option<(RawResponse, usize)>, String> {
    let mut headers = [httparse::EMPTY_HEADER; 128];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(bytes) {
        Ok(httparse::Status::Partial) => Ok(None),
        Ok(httparse::Status::Complete(length)) => {
            let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
            let headers = response.headers.iter().map(|h| (h.name.to_owned(), text(h.value))).collect();
            let status = response.code.ok_or("no status")?;
            Ok(Some((RawResponse { status, headers, body: Vec::new() }, length)))
        }
        Err(e) => Err(e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    async fn respond(bytes: &'static [u8]) -> Result<RawResponse, RawHttpError> {
        let (near, mut far) = duplex(64);
        let server = tokio::spawn(async move {
            // The client may give up first.
            let _ = far.write_all(bytes).await;
        });
        let response = RawConnection::over(near).read_response(false).await;
        server.await.unwrap();
        response
    }

    #[tokio::test]
    async fn bodies_of_all_framings() {
        for (bytes, body) in [
            (&b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcEXTRA"[..], "abc"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: v\r\n\r\n", "abcde"),
            (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", "until the end"),
            (b"HTTP/1.1 204 No Content\r\n\r\n", ""),
            (b"HTTP/1.1 100 Continue\r\n\r\n", ""),
        ] {
            assert_eq!(respond(bytes).await.unwrap().text(), body);
        }
    }

    #[tokio::test]
    async fn what_is_no_response_is_told() {
        assert!(matches!(respond(b"SSH-2.0-x\r\n").await, Err(RawHttpError::Malformed { .. })));
        assert!(
            matches!(respond(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc").await, Err(RawHttpError::Closed(rest)) if rest == b"abc")
        );
        assert!(matches!(
            respond(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").await,
            Err(RawHttpError::Malformed { .. })
        ));
    }
}
