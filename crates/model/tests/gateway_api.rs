//! Manifests of the Kubernetes Gateway API: what is read, and what is refused with the field and the place.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use lateen_model::manifest;
use lateen_model::resource::Kind;

fn document(kind: &str, spec: &str) -> String {
    let namespace = if kind == "GatewayClass" { "" } else { ", namespace: a" };
    format!("apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: x{namespace}}}\nspec: {spec}\n")
}

/// What is refused, without the place.
fn problems(text: &str) -> Vec<String> {
    match manifest::read(text, "f.yaml").remove(0) {
        Ok(_) => Vec::new(),
        Err(rejection) => rejection.problems.iter().map(|p| format!("{}: {}", p.path, p.text)).collect(),
    }
}

fn route(rule: &str) -> String {
    document("HTTPRoute", &format!("{{parentRefs: [{{name: gw}}], rules: [{rule}]}}"))
}

const GOOD: &[(&str, &str)] = &[
    ("GatewayClass", "{controllerName: istio.io/gateway-controller, description: ours}"),
    (
        "Gateway",
        "{gatewayClassName: istio, listeners: [{name: a, port: 80, protocol: HTTP}, {name: b, port: 443, protocol: HTTPS, hostname: '*.b.org', tls: {certificateRefs: [{kind: Secret, group: '', name: c}], options: {gateway.istio.io/tls-terminate-mode: MUTUAL}}, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {l: m}}}, kinds: [{kind: HTTPRoute}]}}, {name: c, port: 9000, protocol: TCP}, {name: d, port: 8443, protocol: TLS, tls: {mode: Passthrough}}], tls: {frontend: {default: {validation: {caCertificateRefs: [{group: '', kind: ConfigMap, name: c}], mode: AllowInsecureFallback}}, perPort: [{port: 443, tls: {}}]}}, addresses: [{type: Hostname, value: s.a}], infrastructure: {labels: {l: m}, annotations: {k: v}}}",
    ),
    (
        "HTTPRoute",
        "{parentRefs: [{group: '', kind: Service, name: s, port: 80}], hostnames: ['*.a.org', b.org], rules: [{name: first, matches: [{path: {type: Exact, value: /a}, method: GET, headers: [{name: h, value: v}], queryParams: [{type: RegularExpression, name: q, value: 'v+'}]}], filters: [{type: CORS, cors: {allowOrigins: ['https://*.a.org'], allowMethods: ['*'], maxAge: 10}}, {type: RequestMirror, requestMirror: {backendRef: {name: m, port: 80}, fraction: {numerator: 1, denominator: 3}}}], backendRefs: [{name: b, port: 80, weight: 2}], timeouts: {request: 1m, backendRequest: 500ms}, retry: {codes: [503], attempts: 0, backoff: 1s}}]}",
    ),
    (
        "GRPCRoute",
        "{parentRefs: [{name: gw, sectionName: web}], rules: [{matches: [{method: {service: a.B, method: C}, headers: [{name: h, value: v}]}], filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: h, value: v}]}}], backendRefs: [{name: b, port: 80}]}]}",
    ),
    ("TCPRoute", "{parentRefs: [{name: gw}], rules: [{backendRefs: [{name: b, port: 80}]}]}"),
    ("TLSRoute", "{parentRefs: [{name: gw}], hostnames: [a.org], rules: [{backendRefs: [{name: b, port: 80}]}]}"),
    (
        "ReferenceGrant",
        "{from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: b}], to: [{group: '', kind: Service, name: s}]}",
    ),
    (
        "BackendTLSPolicy",
        "{targetRefs: [{group: '', kind: Service, name: s, sectionName: p}], validation: {hostname: a.org, caCertificateRefs: [{group: '', kind: ConfigMap, name: c}], subjectAltNames: [{type: Hostname, hostname: b.org}]}}",
    ),
];

#[test]
fn every_kind_is_read_in_every_version() {
    for (kind, spec) in GOOD {
        let found = Kind::ALL.iter().copied().find(|k| k.is_gateway_api() && k.name() == *kind).unwrap();
        for version in found.api_versions() {
            let text = document(kind, spec).replace("gateway.networking.k8s.io/v1\n", &format!("{version}\n"));
            let read = manifest::read(&text, "f.yaml").remove(0).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(read.resource.kind(), found);
            // What is shown can be read again, and says the same.
            let json = read.resource.to_json().unwrap().to_string();
            let again = manifest::read(&json, "f.yaml").remove(0).unwrap_or_else(|e| panic!("{json}\n{e}"));
            assert!(read.resource.same_spec(&again.resource), "{json}");
        }
    }
}

