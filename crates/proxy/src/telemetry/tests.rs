//! What is told of requests and connections, from what happened to them.

use crate::testing::exchange::{LogFile, Mesh, Proxy, Upstream, header, mutual_tls, passing, serving};
use crate::testing::{OWN_URI, cluster, hcm, routes};
use lateen_model::dataplane::{
    self, ClusterMetadata, Direction, HttpConnectionManager, HttpFilter, NetworkFilter, PeerMetadata as Exchange, Permission,
    Principal, Rbac, RbacAction, RbacPolicy, RouteSource, ServiceRef, StatsFilter, TcpDestination, TcpProxy, Tracing,
};
use lateen_observe::access_log::LogFormat;
use lateen_observe::peer_metadata::PeerMetadata;
use lateen_testkit::prometheus::{Family, value};
use std::collections::BTreeMap;

const CLIENT: &str = "spiffe://cluster.local/ns/prod/sa/client";
const SERVER: &str = "spiffe://cluster.local/ns/prod/sa/server";
const ALPN: &str = "istio-http/1.1";

/// What an operator prints.
#[derive(Clone, Copy, Debug)]
enum Shows {
    Is(&'static str),
    /// Some number.
    Number,
    /// Something.
    Text,
    /// `-`: the notion does not exist here.
    Nothing,
}
use Shows::{Is, Nothing, Number, Text};

/// Each operator with its argument, and what it prints of a request and of a TCP connection, both in mTLS on either side.
const OPERATORS: [(&str, Shows, Shows); 54] = [
    ("START_TIME", Text, Text),
    ("DURATION", Number, Number),
    ("REQUEST_DURATION", Number, Nothing),
    ("REQUEST_TX_DURATION", Number, Nothing),
    ("RESPONSE_DURATION", Number, Nothing),
    ("RESPONSE_TX_DURATION", Number, Nothing),
    ("PROTOCOL", Is("HTTP/1.1"), Nothing),
    ("RESPONSE_CODE", Is("200"), Is("0")),
    ("RESPONSE_FLAGS", Is("-"), Is("-")),
    ("RESPONSE_CODE_DETAILS", Is("via_upstream"), Nothing),
    // Of connections that a policy refuses; tested apart.
    ("CONNECTION_TERMINATION_DETAILS", Nothing, Nothing),
    // Of handshakes that failed.
    ("UPSTREAM_TRANSPORT_FAILURE_REASON", Nothing, Nothing),
    ("BYTES_RECEIVED", Is("5"), Is("9")),
    ("BYTES_SENT", Is("2"), Is("5")),
    ("UPSTREAM_CLUSTER", Is("app"), Is("app")),
    ("UPSTREAM_CLUSTER_RAW", Is("app"), Is("app")),
    ("UPSTREAM_REQUEST_ATTEMPT_COUNT", Is("1"), Nothing),
    ("UPSTREAM_HOST", Text, Text),
    ("UPSTREAM_REMOTE_ADDRESS", Text, Text),
    ("UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Is("127.0.0.1"), Is("127.0.0.1")),
    ("UPSTREAM_REMOTE_PORT", Number, Number),
    ("UPSTREAM_LOCAL_ADDRESS", Text, Text),
    ("UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", Is("127.0.0.1"), Is("127.0.0.1")),
    ("UPSTREAM_LOCAL_PORT", Number, Number),
    ("DOWNSTREAM_LOCAL_ADDRESS", Is("10.1.0.4:8080"), Is("10.1.0.4:8080")),
    ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", Is("10.1.0.4"), Is("10.1.0.4")),
    ("DOWNSTREAM_LOCAL_PORT", Is("8080"), Is("8080")),
    ("DOWNSTREAM_REMOTE_ADDRESS", Is("1.2.3.4:0"), Is("10.9.9.9:40000")),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Is("1.2.3.4"), Is("10.9.9.9")),
    ("DOWNSTREAM_REMOTE_PORT", Is("0"), Is("40000")),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS", Is("10.9.9.9:40000"), Is("10.9.9.9:40000")),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", Is("10.9.9.9"), Is("10.9.9.9")),
    ("DOWNSTREAM_DIRECT_REMOTE_PORT", Is("40000"), Is("40000")),
    ("DOWNSTREAM_TLS_VERSION", Is("TLSv1.3"), Is("TLSv1.3")),
    ("DOWNSTREAM_TLS_CIPHER", Text, Text),
    ("DOWNSTREAM_PEER_URI_SAN", Is(CLIENT), Is(CLIENT)),
    ("DOWNSTREAM_LOCAL_URI_SAN", Is(OWN_URI), Is(OWN_URI)),
    ("UPSTREAM_TLS_VERSION", Is("TLSv1.3"), Is("TLSv1.3")),
    ("UPSTREAM_TLS_CIPHER", Text, Text),
    ("UPSTREAM_PEER_URI_SAN", Is(SERVER), Is(SERVER)),
    ("UPSTREAM_LOCAL_URI_SAN", Is(OWN_URI), Is(OWN_URI)),
    ("REQUESTED_SERVER_NAME", Is("outbound_.80_._.a.prod.svc.cluster.local"), Is("outbound_.80_._.a.prod.svc.cluster.local")),
    ("ROUTE_NAME", Is("default"), Nothing),
    ("GRPC_STATUS", Is("OK"), Nothing),
    ("GRPC_STATUS_NUMBER", Is("0"), Nothing),
    ("TRACE_ID", Is("0af7651916cd43dd8448eb211c80319c"), Nothing),
    ("STREAM_ID", Is("my-id"), Text),
    ("CONNECTION_ID", Is("7"), Is("7")),
    ("HOSTNAME", Text, Text),
    ("REQ(X-ASKED)", Is("a"), Nothing),
    ("REQ_WITHOUT_QUERY(:PATH)", Is("/x"), Nothing),
    ("RESP(X-ANSWERED)", Is("b"), Nothing),
    ("TRAILER(X-TRAILER)", Is("c"), Nothing),
    ("ENVIRONMENT(PATH)", Text, Text),
];

