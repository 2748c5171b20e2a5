//! Pages for people, probes and Prometheus, and the platform's own calls on the Unix socket.

use super::auth::Authenticator;
use super::debug;
use crate::analysis::Findings;
use crate::core::Refusals;
use crate::metrics::Metrics;
use crate::push::Hub;
use crate::resources::Query;
use crate::source::Input;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use lateen_model::identity::SpiffeId;
use lateen_model::resource::{ClusterChange, ClusterState};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// The largest state of the platform that is read, in bytes.
const MAX_STATE: usize = 64 << 20;
/// How long the head of a request may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a caller waits for proxies if it does not say.
const DEFAULT_PATIENCE: Duration = Duration::from_secs(5);
/// The longest that a caller may wait.
const MAX_PATIENCE: Duration = Duration::from_secs(300);
/// Connections at once.
const CONNECTIONS: usize = 512;

/// All pages.
pub(super) struct Pages {
    /// What proxies get.
    pub(super) hub: Arc<Hub>,
    /// Counters.
    pub(super) metrics: Arc<Metrics>,
    /// Documents that are refused.
    pub(super) refusals: Refusals,
    /// What is strange between resources.
    pub(super) findings: Findings,
    /// Whether all files were read.
    pub(super) files_read: Arc<AtomicBool>,
    /// For callers from elsewhere.
    pub(super) authenticator: Arc<Authenticator>,
    /// To the core.
    pub(super) inputs: mpsc::Sender<Input>,
}

/// Where a caller comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    /// The Unix socket, which only the mesh's owner can open.
    Owner,
    /// This machine.
    Loopback,
    /// Anywhere.
    Remote,
}

/// What a caller may see of the debug pages.
enum Sight {
    All,
    /// Only proxies of this namespace, and only what they get.
    Namespace(String),
}

type Answer = Response<Full<Bytes>>;

/// Serves the pages on a TCP address for as long as the process lives.
pub(super) async fn serve_tcp(listener: TcpListener, pages: Arc<Pages>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((socket, address)) => {
                let caller = if address.ip().to_canonical().is_loopback() { Caller::Loopback } else { Caller::Remote };
                spawn(socket, caller, &pages, slot);
            }
            Err(error) => pause(&error).await,
        }
    }
}

/// Serves the pages and the platform's calls on a Unix socket.
pub(super) async fn serve_unix(listener: UnixListener, pages: Arc<Pages>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((socket, _)) => spawn(socket, Caller::Owner, &pages, slot),
            Err(error) => pause(&error).await,
        }
    }
}

