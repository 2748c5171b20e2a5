//! Traces: the context that goes along with each request, and the spans that are reported through the mesh itself.

use super::WorkerTelemetry;
use crate::bootstrap::Settings;
use crate::http::{Frame, Head, KnownHeader, Name, Value};
use crate::request::RequestContext;
use crate::request::info::RequestInfo;
use crate::upstream::Purpose;
use crate::worker::Worker;
use bytes::Bytes;
use lateen_model::dataplane::{Direction, Tracing, TracingProvider};
use lateen_observe::otlp::{KeyValue, TRACE_EXPORT_PATH};
use lateen_observe::trace::{
    ExportConfig, ExportError, HttpSpanTags, IstioTags, Sampler, Span, SpanExporter, SpanKind, SpanSender, TraceContext,
    span_channel,
};
use lateen_policy::balance::Avoid;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// How long a collector may take for a batch.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Tracing of a connection manager, compiled.
pub(crate) struct CompiledTracing {
    model: Tracing,
    sampler: Sampler,
    sender: Option<SpanSender>,
}

/// A request's place in its trace.
pub(crate) struct RequestTrace {
    context: TraceContext,
    parent: Option<TraceContext>,
}

impl RequestTrace {
    /// The trace's id, in hexadecimal digits.
    pub(super) fn id_hex(&self) -> [u8; 32] {
        self.context.trace_id.to_hex()
    }
}

/// What all spans of this workload say.
#[derive(Clone)]
pub(crate) struct TraceTags {
    node_id: Arc<str>,
    istio: Arc<IstioTags>,
}

impl TraceTags {
    /// From the node's description.
    pub(crate) fn new(settings: &Settings) -> Self {
        let label = |names: [&str; 3]| names.iter().find_map(|n| settings.labels.get(*n)).cloned();
        let canonical = label(["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
        let revision = label(["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
        let mesh = settings.metadata.get("MESH_ID").and_then(|v| v.as_str()).unwrap_or(settings.identity.trust_domain());
        let istio = IstioTags {
            canonical_service: canonical.unwrap_or_else(|| settings.workload.clone()),
            canonical_revision: revision.unwrap_or_else(|| "latest".to_owned()),
            mesh_id: mesh.to_owned(),
            namespace: settings.namespace.clone(),
            cluster_id: settings.cluster_id.clone(),
        };
        Self { node_id: settings.node_id.as_str().into(), istio: Arc::new(istio) }
    }
}

/// The exporters of the process, one for each receiver.
#[derive(Default)]
pub(crate) struct Exporters(Mutex<ExporterList>);

#[derive(Default)]
struct ExporterList {
    senders: Vec<(TracingProvider, SpanSender)>,
    /// Made, but not run yet.
    new: Vec<(TracingProvider, SpanExporter)>,
}

impl Exporters {
    /// Compiles tracing; a receiver that is named for the first time gets an exporter.
    pub(crate) fn compile(&self, model: &Tracing) -> Result<CompiledTracing, String> {
        let percent = f64::from(model.random_sampling_hundredths) / 100.0;
        let sampler = Sampler::try_new(percent).ok_or_else(|| format!("random_sampling: {percent} is not a percentage"))?;
        let sender = model.provider.as_ref().map(|p| self.sender(p));
        Ok(CompiledTracing { model: model.clone(), sampler, sender })
    }

    fn sender(&self, provider: &TracingProvider) -> SpanSender {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, sender)) = list.senders.iter().find(|(p, _)| p == provider) {
            return sender.clone();
        }
        let resource = vec![KeyValue::text("service.name", provider.service_name.as_str())];
        let (sender, exporter) = span_channel(ExportConfig::default(), resource, env!("CARGO_PKG_VERSION"));
        list.senders.push((provider.clone(), sender.clone()));
        list.new.push((provider.clone(), exporter));
        sender
    }

    /// Exporters that are to be run now.
    pub(crate) fn take_new(&self) -> Vec<(TracingProvider, SpanExporter)> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).new)
    }
}

/// Sends spans through the mesh, for as long as the worker runs.
pub(crate) async fn run_exporter(worker: Rc<Worker>, provider: TracingProvider, exporter: SpanExporter) {
    let provider = Rc::new(provider);
    exporter
        .run(move |body| {
            let (worker, provider) = (worker.clone(), provider.clone());
            async move {
                match tokio::time::timeout(EXPORT_TIMEOUT, export(&worker, &provider, body)).await {
                    Ok(result) => result,
                    Err(_) => Err(ExportError::Unavailable("no answer in 10 s".to_owned())),
                }
            }
        })
        .await;
}

