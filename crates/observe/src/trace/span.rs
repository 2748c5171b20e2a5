//! Spans and the attributes that Envoy and Istio give them.

use super::context::{SpanId, TraceContext, TraceId};
use crate::ResponseFlags;
use crate::istio::GrpcStatus;
use crate::otlp::{self, AnyValue, KeyValue, any_value};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Envoy's `max_path_tag_length`: the URL in a span is cut to so many bytes.
pub const MAX_PATH_TAG: usize = 256;

/// The side of the exchange that a span describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// Of an inbound listener.
    Server,
    /// Of an outbound listener.
    Client,
}

/// A finished span.
#[derive(Clone, Debug)]
pub struct Span {
    /// Its trace.
    pub trace_id: TraceId,
    /// Its id.
    pub span_id: SpanId,
    /// The span that caused it.
    pub parent: Option<SpanId>,
    /// W3C's `tracestate`.
    pub state: Option<Box<str>>,
    /// The operation: the route's decorator, e.g. `order-service.production.svc.cluster.local:80/*`.
    pub name: Arc<str>,
    /// Which side.
    pub kind: SpanKind,
    /// First byte of the request.
    pub start: SystemTime,
    /// Last byte of the response.
    pub end: SystemTime,
    /// Whether it failed.
    pub error: bool,
    /// See [`HttpSpanTags::attributes`].
    pub attributes: Vec<KeyValue>,
}

impl Span {
    /// A span of this context, child of what came with the request.
    pub fn new(context: &TraceContext, parent: Option<&TraceContext>, kind: SpanKind, name: Arc<str>, start: SystemTime) -> Self {
        Self {
            trace_id: context.trace_id,
            span_id: context.span_id,
            parent: parent.map(|parent| parent.span_id),
            state: context.state.clone(),
            name,
            kind,
            start,
            end: start,
            error: false,
            attributes: Vec::new(),
        }
    }

    pub(super) fn into_otlp(self) -> otlp::Span {
        otlp::Span {
            trace_id: self.trace_id.as_bytes().to_vec(),
            span_id: self.span_id.as_bytes().to_vec(),
            trace_state: self.state.map(String::from).unwrap_or_default(),
            parent_span_id: self.parent.map(|parent| parent.as_bytes().to_vec()).unwrap_or_default(),
            name: (*self.name).to_owned(),
            kind: match self.kind {
                SpanKind::Server => 2,
                SpanKind::Client => 3,
            },
            start_time_unix_nano: unix_nanos(self.start),
            end_time_unix_nano: unix_nanos(self.end),
            attributes: self.attributes,
            dropped_attributes_count: 0,
            status: self.error.then(|| otlp::Status { message: String::new(), code: 2 }),
            flags: 1,
        }
    }
}

fn unix_nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The tags that Istio adds (`enableIstioTags`).
#[derive(Clone, Debug, Default)]
pub struct IstioTags {
    /// `istio.canonical_revision`.
    pub canonical_revision: String,
    /// `istio.canonical_service`.
    pub canonical_service: String,
    /// `istio.mesh_id`.
    pub mesh_id: String,
    /// `istio.namespace`.
    pub namespace: String,
    /// `istio.cluster_id`.
    pub cluster_id: String,
}

impl IstioTags {
    fn pairs(&self) -> [(&'static str, &str); 5] {
        [
            ("istio.canonical_revision", &self.canonical_revision),
            ("istio.canonical_service", &self.canonical_service),
            ("istio.mesh_id", &self.mesh_id),
            ("istio.namespace", &self.namespace),
            ("istio.cluster_id", &self.cluster_id),
        ]
    }
}

/// What is known of an HTTP request when its span ends; absent values make no attribute.
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpSpanTags<'a> {
    /// Method.
    pub method: &'a str,
    /// `http://AUTHORITY/PATH`, cut to [`MAX_PATH_TAG`] bytes of path.
    pub scheme: &'a str,
    /// The `Host` header or `:authority`.
    pub authority: &'a str,
    /// Path with query.
    pub path: &'a str,
    /// E.g. `HTTP/1.1`.
    pub protocol: &'a str,
    /// Status, 0 if there was none.
    pub status: u16,
    /// The client's `user-agent`.
    pub user_agent: Option<&'a str>,
    /// `x-request-id`.
    pub request_id: Option<&'a str>,
    /// This proxy's node id.
    pub node_id: &'a str,
    /// The cluster that was called.
    pub upstream_cluster: Option<&'a str>,
    /// The caller's `x-envoy-downstream-service-cluster`.
    pub downstream_cluster: Option<&'a str>,
    /// Who called.
    pub peer_address: Option<&'a str>,
    /// Body bytes in.
    pub request_size: u64,
    /// Body bytes out.
    pub response_size: u64,
    /// Why the proxy answered itself.
    pub flags: ResponseFlags,
    /// Of gRPC.
    pub grpc_status: Option<GrpcStatus>,
    /// The `grpc-message` that came with it.
    pub grpc_message: Option<&'a str>,
    /// Istio's own tags, where they are enabled.
    pub istio: Option<&'a IstioTags>,
}

