//! The families, and each worker's way into them.

use super::labels;
use super::subject::{HttpSubject, SubjectKey, TcpSubject};
use crate::metrics::{Admission, Buckets, Counter, Family, Histogram, LabelSet, MetricError, Registry, SeriesCache, Shard};
use std::sync::Arc;
use std::time::Duration;

/// Istio's standard metrics, registered once a process. Cheap to clone.
#[derive(Clone)]
pub struct IstioMetrics {
    registry: Registry,
    families: Arc<Families>,
}

struct Families {
    requests: Family<Counter>,
    duration: Family<Histogram>,
    request_bytes: Family<Histogram>,
    response_bytes: Family<Histogram>,
    request_messages: Family<Counter>,
    response_messages: Family<Counter>,
    opened: Family<Counter>,
    closed: Family<Counter>,
    sent: Family<Counter>,
    received: Family<Counter>,
}

impl IstioMetrics {
    /// Registers the families and `istio_build{component,tag}`.
    pub fn register(registry: &Registry, component: &str, version: &str) -> Result<Self, MetricError> {
        let build = LabelSet::new([("component", component), ("tag", version)]);
        registry.gauge_fn("istio_build", "Component and version of this process.", build, || 1.0)?;
        let counter = |name, help| registry.counter(name, help);
        let sizes = |name, help| registry.histogram(name, help, Buckets::istio_sizes());
        let families = Families {
            requests: counter("istio_requests_total", "Requests.")?,
            duration: registry.histogram(
                "istio_request_duration_milliseconds",
                "Time from the first byte of a request to the last byte of its response.",
                Buckets::istio_durations(),
            )?,
            request_bytes: sizes("istio_request_bytes", "Size of requests, heads included.")?,
            response_bytes: sizes("istio_response_bytes", "Size of responses, heads included.")?,
            request_messages: counter("istio_request_messages_total", "gRPC messages from clients.")?,
            response_messages: counter("istio_response_messages_total", "gRPC messages from servers.")?,
            opened: counter("istio_tcp_connections_opened_total", "TCP connections opened.")?,
            closed: counter("istio_tcp_connections_closed_total", "TCP connections closed.")?,
            sent: counter("istio_tcp_sent_bytes_total", "Bytes from destinations to sources over TCP connections.")?,
            received: counter("istio_tcp_received_bytes_total", "Bytes from sources to destinations over TCP connections.")?,
        };
        Ok(Self { registry: registry.clone(), families: Arc::new(families) })
    }

    /// A worker's own part.
    pub fn worker(&self) -> WorkerMetrics {
        WorkerMetrics {
            families: Arc::clone(&self.families),
            shard: self.registry.shard(),
            http: SeriesCache::new(self.registry.clone()),
            tcp: SeriesCache::new(self.registry.clone()),
        }
    }
}

/// One worker's counters of requests and connections.
pub struct WorkerMetrics {
    families: Arc<Families>,
    shard: Shard,
    http: SeriesCache<SubjectKey, HttpSeries>,
    tcp: SeriesCache<SubjectKey, Arc<TcpSeries>>,
}

impl WorkerMetrics {
    /// The shard, for metrics of other kinds.
    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    /// The series of a request; only the first one of a subject formats labels.
    pub fn http(&mut self, subject: &HttpSubject<'_>) -> &HttpSeries {
        let (shard, families) = (&self.shard, &*self.families);
        self.http.get_or_resolve(subject.key(), || {
            let last = || labels::everything_other(subject.reporter, "other");
            resolve(shard, [&|| labels::http(subject), &|| labels::http_overflow(subject), &last], |labels, admission| {
                HttpSeries::resolve(shard, families, labels, admission)
            })
        })
    }

    /// The series of a TCP connection.
    pub fn tcp(&mut self, subject: &TcpSubject<'_>) -> Arc<TcpSeries> {
        let (shard, families) = (&self.shard, &*self.families);
        let series = self.tcp.get_or_resolve(subject.key(), || {
            let last = || labels::everything_other(subject.reporter, "tcp");
            resolve(shard, [&|| labels::tcp(subject), &|| labels::tcp_overflow(subject), &last], |labels, admission| {
                TcpSeries::resolve(shard, families, labels, admission).map(Arc::new)
            })
        });
        Arc::clone(series)
    }
}

