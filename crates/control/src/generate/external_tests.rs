//! ServiceEntries and WorkloadEntries, from manifests to what proxies are sent.

use super::fixture::{pod, proxy, world};
use super::{MergedRule, Scope, cluster, endpoint, listener, route, scope::ScopedService};
use crate::generate::route::RouteContext;
use crate::world::{World, WorldEvent};
use lateen_model::dataplane::{
    Cluster, Discovery, DnsFamily, DnsKind, Listener, SecretRef, TcpDestination, Terminal, TlsMode, TransportSocket, UpstreamTls,
};
use lateen_model::manifest;
use lateen_model::resource::{Kind as ResourceKind, ResourceKey};
use std::net::IpAddr;
use tokio::time::Instant;

const HEAD: &str = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n";

fn entry(name: &str, namespace: &str, spec: &str) -> String {
    format!("{HEAD}metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n---\n")
}

fn rule(namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: r, namespace: {namespace}}}\nspec: {spec}\n---\n"
    )
}

fn seen(manifests: &str) -> (World, Scope) {
    let world = world(manifests, &[pod("a", "one-0", [10, 0, 0, 1], &[("app", "one")])]);
    let scope = Scope::new(&world, &proxy(&world, "a", "one-0"));
    (world, scope)
}

fn clusters(world: &World, scope: &Scope, host: &str) -> Vec<Cluster> {
    let proxy = proxy(world, "a", "one-0");
    let scoped: &ScopedService = scope.service(host).unwrap_or_else(|| panic!("{host} is not known"));
    cluster::of_service(world, &proxy, scoped, &MergedRule::lookup_for(world, &proxy, &scoped.service))
}

fn cluster_of(manifests: &str, host: &str) -> Cluster {
    let (world, scope) = seen(manifests);
    clusters(&world, &scope, host).remove(0)
}

fn listeners(manifests: &str) -> Vec<Listener> {
    let (world, scope) = seen(manifests);
    let proxy = proxy(&world, "a", "one-0");
    listener::outbound::listeners(listener::outbound::Outbound { world: &world, scope: &scope, proxy: &proxy }).0
}

fn endpoints(world: &World, scope: &Scope, cluster: &str, host: &str) -> Vec<String> {
    let service = scope.service_or_visible(world, host);
    let rule = service.map(|s| MergedRule::lookup(world, "a", s)).unwrap_or_default();
    let assignment = endpoint::of_cluster(world, (&proxy(world, "a", "one-0"), &rule), service.map(|s| &**s), cluster);
    let text = |l: &lateen_model::dataplane::LocalityEndpoints| {
        let region = l.locality.region.clone();
        let one = |e: &lateen_model::dataplane::Endpoint| {
            let mutual = if e.tls_mode == TlsMode::Istio { " mtls" } else { "" };
            format!("{region}[{} w{}{mutual}]", e.address, e.weight)
        };
        l.endpoints.iter().map(one).collect::<Vec<_>>()
    };
    assignment.localities.iter().flat_map(text).collect()
}

