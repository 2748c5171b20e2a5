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
    let answer = Rc::new(answer);
    tokio::task::spawn_local(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    tokio::task::spawn_local(serve_connection(stream, answer.clone()));
                }
                Err(error) => {
                    tracing::warn!(%address, %error, "cannot accept; trying again in 50 ms");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    });
    Ok(())
}

async fn serve_connection<F>(stream: tokio::net::TcpStream, answer: Rc<F>)
where
    F: Fn(Ask) -> Answer + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(Ask { method: request.method().clone(), path: request.uri().path().to_owned() });
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
