//! A request's way: administration, then faults, then the path's handler.

use super::body::{self, Body, refusal};
use super::{call, tunnel, ws};
use crate::control::{Close, MAX_DELAY, Outcome};
use crate::server::{Connection, Surface};
use crate::{duration, grpc};
use base64::Engine;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How much of a request's body is repeated in the answer, in bytes; the rest is only counted.
const ECHOED_BODY: usize = 64 * 1024;
/// The largest `/bytes/N`.
const MAX_BYTES: u64 = 16 << 30;
/// The largest `/stream/N`.
const MAX_CHUNKS: u64 = 1_000_000;
/// The space between chunks of `/stream/N` unless `?interval=` says otherwise.
const CHUNK_INTERVAL: Duration = Duration::from_millis(10);
/// The largest body of an order to `/control`.
const MAX_ORDER: usize = 64 * 1024;

/// The connection has to be ended without an answer; given to hyper as the service's error.
#[derive(Debug, thiserror::Error)]
#[error("connection ended as ordered by /control")]
pub(crate) struct Hangup;

/// Answers one request.
pub(crate) async fn serve(connection: Arc<Connection>, request: Request<Incoming>) -> Result<Response<Body>, Hangup> {
    let mut response = dispatch(&connection, request).await?;
    let me = &connection.app.identity;
    // Load generators tell pods apart by these without parsing bodies.
    for (name, value) in [("x-echo-pod", me.pod.as_str()), ("x-echo-version", me.version())] {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}

async fn dispatch(connection: &Arc<Connection>, request: Request<Incoming>) -> Result<Response<Body>, Hangup> {
    if connection.surface == Surface::Tunnel {
        return Ok(tunnel::answer(connection, request).await);
    }
    let path = request.uri().path();
    if connection.surface == Surface::Otlp || grpc::is_health_check(path) {
        return Ok(grpc::serve(connection, request).await);
    }
    if connection.surface == Surface::Web {
        match path.split('/').nth(1).unwrap_or_default() {
            "healthz" => return Ok(healthz(connection)),
            "control" => return Ok(control(connection, request).await),
            "tunnels" => return Ok(connection.app.tunnels.answer()),
            "traces" => return Ok(connection.app.traces.answer(request.method(), path)),
            _ => {}
        }
    }
    if let Some(verdict) = connection.app.control.judge(request.method().as_str(), path) {
        tokio::time::sleep(verdict.delay).await;
        match verdict.outcome {
            Outcome::Answer => {}
            Outcome::Fail(status) => return Ok(failure(status)),
            Outcome::Hang => {
                // A client that has gone cannot be told from one that has finished sending, so that an end is set.
                let _ = timeout(MAX_DELAY, connection.lease.clone().stopped()).await;
                return Err(Hangup);
            }
            Outcome::Close(Close::BeforeResponse) => return Err(Hangup),
            Outcome::Close(Close::MidResponse) => return Ok(half_answer()),
        }
    }
    if connection.surface == Surface::Grpc || is_grpc(request.headers()) {
        return Ok(grpc::serve(connection, request).await);
    }
    Ok(route(connection, request).await)
}

async fn route(connection: &Arc<Connection>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let mut segments = path.trim_start_matches('/').splitn(2, '/');
    let (first, argument) = (segments.next().unwrap_or_default(), segments.next());
    let outcome = match (first, argument) {
        ("status", Some(code)) => match code.parse() {
            Ok(code @ 200..=599) => Ok(echo(connection, request, code).await),
            _ => Err(format!("{code:?} is not a status from 200 to 599")),
        },
        ("delay", Some(text)) => match duration::parse(text, MAX_DELAY) {
            Ok(delay) => {
                tokio::time::sleep(delay).await;
                Ok(echo(connection, request, 200).await)
            }
            Err(reason) => Err(reason),
        },
        ("bytes", Some(count)) => {
            number(count, MAX_BYTES).map(|count| body::typed(StatusCode::OK, "application/octet-stream", body::sized(count)))
        }
        ("stream", Some(count)) => number(count, MAX_CHUNKS).and_then(|count| {
            let spaced = body::spaced(count, interval(request.uri().query())?);
            Ok(body::typed(StatusCode::OK, "text/plain; charset=utf-8", spaced))
        }),
        ("call", None) => return call::answer(connection, request).await,
        ("mirror", None) => return mirror(request),
        ("ws", None) => return ws::answer(connection, request),
        _ => Ok(echo(connection, request, 200).await),
    };
    outcome.unwrap_or_else(|reason| refusal(StatusCode::BAD_REQUEST, reason))
}

/// Sends the request's body back while it comes, and its trailers after it.
fn mirror(request: Request<Incoming>) -> Response<Body> {
    let (parts, incoming) = request.into_parts();
    let mut response = Response::new(incoming.map_err(body::BoxError::from).boxed_unsync());
    // Over HTTP/1.1 hyper sends those trailers that were announced, to clients that say `te: trailers`.
    for name in [header::CONTENT_TYPE, header::TRAILER] {
        if let Some(value) = parts.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

fn number(text: &str, limit: u64) -> Result<u64, String> {
    text.parse().ok().filter(|number| *number <= limit).ok_or_else(|| format!("{text:?} is not a number from 0 to {limit}"))
}

fn interval(query: Option<&str>) -> Result<Duration, String> {
    let mut pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    match pairs.find(|(name, _)| name == "interval") {
        Some((_, text)) => duration::parse(&text, MAX_DELAY),
        None => Ok(CHUNK_INTERVAL),
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

fn failure(status: u16) -> Response<Body> {
    // Statuses were checked when the fault was ordered.
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    refusal(status, "failed as ordered by /control")
}

fn half_answer() -> Response<Body> {
    let mut response = body::typed(StatusCode::OK, "text/plain", body::broken(b"half of an answ"));
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("30"));
    response
}

fn healthz(connection: &Connection) -> Response<Body> {
    if connection.app.control.ready() {
        body::text(StatusCode::OK, "ok\n")
    } else {
        body::text(StatusCode::SERVICE_UNAVAILABLE, "turned unready by /control\n")
    }
}

async fn control(connection: &Connection, request: Request<Incoming>) -> Response<Body> {
    let control = &connection.app.control;
    match *request.method() {
        Method::GET => {}
        Method::DELETE => control.reset(),
        Method::POST => {
            let limited = http_body_util::Limited::new(request.into_body(), MAX_ORDER);
            let order = match limited.collect().await {
                Ok(collected) => collected.to_bytes(),
                Err(error) => return refusal(StatusCode::BAD_REQUEST, error.to_string()),
            };
            if let Err(reason) = control.order(&order) {
                return refusal(StatusCode::BAD_REQUEST, reason);
            }
        }
        _ => return refusal(StatusCode::METHOD_NOT_ALLOWED, "GET, POST and DELETE are allowed"),
    }
    body::json(StatusCode::OK, &control.show())
}

/// What an ordinary request is answered with.
#[derive(Serialize)]
struct Answer<'a> {
    pod: &'a str,
    namespace: &'a str,
    version: &'a str,
    service_account: &'a str,
    method: &'a str,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    query: Option<&'a str>,
    authority: &'a str,
    headers: serde_json::Map<String, serde_json::Value>,
    protocol: &'static str,
    peer: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<serde_json::Value>,
    #[serde(rename = "proxyProtocol", skip_serializing_if = "Option::is_none")]
    proxy_protocol: Option<&'a crate::proxy_protocol::Header>,
    #[serde(flatten)]
    content: Content,
}

/// The request's body: its length always, its content up to [`ECHOED_BODY`].
#[derive(Default, Serialize)]
struct Content {
    body_length: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    /// Base64, when the body is not UTF-8 text.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    body_truncated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    trailers: Option<serde_json::Map<String, serde_json::Value>>,
}

async fn echo(connection: &Connection, request: Request<Incoming>, status: u16) -> Response<Body> {
    let (parts, incoming) = request.into_parts();
    let content = match read(incoming).await {
        Ok(content) => content,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, format!("request body: {error}")),
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED) {
        let mut response = Response::new(body::full(Bytes::new()));
        *response.status_mut() = status;
        return response;
    }
    body::json(status, &describe(connection, &parts, content))
}

fn describe<'a>(connection: &'a Connection, parts: &'a Parts, content: Content) -> Answer<'a> {
    let me = &connection.app.identity;
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    Answer {
        pod: &me.pod,
        namespace: &me.namespace,
        version: me.version(),
        service_account: &me.service_account,
        method: parts.method.as_str(),
        path: parts.uri.path(),
        query: parts.uri.query(),
        authority: parts.uri.authority().map(http::uri::Authority::as_str).or(host).unwrap_or_default(),
        headers: headers_as_json(&parts.headers),
        protocol: protocol_name(parts.version),
        peer: connection.peer.to_string(),
        tls: connection.tls.as_ref().map(crate::tls::describe),
        proxy_protocol: connection.proxy_protocol.as_ref(),
        content,
    }
}

pub(crate) fn protocol_name(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_10 => "HTTP/1.0",
        http::Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

/// Header names to values in the order of arrival; a repeated name's values are joined by `, `.
pub(crate) fn headers_as_json(headers: &HeaderMap) -> serde_json::Map<String, serde_json::Value> {
    let mut map = serde_json::Map::new();
    for name in headers.keys() {
        let values: Vec<_> = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        map.insert(name.as_str().to_owned(), values.join(", ").into());
    }
    map
}

async fn read(mut incoming: Incoming) -> Result<Content, hyper::Error> {
    let mut kept = Vec::new();
    let mut content = Content::default();
    while let Some(frame) = incoming.frame().await {
        match frame?.into_data() {
            Ok(data) => {
                content.body_length += data.len() as u64;
                let room = ECHOED_BODY - kept.len();
                kept.extend_from_slice(&data[..data.len().min(room)]);
            }
            Err(frame) => content.trailers = frame.trailers_ref().map(headers_as_json),
        }
    }
    content.body_truncated = content.body_length > kept.len() as u64;
    if !kept.is_empty() {
        match String::from_utf8(kept) {
            Ok(text) => content.body = Some(text),
            Err(error) => content.body_base64 = Some(base64::engine::general_purpose::STANDARD.encode(error.as_bytes())),
        }
    }
    Ok(content)
}
