use super::*;
use crate::request::testing::Request;
use lateen_model::dataplane::{HeaderMatch, HeaderPredicate, SafeRegex, StringPredicate};
use proptest::prelude::*;
use std::net::SocketAddr;

fn rbac(action: RbacAction, policies: Vec<(&str, Vec<Permission>, Vec<Principal>)>) -> Engine {
    let policies = policies
        .into_iter()
        .map(|(name, permissions, principals)| RbacPolicy { name: name.into(), permissions, principals })
        .collect();
    Engine::compile(&Rbac { action, policies, stat_prefix: "http.".into() }).unwrap()
}

fn header_is(name: &str, wanted: StringMatch) -> HeaderMatch {
    HeaderMatch { name: name.into(), predicate: HeaderPredicate::Value(wanted), invert: false, missing_is_empty: false }
}

fn header(name: &str, value: &str) -> Permission {
    Permission::Header(header_is(name, StringMatch::exact(value)))
}

fn method(value: &str) -> Permission {
    header(":method", value)
}

fn namespace(ns: &str) -> Principal {
    Principal::Authenticated(Some(StringMatch::regex(SafeRegex::try_new(&format!(".*/ns/{ns}/.*")).unwrap())))
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn anybody() -> Vec<Principal> {
    vec![Principal::Any]
}

fn from(ns: &str) -> Request {
    Request::get("shop", "/a").peer_san(&format!("spiffe://cluster.local/ns/{ns}/sa/x"))
}

#[test]
fn actions() {
    let request = from("a");
    for (action, principal, expected) in [
        (RbacAction::Allow, "a", Verdict::Allow(Some("p"))),
        (RbacAction::Allow, "b", Verdict::Deny(None)),
        (RbacAction::Deny, "a", Verdict::Deny(Some("p"))),
        (RbacAction::Deny, "b", Verdict::Allow(None)),
        (RbacAction::Log, "a", Verdict::Allow(Some("p"))),
        (RbacAction::Log, "b", Verdict::Allow(None)),
    ] {
        let engine = rbac(action, vec![("p", vec![Permission::Any], vec![namespace(principal)])]);
        assert_eq!(engine.check(&request, &request), expected, "{action:?} {principal}");
        assert_eq!(engine.check_connection(&request), expected, "{action:?} {principal}");
    }
    // No policy at all: ALLOW lets nothing pass, DENY everything.
    assert_eq!(rbac(RbacAction::Allow, vec![]).check(&request, &request), Verdict::Deny(None));
    assert_eq!(rbac(RbacAction::Deny, vec![]).check(&request, &request), Verdict::Allow(None));
}

#[test]
fn the_first_policy_by_name_is_reported() {
    let all = || (vec![Permission::Any], anybody());
    let engine = rbac(RbacAction::Deny, vec![("b", all().0, all().1), ("a", all().0, all().1)]);
    let request = from("x");
    assert_eq!(engine.check(&request, &request), Verdict::Deny(Some("a")));
}

#[test]
fn leaves() {
    let mut request = from("a").with("x", "1");
    request.path = "/v1/u/items?q=/admin".into();
    request.destination = "10.1.2.3:9080".parse().unwrap();
    request.direct_remote = "::ffff:192.168.1.7".parse().unwrap();
    request.client = "203.0.113.9".parse().unwrap();
    request.server_name = Some("outbound_.80_._.a".into());
    let folded = |p| StringMatch { predicate: p, ignore_case: true };
    for (permission, expected) in [
        (Permission::Any, true),
        (header("x", "1"), true),
        (header("x", "2"), false),
        (Permission::Header(header_is(":authority", folded(StringPredicate::Exact("SHOP".into())))), true),
        (Permission::Header(header_is(":authority", StringMatch::exact("SHOP"))), false),
        (Permission::Path(StringMatch::exact("/v1/u/items")), true),
        (Permission::Path(StringMatch::suffix("/admin")), false),
        (Permission::PathTemplate("/v1/{*}/items".into()), true),
        (Permission::PathTemplate("/v1/{*}".into()), false),
        (Permission::DestinationPort(9080), true),
        (Permission::DestinationPort(80), false),
        (Permission::DestinationIp(net("10.1.0.0/16")), true),
        (Permission::DestinationIp(net("10.2.0.0/16")), false),
        (Permission::RequestedServerName(StringMatch::prefix("outbound_")), true),
        (Permission::Not(Box::new(Permission::DestinationPort(80))), true),
        (Permission::And(vec![Permission::Any, Permission::DestinationPort(80)]), false),
        (Permission::Or(vec![Permission::DestinationPort(80), Permission::Any]), true),
    ] {
        let engine = rbac(RbacAction::Allow, vec![("p", vec![permission.clone()], anybody())]);
        assert_eq!(engine.check(&request, &request).is_allowed(), expected, "{permission:?}");
    }
    for (principal, expected) in [
        (namespace("a"), true),
        (namespace("b"), false),
        (Principal::Authenticated(None), true),
        (Principal::DirectRemoteIp(net("192.168.0.0/16")), true),
        (Principal::DirectRemoteIp(net("::ffff:192.168.1.0/120")), true),
        (Principal::DirectRemoteIp(net("::/0")), false),
        (Principal::RemoteIp(net("192.168.0.0/16")), false),
        (Principal::RemoteIp(net("203.0.113.0/24")), true),
        (Principal::Path(StringMatch::prefix("/v1")), true),
        (Principal::Header(header_is("x", StringMatch::exact("1"))), true),
        (Principal::Not(Box::new(namespace("b"))), true),
        (Principal::And(vec![Principal::Any, namespace("b")]), false),
        (Principal::Or(vec![namespace("b"), namespace("a")]), true),
    ] {
        let engine = rbac(RbacAction::Allow, vec![("p", vec![Permission::Any], vec![principal.clone()])]);
        assert_eq!(engine.check(&request, &request).is_allowed(), expected, "{principal:?}");
    }
}

#[test]
fn without_mtls_no_principal_holds_and_its_negation_does() {
    let request = Request::get("shop", "/");
    let mut no_san = Request::get("shop", "/");
    no_san.verified = true;
    for (subject, any_verified) in [(&request, false), (&no_san, true)] {
        let allow = rbac(RbacAction::Allow, vec![("p", vec![Permission::Any], vec![namespace(".*")])]);
        assert!(!allow.check(subject, subject).is_allowed());
        let verified = rbac(RbacAction::Allow, vec![("p", vec![Permission::Any], vec![Principal::Authenticated(None)])]);
        assert_eq!(verified.check(subject, subject).is_allowed(), any_verified);
        // DENY notNamespaces: whoever has no identity is refused (ISTIO-SECURITY-2021-004).
        let deny = rbac(RbacAction::Deny, vec![("p", vec![Permission::Any], vec![Principal::Not(Box::new(namespace("a")))])]);
        assert!(!deny.check(subject, subject).is_allowed());
    }
}

#[test]
fn repeated_headers_refuse() {
    let request = Request::get("shop", "/").with("x-role", "user").with("x-role", "admin");
    let not = |p| Permission::Not(Box::new(p));
    let joined = header("x-role", "user,admin");
    let prefixed = Permission::Header(header_is("x-role", StringMatch::prefix("user")));
    let inverted =
        |value: &str| Permission::Header(HeaderMatch { invert: true, ..header_is("x-role", StringMatch::exact(value)) });
    for (action, permission, allowed) in [
        // A value cannot hide behind another.
        (RbacAction::Deny, header("x-role", "admin"), false),
        (RbacAction::Deny, header("x-role", "user"), false),
        (RbacAction::Deny, joined.clone(), false),
        (RbacAction::Deny, header("x-role", "root"), true),
        (RbacAction::Deny, not(header("x-role", "user")), false),
        (RbacAction::Deny, inverted("user"), false),
        // Access is not granted by one of several values, nor by the absence of one that is there.
        (RbacAction::Allow, header("x-role", "admin"), false),
        (RbacAction::Allow, joined, true),
        (RbacAction::Allow, not(header("x-role", "admin")), false),
        (RbacAction::Allow, inverted("admin"), false),
        (RbacAction::Allow, not(not(header("x-role", "admin"))), false),
        (RbacAction::Allow, not(header("x-role", "root")), true),
        (RbacAction::Allow, prefixed, true),
    ] {
        let engine = rbac(action, vec![("p", vec![permission.clone()], anybody())]);
        assert_eq!(engine.check(&request, &request).is_allowed(), allowed, "{action:?} {permission:?}");
    }
}

#[test]
fn request_predicates_on_a_connection() {
    let connection = from("a");
    let not = |p| Permission::Not(Box::new(p));
    let path = || Permission::Path(StringMatch::prefix("/"));
    for (action, permission, allowed) in [
        (RbacAction::Allow, method("GET"), false),
        (RbacAction::Allow, path(), false),
        (RbacAction::Allow, Permission::PathTemplate("/{**}".into()), false),
        (RbacAction::Allow, not(method("GET")), false),
        (RbacAction::Allow, not(path()), false),
        (RbacAction::Allow, not(not(path())), false),
        (RbacAction::Allow, Permission::Or(vec![path(), Permission::Any]), true),
        (RbacAction::Deny, method("GET"), true),
        (RbacAction::Deny, path(), true),
        (RbacAction::Deny, not(method("GET")), false),
        (RbacAction::Deny, Permission::DestinationPort(8080), false),
    ] {
        let engine = rbac(action, vec![("p", vec![permission.clone()], anybody())]);
        assert_eq!(engine.check_connection(&connection).is_allowed(), allowed, "{action:?} {permission:?}");
    }
}

#[test]
fn invalid_rules_are_refused() {
    let compile = |permissions, principals| {
        let policies = vec![RbacPolicy { name: "ns[a]-policy[b]-rule[0]".into(), permissions, principals }];
        Engine::compile(&Rbac { action: RbacAction::Allow, policies, stat_prefix: String::new() })
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    let mut deep = Permission::Any;
    for _ in 0..70 {
        deep = Permission::Not(Box::new(deep));
    }
    for (permissions, principals, expected) in [
        (vec![], anybody(), "policies[ns[a]-policy[b]-rule[0]].permissions:"),
        (vec![Permission::Any], vec![], "policies[ns[a]-policy[b]-rule[0]].principals:"),
        (vec![Permission::And(vec![])], anybody(), "permissions[0].and_rules:"),
        (vec![Permission::Any], vec![Principal::Or(vec![])], "principals[0].or_ids:"),
        (vec![Permission::PathTemplate("/a{*}".into())], anybody(), "permissions[0].uri_template:"),
        (vec![deep], anybody(), "nested more than 64"),
    ] {
        let error = compile(permissions, principals);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn details() {
    assert_eq!(denied_details(Some("ns[a]-policy[b c]-rule[0]")), "rbac_access_denied_matched_policy[ns[a]-policy[b_c]-rule[0]]");
    assert_eq!(denied_details(None), "rbac_access_denied_matched_policy[none]");
}

/// What rules mean, in the plainest words: with single headers, so that repetition does not matter.
mod reference {
    use super::*;

    fn string(m: &StringMatch, text: &str) -> bool {
        let fold = |s: &str| if m.ignore_case { s.to_ascii_lowercase() } else { s.to_owned() };
        let text_folded = fold(text);
        match &m.predicate {
            StringPredicate::Exact(p) => text_folded == fold(p),
            StringPredicate::Prefix(p) => text_folded.starts_with(&fold(p)),
            StringPredicate::Suffix(p) => text_folded.ends_with(&fold(p)),
            StringPredicate::Contains(p) => text_folded.contains(&fold(p)),
            StringPredicate::Regex(r) => r.is_match(text),
        }
    }

    fn header(m: &HeaderMatch, request: &Request) -> bool {
        let value = match m.name.as_str() {
            ":method" => Some(request.method.clone()),
            name => request.headers.iter().find(|(n, _)| n == name).map(|(_, v)| String::from_utf8_lossy(v).into_owned()),
        };
        match (&m.predicate, value) {
            (HeaderPredicate::Present(wanted), value) => (value.is_some() == *wanted) != m.invert,
            (HeaderPredicate::Value(wanted), Some(value)) => string(wanted, &value) != m.invert,
            (HeaderPredicate::Value(wanted), None) => m.missing_is_empty && string(wanted, "") != m.invert,
        }
    }

    fn path(request: &Request) -> &str {
        request.path.split('?').next().unwrap_or_default()
    }

    pub(super) fn permission(p: &Permission, request: &Request) -> bool {
        match p {
            Permission::Any => true,
            Permission::And(all) => !all.iter().any(|p| !permission(p, request)),
            Permission::Or(any) => any.iter().any(|p| permission(p, request)),
            Permission::Not(p) => !permission(p, request),
            Permission::Header(m) => header(m, request),
            Permission::Path(m) => string(m, path(request)),
            Permission::DestinationPort(port) => request.destination.port() == *port,
            Permission::DestinationIp(net) => net.contains(&request.destination.ip()),
            Permission::RequestedServerName(m) => string(m, request.server_name.as_deref().unwrap_or("")),
            Permission::PathTemplate(_) => unreachable!("not generated"),
        }
    }

    pub(super) fn principal(p: &Principal, request: &Request) -> bool {
        match p {
            Principal::Any => true,
            Principal::And(all) => !all.iter().any(|p| !principal(p, request)),
            Principal::Or(any) => any.iter().any(|p| principal(p, request)),
            Principal::Not(p) => !principal(p, request),
            Principal::Authenticated(None) => request.verified,
            Principal::Authenticated(Some(m)) => request.verified && request.uri_san.as_ref().is_some_and(|san| string(m, san)),
            Principal::DirectRemoteIp(net) => net.contains(&request.direct_remote),
            Principal::RemoteIp(net) => net.contains(&request.client),
            Principal::Header(m) => header(m, request),
            Principal::Path(m) => string(m, path(request)),
        }
    }
}

fn any_string() -> impl Strategy<Value = StringMatch> {
    let predicate = prop_oneof![
        "[abAB/]{0,3}".prop_map(StringPredicate::Exact),
        "[abAB/]{1,2}".prop_map(StringPredicate::Prefix),
        "[abAB/]{1,2}".prop_map(StringPredicate::Suffix),
        "[abAB/]{1,2}".prop_map(StringPredicate::Contains),
        "[ab/]\\.\\*".prop_map(|p| StringPredicate::Regex(SafeRegex::try_new(&p).expect("valid"))),
    ];
    (predicate, any::<bool>()).prop_map(|(predicate, ignore_case)| StringMatch { predicate, ignore_case })
}

fn any_header() -> impl Strategy<Value = HeaderMatch> {
    let predicate = prop_oneof![any::<bool>().prop_map(HeaderPredicate::Present), any_string().prop_map(HeaderPredicate::Value)];
    (prop::sample::select(vec!["x", "y", ":method"]), predicate, any::<bool>(), any::<bool>()).prop_map(
        |(name, predicate, invert, missing_is_empty)| HeaderMatch { name: name.into(), predicate, invert, missing_is_empty },
    )
}

fn any_net() -> impl Strategy<Value = IpNet> {
    (0u8..4, 24u8..=32).prop_map(|(n, len)| IpNet::new(IpAddr::from([10, 0, 0, n]), len).expect("valid"))
}

fn any_permission() -> impl Strategy<Value = Permission> {
    let leaf = prop_oneof![
        Just(Permission::Any),
        any_header().prop_map(Permission::Header),
        any_string().prop_map(Permission::Path),
        (80u16..82).prop_map(Permission::DestinationPort),
        any_net().prop_map(Permission::DestinationIp),
        any_string().prop_map(Permission::RequestedServerName),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(Permission::And),
            prop::collection::vec(inner.clone(), 1..4).prop_map(Permission::Or),
            inner.prop_map(|p| Permission::Not(Box::new(p))),
        ]
    })
}

fn any_principal() -> impl Strategy<Value = Principal> {
    let leaf = prop_oneof![
        Just(Principal::Any),
        prop::option::of(any_string()).prop_map(Principal::Authenticated),
        any_net().prop_map(Principal::DirectRemoteIp),
        any_net().prop_map(Principal::RemoteIp),
        any_header().prop_map(Principal::Header),
        any_string().prop_map(Principal::Path),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(Principal::And),
            prop::collection::vec(inner.clone(), 1..4).prop_map(Principal::Or),
            inner.prop_map(|p| Principal::Not(Box::new(p))),
        ]
    })
}

