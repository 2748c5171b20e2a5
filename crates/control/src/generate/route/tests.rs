use super::*;
use crate::generate::fixture;
use crate::generate::scope::Scope;
use lateen_model::dataplane::{HeaderAppend, HeaderPredicate, HostRewrite, PathRewrite, QueryPredicate};

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: one, namespace: a}
spec: {selector: {app: one}, ports: [{name: http, port: 80, targetPort: 8080}, {name: http-admin, port: 9000}]}
---
apiVersion: v1
kind: Service
metadata: {name: two, namespace: a}
spec: {selector: {app: two}, ports: [{name: http, port: 8000, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: sniffed, namespace: b}
spec: {clusterIP: 10.96.9.9, selector: {app: two}, ports: [{name: stuff, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: b}
spec: {clusterIP: None, selector: {app: two}, ports: [{name: http, port: 80}]}
---
";

struct Bench {
    world: World,
    proxy: Proxy,
    scope: Scope,
}

fn bench(manifests: &str) -> Bench {
    let pods = [fixture::pod("a", "client-0", [10, 0, 0, 1], &[("app", "client"), ("team", "x")])];
    let world = fixture::world(&format!("{SERVICES}{manifests}"), &pods);
    let proxy = fixture::proxy(&world, "a", "client-0");
    let scope = fixture::scope(&world, &proxy);
    Bench { world, proxy, scope }
}

impl Bench {
    fn routes(&self, name: &str) -> RouteConfiguration {
        of_name(RouteContext { world: &self.world, scope: &self.scope, proxy: &self.proxy, via: Via::Mesh }, name)
    }

    fn host(&self, name: &str, host: &str) -> VirtualHost {
        let hosts = self.routes(name).virtual_hosts;
        let names: Vec<_> = hosts.iter().map(|h| h.name.clone()).collect();
        hosts.into_iter().find(|h| h.name == host).unwrap_or_else(|| panic!("no {host} among {names:?}"))
    }
}

fn virtual_service(name: &str, hosts: &str, http: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: a}}\nspec: {{hosts: {hosts}, http: {http}}}\n---\n"
    )
}

fn forwarded(route: &Route) -> &Forward {
    match &route.action {
        RouteAction::Forward(forward) => forward,
        other => panic!("{other:?}"),
    }
}

fn clusters(routes: &[Route]) -> Vec<String> {
    let of = |r: &Route| match &r.action {
        RouteAction::Forward(f) => match &f.cluster {
            ClusterSpecifier::Single(name) => name.clone(),
            ClusterSpecifier::Weighted(all) => {
                all.iter().map(|c| format!("{}={}", c.name, c.weight)).collect::<Vec<_>>().join(" ")
            }
        },
        RouteAction::Redirect(r) => format!("redirect {}", r.status),
        RouteAction::DirectResponse(d) => format!("direct {}", d.status),
    };
    routes.iter().map(of).collect()
}

#[test]
fn services_without_rules() {
    let bench = bench("");
    let routes = bench.routes("80");
    let names: Vec<_> = routes.virtual_hosts.iter().map(|h| h.name.as_str()).collect();
    assert_eq!(
        names,
        ["headless.b.svc.cluster.local:80", "one.a.svc.cluster.local:80", "sniffed.b.svc.cluster.local:80", "allow_any"]
    );
    assert!(routes.ignore_port_in_host_matching);
    let one = bench.host("80", "one.a.svc.cluster.local:80");
    assert_eq!(
        one.domains,
        ["one.a.svc.cluster.local", "one.a.svc.cluster.local.", "one", "one.a.svc", "one.a", "10.96.0.1"],
        "the short name is for the same namespace"
    );
    let route = &one.routes[0];
    assert_eq!((route.name.as_str(), route.operation.as_deref()), ("default", Some("one.a.svc.cluster.local:80/*")));
    let forward = forwarded(route);
    assert_eq!(forward.cluster, ClusterSpecifier::Single("outbound|80||one.a.svc.cluster.local".into()));
    assert_eq!((forward.timeout, forward.retry.as_ref().map(|r| r.num_retries)), (None, Some(2)));
    let headless = bench.host("80", "headless.b.svc.cluster.local:80");
    assert!(headless.domains.contains(&"*.headless.b".to_owned()) && !headless.domains.contains(&"headless".to_owned()));
    assert_eq!(bench.routes("nonsense").virtual_hosts.len(), 1);
    assert_eq!(clusters(&bench.host("80", "allow_any").routes), ["PassthroughCluster"]);
}

#[test]
fn a_sniffed_port_has_routes_of_its_own() {
    let bench = bench("");
    let routes = bench.routes("sniffed.b.svc.cluster.local:80");
    assert_eq!(routes.virtual_hosts.len(), 1);
    assert_eq!(routes.virtual_hosts[0].domains, ["*"]);
    assert_eq!(clusters(&routes.virtual_hosts[0].routes), ["outbound|80||sniffed.b.svc.cluster.local"]);
    assert!(bench.routes("nobody.b.svc.cluster.local:80").virtual_hosts.is_empty());
}

#[test]
fn matches() {
    let http = "[{name: r, match: [
        {name: m, uri: {exact: /e}, headers: {X-A: {exact: v}, x-b: {prefix: p}, x-c: {regex: '.*z'}, x-d: {}, x-e: {regex: '*'}}},
        {uri: {prefix: /p}, ignoreUriCase: true, withoutHeaders: {x-f: {exact: v}, x-g: {}}, queryParams: {q: {exact: v}, r: {}}},
        {uri: {regex: '/r.*'}, method: {exact: GET}, scheme: {exact: http}, authority: {prefix: one}}],
        route: [{destination: {host: one}}]}]";
    let bench = bench(&virtual_service("v", "[one]", http));
    let routes = bench.host("80", "one.a.svc.cluster.local:80").routes;
    let names: Vec<_> = routes.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["r.m", "r", "r"]);
    let first = &routes[0].matches;
    assert_eq!((&first.path, first.case_sensitive), (&PathMatch::Exact("/e".into()), true));
    let headers: Vec<_> =
        first.headers.iter().map(|h| format!("{} {}", h.name, matches!(h.predicate, HeaderPredicate::Present(true)))).collect();
    assert_eq!(headers, ["x-a false", "x-b false", "x-c false", "x-d true", "x-e true"]);
    let second = &routes[1].matches;
    assert_eq!((&second.path, second.case_sensitive), (&PathMatch::Prefix("/p".into()), false));
    assert!(second.headers[0].invert && second.headers[0].missing_is_empty);
    assert_eq!(second.headers[1].predicate, HeaderPredicate::Present(false));
    assert!(!second.headers[1].invert);
    assert_eq!(second.query[1].predicate, QueryPredicate::Present(true));
    let pseudo: Vec<_> = routes[2].matches.headers.iter().map(|h| h.name.as_str()).collect();
    assert_eq!(pseudo, [":method", ":authority", ":scheme"]);
}

