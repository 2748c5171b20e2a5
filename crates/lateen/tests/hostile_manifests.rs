//! Manifests that are wrong, contradict others, or are made to hurt: each is refused or bounded, with a message that says where
//! and why, while everything else stays in force.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::{Mesh, eventually};

const BASE: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec:
  containers:
  - {name: app, command: [lateen, echo, --port, \"8080\"], readinessProbe: {httpGet: {path: /healthz, port: 8080}}}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec: {containers: [{name: app, command: [sleep, \"1000\"]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: shop}
spec: {hosts: [web], http: [{route: [{destination: {host: web}}]}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: other, labels: {istio-injection: enabled}}
";

fn routes(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{{spec}}}\n---\n"
    )
}

fn http(name: &str, http: &str) -> String {
    routes("shop", name, &format!("hosts: [{name}], http: [{{{http}}}]"))
}

fn rule(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{host: {name}, {spec}}}\n---\n"
    )
}

const TO_WEB: &str = "route: [{destination: {host: web}}]";

/// File names, manifests, and what is said about them.
fn cases() -> Vec<(&'static str, String, &'static [&'static str])> {
    let consistent = |hash: &str| format!("trafficPolicy: {{loadBalancer: {{consistentHash: {{httpHeaderName: a, {hash}}}}}}}");
    let alias = |name: &str, to: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{type: ExternalName, externalName: {to}.shop.svc.cluster.local}}\n---\n"
        )
    };
    let gateway = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: shop}\nspec:\n  servers:\n  \
                   - {port: {number: 80, name: a, protocol: HTTP}, hosts: ['*']}\n  \
                   - {port: {number: 80, name: b, protocol: TCP}, hosts: ['*']}\n";
    let bomb: String = (1..9).fold("a0: &a0 [x]\n".to_owned(), |text, n| {
        let ten = vec![format!("*a{}", n - 1); 10].join(",");
        format!("{text}a{n}: &a{n} [{ten}]\n")
    });
    vec![
        (
            "weights.yaml",
            http("zero", "route: [{destination: {host: web}, weight: 0}, {destination: {host: web}, weight: 0}]"),
            &["weights.yaml:4:", "spec.http[0].route: has several destinations whose weights are all 0"],
        ),
        (
            "circle.yaml",
            routes("shop", "one", "http: [{delegate: {name: two}}]") + &routes("shop", "two", "http: [{delegate: {name: one}}]"),
            &["circle.yaml:4:", "circle.yaml:9:", "spec.http[0].delegate: must not stand in a delegate"],
        ),
        (
            "own-delegate.yaml",
            http("own", "delegate: {name: own}"),
            &["own-delegate.yaml:1:1: spec.http[0].delegate: VirtualService shop/own has hosts of its own"],
        ),
        (
            "no-delegate.yaml",
            http("lost", "delegate: {name: nobody}"),
            &["there is no VirtualService shop/nobody: the route is left out"],
        ),
        (
            "too-large.yaml",
            http("large", &format!("match: [{{uri: {{regex: '((a{{1,1000}}){{1,1000}}){{1,1000}}'}}}}], {TO_WEB}")),
            &["too-large.yaml:4:", "match[0].uri.regex: the regular expression is too large"],
        ),
        (
            "look-around.yaml",
            http("around", &format!("match: [{{uri: {{regex: '(?=a)b'}}}}], {TO_WEB}")),
            &["look-around.yaml:4:", "is not a regular expression: look-around"],
        ),
        (
            "negative.yaml",
            http("negative", &format!("timeout: -1s, {TO_WEB}")),
            &["negative.yaml:4:", "a duration must not be negative"],
        ),
        (
            "percent.yaml",
            http("percent", &format!("fault: {{abort: {{httpStatus: 999, percentage: {{value: 150}}}}}}, {TO_WEB}")),
            &["percent.yaml:4:", "abort.httpStatus: is 999", "abort.percentage: is 150"],
        ),
        ("ring.yaml", rule("ring", &consistent("minimumRingSize: 99999999999")), &["ring.yaml:4:", "must not be above 8388608"]),
        (
            "maglev.yaml",
            rule("maglev", &consistent("maglev: {tableSize: 10}")),
            &["maglev.yaml:4:", "must be a prime below 5000011"],
        ),
        ("subsets.yaml", rule("subsets", "subsets: [{name: a}, {name: a}]"), &["subsets.yaml:4:", "\"a\" is defined twice"]),
        (
            "body.yaml",
            http("body", &format!("directResponse: {{status: 200, body: {{string: {}}}}}", "x".repeat(2 << 20))),
            &["body.yaml:4:", "has 2097152 bytes; 1048576 are allowed"],
        ),
        ("document.yaml", format!("a: {}", "x".repeat(4 << 20)), &["document.yaml:1:1: the document has 4194307 bytes"]),
        ("bomb.yaml", bomb, &["bomb.yaml:", "more than 500000 values (aliases expanded)"]),
        ("deep.yaml", "[".repeat(100_000), &["deep.yaml:1:", "not YAML"]),
        ("binary.yaml", "a: \0\n".to_owned(), &["binary.yaml:1:", "not YAML"]),
        (
            "aliases.yaml",
            alias("first", "second") + &alias("second", "first"),
            &["aliases.yaml:1:1: spec.externalName: leads back to itself"],
        ),
        ("ports.yaml", gateway.to_owned(), &["ports.yaml:1:1: spec.servers[1]: port 80 has a server already"]),
        (
            "zz-conflict.yaml",
            routes("shop", "again", "hosts: [web], http: [{directResponse: {status: 418}}]"),
            &[
                "zz-conflict.yaml:1:1: spec.hosts[0]: VirtualService shop/web",
                "is older and has web.shop.svc.cluster.local already",
            ],
        ),
        (
            "foreign.yaml",
            routes("other", "take", "hosts: ['*.shop.svc.cluster.local'], http: [{directResponse: {status: 418}}]"),
            &["foreign.yaml:1:1: spec.hosts[0]:", ".shop.svc.cluster.local belongs to namespace shop, which has not agreed"],
        ),
        (
            "nowhere.yaml",
            http("nowhere", "route: [{destination: {host: web, subset: gone}}]"),
            &["nowhere.yaml:1:1: spec.http[0].route: no DestinationRule of web.shop.svc.cluster.local has a subset \"gone\""],
        ),
    ]
}