#[test]
fn each_resolution_has_its_discovery() {
    let dns = |spec: String, hosts: &[(&str, u16)]| match cluster_of(&entry("e", "a", &spec), "api.example.com").discovery {
        Discovery::Dns(dns) => {
            let all: Vec<_> = dns.localities.iter().flat_map(|l| &l.endpoints).map(|e| (e.host.as_str(), e.port)).collect();
            assert_eq!(all, hosts);
            assert_eq!((dns.family, dns.respect_ttl, dns.refresh.as_secs()), (DnsFamily::V4Only, true, 60));
            dns.kind
        }
        other => panic!("{other:?}"),
    };
    let ports = "ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]";
    let host = "hosts: [api.example.com]";
    assert_eq!(dns(format!("{{{host}, {ports}, resolution: DNS}}"), &[("api.example.com", 8080)]), DnsKind::Strict);
    assert_eq!(
        dns(
            format!(
                "{{{host}, {ports}, resolution: DNS, endpoints: [{{address: b.example.com, ports: {{http: 9}}}}, {{address: 10.9.9.9}}]}}"
            ),
            &[("b.example.com", 9), ("10.9.9.9", 8080)]
        ),
        DnsKind::Strict
    );
    assert_eq!(dns(format!("{{{host}, {ports}, resolution: DNS_ROUND_ROBIN}}"), &[("api.example.com", 8080)]), DnsKind::Logical);
    let none = cluster_of(&entry("e", "a", &format!("{{{host}, {ports}, resolution: NONE}}")), "api.example.com");
    assert_eq!(none.discovery, Discovery::OriginalDst { port_override: Some(8080) });
    assert!(none.metadata.external);
    let fixed = cluster_of(
        &entry("e", "a", &format!("{{{host}, {ports}, resolution: STATIC, endpoints: [{{address: 10.9.9.9}}]}}")),
        "api.example.com",
    );
    assert_eq!(fixed.discovery, Discovery::Eds { service_name: "outbound|80||api.example.com".to_owned() });
    assert_eq!(fixed.transport, TransportSocket::Plaintext, "no mutual TLS out of the mesh");
}

#[test]
fn endpoints_are_written_selected_and_merged() {
    let manifests = [
        entry(
            "first",
            "a",
            "{hosts: [db.example.com], location: MESH_INTERNAL, resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}], endpoints: [{address: 10.9.0.1, locality: eu/a/b, weight: 3, serviceAccount: db}, {address: 10.9.0.2, ports: {http: 81}}]}",
        ),
        entry(
            "second",
            "a",
            "{hosts: [db.example.com], location: MESH_INTERNAL, resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], workloadSelector: {labels: {app: vm}}}",
        ),
        "apiVersion: networking.istio.io/v1beta1\nkind: WorkloadEntry\nmetadata: {name: vm-1, namespace: a, labels: {app: vm}}\nspec: {address: 10.9.0.3, labels: {app: other}, ports: {http: 7000}}\n---\n".to_owned(),
        "apiVersion: networking.istio.io/v1beta1\nkind: WorkloadEntry\nmetadata: {name: vm-2, namespace: b, labels: {app: vm}}\nspec: {address: 10.9.0.4}\n---\n".to_owned(),
        "apiVersion: v1\nkind: Service\nmetadata: {name: both, namespace: a}\nspec: {selector: {app: vm}, ports: [{name: http, port: 80, targetPort: 9090}]}\n---\n".to_owned(),
    ]
    .concat();
    let (world, scope) = seen(&manifests);
    assert_eq!(
        endpoints(&world, &scope, "outbound|80||db.example.com", "db.example.com"),
        ["[10.9.0.2:81 w1]", "[10.9.0.3:7000 w1]", "eu[10.9.0.1:8080 w3 mtls]"]
    );
    // The service's own port name is the same, so that the workload's port map counts before targetPort.
    let both = "both.a.svc.cluster.local";
    assert_eq!(endpoints(&world, &scope, &format!("outbound|80||{both}"), both), ["[10.9.0.3:7000 w1]"]);
    let TransportSocket::ByEndpoint(_) = clusters(&world, &scope, "db.example.com")[0].transport else {
        panic!("inside of the mesh TLS is by endpoint");
    };
}

#[test]
fn a_change_of_endpoints_is_one_of_endpoints_alone() {
    let spec = |address: &str| {
        format!(
            "{{hosts: [db.example.com], resolution: STATIC, ports: [{{number: 80, name: http, protocol: HTTP}}], endpoints: [{{address: {address}}}]}}"
        )
    };
    let (world, scope) = seen(&entry("e", "a", &spec("10.9.0.1")));
    let before = scope.service("db.example.com").unwrap().service.rev;
    let document = manifest::read(&entry("e", "a", &spec("10.9.0.2")), "x").remove(0).unwrap();
    let mut document = document;
    document.resource.metadata_mut().provenance.sequence = 1;
    let (next, changes) = world.apply([WorldEvent::Put(document.resource)], Instant::now());
    let kinds: Vec<String> = changes.keys().map(|k| format!("{} {}/{}", k.kind.as_str(), k.namespace, k.name)).collect();
    assert_eq!(kinds, ["Endpoints a/db.example.com"]);
    assert_eq!(next.service("db.example.com").unwrap().rev, before);
    let scope = Scope::new(&next, &proxy(&next, "a", "one-0"));
    assert_eq!(endpoints(&next, &scope, "outbound|80||db.example.com", "db.example.com"), ["[10.9.0.2:80 w1]"]);
    let key = ResourceKey { kind: ResourceKind::ServiceEntry, namespace: "a".to_owned(), name: "e".to_owned() };
    let (gone, _) = next.apply([WorldEvent::Remove(key)], Instant::now());
    assert!(gone.service("db.example.com").is_none() && gone.services().next().is_none());
}

