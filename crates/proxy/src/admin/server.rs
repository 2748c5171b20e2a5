//! A small HTTP server for pages that people and probes read. It runs on the main thread, beside no traffic.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpListener;

/// What pages look at of a request.
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) path: String,
    /// What is behind `?`.
    pub(crate) query: String,
}

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) content_type: &'static str,
    pub(crate) body: Bytes,
}

impl Answer {
    /// Plain text.
    pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }

    /// JSON, indented for people.
    pub(crate) fn json(value: &serde_json::Value) -> Self {
        let mut body = serde_json::to_vec_pretty(value).unwrap_or_default();
        body.push(b'\n');
        Self { status: StatusCode::OK, content_type: "application/json", body: body.into() }
    }
}

/// Binds and serves until the task ends.
pub(crate) async fn serve<F>(address: SocketAddr, answer: F) -> io::Result<()>
where
    F: Fn(Ask) -> Answer + 'static,
{
    let listener =
        TcpListener::bind(address).await.map_err(|e| io::Error::new(e.kind(), format!("listening on {address}: {e}")))?;
    tokio::task::spawn_local(accept(listener, Rc::new(answer)));
    Ok(())
}

async fn accept<F>(listener: TcpListener, answer: Rc<F>)
where
    F: Fn(Ask) -> Answer + 'static,
{
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::task::spawn_local(serve_connection(stream, answer.clone()));
            }
            Err(error) => {
                tracing::warn!(?listener, %error, "cannot accept; trying again in 50 ms");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve_connection<F>(stream: tokio::net::TcpStream, answer: Rc<F>)
where
    F: Fn(Ask) -> Answer + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
        let answer = answer(Ask { method: request.method().clone(), path, query });
        async move {
            let mut response = Response::new(Full::new(answer.body));
            *response.status_mut() = answer.status;
            response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(answer.content_type));
            Ok::<_, Infallible>(response)
        }
    });
    // A client that goes away in the middle is nobody's error.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(10))
        // A client that has sent its request and says that it sends no more still waits for the answer.
        .half_close(true)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    /// More than the sockets of a loopback connection hold.
    const LARGE: usize = 16 << 20;

    /// What a client gets that sends this, then says that it sends no more, then reads to the end.
    async fn ask(request: &[u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let answer = |ask: Ask| match ask.path.as_str() {
            "/large" => Answer::text(StatusCode::OK, vec![b'x'; LARGE]),
            path => Answer::text(StatusCode::OK, format!("{} {path}", ask.method)),
        };
        let tasks = tokio::task::LocalSet::new();
        let client = tasks.run_until(async {
            tokio::task::spawn_local(accept(listener, Rc::new(answer)));
            let mut stream = TcpStream::connect(address).await.expect("connects");
            stream.write_all(request).await.expect("takes it");
            stream.shutdown().await.expect("half-closes");
            let mut text = String::new();
            stream.read_to_string(&mut text).await.expect("text, then the end");
            text
        });
        client.await
    }

    #[tokio::test]
    async fn a_client_that_has_said_everything_is_answered() {
        let text = ask(b"GET /stats?x=1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\nGET /stats"), "{text}");
        let text = ask(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(text.len() > LARGE, "all of it, however long it takes: {} bytes", text.len());
    }

    #[tokio::test]
    async fn requests_one_after_the_other_and_requests_that_are_none() {
        let two = ask(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\nPOST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
        assert!(two.contains("GET /a") && two.ends_with("POST /b"), "{two}");
        assert!(ask(b"nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
        assert_eq!(ask(b"GET / HT").await, "");
    }
}
