//! What routes come to: manifests in, listeners and routes of proxies out.

use crate::generate::listener::gateway::{Router, listeners};
use crate::generate::proxy::ProxyRole;
use crate::generate::route::{self, RouteContext, Via};
use crate::generate::{MergedRule, Proxy, Scope, cluster, fixture, secret};
use crate::store::{FileContent, Store};
use crate::world::{Kind, World};
use lateen_model::dataplane::{
    ClusterSpecifier, Forward, HeaderPredicate, PathMatch, PathRewrite, RedirectPath, Route, RouteAction, RouteMatch,
    StringPredicate, TcpDestination, Terminal, TransportSocket,
};
use lateen_model::manifest;
use lateen_testkit::certificates::TestCa;
use tokio::time::Instant;

/// Services of two namespaces, and a Gateway with plain HTTP.
pub(super) const BASE: &str = "
apiVersion: v1
kind: Service
metadata: {name: one, namespace: a}
spec: {selector: {app: one}, ports: [{name: http, port: 80}, {name: http-alt, port: 8080}, {name: tcp, port: 9000}, {name: https-own, port: 443}]}
---
apiVersion: v1
kind: Service
metadata: {name: two, namespace: a}
spec: {selector: {app: two}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: far, namespace: b}
spec: {selector: {app: far}, ports: [{name: http, port: 80}]}
---
";

pub(super) fn gateway(listeners: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: gw, namespace: a}}\nspec: {{gatewayClassName: istio, listeners: {listeners}}}\n---\n"
    )
}

/// A route of the namespace `a` at the Gateway.
pub(super) fn http_route(name: &str, spec: &str) -> String {
    route("HTTPRoute", ("a", name), &format!("parentRefs: [{{name: gw}}], {spec}"))
}

pub(super) fn route(kind: &str, (namespace, name): (&str, &str), spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{spec}}}\n---\n"
    )
}

pub(super) struct Bench {
    pub(super) world: World,
    proxy: Proxy,
    scope: Scope,
}

impl Bench {
    /// The Gateway's own proxy.
    pub(super) fn new(manifests: &str) -> Self {
        let label = ("gateway.networking.k8s.io/gateway-name", "gw");
        let pod = fixture::pod("a", "gw-istio-0", [10, 0, 0, 1], &[label]);
        let client = fixture::pod("b", "client-0", [10, 0, 0, 2], &[("app", "client")]);
        let near = fixture::pod("a", "client-0", [10, 0, 0, 3], &[("app", "client")]);
        let world = fixture::world(&format!("{BASE}{manifests}"), &[pod, client, near]);
        let proxy = Proxy { role: ProxyRole::Router, ..fixture::proxy(&world, "a", "gw-istio-0") };
        let scope = Scope::new(&world, &proxy);
        Self { world, proxy, scope }
    }

    /// The same mesh as a sidecar of a namespace sees it.
    fn sidecar(manifests: &str, namespace: &str) -> Self {
        let bench = Self::new(manifests);
        let proxy = fixture::proxy(&bench.world, namespace, "client-0");
        Self { scope: Scope::new(&bench.world, &proxy), proxy, world: bench.world }
    }

    /// Each virtual host and route of a name, as `DOMAIN | MATCH -> ACTION`.
    fn routes(&self, name: &str) -> Vec<String> {
        let context = RouteContext { world: &self.world, scope: &self.scope, proxy: &self.proxy, via: Via::Mesh };
        let mut out = Vec::new();
        for host in route::of_name(context, name).virtual_hosts {
            let domain = &host.domains[0];
            out.extend(host.routes.iter().map(|r| format!("{domain} | {} -> {}", matched(&r.matches), action(r))));
            if host.routes.is_empty() {
                out.push(format!("{domain} |"));
            }
        }
        out
    }

    /// Each filter chain as `LISTENER SERVERNAMES -> DESTINATION`.
    fn chains(&self) -> Vec<String> {
        let mut out = Vec::new();
        for listener in listeners(Router { world: &self.world, scope: &self.scope, proxy: &self.proxy }) {
            for chain in listener.filter_chains {
                let tls = chain.tls.as_ref().map(|t| format!(" [{}]", t.certificate.name)).unwrap_or_default();
                let to = match chain.terminal {
                    Terminal::Http(manager) => format!("{:?}", manager.routes),
                    Terminal::Tcp(proxy) => match proxy.destination {
                        TcpDestination::Cluster(name) => name,
                        TcpDestination::Weighted(all) => {
                            all.iter().map(|(n, w)| format!("{n}={w}")).collect::<Vec<_>>().join(" ")
                        }
                    },
                };
                out.push(format!("{} {:?}{tls} -> {to}", listener.name, chain.matches.server_names));
            }
        }
        out
    }
}