/// A line that prints all operators.
fn format() -> String {
    OPERATORS.iter().map(|(operator, ..)| format!("{operator}=%{operator}%|")).collect()
}

fn check(line: &str, column: fn(&(&'static str, Shows, Shows)) -> Shows) {
    let values: BTreeMap<&str, &str> = line.split('|').filter_map(|pair| pair.split_once('=')).collect();
    for row in &OPERATORS {
        let (operator, shown) = (row.0, values[row.0]);
        let right = match column(row) {
            Is(expected) => shown == expected,
            Number => shown.parse::<u64>().is_ok(),
            Text => shown != "-" && !shown.is_empty(),
            Nothing => shown == "-",
        };
        assert!(right, "%{operator}% is {shown:?}, not {:?}", column(row));
    }
}

#[test]
fn the_table_has_every_operator() {
    let in_table: Vec<&str> = OPERATORS.iter().map(|(o, ..)| o.split('(').next().unwrap_or_default()).collect();
    let mut known = LogFormat::operators();
    known.retain(|name| !in_table.contains(name));
    assert_eq!((known, in_table.len()), (vec![], LogFormat::operators().len()));
}

/// The application's cluster, whose endpoint is a workload of the mesh.
fn app(upstream: &Upstream) -> dataplane::Cluster {
    let mut app = cluster("app", Some(&[&upstream.address.to_string()]));
    app.transport = mutual_tls();
    let service =
        ServiceRef { host: "app.prod.svc.cluster.local".to_owned(), name: "app".to_owned(), namespace: "prod".to_owned() };
    app.metadata = ClusterMetadata { services: vec![service], ..ClusterMetadata::default() };
    app
}

#[tokio::test]
async fn a_request_fills_every_operator() {
    let mesh = Mesh::new();
    let answer = "HTTP/1.1 200 OK\r\nx-answered: b\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-trailer: c\r\ngrpc-status: 0\r\n\r\n";
    let upstream = Upstream::start_tls(answer, mesh.server(SERVER, ALPN));
    let file = LogFile::new();
    let tracing = Tracing { provider: None, random_sampling_hundredths: 10_000, max_path_tag_length: 256, tags: Vec::new() };
    let manager = HttpConnectionManager {
        access_log: vec![file.log(&format())],
        tracing: Some(tracing),
        ..hcm(RouteSource::Rds(String::new()))
    };
    let mut proxy = Proxy::new(&serving(manager, routes("inbound", &["app"])), &[app(&upstream)]);
    mesh.admit(&proxy);
    proxy.peer = Some(mesh.peer(CLIENT, OWN_URI, ALPN).await);
    let request = "POST /x?y=z HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/grpc\r\nContent-Length: 5\r\n\
                   X-Asked: a\r\nX-Forwarded-For: 1.2.3.4\r\nX-Request-Id: my-id\r\nTE: trailers\r\n\
                   Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n\0\0\0\0\0";
    let answer = proxy.ask(request).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    check(&file.lines(proxy)[0], |row| row.1);
}

fn to_app(logs: Vec<dataplane::AccessLog>) -> TcpProxy {
    TcpProxy {
        stat_prefix: "app".to_owned(),
        destination: TcpDestination::Cluster("app".to_owned()),
        idle_timeout: None,
        hash_source_ip: false,
        tunnel: None,
        access_log: logs,
    }
}

#[tokio::test]
async fn a_tcp_connection_fills_every_operator_that_it_has() {
    let mesh = Mesh::new();
    let upstream = Upstream::start_tls("hello", mesh.server(SERVER, ALPN));
    let file = LogFile::new();
    let mut proxy = Proxy::new(&passing(to_app(vec![file.log(&format())])), &[app(&upstream)]);
    mesh.admit(&proxy);
    proxy.peer = Some(mesh.peer(CLIENT, OWN_URI, ALPN).await);
    assert_eq!(proxy.ask("who's\r\n\r\n").await, "hello");
    check(&file.lines(proxy)[0], |row| row.2);
}

#[tokio::test]
async fn a_connection_that_a_policy_refuses_is_logged_with_the_policy() {
    let file = LogFile::new();
    let mut listener = passing(to_app(vec![file.log("%CONNECTION_TERMINATION_DETAILS% %RESPONSE_FLAGS% %CONNECTION_ID%")]));
    let policy = RbacPolicy {
        name: "ns[prod]-policy[none]-rule[0]".to_owned(),
        permissions: vec![Permission::Any],
        principals: vec![Principal::Any],
    };
    let rules = Rbac { action: RbacAction::Deny, policies: vec![policy], stat_prefix: String::new() };
    listener.filter_chains[0].network_filters = vec![NetworkFilter::Rbac(rules)];
    let proxy = Proxy::new(&listener, &[]);
    assert_eq!(proxy.accept(b"hello").await, "");
    let refused = [("listener", "inbound"), ("reason", "rbac_denied")];
    assert_eq!(value(&proxy.metrics(), "lateen_downstream_connections_failed_total", &refused), Some(1.0));
    let line = &file.lines(proxy)[0];
    assert!(line.starts_with("rbac_access_denied_matched_policy[ns[prod]-policy[none]-rule[0]] - "), "{line}");
    assert!(line.rsplit(' ').next().is_some_and(|id| id.parse::<u64>().is_ok_and(|id| id > 0)), "{line}");
}

/// The workload that the tests' client says it is.
fn client_metadata() -> PeerMetadata {
    PeerMetadata {
        id: "sidecar~10.9.9.9~client-1.prod~prod.svc.cluster.local".to_owned(),
        name: "client-1".to_owned(),
        namespace: "prod".to_owned(),
        workload_name: "client".to_owned(),
        cluster_id: "Kubernetes".to_owned(),
        labels: [("app".to_owned(), "client-app".to_owned())].into(),
        ..PeerMetadata::default()
    }
}

const STATS: StatsFilter = StatsFilter { direction: Direction::Inbound, host_header_fallback: true };

fn with_metrics() -> HttpConnectionManager {
    let exchange = Exchange { direction: Direction::Inbound, skip_external_clusters: false };
    HttpConnectionManager {
        http_filters: vec![HttpFilter::PeerMetadata(exchange), HttpFilter::Stats(STATS)],
        ..hcm(RouteSource::Rds(String::new()))
    }
}

/// The labels of the only series of a family.
fn only<'a>(families: &'a [Family], name: &str) -> &'a BTreeMap<String, String> {
    let family = families.iter().find(|f| f.name == name).unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(family.samples.len(), 1, "{:?}", family.samples);
    &family.samples[0].labels
}