async fn pause(error: &std::io::Error) {
    tracing::warn!("accepting a connection failed: {error}");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

fn spawn<S>(socket: S, caller: Caller, pages: &Arc<Pages>, slot: tokio::sync::OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let pages = Arc::clone(pages);
    tokio::spawn(async move {
        let service = service_fn(|request| {
            let pages = Arc::clone(&pages);
            async move { Ok::<_, Infallible>(pages.answer(request, caller).await) }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
        if let Err(error) = builder.serve_connection(TokioIo::new(socket), service).await {
            tracing::debug!("a page's connection ended: {error}");
        }
        drop(slot);
    });
}

impl Pages {
    async fn answer(&self, request: Request<Incoming>, caller: Caller) -> Answer {
        let path = request.uri().path().to_owned();
        let get = request.method() == Method::GET || request.method() == Method::HEAD;
        match (path.as_str(), get) {
            ("/ready", true) => self.ready(caller),
            ("/version", true) => page(&json!({"name": "lateen", "version": env!("CARGO_PKG_VERSION")})),
            ("/metrics", true) => text(StatusCode::OK, "text/plain; version=0.0.4", self.metrics.render(self.hub.connections())),
            ("/v1/cluster", _) if caller == Caller::Owner => self.cluster(request).await,
            ("/v1/resources", true) if caller == Caller::Owner => self.resources(&request).await,
            ("/v1/propagated", true) if caller == Caller::Owner => self.propagated(&request).await,
            ("/debug" | "/debug/", true) => self.debug(&request, caller, ""),
            (path, true) if path.starts_with("/debug/") => self.debug(&request, caller, &path["/debug/".len()..]),
            (_, true) => error(StatusCode::NOT_FOUND, "there is no such page; /debug lists those that there are"),
            _ => error(StatusCode::METHOD_NOT_ALLOWED, "only GET"),
        }
    }

    /// Ready is who serves proxies. To the platform, which has to tell of its pods before that, it is enough that it may.
    fn ready(&self, caller: Caller) -> Answer {
        if self.hub.is_ready() {
            text(StatusCode::OK, "text/plain", "ready\n".to_owned())
        } else if caller == Caller::Owner && self.files_read.load(Ordering::Acquire) {
            text(StatusCode::OK, "text/plain", "ready to be told of pods\n".to_owned())
        } else {
            error(StatusCode::SERVICE_UNAVAILABLE, "not all sources were read yet")
        }
    }

    /// `PUT /v1/cluster`: all pods and cluster IPs; `PATCH`: what is different in them, or 409 if that is told of another state
    /// than the one that is known. Answers when proxies have been notified.
    async fn cluster(&self, request: Request<Incoming>) -> Answer {
        let patches = request.method() == Method::PATCH;
        if !patches && request.method() != Method::PUT {
            return error(StatusCode::METHOD_NOT_ALLOWED, "only PUT and PATCH");
        }
        let body = match Limited::new(request.into_body(), MAX_STATE).collect().await {
            Ok(body) => body.to_bytes(),
            Err(e) => return error(StatusCode::PAYLOAD_TOO_LARGE, &format!("cannot read the state: {e}")),
        };
        if patches {
            return self.cluster_change(&body).await;
        }
        let state: ClusterState = match serde_json::from_slice(&body) {
            Ok(state) => state,
            Err(e) => return error(StatusCode::BAD_REQUEST, &format!("the state is not a ClusterState: {e}")),
        };
        let (done, applied) = oneshot::channel();
        let input = Input::Cluster { state: Arc::new(state), done };
        if self.inputs.send(input).await.is_err() {
            return error(StatusCode::SERVICE_UNAVAILABLE, "the control plane is ending");
        }
        match applied.await {
            Ok(generation) => page(&json!({"applied": generation})),
            Err(_) => error(StatusCode::SERVICE_UNAVAILABLE, "the control plane is ending"),
        }
    }

    async fn cluster_change(&self, body: &[u8]) -> Answer {
        let change: ClusterChange = match serde_json::from_slice(body) {
            Ok(change) => change,
            Err(e) => return error(StatusCode::BAD_REQUEST, &format!("the change is not a ClusterChange: {e}")),
        };
        let (done, applied) = oneshot::channel();
        if self.inputs.send(Input::ClusterChange { change, done }).await.is_err() {
            return error(StatusCode::SERVICE_UNAVAILABLE, "the control plane is ending");
        }
        match applied.await {
            Ok(Ok(generation)) => page(&json!({"applied": generation})),
            Ok(Err(known)) => {
                let known = known.map_or("none".to_owned(), |generation| generation.to_string());
                error(StatusCode::CONFLICT, &format!("the state that is known is {known}: PUT the whole state"))
            }
            Err(_) => error(StatusCode::SERVICE_UNAVAILABLE, "the control plane is ending"),
        }
    }

    /// `GET /v1/resources?kind=KIND[&namespace=NS][&name=NAME]`: objects in force, with their `status`.
    async fn resources(&self, request: &Request<Incoming>) -> Answer {
        let word = query(request, "kind").unwrap_or_default();
        let query = match Query::new(&word, query(request, "namespace"), query(request, "name")) {
            Ok(query) => query,
            Err(reason) => return error(StatusCode::BAD_REQUEST, &reason),
        };
        let (done, found) = oneshot::channel();
        if self.inputs.send(Input::Show { query, done }).await.is_err() {
            return error(StatusCode::SERVICE_UNAVAILABLE, "the control plane is ending");
        }
        match found.await {
            Ok(objects) => page(&Value::Array(objects)),
            Err(_) => error(StatusCode::SERVICE_UNAVAILABLE, "the control plane is ending"),
        }
    }

    /// `GET /v1/propagated?generation=G[&timeout=2s]`: answers when every connected proxy has confirmed all that followed from
    /// that state of the platform, or 504 after the timeout.
    async fn propagated(&self, request: &Request<Incoming>) -> Answer {
        let Some(cluster) = query(request, "generation").and_then(|g| g.parse::<u64>().ok()) else {
            return error(StatusCode::BAD_REQUEST, "generation must be the number of a state");
        };
        let patience = match query(request, "timeout").map(|t| lateen_model::resource::ProtoDuration::parse(&t)) {
            None => DEFAULT_PATIENCE,
            Some(Ok(t)) => t.get().min(MAX_PATIENCE),
            Some(Err(e)) => return error(StatusCode::BAD_REQUEST, &format!("timeout: {e}")),
        };
        let started = tokio::time::Instant::now();
        let told = async {
            loop {
                if let Some(generation) = self.hub.generation_with_cluster(cluster) {
                    return generation;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let Ok(generation) = tokio::time::timeout(patience, told).await else {
            return error(StatusCode::GATEWAY_TIMEOUT, "that state has not come in yet");
        };
        let rest = patience.saturating_sub(started.elapsed());
        if self.hub.convergence().reached(generation, rest).await {
            page(&json!({"propagated": cluster, "proxies": self.hub.connections().list().len()}))
        } else {
            error(StatusCode::GATEWAY_TIMEOUT, "not every connected proxy has confirmed it; /debug/syncz says which")
        }
    }

    fn debug(&self, request: &Request<Incoming>, caller: Caller, name: &str) -> Answer {
        let sight = match self.sight(request, caller) {
            Ok(sight) => sight,
            Err(reason) => return error(StatusCode::UNAUTHORIZED, &reason),
        };
        let (world, _) = self.hub.world();
        match (name, &sight) {
            ("config_dump", _) => self.config_dump(request, &sight),
            (_, Sight::Namespace(_)) => error(StatusCode::FORBIDDEN, "only the mesh's own namespace may see this page"),
            ("", _) => page(&index()),
            ("syncz", _) => page(&debug::syncz(&self.hub)),
            ("registryz", _) => page(&debug::registryz(&world)),
            ("endpointz", _) => page(&debug::endpointz(&world)),
            ("rejections", _) => page(&debug::rejections(&self.refusals)),
            ("analysis", _) => page(&debug::analysis(&self.findings.load())),
            ("mesh", _) => page(&debug::mesh(&world)),
            _ => error(StatusCode::NOT_FOUND, "there is no such page; /debug lists those that there are"),
        }
    }

    fn config_dump(&self, request: &Request<Incoming>, sight: &Sight) -> Answer {
        let Some(proxy) = query(request, "proxyID") else {
            return error(StatusCode::BAD_REQUEST, "proxyID=POD.NAMESPACE is missing");
        };
        let connection = debug::find(&self.hub, &proxy);
        if let (Sight::Namespace(own), Some(connection)) = (sight, &connection)
            && connection.client().node.namespace != *own
        {
            return error(StatusCode::FORBIDDEN, "the proxy is in another namespace");
        }
        match connection.and_then(|c| self.hub.view(c.client().connection)) {
            Some(view) => page(&debug::config_dump(&view)),
            None => error(StatusCode::NOT_FOUND, "no such proxy is connected; /debug/syncz lists those that are"),
        }
    }

    /// Callers of this machine see everything; others what their token entitles them to.
    fn sight(&self, request: &Request<Incoming>, caller: Caller) -> Result<Sight, String> {
        if caller != Caller::Remote {
            return Ok(Sight::All);
        }
        let header = request.headers().get(http::header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        let identity: SpiffeId = self.authenticator.token(header.ok_or("a token is needed from outside of this machine")?)?;
        let (world, _) = self.hub.world();
        if identity.namespace() == world.root_namespace() {
            Ok(Sight::All)
        } else {
            Ok(Sight::Namespace(identity.namespace().to_owned()))
        }
    }
}

fn index() -> Value {
    json!({
        "/debug/syncz": "each proxy and how far it is with each type of resource",
        "/debug/config_dump?proxyID=POD.NAMESPACE": "everything that a proxy gets",
        "/debug/registryz": "all services",
        "/debug/endpointz": "the pods behind each service",
        "/debug/rejections": "documents that are refused, where and why",
        "/debug/analysis": "what is strange between resources that are each in order, and where",
        "/debug/mesh": "the mesh's configuration",
    })
}

/// A parameter of the query, with `%XX` decoded.
fn query(request: &Request<Incoming>, key: &str) -> Option<String> {
    let pairs = request.uri().query()?.split('&').filter_map(|pair| pair.split_once('='));
    let value = pairs.into_iter().find(|(k, _)| *k == key)?.1;
    let mut out = Vec::with_capacity(value.len());
    let mut bytes = value.bytes();
    while let Some(b) = bytes.next() {
        let decoded = match b {
            b'%' => {
                let hex = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?
            }
            b'+' => b' ',
            other => other,
        };
        out.push(decoded);
    }
    String::from_utf8(out).ok()
}

fn page(value: &Value) -> Answer {
    let body = serde_json::to_string_pretty(value).unwrap_or_else(|e| format!("{{\"error\": {:?}}}", e.to_string()));
    text(StatusCode::OK, "application/json", body + "\n")
}

fn error(status: StatusCode, reason: &str) -> Answer {
    text(status, "application/json", json!({"error": reason}).to_string() + "\n")
}

fn text(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    answer
}
