//! An ordinary HTTP client (hyper) for the requests of tests.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;

/// Which HTTP version is spoken, from the first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.1, with keep-alive.
    Http1,
    /// HTTP/2 without TLS and without an upgrade ("prior knowledge").
    Http2,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpClientError {
    /// The request itself is wrong.
    #[error("request: {0}")]
    Request(#[from] http::Error),
    /// The connection or the exchange failed.
    #[error("{0}")]
    Exchange(String),
    /// Nothing in time.
    #[error("no answer in {0:?}")]
    Timeout(Duration),
}

/// An answer with its whole body.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// Lower-case names.
    pub headers: HeaderMap,
    /// Of gRPC, for example.
    pub trailers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// If it is not.
    pub fn json(&self) -> serde_json::Result<serde_json::Value> {
        serde_json::from_slice(&self.body)
    }

    /// The first value of a header that is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }
}

/// A client with a connection pool. Cheap to clone; clones share the pool.
#[derive(Clone, Debug)]
pub struct HttpClient {
    client: Client<HttpConnector, Full<Bytes>>,
    patience: Duration,
}

impl HttpClient {
    /// A client that waits 10 s for an answer.
    pub fn new(version: HttpVersion) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).http2_only(version == HttpVersion::Http2).build(connector);
        Self { client, patience: Duration::from_secs(10) }
    }

    /// Waits that long.
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// GET.
    ///
    /// # Errors
    /// [`HttpClientError`].
    pub async fn get(&self, uri: &str) -> Result<Answer, HttpClientError> {
        self.send(Request::get(uri).body(Full::default())?).await
    }

    /// GET at one address, for another host (`Host` and `:authority`).
    ///
    /// # Errors
    /// [`HttpClientError`].
    pub async fn get_as(&self, uri: &str, host: &str) -> Result<Answer, HttpClientError> {
        self.send(Request::get(uri).header(http::header::HOST, host).body(Full::default())?).await
    }

    /// POST.
    ///
    /// # Errors
    /// [`HttpClientError`].
    pub async fn post(&self, uri: &str, body: impl Into<Bytes>) -> Result<Answer, HttpClientError> {
        let uri: Uri = uri.parse().map_err(http::Error::from)?;
        self.send(Request::post(uri).body(Full::new(body.into()))?).await
    }

    /// Any request.
    ///
    /// # Errors
    /// [`HttpClientError`].
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, HttpClientError> {
        let exchange = async {
            let response = self.client.request(request).await.map_err(|e| HttpClientError::Exchange(describe(&e)))?;
            let (parts, body) = response.into_parts();
            let collected = body.collect().await.map_err(|e| HttpClientError::Exchange(describe(&e)))?;
            let trailers = collected.trailers().cloned().unwrap_or_default();
            Ok(Answer { status: parts.status, headers: parts.headers, trailers, body: collected.to_bytes() })
        };
        timeout(self.patience, exchange).await.map_err(|_| HttpClientError::Timeout(self.patience))?
    }
}

/// hyper keeps the cause out of its message.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