#[test]
fn namespaces_see_their_own_entry_of_a_host_first_and_only_what_is_exported() {
    let spec = |port: u16, more: &str| {
        format!("{{hosts: [api.example.com], resolution: DNS, ports: [{{number: {port}, name: http, protocol: HTTP}}]{more}}}")
    };
    let port = |manifests: &str| {
        let (_, scope) = seen(manifests);
        scope.service("api.example.com").map(|s| s.service.ports[0].number)
    };
    let theirs = entry("old", "b", &spec(81, ""));
    assert_eq!(port(&theirs), Some(81));
    assert_eq!(port(&[theirs.clone(), entry("new", "a", &spec(80, ""))].concat()), Some(80));
    assert_eq!(port(&[theirs, entry("third", "c", &spec(82, ""))].concat()), Some(81), "the oldest");
    assert_eq!(port(&entry("e", "b", &spec(81, ", exportTo: ['.']"))), None);
    assert_eq!(port(&entry("e", "b", &spec(81, ", exportTo: [a]"))), Some(81));
    assert_eq!(port(&entry("e", "a", &spec(81, ", exportTo: ['~']"))), None);
}

#[test]
fn addresses_are_given_to_names_that_have_none() {
    let of = |spec: &str, host: &str| -> Vec<IpAddr> {
        let (world, _) = seen(&entry("e", "a", spec));
        world.service(host).unwrap().vips.clone()
    };
    let ports = "ports: [{number: 443, name: tls, protocol: TLS}]";
    let given = of(&format!("{{hosts: [a.example.com], resolution: DNS, {ports}}}"), "a.example.com");
    assert!(given[0].to_string().starts_with("240.240.") && given[1].to_string().starts_with("2001:2::"), "{given:?}");
    assert!(of(&format!("{{hosts: [a.example.com], resolution: NONE, {ports}}}"), "a.example.com").is_empty());
    let written = of(
        &format!(
            "{{hosts: [a.example.com], addresses: [10.7.7.7, 10.8.0.0/16, 10.6.6.6/32], resolution: STATIC, {ports}, endpoints: [{{address: 10.9.9.9}}]}}"
        ),
        "a.example.com",
    );
    assert_eq!(written, ["10.7.7.7".parse::<IpAddr>().unwrap(), "10.6.6.6".parse().unwrap()]);
    let wild = of(
        &format!("{{hosts: ['*.example.com'], resolution: STATIC, {ports}, endpoints: [{{address: 10.9.9.9}}]}}"),
        "*.example.com",
    );
    assert!(wild.is_empty());
}

fn chains(listener: &Listener) -> Vec<String> {
    let text = |c: &lateen_model::dataplane::FilterChain| {
        let to = match &c.terminal {
            Terminal::Tcp(tcp) => match &tcp.destination {
                TcpDestination::Cluster(name) => name.clone(),
                TcpDestination::Weighted(_) => "weighted".to_owned(),
            },
            Terminal::Http(_) => "http".to_owned(),
        };
        let nets: Vec<String> = c.matches.destination_prefixes.iter().map(ToString::to_string).collect();
        format!("{}{} -> {to}", nets.join(","), c.matches.server_names.join(","))
    };
    let default = listener.default_filter_chain.iter().map(|c| format!("default {}", text(c)));
    listener.filter_chains.iter().map(text).chain(default).collect()
}

