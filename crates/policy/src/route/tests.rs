use super::*;
use crate::request::testing::Request;
use lateen_model::dataplane::{
    ClusterSpecifier, DirectResponse, Forward, HeaderAppend, HeaderMatch, HeaderMutation, HeaderPredicate, HeaderValueOp,
    HostRewrite, PathRewrite, QueryMatch, QueryPredicate, Redirect, RedirectPath, RouteAction, RouteMatch, SafeRegex,
    StringMatch, WeightedCluster,
};
use proptest::prelude::*;

fn forward(cluster: &str) -> Forward {
    Forward {
        cluster: ClusterSpecifier::Single(cluster.into()),
        timeout: None,
        idle_timeout: None,
        max_grpc_timeout: None,
        path_rewrite: None,
        host_rewrite: None,
        retry: None,
        mirrors: Vec::new(),
        hash_policies: Vec::new(),
        cluster_not_found_status: 503,
    }
}

fn path_match(path: PathMatch) -> RouteMatch {
    RouteMatch { path, case_sensitive: true, headers: vec![], query: vec![] }
}

fn route(name: &str, matches: RouteMatch, action: RouteAction) -> Route {
    Route {
        name: name.into(),
        matches,
        action,
        operation: None,
        filters: RouteFilters::default(),
        request_headers: HeaderMutation::default(),
        response_headers: HeaderMutation::default(),
        config_source: None,
    }
}

fn to(name: &str, path: PathMatch) -> Route {
    route(name, path_match(path), RouteAction::Forward(Box::new(forward(name))))
}

fn prefix(text: &str) -> PathMatch {
    PathMatch::Prefix(text.into())
}

fn host(name: &str, domains: &[&str], routes: Vec<Route>) -> VirtualHost {
    let domains = domains.iter().map(|d| (*d).to_owned()).collect();
    VirtualHost { name: name.into(), domains, routes, include_request_attempt_count: true, require_tls: false }
}

fn config(virtual_hosts: Vec<VirtualHost>) -> RouteConfiguration {
    RouteConfiguration { name: "80".into(), virtual_hosts, ignore_port_in_host_matching: true, max_direct_response_body_bytes: 8 }
}

fn table(routes: Vec<Route>) -> RouteTable {
    RouteTable::compile(&config(vec![host("all", &["*"], routes)])).unwrap()
}

fn found<'a>(table: &'a RouteTable, request: &Request) -> Option<&'a str> {
    table.find(request).map(|m| m.route.name())
}

fn only(route: Route) -> Arc<CompiledRoute> {
    Arc::clone(table(vec![route]).virtual_hosts()[0].routes().first().unwrap())
}

#[test]
fn hosts() {
    let hosts = [
        ("exact", vec!["a.shop.example", "reviews", "trailing.example.", "10.0.0.1", "[::1]"]),
        ("long suffix", vec!["*.eu.shop.example"]),
        ("suffix", vec!["*.shop.example"]),
        ("dash suffix", vec!["*-shop.example"]),
        ("long prefix", vec!["api.v1.*"]),
        ("prefix", vec!["api.*"]),
        ("any", vec!["*"]),
    ];
    let hosts = hosts.iter().map(|(name, domains)| host(name, domains, vec![])).collect();
    let table = RouteTable::compile(&config(hosts)).unwrap();
    for (authority, expected) in [
        ("a.shop.example", "exact"),
        ("A.Shop.EXAMPLE", "exact"),
        ("a.shop.example:8080", "exact"),
        ("reviews:80", "exact"),
        ("trailing.example.", "exact"),
        ("trailing.example", "any"),
        ("10.0.0.1:9080", "exact"),
        ("[::1]:80", "exact"),
        ("[::1]", "exact"),
        ("b.shop.example", "suffix"),
        ("x.y.shop.example", "suffix"),
        ("b.eu.shop.example", "long suffix"),
        (".shop.example", "any"),
        ("shop.example", "any"),
        ("old-shop.example", "dash suffix"),
        ("api.v1.example", "long prefix"),
        ("api.v2.example", "prefix"),
        ("api.", "any"),
        // A suffix beats a prefix.
        ("api.shop.example", "suffix"),
        ("other", "any"),
        ("", "any"),
        ("a.shop.example:80x", "any"),
    ] {
        assert_eq!(table.find_host(authority).map(CompiledVirtualHost::name), Some(expected), "{authority}");
    }
}

