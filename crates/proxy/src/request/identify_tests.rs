//! What the upstream sees of a request.

use crate::http::Names;
use crate::testing::exchange::{Mesh, Proxy, Upstream, header, serving};
use crate::testing::{OWN_URI, cluster, hcm, routes};
use lateen_model::dataplane::{ForwardClientCert, HttpConnectionManager, RouteSource};

const CLIENT: &str = "spiffe://cluster.local/ns/prod/sa/client";

fn defaults() -> HttpConnectionManager {
    hcm(RouteSource::Rds(String::new()))
}

struct Bench {
    proxy: Proxy,
    upstream: Upstream,
}

impl Bench {
    fn new(hcm: HttpConnectionManager) -> Self {
        let upstream = Upstream::start("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        let clusters = [cluster("app", Some(&[&upstream.address.to_string()]))];
        Self { proxy: Proxy::new(&serving(hcm, routes("inbound", &["app"])), &clusters), upstream }
    }

    /// With a client that proved who it is.
    async fn of_the_mesh(mut self) -> Self {
        self.proxy.peer = Some(Mesh::new().peer(CLIENT, OWN_URI, "istio-http/1.1").await);
        self
    }

    /// What the upstream got of a request with these headers.
    async fn seen(&self, headers: &str) -> String {
        let answer = self.proxy.ask(format!("GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        self.upstream.asked()
    }
}

#[tokio::test]
async fn strangers_steer_nothing() {
    let bench = Bench::new(defaults());
    let seen = bench
        .seen(
            "x-envoy-upstream-rq-timeout-ms: 1\r\nx-envoy-max-retries: 9\r\nx-envoy-retry-on: 5xx\r\nX-Envoy-Internal: true\r\n\
             x-envoy-decorator-operation: o\r\nx-envoy-original-path: /p\r\nx-envoy-anything-new: 1\r\nx-istio-attributes: a\r\n\
             x-forwarded-proto: https\r\nx-forwarded-host: evil\r\nx-forwarded-port: 1\r\nx-mine: kept\r\n",
        )
        .await;
    assert!(!seen.contains("x-envoy-") && !seen.contains("x-istio-attributes"), "{seen}");
    assert!(!seen.contains("evil") && !seen.contains("x-forwarded-port"), "{seen}");
    assert_eq!(header(&seen, "x-forwarded-proto"), Some("http"));
    assert_eq!(header(&seen, "x-mine"), Some("kept"));
}

#[tokio::test]
async fn peers_of_the_mesh_may_tell_and_not_steer() {
    let steering: String = crate::http::KnownHeader::ALL
        .iter()
        .filter(|known| Names::STEERING.has(**known) && **known != crate::http::KnownHeader::XEnvoyExpectedRqTimeoutMs)
        .map(|known| format!("{}: 9\r\n", known.as_str()))
        .collect();
    let bench = Bench::new(defaults()).of_the_mesh().await;
    let seen = bench
        .seen(&format!(
            "{steering}x-envoy-expected-rq-timeout-ms: 9\r\nx-envoy-original-path: /o\r\nx-forwarded-proto: https\r\n"
        ))
        .await;
    assert_eq!(seen.matches("x-envoy-").count(), 1 + usize::from(seen.contains("x-envoy-attempt-count")), "{seen}");
    assert_eq!(header(&seen, "x-envoy-original-path"), Some("/o"));
    assert_eq!(header(&seen, "x-forwarded-proto"), Some("https"));
    // Its sidecar was no HTTP proxy, or it would have said.
    assert_eq!(header(&bench.seen("").await, "x-forwarded-proto"), Some("https"));
}

#[tokio::test]
async fn the_clients_certificate_in_each_mode() {
    let forged = "x-forwarded-client-cert: By=forged\r\n";
    let own = |xfcc: &str| {
        let start = format!("By={OWN_URI};Hash=");
        let (hash, rest) = xfcc.split_once(&start).and_then(|(_, r)| r.split_once(';')).expect(xfcc);
        assert!(hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()), "{xfcc}");
        assert!(rest.starts_with("Subject=\"") && rest.ends_with(&format!("\";URI={CLIENT}")), "{xfcc}");
    };
    for mode in [
        ForwardClientCert::Sanitize,
        ForwardClientCert::AppendForward,
        ForwardClientCert::SanitizeSet,
        ForwardClientCert::ForwardOnly,
    ] {
        let with = || Bench::new(HttpConnectionManager { forward_client_cert: mode, ..defaults() });
        let plain = with().seen(forged).await;
        let mesh = with().of_the_mesh().await.seen(forged).await;
        let alone = with().of_the_mesh().await.seen("").await;
        let [plain, mesh, alone] = [&plain, &mesh, &alone].map(|s| header(s, "x-forwarded-client-cert"));
        match mode {
            ForwardClientCert::Sanitize => assert_eq!([plain, mesh, alone], [None; 3]),
            ForwardClientCert::ForwardOnly => assert_eq!([plain, mesh, alone], [Some("By=forged"), Some("By=forged"), None]),
            ForwardClientCert::SanitizeSet => {
                assert_eq!(plain, None, "{mode:?}");
                own(mesh.expect("set"));
                assert!(!mesh.expect("set").contains("forged"), "{mesh:?}");
                own(alone.expect("set"));
            }
            ForwardClientCert::AppendForward => {
                assert_eq!(plain, None, "without mTLS nobody vouches for it");
                assert!(mesh.expect("set").starts_with("By=forged,By="), "{mesh:?}");
                own(mesh.expect("set"));
                own(alone.expect("set"));
            }
        }
    }
}

#[tokio::test]
async fn every_request_has_an_id() {
    let is_uuid = |id: &str| id.len() == 36 && id.as_bytes()[14] == b'4' && id.matches('-').count() == 4;
    let bench = Bench::new(defaults());
    let made = bench.seen("").await;
    assert!(is_uuid(header(&made, "x-request-id").expect("one")), "{made}");
    assert_eq!(header(&bench.seen("x-request-id: mine\r\n").await, "x-request-id"), Some("mine"), "a sidecar keeps it");

    let edge = HttpConnectionManager { use_remote_address: true, ..defaults() };
    let replaced = Bench::new(edge.clone()).seen("x-request-id: mine\r\n").await;
    assert!(is_uuid(header(&replaced, "x-request-id").expect("one")), "a gateway does not: {replaced}");
    let kept = Bench::new(HttpConnectionManager { preserve_external_request_id: true, ..edge });
    assert_eq!(header(&kept.seen("x-request-id: mine\r\n").await, "x-request-id"), Some("mine"), "unless it is told to");
    let none = Bench::new(HttpConnectionManager { generate_request_id: false, ..defaults() });
    assert_eq!(header(&none.seen("").await, "x-request-id"), None);
}

#[tokio::test]
async fn the_clients_address() {
    let sidecar = Bench::new(defaults());
    let seen = sidecar.seen("x-forwarded-for: 1.2.3.4\r\n").await;
    assert_eq!(header(&seen, "x-forwarded-for"), Some("1.2.3.4"), "a sidecar adds nothing");
    let edge = Bench::new(HttpConnectionManager { use_remote_address: true, ..defaults() });
    let seen = edge.seen("x-forwarded-for: 1.2.3.4\r\nx-forwarded-for: 5.6.7.8\r\n").await;
    assert_eq!(header(&seen, "x-forwarded-for"), Some("1.2.3.4,5.6.7.8,10.9.9.9"));
    let seen = edge.seen("x-envoy-external-address: 1.2.3.4\r\n").await;
    assert_eq!(header(&seen, "x-envoy-external-address"), Some("10.9.9.9"), "a gateway tells, whatever it was told");
    assert_eq!(header(&sidecar.seen("x-envoy-external-address: 1.2.3.4\r\n").await, "x-envoy-external-address"), None);
}

#[tokio::test]
async fn one_form_of_every_path() {
    let bench = Bench::new(defaults());
    for (sent, expected) in [("/a/../b?x=/../y", "/b?x=/../y"), ("/a\\b", "/a/b"), ("/a%2Fb", "/a%2Fb"), ("/a//b", "/a//b")] {
        let answer = bench.proxy.ask(format!("GET {sent} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let asked = bench.upstream.asked();
        assert_eq!(asked.split(' ').nth(1), Some(expected), "{sent}");
    }
}

#[tokio::test]
async fn upgrades_that_nobody_allowed() {
    let bench = Bench::new(defaults());
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade, close\r\nUpgrade: other\r\n\r\n", 403),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nConnection: close\r\n\r\n", 404),
    ] {
        let answer = bench.proxy.ask(request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    assert_eq!(bench.upstream.asked(), "", "and nothing went on");
}
