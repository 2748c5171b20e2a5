//! The user's scenario, on the user's manifests: every line under "What must be seen" in its README.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::wire::{Capture, contains, not_tls13};
use support::{FRONTEND, Mesh, PRODUCTION, assert_all_answered, assert_share, count, eventually};

const ORDER_V1: &str = "deploy/order-service-v1";
const PAY: &str = "http://payment-service/v1/payments";
const DENIED: &str = "RBAC: access denied";

fn identity(account: &str) -> String {
    format!("spiffe://cluster.local/ns/production/sa/{account}")
}

#[test]
fn the_split_is_95_to_5_and_the_canary_header_leads_to_v2_alone() {
    let mesh = Mesh::start();
    let split = |arguments: &[&str], requests: u64| {
        let report =
            mesh.requests(FRONTEND, "http://order-service/", &[&["-n", &requests.to_string(), "-c", "4"], arguments].concat());
        assert_all_answered(&report, requests);
        (count(&report, "/versions/v1"), count(&report, "/versions/v2"), report)
    };
    let (v1, v2, report) = split(&[], 3000);
    assert_eq!(v1 + v2, 3000, "{report:#}");
    assert_share(v2, 3000, 0.05);
    // Both pods of v1 take part.
    assert_eq!(report["pods"].as_object().unwrap().len(), 3, "{report:#}");
    let (v1, v2, _) = split(&["-H", "x-canary-test:true"], 300);
    assert_eq!((v1, v2), (0, 300));
    // `exact` means the whole value.
    let (_, v2, _) = split(&["-H", "x-canary-test:true!"], 600);
    assert_share(v2, 600, 0.05);
}

#[test]
fn payment_service_answers_what_is_allowed_and_nothing_else() {
    let mesh = Mesh::start();
    let payment = mesh.pods("payment-service");
    let order = [ORDER_V1, "deploy/order-service-v2"];
    for (callers, method, path, status) in [
        (&order[..], "POST", "/v1/payments", 200),
        (&order, "POST", "/v1/payments/", 200),
        (&order, "POST", "/v1/payments/7/refund", 200),
        (&order, "POST", "/v1/payments?of=7", 200),
        (&order, "GET", "/v1/payments", 403),
        (&order, "PUT", "/v1/payments", 403),
        (&order, "DELETE", "/v1/payments/7", 403),
        (&order, "BREW", "/v1/payments", 403),
        (&order, "POST", "/v1/paymentsx", 403),
        (&order, "POST", "/v1", 403),
        (&order, "POST", "/", 403),
        (&order, "POST", "/v1/payments/../admin", 403),
        (&order, "POST", "/v1/payments/%2e%2e/admin", 403),
        (&[FRONTEND, &payment[0]], "POST", "/v1/payments", 403),
        (&[FRONTEND, &payment[0]], "GET", "/", 403),
    ] {
        for caller in callers {
            let reply = mesh.curl(caller, &["-X", method, &format!("http://payment-service{path}")]);
            assert_eq!(reply.status, status, "{caller} {method} {path}: {reply:?}");
            if status == 403 {
                assert_eq!(reply.body, DENIED, "{caller} {method} {path}");
            } else {
                assert_eq!(reply.json()["service_account"], "payment-service-sa", "{caller} {method} {path}");
            }
        }
    }
}

#[test]
fn plain_text_does_not_get_through_and_leaves_no_trace_in_the_application() {
    let mesh = Mesh::start();
    let status = mesh.status();
    let pod = status.with_label(PRODUCTION, "app", "payment-service").next().unwrap();
    mesh.order(&pod.name, &json!({"fail": 599, "path": "/"}));
    let urls = ["http://payment-service.production/v1/payments".to_owned(), format!("http://{}:8080/v1/payments", pod.ip)];
    for url in &urls {
        let reply = mesh.curl("deploy/batch", &["-X", "POST", url]);
        // 52: an empty answer; 56: the connection was reset.
        assert!(reply.status == 0 && matches!(reply.exit, 52 | 56) && reply.body.is_empty(), "{url}: {reply:?}");
    }
    assert_eq!(mesh.taken(&pod.name), 0, "plain text reached the application");
    // That was no accident of the network: batch itself is reachable from the mesh, and by itself.
    for caller in [FRONTEND, "deploy/batch"] {
        assert_eq!(mesh.curl(caller, &["http://batch.legacy/"]).status, 200, "{caller}");
    }
}