#[test]
fn groups_tell_kinds_of_one_name_apart() {
    let istio = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: x}\nspec: {servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}\n";
    assert_eq!(manifest::read(istio, "f.yaml").remove(0).unwrap().resource.kind(), Kind::Gateway);
    let wrong = istio.replace("networking.istio.io/v1", "gateway.networking.k8s.io/v9");
    let found = problems(&wrong);
    assert!(found[0].contains("networking.istio.io/v1") && found[0].contains("gateway.networking.k8s.io/v1"), "{found:?}");
    let later = document("UDPRoute", "{}");
    assert!(problems(&later)[0].contains("UDPRoute of gateway.networking.k8s.io/v1 is not supported"), "{:?}", problems(&later));
}

#[test]
fn a_problem_has_its_place() {
    let text = document("TCPRoute", "\n  parentRefs: [{name: gw}]\n  rules:\n  - backendRefs:\n    - {name: b, prot: 80}");
    let rejection = manifest::read(&text, "f.yaml").remove(0).unwrap_err().to_string();
    assert!(rejection.starts_with("f.yaml:8:17: TCPRoute a/x: spec.rules[0].backendRefs[0].prot: "), "{rejection}");
}

#[test]
fn wrong_manifests_are_refused() {
    for (text, expected) in [
        (document("GatewayClass", "{controllerName: x}"), "spec.controllerName: must be DOMAIN/PATH"),
        (document("Gateway", "{gatewayClassName: istio}"), "spec.listeners: must have 1 to 64 entries"),
        (listener("{name: a, port: 0, protocol: HTTP}"), "spec.listeners[0].port: "),
        (listener("{name: A_b, port: 80, protocol: HTTP}"), "spec.listeners[0].name: "),
        (listener("{name: a, port: 80, protocol: HTTP, hostname: 1.2.3.4}"), "spec.listeners[0].hostname: is an IP address"),
        (listener("{name: a, port: 80, protocol: HTTP, hostname: 'a.*.org'}"), "spec.listeners[0].hostname: "),
        (listener("{name: a, port: 80, protocol: TCP, hostname: a.org}"), "spec.listeners[0].hostname: must not be set"),
        (listener("{name: a, port: 80, protocol: HTTP, tls: {}}"), "spec.listeners[0].tls: must not be set"),
        (listener("{name: a, port: 80, protocol: TLS}"), "spec.listeners[0].tls: is required"),
        (
            listener("{name: a, port: 443, protocol: HTTPS, tls: {mode: Passthrough}}"),
            "spec.listeners[0].tls.mode: must be Terminate",
        ),
        (
            listener("{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: c}, {name: d}]}}"),
            "spec.listeners[0].tls.certificateRefs: only one certificate is supported",
        ),
        (
            listener("{name: a, port: 80, protocol: HTTP}, {name: a, port: 81, protocol: HTTP}"),
            "spec.listeners[1].name: a is the name",
        ),
        (listener("{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: HTTP}"), "spec.listeners[1]: has the port"),
        (
            listener("{name: a, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector}}}"),
            "spec.listeners[0].allowedRoutes.namespaces.selector: is required",
        ),
        (
            listener("{name: a, port: 443, protocol: HTTPS, tls: {options: {x: z}}}"),
            "spec.listeners[0].tls.options.x: is not supported",
        ),
        (
            document("Gateway", "{gatewayClassName: istio-waypoint, listeners: [{name: a, port: 80, protocol: HTTP}]}"),
            "spec.gatewayClassName: istio-waypoint is not supported",
        ),
        (
            document(
                "Gateway",
                "{gatewayClassName: istio, listeners: [{name: a, port: 80, protocol: HTTP}], tls: {backend: {}}}",
            ),
            "spec.tls.backend: is not supported",
        ),
        (route("{matches: [{path: {value: a}}]}"), "spec.rules[0].matches[0].path.value: must begin with '/'"),
        (route("{matches: [{path: {value: /a//b}}]}"), "spec.rules[0].matches[0].path.value: must not contain \"//\""),
        (route("{matches: [{path: {type: RegularExpression, value: '('}}]}"), "spec.rules[0].matches[0].path.value: "),
        (route("{matches: [{method: FETCH}]}"), "spec.rules[0].matches[0].method: must be one of"),
        (route("{matches: [{headers: [{name: 'a b', value: c}]}]}"), "spec.rules[0].matches[0].headers[0].name: "),
        (route("{backendRefs: [{name: b}]}"), "spec.rules[0].backendRefs[0].port: is required"),
        (route("{backendRefs: [{name: b, port: 80, weight: -1}]}"), "spec.rules[0].backendRefs[0].weight: must be 0 to"),
        (route("{filters: [{type: URLRewrite}]}"), "spec.rules[0].filters[0].urlRewrite: is required"),
        (route("{filters: [{type: CORS, cors: {}, urlRewrite: {}}]}"), "spec.rules[0].filters[0].urlRewrite: must not be set"),
        (
            route("{filters: [{type: RequestRedirect, requestRedirect: {}}, {type: URLRewrite, urlRewrite: {}}]}"),
            "spec.rules[0].filters: RequestRedirect and URLRewrite exclude each other",
        ),
        (
            route("{filters: [{type: RequestRedirect, requestRedirect: {}}], backendRefs: [{name: b, port: 80}]}"),
            "spec.rules[0].backendRefs: must not be set beside the filter RequestRedirect",
        ),
        (
            route(
                "{matches: [{path: {type: Exact, value: /a}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}]}",
            ),
            "spec.rules[0].filters[0].urlRewrite.path.type: ReplacePrefixMatch needs",
        ),
        (
            route(
                "{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: m, port: 80}, percent: 10, fraction: {numerator: 1}}}]}",
            ),
            "spec.rules[0].filters[0].requestMirror: percent and fraction exclude each other",
        ),
        (
            route("{filters: [{type: CORS, cors: {allowOrigins: [a.org]}}]}"),
            "spec.rules[0].filters[0].cors.allowOrigins[0]: must be",
        ),
        (route("{timeouts: {request: 1s, backendRequest: 2s}}"), "spec.rules[0].timeouts.backendRequest: must not be longer"),
        (route("{retry: {codes: [200]}}"), "spec.rules[0].retry.codes[0]: must be 400 to 599"),
        (route("{sessionPersistence: {sessionName: s}}"), "spec.rules[0].sessionPersistence: is not supported"),
        (
            route(
                "{backendRefs: [{name: a, port: 80}, {name: b, port: 80, filters: [{type: URLRewrite, urlRewrite: {hostname: h.org}}]}]}",
            ),
            "spec.rules[0].backendRefs[1].filters[0]: URLRewrite is supported only for a rule's only backend",
        ),
        (document("HTTPRoute", "{parentRefs: [{name: gw}, {name: gw}]}"), "spec.parentRefs[1]: is listed twice"),
        (
            document("GRPCRoute", "{rules: [{matches: [{method: {}}]}]}"),
            "spec.rules[0].matches[0].method: must have a service or a method",
        ),
        (document("GRPCRoute", "{rules: [{matches: [{method: {service: a/b}}]}]}"), "spec.rules[0].matches[0].method.service: "),
        (document("TCPRoute", "{parentRefs: [{name: gw}], rules: []}"), "spec.rules: must have exactly one entry"),
        (
            document("TLSRoute", "{rules: [{backendRefs: [{name: b, port: 80, filters: [{type: CORS}]}]}]}"),
            "spec.rules[0].backendRefs[0].filters[0]: must not be here",
        ),
        (document("ReferenceGrant", "{from: [], to: [{group: '', kind: Service}]}"), "spec.from: must have 1 to 16 entries"),
        (
            document("BackendTLSPolicy", "{targetRefs: [{group: '', kind: Service, name: s}], validation: {hostname: a.org}}"),
            "spec.validation: needs caCertificateRefs or wellKnownCACertificates",
        ),
        (
            document(
                "BackendTLSPolicy",
                "{targetRefs: [{group: x, kind: Strange, name: s}], validation: {hostname: a.org, wellKnownCACertificates: System}}",
            ),
            "spec.targetRefs[0]: is not supported",
        ),
    ] {
        let found = problems(&text);
        assert!(found.iter().any(|p| p.starts_with(expected)), "{expected}\n{found:?}\n{text}");
    }
}

fn listener(listeners: &str) -> String {
    document("Gateway", &format!("{{gatewayClassName: istio, listeners: [{listeners}]}}"))
}