#[test]
fn ports_count_unless_ignored() {
    let hosts = vec![host("with port", &["a:8080"], vec![]), host("without", &["a"], vec![])];
    let strict = RouteConfiguration { ignore_port_in_host_matching: false, ..config(hosts) };
    let table = RouteTable::compile(&strict).unwrap();
    let name = |authority| table.find_host(authority).map(CompiledVirtualHost::name);
    assert_eq!([name("a:8080"), name("a"), name("a:80")], [Some("with port"), Some("without"), None]);
}

#[test]
fn a_domain_must_not_stand_twice() {
    for domains in [["a", "A"], ["*", "*"], ["*.a", "*.a"], ["a.*", "a.*"]] {
        let hosts = vec![host("1", &domains[..1], vec![]), host("2", &domains[1..], vec![])];
        let error = RouteTable::compile(&config(hosts)).unwrap_err();
        assert_eq!(error.path(), "virtual_hosts[1].domains[0]", "{domains:?}");
    }
}

#[test]
fn paths() {
    let regex = |p: &str| PathMatch::Regex(SafeRegex::try_new(p).unwrap());
    for (path, request, expected) in [
        (prefix("/"), "/", true),
        (prefix("/foo"), "/foobar", true),
        (prefix("/foo"), "/foo?x=1", true),
        (prefix("/foo"), "/fo", false),
        (prefix("/foo"), "/Foo", false),
        (PathMatch::PathSeparatedPrefix("/foo".into()), "/foo", true),
        (PathMatch::PathSeparatedPrefix("/foo".into()), "/foo/", true),
        (PathMatch::PathSeparatedPrefix("/foo".into()), "/foo/bar?q", true),
        (PathMatch::PathSeparatedPrefix("/foo".into()), "/foobar", false),
        (PathMatch::Exact("/foo".into()), "/foo", true),
        (PathMatch::Exact("/foo".into()), "/foo?a=/", true),
        (PathMatch::Exact("/foo".into()), "/foo/", false),
        (regex("/a.c"), "/abc?x", true),
        (regex("/a.c"), "/abcd", false),
        (regex("/a.c"), "/ABC", false),
    ] {
        let table = table(vec![to("r", path.clone())]);
        assert_eq!(found(&table, &Request::get("h", request)).is_some(), expected, "{path:?} {request}");
    }
    for path in [prefix("/FOO"), PathMatch::Exact("/fOo".into()), PathMatch::PathSeparatedPrefix("/Foo".into())] {
        let mut folded = to("r", path);
        folded.matches.case_sensitive = false;
        assert!(found(&table(vec![folded]), &Request::get("h", "/foo")).is_some());
    }
}

