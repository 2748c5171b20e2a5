//! What the suite asks its agents in the pods, and what they answer: JSON, a line each.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Something to be done in a pod.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Op {
    /// HTTP requests.
    Http(Box<Http>),
    /// Bytes as they are, each on a connection of its own that only the other side ends, all at once.
    Bytes(Vec<Bytes>),
    /// The address of a name.
    Resolve(String),
    /// When the kernel next probes connections from the pod to this port, whoever has opened them.
    KeepAlive(u16),
}

/// HTTP requests, all the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Http {
    /// Where to connect, as HOST:PORT.
    pub(crate) address: String,
    /// Inside of TLS.
    pub(crate) tls: Option<Tls>,
    pub(crate) version: Version,
    pub(crate) method: String,
    /// Over HTTP/2, the protocol of an extended CONNECT (RFC 8441); a WebSocket message is then sent, and its answer the body.
    pub(crate) protocol: Option<String>,
    /// The request's target as sent.
    pub(crate) target: String,
    /// `Host`, or `:authority`.
    pub(crate) authority: Option<String>,
    /// In order, names as sent.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Body,
    /// Fields after the body, which is then sent in chunks.
    pub(crate) trailers: Vec<(String, String)>,
    /// How many.
    pub(crate) times: u32,
    /// How many at once, each with a connection of its own.
    pub(crate) parallel: u32,
    /// Milliseconds between the starts of parallel ones.
    pub(crate) stagger: u64,
    /// How many different requests they are: `%N%` in the target and in headers is the request's number modulo this.
    pub(crate) keys: u32,
    /// Whether cookies that answers set go along with the requests after them.
    pub(crate) cookies: bool,
    /// Whether a connection is used once.
    pub(crate) anew: bool,
    /// Whether to see if the connection is ended after the last answer.
    pub(crate) watch_end: bool,
    /// Milliseconds that one request may take.
    pub(crate) patience: u64,
}

/// A body to send.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Body {
    #[default]
    None,
    /// With its length.
    Text(String),
    /// In chunks of unannounced number.
    Chunked(Vec<String>),
    /// Sent when the server has said 100, or in answer to anything else not at all.
    Expect(String),
    /// One gRPC message.
    Grpc(Vec<u8>),
}

/// Which HTTP is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) enum Version {
    #[serde(rename = "1.0")]
    Http10,
    #[default]
    #[serde(rename = "1.1")]
    Http11,
    /// With prior knowledge.
    #[serde(rename = "2")]
    Http2,
}

/// What a client of TLS offers and shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tls {
    /// The name that is asked for.
    pub(crate) sni: Option<String>,
    /// Chain and key, PEM.
    pub(crate) certificate: Option<(String, String)>,
    /// Protocols, best first.
    pub(crate) alpn: Vec<String>,
    /// `1.2` or `1.3`.
    pub(crate) min: Option<String>,
    /// The same.
    pub(crate) max: Option<String>,
    /// Suites of TLS 1.2, in OpenSSL's names.
    pub(crate) suites: Vec<String>,
}

/// What came of a handshake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TlsSeen {
    pub(crate) version: String,
    pub(crate) suite: String,
    pub(crate) alpn: Option<String>,
    /// Those of the server's certificate.
    pub(crate) names: Vec<String>,
}

/// Bytes to send.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Bytes {
    pub(crate) address: String,
    /// Inside of TLS.
    pub(crate) tls: Option<Tls>,
    /// With `quiet` between them.
    pub(crate) parts: Vec<Vec<u8>>,
    /// Whether to end our direction after the last.
    pub(crate) finish: bool,
    /// Whether to reset the connection in the end.
    pub(crate) reset: bool,
    /// Milliseconds without a byte after which the next part goes out, and after the last it is over.
    pub(crate) quiet: u64,
}

/// What came of one request, or of some bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Exchange {
    /// Our side of the connection.
    pub(crate) local: String,
    /// What came of the handshake, where TLS is spoken.
    pub(crate) tls: Option<TlsSeen>,
    /// When it began, in milliseconds since 1970.
    pub(crate) began: u64,
    pub(crate) status: u16,
    /// `HTTP/1.1`, …
    pub(crate) version: String,
    /// As they came.
    pub(crate) headers: Vec<(String, String)>,
    /// 1xx before the answer.
    pub(crate) interim: Vec<u16>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    /// What became of the connection, if it was watched.
    pub(crate) end: Option<End>,
    /// Why there is no whole answer.
    pub(crate) error: Option<String>,
    /// Until the last byte.
    pub(crate) millis: u64,
}

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum End {
    Open,
    Closed,
    Reset,
}

/// An agent's answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Exchanges(Vec<Exchange>),
    Resolved(String),
    /// What was asked makes no sense.
    Failed(String),
}

/// Header names, in lower case, to values in order.
pub(crate) fn by_name(headers: &[(String, String)]) -> BTreeMap<String, Vec<String>> {
    let mut map: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        map.entry(name.to_ascii_lowercase()).or_default().push(value.clone());
    }
    map
}
