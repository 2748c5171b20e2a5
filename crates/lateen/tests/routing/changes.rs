//! What routes change, and what they answer themselves.

use serde_json::Value;

use crate::Case;
use crate::shop::{CLIENT, Shop};
use crate::support::Reply;

pub(crate) const CASES: &[Case] = &[
    ("header operations", headers),
    ("hosts by header operations", hosts),
    ("header operations of weighted destinations", weighted_headers),
    ("rewritten paths", rewritten_paths),
    ("rewritten authorities", rewritten_authorities),
    ("redirects", redirects),
    ("direct responses", direct_responses),
    ("timeouts", timeouts),
    ("request ids", request_ids),
    ("the number of the try", attempt_count),
];

/// What the application saw.
fn seen(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()
}

fn headers(shop: &Shop) {
    let sent = ["x-set: client", "x-original: orig", "x-add: client", "x-remove: r", "x-remove-too: r"];
    let arguments: Vec<&str> = sent.iter().flat_map(|h| ["-H", h]).chain(["http://api/headers"]).collect();
    let reply = shop.curl(CLIENT, &arguments);
    let app = seen(&reply);
    for (name, expected) in [
        ("x-set", "route"),
        ("x-both", "destination"),
        ("x-protocol", "HTTP/1.1"),
        ("x-copy", "orig"),
        ("x-percent", "100%"),
        ("x-add", "client, added, twice"),
        ("x-new", "new"),
    ] {
        assert_eq!(app["headers"][name], expected, "{name}: {app:#}");
    }
    for name in ["x-remove", "x-remove-too"] {
        assert!(app["headers"].get(name).is_none(), "{app:#}");
    }
    for (name, expected) in [
        ("x-echo-version", vec!["replaced"]),
        ("x-status", vec!["was 200"]),
        ("content-language", vec!["en"]),
        ("x-twice", vec!["one", "two"]),
        ("x-echo-pod", vec![]),
    ] {
        assert_eq!(reply.header(name), expected, "{name}: {reply:?}");
    }
}

fn hosts(shop: &Shop) {
    for (path, expected) in [("/host-by-header", "by-header.example"), ("/host-by-destination", "by-destination.example")] {
        let app = seen(&shop.get(&format!("http://api{path}")));
        assert_eq!(app["authority"], expected, "{app:#}");
    }
}

fn weighted_headers(shop: &Shop) {
    let mut versions = std::collections::BTreeSet::new();
    // That one of two branches is not taken in 60 requests: 0.75^60, one in thirty million.
    for _ in 0..60 {
        let reply = shop.get("http://split/");
        let app = seen(&reply);
        let (branch, host) = match app["version"].as_str().unwrap() {
            "v1" => ("first", "split"),
            _ => ("second", "second.example"),
        };
        assert_eq!((&app["headers"]["x-branch"], &app["authority"]), (&branch.into(), &host.into()), "{app:#}");
        assert_eq!(app["headers"]["x-both"], "route", "the route's own is applied last");
        assert_eq!(reply.header("x-branch"), [branch]);
        versions.insert(branch);
        if versions.len() == 2 {
            return;
        }
    }
    panic!("only {versions:?}");
}

fn rewritten_paths(shop: &Shop) {
    for (path, expected, query) in [
        ("/old", "/new", None),
        ("/old/deeper?q=1", "/new/deeper", Some("q=1")),
        ("/older", "/newer", None),
        ("/strip/a/b", "/a/b", None),
        ("/whole?q=1", "/other/path", Some("q=1")),
        ("/r123?q=1", "/numbered", Some("q=1")),
        ("/service/seven/v1/api?q=%20", "/v1/api/instance/seven", Some("q=%20")),
        // The expression finds nothing to replace; the path is told nevertheless.
        ("/service/seven", "/service/seven", None),
    ] {
        let app = seen(&shop.get(&format!("http://api{path}")));
        assert_eq!((&app["path"], app["query"].as_str()), (&expected.into(), query), "{path}: {app:#}");
        let original = app["headers"]["x-envoy-original-path"].as_str();
        assert_eq!(original, Some(path), "{path}: {app:#}");
        assert_eq!(shop.logged(path)["path"], path, "the log has the path that was asked for");
    }
}

fn rewritten_authorities(shop: &Shop) {
    let app = seen(&shop.get("http://api/authority"));
    assert_eq!((&app["authority"], &app["path"]), (&"elsewhere.example".into(), &"/authority".into()), "{app:#}");
    let app = seen(&shop.get("http://api/both/x"));
    assert_eq!((&app["authority"], &app["path"]), (&"host.example".into(), &"/path/x".into()), "{app:#}");
}

