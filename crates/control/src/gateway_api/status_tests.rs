//! What the statuses say: manifests in, conditions out.

use super::tests::{Bench, gateway, http_route, route};
use super::{Condition, Status, Transitions};
use lateen_model::resource::{Kind, ResourceKey, Timestamp};

fn key(kind: Kind, namespace: &str, name: &str) -> ResourceKey {
    ResourceKey { kind, namespace: namespace.to_owned(), name: name.to_owned() }
}

/// `Accepted=True(Accepted)`
fn text(conditions: &[Condition]) -> String {
    let one = |c: &Condition| format!("{}={}({})", c.type_, if c.status { "True" } else { "False" }, c.reason);
    conditions.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// The conditions of a route, by parent.
fn parents(bench: &Bench, kind: Kind, namespace: &str, name: &str) -> Vec<String> {
    match &bench.world.statuses()[&key(kind, namespace, name)] {
        Status::Route { parents } | Status::Policy { ancestors: parents } => {
            parents.iter().map(|p| format!("{}: {}", p.parent.name, text(&p.conditions))).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// The conditions of the Gateway, then each listener with its kinds and the number of its routes.
fn gateway_lines(bench: &Bench) -> Vec<String> {
    let Status::Gateway { conditions, listeners, .. } = &bench.world.statuses()[&key(Kind::KubeGateway, "a", "gw")] else {
        panic!("no Gateway")
    };
    let listener = |l: &super::ListenerStatus| format!("{} {:?} {} {}", l.name, l.kinds, l.attached, text(&l.conditions));
    std::iter::once(text(conditions)).chain(listeners.iter().map(listener)).collect()
}

const GOOD: &str =
    "Accepted=True(Accepted) Conflicted=False(NoConflicts) Programmed=True(Programmed) ResolvedRefs=True(ResolvedRefs)";
const HTTP: &str = "[{name: web, port: 80, protocol: HTTP}]";

#[test]
fn a_gateway_is_programmed_when_its_proxies_are_ready() {
    let bench = Bench::new(&(gateway(HTTP) + &http_route("r", "rules: [{backendRefs: [{name: one, port: 80}]}]")));
    let web = format!("web [\"HTTPRoute\", \"GRPCRoute\"] 1 {GOOD}");
    assert_eq!(gateway_lines(&bench), ["Accepted=True(Accepted) Programmed=True(Programmed)", web.as_str()]);
    let Status::Gateway { addresses, conditions, .. } = &bench.world.statuses()[&key(Kind::KubeGateway, "a", "gw")] else {
        panic!("no Gateway")
    };
    assert_eq!(*addresses, [("Hostname", "gw-istio.a.svc.cluster.local".to_owned())]);
    assert_eq!(conditions[1].message, "Resource programmed, assigned to service(s) gw-istio.a.svc.cluster.local:80");
    // Nobody stands behind this one.
    let other = Bench::new(&gateway(HTTP).replace("name: gw", "name: none"));
    let Status::Gateway { conditions, .. } = &other.world.statuses()[&key(Kind::KubeGateway, "a", "none")] else {
        panic!("no Gateway")
    };
    assert_eq!(text(conditions), "Accepted=True(Accepted) Programmed=False(Pending)");
}

#[test]
fn listeners_tell_what_is_wrong_with_them() {
    for (listeners, expected) in [
        (
            "[{name: a, port: 80, protocol: UDP}, {name: b, port: 81, protocol: HTTP}]",
            vec![
                "Accepted=True(ListenersNotValid) Programmed=True(Programmed)",
                "a [] 0 Accepted=False(UnsupportedProtocol) Conflicted=False(NoConflicts) Programmed=False(Invalid) ResolvedRefs=True(ResolvedRefs)",
                "b [\"HTTPRoute\", \"GRPCRoute\"] 0 Accepted=True(Accepted) Conflicted=False(NoConflicts) Programmed=True(Programmed) ResolvedRefs=True(ResolvedRefs)",
            ],
        ),
        (
            "[{name: a, port: 15021, protocol: HTTP}]",
            vec![
                "Accepted=False(ListenersNotValid) Programmed=False(Invalid)",
                "a [\"HTTPRoute\", \"GRPCRoute\"] 0 Accepted=False(PortUnavailable) Conflicted=False(NoConflicts) Programmed=False(Invalid) ResolvedRefs=True(ResolvedRefs)",
            ],
        ),
        (
            "[{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: TCP}, {name: c, port: 443, protocol: TLS, hostname: x.org, tls: {mode: Passthrough}}, {name: d, port: 443, protocol: HTTPS, hostname: x.org, tls: {certificateRefs: [{name: none}]}}]",
            vec![
                "Accepted=True(ListenersNotValid) Programmed=True(Programmed)",
                "a [\"HTTPRoute\", \"GRPCRoute\"] 0 Accepted=True(Accepted) Conflicted=False(NoConflicts) Programmed=True(Programmed) ResolvedRefs=True(ResolvedRefs)",
                "b [\"TCPRoute\"] 0 Accepted=False(ProtocolConflict) Conflicted=True(ProtocolConflict) Programmed=False(Invalid) ResolvedRefs=True(ResolvedRefs)",
                "c [\"TLSRoute\"] 0 Accepted=True(Accepted) Conflicted=False(NoConflicts) Programmed=True(Programmed) ResolvedRefs=True(ResolvedRefs)",
                "d [\"HTTPRoute\", \"GRPCRoute\"] 0 Accepted=False(HostnameConflict) Conflicted=True(HostnameConflict) Programmed=False(Invalid) ResolvedRefs=False(InvalidCertificateRef)",
            ],
        ),
        (
            "[{name: a, port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: HTTPRoute}, {kind: TCPRoute}]}}, {name: b, port: 81, protocol: HTTP, allowedRoutes: {kinds: [{kind: Strange}]}}]",
            vec![
                "Accepted=True(ListenersNotValid) Programmed=True(Programmed)",
                "a [\"HTTPRoute\"] 0 Accepted=True(Accepted) Conflicted=False(NoConflicts) Programmed=True(Programmed) ResolvedRefs=False(InvalidRouteKinds)",
                "b [] 0 Accepted=True(Accepted) Conflicted=False(NoConflicts) Programmed=False(Invalid) ResolvedRefs=False(InvalidRouteKinds)",
            ],
        ),
        (
            "[{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert, namespace: b}]}}]",
            vec![
                "Accepted=False(ListenersNotValid) Programmed=False(Invalid)",
                "a [\"HTTPRoute\", \"GRPCRoute\"] 0 Accepted=True(Accepted) Conflicted=False(NoConflicts) Programmed=False(Invalid) ResolvedRefs=False(RefNotPermitted)",
            ],
        ),
        (
            "[{name: a, port: 443, protocol: TLS, tls: {certificateRefs: [{group: x, kind: Kind, name: cert}]}}]",
            vec![
                "Accepted=False(ListenersNotValid) Programmed=False(Invalid)",
                "a [\"TLSRoute\", \"TCPRoute\"] 0 Accepted=True(Accepted) Conflicted=False(NoConflicts) Programmed=False(Invalid) ResolvedRefs=False(InvalidCertificateRef)",
            ],
        ),
    ] {
        let found = gateway_lines(&Bench::new(&gateway(listeners)));
        assert_eq!(found, expected, "{listeners}");
    }
}

#[test]
fn routes_tell_what_became_of_them() {
    let listeners = "[{name: web, port: 80, protocol: HTTP, hostname: '*.foo.com'}, {name: all, port: 81, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}, {name: chosen, port: 82, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: x}}}}}, {name: grpc, port: 83, protocol: HTTP, allowedRoutes: {kinds: [{kind: GRPCRoute}]}}]";
    let namespaces = "apiVersion: v1\nkind: Namespace\nmetadata: {name: b, labels: {team: x}}\n---\n";
    let backend = "rules: [{backendRefs: [{name: one, namespace: a, port: 80}]}]";
    for (namespace, parent, rest, accepted, resolved) in [
        ("a", "name: gw", backend, "True(Accepted)", "True(ResolvedRefs)"),
        ("a", "name: gw, sectionName: none", backend, "False(NoMatchingParent)", "True(ResolvedRefs)"),
        ("a", "name: gw, port: 90", backend, "False(NoMatchingParent)", "True(ResolvedRefs)"),
        ("a", "name: gw, port: 80, sectionName: all", backend, "False(NoMatchingParent)", "True(ResolvedRefs)"),
        ("a", "name: gw, sectionName: grpc", backend, "False(NotAllowedByListeners)", "True(ResolvedRefs)"),
        ("b", "name: gw, namespace: a, sectionName: web", backend, "False(NotAllowedByListeners)", "False(RefNotPermitted)"),
        ("b", "name: gw, namespace: a, sectionName: all", backend, "True(Accepted)", "False(RefNotPermitted)"),
        ("b", "name: gw, namespace: a, sectionName: chosen", backend, "True(Accepted)", "False(RefNotPermitted)"),
        (
            "a",
            "name: gw, sectionName: web",
            "hostnames: [foo.com], rules: []",
            "False(NoMatchingListenerHostname)",
            "True(ResolvedRefs)",
        ),
        ("a", "name: gw", "rules: [{backendRefs: [{name: none, port: 80}]}]", "True(Accepted)", "False(BackendNotFound)"),
        (
            "a",
            "name: gw",
            "rules: [{backendRefs: [{kind: Strange, name: one, port: 80}]}]",
            "True(Accepted)",
            "False(InvalidKind)",
        ),
        (
            "a",
            "name: gw",
            "rules: [{filters: [{type: ExtensionRef, extensionRef: {group: x, kind: Kind, name: z}}]}]",
            "False(InvalidFilter)",
            "True(ResolvedRefs)",
        ),
        ("a", "name: none", backend, "False(NoMatchingParent)", "True(ResolvedRefs)"),
        ("a", "group: '', kind: Service, name: one", backend, "True(Accepted)", "True(ResolvedRefs)"),
        ("a", "group: '', kind: Service, name: one, port: 99", backend, "False(NoMatchingParent)", "True(ResolvedRefs)"),
        ("b", "group: '', kind: Service, name: one, namespace: a", backend, "True(Accepted)", "False(RefNotPermitted)"),
        ("a", "group: '', kind: Service, name: none", backend, "False(NoMatchingParent)", "True(ResolvedRefs)"),
    ] {
        let spec = format!("parentRefs: [{{{parent}}}], {rest}");
        let bench = Bench::new(&(namespaces.to_owned() + &gateway(listeners) + &route("HTTPRoute", (namespace, "r"), &spec)));
        let name = parent.split("name: ").nth(1).unwrap().split(',').next().unwrap();
        let expected = format!("{name}: Accepted={accepted} ResolvedRefs={resolved}");
        assert_eq!(parents(&bench, Kind::KubeHttpRoute, namespace, "r"), [expected], "{spec}");
    }
}

#[test]
fn a_parent_of_somebody_else_gets_no_status() {
    let other = gateway(HTTP).replace("gatewayClassName: istio", "gatewayClassName: strange");
    let bench = Bench::new(&(other + &http_route("r", "rules: []")));
    assert!(parents(&bench, Kind::KubeHttpRoute, "a", "r").is_empty());
    assert!(!bench.world.statuses().contains_key(&key(Kind::KubeGateway, "a", "gw")));
}

#[test]
fn the_older_of_two_policies_holds() {
    let policy = |name: &str, target: &str, rest: &str| {
        let target = format!("targetRefs: [{{group: '', kind: Service, {target}}}]");
        route("BackendTLSPolicy", ("a", name), &format!("{target}, validation: {{hostname: x.org, {rest}}}"))
    };
    let system = "wellKnownCACertificates: System";
    let bench = Bench::new(
        &(gateway(HTTP)
            + &http_route("r", "rules: [{backendRefs: [{name: one, port: 80}]}]")
            + &policy("first", "name: one", system)
            + &policy("second", "name: one", system)
            + &policy("third", "name: one, sectionName: http", system)
            + &policy("fourth", "name: two", "caCertificateRefs: [{group: '', kind: ConfigMap, name: none}]")
            + &policy("fifth", "name: none", system)),
    );
    let good = "Accepted=True(Accepted) ResolvedRefs=True(ResolvedRefs)";
    for (name, expected) in [
        ("first", format!("gw: {good}")),
        ("second", "gw: Accepted=False(Conflicted) ResolvedRefs=True(ResolvedRefs)".to_owned()),
        ("third", format!("gw: {good}")),
        ("fourth", "two: Accepted=False(NoValidCACertificate) ResolvedRefs=False(InvalidCACertificateRef)".to_owned()),
        ("fifth", "none: Accepted=False(TargetNotFound) ResolvedRefs=True(ResolvedRefs)".to_owned()),
    ] {
        assert_eq!(parents(&bench, Kind::BackendTlsPolicy, "a", name), [expected], "{name}");
    }
}

#[test]
fn clients_of_https_are_verified_by_roots_that_are_there() {
    let ca = lateen_testkit::certificates::TestCa::new();
    let leaf = ca.leaf().dns("a.org").issue();
    let indented = |text: &str| text.lines().map(|l| format!("    {l}\n")).collect::<String>();
    let secret = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: cert, namespace: a}}\nstringData:\n  tls.crt: |\n{}\n  tls.key: |\n{}\n---\n",
        indented(&leaf.chain_pem),
        indented(&leaf.key_pem)
    );
    let roots = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: roots, namespace: a}}\ndata:\n  ca.crt: |\n{}\n---\n",
        indented(ca.root_pem())
    );
    let https = "[{name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}]";
    for (reference, mode, expected, server) in [
        ("kind: ConfigMap, name: roots", "AllowValidOnly", "True(Accepted) True(ResolvedRefs)", "Mutual configmap://a/roots"),
        (
            "kind: ConfigMap, name: roots",
            "AllowInsecureFallback",
            "True(Accepted) True(ResolvedRefs)",
            "OptionalMutual configmap://a/roots",
        ),
        ("kind: ConfigMap, name: none", "AllowValidOnly", "False(NoValidCACertificate) False(InvalidCACertificateRef)", ""),
        ("kind: Strange, name: roots", "AllowValidOnly", "False(NoValidCACertificate) False(InvalidCACertificateKind)", ""),
        ("kind: Secret, namespace: b, name: roots", "AllowValidOnly", "False(NoValidCACertificate) False(RefNotPermitted)", ""),
    ] {
        let tls = format!(
            "tls: {{frontend: {{default: {{validation: {{caCertificateRefs: [{{group: '', {reference}}}], mode: {mode}}}}}}}}}"
        );
        let text = gateway(https).replace("gatewayClassName: istio,", &format!("gatewayClassName: istio, {tls},"));
        let bench = Bench::new(&(secret.clone() + &roots + &text));
        let Status::Gateway { conditions, listeners, .. } = &bench.world.statuses()[&key(Kind::KubeGateway, "a", "gw")] else {
            panic!("no Gateway")
        };
        let found = |type_: &str| {
            let c = listeners[0].conditions.iter().find(|c| c.type_ == type_).unwrap();
            format!("{}({})", if c.status { "True" } else { "False" }, c.reason)
        };
        assert_eq!(format!("{} {}", found("Accepted"), found("ResolvedRefs")), expected, "{reference}");
        let insecure = conditions.iter().any(|c| c.type_ == "InsecureFrontendValidationMode");
        assert_eq!(insecure, mode == "AllowInsecureFallback");
        let made =
            bench.world.namespace("a").unwrap().gateways.get("gw~https").map(|g| g.resource.spec.servers[0].tls.clone().unwrap());
        let made = made.map(|t| format!("{:?} {}", t.mode, t.ca_cert_credential_name)).unwrap_or_default();
        assert_eq!(made, server, "{reference}");
    }
}

