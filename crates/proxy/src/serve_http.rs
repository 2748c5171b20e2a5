//! Serves an HTTP connection: one request after the other (HTTP/1), or many at once (HTTP/2).
//!
//! Each request is served by the configuration of its own moment: if the snapshot has changed since the last one, the filter chain
//! is looked up anew, so that a new policy holds on old connections too.

use crate::config::{Hcm, Listener, Snapshot, Terminal};
use crate::connection::Connection;
use crate::http::{Head, ServerExchange};
use crate::request::{self, RequestContext};
use crate::sniff::H2_PREFACE;
use crate::stream::Stream;
use crate::worker::Worker;
use crate::{http1, http2};
use lateen_model::dataplane::Codec;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// How long a connection that was refused stays open for its client to read why.
const LINGER: Duration = Duration::from_secs(1);

/// Envoy's default `idle_timeout` of downstream connections.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// How long the head of a request may take, where the configuration leaves it open: slow heads are an attack.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(60);

/// The connection manager that is in force for a connection.
struct InForce {
    snapshot: Arc<Snapshot>,
    listener: Arc<Listener>,
    hcm: Arc<Hcm>,
}

/// A connection, shared by its requests.
struct HttpConnection {
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    in_force: RefCell<Rc<InForce>>,
}

impl HttpConnection {
    /// What serves the next request; `None` if the configuration does not serve this connection as HTTP any more.
    fn current(&self) -> Option<Rc<InForce>> {
        let latest = self.worker.shared.snapshot.load();
        let held = self.in_force.borrow().clone();
        if Arc::ptr_eq(&latest, &held.snapshot) {
            return Some(held);
        }
        let (listener, chain) = self.connection.chain_in(&latest)?;
        if chain.tls.is_some() != self.connection.tls.is_some() {
            return None;
        }
        let Terminal::Http(hcm) = &chain.terminal else { return None };
        let current = Rc::new(InForce { listener: listener.clone(), hcm: hcm.clone(), snapshot: latest.clone() });
        *self.in_force.borrow_mut() = current.clone();
        Some(current)
    }

    /// Serves one request; false if the connection must end without an answer.
    async fn serve(&self, exchange: ServerExchange<Stream>) -> bool {
        let Some(mut in_force) = self.current() else { return false };
        let _in_flight = self.worker.shared.drain.in_flight();
        drop(self.connection.opening.take());
        let on_demand = &self.worker.shared.on_demand;
        let authority = exchange.head.authority().unwrap_or_default();
        let open = on_demand.of_request(&in_force.snapshot, &in_force.hcm, authority);
        let mut not_learnt = false;
        if !open.is_empty() {
            not_learnt = Box::pin(on_demand.learn(open)).await.is_err();
            let Some(current) = self.current() else { return false };
            in_force = current;
        }
        let context = RequestContext {
            worker: &self.worker,
            connection: &self.connection,
            hcm: &in_force.hcm,
            snapshot: &in_force.snapshot,
            direction: in_force.listener.model.direction,
            not_learnt,
        };
        request::serve(&context, exchange).await;
        true
    }
}

/// Serves a connection until it ends.
pub(crate) async fn serve_http(
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    mut stream: Stream,
    listener: Arc<Listener>,
    hcm: Arc<Hcm>,
) {
    let http2 = match hcm.model.codec {
        Codec::Http1 => Some(false),
        Codec::Http2 => Some(true),
        Codec::Auto => Box::pin(speaks_http2(&connection, &mut stream, &hcm)).await,
    };
    let Some(http2) = http2 else { return };
    let snapshot = worker.shared.snapshot.load_full();
    let in_force = RefCell::new(Rc::new(InForce { snapshot, listener, hcm: hcm.clone() }));
    let http = Rc::new(HttpConnection { worker, connection, in_force });
    if http2 {
        Box::pin(serve_http2(http, stream, &hcm)).await;
    } else {
        serve_http1(&http, stream, &hcm).await;
    }
}

