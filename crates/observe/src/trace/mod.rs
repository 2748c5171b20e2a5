//! Distributed tracing: the context that goes along with a request, and the spans of it that this proxy adds.

mod context;
mod export;
mod grpc;
mod span;

pub use context::{Carrier, Sampler, SpanId, TraceContext, TraceId, TraceIds};
pub use export::{ExportConfig, ExportError, SpanExporter, SpanSender, SpanStats, span_channel};
pub use grpc::grpc_transport;
pub(crate) use span::floor_char_boundary;
pub use span::{HttpSpanTags, IstioTags, MAX_PATH_TAG, Span, SpanKind};