impl HttpSpanTags<'_> {
    /// The attributes in Envoy's names, then Istio's.
    pub fn attributes(&self) -> Vec<KeyValue> {
        let path = &self.path[..floor_char_boundary(self.path, MAX_PATH_TAG)];
        let mut attributes = vec![
            KeyValue::text("component", "proxy"),
            KeyValue::text("node_id", self.node_id),
            KeyValue::text("http.method", self.method),
            KeyValue::text("http.url", format!("{}://{}{path}", self.scheme, self.authority)),
            KeyValue::text("http.protocol", self.protocol),
            integer("http.status_code", self.status.into()),
            integer("request_size", self.request_size),
            integer("response_size", self.response_size),
            KeyValue::text("response_flags", self.flags.to_string()),
            KeyValue::text("user_agent", self.user_agent.unwrap_or("-")),
            KeyValue::text("downstream_cluster", self.downstream_cluster.unwrap_or("-")),
        ];
        let optional = [
            ("guid:x-request-id", self.request_id),
            ("upstream_cluster", self.upstream_cluster),
            ("upstream_cluster.name", self.upstream_cluster),
            ("peer.address", self.peer_address),
            ("grpc.message", self.grpc_message),
        ];
        attributes.extend(optional.into_iter().filter_map(|(key, value)| Some(KeyValue::text(key, value?))));
        if let Some(status) = self.grpc_status {
            attributes.push(integer("grpc.status_code", status.code().into()));
        }
        if self.is_error() {
            attributes.push(KeyValue::text("error", "true"));
        }
        let istio = self.istio.map(IstioTags::pairs).into_iter().flatten();
        attributes.extend(istio.filter(|(_, value)| !value.is_empty()).map(|(key, value)| KeyValue::text(key, value)));
        attributes
    }

    /// Whether Envoy would mark the span as failed: a server error, no answer, or a gRPC status that is the server's fault.
    pub fn is_error(&self) -> bool {
        let grpc = self.grpc_status.is_some_and(|status| matches!(status.code(), 2 | 4 | 12..=15));
        self.status == 0 || self.status >= 500 || grpc
    }
}

fn integer(key: &str, value: u64) -> KeyValue {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(any_value::Value::Int(value)) }) }
}

/// The largest character boundary that is not past `limit`.
pub(crate) fn floor_char_boundary(text: &str, limit: usize) -> usize {
    (0..=limit.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{HttpSpanTags, IstioTags};
    use crate::otlp::any_value::Value;
    use crate::{ResponseFlag, ResponseFlags};

    #[test]
    fn attributes_are_envoys_and_istios() {
        let path = format!("/{}", "\u{e9}".repeat(200));
        let istio = IstioTags { namespace: "shop".into(), ..IstioTags::default() };
        let tags = HttpSpanTags {
            method: "GET",
            scheme: "http",
            authority: "web",
            path: &path,
            protocol: "HTTP/1.1",
            status: 503,
            flags: ResponseFlags::from(ResponseFlag::UpstreamOverflow),
            upstream_cluster: Some("outbound|80||web"),
            istio: Some(&istio),
            ..HttpSpanTags::default()
        };
        let attributes = tags.attributes();
        let text = |key: &str| {
            let found = attributes.iter().find(|attribute| attribute.key == key)?;
            match found.value.as_ref()?.value.as_ref()? {
                Value::String(text) => Some(text.clone()),
                Value::Int(number) => Some(number.to_string()),
                _ => None,
            }
        };
        assert_eq!(text("http.url").map(|url| url.len()), Some("http://web".len() + 255));
        for (key, value) in [
            ("component", "proxy"),
            ("http.status_code", "503"),
            ("response_flags", "UO"),
            ("error", "true"),
            ("upstream_cluster.name", "outbound|80||web"),
            ("istio.namespace", "shop"),
        ] {
            assert_eq!(text(key).as_deref(), Some(value), "{key}");
        }
        assert_eq!(text("istio.mesh_id"), None);
    }
}
