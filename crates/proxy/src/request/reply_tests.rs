//! Answers of the proxy's own, as the client sees them.

use super::LocalReply;
use crate::testing::exchange::{LogFile, Proxy, Upstream, header, serving};
use crate::testing::{cluster, hcm, route, routes};
use lateen_model::dataplane::{
    self, CircuitBreakers, DirectResponse, HttpConnectionManager, HttpFilter, Permission, Principal, Rbac, RbacAction,
    RbacPolicy, Redirect, RedirectPath, RouteAction, RouteConfiguration, RouteSource,
};
use std::time::Duration;

fn defaults() -> HttpConnectionManager {
    hcm(RouteSource::Rds(String::new()))
}

fn with_action(action: RouteAction) -> RouteConfiguration {
    let mut all = routes("inbound", &[]);
    all.virtual_hosts[0].routes = vec![dataplane::Route { action, ..route(&["app"]) }];
    all
}

/// An answer's status, body, flags and details.
struct Answer {
    text: String,
    log: String,
}

/// Asks once, and reads `%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %BYTES_RECEIVED%` of the log.
async fn ask(hcm: HttpConnectionManager, routes: RouteConfiguration, clusters: &[dataplane::Cluster], request: &str) -> Answer {
    let file = LogFile::new();
    let log = file.log("%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %BYTES_RECEIVED% %BYTES_SENT%");
    let proxy = Proxy::new(&serving(HttpConnectionManager { access_log: vec![log], ..hcm }, routes), clusters);
    let text = proxy.ask(request).await;
    Answer { text, log: file.lines(proxy).join("\n") }
}

const GET: &str = "GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
const GRPC: &str =
    "POST /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n";

fn body(text: &str) -> &str {
    text.split_once("\r\n\r\n").expect("a head").1
}

/// An address that refuses connections.
fn refusing() -> String {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    socket.local_addr().expect("bound").to_string()
}

#[tokio::test]
async fn each_reply_has_envoys_status_text_flag_and_details() {
    let app = |endpoints: &[&str]| vec![cluster("app", Some(endpoints))];
    let mut full = cluster("app", Some(&["127.0.0.1:1"]));
    full.circuit_breakers = CircuitBreakers { max_pending_requests: 0, max_connections: 0, ..CircuitBreakers::default() };
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut slow = with_action(route(&["app"]).action);
    if let RouteAction::Forward(forward) = &mut slow.virtual_hosts[0].routes[0].action {
        forward.timeout = Some(Duration::from_millis(20));
    }
    let garbage = Upstream::start("nonsense\r\n\r\n");
    let direct = RouteAction::DirectResponse(DirectResponse { status: 418, body: b"short and stout".to_vec() });
    let table: [(RouteConfiguration, Vec<dataplane::Cluster>, u16, &str, &str); 9] = [
        (routes("inbound", &["nowhere"]), vec![], 503, "", "503 NC cluster_not_found 0 0"),
        (
            RouteConfiguration { virtual_hosts: vec![], ..routes("inbound", &["app"]) },
            vec![],
            404,
            "",
            "404 NR route_not_found 0 0",
        ),
        (routes("inbound", &["app"]), app(&[]), 503, "no healthy upstream", "503 UH no_healthy_upstream 0 19"),
        (
            routes("inbound", &["app"]),
            app(&[&refusing()]),
            503,
            "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure",
            "503 UF upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused} 0 98",
        ),
        (
            routes("inbound", &["app"]),
            vec![full],
            503,
            "upstream connect error or disconnect/reset before headers. reset reason: overflow",
            "503 UO upstream_reset_before_response_started{overflow} 0 81",
        ),
        (
            slow,
            app(&[&silent.local_addr().expect("bound").to_string()]),
            504,
            "upstream request timeout",
            "504 UT response_timeout 0 24",
        ),
        (
            routes("inbound", &["app"]),
            app(&[&garbage.address.to_string()]),
            502,
            "upstream connect error or disconnect/reset before headers. reset reason: protocol error",
            "502 UPE upstream_reset_before_response_started{protocol_error} 0 87",
        ),
        (with_action(direct), vec![], 418, "short and stout", "418 - direct_response 0 15"),
        (
            with_action(RouteAction::Redirect(Redirect {
                scheme: Some("https".to_owned()),
                host: Some("b".to_owned()),
                port: None,
                path: RedirectPath::Keep,
                status: 301,
                strip_query: false,
            })),
            vec![],
            301,
            "",
            "301 - direct_response 0 0",
        ),
    ];
    for (routes, clusters, status, text, log) in table {
        let answer = ask(defaults(), routes, &clusters, GET).await;
        assert!(answer.text.starts_with(&format!("HTTP/1.1 {status} ")), "{log}: {}", answer.text);
        assert_eq!((body(&answer.text), answer.log.as_str()), (text, log));
        assert_eq!(header(&answer.text, "content-length"), Some(text.len().to_string().as_str()), "{log}");
        assert_eq!(header(&answer.text, "content-type"), (!text.is_empty()).then_some("text/plain"), "{log}");
        assert_eq!(header(&answer.text, "server"), Some("istio-envoy"), "{log}");
        assert!(header(&answer.text, "date").is_some_and(|d| d.ends_with(" GMT")), "{log}");
        if status == 301 {
            assert_eq!(header(&answer.text, "location"), Some("https://b/a"));
        }
        if log.contains("UO") {
            assert_eq!(header(&answer.text, "x-envoy-overloaded"), Some("true"));
        }
    }
}