fn matched(matches: &RouteMatch) -> String {
    let mut out = match &matches.path {
        PathMatch::Prefix(p) => format!("{p}*"),
        PathMatch::PathSeparatedPrefix(p) => format!("{p}/..."),
        PathMatch::Exact(p) => format!("={p}"),
        PathMatch::Regex(r) => format!("~{}", r.pattern()),
    };
    for header in &matches.headers {
        let value = match &header.predicate {
            HeaderPredicate::Value(v) => match &v.predicate {
                StringPredicate::Exact(text) => format!("={text}"),
                StringPredicate::Regex(r) => format!("~{}", r.pattern()),
                other => format!("{other:?}"),
            },
            other => format!("{other:?}"),
        };
        out.push_str(&format!(" {}{value}", header.name));
    }
    for query in &matches.query {
        out.push_str(&format!(" ?{}", query.name));
    }
    out
}

fn short(cluster: &str) -> String {
    let parts: Vec<&str> = cluster.split('|').collect();
    match parts.as_slice() {
        ["outbound", port, _, host] => format!("{}:{port}", host.trim_end_matches(".svc.cluster.local")),
        _ => cluster.to_owned(),
    }
}

fn action(route: &Route) -> String {
    match &route.action {
        RouteAction::DirectResponse(response) => response.status.to_string(),
        RouteAction::Redirect(r) => {
            let path = match &r.path {
                RedirectPath::Keep => String::new(),
                RedirectPath::Replace(p) => format!(" path {p}"),
                RedirectPath::Prefix(p) => format!(" prefix {p}"),
            };
            format!("{} {:?} {:?} {:?}{path}", r.status, r.scheme, r.host, r.port)
        }
        RouteAction::Forward(forward) => forwarded(forward),
    }
}

fn forwarded(forward: &Forward) -> String {
    let mut out = match &forward.cluster {
        ClusterSpecifier::Single(name) => short(name),
        ClusterSpecifier::Weighted(all) => {
            all.iter().map(|w| format!("{}={}", short(&w.name), w.weight)).collect::<Vec<_>>().join(" ")
        }
    };
    match &forward.path_rewrite {
        None => {}
        Some(PathRewrite::Prefix(p)) => out.push_str(&format!(" rewrite {p}")),
        Some(PathRewrite::Regex { substitution, .. }) => out.push_str(&format!(" path {substitution}")),
    }
    if let Some(host) = &forward.host_rewrite {
        out.push_str(&format!(" {host:?}"));
    }
    if let Some(timeout) = forward.timeout {
        out.push_str(&format!(" timeout {timeout:?}"));
    }
    for mirror in &forward.mirrors {
        out.push_str(&format!(" mirror {}", short(&mirror.cluster)));
    }
    out
}

const HTTP: &str = "[{name: web, port: 80, protocol: HTTP}]";
const TO_ONE: &str = "backendRefs: [{name: one, port: 80}]";

fn rules(rules: &str) -> Vec<String> {
    Bench::new(&(gateway(HTTP) + &http_route("r", &format!("rules: {rules}")))).routes("http.80")
}

