//! Envoy's discovery stream, relayed to the control plane as it is: HTTP/2 in clear text on this side, on the other TLS that is
//! verified against the mesh's root, and the workload's token. Messages are not looked into.

use super::socket::Listener;
use crate::control_plane::channel::ControlPlane;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::time::Duration;

/// What Envoy may call.
const SERVICE: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/";

/// Signs of life towards the control plane (gRPC keep-alive, as Istio's agent).
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// gRPC's `UNAVAILABLE`, after which Envoy tries again, and its `UNIMPLEMENTED`.
const UNAVAILABLE: u8 = 14;
const UNIMPLEMENTED: u8 = 12;

/// Relays the streams of process `pid` for ever.
pub(super) async fn serve(listener: Listener, pid: u32, control_plane: ControlPlane) {
    loop {
        let stream = match listener.accept_from(pid).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "Envoy's discovery stream");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let control_plane = control_plane.clone();
        let relay = service_fn(move |request| {
            let control_plane = control_plane.clone();
            async move { Ok::<_, Infallible>(relay(&control_plane, request).await) }
        });
        let serving =
            hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), relay);
        tokio::task::spawn_local(async move {
            if let Err(error) = serving.await {
                tracing::debug!(%error, "Envoy's discovery connection ended");
            }
        });
    }
}

async fn relay(control_plane: &ControlPlane, request: Request<Incoming>) -> Response<BoxBody<Bytes, hyper::Error>> {
    if !request.uri().path().starts_with(SERVICE) {
        return refused(UNIMPLEMENTED, "the agent relays aggregated discovery alone");
    }
    match forward(control_plane, request).await {
        Ok(response) => response.map(BodyExt::boxed),
        Err(reason) => {
            tracing::warn!(%reason, "the control plane cannot be reached");
            refused(UNAVAILABLE, &reason)
        }
    }
}

async fn forward(control_plane: &ControlPlane, mut request: Request<Incoming>) -> Result<Response<Incoming>, String> {
    let stream = control_plane.dial_discovery().await.map_err(|e| e.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    // Lives as long as its one stream.
    tokio::spawn(connection);
    let authority: Authority = control_plane.discovery_address().parse().map_err(|e| format!("discovery address: {e}"))?;
    let path = request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    let uri = Uri::builder().scheme(Scheme::HTTP).authority(authority).path_and_query(path).build();
    *request.uri_mut() = uri.map_err(|e| e.to_string())?;
    let token = control_plane.authorization()?;
    let token = HeaderValue::from_bytes(token.as_bytes()).map_err(|e| e.to_string())?;
    request.headers_mut().insert(AUTHORIZATION, token);
    sender.send_request(request).await.map_err(|e| e.to_string())
}

/// A gRPC answer without messages.
fn refused(code: u8, message: &str) -> Response<BoxBody<Bytes, hyper::Error>> {
    let body = Empty::new().map_err(|never: Infallible| match never {}).boxed();
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(u16::from(code)));
    let printable: String = message.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect();
    if let Ok(message) = HeaderValue::from_str(&printable) {
        headers.insert("grpc-message", message);
    }
    response
}