#[tokio::test]
async fn grpc_is_answered_in_its_own_way() {
    for (routes, clusters, code, message) in [
        (routes("inbound", &["nowhere"]), vec![], "14", None),
        (RouteConfiguration { virtual_hosts: vec![], ..routes("inbound", &["app"]) }, vec![], "12", None),
        (routes("inbound", &["app"]), vec![cluster("app", Some(&[]))], "14", Some("no healthy upstream")),
    ] {
        let answer = ask(defaults(), routes, &clusters, GRPC).await.text;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert_eq!(header(&answer, "grpc-status"), Some(code), "{answer}");
        assert_eq!(header(&answer, "grpc-message"), message, "{answer}");
        assert_eq!((header(&answer, "content-type"), body(&answer)), (Some("application/grpc"), ""));
    }
}

#[tokio::test]
async fn a_policy_that_refuses_is_named_in_the_log_and_not_to_the_client() {
    let policy = RbacPolicy {
        name: "ns[prod]-policy[no one]-rule[0]".to_owned(),
        permissions: vec![Permission::Any],
        principals: vec![Principal::Any],
    };
    let rules = Rbac { action: RbacAction::Deny, policies: vec![policy], stat_prefix: String::new() };
    let hcm = HttpConnectionManager { http_filters: vec![HttpFilter::Rbac(rules)], ..defaults() };
    let answer = ask(hcm, routes("inbound", &["app"]), &[], GET).await;
    assert!(answer.text.starts_with("HTTP/1.1 403 ") && body(&answer.text) == "RBAC: access denied", "{}", answer.text);
    assert_eq!(answer.log, "403 - rbac_access_denied_matched_policy[ns[prod]-policy[no_one]-rule[0]] 0 19");
}

#[tokio::test]
async fn a_body_that_came_is_counted_also_when_the_proxy_answers() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut slow = routes("inbound", &["app"]);
    if let RouteAction::Forward(forward) = &mut slow.virtual_hosts[0].routes[0].action {
        forward.timeout = Some(Duration::from_millis(50));
    }
    let clusters = [cluster("app", Some(&[&silent.local_addr().expect("bound").to_string()]))];
    let request = "POST /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 11\r\n\r\nhello world";
    let answer = ask(defaults(), slow, &clusters, request).await;
    assert_eq!(answer.log, "504 UT response_timeout 11 24", "{}", answer.text);
}