fn redirects(shop: &Shop) {
    for (url, status, location) in [
        ("http://api/redirect/uri?q=1", 301, "http://api/there?q=1"),
        ("http://api/redirect/query?q=1", 301, "http://api/there?own=1"),
        ("http://api/redirect/authority?q=1", 302, "http://a.example/redirect/authority?q=1"),
        ("http://api/redirect/scheme", 308, "https://api/redirect/scheme"),
        ("http://api/redirect/port", 307, "https://api:8443/redirect/port"),
        ("http://api/redirect/default-port", 303, "https://api/redirect/default-port"),
        ("http://api/redirect/request-port", 301, "https://api:80/redirect/request-port"),
        ("http://api/redirect/prefix/rest?q=1", 301, "http://b.example/moved/rest?q=1"),
    ] {
        let reply = shop.get(url);
        assert_eq!((reply.status, reply.header("location")), (status, vec![location]), "{url}: {reply:?}");
    }
    // The host is told as the client wrote it, but for the port of a scheme that is changed.
    let reply = shop.curl(CLIENT, &["http://api/redirect/uri", "-H", "Host: api.shop:80"]);
    assert_eq!(reply.header("location"), ["http://api.shop:80/there"]);
    let reply = shop.curl(CLIENT, &["http://api/redirect/scheme", "-H", "Host: api.shop:80"]);
    assert_eq!(reply.header("location"), ["https://api.shop/redirect/scheme"]);
}

fn direct_responses(shop: &Shop) {
    let reply = shop.get("http://web/json");
    assert_eq!((reply.status, reply.body.as_str()), (418, r#"{"a":1}"#), "{reply:?}");
    assert_eq!((reply.header("content-type"), reply.header("x-set")), (vec!["application/json"], vec!["by-route"]), "{reply:?}");
    let entry = shop.logged("/json");
    assert_eq!(
        (&entry["response_code_details"], &entry["upstream_host"]),
        (&"direct_response".into(), &Value::Null),
        "{entry:#}"
    );
    let reply = shop.get("http://api/redirect/uri");
    assert_eq!(reply.header("x-set"), ["by-redirect"], "{reply:?}");
    let reply = shop.get("http://web/bodiless");
    assert_eq!((reply.status, reply.body.as_str(), reply.header("content-type")), (503, "", vec![]), "{reply:?}");
    // HEAD has the same head, and no body.
    let reply = shop.curl(CLIENT, &["-I", "http://web/json"]);
    assert_eq!((reply.status, reply.header("content-length"), reply.body.as_str()), (418, vec!["7"], ""), "{reply:?}");
}

fn timeouts(shop: &Shop) {
    let reply = shop.get("http://api/delay/5s");
    assert_eq!((reply.status, reply.body.as_str()), (504, "upstream request timeout"), "{reply:?}");
    assert!((0.49..4.0).contains(&reply.seconds), "{reply:?}");
    assert_eq!(shop.logged("/delay/5s")["response_flags"], "UT");
    let app = seen(&shop.get("http://api/delay/10ms"));
    assert!(
        app["headers"].get("x-envoy-expected-rq-timeout-ms").is_none(),
        "what is said of time is believed from nobody: {app:#}"
    );
    // Zero is none.
    let reply = shop.get("http://api/unlimited");
    assert!(reply.seconds >= 1.0, "{reply:?}");
}

fn request_ids(shop: &Shop) {
    let id_of = |reply: &Reply| seen(reply)["headers"]["x-request-id"].as_str().unwrap().to_owned();
    let made = id_of(&shop.get("http://plain/made-id"));
    let shape: Vec<usize> = made.split('-').map(str::len).collect();
    assert!(shape == [8, 4, 4, 4, 12] && made.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit()), "{made}");
    assert_ne!(made, id_of(&shop.get("http://plain/made-id")));
    // The application's own id is kept, and both sidecars log it.
    let own = "0f5a1d9e-0000-4000-8000-00000000000a";
    let reply = shop.curl(CLIENT, &["http://plain/own-id", "-H", &format!("x-request-id: {own}")]);
    assert_eq!(id_of(&reply), own);
    let server = seen(&reply)["pod"].as_str().unwrap().to_owned();
    for pod in [CLIENT, &server] {
        assert_eq!(shop.logged_at(pod, "/own-id")["request_id"], own, "{pod}");
    }
}

fn attempt_count(shop: &Shop) {
    let app = seen(&shop.get("http://plain/first-try"));
    assert_eq!(app["headers"]["x-envoy-attempt-count"], "1", "{app:#}");
}
