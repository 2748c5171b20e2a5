//! HTTP/2 with prior knowledge, gRPC included.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use tokio::time::{Instant, timeout};

use super::{NotOpened, connect, millis, now};
use crate::op::{Body, Exchange, Http, TlsSeen};

/// Sends so many requests one after the other, on one connection.
pub(super) async fn requests(http: &Http, count: u32) -> Vec<Exchange> {
    let mut exchanges = Vec::new();
    let mut kept: Option<Kept> = None;
    for _ in 0..count {
        let (start, began) = (Instant::now(), now());
        let (sender, local, tls) = match kept.take() {
            Some(kept) => kept,
            None => match open(http).await {
                Ok(opened) => opened,
                Err(NotOpened { error, local }) => {
                    exchanges.push(Exchange { error: Some(error), local, began, ..Exchange::default() });
                    continue;
                }
            },
        };
        let version = "HTTP/2".to_owned();
        let mut exchange = Exchange { local: local.clone(), tls: tls.clone(), version, began, ..Exchange::default() };
        match timeout(Duration::from_millis(http.patience), one(sender.clone(), http, &mut exchange)).await {
            Ok(Ok(())) if !http.anew => kept = Some((sender, local, tls)),
            Ok(Ok(())) => {}
            Ok(Err(error)) => exchange.error = Some(error),
            Err(_) => exchange.error = Some("no answer in time".to_owned()),
        }
        exchange.millis = millis(start);
        exchanges.push(exchange);
    }
    exchanges
}

/// A connection, our side of it, and what came of its handshake.
type Kept = (h2::client::SendRequest<Bytes>, String, Option<TlsSeen>);

async fn open(http: &Http) -> Result<Kept, NotOpened> {
    let opened = connect(&http.address, http.tls.as_ref()).await?;
    let local = opened.local;
    match h2::client::handshake(opened.stream).await {
        Ok((sender, connection)) => {
            tokio::spawn(connection);
            Ok((sender, local, opened.tls))
        }
        Err(error) => Err(NotOpened { error: describe(&error), local }),
    }
}

async fn one(sender: h2::client::SendRequest<Bytes>, http: &Http, into: &mut Exchange) -> Result<(), String> {
    let mut sender = sender.ready().await.map_err(|e| describe(&e))?;
    let request = head(http)?;
    if http.protocol.is_some() {
        return websocket(&mut sender, request, into).await;
    }
    let parts: Vec<Bytes> = match &http.body {
        Body::None => Vec::new(),
        Body::Text(text) | Body::Expect(text) => vec![text.clone().into()],
        Body::Chunked(parts) => parts.iter().map(|part| part.clone().into()).collect(),
        Body::Grpc(message) => vec![message.clone().into()],
    };
    let ends = parts.is_empty() && http.trailers.is_empty();
    let (response, mut body) = sender.send_request(request, ends).map_err(|e| describe(&e))?;
    for (index, part) in parts.iter().enumerate() {
        // Bodies of scripts are small: they fit in the window that every connection begins with.
        let last = index + 1 == parts.len() && http.trailers.is_empty();
        body.send_data(part.clone(), last).map_err(|e| describe(&e))?;
    }
    if !http.trailers.is_empty() {
        body.send_trailers(map(&http.trailers)?).map_err(|e| describe(&e))?;
    }
    let response = response.await.map_err(|e| describe(&e))?;
    into.status = response.status().as_u16();
    into.headers = list(response.headers());
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        let data = data.map_err(|e| describe(&e))?;
        let _ = body.flow_control().release_capacity(data.len());
        into.body.extend_from_slice(&data);
    }
    if let Some(trailers) = body.trailers().await.map_err(|e| describe(&e))? {
        into.trailers = list(&trailers);
    }
    Ok(())
}

/// Opens a WebSocket, sends one message and waits for one.
async fn websocket(sender: &mut h2::client::SendRequest<Bytes>, request: Request<()>, into: &mut Exchange) -> Result<(), String> {
    /// Final frames of a client with a mask of zeros: the text `hello`, and the end.
    const HELLO: &[u8] = &[0x81, 0x85, 0, 0, 0, 0, b'h', b'e', b'l', b'l', b'o'];
    const CLOSE: &[u8] = &[0x88, 0x80, 0, 0, 0, 0];
    let (response, mut to) = sender.send_request(request, false).map_err(|e| describe(&e))?;
    let response = response.await.map_err(|e| describe(&e))?;
    into.status = response.status().as_u16();
    into.headers = list(response.headers());
    let opened = into.status == 200;
    if opened {
        to.send_data(Bytes::from_static(HELLO), false).map_err(|e| describe(&e))?;
    }
    let mut from = response.into_body();
    while let Some(data) = from.data().await {
        let data = data.map_err(|e| describe(&e))?;
        let _ = from.flow_control().release_capacity(data.len());
        into.body.extend_from_slice(&data);
        if opened && into.body.len() == HELLO.len() - 4 {
            to.send_data(Bytes::from_static(CLOSE), true).map_err(|e| describe(&e))?;
        }
    }
    if opened {
        // Of the answer's frames the text.
        into.body = into.body.get(2..7).unwrap_or_default().to_vec();
    }
    Ok(())
}

fn head(http: &Http) -> Result<Request<()>, String> {
    let authority = http.authority.as_deref().unwrap_or_default();
    let scheme = if http.tls.is_some() { "https" } else { "http" };
    let uri = if http.method == "CONNECT" { authority.to_owned() } else { format!("{scheme}://{authority}{}", http.target) };
    let mut request = Request::builder().method(http.method.as_str()).uri(uri).body(()).map_err(|e| e.to_string())?;
    *request.headers_mut() = map(&http.headers)?;
    if let Some(protocol) = &http.protocol {
        *request.method_mut() = http::Method::CONNECT;
        request.extensions_mut().insert(h2::ext::Protocol::from(protocol.as_str()));
    }
    Ok(request)
}

fn map(pairs: &[(String, String)]) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        let name: HeaderName = name.parse().map_err(|_| format!("{name:?} is no header name"))?;
        map.append(name, HeaderValue::from_str(value).map_err(|_| format!("{value:?} is no header value"))?);
    }
    Ok(map)
}

fn list(map: &HeaderMap) -> Vec<(String, String)> {
    map.iter().map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned())).collect()
}

fn describe(error: &h2::Error) -> String {
    match error.reason() {
        Some(reason) if error.is_go_away() => format!("GOAWAY {reason:?}"),
        Some(reason) => format!("RST_STREAM {reason:?}"),
        None if error.is_io() => "closed before an answer".to_owned(),
        None => error.to_string(),
    }
}