#[test]
fn first_match_wins_and_all_parts_must_hold() {
    let header = |name: &str, value: &str| HeaderMatch {
        name: name.into(),
        predicate: HeaderPredicate::Value(StringMatch::exact(value)),
        invert: false,
        missing_is_empty: false,
    };
    let mut canary = to("canary", prefix("/"));
    canary.matches.headers = vec![header("x-canary", "yes"), header(":method", "GET")];
    canary.matches.query = vec![QueryMatch { name: "v".into(), predicate: QueryPredicate::Value(StringMatch::exact("2")) }];
    let table = table(vec![canary, to("api", prefix("/api")), to("rest", prefix("/")), to("never", prefix("/api"))]);
    let with = |path: &str| Request::get("h", path).with("x-canary", "yes");
    assert_eq!(found(&table, &with("/api?v=2")), Some("canary"));
    assert_eq!(found(&table, &with("/api?v=1")), Some("api"));
    assert_eq!(found(&table, &with("/x")), Some("rest"));
    assert_eq!(found(&table, &Request { method: "POST".into(), ..with("/api?v=2") }), Some("api"));
    // Only the selected virtual host is asked.
    let hosts = vec![host("a", &["a"], vec![to("a", prefix("/a"))]), host("*", &["*"], vec![to("b", prefix("/"))])];
    let table = RouteTable::compile(&config(hosts)).unwrap();
    assert_eq!(found(&table, &Request::get("a", "/b")), None);
    assert_eq!(found(&table, &Request::get("c", "/b")), Some("b"));
}

fn weighted(weights: &[u32]) -> Route {
    let branch = |(i, weight): (usize, &u32)| WeightedCluster {
        name: format!("c{i}"),
        weight: *weight,
        request_headers: HeaderMutation::default(),
        response_headers: HeaderMutation::default(),
        host_rewrite: (i == 1).then(|| "branch.example".to_owned()),
    };
    let cluster = ClusterSpecifier::Weighted(weights.iter().enumerate().map(branch).collect());
    route("w", path_match(prefix("/")), RouteAction::Forward(Box::new(Forward { cluster, ..forward("") })))
}

fn forwarding(route: &CompiledRoute) -> &CompiledForward {
    match route.action() {
        Action::Forward(forward) => forward,
        other => panic!("{other:?}"),
    }
}

#[test]
fn weights_are_exact_over_a_period() {
    let compiled = only(weighted(&[90, 0, 10]));
    let mut counts = [0u32; 3];
    for random in 0..1000 {
        counts[forwarding(&compiled).choose_index(random)] += 1;
    }
    assert_eq!(counts, [900, 0, 100]);
    let huge = only(weighted(&[u32::MAX, u32::MAX]));
    assert_eq!(forwarding(&huge).choose(u64::from(u32::MAX)).name(), "c1");
    let error = RouteTable::compile(&config(vec![host("h", &["*"], vec![weighted(&[0, 0])])])).unwrap_err();
    assert_eq!(error.path(), "virtual_hosts[0].routes[0].route.weighted_clusters");
}

#[test]
fn host_changes() {
    let change = |own: Option<HostRewrite>| {
        let mut model = weighted(&[1, 1]);
        if let RouteAction::Forward(f) = &mut model.action {
            f.host_rewrite = own;
        }
        let compiled = only(model);
        let forward = forwarding(&compiled);
        forward.targets().iter().map(|t| format!("{:?}", forward.host_change(t))).collect::<Vec<_>>()
    };
    assert_eq!(change(None), ["Keep", "Literal(\"branch.example\")"]);
    assert_eq!(change(Some(HostRewrite::Auto)), ["Auto", "Auto"]);
    assert_eq!(change(Some(HostRewrite::Literal("r".into()))), ["Literal(\"r\")", "Literal(\"r\")"]);
}

fn rewriting(path: PathMatch, rewrite: PathRewrite) -> Arc<CompiledRoute> {
    let forward = Forward { path_rewrite: Some(rewrite), ..forward("c") };
    only(route("r", path_match(path), RouteAction::Forward(Box::new(forward))))
}