#[test]
fn listeners_by_address_block_name_and_port() {
    let find = |manifests: &str, name: &str| -> Vec<String> {
        let all = listeners(manifests);
        let names: Vec<&str> = all.iter().map(|l| l.name.as_str()).collect();
        chains(all.iter().find(|l| l.name == name).unwrap_or_else(|| panic!("{name} is not among {names:?}")))
    };
    let one = |hosts: &str, protocol: &str, more: &str| {
        entry(
            &format!("e{}", hosts.len()),
            "a",
            &format!("{{hosts: [{hosts}], resolution: NONE, ports: [{{number: 443, name: p, protocol: {protocol}}}]{more}}}"),
        )
    };
    let tls = one("\"*.example.com\"", "TLS", "");
    assert_eq!(find(&tls, "0.0.0.0_443"), ["*.example.com -> outbound|443||*.example.com", "default  -> PassthroughCluster"]);
    let two = [tls.clone(), one("other.org", "HTTPS", "")].concat();
    assert_eq!(
        find(&two, "0.0.0.0_443"),
        [
            "*.example.com -> outbound|443||*.example.com",
            "other.org -> outbound|443||other.org",
            "default  -> PassthroughCluster"
        ]
    );
    assert_eq!(find(&one("db.org", "TCP", ""), "0.0.0.0_443"), ["default  -> outbound|443||db.org"]);
    assert_eq!(
        find(&one("db.org", "TCP", ", addresses: [10.5.0.0/16]"), "0.0.0.0_443"),
        ["10.5.0.0/16 -> outbound|443||db.org", "default  -> PassthroughCluster"]
    );
    assert_eq!(find(&one("db.org", "TCP", ", addresses: [10.5.0.1]"), "10.5.0.1_443"), [" -> outbound|443||db.org"]);
    // HTTP and TLS share a port.
    let mixed = [one("web.org", "HTTP", ""), tls].concat();
    assert_eq!(
        find(&mixed, "0.0.0.0_443"),
        [" -> http", "*.example.com -> outbound|443||*.example.com", "default  -> PassthroughCluster"]
    );
}

#[test]
fn routes_have_the_entry_s_names() {
    let manifests = entry(
        "e",
        "a",
        "{hosts: [api.example.com, '*.wild.org'], resolution: NONE, addresses: [10.7.7.7], ports: [{number: 80, name: http, protocol: HTTP}]}",
    );
    let (world, scope) = seen(&manifests);
    let proxy = proxy(&world, "a", "one-0");
    let routes = route::of_name(RouteContext { world: &world, scope: &scope, proxy: &proxy, via: route::Via::Mesh }, "80");
    let hosts: Vec<(&str, &[String])> = routes.virtual_hosts.iter().map(|v| (v.name.as_str(), v.domains.as_slice())).collect();
    assert_eq!(hosts[0].0, "*.wild.org:80");
    assert_eq!(hosts[0].1[0], "*.wild.org");
    assert_eq!(hosts[1].0, "api.example.com:80");
    assert_eq!(hosts[1].1[..2], ["api.example.com", "api.example.com."]);
}

fn origination(tls: &str) -> (UpstreamTls, Cluster) {
    let manifests = [
        entry(
            "e",
            "a",
            "{hosts: [api.example.com], resolution: DNS, subjectAltNames: [], ports: [{number: 80, name: http, protocol: HTTP, targetPort: 443}]}",
        ),
        rule("a", &format!("{{host: api.example.com, trafficPolicy: {{tls: {tls}}}}}")),
    ]
    .concat();
    let cluster = cluster_of(&manifests, "api.example.com");
    let TransportSocket::Tls(tls) = &cluster.transport else { panic!("{:?}", cluster.transport) };
    ((**tls).clone(), cluster)
}