#[test]
fn a_503_is_retried_on_another_pod() {
    let mesh = Mesh::start();
    let bad = &mesh.pods("order-service")[0];
    mesh.order(bad, &json!({"fail": 503, "path": "/flaky"}));
    let report = mesh.requests(FRONTEND, "http://order-service/flaky", &["-n", "200", "-c", "2"]);
    assert_all_answered(&report, 200);
    assert!(report["pods"].get(bad.as_str()).is_none() && report["pods"].as_object().unwrap().len() == 2, "{report:#}");
    assert!(mesh.taken(bad) >= 20, "the bad pod was hardly tried");
    let retries: f64 = mesh
        .metric(FRONTEND, "istio_requests_total")
        .iter()
        .filter(|(labels, _)| labels["reporter"] == "source" && labels["response_code"] != "200")
        .map(|(_, value)| value)
        .sum();
    assert!(retries.abs() < 0.5, "a retried request is counted once, with its last answer");
}

#[test]
fn a_hung_pod_is_given_up_after_a_second_a_try_and_three_seconds_in_all() {
    let mesh = Mesh::start();
    let pods = mesh.pods("order-service");
    let v1: Vec<String> = pods.iter().filter(|p| p.contains("-v1-")).cloned().collect();
    mesh.order(&v1[0], &json!({"hang": true, "path": "/slow"}));
    let report = mesh.requests(FRONTEND, "http://order-service/slow", &["-n", "30", "-c", "30"]);
    assert_all_answered(&report, 30);
    assert!(mesh.taken(&v1[0]) > 0, "the hung pod was not tried");
    let slowest = report["latency_ms"]["max"].as_f64().unwrap();
    assert!((1000.0..2900.0).contains(&slowest), "one try lasts 1 s: {report:#}");

    for pod in &pods {
        mesh.order(pod, &json!({"hang": true, "path": "/dead"}));
    }
    let tried = |pods: &[String]| -> u64 { pods.iter().map(|p| mesh.taken(p)).sum() };
    let before = tried(&pods);
    let reply = mesh.curl(FRONTEND, &["http://order-service/dead"]);
    assert_eq!((reply.status, reply.body.as_str()), (504, "upstream request timeout"), "{reply:?}");
    assert!((2.95..3.9).contains(&reply.seconds), "{reply:?}");
    assert_eq!(tried(&pods) - before, 3, "one try a second");
}

#[test]
fn order_service_knows_payment_service_and_istio_system_and_frontend_knows_all() {
    let mesh = Mesh::start();
    let known = |pod: &str, page: &str| -> BTreeSet<String> {
        let all = mesh.admin(pod, page);
        let names = all.as_array().unwrap().iter().filter_map(|c| c["name"].as_str());
        names.filter_map(|n| n.strip_prefix("outbound|")).map(str::to_owned).collect()
    };
    let hosts = |names: &BTreeSet<String>| -> BTreeSet<String> {
        names.iter().map(|n| n.rsplit('|').next().unwrap().trim_end_matches(".svc.cluster.local").to_owned()).collect()
    };
    let payment = "80||payment-service.production.svc.cluster.local".to_owned();
    for pod in mesh.pods("order-service") {
        for page in ["/config/clusters", "/config/endpoints"] {
            let mut names = known(&pod, page);
            assert!(names.remove(&payment), "{pod} {page}: {names:?}");
            assert!(hosts(&names).iter().all(|h| h.ends_with(".istio-system")), "{pod} {page}: {names:?}");
        }
        let dump = mesh.admin(&pod, "/config_dump").to_string();
        for foreign in ["frontend.production", "outbound|80||order-service", "batch.legacy"] {
            assert!(!dump.contains(foreign), "{pod} knows {foreign}");
        }
    }
    let names = known(FRONTEND, "/config/clusters");
    let all = ["batch.legacy", "frontend.production", "order-service.production", "payment-service.production"];
    assert!(all.iter().all(|h| hosts(&names).contains(*h)), "{names:?}");
    for subset in ["v1", "v2"] {
        assert!(names.contains(&format!("80|{subset}|order-service.production.svc.cluster.local")), "{names:?}");
    }
}

