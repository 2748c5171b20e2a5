//! From workers to a collector: a bounded queue, batches, OTLP.

use super::span::Span;
use crate::otlp::{ExportTraceServiceRequest, InstrumentationScope, KeyValue, Resource, ResourceSpans, ScopeSpans};
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// How spans are gathered.
#[derive(Clone, Copy, Debug)]
pub struct ExportConfig {
    /// Spans that may wait; what comes when so many do is dropped and counted.
    pub queue: usize,
    /// The most spans in one request.
    pub batch: usize,
    /// How long the first span of a batch waits for company.
    pub delay: Duration,
    /// How often a batch is sent again after [`ExportError::Unavailable`].
    pub retries: u32,
    /// The wait before the first of them; it doubles.
    pub backoff: Duration,
}

impl Default for ExportConfig {
    fn default() -> Self {
        let (delay, backoff) = (Duration::from_secs(1), Duration::from_millis(500));
        Self { queue: 4096, batch: 512, delay, retries: 2, backoff }
    }
}

/// Why a collector did not take a batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    /// It may take it later.
    #[error("the trace collector is unavailable: {0}")]
    Unavailable(String),
    /// It never will.
    #[error("the trace collector refused the spans: {0}")]
    Refused(String),
}

/// What became of spans.
#[derive(Debug, Default)]
pub struct SpanStats {
    /// Taken by the collector.
    pub exported: AtomicU64,
    /// Lost because the queue was full.
    pub dropped: AtomicU64,
    /// Lost because the collector did not take them.
    pub failed: AtomicU64,
}

/// A worker's way to the exporter. Cheap to clone.
#[derive(Clone)]
pub struct SpanSender {
    queue: mpsc::Sender<Span>,
    stats: Arc<SpanStats>,
}

impl SpanSender {
    /// Hands a span over; never waits.
    pub fn send(&self, span: Span) {
        if self.queue.try_send(span).is_err() {
            self.stats.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What became of the spans so far.
    pub fn stats(&self) -> &SpanStats {
        &self.stats
    }
}

/// A queue of spans: what workers hold, and what exports them.
pub fn span_channel(config: ExportConfig, resource: Vec<KeyValue>, version: &str) -> (SpanSender, SpanExporter) {
    let (sender, queue) = mpsc::channel(config.queue.max(1));
    let stats = Arc::new(SpanStats::default());
    let scope = InstrumentationScope { name: "lateen".into(), version: version.to_owned() };
    let exporter = SpanExporter { queue, stats: Arc::clone(&stats), config, resource: Resource { attributes: resource }, scope };
    (SpanSender { queue: sender, stats }, exporter)
}

/// The consuming end of the queue.
pub struct SpanExporter {
    queue: mpsc::Receiver<Span>,
    stats: Arc<SpanStats>,
    config: ExportConfig,
    resource: Resource,
    scope: InstrumentationScope,
}

impl SpanExporter {
    /// Exports until every [`SpanSender`] is gone. `transport` gets each batch as the body of a gRPC request to
    /// [`TRACE_EXPORT_PATH`](crate::otlp::TRACE_EXPORT_PATH) (framed, not compressed) and says how that went.
    pub async fn run<F, R>(mut self, mut transport: F)
    where
        F: FnMut(Bytes) -> R,
        R: Future<Output = Result<(), ExportError>>,
    {
        while let Some(spans) = self.next_batch().await {
            let count = spans.len() as u64;
            let body = frame(&self.request(spans));
            match self.deliver(&mut transport, &body).await {
                Ok(()) => {
                    self.stats.exported.fetch_add(count, Ordering::Relaxed);
                }
                Err(error) => {
                    self.stats.failed.fetch_add(count, Ordering::Relaxed);
                    tracing::debug!(%error, spans = count, "spans are lost");
                }
            }
        }
    }

    /// Waits for a span, then gathers what comes within the delay; none when all senders are gone and the queue is empty.
    async fn next_batch(&mut self) -> Option<Vec<Span>> {
        let mut spans = vec![self.queue.recv().await?];
        let deadline = tokio::time::sleep(self.config.delay);
        tokio::pin!(deadline);
        while spans.len() < self.config.batch {
            tokio::select! {
                biased;
                span = self.queue.recv() => match span {
                    Some(span) => spans.push(span),
                    None => break,
                },
                () = &mut deadline => break,
            }
        }
        Some(spans)
    }

    fn request(&self, spans: Vec<Span>) -> ExportTraceServiceRequest {
        let spans = spans.into_iter().map(Span::into_otlp).collect();
        let scope_spans = vec![ScopeSpans { scope: Some(self.scope.clone()), spans }];
        ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { resource: Some(self.resource.clone()), scope_spans }] }
    }