#[test]
fn rules_of_http_routes() {
    for (rule, expected) in [
        (format!("[{{{TO_ONE}}}]"), vec!["* | /* -> one.a:80"]),
        (format!("[{{matches: [{{path: {{value: /x/}}}}], {TO_ONE}}}]"), vec!["* | /x/... -> one.a:80"]),
        (format!("[{{matches: [{{path: {{type: Exact, value: /x/}}}}], {TO_ONE}}}]"), vec!["* | =/x/ -> one.a:80"]),
        (format!("[{{matches: [{{path: {{type: RegularExpression, value: '/x.*'}}}}], {TO_ONE}}}]"), vec!["* | ~/x.* -> one.a:80"]),
        (
            format!("[{{matches: [{{method: PUT, headers: [{{name: X-A, value: b}}, {{name: x-a, value: c}}, {{name: z, type: RegularExpression, value: 'd+'}}], queryParams: [{{name: q, value: v}}]}}], {TO_ONE}}}]"),
            vec!["* | /* x-a=b z~d+ :method=PUT ?q -> one.a:80"],
        ),
        // Weights; a weight of zero takes no part.
        (
            "[{backendRefs: [{name: one, port: 80, weight: 9}, {name: two, port: 80}, {name: one, port: 8080, weight: 0}]}]".to_owned(),
            vec!["* | /* -> one.a:80=9 two.a:80=1"],
        ),
        // What leads nowhere keeps its share.
        (
            "[{backendRefs: [{name: one, port: 80}, {name: none, port: 80, weight: 3}]}]".to_owned(),
            vec!["* | /* -> one.a:80=1 missing-backend.invalid:80=3"],
        ),
        ("[{backendRefs: [{name: none, port: 80}]}]".to_owned(), vec!["* | /* -> 500"]),
        ("[{backendRefs: [{name: one, port: 81}]}]".to_owned(), vec!["* | /* -> 500"]),
        ("[{backendRefs: [{name: one, port: 80, weight: 0}]}]".to_owned(), vec!["* | /* -> 500"]),
        ("[{backendRefs: [{name: far, namespace: b, port: 80}]}]".to_owned(), vec!["* | /* -> 500"]),
        ("[{matches: [{path: {value: /x}}]}]".to_owned(), vec!["* | /x/... -> 500"]),
        // Filters.
        (
            format!("[{{filters: [{{type: URLRewrite, urlRewrite: {{hostname: h.org, path: {{type: ReplaceFullPath, replaceFullPath: /f}}}}}}], {TO_ONE}}}]"),
            vec!["* | /* -> one.a:80 path /f Literal(\"h.org\")"],
        ),
        (
            format!("[{{filters: [{{type: RequestMirror, requestMirror: {{backendRef: {{name: two, port: 80}}}}}}, {{type: RequestMirror, requestMirror: {{backendRef: {{name: one, port: 8080}}, percent: 0}}}}], {TO_ONE}}}]"),
            vec!["* | /* -> one.a:80 mirror two.a:80"],
        ),
        (
            "[{filters: [{type: RequestRedirect, requestRedirect: {}}]}]".to_owned(),
            vec!["* | /* -> 302 None None None"],
        ),
        (
            "[{filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: h.org, port: 8443, statusCode: 308}}]}]".to_owned(),
            vec!["* | /* -> 308 Some(\"https\") Some(\"h.org\") Some(8443)"],
        ),
        // What is taken away without a replacement leaves one slash.
        (
            "[{matches: [{path: {value: /x}}], filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]}]".to_owned(),
            vec!["* | =/x -> 302 None None None path /", "* | /x/* -> 302 None None None prefix /"],
        ),
        (
            format!("[{{matches: [{{path: {{value: /x}}}}], filters: [{{type: URLRewrite, urlRewrite: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: ''}}}}}}], {TO_ONE}}}]"),
            vec!["* | =/x -> one.a:80 rewrite /", "* | /x/* -> one.a:80 rewrite /"],
        ),
        (
            format!("[{{matches: [{{path: {{value: /x/}}}}], filters: [{{type: URLRewrite, urlRewrite: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: /y/}}}}}}], {TO_ONE}}}]"),
            vec!["* | /x/... -> one.a:80 rewrite /y"],
        ),
        (
            format!("[{{filters: [{{type: URLRewrite, urlRewrite: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: /y}}}}}}], {TO_ONE}}}]"),
            vec!["* | /* -> one.a:80 rewrite /y/"],
        ),
        // The only backend's rewrite is the rule's.
        (
            "[{backendRefs: [{name: one, port: 80, filters: [{type: URLRewrite, urlRewrite: {hostname: h.org}}]}]}]".to_owned(),
            vec!["* | /* -> one.a:80 Literal(\"h.org\")"],
        ),
        (
            format!("[{{timeouts: {{request: 2s}}, {TO_ONE}}}, {{matches: [{{path: {{value: /b}}}}], timeouts: {{request: 2s, backendRequest: 1s}}, {TO_ONE}}}, {{matches: [{{path: {{value: /c}}}}], timeouts: {{request: 2s, backendRequest: 1s}}, retry: {{codes: [500]}}, {TO_ONE}}}, {{matches: [{{path: {{value: /z}}}}], timeouts: {{request: 0s}}, {TO_ONE}}}]"),
            vec![
                "* | /b/... -> one.a:80 timeout 1s",
                "* | /c/... -> one.a:80 timeout 2s",
                "* | /z/... -> one.a:80",
                "* | /* -> one.a:80 timeout 2s",
            ],
        ),
        // A rule with a filter of somebody else's is not followed; the others are.
        (
            format!("[{{filters: [{{type: ExtensionRef, extensionRef: {{group: x, kind: Kind, name: z}}}}], {TO_ONE}}}, {{matches: [{{path: {{value: /b}}}}], {TO_ONE}}}]"),
            vec!["* | /b/... -> one.a:80"],
        ),
    ] {
        assert_eq!(rules(&rule), expected, "{rule}");
    }
}

