//! What the proxy tells of its work: Istio's metrics, access logs, traces, and the counters of its own.

mod account;
pub(crate) mod count;
pub(crate) mod gates;
pub(crate) mod log;
pub(crate) mod peer;
pub(crate) mod tcp;
#[cfg(test)]
mod tests;
pub(crate) mod trace;

use crate::bootstrap::Settings;
use crate::config::{Chain, Listener, Terminal};
use crate::connection::Connection;
use crate::http::{Head, KnownHeader, Value};
use crate::http1::RequestError;
use crate::worker::Worker;
use lateen_observe::access_log::LogRecord;
use lateen_observe::istio::{IstioMetrics, WorkerMetrics};
use lateen_observe::metrics::{Counter, Family, LabelSet, Limits, Registry};
use lateen_observe::request_id::{RequestId, RequestIds};
use lateen_observe::trace::TraceIds;
use lateen_observe::{ResponseFlag, ResponseFlags};
use lateen_policy::rate_limit;
use log::{AccessLogger, LogOutputs, LogWriters};
use peer::{OwnIdentity, Peers};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};
use trace::{Exporters, TraceTags};

/// How often idle series are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(300);

/// The process's telemetry, shared by all threads.
pub(crate) struct Telemetry {
    registry: Registry,
    istio: IstioMetrics,
    own: OwnIdentity,
    tags: TraceTags,
    outputs: LogOutputs,
    pub(crate) exporters: Exporters,
    /// Tokens of limits on requests: here, where every configuration that is compiled finds what outlives it.
    rate_limits: rate_limit::Registry,
    gates: gates::Gates,
    failed_connections: Family<Counter>,
    bad_requests: Family<Counter>,
    accept_errors: Family<Counter>,
}

/// One worker's telemetry. Nothing in it is shared but what scrapers read.
pub(crate) struct WorkerTelemetry {
    metrics: RefCell<WorkerMetrics>,
    peers: RefCell<Peers>,
    request_ids: RefCell<RequestIds>,
    trace_ids: RefCell<TraceIds>,
    logs: RefCell<LogWriters>,
    date: RefCell<Date>,
    own: OwnIdentity,
    tags: TraceTags,
    process: ProcessCounters,
}

/// Counters of what never became a request.
pub(crate) struct ProcessCounters {
    failed_connections: Family<Counter>,
    bad_requests: Family<Counter>,
    pub(crate) accept_errors: Counter,
}

/// Why a connection came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionOutcome {
    /// Nothing was sent that tells a protocol, for too long.
    DetectionTimeout,
    /// No filter chain serves it.
    NoFilterChain,
    /// The mesh knows its destination, and this proxy could not learn it.
    NotLearned,
    /// TLS failed, for this reason.
    Handshake(&'static str),
}

impl ConnectionOutcome {
    fn label(self) -> &'static str {
        match self {
            Self::DetectionTimeout => "detection_timeout",
            Self::NoFilterChain => "no_filter_chain",
            Self::NotLearned => "not_learned",
            Self::Handshake(reason) => reason,
        }
    }

    /// `%RESPONSE_CODE_DETAILS%`.
    fn details(self) -> Option<&'static str> {
        match self {
            Self::NoFilterChain => Some("filter_chain_not_found"),
            Self::NotLearned => Some("on_demand_discovery_timeout"),
            Self::DetectionTimeout | Self::Handshake(_) => None,
        }
    }

    fn flag(self) -> Option<ResponseFlag> {
        match self {
            Self::NoFilterChain => Some(ResponseFlag::NoRouteFound),
            Self::NotLearned => Some(ResponseFlag::NoClusterFound),
            Self::Handshake(_) => Some(ResponseFlag::DownstreamProtocolError),
            Self::DetectionTimeout => None,
        }
    }
}

impl Telemetry {
    /// For this process. The names registered here are constants: that they are accepted is an invariant.
    pub(crate) fn new(settings: &Settings) -> Self {
        let registry = Registry::new(Limits::default());
        let istio =
            IstioMetrics::register(&registry, "proxy", env!("CARGO_PKG_VERSION")).expect("Istio's names are valid and new");
        let counter = |name, help| registry.counter(name, help).expect("the name is valid and new");
        Self {
            failed_connections: counter(
                "lateen_downstream_connections_failed_total",
                "Connections that ended before a filter chain served them.",
            ),
            bad_requests: counter("lateen_downstream_bad_requests_total", "Requests whose head could not be accepted."),
            accept_errors: counter("lateen_accept_errors_total", "Times that accepting connections failed."),
            istio,
            own: OwnIdentity::new(settings),
            tags: TraceTags::new(settings),
            outputs: LogOutputs::default(),
            exporters: Exporters::default(),
            rate_limits: rate_limit::Registry::default(),
            gates: gates::Gates::default(),
            registry,
        }
    }

    /// The state of limits on requests.
    pub(crate) fn rate_limits(&self) -> &rate_limit::Registry {
        &self.rate_limits
    }

    /// Counters of those who decide whether something may pass.
    pub(crate) fn gates(&self) -> &gates::Gates {
        &self.gates
    }

