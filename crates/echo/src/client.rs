//! The HTTP and gRPC client behind `/call` and `lateen echo get`.

use crate::error::chain;
use crate::grpc::{self, EchoReply};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::time::{Duration, Instant};

/// The largest body of an answer that is taken.
const MAX_BODY: usize = 32 << 20;

/// A request to send. `grpc://HOST:PORT` calls `lateen.echo.v1.Echo/Unary` with the body as its message.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) method: Method,
    pub(crate) url: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) timeout: Duration,
    /// HTTP/2 with prior knowledge.
    pub(crate) http2: bool,
}

impl Outgoing {
    pub(crate) fn get(url: Uri) -> Self {
        let timeout = Duration::from_secs(30);
        Self { method: Method::GET, url, headers: HeaderMap::new(), body: Bytes::new(), timeout, http2: false }
    }

    /// Refuses URLs that this client cannot call.
    pub(crate) fn check(&self) -> Result<(), String> {
        match (self.url.scheme_str(), self.url.authority()) {
            (Some("http" | "grpc"), Some(_)) => Ok(()),
            (Some(scheme), Some(_)) => Err(format!("url: {scheme}:// is not one of http://, grpc://")),
            _ => Err(format!("url: {} is not of the form http://HOST[:PORT]/PATH or grpc://HOST:PORT", self.url)),
        }
    }
}

/// How a request went.
pub(crate) struct Exchange {
    pub(crate) result: Result<Got, String>,
    /// From the start to the last byte, connecting included.
    pub(crate) elapsed: Duration,
}

/// An answer.
pub(crate) struct Got {
    pub(crate) status: StatusCode,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) trailers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Got {
    /// The body as the JSON that it is (a gRPC reply too), else as text.
    pub(crate) fn body_as_json(&self) -> serde_json::Value {
        if self.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
            return grpc::unframe::<EchoReply>(&self.body).map_or(serde_json::Value::Null, |reply| reply.to_json());
        }
        serde_json::from_slice(&self.body).unwrap_or_else(|_| String::from_utf8_lossy(&self.body).into_owned().into())
    }

    /// The gRPC status, from the trailers or, in an answer of trailers only, the headers.
    pub(crate) fn grpc_status(&self) -> Option<&str> {
        let value = self.trailers.get("grpc-status").or_else(|| self.headers.get("grpc-status"))?;
        value.to_str().ok()
    }
}

type Pool = legacy::Client<HttpConnector, Full<Bytes>>;

/// Keeps connections open between requests, as applications do.
pub(crate) struct Client {
    http1: Pool,
    http2: Pool,
}

impl Client {
    pub(crate) fn new() -> Self {
        Self::with_idle_connections(usize::MAX)
    }

    /// A client that keeps at most so many idle connections a host; with 0 each HTTP/1.1 request connects anew.
    pub(crate) fn with_idle_connections(count: usize) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let build = |http2_only| {
            legacy::Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .timer(TokioTimer::new())
                .pool_max_idle_per_host(count)
                .http2_only(http2_only)
                // A stale connection is an error that the caller has to see, not one to hide by sending again.
                .retry_canceled_requests(false)
                .build(connector.clone())
        };
        Self { http1: build(false), http2: build(true) }
    }

    /// Sends a request and takes the whole answer.
    pub(crate) async fn send(&self, outgoing: &Outgoing) -> Exchange {
        let start = Instant::now();
        let result = match tokio::time::timeout(outgoing.timeout, self.exchange(outgoing)).await {
            Ok(result) => result,
            Err(_) => Err(format!("no whole answer within {:?}", outgoing.timeout)),
        };
        Exchange { result, elapsed: start.elapsed() }
    }

    async fn exchange(&self, outgoing: &Outgoing) -> Result<Got, String> {
        let is_grpc = outgoing.url.scheme_str() == Some("grpc");
        let request = if is_grpc { grpc_request(outgoing)? } else { http_request(outgoing) };
        let pool = if is_grpc || outgoing.http2 { &self.http2 } else { &self.http1 };
        let response = pool.request(request).await.map_err(|error| chain(&error))?;
        let (parts, body) = response.into_parts();
        let collected = Limited::new(body, MAX_BODY).collect().await.map_err(|error| {
            let too_large = error.is::<LengthLimitError>();
            if too_large { format!("the body is larger than {MAX_BODY} bytes") } else { format!("body: {}", chain(&*error)) }
        })?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        Ok(Got { status: parts.status, version: parts.version, headers: parts.headers, trailers, body: collected.to_bytes() })
    }
}

fn http_request(outgoing: &Outgoing) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(outgoing.body.clone()));
    *request.method_mut() = outgoing.method.clone();
    *request.uri_mut() = outgoing.url.clone();
    *request.headers_mut() = outgoing.headers.clone();
    request
}

fn grpc_request(outgoing: &Outgoing) -> Result<Request<Full<Bytes>>, String> {
    let message = String::from_utf8(outgoing.body.to_vec()).map_err(|_| "a gRPC message has to be UTF-8 text")?;
    let framed = grpc::frame(&grpc::EchoRequest { message, ..Default::default() });
    let mut request = Request::new(Full::new(framed));
    *request.method_mut() = Method::POST;
    let authority = outgoing.url.authority().map_or("", http::uri::Authority::as_str);
    let target = Uri::builder().scheme("http").authority(authority).path_and_query(grpc::UNARY).build();
    *request.uri_mut() = target.map_err(|error| error.to_string())?;
    *request.headers_mut() = outgoing.headers.clone();
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
    Ok(request)
}