#[test]
fn headers_and_retries() {
    let manifests = gateway(HTTP)
        + &http_route(
            "r",
            "rules: [{retry: {codes: [502, 504], attempts: 3, backoff: 20ms}, timeouts: {backendRequest: 1s},
              filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [x-c]}}],
              backendRefs: [{name: one, port: 80, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-A, value: b}], add: [{name: x-d, value: e}]}}]}]}]",
        );
    let bench = Bench::new(&manifests);
    let context = RouteContext { world: &bench.world, scope: &bench.scope, proxy: &bench.proxy, via: Via::Mesh };
    let route = route::of_name(context, "http.80").virtual_hosts.remove(0).routes.remove(0);
    let set: Vec<_> = route.request_headers.set.iter().map(|h| (h.name.as_str(), h.value.as_str())).collect();
    assert_eq!(set, [("x-a", "b"), ("x-d", "e")]);
    assert_eq!(route.response_headers.remove, ["x-c"]);
    let RouteAction::Forward(forward) = &route.action else { panic!("{route:?}") };
    assert_eq!(forward.cluster_not_found_status, 500);
    let retry = forward.retry.as_ref().expect("a policy");
    assert_eq!((retry.num_retries, &retry.retriable_statuses[..]), (3, &[502, 504][..]));
    assert_eq!(retry.per_try_timeout, Some(std::time::Duration::from_secs(1)));
    assert_eq!(route.name, "a.r.0");
}

#[test]
fn the_most_specific_rule_of_all_routes_comes_first() {
    let older = http_route(
        "older",
        &format!(
            "rules: [{{matches: [{{path: {{value: /p}}}}, {{path: {{type: RegularExpression, value: '/pq.*'}}}}], {TO_ONE}}}]"
        ),
    );
    let newer = http_route(
        "newer",
        "rules: [{matches: [{path: {type: Exact, value: /p}}, {path: {value: /p}, headers: [{name: h, value: v}]}, {path: {value: /p}, method: GET}, {path: {value: /p}}, {path: {value: /pq}}, {}], backendRefs: [{name: two, port: 80}]}]",
    );
    assert_eq!(
        Bench::new(&(gateway(HTTP) + &older + &newer)).routes("http.80"),
        [
            "* | =/p -> two.a:80",
            "* | /pq/... -> two.a:80",
            "* | /p/... :method=GET -> two.a:80",
            "* | /p/... h=v -> two.a:80",
            "* | /p/... -> one.a:80",
            "* | /p/... -> two.a:80",
            "* | /* -> two.a:80",
            "* | ~/pq.* -> one.a:80",
        ]
        .into_iter()
        .filter(|line| !line.contains('~'))
        .collect::<Vec<_>>(),
        "what comes after a rule for everything is never reached"
    );
}

#[test]
fn hosts_are_those_of_both_and_listeners_are_apart() {
    let listeners = "[{name: any, port: 80, protocol: HTTP}, {name: wild, port: 80, protocol: HTTP, hostname: '*.foo.com'}, {name: own, port: 80, protocol: HTTP, hostname: own.foo.com}, {name: other, port: 8080, protocol: HTTP, hostname: foo.com}]";
    let at = |name: &str, section: &str, hosts: &str| {
        let spec = format!("parentRefs: [{{name: gw, sectionName: {section}}}], hostnames: [{hosts}], rules: [{{{TO_ONE}}}]");
        route("HTTPRoute", ("a", name), &spec)
    };
    let bench = Bench::new(
        &(gateway(listeners)
            + &at("a", "any", "bar.com, x.foo.com, '*.foo.com'")
            + &at("b", "wild", "'*.foo.com', own.foo.com, foo.com, y.foo.com")
            + &at("c", "other", "foo.com")),
    );
    assert_eq!(
        bench.routes("http.80"),
        // Not `x.foo.com` of the listener `any`: requests for it are the listener `wild`'s. Nothing for `own.foo.com`.
        ["*.foo.com | /* -> one.a:80", "bar.com | /* -> one.a:80", "own.foo.com |", "y.foo.com | /* -> one.a:80"]
    );
    assert_eq!(bench.routes("http.8080"), ["foo.com | /* -> one.a:80"]);
    assert_eq!(bench.chains().len(), 2);
}