async fn export(worker: &Rc<Worker>, provider: &TracingProvider, body: Bytes) -> Result<(), ExportError> {
    let unavailable = |reason: String| ExportError::Unavailable(format!("{}: {reason}", provider.cluster));
    let snapshot = worker.shared.snapshot.load_full();
    let cluster = snapshot.cluster(&provider.cluster).ok_or_else(|| unavailable("no such cluster".to_owned()))?;
    let host =
        worker.pools.pick(worker, cluster, Avoid::NOTHING, |_| false).ok_or_else(|| unavailable("no endpoint".to_owned()))?;
    let lease = worker.pools.lease(worker, cluster, host, Purpose::Http2 { istio_alpn: true }).await;
    let mut lease = lease.map_err(|e| unavailable(format!("{e:?}")))?;
    let mut head =
        Head::request("POST", &provider.authority, TRACE_EXPORT_PATH).map_err(|e| ExportError::Refused(e.to_string()))?;
    head.set(KnownHeader::ContentType, Value::from_static("application/grpc"));
    head.set(KnownHeader::Te, Value::from_static("trailers"));
    let mut exchange = lease.send(&head, false).await.map_err(|e| unavailable(e.to_string()))?;
    exchange.writer.write(Frame::Data(body)).await.map_err(|e| unavailable(e.to_string()))?;
    exchange.writer.finish().await.map_err(|e| unavailable(e.to_string()))?;
    let answer = exchange.response.head().await.map_err(|e| unavailable(e.to_string()))?;
    let mut status = answer.get_str(KnownHeader::GrpcStatus).map(str::to_owned);
    let mut reader = exchange.response.into_body().map_err(|e| unavailable(e.to_string()))?;
    while let Some(frame) = reader.next().await.map_err(|e| unavailable(e.to_string()))? {
        if let Frame::Trailers(trailers) = frame {
            status = trailers.get_str(KnownHeader::GrpcStatus).map(str::to_owned).or(status);
        }
    }
    drop(reader);
    lease.finish();
    match (answer.status(), status.as_deref()) {
        (200, Some("0")) => Ok(()),
        (200, Some(code @ ("1" | "4" | "8" | "10" | "11" | "14" | "15"))) => Err(unavailable(format!("gRPC status {code}"))),
        (http, code) => Err(ExportError::Refused(format!("HTTP status {http}, gRPC status {}", code.unwrap_or("none")))),
    }
}

impl WorkerTelemetry {
    /// The request's trace: continued, or begun here.
    pub(crate) fn begin_trace(&self, ctx: &RequestContext<'_>, head: &Head) -> Option<RequestTrace> {
        let tracing = ctx.hcm.tracing.as_ref()?;
        let parent = TraceContext::extract(head);
        let decided = parent.is_none().then(|| TraceContext::extract_decision(head)).flatten();
        let request_id = head.get(KnownHeader::XRequestId);
        let context = self.trace_ids.borrow_mut().continue_or_start(parent.as_ref(), decided, tracing.sampler, request_id);
        Some(RequestTrace { context, parent })
    }

    /// Sends the context on: the upstream's span is a child of ours.
    pub(crate) fn inject_trace(&self, info: &RequestInfo, head: &mut Head) {
        let Some(RequestTrace { context, parent }) = &info.trace else { return };
        // An unsampled request has no span here: what comes next hangs on its caller's.
        let going_on = match parent {
            Some(parent) if context.sampled != Some(true) => parent,
            _ => context,
        };
        going_on.inject(parent.as_ref().map(|p| p.span_id), |name, value| {
            if let (Ok(name), Ok(value)) = (Name::new(name.as_bytes()), Value::new(value)) {
                head.set(name, value);
            }
        });
    }

    /// The same for a copy of a request, whose spans nobody is to see.
    pub(crate) fn inject_untraced(&self, info: &RequestInfo, head: &mut Head) {
        let Some(RequestTrace { context, .. }) = &info.trace else { return };
        let mut context = context.clone();
        context.sampled = Some(false);
        context.inject(None, |name, value| {
            if let (Ok(name), Ok(value)) = (Name::new(name.as_bytes()), Value::new(value)) {
                head.set(name, value);
            }
        });
    }

    /// Reports the request's span, if it is sampled.
    pub(super) fn end_trace(&self, ctx: &RequestContext<'_>, head: &Head, info: &RequestInfo) {
        let (Some(trace), Some(tracing)) = (&info.trace, &ctx.hcm.tracing) else { return };
        let Some(sender) = tracing.sender.as_ref().filter(|_| trace.context.sampled == Some(true)) else { return };
        let kind = if ctx.direction == Direction::Outbound { SpanKind::Client } else { SpanKind::Server };
        let name = info.route.as_ref().and_then(|r| r.operation()).unwrap_or_else(|| head.authority().unwrap_or_default());
        let mut span = Span::new(&trace.context, trace.parent.as_ref(), kind, name.into(), info.start_time);
        let peer_address = ctx.connection.remote.ip().to_string();
        let tags = HttpSpanTags {
            method: head.method(),
            scheme: head.scheme().map_or("http", |s| s.as_str()),
            authority: head.authority().unwrap_or_default(),
            path: head.path_and_query(),
            protocol: info.protocol.as_str(),
            status: info.response_code,
            user_agent: head.get_str(KnownHeader::UserAgent),
            request_id: head.get_str(KnownHeader::XRequestId),
            node_id: &self.tags.node_id,
            upstream_cluster: info.cluster.as_ref().map(|c| &*c.name),
            downstream_cluster: None,
            peer_address: Some(&peer_address),
            request_size: info.request_body_bytes,
            response_size: info.response_body_bytes,
            flags: info.flags,
            grpc_status: info.grpc_status,
            grpc_message: None,
            istio: Some(&self.tags.istio),
        };
        span.error = tags.is_error();
        span.attributes = tags.attributes();
        span.attributes.extend(tracing.model.tags.iter().map(|(k, v)| KeyValue::text(k, v.as_str())));
        span.end = SystemTime::now();
        sender.send(span);
    }
}