#[test]
fn tls_is_originated_as_the_rule_says() {
    let (tls, cluster) = origination("{mode: SIMPLE}");
    assert_eq!((tls.roots, tls.certificate, tls.sni.as_str()), (Some(SecretRef::system_roots()), None, ""));
    assert!(cluster.http.auto_sni && cluster.http.auto_san_validation && !cluster.tcp_metadata_exchange);
    assert_eq!(cluster.metadata.alpn_override, Some(false));

    let (tls, cluster) =
        origination("{mode: SIMPLE, sni: x.org, caCertificates: /etc/ca.pem, caCrl: /etc/crl.pem, subjectAltNames: [x.org]}");
    assert_eq!((tls.roots, tls.sni.as_str()), (Some(SecretRef::file_roots("/etc/ca.pem")), "x.org"));
    assert_eq!((tls.sans.len(), tls.crl_file.as_deref()), (1, Some("/etc/crl.pem")));
    assert!(!cluster.http.auto_sni && !cluster.http.auto_san_validation);

    let (tls, _) = origination("{mode: MUTUAL, clientCertificate: /c.pem, privateKey: /k.pem}");
    assert_eq!(tls.certificate, Some(SecretRef::file_certificate("/c.pem", "/k.pem")));

    let (tls, cluster) = origination("{mode: SIMPLE, insecureSkipVerify: true}");
    assert!(tls.roots.is_none() && tls.sans.is_empty() && cluster.http.auto_sni && !cluster.http.auto_san_validation);
}

fn sidecar(spec: &str) -> String {
    format!("apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: s, namespace: a}}\nspec: {spec}\n---\n")
}

const SERVICES: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: one, namespace: a}\nspec: {selector: {app: one}, ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp, port: 90}]}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: two, namespace: a}\nspec: {selector: {app: two}, ports: [{name: http, port: 80}, {name: http-more, port: 81}]}\n---\n";

#[test]
fn a_sidecar_s_ingress_takes_the_place_of_the_services_ports() {
    let inbound = |spec: &str| -> Vec<(String, Discovery, u32)> {
        let world = world(&[SERVICES, &sidecar(spec)].concat(), &[pod("a", "one-0", [10, 0, 0, 1], &[("app", "one")])]);
        let all = cluster::inbound(&world, &proxy(&world, "a", "one-0"));
        let all = all.into_iter().filter(|c| c.name.starts_with("inbound|"));
        all.map(|c| (c.name, c.discovery, c.circuit_breakers.max_connections)).collect()
    };
    let original = |port_override| Discovery::OriginalDst { port_override };
    let pool = "connectionPool: {tcp: {maxConnections: 3}}";
    let listeners = inbound(&format!(
        "{{ingress: [{{port: {{number: 8080, protocol: HTTP}}, {pool}}}, {{port: {{number: 9, protocol: TCP}}, defaultEndpoint: '0.0.0.0:10'}}, {{port: {{number: 11, protocol: TCP}}, defaultEndpoint: '127.0.0.1:12'}}], inboundConnectionPool: {{tcp: {{maxConnections: 5}}}}}}"
    ));
    assert_eq!(listeners[0], ("inbound|8080||".to_owned(), original(None), 3));
    assert_eq!(listeners[1], ("inbound|9||".to_owned(), original(Some(10)), 5));
    let Discovery::Static(fixed) = &listeners[2].1 else { panic!("{:?}", listeners[2]) };
    assert_eq!(fixed.localities[0].endpoints[0].address.to_string(), "127.0.0.1:12");
    assert_eq!(listeners.len(), 3, "the services' other ports are not added");
    let of_services = inbound("{inboundConnectionPool: {tcp: {maxConnections: 5}}}");
    assert_eq!(of_services.iter().map(|l| (l.0.as_str(), l.2)).collect::<Vec<_>>(), [("inbound|90||", 5), ("inbound|8080||", 5)]);
}