#[test]
fn calls_go_by_their_methods() {
    let call = |matches: &str| {
        let spec = format!("parentRefs: [{{name: gw}}], rules: [{{matches: [{matches}], {TO_ONE}}}]");
        Bench::new(&(gateway(HTTP) + &route("GRPCRoute", ("a", "g"), &spec))).routes("http.80")
    };
    for (matches, expected) in [
        ("{method: {service: p.S, method: M}}", "=/p.S/M"),
        ("{method: {service: p.S}}", "/p.S/*"),
        ("{method: {method: M}}", "~/[^/]+/M"),
        ("{method: {type: RegularExpression, service: 'p.S.*'}}", "~/p.S.*/.+"),
        ("{method: {type: RegularExpression, service: S, method: 'M+'}}", "~/S/M+"),
        ("{headers: [{name: color, value: blue}]}", "/* color=blue"),
    ] {
        assert_eq!(call(matches), [format!("* | {expected} -> one.a:80")], "{matches}");
    }
}

#[test]
fn references_to_other_namespaces_need_a_grant() {
    let to_far = http_route("r", "rules: [{backendRefs: [{name: far, namespace: b, port: 80}]}]");
    let grant = |from: &str, to: &str| route("ReferenceGrant", ("b", "grant"), &format!("from: [{from}], to: [{to}]"));
    let from = "{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: a}";
    for (grant, expected) in [
        (String::new(), "500"),
        (grant(from, "{group: '', kind: Service}"), "far.b:80"),
        (grant(from, "{group: '', kind: Service, name: far}"), "far.b:80"),
        (grant(from, "{group: '', kind: Service, name: other}"), "500"),
        (grant(from, "{group: '', kind: Secret}"), "500"),
        (grant(&from.replace("HTTP", "GRPC"), "{group: '', kind: Service}"), "500"),
        (grant(&from.replace("namespace: a", "namespace: c"), "{group: '', kind: Service}"), "500"),
    ] {
        let found = Bench::new(&(gateway(HTTP) + &to_far + &grant)).routes("http.80");
        assert_eq!(found, [format!("* | /* -> {expected}")], "{grant}");
    }
}

#[test]
fn connections_and_server_names() {
    let ca = TestCa::new();
    let leaf = ca.leaf().dns("a.foo.com").issue();
    let secret = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: cert, namespace: a}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}\n  tls.key: |\n{}\n---\n",
        indented(&leaf.chain_pem),
        indented(&leaf.key_pem)
    );
    let listeners = "[{name: https, port: 443, protocol: HTTPS, hostname: a.foo.com, tls: {certificateRefs: [{name: cert}]}}, {name: pass, port: 443, protocol: TLS, hostname: '*.foo.com', tls: {mode: Passthrough}}, {name: term, port: 8443, protocol: TLS, tls: {certificateRefs: [{name: cert}]}}, {name: tcp, port: 9000, protocol: TCP}, {name: unused, port: 9001, protocol: TCP}]";
    let at = |section: &str| format!("parentRefs: [{{name: gw, sectionName: {section}}}]");
    let tls = |name: &str, section: &str, hosts: &str, port: u16| {
        let spec = format!("{}, hostnames: [{hosts}], rules: [{{backendRefs: [{{name: one, port: {port}}}]}}]", at(section));
        route("TLSRoute", ("a", name), &spec)
    };
    let tcp = "rules: [{backendRefs: [{name: one, port: 9000, weight: 2}, {name: none, port: 9000}]}]";
    let bench = Bench::new(
        &(secret
            + &gateway(listeners)
            + &route("HTTPRoute", ("a", "web"), &format!("{}, rules: [{{{TO_ONE}}}]", at("https")))
            + &tls("pass", "pass", "b.foo.com, a.bar.com", 443)
            + &tls("t1", "term", "x.foo.com", 9000)
            + &tls("t2", "term", "y.foo.com", 80)
            + &route("TCPRoute", ("a", "tcp"), &format!("{}, {tcp}", at("tcp")))),
    );
    assert_eq!(
        bench.chains(),
        [
            "0.0.0.0_443 [\"a.foo.com\"] [kubernetes://a/cert] -> Rds(\"https.443.https.gw~https.a\")",
            "0.0.0.0_443 [\"b.foo.com\"] -> outbound|443||one.a.svc.cluster.local",
            "0.0.0.0_8443 [\"x.foo.com\"] [kubernetes://a/cert] -> outbound|9000||one.a.svc.cluster.local",
            "0.0.0.0_8443 [\"y.foo.com\"] [kubernetes://a/cert] -> outbound|80||one.a.svc.cluster.local",
            "0.0.0.0_9000 [] -> outbound|9000||one.a.svc.cluster.local=2 outbound|9000||missing-backend.invalid=1",
        ]
    );
    assert_eq!(bench.routes("https.443.https.gw~https.a"), ["a.foo.com | /* -> one.a:80"]);
    assert!(secret::of_name(&bench.world, &bench.proxy, "kubernetes://a/cert").is_some());
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

