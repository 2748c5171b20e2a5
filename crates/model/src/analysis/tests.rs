//! Manifests, and what is said about them.

use super::{Context, analyze};
use crate::manifest;
use crate::resource::Resource;

const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{port: 80}]}
---
";

fn routes(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{{spec}}}\n---\n"
    )
}

/// What is found, each `path: text`.
fn found(manifests: &str) -> Vec<String> {
    let read = |(sequence, document): (usize, Result<manifest::Document, _>)| {
        let mut resource = document.unwrap_or_else(|e: manifest::Rejection| panic!("{e}")).resource;
        resource.metadata_mut().provenance.sequence = u64::try_from(sequence).unwrap();
        resource
    };
    let resources: Vec<Resource> = manifest::read(manifests, "t.yaml").into_iter().enumerate().map(read).collect();
    analyze(resources.iter(), &Context::default()).iter().map(|f| format!("{}: {}", f.path, f.text)).collect()
}

#[track_caller]
fn one(manifests: &str, path: &str, words: &str) {
    let found = found(manifests);
    assert!(found.len() == 1 && found[0].starts_with(path) && found[0].contains(words), "{found:#?}");
}

const TO_WEB: &str = "http: [{route: [{destination: {host: web}}]}]";

#[test]
fn what_is_in_order_is_not_spoken_of() {
    let gateway = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g, namespace: shop}\nspec:\n  servers:\n  \
        - {port: {number: 80, name: a, protocol: HTTP}, hosts: [a]}\n  - {port: {number: 80, name: b, protocol: HTTP2}, hosts: [b]}\n---\n";
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: w, namespace: shop}\n\
        spec: {host: web, subsets: [{name: v1}]}\n---\n";
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: e, namespace: shop}\n\
        spec: {hosts: ['*.example.com'], resolution: NONE, ports: [{number: 80, name: http, protocol: HTTP}]}\n---\n";
    let all = [
        WEB.to_owned(),
        gateway.to_owned(),
        rule.to_owned(),
        entry.to_owned(),
        routes(
            "shop",
            "web",
            "hosts: [web], http: [{match: [{port: 80}], delegate: {name: leaf}}, {route: [{destination: {host: web, subset: v1}}]}]",
        ),
        routes("shop", "leaf", TO_WEB),
        routes("shop", "far", "hosts: [far.example], http: [{route: [{destination: {host: a.example.com}}]}]"),
        // Each for its own namespace, and through a gateway.
        routes("other", "own", "hosts: [web.shop.svc.cluster.local], exportTo: [.], http: [{directResponse: {status: 200}}]"),
        routes(
            "other",
            "edge",
            "hosts: [web.shop.svc.cluster.local], gateways: [shop/g], http: [{directResponse: {status: 200}}]",
        ),
    ];
    assert_eq!(found(&all.concat()), Vec::<String>::new());
}

#[test]
fn the_older_one_of_two_has_the_host() {
    let two = [
        WEB.to_owned(),
        routes("shop", "a", &format!("hosts: [web], {TO_WEB}")),
        routes("shop", "b", &format!("hosts: [x, web.shop.svc.cluster.local], {TO_WEB}")),
    ];
    one(&two.concat(), "spec.hosts[1]", "VirtualService shop/a (t.yaml:7:1) is older");
}

#[test]
fn a_service_of_another_namespace_is_its_own() {
    let taken = routes("other", "r", "hosts: ['*.shop.svc.cluster.local'], http: [{directResponse: {status: 200}}]");
    one(&format!("{WEB}{taken}"), "spec.hosts[0]", "web.shop.svc.cluster.local belongs to namespace shop");
    let agreed = WEB.replace("namespace: shop", "namespace: shop, annotations: {networking.lateen.dev/routes-from: 'a, other'}");
    assert_eq!(found(&format!("{agreed}{taken}")), Vec::<String>::new());
    let by_root = taken.replace("namespace: other", "namespace: istio-system");
    assert_eq!(found(&format!("{WEB}{by_root}")), Vec::<String>::new());
}

#[test]
fn routes_that_lead_nowhere() {
    let rooted = |delegate: &str| routes("shop", "root", &format!("hosts: [web], http: [{{delegate: {{{delegate}}}}}]"));
    one(&rooted("name: gone"), "spec.http[0].delegate", "there is no VirtualService shop/gone: the route is left out");
    one(&rooted("name: root"), "spec.http[0].delegate", "has hosts of its own");
    let hidden = routes("other", "leaf", "exportTo: [.], http: [{directResponse: {status: 200}}]");
    one(
        &format!("{}{hidden}", rooted("name: leaf, namespace: other")),
        "spec.http[0].delegate",
        "not exported to namespace shop",
    );
    for (spec, path) in [
        ("hosts: [a], http: [{route: [{destination: {host: gone}}]}]", "spec.http[0].route"),
        ("hosts: [a], http: [{directResponse: {status: 200}, mirrors: [{destination: {host: gone}}]}]", "spec.http[0].mirrors"),
        ("hosts: [a], tcp: [{route: [{destination: {host: gone}}]}]", "spec.tcp[0].route"),
    ] {
        one(&routes("shop", "a", spec), path, "no Service or ServiceEntry gone.shop.svc.cluster.local");
    }
    let subset = routes("shop", "a", "hosts: [a], http: [{route: [{destination: {host: web, subset: v9}}]}]");
    one(&format!("{WEB}{subset}"), "spec.http[0].route", "has a subset \"v9\"");
}

#[test]
fn names_that_lead_in_a_circle() {
    let alias = |name: &str, to: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{type: ExternalName, externalName: {to}}}\n---\n"
        )
    };
    let circle =
        [alias("a", "b.shop.svc.cluster.local"), alias("b", "a.shop.svc.cluster.local"), alias("c", "a.shop.svc.cluster.local")];
    let found = found(&circle.concat());
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].contains("a.shop.svc.cluster.local → b.shop.svc.cluster.local → a.shop"), "{found:#?}");
    one(&alias("me", "me.shop.svc.cluster.local"), "spec.externalName", "leads back to itself");
}

#[test]
fn servers_that_have_no_place() {
    let gateway = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g, namespace: shop}\nspec:\n  selector: {a: b}\n  servers:\n  \
        - {port: {number: 80, name: a, protocol: HTTP}, hosts: ['*']}\n  - {port: {number: 80, name: b, protocol: TCP}, hosts: ['*']}\n";
    one(gateway, "spec.servers[1]", "port 80 has a server already (Gateway shop/g, t.yaml:1:1)");
}
