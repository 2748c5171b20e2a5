//! The label sets, in the order in which Istio's proxies write them.

use super::subject::{HttpSubject, OTHER, Peer, Reporter, Service, TcpSubject};
use crate::ResponseFlags;
use crate::metrics::{LabelSet, LabelSetBuilder};

/// What both kinds of subject have.
struct Ends<'a> {
    reporter: Reporter,
    source: &'a Peer,
    destination: &'a Peer,
    service: &'a Service,
}

fn ends(ends: &Ends<'_>) -> LabelSetBuilder {
    let (source, destination, service) = (ends.source, ends.destination, ends.service);
    LabelSetBuilder::default()
        .with("reporter", ends.reporter.label())
        .with("source_workload", &source.workload)
        .with("source_canonical_service", &source.canonical_service)
        .with("source_canonical_revision", &source.canonical_revision)
        .with("source_workload_namespace", &source.namespace)
        .with("source_principal", &source.principal)
        .with("source_app", &source.app)
        .with("source_version", &source.version)
        .with("source_cluster", &source.cluster)
        .with("destination_workload", &destination.workload)
        .with("destination_workload_namespace", &destination.namespace)
        .with("destination_principal", &destination.principal)
        .with("destination_app", &destination.app)
        .with("destination_version", &destination.version)
        .with("destination_service", &service.host)
        .with("destination_canonical_service", &destination.canonical_service)
        .with("destination_canonical_revision", &destination.canonical_revision)
        .with("destination_service_name", &service.name)
        .with("destination_service_namespace", &service.namespace)
        .with("destination_cluster", &destination.cluster)
}

/// A client's sidecar does not say how the connection was secured; Istio leaves that to the server's.
fn security(reporter: Reporter, mutual_tls: bool) -> &'static str {
    match (reporter, mutual_tls) {
        (Reporter::Source, _) => "unknown",
        (_, true) => "mutual_tls",
        (_, false) => "none",
    }
}

pub(super) fn http(subject: &HttpSubject<'_>) -> LabelSet {
    http_between(subject, subject.source.value(), subject.destination.value(), subject.service.value())
}

/// The same subject, with everything that the other side could choose replaced by `other`.
pub(super) fn http_overflow(subject: &HttpSubject<'_>) -> LabelSet {
    let (other, service) = (Peer::other(), Service::other());
    match subject.reporter {
        Reporter::Source => http_between(subject, subject.source.value(), &other, &service),
        Reporter::Destination => http_between(subject, &other, subject.destination.value(), &service),
        Reporter::Waypoint => http_between(subject, &other, &other, &service),
    }
}

/// Where everything ends that found no room at all.
pub(super) fn everything_other(reporter: Reporter, protocol: &str) -> LabelSet {
    let (other, service) = (Peer::other(), Service::other());
    let labels = ends(&Ends { reporter, source: &other, destination: &other, service: &service });
    let labels = labels.with("request_protocol", protocol);
    let labels = if protocol == "tcp" { labels } else { labels.with("response_code", OTHER).with("grpc_response_status", OTHER) };
    labels.with("response_flags", OTHER).with("connection_security_policy", OTHER).build()
}

fn http_between(subject: &HttpSubject<'_>, source: &Peer, destination: &Peer, service: &Service) -> LabelSet {
    let labels = ends(&Ends { reporter: subject.reporter, source, destination, service })
        .with("request_protocol", subject.protocol.label())
        .with_display("response_code", subject.response_code);
    let labels = match subject.grpc_status {
        Some(status) => labels.with_display("grpc_response_status", status.code()),
        None => labels.with("grpc_response_status", ""),
    };
    finish(labels, subject.flags, security(subject.reporter, subject.mutual_tls))
}

pub(super) fn tcp(subject: &TcpSubject<'_>) -> LabelSet {
    tcp_between(subject, subject.source.value(), subject.destination.value(), subject.service.value())
}

pub(super) fn tcp_overflow(subject: &TcpSubject<'_>) -> LabelSet {
    let (other, service) = (Peer::other(), Service::other());
    match subject.reporter {
        Reporter::Source => tcp_between(subject, subject.source.value(), &other, &service),
        Reporter::Destination => tcp_between(subject, &other, subject.destination.value(), &service),
        Reporter::Waypoint => tcp_between(subject, &other, &other, &service),
    }
}

fn tcp_between(subject: &TcpSubject<'_>, source: &Peer, destination: &Peer, service: &Service) -> LabelSet {
    let labels = ends(&Ends { reporter: subject.reporter, source, destination, service }).with("request_protocol", "tcp");
    finish(labels, subject.flags, security(subject.reporter, subject.mutual_tls))
}

fn finish(labels: LabelSetBuilder, flags: ResponseFlags, security: &str) -> LabelSet {
    labels.with_display("response_flags", flags).with("connection_security_policy", security).build()
}