fn assert_labels(labels: &BTreeMap<String, String>, expected: &[(&str, &str)]) {
    for (label, value) in expected {
        assert_eq!(labels.get(*label).map(String::as_str), Some(*value), "{label} of {labels:?}");
    }
}

#[tokio::test]
async fn a_request_is_counted_with_the_workload_that_sent_it() {
    let mesh = Mesh::new();
    let upstream = Upstream::start_tls("HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\nok", mesh.server(SERVER, ALPN));
    let mut proxy = Proxy::new(&serving(with_metrics(), routes("inbound", &["app"])), &[app(&upstream)]);
    mesh.admit(&proxy);
    proxy.peer = Some(mesh.peer(CLIENT, OWN_URI, ALPN).await);
    let metadata = client_metadata();
    let answer = proxy
        .ask(format!(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nx-envoy-peer-metadata-id: {}\r\nx-envoy-peer-metadata: {}\r\n\r\n",
            metadata.id,
            metadata.to_header()
        ))
        .await;
    assert!(header(&answer, "x-envoy-peer-metadata").is_some(), "who asks by saying who it is is told: {answer}");
    assert!(!upstream.asked().contains("x-envoy-peer-metadata"), "{}", upstream.asked());
    let families = proxy.metrics();
    assert_labels(
        only(&families, "istio_requests_total"),
        &[
            ("reporter", "destination"),
            ("source_workload", "client"),
            ("source_workload_namespace", "prod"),
            ("source_app", "client-app"),
            ("source_principal", CLIENT),
            ("destination_workload", "a"),
            ("destination_principal", OWN_URI),
            ("destination_service", "app.prod.svc.cluster.local"),
            ("destination_service_name", "app"),
            ("request_protocol", "http"),
            ("response_code", "201"),
            ("response_flags", "-"),
            ("connection_security_policy", "mutual_tls"),
        ],
    );
    assert_eq!(value(&families, "istio_request_duration_milliseconds_count", &[]), Some(1.0));
}