/// Seconds that curl takes in the client's pod to get this status.
fn get(mesh: &Mesh, arguments: &str, status: &str) -> f64 {
    let (text, code) =
        mesh.sh("shop", "client", &format!("curl -s -o /dev/null -w '%{{http_code}} %{{time_total}}' {arguments}"));
    assert_eq!(code, 0, "{arguments}: {text}");
    let (found, seconds) = text.split_once(' ').unwrap();
    assert_eq!(found, status, "{arguments}");
    seconds.parse().unwrap()
}

#[test]
fn each_is_refused_or_bounded_and_says_where_and_why() {
    let mut mesh = Mesh::start(BASE);
    mesh.wait_ready(2);
    get(&mesh, "http://web/", "200");
    let cases = cases();
    for (file, manifest, _) in &cases {
        fs::write(mesh.dir.path().join("manifests").join(file), manifest).unwrap();
    }
    for (file, _, words) in &cases {
        eventually(&format!("{file} is spoken of"), || {
            let output = mesh.output();
            words.iter().all(|word| output.contains(word)).then_some(())
        });
    }
    // What was in force before still is, and what comes later is.
    get(&mesh, "http://web/", "200");
    mesh.write(&BASE.replace("http: [{route", "http: [{match: [{uri: {exact: /tea}}], directResponse: {status: 418}}, {route"));
    eventually("a later change", || {
        let (text, _) = mesh.sh("shop", "client", "curl -s -o /dev/null -w '%{http_code}' http://web/tea");
        (text == "418").then_some(())
    });
    get(&mesh, "http://web/", "200");
}

#[test]
fn many_routes_and_expensive_expressions_are_bounded() {
    let mut mesh = Mesh::start(BASE);
    mesh.wait_ready(2);
    let many: Vec<String> =
        (0..1_000).map(|n| format!("{{match: [{{uri: {{exact: /many/{n}}}}}], directResponse: {{status: 418}}}}")).collect();
    let covered: Vec<String> =
        (0..1_000).map(|_| "{match: [{uri: {prefix: /covered}}], directResponse: {status: 418}}".to_owned()).collect();
    let expensive = format!("{{match: [{{uri: {{regex: '/(a+)+x'}}}}], {TO_WEB}}}, {{directResponse: {{status: 404}}}}");
    let manifest = format!(
        "{}{}{}",
        routes("shop", "many", &format!("hosts: [many.example], http: [{}]", many.join(", "))),
        routes("shop", "covered", &format!("hosts: [covered.example], http: [{}]", covered.join(", "))),
        routes("shop", "expensive", &format!("hosts: [expensive.example], http: [{expensive}]")),
    );
    let written = Instant::now();
    fs::write(mesh.dir.path().join("manifests/many.yaml"), manifest).unwrap();
    let to = |host: &str, path: &str| format!("--connect-to {host}:80:web:80 http://{host}{path}");
    eventually("a thousand routes", || {
        let (text, _) =
            mesh.sh("shop", "client", &format!("curl -s -o /dev/null -w '%{{http_code}}' {}", to("many.example", "/many/999")));
        (text == "418").then_some(())
    });
    assert!(written.elapsed() < Duration::from_secs(10), "in force after {:?}", written.elapsed());
    let seconds = get(&mesh, &to("expensive.example", &format!("/{}y", "a".repeat(8_000))), "404");
    assert!(seconds < 0.5, "{seconds} s to match an expression");
    let output = mesh.output();
    let warnings = output.lines().filter(|line| line.contains("many.yaml")).count();
    assert!((2..50).contains(&warnings) && output.contains("more warnings"), "{warnings} lines of warnings");
    get(&mesh, "http://web/", "200");
}