#[test]
fn what_is_decided_here_and_what_ends_the_list() {
    for (http, expected) in [
        ("[{match: [{port: 80}], route: [{destination: {host: two}}]}]", vec!["outbound|8000||two.a.svc.cluster.local"]),
        ("[{match: [{port: 81}], route: [{destination: {host: two}}]}]", vec!["outbound|80||one.a.svc.cluster.local"]),
        (
            "[{match: [{sourceLabels: {team: x}, uri: {prefix: /a}}], route: [{destination: {host: two}}]}]",
            vec!["outbound|8000||two.a.svc.cluster.local"],
        ),
        (
            "[{match: [{sourceLabels: {team: other}}], route: [{destination: {host: two}}]}, {route: [{destination: {host: one}}]}]",
            vec!["outbound|80||one.a.svc.cluster.local"],
        ),
        ("[{match: [{sourceNamespace: b}], redirect: {uri: /x}}, {directResponse: {status: 418}}]", vec!["direct 418"]),
        (
            "[{match: [{gateways: [mesh], sourceLabels: {team: other}}], redirect: {uri: /x, redirectCode: 308}}]",
            vec!["redirect 308"],
        ),
        (
            "[{match: [{gateways: [other]}], redirect: {uri: /x}}, {route: [{destination: {host: one}}]}]",
            vec!["outbound|80||one.a.svc.cluster.local"],
        ),
        (
            "[{match: [{uri: {prefix: /}}, {uri: {exact: /never}}], route: [{destination: {host: one}}]}, {redirect: {uri: /never}}]",
            vec!["outbound|80||one.a.svc.cluster.local"],
        ),
        (
            "[{match: [{uri: {regex: '.*'}}], route: [{destination: {host: one}}]}, {redirect: {uri: /never}}]",
            vec!["outbound|80||one.a.svc.cluster.local"],
        ),
        (
            "[{route: [{destination: {host: one, subset: s, port: {number: 9000}}, weight: 0}]}]",
            vec!["outbound|9000|s|one.a.svc.cluster.local"],
        ),
        (
            "[{route: [{destination: {host: one, subset: a}, weight: 95}, {destination: {host: one, subset: b}, weight: 5}, {destination: {host: two}}]}]",
            vec!["outbound|80|a|one.a.svc.cluster.local=95 outbound|80|b|one.a.svc.cluster.local=5"],
        ),
    ] {
        let bench = bench(&virtual_service("v", "[one]", http));
        assert_eq!(clusters(&bench.host("80", "one.a.svc.cluster.local:80").routes), expected, "{http}");
    }
}

