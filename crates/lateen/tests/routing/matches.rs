//! Which route a request takes.

use lateen_testkit::lab::PodStatus;

use crate::Case;
use crate::shop::{CLIENT, Shop};
use crate::support::{assert_all_answered, assert_share, count};

pub(crate) const CASES: &[Case] = &[
    ("paths", paths),
    ("scheme, method and authority", scheme_method_and_authority),
    ("headers", headers),
    ("query parameters", query_parameters),
    ("port, source and gateway", port_source_and_gateway),
    ("alternatives and order", alternatives_and_order),
    ("route names in the access log", names),
    ("subsets and missing destinations", destinations),
    ("weights", weights),
    ("services without rules", unruled),
    ("a Sidecar's scope", scope),
];

/// Each request is answered with the name of the route that it took; an empty name is none.
fn check(shop: &Shop, table: &[(&str, &[&str], &str)]) {
    for (pod, arguments, expected) in table {
        let reply = shop.curl(pod, arguments);
        let status = if expected.is_empty() { 404 } else { 200 };
        assert_eq!((reply.status, reply.body.as_str()), (status, *expected), "{pod} {arguments:?}: {reply:?}");
    }
}

fn of_client<'a>(table: &'a [(&'a [&'a str], &'a str)]) -> Vec<(&'static str, &'a [&'a str], &'a str)> {
    table.iter().map(|(arguments, expected)| (CLIENT, *arguments, *expected)).collect()
}

fn paths(shop: &Shop) {
    let table = [
        ("/exact", "exact"),
        ("/exact?and=query", "exact"),
        ("/exact/", ""),
        ("/EXACT", ""),
        ("/exactly", ""),
        ("/caseless", "caseless"),
        ("/CASELESS", "caseless"),
        ("/caselessly", ""),
        ("/prefix", "prefix"),
        ("/prefix/deeper", "prefix"),
        ("/prefixed", "prefix"),
        ("/Prefix", ""),
        ("/folder/x", "folder"),
        ("/FOLDER/", "folder"),
        ("/folder", ""),
        ("/v1/items", "regex"),
        ("/v22/items/abc", "regex"),
        ("/v1/items?sort=up", "regex"),
        ("/v1/items/ABC", ""),
        ("/v1/items/abc/d", ""),
        ("/x/v1/items", ""),
        ("/", ""),
    ];
    for (path, expected) in table {
        check(shop, &[(CLIENT, &[&format!("http://web{path}")], expected)]);
    }
}

fn scheme_method_and_authority(shop: &Shop) {
    check(
        shop,
        &of_client(&[
            (&["http://web/scheme"], "http"),
            (&["http://web/scheme/of/others"], ""),
            (&["http://web/method", "-X", "PUT"], "put"),
            (&["http://web/method", "-X", "POST"], "p-regex"),
            (&["http://web/method"], ""),
            (&["http://web/method", "-X", "OPTIONS"], ""),
            (&["http://web.shop/authority"], "authority"),
            (&["http://web.shop.svc/authority"], "authority-prefix"),
            (&["http://web.shop.svc.cluster.local/authority"], "authority-prefix"),
            (&["http://web/authority"], ""),
            // Hosts are one for routing, and another text for a match.
            (&["http://web.shop/authority", "-H", "Host: web.shop:80"], ""),
        ]),
    );
}

fn headers(shop: &Shop) {
    const URL: &str = "http://web/header";
    check(
        shop,
        &of_client(&[
            (&[URL, "-H", "x-exact: Yes"], "header-exact"),
            (&[URL, "-H", "X-EXACT: Yes"], "header-exact"),
            (&[URL, "-H", "x-exact: yes"], ""),
            (&[URL, "-H", "x-exact: Yes!"], ""),
            (&[URL, "-H", "x-prefix: abc"], "header-prefix"),
            (&[URL, "-H", "x-prefix: cab"], ""),
            (&[URL, "-H", "x-regex: 42"], "header-regex"),
            (&[URL, "-H", "x-regex: 42b"], ""),
            (&[URL, "-H", "x-present: "], ""),
            (&[URL, "-H", "x-present: anything"], "header-present"),
            (&[URL, "-H", "x-present;"], "header-present"),
            (&[URL, "-H", "x-star: anything"], "header-star"),
            (&[URL, "-H", "Host: web:80"], "header-host"),
            (&[URL, "-H", "x-one: 1", "-H", "x-two: 2"], "two-headers"),
            (&[URL, "-H", "x-one: 1"], ""),
            (&[URL, "-H", "x-one: 1", "-H", "x-two: 3"], ""),
            (&[URL], ""),
            (&["http://web/without"], "without"),
            (&["http://web/without", "-H", "x-secret: other"], "without"),
            (&["http://web/without", "-H", "x-secret: s"], ""),
            (&["http://web/absent"], "absent"),
            (&["http://web/absent", "-H", "x-secret: other"], ""),
        ]),
    );
}