/// A sum over the samples of `istio_requests_total` that have these labels.
fn requests_counted(mesh: &Mesh, pods: &[String], wanted: &[(&str, &str)]) -> (u64, Option<BTreeMap<String, String>>) {
    let mut sum = 0.0;
    let mut example = None;
    for pod in pods {
        for (labels, value) in mesh.metric(pod, "istio_requests_total") {
            if wanted.iter().all(|(k, v)| labels.get(*k).is_some_and(|l| l == v)) {
                sum += value;
                example = Some(labels);
            }
        }
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts of a test")]
    (sum.round() as u64, example)
}

#[test]
fn every_hop_is_counted_on_both_sides_with_all_labels() {
    const REQUESTS: u64 = 20;
    let mesh = Mesh::start();
    let url = "http://order-service/call?method=POST&url=http://payment-service/v1/payments";
    let report = mesh.requests(FRONTEND, url, &["-n", &REQUESTS.to_string(), "-H", "x-canary-test:true"]);
    assert_all_answered(&report, REQUESTS);
    let pods = |app: &str| mesh.pods(app);
    let hop = |side: &str, from: (&str, &str, &str), to: (&str, &str, &str)| {
        let side_label = |side: &str, key: &str, value: &str| (format!("{side}_{key}"), value.to_owned());
        let mut expected: BTreeMap<String, String> = BTreeMap::new();
        for (end, (app, workload, version)) in [("source", from), ("destination", to)] {
            expected.extend([
                side_label(end, "workload", workload),
                side_label(end, "workload_namespace", "production"),
                side_label(end, "principal", &identity(&format!("{app}-sa"))),
                side_label(end, "app", app),
                side_label(end, "version", version),
                side_label(end, "cluster", "Kubernetes"),
                side_label(end, "canonical_service", app),
                side_label(end, "canonical_revision", version),
            ]);
        }
        for (key, value) in [
            ("reporter", side),
            ("destination_service", &format!("{}.production.svc.cluster.local", to.0)),
            ("destination_service_name", to.0),
            ("destination_service_namespace", "production"),
            ("request_protocol", "http"),
            ("response_code", "200"),
            ("grpc_response_status", ""),
            ("response_flags", "-"),
            // As Istio: only the server's sidecar has seen the certificate that was asked for.
            ("connection_security_policy", if side == "destination" { "mutual_tls" } else { "unknown" }),
        ] {
            expected.insert(key.to_owned(), value.to_owned());
        }
        let reporting = pods(if side == "source" { from.0 } else { to.0 });
        let wanted = [("reporter", side), ("destination_service_name", to.0)];
        let example = eventually(&format!("{REQUESTS} requests from {} to {} counted at the {side}", from.0, to.0), || {
            let (sum, example) = requests_counted(&mesh, &reporting, &wanted);
            (sum == REQUESTS).then_some(example?)
        });
        assert_eq!(example, expected, "{side} of {} to {}", from.0, to.0);
    };
    let frontend = ("frontend", "frontend", "v1");
    let order = ("order-service", "order-service-v2", "v2");
    let payment = ("payment-service", "payment-service", "v1");
    for side in ["source", "destination"] {
        hop(side, frontend, order);
        hop(side, order, payment);
    }
}

/// A collector of spans where every Sidecar of the scenario can see it, and all traces sampled.
const TRACING: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: istio-system}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    enableTracing: true
    defaultConfig: {tracing: {sampling: 100}}
    extensionProviders:
    - name: collector
      opentelemetry: {service: collector.istio-system.svc.cluster.local, port: 4317}
    defaultProviders: {tracing: [collector]}
