//! Which pod gets a request, how many may be under way, and which pods get none.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Case;
use crate::shop::{Shop, cluster};
use crate::support::{Load, assert_all_answered, assert_share, count, eventually};

pub(crate) const CASES: &[Case] = &[
    ("round robin", round_robin),
    ("random", random),
    ("least request", least_request),
    ("connections are reused as often as they may", reuse),
    ("requests at once", max_requests),
    ("connections and who waits for them", connections_and_pending),
    ("gateway errors throw out, and all may go", gateway_errors),
    ("at most a share is thrown out, but one", a_share),
];

fn by_pod(report: &Value) -> Vec<u64> {
    report["pods"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).collect()
}

fn round_robin(shop: &Shop) {
    let report = shop.requests(&["http://turns/", "-n", "90"]);
    assert_all_answered(&report, 90);
    assert_eq!(by_pod(&report), [30, 30, 30], "{report:#}");
}

fn random(shop: &Shop) {
    let report = shop.requests(&["http://turns/dice", "-n", "600"]);
    assert_all_answered(&report, 600);
    by_pod(&report).iter().for_each(|pod| assert_share(*pod, 600, 1.0 / 3.0));
    // In turn, the same pod would never be asked twice running.
    let asked = shop.logged_all("/dice", 600);
    let repeated = asked.windows(2).filter(|two| two[0]["upstream_host"] == two[1]["upstream_host"]).count();
    assert!(repeated > 0, "{repeated} of {}", asked.len());
}

fn least_request(shop: &Shop) {
    const REQUESTS: u64 = 400;
    let pods = shop.pods("crowd");
    shop.order(&pods[..1], &json!({"delay": "300ms", "path": "/least"}));
    let report = shop.requests(&["http://least/least", "-n", &REQUESTS.to_string(), "-c", "6"]);
    assert_all_answered(&report, REQUESTS);
    let slow = count(&report, &format!("/pods/{}", pods[0].name));
    // In turn it would be a third. It is the choice of two picks out of nine, and sometimes that of more while it is not busy.
    assert!(slow > 0 && slow * 5 < REQUESTS, "the busy pod got {slow} of {REQUESTS}: {report:#}");
}

fn reuse(shop: &Shop) {
    for (port, connections) in [(80, 1), (81, 5)] {
        assert_all_answered(&shop.requests(&[&format!("http://busy:{port}/"), "-n", "10"]), 10);
        let name = format!("outbound|{port}||busy.shop.svc.cluster.local");
        assert_eq!(shop.stat(&name, "upstream_cx_total"), connections, "port {port}");
    }
}

/// Starts a request that takes a while, and waits until a gauge of the service's cluster shows it.
fn start(shop: &Shop, service: &str, gauge: &str, value: u64) -> Load {
    let load = shop.load(&[&format!("http://{service}/delay/4s"), "-n", "1"]);
    eventually(&format!("{gauge} of {service} is {value}"), || (shop.stat(&cluster(service), gauge) == value).then_some(()));
    load
}

fn assert_overflow(shop: &Shop, service: &str) {
    let path = format!("/overflow/{service}");
    let reply = shop.get(&format!("http://{service}{path}"));
    assert_eq!((reply.status, reply.header("x-envoy-overloaded")), (503, vec!["true"]), "{reply:?}");
    assert!(reply.body.contains("overflow") && reply.seconds < 2.0, "{reply:?}");
    assert_eq!(shop.logged(&path)["response_flags"], "UO");
}

fn max_requests(shop: &Shop) {
    let loads = [1, 2].map(|n| start(shop, "busy", "upstream_rq_active", n));
    assert_overflow(shop, "busy");
    loads.into_iter().for_each(|load| assert_all_answered(&load.finish(), 1));
    assert_eq!(shop.get("http://busy/").status, 200);
}

fn connections_and_pending(shop: &Shop) {
    let first = start(shop, "narrow", "upstream_rq_active", 1);
    let second = start(shop, "narrow", "upstream_rq_pending_active", 1);
    assert_overflow(shop, "narrow");
    [first, second].into_iter().for_each(|load| assert_all_answered(&load.finish(), 1));
    assert_eq!(shop.stat(&cluster("narrow"), "upstream_cx_total"), 1, "the second waited for the first one's connection");
}

/// Addresses of a service's pods that are thrown out.
fn ejected(shop: &Shop, service: &str) -> BTreeSet<String> {
    let endpoints = shop.endpoints(&cluster(service));
    let out = endpoints.iter().filter(|e| e["outlier"] == "ejected");
    out.map(|e| e["address"].as_str().unwrap().to_owned()).collect()
}

fn gateway_errors(shop: &Shop) {
    let pods = shop.pods("crowd");
    shop.order(&pods, &json!({"fail": 500, "path": "/sick/500"}));
    shop.order(&pods, &json!({"fail": 503, "path": "/sick/503"}));
    let report = shop.requests(&["http://sick/sick/500", "-n", "30"]);
    assert_eq!((count(&report, "/statuses/500"), ejected(shop, "sick").len()), (30, 0), "500 is no gateway error: {report:#}");

    let begun = Instant::now();
    let report = shop.requests(&["http://sick/sick/503", "-n", "12"]);
    assert_eq!(count(&report, "/statuses/503"), 12, "{report:#}");
    assert_eq!(shop.taken(&pods, "/sick/503"), 9, "three from each pod");
    assert!(begun.elapsed() < Duration::from_secs(3), "the machine is too slow for this test");
    let reply = shop.get("http://sick/nobody");
    assert_eq!((reply.status, reply.body.as_str()), (503, "no healthy upstream"), "{reply:?}");
    assert_eq!(shop.logged("/nobody")["response_flags"], "UH");

    eventually("all come back", || ejected(shop, "sick").is_empty().then_some(()));
    assert!(begun.elapsed() >= Duration::from_secs(3), "back after {:?}", begun.elapsed());
    let report = shop.requests(&["http://sick/well", "-n", "30"]);
    assert_all_answered(&report, 30);
    assert_eq!(by_pod(&report), [10, 10, 10], "{report:#}");
}

fn a_share(shop: &Shop) {
    let pods = shop.pods("crowd");
    shop.order(&pods[..2], &json!({"fail": 500, "path": "/spared"}));
    let report = shop.requests(&["http://spared/spared", "-n", "60"]);
    assert_eq!(ejected(shop, "spared").len(), 1, "10 % of three pods is none, but one always may go: {report:#}");
    // Half of what is left fails, of 57 or so.
    let (good, bad) = (count(&report, "/statuses/200"), count(&report, "/statuses/500"));
    assert!(good + bad == 60 && bad > 20 && good > 20, "{report:#}");
}