#[test]
fn a_sidecar_s_egress_may_speak_of_single_ports() {
    let known = |spec: &str| -> Vec<String> {
        let (_, scope) = seen(&[SERVICES, &sidecar(spec)].concat());
        let mut all: Vec<String> = scope
            .visible()
            .flat_map(|s| s.ports().map(|p| format!("{}:{}", s.service.name, p.number)).collect::<Vec<_>>())
            .collect();
        all.sort();
        all
    };
    assert_eq!(known("{egress: [{hosts: ['./*']}]}"), ["one:80", "one:90", "two:80", "two:81"]);
    let one = "'./one.a.svc.cluster.local'";
    assert_eq!(known(&format!("{{egress: [{{port: {{number: 80, protocol: HTTP}}, hosts: [{one}]}}]}}")), ["one:80"]);
    assert_eq!(
        known(&format!("{{egress: [{{port: {{number: 80, protocol: HTTP}}, hosts: [{one}]}}, {{hosts: ['./*']}}]}}")),
        ["one:80", "one:90", "two:81"],
        "a port that is named is known by its listener alone"
    );
}

#[test]
fn unknown_destinations_go_nowhere_on_or_to_a_proxy() {
    let fallback = |policy: &str| {
        let (world, scope) = seen(&[SERVICES, &sidecar(&format!("{{outboundTrafficPolicy: {policy}}}"))].concat());
        let proxy = proxy(&world, "a", "one-0");
        let outbound = listener::outbound::Outbound { world: &world, scope: &scope, proxy: &proxy };
        let all = listener::outbound::listeners(outbound).0;
        let last = all.iter().find(|l| l.name == "virtualOutbound").unwrap();
        chains(last).last().unwrap().clone()
    };
    assert_eq!(fallback("{}"), " -> BlackHoleCluster");
    assert_eq!(fallback("{mode: ALLOW_ANY}"), " -> PassthroughCluster");
    assert_eq!(
        fallback("{mode: ALLOW_ANY, egressProxy: {host: two, port: {number: 81}}}"),
        " -> outbound|81||two.a.svc.cluster.local"
    );
}

#[test]
fn a_sidecar_s_egress_may_have_addresses_of_its_own() {
    let all = listeners(
        &[
            SERVICES,
            &sidecar(
                "{egress: [{port: {number: 80, protocol: HTTP}, bind: 127.0.0.1, captureMode: NONE, hosts: ['./*']}, {port: {number: 90, protocol: TCP}, captureMode: NONE, hosts: ['./*']}, {hosts: ['./*']}]}",
            ),
        ]
        .concat(),
    );
    let text = |l: &Listener| format!("{} {} {}", l.name, l.bind_to_port, chains(l).join("; "));
    let lines: Vec<String> = all.iter().map(text).collect();
    for expected in ["127.0.0.1_80 true  -> http", "127.0.0.1_90 true  -> outbound|90||one.a.svc.cluster.local"] {
        assert!(lines.iter().any(|l| l == expected), "{expected} is not among {lines:#?}");
    }
    assert!(lines.iter().any(|l| l.starts_with("0.0.0.0_81 ")), "{lines:#?}");
    assert!(!lines.iter().any(|l| l.starts_with("0.0.0.0_80 ")), "{lines:#?}");
}

#[test]
fn a_rule_for_single_workloads_comes_first_and_may_name_secrets() {
    let entry = entry(
        "e",
        "a",
        "{hosts: [api.example.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP, targetPort: 443}]}",
    );
    let rules = |selector: &str| {
        let own = format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: own, namespace: a}}\nspec: {{host: api.example.com, workloadSelector: {{matchLabels: {{app: {selector}}}}}, trafficPolicy: {{tls: {{mode: MUTUAL, credentialName: mine}}}}}}\n---\n"
        );
        let all = rule("a", "{host: api.example.com, trafficPolicy: {tls: {mode: SIMPLE, credentialName: other}}}");
        let TransportSocket::Tls(tls) = cluster_of(&[entry.clone(), all, own].concat(), "api.example.com").transport else {
            panic!("TLS is originated");
        };
        let name = |secret: Option<SecretRef>| secret.map(|s| s.name).unwrap_or_default();
        (name(tls.certificate), name(tls.roots))
    };
    assert_eq!(rules("one"), ("kubernetes://mine".to_owned(), "kubernetes://mine-cacert".to_owned()));
    assert_eq!(rules("elsewhere"), (String::new(), "file-root:system".to_owned()), "a sidecar may not name Secrets by itself");
}