#[tokio::test]
async fn a_request_of_a_stranger_claims_nothing() {
    let proxy = Proxy::new(&serving(with_metrics(), routes("inbound", &["nowhere"])), &[]);
    let answer = proxy.ask("GET / HTTP/1.1\r\nHost: a.prod\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let families = proxy.metrics();
    assert_labels(
        only(&families, "istio_requests_total"),
        &[
            ("source_workload", "unknown"),
            ("source_principal", "unknown"),
            ("destination_principal", "unknown"),
            ("destination_service_name", "a"),
            ("response_code", "503"),
            ("response_flags", "NC"),
            ("connection_security_policy", "none"),
        ],
    );
    assert_eq!(value(&families, "istio_request_bytes_count", &[]), Some(1.0));
}

#[tokio::test]
async fn a_tcp_connection_is_counted_with_the_workload_that_its_frame_names() {
    let mesh = Mesh::new();
    let upstream = Upstream::start_tls("hello", mesh.server(SERVER, ALPN));
    let mut listener = passing(to_app(Vec::new()));
    listener.filter_chains[0].network_filters = vec![NetworkFilter::MetadataExchange, NetworkFilter::Stats(STATS)];
    let mut proxy = Proxy::new(&listener, &[app(&upstream)]);
    mesh.admit(&proxy);
    proxy.peer = Some(mesh.peer(CLIENT, OWN_URI, lateen_observe::peer_metadata::ALPN).await);
    let mut sent = client_metadata().to_frame();
    sent.extend_from_slice(b"ask\r\n\r\n");
    let answer = proxy.ask(sent).await;
    assert!(answer.ends_with("hello") && answer.len() > 100, "the proxy's own frame comes first: {answer:?}");
    assert_eq!(upstream.asked(), "ask\r\n\r\n", "the frame is not for the application");
    let families = proxy.metrics();
    assert_labels(
        only(&families, "istio_tcp_connections_opened_total"),
        &[
            ("reporter", "destination"),
            ("source_workload", "client"),
            ("source_principal", CLIENT),
            ("destination_workload", "a"),
            ("destination_service_name", "app"),
            ("request_protocol", "tcp"),
            ("connection_security_policy", "mutual_tls"),
        ],
    );
    for (name, expected) in [
        ("istio_tcp_connections_closed_total", 1.0),
        ("istio_tcp_received_bytes_total", 7.0),
        ("istio_tcp_sent_bytes_total", 5.0),
    ] {
        assert_eq!(value(&families, name, &[]), Some(expected), "{name}");
    }
}