#[test]
fn prefix_rewrites() {
    let becomes = |text: &str| PathRewrite::Prefix(text.into());
    let exact = |text: &str| PathMatch::Exact(text.into());
    let regex = |text: &str| PathMatch::Regex(SafeRegex::try_new(text).unwrap());
    for (matched, rewrite, path, expected) in [
        (prefix("/api/v1/"), becomes("/"), "/api/v1/users?id=/api/v1/", "/users?id=/api/v1/"),
        (prefix("/api"), becomes("/v2"), "/apixyz", "/v2xyz"),
        (prefix("/api"), becomes("/"), "/api/x", "//x"),
        (prefix("/"), becomes("/base/"), "/x", "/base/x"),
        (exact("/a"), becomes("/b"), "/a?q=1", "/b?q=1"),
        (regex("/a.*"), becomes("/b"), "/abc?q", "/b?q"),
        (PathMatch::PathSeparatedPrefix("/a".into()), becomes("/b"), "/a/c", "/b/c"),
        (prefix("/a"), becomes(""), "/a", "/"),
        (prefix("/a/"), becomes(""), "/a/b?c", "/b?c"),
    ] {
        assert_eq!(rewriting(matched.clone(), rewrite.clone()).rewrite_path(path), expected, "{matched:?} {rewrite:?} {path}");
    }
    let plain = only(to("r", prefix("/")));
    assert!(matches!(plain.rewrite_path("/a?b"), std::borrow::Cow::Borrowed("/a?b")));
}