/// By ALPN where there is TLS, else by the first bytes; nobody has looked at them where every plain connection gets the same
/// chain. `None` if none come.
async fn speaks_http2(connection: &Connection, stream: &mut Stream, hcm: &Hcm) -> Option<bool> {
    let tcp = match (&connection.tls, stream) {
        (Some(tls), _) => return Some(tls.alpn.as_deref() == Some("h2")),
        (None, Stream::Plain(tcp)) => tcp,
        (None, Stream::Tls(_)) => return Some(false),
    };
    if let Some(found) = connection.protocols.first() {
        return Some(found == "h2c");
    }
    let begun = match idle_timeout(hcm) {
        Some(idle) => tokio::time::timeout(idle, tcp.has_begun()).await.ok()?,
        None => tcp.has_begun().await,
    };
    if !begun.ok()? {
        return None;
    }
    tokio::time::timeout(headers_timeout(hcm), tcp.starts_with(H2_PREFACE)).await.ok()?.ok()
}

async fn serve_http1(http: &HttpConnection, stream: Stream, hcm: &Hcm) {
    let model = &hcm.model;
    let config = http1::ServerConfig {
        limits: head_limits(hcm),
        accept_http10: model.accept_http_10,
        idle_timeout: idle_timeout(hcm),
        head_timeout: Some(headers_timeout(hcm)),
    };
    let mut server = http1::ServerConnection::new(stream, config);
    loop {
        if http.worker.shared.drain.is_draining() {
            server.drain();
        }
        match server.next_request().await {
            Ok(Some(exchange)) => {
                if !http.serve(exchange).await {
                    return;
                }
            }
            Ok(None) => break,
            Err(error) => {
                let telemetry = &http.worker.telemetry;
                let listener = http.in_force.borrow().listener.clone();
                telemetry.bad_request(&http.connection, &listener, &hcm.access_log, error, server.refused());
                let dress = |head: &mut Head| {
                    telemetry.put_date(head);
                    request::put_server(hcm, head);
                };
                Box::pin(server.reject(error, dress, LINGER)).await;
                return;
            }
        }
    }
    Box::pin(server.close(LINGER)).await;
}

async fn serve_http2(http: Rc<HttpConnection>, stream: Stream, hcm: &Hcm) {
    // A gateway's clients are strangers.
    let config = if hcm.model.use_remote_address { http2::ServerConfig::edge() } else { http2::ServerConfig::default() };
    let config = http2::ServerConfig { limits: head_limits(hcm), ..config };
    let handshake = tokio::time::timeout(HEADERS_TIMEOUT, http2::ServerConnection::handshake(stream, config));
    let Ok(Ok(mut server)) = handshake.await else { return };
    let mut requests: JoinSet<bool> = JoinSet::new();
    let mut draining = false;
    let idle = idle_timeout(hcm);
    loop {
        let quiet = requests.is_empty();
        tokio::select! {
            next = server.next_request() => match next {
                Ok(Some(exchange)) => {
                    let http = http.clone();
                    requests.spawn_local(async move { Box::pin(http.serve(exchange)).await });
                }
                // What was received completely is still answered.
                Ok(None) | Err(_) => break,
            },
            Some(served) = requests.join_next(), if !quiet => {
                if !served.unwrap_or(true) && !draining {
                    draining = true;
                    server.graceful_shutdown();
                }
            }
            () = tokio::time::sleep(idle.unwrap_or(IDLE_TIMEOUT)), if quiet && idle.is_some() => break,
            () = http.worker.shared.drain.started(), if !draining => {
                draining = true;
                server.graceful_shutdown();
            }
        }
    }
    while requests.join_next().await.is_some() {}
}

fn head_limits(hcm: &Hcm) -> http1::Limits {
    let bytes = usize::try_from(hcm.model.max_request_headers_kib).unwrap_or(60).saturating_mul(1024);
    http1::Limits { max_head_bytes: bytes, ..http1::Limits::default() }
}

fn headers_timeout(hcm: &Hcm) -> Duration {
    hcm.model.request_headers_timeout.unwrap_or(HEADERS_TIMEOUT)
}

/// Zero is never.
fn idle_timeout(hcm: &Hcm) -> Option<Duration> {
    let idle = hcm.model.idle_timeout.unwrap_or(IDLE_TIMEOUT);
    (!idle.is_zero()).then_some(idle)
}