#[test]
fn certificates_of_other_namespaces_need_a_grant() {
    let secret =
        "apiVersion: v1\nkind: Secret\nmetadata: {name: cert, namespace: b}\nstringData: {tls.crt: some, tls.key: thing}\n---\n";
    let grant = route(
        "ReferenceGrant",
        ("b", "g"),
        "from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: a}], to: [{group: '', kind: Secret, name: cert}]",
    );
    let name = "kubernetes://b/cert";
    let refused = Bench::new(secret);
    assert!(secret::of_name(&refused.world, &refused.proxy, name).is_none());
    let granted = Bench::new(&(secret.to_owned() + &grant));
    assert!(secret::of_name(&granted.world, &granted.proxy, name).is_some());
    assert!(secret::of_name(&granted.world, &granted.proxy, "kubernetes://b/other").is_none());
    let stranger = fixture::proxy(&granted.world, "b", "client-0");
    let stranger = Proxy { verified_namespace: Some("c".into()), ..stranger };
    assert!(secret::of_name(&granted.world, &stranger, name).is_none());
}

#[test]
fn mesh_routes_are_for_all_clients_or_for_those_of_their_own_namespace() {
    let to = |namespace: &str, name: &str, parent: &str, backend: &str| {
        let parents = format!("parentRefs: [{{group: '', kind: Service, {parent}}}]");
        let spec = format!("{parents}, rules: [{{matches: [{{path: {{value: /{name}}}}}], backendRefs: [{backend}]}}]");
        route("HTTPRoute", (namespace, name), &spec)
    };
    let producer = to("a", "producer", "name: one, port: 80", "{name: two, port: 80}");
    let one = |bench: &Bench, port: &str| {
        bench.routes(port).into_iter().filter(|l| l.starts_with("one.a.svc")).map(|l| l[24..].to_owned()).collect::<Vec<_>>()
    };
    for namespace in ["a", "b"] {
        let bench = Bench::sidecar(&producer, namespace);
        assert_eq!(one(&bench, "80"), ["| /producer/... -> two.a:80"], "nothing else is served");
        assert_eq!(one(&bench, "8080"), ["| /* -> one.a:8080"], "the route is for the port 80");
    }
    let consumer = to("b", "consumer", "name: one, namespace: a", "{name: far, port: 80}");
    let both = producer + &consumer;
    assert_eq!(one(&Bench::sidecar(&both, "a"), "80"), ["| /producer/... -> two.a:80"]);
    assert_eq!(one(&Bench::sidecar(&both, "b"), "80"), ["| /consumer/... -> far.b:80"], "the client's own comes first");
    assert_eq!(one(&Bench::sidecar(&both, "b"), "8080"), ["| /consumer/... -> far.b:80"]);
    // Routes of one service together, whichever comes first in the file.
    let second = to("a", "pro", "name: one", "{name: one, port: 8080}");
    assert_eq!(one(&Bench::sidecar(&(both + &second), "a"), "80"), ["| /producer/... -> two.a:80", "| /pro/... -> one.a:8080"]);
}

