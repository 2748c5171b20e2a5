//! An HTTP proxy for bytes: `CONNECT` (RFC 9110, section 9.3.6), and `POST` whose two bodies are the bytes. `/tunnels` of the main
//! port tells how the last tunnel was asked for.

use super::body::{self, Body, BoxError, refusal};
use super::routes::{headers_as_json, protocol_name};
use crate::server::Connection;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use std::sync::{Mutex, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Bytes that are read at once.
const CHUNK: usize = 16 * 1024;

/// How the last tunnel was asked for.
#[derive(Debug, Default)]
pub(crate) struct LastTunnel(Mutex<serde_json::Value>);

impl LastTunnel {
    fn set(&self, request: &Request<Incoming>) {
        let asked = serde_json::json!({
            "method": request.method().as_str(),
            "target": request.uri().to_string(),
            "protocol": protocol_name(request.version()),
            "headers": headers_as_json(request.headers()),
        });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = asked;
    }

    /// `null` before the first.
    pub(crate) fn answer(&self) -> Response<Body> {
        body::json(StatusCode::OK, &*self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Opens a tunnel to where the request says.
pub(crate) async fn answer(connection: &Connection, request: Request<Incoming>) -> Response<Body> {
    connection.app.tunnels.set(&request);
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let Some(target) = request.uri().authority().map(|a| a.as_str()).or(host).map(str::to_owned) else {
        return refusal(StatusCode::BAD_REQUEST, "the request does not say where to");
    };
    if !matches!(*request.method(), Method::CONNECT | Method::POST) {
        return refusal(StatusCode::METHOD_NOT_ALLOWED, "this port takes CONNECT and POST");
    }
    let stream = match TcpStream::connect(&target).await {
        Ok(stream) => stream,
        Err(error) => return refusal(StatusCode::BAD_GATEWAY, format!("{target}: {error}")),
    };
    if request.method() == Method::CONNECT {
        let lease = connection.lease.clone();
        tokio::spawn(async move {
            relay(request, stream).await;
            drop(lease);
        });
        return Response::new(body::full(Bytes::new()));
    }
    let (read, write) = stream.into_split();
    tokio::spawn(upload(request.into_body(), write));
    Response::new(download(read))
}

async fn relay(request: Request<Incoming>, mut stream: TcpStream) {
    let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
    let ended = tokio::io::copy_bidirectional(&mut TokioIo::new(upgraded), &mut stream).await;
    tracing::debug!(?ended, "tunnel");
}

async fn upload(mut body: Incoming, mut to: OwnedWriteHalf) {
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        if to.write_all(&data).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

fn download(from: OwnedReadHalf) -> Body {
    let chunks = futures_util::stream::try_unfold(from, |mut from| async move {
        let mut chunk = Vec::with_capacity(CHUNK);
        let count = from.read_buf(&mut chunk).await?;
        Ok::<_, std::io::Error>((count > 0).then(|| (Frame::data(Bytes::from(chunk)), from)))
    });
    StreamBody::new(chunks.map(|chunk| chunk.map_err(BoxError::from))).boxed_unsync()
}