#[test]
fn classes_are_accepted() {
    let class = |name: &str, spec: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n---\n"
        )
    };
    let ours = "controllerName: istio.io/gateway-controller";
    let bench = Bench::new(
        &(class("mine", ours)
            + &class("theirs", "controllerName: example.org/other")
            + &class("wrong", &format!("{ours}, parametersRef: {{group: '', kind: ConfigMap, name: x, namespace: a}}"))
            + &gateway(HTTP).replace("gatewayClassName: istio", "gatewayClassName: mine")),
    );
    let of = |name: &str| match bench.world.statuses().get(&key(Kind::GatewayClass, "", name)) {
        Some(Status::Class { conditions, features }) => {
            assert!(features.is_sorted());
            Some(text(conditions))
        }
        _ => None,
    };
    assert_eq!(of("mine").as_deref(), Some("Accepted=True(Accepted)"));
    assert_eq!(of("wrong").as_deref(), Some("Accepted=False(InvalidParameters)"));
    assert_eq!(of("theirs"), None);
    assert_eq!(of("istio").as_deref(), Some("Accepted=True(Accepted)"), "it exists without being written");
    assert!(gateway_lines(&bench)[0].starts_with("Accepted=True(Accepted)"));
}

#[test]
fn conditions_remember_since_when_they_hold() {
    let good = Bench::new(&gateway(HTTP));
    let bad = Bench::new(&gateway("[{name: web, port: 80, protocol: UDP}]"));
    let gw = key(Kind::KubeGateway, "a", "gw");
    let mut transitions = Transitions::default();
    let since = |bench: &Bench, transitions: &Transitions| {
        let status = bench.world.statuses()[&gw].to_json(&transitions.of(&gw));
        let at = |i: usize| status["conditions"][i]["lastTransitionTime"].as_str().unwrap().to_owned();
        (at(0), at(1), status["listeners"][0]["attachedRoutes"].as_u64().unwrap())
    };
    let at = |seconds| Timestamp::from_unix_seconds(seconds);
    transitions.update(good.world.statuses(), at(100));
    transitions.update(good.world.statuses(), at(200));
    assert_eq!(since(&good, &transitions), (at(100).to_string(), at(100).to_string(), 0));
    transitions.update(bad.world.statuses(), at(300));
    assert_eq!(since(&bad, &transitions), (at(300).to_string(), at(300).to_string(), 0));
}