prop_compose! {
    fn any_request()(
        path in "/[abAB/]{0,4}(\\?[ab])?",
        method in prop::sample::select(vec!["a", "b", "A"]),
        x in prop::option::of("[abAB]{0,3}"),
        y in prop::option::of("[abAB]{0,3}"),
        ips in (0u8..4, 0u8..4, 0u8..4),
        port in 80u16..82,
        sni in prop::option::of("[ab]{0,2}"),
        verified in any::<bool>(),
        san in prop::option::of("[ab/]{0,3}"),
    ) -> Request {
        let ip = |n| IpAddr::from([10, 0, 0, n]);
        let mut request = Request::get("h", &path);
        request.method = method.into();
        request.headers = [("x", x), ("y", y)]
            .into_iter()
            .filter_map(|(name, value)| value.map(|v| (name.to_owned(), v.into_bytes())))
            .collect();
        request.destination = SocketAddr::new(ip(ips.0), port);
        request.direct_remote = ip(ips.1);
        request.client = ip(ips.2);
        request.server_name = sni;
        request.verified = verified;
        request.uri_san = san;
        request
    }
}

proptest! {
    #[test]
    fn agrees_with_the_reference(
        policies in prop::collection::vec(
            (prop::collection::vec(any_permission(), 1..3), prop::collection::vec(any_principal(), 1..3)),
            0..4,
        ),
        requests in prop::collection::vec(any_request(), 1..8),
        action in prop::sample::select(vec![RbacAction::Allow, RbacAction::Deny, RbacAction::Log]),
    ) {
        let names: Vec<String> = (0..policies.len()).map(|i| format!("p{i}")).collect();
        let engine = rbac(
            action,
            policies.iter().zip(&names).map(|((a, b), name)| (name.as_str(), a.clone(), b.clone())).collect(),
        );
        for request in &requests {
            let matched = policies.iter().position(|(permissions, principals)| {
                permissions.iter().any(|p| reference::permission(p, request))
                    && principals.iter().any(|p| reference::principal(p, request))
            });
            let allowed = match action {
                RbacAction::Allow => matched.is_some(),
                RbacAction::Deny => matched.is_none(),
                RbacAction::Log => true,
            };
            let verdict = engine.check(request, request);
            prop_assert_eq!(verdict.is_allowed(), allowed);
            prop_assert_eq!(verdict.policy(), matched.map(|i| names[i].as_str()));
        }
    }

    /// More values of a header never turn a refusal of one of them into access.
    #[test]
    fn repetition_never_gains_access(
        permission in any_permission(),
        request in any_request(),
        extra in "[abAB]{1,3}",
    ) {
        let deny = rbac(RbacAction::Deny, vec![("p", vec![header("x", &extra)], anybody())]);
        let repeated = request.clone().with("x", &extra);
        prop_assert!(!deny.check(&repeated, &repeated).is_allowed());
        // Whatever an ALLOW grants with a repeated header, it grants by its joined value.
        let allow = rbac(RbacAction::Allow, vec![("p", vec![permission.clone()], anybody())]);
        if allow.check(&repeated, &repeated).is_allowed() {
            let values: Vec<&[u8]> = repeated.header("x").collect();
            let joined = values.join(&b',');
            let mut single = request;
            single.headers.retain(|(name, _)| name != "x");
            single.headers.push(("x".into(), joined));
            prop_assert!(allow.check(&single, &single).is_allowed(), "{permission:?}");
        }
    }
}
