//! The last phase of a request: metrics, log line and span, from what was learnt on its way.

use super::trace::RequestTrace;
use super::{WorkerTelemetry, log};
use crate::http::{Head, KnownHeader};
use crate::request::RequestContext;
use crate::request::info::RequestInfo;
use lateen_model::dataplane::{Direction, StatsFilter};
use lateen_observe::access_log::LogRecord;
use lateen_observe::istio::{HttpRecord, HttpSubject, Reporter, RequestProtocol};
use lateen_observe::{HeaderLookup, ResponseFlag};
use std::net::SocketAddr;
use std::time::Instant;

impl WorkerTelemetry {
    /// Accounts for a finished request.
    pub(crate) fn account_request(&self, ctx: &RequestContext<'_>, head: &Head, info: &RequestInfo) {
        count_at_cluster(info);
        if let Some(stats) = ctx.hcm.stats() {
            self.count(ctx, stats, head, info);
        }
        if !ctx.hcm.access_log.is_empty() {
            self.log_request(ctx, head, info);
        }
        self.end_trace(ctx, head, info);
    }

    fn count(&self, ctx: &RequestContext<'_>, stats: StatsFilter, head: &Head, info: &RequestInfo) {
        let mut peers = self.peers.borrow_mut();
        let outbound = stats.direction == Direction::Outbound;
        let upstream_principal =
            info.upstream.as_ref().and_then(|u| u.tls.as_ref()).and_then(|t| t.spiffe()).map(|id| id.as_uri());
        let mutual_tls = if outbound { upstream_principal.is_some() } else { ctx.connection.peer_uri().is_some() };
        let own = peers.own(mutual_tls);
        let other = info.peer.clone().unwrap_or_else(|| match (&info.host, outbound) {
            (Some(host), true) => peers.of_host(host, upstream_principal),
            (None, true) => peers.of_principal(None),
            (_, false) => peers.of_principal(ctx.connection.peer_uri()),
        });
        let (source, destination) = if outbound { (own, other) } else { (other, own) };
        let service = info.cluster.as_ref().and_then(|c| peers.service_of_cluster(c)).unwrap_or_else(|| {
            match head.authority().filter(|_| stats.host_header_fallback) {
                Some(host) => peers.service_of_host(host, &destination.value().namespace),
                None => peers.unknown_service(),
            }
        });
        let subject = HttpSubject {
            reporter: if outbound { Reporter::Source } else { Reporter::Destination },
            source: &source,
            destination: &destination,
            service: &service,
            protocol: if info.grpc { RequestProtocol::Grpc } else { RequestProtocol::Http },
            response_code: info.response_code,
            grpc_status: info.grpc_status.filter(|_| info.grpc),
            flags: info.flags,
            mutual_tls,
        };
        let mut metrics = self.metrics.borrow_mut();
        let series = metrics.http(&subject);
        series.record(&HttpRecord {
            duration: info.started.elapsed(),
            request_bytes: info.request_head_bytes + info.request_body_bytes,
            response_bytes: info.response_head_bytes + info.response_body_bytes,
        });
        if info.grpc {
            series.record_messages(info.request_messages, info.response_messages);
        }
    }

    fn log_request(&self, ctx: &RequestContext<'_>, head: &Head, info: &RequestInfo) {
        let upstream = info.upstream.as_deref();
        let trace_id = info.trace.as_ref().map(RequestTrace::id_hex);
        let client = match info.client.from_header {
            true => SocketAddr::new(info.client.address, 0),
            false => ctx.connection.remote,
        };
        let route = info.route.as_ref().map(|r| r.name()).filter(|n| !n.is_empty());
        let cluster = info.cluster.as_ref().map(|c| &*c.name).or(info.missing_cluster.as_deref());
        let end = Instant::now();
        let record = LogRecord {
            duration: Some(end.duration_since(info.started)),
            request_duration: info.request_complete.map(|t| t.duration_since(info.started)),
            request_tx_duration: info.request_sent.map(|t| t.duration_since(info.started)),
            response_duration: info.response_begun.map(|t| t.duration_since(info.started)),
            response_tx_duration: info.response_begun.map(|t| end.duration_since(t)),
            protocol: Some(info.protocol.as_str()),
            request_headers: head,
            response_headers: lookup(info.response_head.as_ref()),
            response_trailers: lookup(info.response_trailers.as_deref()),
            response_code: (info.response_code != 0).then_some(info.response_code),
            response_code_details: Some(&info.details),
            flags: info.flags,
            bytes_received: info.request_body_bytes,
            bytes_sent: info.response_body_bytes,
            upstream_transport_failure_reason: info.transport_failure.as_deref(),
            upstream_host: info.host.as_ref().map(|h| h.address.into()),
            upstream_cluster: cluster,
            upstream_local_address: upstream.map(|u| u.local.into()),
            upstream_request_attempts: Some(info.attempts),
            upstream_tls: log::upstream_tls(upstream.and_then(|u| u.tls.as_deref())),
            downstream_remote_address: Some(client.into()),
            route_name: route,
            grpc_status: info.grpc_status,
            trace_id: trace_id.as_ref().and_then(|hex| std::str::from_utf8(hex).ok()),
            stream_id: head.get_str(KnownHeader::XRequestId),
            ..log::connection_record(ctx.connection, info.start_time)
        };
        self.log(&ctx.hcm.access_log, &record);
    }
}

/// Counts the answer at the cluster that was to give it, if the request came so far.
fn count_at_cluster(info: &RequestInfo) {
    let Some(cluster) = info.cluster.as_ref().filter(|_| info.attempts > 0) else { return };
    cluster.stats.answers.inc(info.own_status.unwrap_or(info.response_code));
    if info.flags.contains(ResponseFlag::NoHealthyUpstream) {
        cluster.stats.upstream_cx_none_healthy.inc();
    }
}

/// A head that may not be there.
pub(super) fn lookup(head: Option<&Head>) -> &dyn HeaderLookup {
    head.map_or(&(), |head| head)
}