fn query_parameters(shop: &Shop) {
    check(
        shop,
        &of_client(&[
            (&["http://web/query?a=b%20c"], "query-raw"),
            (&["http://web/query?x=y&a=b%20c"], "query-raw"),
            (&["http://web/query?a=prefer"], "query-prefix"),
            (&["http://web/query?a=123"], "query-regex"),
            (&["http://web/query?a=123x"], ""),
            // Of several with one name the first counts.
            (&["http://web/query?a=no&a=123"], ""),
            (&["http://web/query?flag"], "query-present"),
            (&["http://web/query?flag=&a=no"], "query-present"),
            (&["http://web/query?flags=1"], ""),
            (&["http://web/query"], ""),
        ]),
    );
}

fn port_source_and_gateway(shop: &Shop) {
    check(
        shop,
        &[
            (CLIENT, &["http://web/port"], "port-80"),
            (CLIENT, &["http://web:81/port"], "port-81"),
            ("blue", &["http://web/source"], "team-blue"),
            (CLIENT, &["http://web/source"], ""),
            ("stranger", &["http://web.shop/source"], "from-other"),
            (CLIENT, &["http://web/gateway"], "in-the-mesh"),
        ],
    );
}

fn alternatives_and_order(shop: &Shop) {
    check(
        shop,
        &of_client(&[
            (&["http://web/left"], "either"),
            (&["http://web/right", "-H", "x-side: right"], "either"),
            // All parts of one alternative must hold.
            (&["http://web/right"], ""),
            (&["http://web/left", "-H", "x-side: left"], "either"),
            // The second is the better match, and comes too late.
            (&["http://web/order"], "first"),
        ]),
    );
}

fn names(shop: &Shop) {
    for (path, expected) in [("/exact?named", "exact"), ("/left?named", "either.left"), ("/prefix/named", "prefix")] {
        assert_eq!(shop.get(&format!("http://web{path}")).status, 200);
        let entry = shop.logged(path);
        assert_eq!(entry["route_name"], expected, "{entry:#}");
    }
    assert_eq!(shop.get("http://web/unmatched").status, 404);
    let entry = shop.logged("/unmatched");
    assert_eq!(
        (&entry["response_flags"], &entry["response_code_details"]),
        (&"NR".into(), &"route_not_found".into()),
        "{entry:#}"
    );
    assert_eq!(shop.get("http://plain/unruled").status, 200);
    assert_eq!(shop.logged("/unruled")["route_name"], "default");
}

fn destinations(shop: &Shop) {
    for subset in ["v1", "v2"] {
        let report = shop.requests(&[&format!("http://web/subset/{subset}"), "-n", "30"]);
        assert_all_answered(&report, 30);
        assert_eq!(count(&report, &format!("/versions/{subset}")), 30, "{report:#}");
    }
    for (subset, body, flag) in [("nobody", "no healthy upstream", "UH"), ("undefined", "", "NC")] {
        let path = format!("/subset/{subset}");
        let reply = shop.get(&format!("http://web{path}"));
        assert_eq!((reply.status, reply.body.as_str()), (503, body), "{reply:?}");
        assert_eq!(shop.logged(&path)["response_flags"], flag);
    }
    assert_eq!(shop.get("http://web/elsewhere").status, 200);
    assert_eq!(shop.logged("/elsewhere")["upstream_cluster"], "outbound|81||plain.shop.svc.cluster.local");
}

fn weights(shop: &Shop) {
    let split = |path: &str, requests: u64| {
        let report = shop.requests(&[&format!("http://split{path}"), "-n", &requests.to_string(), "-c", "4"]);
        assert_all_answered(&report, requests);
        (count(&report, "/versions/v1"), count(&report, "/versions/v2"))
    };
    let (v1, v2) = split("/", 2000);
    assert_eq!(v1 + v2, 2000);
    assert_share(v2, 2000, 0.25);
    assert_eq!(split("/zero", 200), (0, 200), "weight 0 is never chosen");
    assert_eq!(split("/single", 200), (200, 0), "the weight of the only destination means nothing");
}

fn unruled(shop: &Shop) {
    let pods: Vec<PodStatus> = shop.pods("web");
    let report = shop.requests(&["http://plain/", "-n", "100"]);
    assert_all_answered(&report, 100);
    assert!(pods.iter().all(|pod| count(&report, &format!("/pods/{}", pod.name)) > 0), "{report:#}");
    // What nobody knows goes where it was sent to: here, to the pod that was named by its address.
    let reply = shop.get(&format!("http://{}:8080/", pods[0].ip));
    assert_eq!(reply.json()["pod"], pods[0].name.as_str(), "{reply:?}");
}

fn scope(shop: &Shop) {
    assert_eq!(shop.curl("scoped", &["http://api/"]).status, 200);
    // The listener is there for api; the host is not.
    let reply = shop.curl("scoped", &["http://plain/"]);
    assert_eq!(reply.status, 502, "{reply:?}");
    // Nothing listens for port 81, or for a pod's own address: the connection ends.
    let pod = &shop.pods("web")[0];
    for url in [format!("http://{}:8080/", pod.ip), "http://plain:81/".to_owned()] {
        let reply = shop.curl("scoped", &[&url]);
        assert_eq!(reply.status, 0, "{url}: {reply:?}");
    }
}