    /// A worker's part.
    pub(crate) fn worker(&self) -> WorkerTelemetry {
        let metrics = self.istio.worker();
        let accept_errors = metrics.shard().get(&self.accept_errors, &LabelSet::none());
        WorkerTelemetry {
            process: ProcessCounters {
                failed_connections: self.failed_connections.clone(),
                bad_requests: self.bad_requests.clone(),
                accept_errors,
            },
            metrics: RefCell::new(metrics),
            peers: RefCell::new(Peers::new(&self.own)),
            request_ids: RefCell::new(RequestIds::new()),
            trace_ids: RefCell::new(TraceIds::new()),
            logs: RefCell::default(),
            date: RefCell::default(),
            own: self.own.clone(),
            tags: self.tags.clone(),
        }
    }

    /// All metrics.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Where access logs go.
    pub(crate) fn log_outputs(&self) -> &LogOutputs {
        &self.outputs
    }

    /// Writes out what is buffered.
    pub(crate) fn flush(&self) {
        self.outputs.close();
    }
}

impl WorkerTelemetry {
    /// The process's counters.
    pub(crate) fn process(&self) -> &ProcessCounters {
        &self.process
    }

    /// A new `x-request-id`.
    pub(crate) fn request_id(&self) -> RequestId {
        self.request_ids.borrow_mut().next_id()
    }

    /// Tells the other proxy who we are.
    pub(crate) fn put_own_metadata(&self, head: &mut Head) {
        if let (Ok(id), Ok(metadata)) = (Value::new(self.own.id.as_bytes()), Value::new(self.own.header.as_bytes())) {
            head.set(KnownHeader::XEnvoyPeerMetadataId, id);
            head.set(KnownHeader::XEnvoyPeerMetadata, metadata);
        }
    }

    /// The frame that begins a TCP metadata exchange.
    pub(crate) fn own_frame(&self) -> &[u8] {
        &self.own.frame
    }

    /// Puts a `date`, formatted at most once a second.
    pub(crate) fn put_date(&self, head: &mut Head) {
        let mut date = self.date.borrow_mut();
        date.refresh();
        if let Ok(value) = Value::new(date.text.as_bytes()) {
            head.set(KnownHeader::Date, value);
        }
    }

    /// A connection came to nothing: a counter, and the listener's log.
    pub(crate) fn connection_failed(&self, connection: &Connection, listener: &Listener, outcome: ConnectionOutcome) {
        let labels = LabelSet::new([("listener", &*listener.name), ("reason", outcome.label())]);
        self.metrics.borrow().shard().get(&self.process.failed_connections, &labels).inc();
        let flags = outcome.flag().map_or(ResponseFlags::NONE, |f| ResponseFlags::NONE.with(f));
        let record = LogRecord {
            flags,
            response_code_details: outcome.details(),
            ..log::connection_record(connection, SystemTime::now())
        };
        self.log(&listener.access_log, &record);
    }

    /// A policy refuses a connection: a counter, and the log of the chain that would have served it.
    pub(crate) fn connection_denied(&self, connection: &Connection, listener: &Listener, chain: &Chain, details: &str) {
        let labels = LabelSet::new([("listener", &*listener.name), ("reason", "rbac_denied")]);
        self.metrics.borrow().shard().get(&self.process.failed_connections, &labels).inc();
        let (loggers, cluster): (&[AccessLogger], _) = match &chain.terminal {
            Terminal::Tcp(route) => (&route.access_log, Some(route.cluster(0))),
            Terminal::Http(hcm) => (&hcm.access_log, None),
        };
        let record = LogRecord {
            connection_termination_details: Some(details),
            upstream_cluster: cluster,
            ..log::connection_record(connection, SystemTime::now())
        };
        self.log(loggers, &record);
    }

    /// A head that could not be read, or was refused at once, was answered with a status, or with nothing.
    pub(crate) fn bad_request(
        &self,
        connection: &Connection,
        listener: &Listener,
        logs: &[AccessLogger],
        error: RequestError,
        head: Option<&Head>,
    ) {
        // A client that closes between requests has done nothing wrong.
        let Some(status) = error.status() else { return };
        let labels = LabelSet::new([("listener", &*listener.name), ("code", status.to_string().as_str())]);
        self.metrics.borrow().shard().get(&self.process.bad_requests, &labels).inc();
        let flags = if error.is_of_a_request() { ResponseFlags::NONE } else { ResponseFlag::DownstreamProtocolError.into() };
        let record = LogRecord {
            flags,
            response_code: Some(status),
            response_code_details: Some(error.details()),
            protocol: head.map(|head| head.version().as_str()),
            request_headers: account::lookup(head),
            bytes_sent: error.text().len() as u64,
            ..log::connection_record(connection, SystemTime::now())
        };
        self.log(logs, &record);
    }

    fn log(&self, loggers: &[AccessLogger], record: &LogRecord<'_>) {
        if !loggers.is_empty() {
            self.logs.borrow_mut().log(loggers, record);
        }
    }
}

/// The value of `date`, and until when it holds.
#[derive(Default)]
struct Date {
    text: String,
    made: Option<Instant>,
}

impl Date {
    fn refresh(&mut self) {
        let now = Instant::now();
        if self.made.is_none_or(|made| now.duration_since(made) >= Duration::from_secs(1)) {
            self.text = httpdate::fmt_http_date(SystemTime::now());
            self.made = Some(now);
        }
    }
}

/// Removes idle series, for as long as the worker runs. One worker does it for all.
pub(crate) async fn sweep_periodically(worker: Rc<Worker>) {
    if worker.index != 0 {
        return;
    }
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        worker.shared.telemetry.registry().sweep(Instant::now());
    }
}