    async fn deliver<F, R>(&self, transport: &mut F, body: &Bytes) -> Result<(), ExportError>
    where
        F: FnMut(Bytes) -> R,
        R: Future<Output = Result<(), ExportError>>,
    {
        let mut backoff = self.config.backoff;
        for _ in 0..self.config.retries {
            match transport(body.clone()).await {
                Err(ExportError::Unavailable(_)) => {
                    tokio::time::sleep(backoff).await;
                    backoff *= 2;
                }
                done => return done,
            }
        }
        transport(body.clone()).await
    }
}

/// One message in gRPC's framing: not compressed, length, content.
fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(5 + length);
    out.put_u8(0);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.encode_raw(&mut out);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::{ExportConfig, ExportError, SpanSender, span_channel};
    use crate::otlp::{ExportTraceServiceRequest, KeyValue};
    use crate::trace::{Sampler, Span, SpanKind, TraceIds};
    use bytes::Bytes;
    use prost::Message;
    use std::cell::RefCell;
    use std::sync::atomic::Ordering;
    use std::time::SystemTime;
    use tokio::time::{Duration, Instant};

    fn send(sender: &SpanSender, name: &str) {
        let context = TraceIds::new().continue_or_start(None, Some(true), Sampler::DEFAULT, None);
        sender.send(Span::new(&context, None, SpanKind::Server, name.into(), SystemTime::now()));
    }

    fn names(body: &Bytes) -> Vec<String> {
        assert_eq!(body[0], 0);
        let request = ExportTraceServiceRequest::decode(&body[5..]).expect("decodes");
        let resource = &request.resource_spans[0];
        assert_eq!(resource.resource.as_ref().expect("one").attributes, [KeyValue::text("service.name", "web.shop")]);
        resource.scope_spans[0].spans.iter().map(|span| span.name.clone()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn batches_by_size_and_by_time() {
        let config = ExportConfig { batch: 2, ..ExportConfig::default() };
        let (sender, exporter) = span_channel(config, vec![KeyValue::text("service.name", "web.shop")], "1");
        let (start, sent) = (Instant::now(), RefCell::new(Vec::new()));
        let work = async {
            for name in ["a", "b", "c"] {
                send(&sender, name);
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
            send(&sender, "d");
            assert_eq!(sender.stats().exported.load(Ordering::Relaxed), 3);
            drop(sender);
        };
        let export = exporter.run(|body| {
            sent.borrow_mut().push((start.elapsed().as_secs(), names(&body)));
            async { Ok(()) }
        });
        tokio::join!(work, export);
        let wanted = [(0, vec!["a", "b"]), (1, vec!["c"]), (5, vec!["d"])];
        let wanted = wanted.map(|(at, names)| (at, names.into_iter().map(str::to_owned).collect::<Vec<_>>()));
        assert_eq!(sent.into_inner(), wanted);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unavailable_collector_is_tried_again_and_a_refusal_is_not() {
        for (error, tries) in [(ExportError::Unavailable("gone".into()), 3), (ExportError::Refused("bad".into()), 1)] {
            let (sender, exporter) = span_channel(ExportConfig::default(), vec![KeyValue::text("service.name", "web.shop")], "1");
            send(&sender, "a");
            let stats = sender.stats.clone();
            drop(sender);
            let tried = RefCell::new(0);
            exporter
                .run(|_| {
                    *tried.borrow_mut() += 1;
                    let error = error.clone();
                    async { Err(error) }
                })
                .await;
            assert_eq!(tried.into_inner(), tries, "{error}");
            assert_eq!(stats.failed.load(Ordering::Relaxed), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_drops_and_counts() {
        let (sender, _exporter) = span_channel(ExportConfig { queue: 3, ..ExportConfig::default() }, Vec::new(), "1");
        for _ in 0..5 {
            send(&sender, "a");
        }
        assert_eq!(sender.stats().dropped.load(Ordering::Relaxed), 2);
    }
}