#[test]
fn actions() {
    let http = "[{match: [{uri: {prefix: /a}}], rewrite: {uri: /b, authority: h}, timeout: 2s,
          headers: {request: {set: {b: '1', a: '2'}, add: {c: '3'}, remove: [D]}, response: {add: {e: '4'}}},
          route: [{destination: {host: one}, headers: {request: {add: {f: '5', host: ignored}}}}]},
        {match: [{uri: {prefix: /c}}], rewrite: {uriRegexRewrite: {match: '^/c/(.*)', rewrite: '/\\\\1'}}, route: [{destination: {host: one}}]},
        {match: [{uri: {prefix: /d}}], redirect: {authority: x, scheme: https, port: 443}},
        {match: [{uri: {prefix: /e}}], redirect: {prefixRewrite: /f, port: 8080}},
        {match: [{uri: {prefix: /g}}], retries: {attempts: 0}, route: [{destination: {host: one}}]},
        {directResponse: {status: 503, body: {string: none}}}]";
    let bench = bench(&virtual_service("v", "[one]", http));
    let routes = bench.host("80", "one.a.svc.cluster.local:80").routes;
    let first = forwarded(&routes[0]);
    assert_eq!(first.path_rewrite, Some(PathRewrite::Prefix("/b".into())));
    assert_eq!(first.host_rewrite, Some(HostRewrite::Literal("h".into())), "the route's own wins");
    assert_eq!((first.timeout, first.max_grpc_timeout), (Some(Duration::from_secs(2)), Some(Duration::from_secs(2))));
    let ops: Vec<_> = routes[0].request_headers.set.iter().map(|o| (o.name.as_str(), o.append)).collect();
    assert_eq!(
        ops,
        [
            ("a", HeaderAppend::OverwriteOrAdd),
            ("b", HeaderAppend::OverwriteOrAdd),
            ("c", HeaderAppend::AppendOrAdd),
            ("f", HeaderAppend::AppendOrAdd)
        ]
    );
    assert_eq!(routes[0].request_headers.remove, ["d"]);
    assert_eq!(routes[0].response_headers.set.len(), 1);
    assert_eq!(routes[0].operation.as_deref(), Some("one.a.svc.cluster.local:80/a*"));
    assert!(matches!(&forwarded(&routes[1]).path_rewrite, Some(PathRewrite::Regex { .. })));
    assert_eq!(forwarded(&routes[1]).max_grpc_timeout, Some(Duration::ZERO));
    let RouteAction::Redirect(https) = &routes[2].action else { panic!() };
    assert_eq!((https.scheme.as_deref(), https.host.as_deref(), https.port, https.status), (Some("https"), Some("x"), None, 301));
    let RouteAction::Redirect(prefix) = &routes[3].action else { panic!() };
    assert_eq!((&prefix.path, prefix.port), (&lateen_model::dataplane::RedirectPath::Prefix("/f".into()), Some(8080)));
    assert_eq!(forwarded(&routes[4]).retry, None);
    assert_eq!(routes[5].config_source.as_deref(), Some("/apis/networking.istio.io/v1/namespaces/a/virtual-service/v"));
}

#[test]
fn ports_of_redirects() {
    for (port, written, expected) in [
        (9000, "authority: h", None),
        (9000, "authority: h, port: 8443", Some(8443)),
        (9000, "authority: h, port: 80", None),
        (9000, "scheme: https, port: 443", None),
        (9000, "scheme: https, port: 80", Some(80)),
        (9000, "authority: h, derivePort: FROM_REQUEST_PORT", Some(9000)),
        (80, "authority: h, derivePort: FROM_REQUEST_PORT", None),
        (80, "scheme: https, derivePort: FROM_REQUEST_PORT", Some(80)),
        (9000, "scheme: https, derivePort: FROM_PROTOCOL_DEFAULT", None),
    ] {
        let bench = bench(&virtual_service("v", "[one]", &format!("[{{redirect: {{{written}}}}}]")));
        let host = bench.host(&port.to_string(), &format!("one.a.svc.cluster.local:{port}"));
        let RouteAction::Redirect(redirect) = &host.routes[0].action else { panic!("{host:?}") };
        assert_eq!(redirect.port, expected, "{written} on {port}");
    }
}