---
apiVersion: v1
kind: Service
metadata: {name: collector, namespace: istio-system}
spec:
  selector: {app: collector}
  ports: [{name: grpc-otlp, port: 4317, targetPort: 4317}]
---
apiVersion: v1
kind: Pod
metadata: {name: collector, namespace: istio-system, labels: {app: collector}}
spec:
  containers:
  - name: app
    command: ["lateen", "echo", "--port", "8080", "--otlp", "4317"]
    readinessProbe: {httpGet: {path: /healthz, port: 8080}}
"#;

#[test]
fn one_trace_spans_all_hops() {
    let mesh = Mesh::start_with(TRACING, &[]);
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = "00f067aa0ba902b7";
    let reply = mesh.curl(
        FRONTEND,
        &["-H", &format!("traceparent: 00-{TRACE}-{parent}-01"), &format!("http://order-service/call?method=POST&url={PAY}")],
    );
    assert_eq!(reply.json()["status"], 200, "{reply:?}");
    let collected = || {
        let url = format!("http://localhost:8080/traces/{TRACE}");
        mesh.up.exec_json("istio-system", "collector", &["curl", "-s", "-m", "20", &url]).unwrap()
    };
    let spans = eventually("four spans of one trace", || {
        let spans = collected()["spans"].as_array()?.clone();
        (spans.len() >= 4).then_some(spans)
    });
    // Each span's parent is the one before it: client and server of the first hop, then of the second.
    let mut parent = parent.to_owned();
    let mut chain = Vec::new();
    while let Some(span) = spans.iter().find(|s| s["parent_span_id"] == parent.as_str()) {
        span["span_id"].as_str().unwrap().clone_into(&mut parent);
        chain.push((span["service"].as_str().unwrap().to_owned(), span["kind"].as_str().unwrap()));
    }
    let services: Vec<&str> = chain.iter().map(|(s, _)| s.split('.').next().unwrap()).collect();
    assert_eq!(services, ["frontend", "order-service", "order-service", "payment-service"], "{spans:#?}");
    let kinds: Vec<&str> = chain.iter().map(|(_, k)| *k).collect();
    assert_eq!(kinds, ["client", "server", "client", "server"], "{spans:#?}");
    assert_eq!(spans.len(), 4, "{spans:#?}");

    // A trace that nobody has begun is begun by the first sidecar.
    let reply = mesh.curl(FRONTEND, &[&format!("http://order-service/call?method=POST&url={PAY}")]).json();
    let begun = reply["body"]["headers"]["traceparent"].as_str().unwrap().split('-').nth(1).unwrap().to_owned();
    eventually("four spans of the begun trace", || {
        let url = format!("http://localhost:8080/traces/{begun}");
        let trace = mesh.up.exec_json("istio-system", "collector", &["curl", "-s", "-m", "20", &url]).unwrap();
        (trace["spans"].as_array()?.len() == 4).then_some(())
    });
}

