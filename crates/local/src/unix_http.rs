//! HTTP/1.1 over a Unix socket or a given stream: the small part that the supervisor and its callers need.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

/// The largest answer that is read: a configuration dump of a large mesh.
const MAX_BODY: usize = 256 * 1024 * 1024;

/// A request to be made.
#[derive(Debug, Clone)]
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) path: &'a str,
    pub(crate) body: Vec<u8>,
    pub(crate) timeout: Duration,
}

impl<'a> Call<'a> {
    pub(crate) fn get(path: &'a str) -> Self {
        Self { method: Method::GET, path, body: Vec::new(), timeout: Duration::from_secs(10) }
    }
}

/// Makes a request over a Unix socket.
pub(crate) async fn over_unix(socket: &Path, call: Call<'_>) -> io::Result<Response<Bytes>> {
    let stream = UnixStream::connect(socket).await?;
    over_stream(stream, "lateen", call).await
}

/// Makes a request over a stream, which is used for nothing else.
pub(crate) async fn over_stream<S>(stream: S, host: &str, call: Call<'_>) -> io::Result<Response<Bytes>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let exchange = async {
        let request = Request::builder()
            .method(call.method)
            .uri(call.path)
            .header(header::HOST, host)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close")
            .body(Full::new(Bytes::from(call.body)))
            .map_err(io::Error::other)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let driver = tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_BODY).collect().await.map_err(io::Error::other)?.to_bytes();
        driver.abort();
        Ok(Response::from_parts(head, body))
    };
    tokio::time::timeout(call.timeout, exchange).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