#[test]
fn the_most_specific_host_wins_and_then_the_oldest() {
    let to = |subset: &str| format!("[{{route: [{{destination: {{host: one, subset: {subset}}}}}]}}]");
    let manifests = [
        virtual_service("wide", "['*.a.svc.cluster.local']", &to("wide")),
        virtual_service("exact-old", "[one]", &to("old")),
        virtual_service("exact-young", "[one.a.svc.cluster.local]", &to("young")),
        virtual_service("elsewhere", "[www.example.com]", &to("www")),
    ]
    .concat();
    let bench = bench(&manifests);
    assert_eq!(clusters(&bench.host("80", "one.a.svc.cluster.local:80").routes), ["outbound|80|old|one.a.svc.cluster.local"]);
    let two = bench.host("8000", "two.a.svc.cluster.local:8000");
    assert_eq!(clusters(&two.routes), ["outbound|8000|wide|one.a.svc.cluster.local"]);
    let www = bench.host("80", "www.example.com:80");
    assert_eq!(www.domains, ["www.example.com", "www.example.com."], "an unknown host counts on port 80");
    assert!(!bench.routes("8000").virtual_hosts.iter().any(|h| h.name.starts_with("www")));
}

#[test]
fn registry_only() {
    let sidecar = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: s, namespace: a}\nspec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}, egress: [{hosts: ['./one.a.svc.cluster.local']}]}\n---\n";
    let bench = bench(sidecar);
    let names: Vec<_> = bench.routes("80").virtual_hosts.into_iter().map(|h| h.name).collect();
    assert_eq!(names, ["one.a.svc.cluster.local:80", "block_all"]);
    assert_eq!(clusters(&bench.host("80", "block_all").routes), ["direct 502"]);
}

#[test]
fn a_proxy_of_its_application_goes_by_host_and_port() {
    let rule = virtual_service("one", "[one]", "[{match: [{uri: {prefix: /x}}], route: [{destination: {host: two}}]}]");
    let bench = bench(&rule);
    let routes = bench.routes("http_proxy");
    assert!(!routes.ignore_port_in_host_matching);
    let domains = |host: &str| bench.host("http_proxy", host).domains;
    // Port 80 needs no port, others do.
    let of_one = domains("one.a.svc.cluster.local:80");
    assert!(
        ["one", "one:80", "one.a.svc.cluster.local", "one.a.svc.cluster.local:80"]
            .iter()
            .all(|d| of_one.contains(&(*d).to_owned()))
    );
    let admin = domains("one.a.svc.cluster.local:9000");
    assert!(admin.contains(&"one:9000".to_owned()) && !admin.contains(&"one".to_owned()), "{admin:?}");
    assert!(domains("two.a.svc.cluster.local:8000").contains(&"two:8000".to_owned()));
    assert!(domains("sniffed.b.svc.cluster.local:80").contains(&"sniffed.b:80".to_owned()));
    // Each domain stands once.
    let all: Vec<String> = routes.virtual_hosts.iter().flat_map(|h| h.domains.clone()).collect();
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    // To the connection's own destination would be to the proxy itself.
    let last = routes.virtual_hosts.last().unwrap();
    assert!(matches!(&last.routes[0].action, RouteAction::DirectResponse(DirectResponse { status: 502, .. })), "{last:?}");
}

#[test]
fn a_sidecar_makes_ports_of_proxies() {
    let sidecar = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: x, namespace: a}\nspec:\n  egress:\n  - {port: {number: 8401, protocol: HTTP_PROXY, name: p}, bind: 127.0.0.1, captureMode: NONE, hosts: [./one.a.svc.cluster.local]}\n  - {hosts: [./two.a.svc.cluster.local]}\n---\n";
    let bench = bench(sidecar);
    let names: Vec<String> = bench.routes("8401").virtual_hosts.into_iter().map(|h| h.name).collect();
    assert_eq!(names, ["one.a.svc.cluster.local:80", "one.a.svc.cluster.local:9000", "block_all"]);
    // What only the proxy knows has clusters, and no listeners or routes elsewhere.
    assert!(bench.scope.service("one.a.svc.cluster.local").is_none());
    assert!(bench.scope.services.iter().any(|s| &*s.service.host == "one.a.svc.cluster.local"));
    assert!(bench.scope.service("two.a.svc.cluster.local").is_some());
    assert!(!bench.routes("9000").virtual_hosts.iter().any(|h| h.name.starts_with("one.")));
    let listeners = crate::generate::listener::outbound::listeners(crate::generate::listener::outbound::Outbound {
        world: &bench.world,
        scope: &bench.scope,
        proxy: &bench.proxy,
    });
    let proxy = listeners.0.iter().find(|l| l.name == "127.0.0.1_8401").expect("a listener");
    assert!(proxy.bind_to_port);
}