#[tokio::test]
async fn what_is_not_a_request_is_logged_too() {
    let answer = ask(defaults(), routes("inbound", &["app"]), &[], "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await;
    assert!(answer.text.starts_with("HTTP/1.1 400 "), "{}", answer.text);
    assert_eq!(answer.log, "400 DPE http1.codec_error 0 11");
    assert!(header(&answer.text, "date").is_some() && header(&answer.text, "server") == Some("istio-envoy"), "{}", answer.text);
    for (request, log) in [
        ("GET / HTTP/1.1\r\n\r\n", "400 - missing_host_header 0 0"),
        ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", "426 DPE low_version 0 16"),
        ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", "400 - path_normalization_failed 0 0"),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "404 - absolute_path_rejected 0 0"),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nConnection: close\r\n\r\n", "404 NR route_not_found 0 0"),
        ("HEAD /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "503 UH no_healthy_upstream 0 0"),
    ] {
        let answer = ask(defaults(), routes("inbound", &["app"]), &[cluster("app", Some(&[]))], request).await;
        assert_eq!(answer.log, log, "{}", answer.text);
    }
}

#[tokio::test]
async fn bodies_are_counted_without_chunks_and_their_ends_named() {
    let chunks = "POST /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let early = "200 UPE upstream_reset_after_response_started{protocol_error} 0 5";
    for (request, response, log) in [
        (
            GET,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n3;a=b\r\nyou\r\n0\r\n\r\n",
            "200 - via_upstream 0 8",
        ),
        (chunks, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", "200 - via_upstream 5 2"),
        (GET, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello", early),
        (GET, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", early),
        (GET, "HTTP/1.1 200 OK\r\n\r\nhello", "200 - via_upstream 0 5"),
    ] {
        let upstream = Upstream::start(response);
        let clusters = [cluster("app", Some(&[&upstream.address.to_string()]))];
        let answer = ask(defaults(), routes("inbound", &["app"]), &clusters, request).await;
        assert_eq!(answer.log, log, "{response:?}: {}", answer.text);
    }
}

#[tokio::test]
async fn flags_are_in_the_order_of_what_happened() {
    let mut retried = routes("inbound", &["app"]);
    if let RouteAction::Forward(forward) = &mut retried.virtual_hosts[0].routes[0].action {
        forward.retry = Some(dataplane::RetryPolicy {
            on: dataplane::RetryOn::CONNECT_FAILURE,
            num_retries: 1,
            per_try_timeout: None,
            retriable_statuses: vec![],
            avoid_previous_hosts: false,
            host_selection_attempts: 1,
            avoid_previous_priorities: None,
            back_off: dataplane::RetryBackOff::default(),
        });
    }
    let answer = ask(defaults(), retried, &[cluster("app", Some(&[&refusing()]))], GET).await;
    assert!(
        answer.log.starts_with("503 URX,UF upstream_reset_before_response_started{remote_connection_failure|"),
        "{}",
        answer.log
    );
    assert!(body(&answer.text).ends_with("reset reason: remote connection failure"), "{}", answer.text);
}

#[tokio::test]
async fn routes_change_the_heads_of_all_answers() {
    let value = |name: &str| dataplane::HeaderMutation {
        remove: vec![],
        set: vec![dataplane::HeaderValueOp {
            name: name.into(),
            value: "v".into(),
            append: dataplane::HeaderAppend::OverwriteOrAdd,
        }],
    };
    let mut changing = routes("inbound", &[]);
    let mut only = route(&["app", "other"]);
    only.response_headers = value("x-route");
    if let RouteAction::Forward(forward) = &mut only.action
        && let dataplane::ClusterSpecifier::Weighted(clusters) = &mut forward.cluster
    {
        clusters.iter_mut().for_each(|c| c.response_headers = value("x-cluster"));
    }
    changing.virtual_hosts[0].routes = vec![only];
    for clusters in [vec![], vec![cluster("app", Some(&[])), cluster("other", Some(&[]))]] {
        let answer = ask(defaults(), changing.clone(), &clusters, GET).await.text;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert_eq!((header(&answer, "x-route"), header(&answer, "x-cluster")), (Some("v"), Some("v")), "{answer}");
    }
}

#[test]
fn a_failed_exchange_tells_that_it_was_retried() {
    let body = |attempts: u32, mut reply: LocalReply| {
        reply.tell_retries(attempts);
        String::from_utf8(reply.body.into_owned()).expect("text")
    };
    let start = "upstream connect error or disconnect/reset before headers. ";
    assert_eq!(body(1, LocalReply::terminated()), format!("{start}reset reason: connection termination"));
    assert_eq!(body(2, LocalReply::terminated()), format!("{start}retried and the latest reset reason: connection termination"));
    assert_eq!(body(2, LocalReply::no_healthy_upstream()), "no healthy upstream");
}