#[test]
fn tls_to_backends() {
    let roots = |pem: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: roots, namespace: a}}\ndata:\n  ca.crt: |\n{}\n---\n",
            indented(pem)
        )
    };
    let policy = |name: &str, spec: &str| route("BackendTLSPolicy", ("a", name), spec);
    let by_map = "targetRefs: [{group: '', kind: Service, name: one, sectionName: http-alt}], validation: {hostname: one.example.com, caCertificateRefs: [{group: '', kind: ConfigMap, name: roots}], subjectAltNames: [{type: URI, uri: 'spiffe://x/y'}]}";
    let system = "targetRefs: [{group: '', kind: Service, name: two}], validation: {hostname: two.example.com, wellKnownCACertificates: System}";
    let ca = TestCa::new();
    let bench = Bench::sidecar(&(roots(ca.root_pem()) + &policy("p", by_map) + &policy("q", system)), "b");
    let socket = |host: &str, port: u16| {
        let service = bench.scope.service(host).unwrap();
        let rule = MergedRule::lookup_for(&bench.world, &bench.proxy, &service.service);
        let all = cluster::of_service(&bench.world, &bench.proxy, service, &rule);
        all.into_iter().find(|c| c.name.starts_with(&format!("outbound|{port}|"))).unwrap().transport
    };
    let TransportSocket::Tls(tls) = socket("one.a.svc.cluster.local", 8080) else { panic!("no TLS") };
    let roots_name = tls.roots.clone().unwrap().name;
    assert_eq!((tls.sni.as_str(), roots_name.as_str()), ("one.example.com", "configmap://a/roots-cacert"));
    assert_eq!(format!("{:?}", tls.sans), "[StringMatch { predicate: Exact(\"spiffe://x/y\"), ignore_case: false }]");
    assert!(secret::of_name(&bench.world, &bench.proxy, &roots_name).is_some(), "roots are for everybody");
    assert!(!matches!(socket("one.a.svc.cluster.local", 80), TransportSocket::Tls(_)), "the policy is for another port");
    let TransportSocket::Tls(tls) = socket("two.a.svc.cluster.local", 80) else { panic!("no TLS") };
    assert_eq!((tls.sni.as_str(), tls.roots.unwrap().name.as_str()), ("two.example.com", "file-root:system"));
}

/// A world that changes, as the control plane has it.
#[test]
fn only_what_differs_changes() {
    let mut store = Store::new();
    let mut world = World::new(crate::world::Settings::default());
    let mut put = |text: &str| {
        let documents = manifest::read(text, "t.yaml");
        assert!(documents.iter().all(Result::is_ok), "{documents:?}");
        let (events, _) = store.apply(vec![FileContent { file: "t.yaml".into(), documents }]);
        let (next, changes) = world.apply(events, Instant::now());
        world = next;
        let made = |kind: Kind| changes.of(kind).map(|k| k.name.to_string()).collect::<Vec<_>>();
        (made(Kind::Gateway), made(Kind::VirtualService), made(Kind::Service))
    };
    let two = |host: &str, listeners: &str| {
        BASE.to_owned() + &gateway(listeners) + &http_route("r", &format!("hostnames: [a.org, {host}], rules: [{{{TO_ONE}}}]"))
    };
    let (gateways, routes, services) = put(&two("b.org", HTTP));
    assert_eq!(gateways, ["gw~web"]);
    assert_eq!(routes, ["gw~web~a.org", "gw~web~b.org"]);
    assert_eq!(services, ["gw-istio", "one", "two", "far"], "the Gateway has a Service");
    let (gateways, routes, services) = put(&two("c.org", HTTP));
    assert_eq!((gateways, services), (vec![], vec![]));
    assert_eq!(routes, ["gw~web~b.org", "gw~web~c.org"], "the route of a.org is as it was");
    // A Service that is written takes the place of the one that is made, and the other way round.
    let own = "apiVersion: v1\nkind: Service\nmetadata: {name: gw-istio, namespace: a}\nspec: {selector: {x: z}, ports: [{name: http, port: 80}]}\n---\n";
    assert_eq!(put(&(own.to_owned() + &two("c.org", HTTP))).2, ["gw-istio"]);
    assert_eq!(put(&two("c.org", HTTP)).2, ["gw-istio"]);
    let (gateways, routes, services) = put(BASE);
    assert_eq!((gateways.len(), routes.len(), services), (1, 2, vec!["gw-istio".to_owned()]));
    assert!(matches!(put(BASE), (a, b, c) if a.is_empty() && b.is_empty() && c.is_empty()));
}