#[test]
fn regex_rewrites() {
    for (pattern, substitution, path, expected) in [
        ("^/service/([^/]+)(/.*)$", r"\2/instance/\1", "/service/foo/v1/api?x=/service/y", "/v1/api/instance/foo?x=/service/y"),
        ("one", "two", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/two/zzz"),
        ("^(.*?)one(.*)$", r"\1two\2", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/one/zzz"),
        ("(?i)/xxx/", "/yyy/", "/aaa/XxX/bbb", "/aaa/yyy/bbb"),
        (".*", "/all", "/a", "/all"),
        ("/a", r"/\\\0", "/a", r"/\/a"),
        ("^/", "", "/a", "/a"),
        ("nothing", "x", "/a?b", "/a?b"),
        ("(x)?/a", r"/\1b", "/a", "/b"),
    ] {
        let rewrite = PathRewrite::Regex { pattern: pattern.into(), substitution: substitution.into() };
        assert_eq!(rewriting(prefix("/"), rewrite).rewrite_path(path), expected, "{pattern} {substitution} {path}");
    }
    for (pattern, substitution, field) in [
        ("(", "", "pattern"),
        ("(a{1000}){1000}", "", "pattern"),
        ("a", r"\1", "substitution"),
        ("a", r"\", "substitution"),
        ("a", r"\x", "substitution"),
    ] {
        let path_rewrite = Some(PathRewrite::Regex { pattern: pattern.into(), substitution: substitution.into() });
        let action = RouteAction::Forward(Box::new(Forward { path_rewrite, ..forward("c") }));
        let hosts = vec![host("h", &["*"], vec![route("r", path_match(prefix("/")), action)])];
        let error = RouteTable::compile(&config(hosts)).unwrap_err();
        assert!(error.path().ends_with(field), "{error}");
    }
}

fn redirect() -> Redirect {
    Redirect { scheme: None, host: None, port: None, path: RedirectPath::Keep, status: 301, strip_query: false }
}

#[test]
fn redirects() {
    let host = |h: &str| Redirect { host: Some(h.into()), ..redirect() };
    let path = |path| Redirect { path, ..redirect() };
    let https = || Redirect { scheme: Some("https".into()), ..redirect() };
    for (model, authority, target, expected) in [
        (host("new.example"), "old.example", "/a?b", "http://new.example/a?b"),
        (https(), "old.example", "/a", "https://old.example/a"),
        (https(), "old.example:80", "/a", "https://old.example/a"),
        (https(), "old.example:8080", "/a", "https://old.example:8080/a"),
        (https(), "[::1]:80", "/", "https://[::1]/"),
        (redirect(), "old.example:80", "/", "http://old.example:80/"),
        (Redirect { port: Some(8443), ..https() }, "old.example:80", "/", "https://old.example:8443/"),
        (path(RedirectPath::Replace("/new".into())), "h", "/old?q=1", "http://h/new?q=1"),
        (path(RedirectPath::Replace("/new?x=y".into())), "h", "/old?q=1", "http://h/new?x=y"),
        (path(RedirectPath::Replace("new".into())), "h", "/old", "http://h/new"),
        (path(RedirectPath::Prefix("/n".into())), "h", "/pre/x?q", "http://h/n/x?q"),
        (Redirect { strip_query: true, ..redirect() }, "h", "/a?b", "http://h/a"),
        (Redirect { strip_query: true, ..path(RedirectPath::Replace("/n?k".into())) }, "h", "/a?b", "http://h/n?k"),
    ] {
        let compiled = only(route("r", path_match(prefix("/pre")), RouteAction::Redirect(model.clone())));
        let location = compiled.redirect_location(&Request::get(authority, target), "http");
        assert_eq!(location.as_deref(), Some(expected), "{model:?} {authority} {target}");
    }
    assert_eq!(only(to("r", prefix("/"))).redirect_location(&Request::get("h", "/"), "http"), None);
}

#[test]
fn compile_errors_name_their_place() {
    let body = RouteAction::DirectResponse(DirectResponse { status: 200, body: b"123456789".to_vec() });
    let error =
        RouteTable::compile(&config(vec![host("h", &["*"], vec![route("r", path_match(prefix("/")), body)])])).unwrap_err();
    assert_eq!(error.path(), "virtual_hosts[0].routes[0].direct_response.body");
    let mut bad = to("r", prefix("/"));
    bad.request_headers.set = vec![HeaderValueOp { name: "x".into(), value: "%FOO%".into(), append: HeaderAppend::AppendOrAdd }];
    let error = RouteTable::compile(&config(vec![host("h", &["*"], vec![to("ok", prefix("/")), bad])])).unwrap_err().to_string();
    assert!(error.starts_with("virtual_hosts[0].routes[1].request_headers.set[0] (x).value: %FOO%"), "{error}");
}

fn any_path_match() -> impl Strategy<Value = (PathMatch, bool)> {
    let text = "/[abA]{0,3}(/[ab]{0,2}){0,2}";
    let path = prop_oneof![
        4 => text.prop_map(PathMatch::Prefix),
        1 => Just(prefix("")),
        4 => text.prop_map(PathMatch::Exact),
        2 => text.prop_map(PathMatch::PathSeparatedPrefix),
        1 => "/[ab]\\.\\*".prop_map(|p| PathMatch::Regex(SafeRegex::try_new(&p).expect("valid"))),
    ];
    (path, prop::bool::weighted(0.85))
}

proptest! {
    /// The index changes nothing: the same route as asking each in turn.
    #[test]
    fn index_keeps_first_match_semantics(
        routes in prop::collection::vec((any_path_match(), prop::option::weighted(0.3, "[xy]")), 0..60),
        requests in prop::collection::vec(("/[abA]{0,3}(/[ab]{0,2}){0,3}(\\?[ab])?", prop::option::of("[xy]")), 1..20),
    ) {
        let routes = routes
            .into_iter()
            .enumerate()
            .map(|(i, ((path, case_sensitive), header))| {
                let mut route = to(&i.to_string(), path);
                route.matches.case_sensitive = case_sensitive;
                route.matches.headers = header
                    .map(|value| HeaderMatch {
                        name: "x".into(),
                        predicate: HeaderPredicate::Value(StringMatch::exact(value)),
                        invert: false,
                        missing_is_empty: false,
                    })
                    .into_iter()
                    .collect();
                route
            })
            .collect();
        let table = table(routes);
        for (path, header) in requests {
            let mut request = Request::get("h", &path);
            if let Some(value) = header {
                request = request.with("x", &value);
            }
            let expected = table.virtual_hosts()[0].routes().iter().find(|r| r.matches(&request)).map(|r| r.name());
            prop_assert_eq!(found(&table, &request), expected, "{}", path);
        }
    }
}
