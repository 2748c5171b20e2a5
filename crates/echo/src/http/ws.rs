//! WebSocket echo (RFC 6455, and RFC 8441 over HTTP/2) on `/ws`: every text or binary message comes back as it was.

use super::body::{Body, full, refusal};
use crate::server::{Connection, Lease};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig, frame::coding::CloseCode};

/// The largest message that is echoed.
const MAX_MESSAGE: usize = 16 << 20;

/// Answers the handshake; the echo goes on in a task of its own.
pub(crate) fn answer(connection: &Arc<Connection>, mut request: Request<Incoming>) -> Response<Body> {
    if request.extensions().get::<Protocol>().is_some_and(|protocol| protocol.as_str() == "websocket") {
        tokio::spawn(echo(hyper::upgrade::on(&mut request), connection.lease.clone()));
        return Response::new(full(Bytes::new()));
    }
    let key = match accept(request.headers()) {
        Ok(key) => key,
        Err(reason) => {
            let mut response = refusal(StatusCode::UPGRADE_REQUIRED, reason);
            response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            return response;
        }
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(echo(upgrade, connection.lease.clone()));
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, key);
    response
}

/// Checks the client's handshake (RFC 6455, section 4.2.1) and derives the answer's key.
fn accept(headers: &HeaderMap) -> Result<HeaderValue, &'static str> {
    let has = |name: header::HeaderName, token: &str| {
        let values = headers.get_all(name);
        let mut tokens = values.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        tokens.any(|value| value.trim().eq_ignore_ascii_case(token))
    };
    if !has(header::CONNECTION, "upgrade") || !has(header::UPGRADE, "websocket") {
        return Err("/ws wants a WebSocket handshake: connection: upgrade, upgrade: websocket");
    }
    if !has(header::SEC_WEBSOCKET_VERSION, "13") {
        return Err("sec-websocket-version must be 13");
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or("sec-websocket-key is missing")?;
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| "sec-websocket-key is malformed")
}

async fn echo(upgrade: OnUpgrade, mut lease: Lease) {
    let Ok(upgraded) = upgrade.await else { return };
    let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    loop {
        let message = tokio::select! {
            message = socket.next() => message,
            () = lease.stopped() => {
                let going = CloseFrame { code: CloseCode::Away, reason: "the server stops".into() };
                let _ = socket.close(Some(going)).await;
                // The peer's close frame ends the stream; whatever else comes is not echoed any more.
                while let Some(Ok(_)) = socket.next().await {}
                return;
            }
        };
        match message {
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                if socket.send(message).await.is_err() {
                    return;
                }
            }
            // Pings and the closing handshake are answered by the library when it is polled again.
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return,
        }
    }
}