/// Tries the subject's own labels, then those without what the peer chose, then the one series that takes everything.
fn resolve<T>(shard: &Shard, labels: [&dyn Fn() -> LabelSet; 3], series: impl Fn(&LabelSet, Admission) -> Option<T>) -> T {
    let [own, overflow, last] = labels;
    if let Some(found) = series(&own(), Admission::Budget) {
        return found;
    }
    shard.registry().count_overflow();
    let found = series(&overflow(), Admission::Reserve);
    found.or_else(|| series(&last(), Admission::Always)).expect("Admission::Always admits")
}

/// The handles of one subject's requests.
pub struct HttpSeries {
    requests: Counter,
    duration: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
    messages: Option<(Counter, Counter)>,
}

/// What is counted of one finished request.
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpRecord {
    /// First byte in to last byte out.
    pub duration: Duration,
    /// Head and body.
    pub request_bytes: u64,
    /// Head and body.
    pub response_bytes: u64,
}

impl HttpSeries {
    fn resolve(shard: &Shard, families: &Families, labels: &LabelSet, admission: Admission) -> Option<Self> {
        let mut series = shard.admit(labels, admission, |resolver| Self {
            requests: resolver.get(&families.requests),
            duration: resolver.get(&families.duration),
            request_bytes: resolver.get(&families.request_bytes),
            response_bytes: resolver.get(&families.response_bytes),
            messages: None,
        })?;
        if labels.as_str().contains("request_protocol=\"grpc\"") {
            series.messages = shard.admit(labels, Admission::Always, |resolver| {
                (resolver.get(&families.request_messages), resolver.get(&families.response_messages))
            });
        }
        Some(series)
    }

    /// Counts a finished request.
    pub fn record(&self, record: &HttpRecord) {
        self.requests.inc();
        self.duration.observe(u64::try_from(record.duration.as_micros()).unwrap_or(u64::MAX));
        self.request_bytes.observe(record.request_bytes);
        self.response_bytes.observe(record.response_bytes);
    }

    /// Counts messages of a gRPC stream, which may be long: call it as they pass or at the end.
    pub fn record_messages(&self, requests: u64, responses: u64) {
        if let Some((request_messages, response_messages)) = &self.messages {
            request_messages.add(requests);
            response_messages.add(responses);
        }
    }
}

/// The handles of one subject's TCP connections.
pub struct TcpSeries {
    opened: Counter,
    closed: Counter,
    sent: Counter,
    received: Counter,
}

impl TcpSeries {
    fn resolve(shard: &Shard, families: &Families, labels: &LabelSet, admission: Admission) -> Option<Self> {
        shard.admit(labels, admission, |resolver| Self {
            opened: resolver.get(&families.opened),
            closed: resolver.get(&families.closed),
            sent: resolver.get(&families.sent),
            received: resolver.get(&families.received),
        })
    }
}

/// The reports of one TCP connection: at its opening, every [`TcpReport::INTERVAL`], and at its end.
pub struct TcpReport {
    series: Arc<TcpSeries>,
    sent: u64,
    received: u64,
}

impl TcpReport {
    /// How often a connection's bytes are reported while it lasts (Istio's `tcp_reporting_duration`).
    pub const INTERVAL: Duration = Duration::from_secs(5);

    /// Counts an opened connection.
    pub fn open(series: Arc<TcpSeries>) -> Self {
        series.opened.inc();
        Self { series, sent: 0, received: 0 }
    }

    /// Brings the counters up to the connection's totals: `sent` from the destination to the source, `received` the
    /// other way.
    pub fn progress(&mut self, sent: u64, received: u64) {
        self.series.sent.add(sent.saturating_sub(self.sent));
        self.series.received.add(received.saturating_sub(self.received));
        (self.sent, self.received) = (self.sent.max(sent), self.received.max(received));
    }

    /// Counts the end. `last` is the series of the subject as it was known at the end, with its response flags; what was
    /// not reported before is counted there.
    pub fn close(mut self, last: Arc<TcpSeries>, sent: u64, received: u64) {
        self.series = last;
        self.progress(sent, received);
        self.series.closed.inc();
    }
}