/// Addresses of the payment-service pods that a pod's sidecar has ejected.
fn ejected(mesh: &Mesh, pod: &str) -> Vec<String> {
    let endpoints = mesh.endpoints(PRODUCTION, pod, "payment-service");
    let out = endpoints.iter().filter(|e| e["outlier"] == "ejected");
    out.map(|e| e["address"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn five_5xx_in_a_row_eject_a_pod_never_more_than_half_and_it_comes_back() {
    let mesh = Mesh::start();
    // Ejection is each caller's own: one pod calls.
    let caller = &mesh.pods("order-service")[0];
    let status = mesh.status();
    let payment: Vec<_> = status.with_label(PRODUCTION, "app", "payment-service").collect();
    let pay = |requests: &str| mesh.requests(caller, PAY, &["-X", "POST", "-n", requests]);
    // 500 is not one of the statuses that Istio retries by default.
    mesh.order(&payment[0].name, &json!({"fail": 500, "path": "/v1"}));
    let report = pay("60");
    let since = Instant::now();
    assert_eq!((count(&report, "/statuses/500"), count(&report, "/statuses/200")), (5, 55), "{report:#}");
    assert_eq!(ejected(&mesh, caller), [format!("{}:8080", payment[0].ip)]);
    assert_eq!(mesh.taken(&payment[0].name), 5, "an ejected pod gets nothing");

    mesh.order(&payment[1].name, &json!({"fail": 500, "path": "/v1"}));
    let report = pay("20");
    assert_eq!(count(&report, "/statuses/500"), 20, "{report:#}");
    assert_eq!(ejected(&mesh, caller).len(), 1, "50 % of two pods is one");

    for pod in &payment {
        mesh.reset(&pod.name);
    }
    eventually("the ejected pod comes back", || ejected(&mesh, caller).is_empty().then_some(()));
    assert!(since.elapsed() >= Duration::from_secs(9), "back after {:?}, not 10 s", since.elapsed());
    let report = pay("60");
    assert_all_answered(&report, 60);
    assert_eq!(report["pods"].as_object().unwrap().len(), 2, "{report:#}");
}

#[test]
fn more_than_100_requests_fail_fast_with_503_and_the_flag_uo() {
    let mesh = Mesh::start_with(ACCESS_LOG, &[]);
    let caller = &mesh.pods("order-service")[0];
    for pod in mesh.pods("payment-service") {
        mesh.order(&pod, &json!({"delay": "3s", "path": "/v1"}));
    }
    let load = mesh.load(caller, PAY, &["-X", "POST", "-c", "150"]);
    let cluster = |name: &str| {
        let all = mesh.admin(caller, "/clusters");
        let found = all.as_array().unwrap().iter().find(|c| c["name"].as_str().unwrap().contains("payment-service")).cloned();
        count(&found.unwrap(), &format!("/stats/{name}"))
    };
    eventually("a hundred requests wait and others overflow", || {
        (cluster("upstream_rq_active") == 100 && cluster("upstream_rq_pending_overflow") > 0).then_some(())
    });
    let fast = eventually("an overflow", || {
        let reply = mesh.curl(caller, &["-X", "POST", PAY]);
        (reply.status == 503).then_some(reply)
    });
    assert!(fast.seconds < 1.0 && fast.body.contains("overflow") && fast.head.contains("x-envoy-overloaded: true"), "{fast:?}");
    let report = load.end();
    assert!(
        count(&report, "/statuses/503") > 0 && report["statuses"].as_object().unwrap().keys().all(|s| s == "200" || s == "503")
    );
    let overflowed = [("reporter", "source"), ("response_code", "503"), ("response_flags", "UO")];
    let (sum, _) = requests_counted(&mesh, std::slice::from_ref(caller), &overflowed);
    assert!(sum > 0, "{:#?}", mesh.metric(caller, "istio_requests_total"));
}

const ACCESS_LOG: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: istio-system}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    accessLogFile: /dev/stdout
";

#[test]
fn the_wire_between_pods_carries_tls_13_and_nothing_else() {
    const MARKER: &str = "an-unmistakable-marker";
    let mesh = Mesh::start();
    let status = mesh.status();
    let pod = |app: &str| status.pods.iter().find(|p| p.labels.get("app").is_some_and(|v| v == app)).unwrap();
    let addresses: BTreeSet<String> = status.pods.iter().filter(|p| p.proxy_pid.is_some()).map(|p| p.ip.clone()).collect();
    let capture = Capture::start(pod("frontend").app_pids[0]);
    let far = Capture::start(pod("payment-service").app_pids[0]);
    let header = format!("x-marker: {MARKER}");
    let call = format!("http://order-service/call?method=POST&body={MARKER}&url={PAY}/{MARKER}");
    for _ in 0..20 {
        let reply = mesh.curl(FRONTEND, &["-H", &header, "-d", MARKER, &call]);
        assert_eq!(reply.json()["status"], 200, "{reply:?}");
        assert!(reply.body.contains(MARKER), "{reply:?}");
    }
    // Proof that the eyes are open: to a pod without a sidecar it is plain text.
    let reply = mesh.curl(FRONTEND, &["-H", &header, "http://batch.legacy/"]);
    assert_eq!(reply.status, 200, "{reply:?}");
    eventually("plain text on its way to batch", || capture.has_seen(MARKER).then_some(()));
    let (near, far) = (capture.stop(), far.stop());
    let batch = pod("batch").ip.clone();
    assert!(near.iter().any(|(flow, bytes)| flow.to.ip().to_string() == batch && contains(bytes, MARKER)));

    let mut seen = BTreeSet::new();
    for (flow, bytes) in near.iter().chain(&far) {
        let ends = [flow.from, flow.to].map(|end| end.ip().to_string());
        if !ends.iter().all(|ip| addresses.contains(ip)) {
            continue;
        }
        assert!(!contains(bytes, MARKER) && !contains(bytes, "HTTP/1.1"), "plain text in {flow:?}");
        assert!([flow.from, flow.to].iter().any(|end| end.port() == 8080), "{flow:?}");
        assert_eq!(not_tls13(bytes, flow.to.port() == 8080), None, "{flow:?}");
        seen.insert(flow.to.ip().to_string());
    }
    for app in ["frontend", "payment-service"] {
        assert!(seen.contains(&pod(app).ip), "nothing was seen at {app}: {seen:?}");
    }
}

/// The sidecars of production are told that frontend has an identity that it does not have.
const WRONG_IDENTITY: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: frontend, namespace: production}
spec:
  host: frontend
  trafficPolicy:
    tls: {mode: ISTIO_MUTUAL, subjectAltNames: ['spiffe://cluster.local/ns/production/sa/somebody-else']}
";

#[test]
fn both_sides_have_verified_the_identity_of_the_other() {
    let mesh = Mesh::start_with(WRONG_IDENTITY, &[]);
    let status = mesh.status();
    for pod in status.pods.iter().filter(|p| p.proxy_pid.is_some()) {
        let secrets = mesh.admin(&pod.name, "/config/secrets");
        let own = secrets.as_array().unwrap().iter().find(|s| s["name"] == "default").unwrap();
        assert_eq!(own["identity"], identity(&pod.service_account), "{secrets:#}");
        assert_eq!(own["valid"], true, "{secrets:#}");
        // The key is in memory only: no page and no file shows it.
        let dump = mesh.admin(&pod.name, "/config_dump").to_string();
        assert!(!dump.contains("PRIVATE KEY"));
    }
    // What the server's sidecar has verified, it tells the application.
    for (caller, account) in [(FRONTEND, "frontend-sa"), ("deploy/payment-service", "payment-service-sa")] {
        let seen: Value =
            mesh.curl(caller, &["-H", "x-forwarded-client-cert: By=forged;URI=spiffe://forged", "http://order-service/"]).json();
        let certificate = seen["headers"]["x-forwarded-client-cert"].as_str().unwrap_or_else(|| panic!("{seen:#}"));
        assert!(certificate.contains(&format!("By={};", identity("order-service-sa"))), "{certificate}");
        assert!(certificate.ends_with(&format!("URI={}", identity(account))) && !certificate.contains("forged"), "{certificate}");
    }
    // What the client's sidecar expects, the server must have.
    let reply = mesh.curl("deploy/payment-service", &["http://frontend/"]);
    assert_eq!(reply.status, 503, "{reply:?}");
    assert!(reply.body.contains("upstream connect error"), "{reply:?}");
    mesh.edit("more.yaml", |text| text.replace("somebody-else", "frontend-sa"));
    eventually("the right identity is accepted", || {
        (mesh.curl("deploy/payment-service", &["http://frontend/"]).status == 200).then_some(())
    });
}
