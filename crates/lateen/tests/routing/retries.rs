//! When a request is tried again, how often, and where.

use std::collections::BTreeSet;

use lateen_testkit::lab::PodStatus;
use serde_json::{Value, json};

use crate::Case;
use crate::shop::{CLIENT, Shop, cluster};
use crate::support::{assert_share, count};

pub(crate) const CASES: &[Case] = &[
    ("conditions on statuses", statuses),
    ("conditions on resets", resets),
    ("connections that are refused", refused_connections),
    ("hosts that were tried", previous_hosts),
    ("time for one try and for all", timeouts),
    ("the number of the try", attempt_count),
    ("retries in flight", in_flight),
];

/// What a request to a path came to: its status and flags, and how often applications were asked.
fn tried(shop: &Shop, pods: &[PodStatus], path: &str, order: &Value) -> (u16, String, u64) {
    let mut order = order.clone();
    order["path"] = path.into();
    shop.order(pods, &order);
    // Nothing is known of what a POST has done already, so that only what the policy says repeats it.
    let reply = shop.curl(CLIENT, &["-X", "POST", &format!("http://sure{path}")]);
    let flags = shop.logged(path)["response_flags"].as_str().unwrap().to_owned();
    (reply.status, flags, shop.taken(pods, path))
}

fn statuses(shop: &Shop) {
    let pods = shop.pods("sure");
    for (prefix, status, tries) in [
        ("/5xx", 500, 3),
        ("/5xx", 599, 3),
        ("/5xx", 404, 1),
        ("/gateway-error", 500, 1),
        ("/gateway-error", 502, 4),
        ("/gateway-error", 503, 4),
        ("/gateway-error", 504, 4),
        ("/4xx", 409, 2),
        ("/4xx", 404, 1),
        ("/codes", 418, 3),
        ("/codes", 503, 1),
        ("/off", 503, 1),
        // Where nothing is written, no status is retried.
        ("/default", 503, 1),
    ] {
        let path = format!("{prefix}/{status}");
        let flags = if tries > 1 { "URX" } else { "-" };
        let found = tried(shop, &pods, &path, &json!({"fail": status}));
        assert_eq!(found, (status, flags.to_owned(), tries), "{path}");
    }
}

fn resets(shop: &Shop) {
    let pods = shop.pods("bare");
    let reset = json!({"close": "before_response"});
    assert_eq!(tried(shop, &pods, "/reset/x", &reset), (503, "URX,UC".to_owned(), 3));
    // The request was sent, and the connection stood.
    assert_eq!(tried(shop, &pods, "/before-request/x", &reset), (503, "UC".to_owned(), 1));
}

/// That a retry of two pods meets the one that failed again: as in Envoy, another one is looked for five times.
const MISSED: f64 = 1.0 / 64.0;

fn refused_connections(shop: &Shop) {
    let refused = |url: &str, requests: u64, share: f64| {
        let report = shop.requests(&[url, "-n", &requests.to_string()]);
        let (good, bad) = (count(&report, "/statuses/200"), count(&report, "/statuses/503"));
        assert_eq!((good + bad, good), (requests, count(&report, "/versions/good")), "{report:#}");
        assert_share(bad, requests, share);
    };
    refused("http://half-strict/off", 60, 0.5);
    refused("http://half-strict/", 200, 0.5 * MISSED);
    // The default policy has one try more.
    refused("http://half/", 60, 0.5 * MISSED * MISSED);
    assert!(shop.stat(&cluster("half"), "upstream_cx_connect_fail") > 0, "the bad one was not tried");
    let flags: BTreeSet<String> = shop.logged_all("/off", 60).iter().map(|e| e["response_flags"].to_string()).collect();
    assert_eq!(flags, BTreeSet::from([r#""-""#.to_owned(), r#""UF""#.to_owned()]));
}

fn previous_hosts(shop: &Shop) {
    let pods = shop.pods("sure");
    for path in ["/5xx/one", "/same"] {
        shop.order(&pods[..1], &json!({"fail": 500, "path": path}));
    }
    let report = shop.requests(&["http://sure/5xx/one", "-n", "100"]);
    assert_share(count(&report, "/statuses/500"), 100, 0.5 * MISSED * MISSED);
    assert!(shop.taken(&pods, "/5xx/one") > 0, "the bad pod was not tried");
    // Both tries may meet the bad pod where that is allowed.
    let report = shop.requests(&["http://sure/same", "-n", "200"]);
    assert_share(count(&report, "/statuses/500"), 200, 0.25);
}

fn timeouts(shop: &Shop) {
    let pods = shop.pods("sure");
    for (path, tries, flags, seconds) in [("/per-try", 3, "URX,UT", 1.2..3.0), ("/cut-short", 2, "UT", 0.69..2.0)] {
        shop.order(&pods, &json!({"hang": true, "path": path}));
        let reply = shop.get(&format!("http://sure{path}"));
        assert_eq!((reply.status, reply.body.as_str()), (504, "upstream request timeout"), "{path}: {reply:?}");
        assert!(seconds.contains(&reply.seconds), "{path}: {reply:?}");
        assert_eq!(shop.taken(&pods, path), tries, "{path}");
        assert_eq!(shop.logged(path)["response_flags"], flags, "{path}");
    }
}

fn attempt_count(shop: &Shop) {
    shop.order(&shop.pods("alone"), &json!({"fail": 503, "next": 2, "path": "/third"}));
    let reply = shop.get("http://sure/third");
    assert_eq!((reply.status, &reply.json()["headers"]["x-envoy-attempt-count"]), (200, &"3".into()), "{reply:?}");
    assert_eq!(shop.logged("/third")["response_flags"], "-");
}

fn in_flight(shop: &Shop) {
    const REQUESTS: u64 = 20;
    let pods = shop.pods("sure");
    // All answers come at about the same time, so that all are to be retried at once.
    for (service, at_once) in [("budget", 2), ("few", 3)] {
        let path = format!("/{service}");
        shop.order(&pods, &json!({"fail": 500, "delay": "2s", "path": path}));
        let (requests, url) = (REQUESTS.to_string(), format!("http://{service}{path}"));
        let report = shop.requests(&[&url, "-n", &requests, "-c", &requests]);
        assert_eq!(count(&report, "/statuses/500"), REQUESTS, "{report:#}");
        let stat = |name: &str| shop.stat(&cluster(service), name);
        let (retried, refused) = (stat("upstream_rq_retry"), stat("upstream_rq_retry_overflow"));
        assert_eq!((retried + refused, shop.taken(&pods, &path)), (REQUESTS, REQUESTS + retried), "{service}");
        assert!((at_once..REQUESTS / 2).contains(&retried), "{service}: {retried} retries, {at_once} at once");
        // Who got a retry has used up all of them; who got none was refused by the breaker.
        let logged = shop.logged_all(&path, 20);
        let flagged = |flag: &str| logged.iter().filter(|e| e["response_flags"] == flag).count() as u64;
        assert_eq!((flagged("URX"), flagged("UO")), (retried, refused), "{service}: {logged:#?}");
    }
}
