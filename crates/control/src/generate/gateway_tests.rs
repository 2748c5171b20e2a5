use super::*;
use crate::generate::fixture;
use crate::generate::listener::gateway::{Router, listeners};
use crate::generate::route::{self, RouteContext, Via};
use crate::generate::{Scope, proxy::ProxyRole};
use crate::world::Settings;
use lateen_model::dataplane::{
    FilterChain, ForwardClientCert, Listener, RouteAction, RouteConfiguration, SecretSource, TcpDestination, Terminal, TlsVersion,
};

const SERVICES: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: edge, namespace: gw}\nspec: {selector: {istio: edge}, ports: [{name: http, port: 80, targetPort: 8080}, {name: named, port: 81, targetPort: http}]}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: one, namespace: a}\nspec: {selector: {app: one}, ports: [{name: http, port: 80, targetPort: 8080}, {name: tls, port: 443}, {name: tcp, port: 9000}]}\n---\n";

struct Bench {
    world: World,
    proxy: Proxy,
    scope: Scope,
}

fn bench(manifests: &str) -> Bench {
    let pod = fixture::pod("gw", "edge-0", [10, 0, 0, 1], &[("istio", "edge")]);
    let world = fixture::world(&format!("{SERVICES}{manifests}"), &[pod]);
    let proxy = Proxy { role: ProxyRole::Router, ..fixture::proxy(&world, "gw", "edge-0") };
    let scope = Scope::new(&world, &proxy);
    Bench { world, proxy, scope }
}

impl Bench {
    fn listeners(&self) -> Vec<Listener> {
        listeners(Router { world: &self.world, scope: &self.scope, proxy: &self.proxy })
    }

    fn routes(&self, name: &str) -> RouteConfiguration {
        let context = RouteContext { world: &self.world, scope: &self.scope, proxy: &self.proxy, via: Via::Mesh };
        route::of_name(context, name)
    }

    /// Each virtual host as `DOMAIN: ROUTE, ROUTE`, a route by its name.
    fn hosts(&self, name: &str) -> Vec<String> {
        let text = |host: lateen_model::dataplane::VirtualHost| {
            let routes: Vec<String> = host.routes.into_iter().map(|r| r.name).collect();
            let tls = if host.require_tls { " (https)" } else { "" };
            format!("{}{tls}: {}", host.domains.join(" "), routes.join(", "))
        };
        self.routes(name).virtual_hosts.into_iter().map(text).collect()
    }
}

fn gateway(name: &str, servers: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: {name}, namespace: gw}}\nspec: {{selector: {{istio: edge}}, servers: {servers}}}\n---\n"
    )
}

fn virtual_service(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: a}}\nspec: {{{spec}}}\n---\n"
    )
}

fn names(listeners: &[Listener]) -> Vec<&str> {
    listeners.iter().map(|l| l.name.as_str()).collect()
}

fn cluster(chain: &FilterChain) -> String {
    match &chain.terminal {
        Terminal::Tcp(proxy) => match &proxy.destination {
            TcpDestination::Cluster(name) => name.clone(),
            TcpDestination::Weighted(all) => all.iter().map(|(n, w)| format!("{n}={w}")).collect::<Vec<_>>().join(" "),
        },
        Terminal::Http(manager) => format!("{:?}", manager.routes),
    }
}

#[test]
fn names_of_gateways() {
    for (written, expected) in
        [("mesh", "mesh"), ("g", "a/g"), ("./g", "a/g"), ("b/g", "b/g"), ("g.b", "b/g"), ("g.b.svc.cluster.local", "b/g")]
    {
        assert_eq!(full_name(written, "a"), expected, "{written}");
    }
}

#[test]
fn ports_are_those_behind_the_service() {
    let servers = "[{port: {number: 80, name: a, protocol: HTTP}, hosts: ['*']}, {port: {number: 81, name: b, protocol: HTTP}, hosts: ['*']}, {port: {number: 9999, name: c, protocol: HTTP}, hosts: ['*']}, {port: {number: 80, name: d, protocol: HTTP}, bind: 10.0.0.1, hosts: ['*']}]";
    let bench = bench(&gateway("g", servers));
    // Both 80 and 81 lead to 8080 and are served together.
    assert_eq!(names(&bench.listeners()), ["0.0.0.0_8080", "10.0.0.1_8080", "0.0.0.0_9999"]);
    let merged = merged(&bench.world, &bench.proxy);
    let routes: Vec<String> = merged.places.values().flatten().map(BoundServer::route_name).collect();
    assert_eq!(routes, ["http.8080", "http.8080", "http.8080.10.0.0.1", "http.9999"]);
    let Terminal::Http(manager) = &bench.listeners()[0].filter_chains[0].terminal else { panic!("no HTTP") };
    assert!(manager.use_remote_address && manager.xff_num_trusted_hops == 0);
    assert_eq!(manager.forward_client_cert, ForwardClientCert::SanitizeSet);
}

#[test]
fn who_may_share_a_port() {
    let tls = "tls: {mode: SIMPLE, credentialName: c}";
    for (second, expected) in [
        ("port: {number: 443, name: b, protocol: HTTPS}, hosts: [b.com], TLS", 0),
        ("port: {number: 443, name: b, protocol: TLS}, hosts: [b.com], TLS", 0),
        ("port: {number: 443, name: b, protocol: HTTPS}, hosts: [b.com, a.com], TLS", 1),
        ("port: {number: 443, name: b, protocol: HTTPS}, hosts: [x/a.com], TLS", 1),
        ("port: {number: 443, name: b, protocol: HTTP}, hosts: [b.com]", 1),
        ("port: {number: 443, name: b, protocol: TCP}, hosts: [b.com]", 1),
        ("port: {number: 443, name: b, protocol: TCP}, bind: 10.0.0.1, hosts: [b.com]", 0),
    ] {
        let first = gateway("g", &format!("[{{port: {{number: 443, name: a, protocol: HTTPS}}, hosts: [a.com], {tls}}}]"));
        let bench = bench(&(first + &gateway("h", &format!("[{{{}}}]", second.replace(", TLS", &format!(", {tls}"))))));
        let merged = merged(&bench.world, &bench.proxy);
        assert_eq!(merged.rejected.len(), expected, "{second}");
        if let Some(rejected) = merged.rejected.first() {
            assert_eq!(rejected.gateway_name(), "gw/h", "the older one keeps what it has");
        }
    }
}

#[test]
fn gateways_select_across_namespaces_unless_told_otherwise() {
    let other =
        gateway("g", "[{port: {number: 7000, name: a, protocol: HTTP}, hosts: ['*']}]").replace("namespace: gw", "namespace: b");
    assert_eq!(names(&bench(&other).listeners()), ["0.0.0.0_7000"]);
    let unselective = other.replace("selector: {istio: edge}, ", "");
    assert_eq!(names(&bench(&unselective).listeners()), ["0.0.0.0_7000"]);
    let elsewhere = other.replace("istio: edge", "istio: another");
    assert!(bench(&elsewhere).listeners().is_empty());
    let scoped = World::new(Settings { scope_gateway_to_namespace: true, ..Settings::default() });
    let (scoped, _) = scoped.apply(fixture::events(&other), tokio::time::Instant::now());
    assert!(of_proxy(&scoped, &bench(&other).proxy).is_empty());
}

#[test]
fn virtual_services_by_host_namespace_and_gateway() {
    let answer = |name: &str| format!("http: [{{name: {name}, directResponse: {{status: 200}}}}]");
    let on = |name: &str, hosts: &str, gateways: &str| {
        virtual_service(name, &format!("hosts: {hosts}, gateways: {gateways}, {}", answer(name)))
    };
    let servers = "[{port: {number: 80, name: a, protocol: HTTP}, hosts: ['a/*.a.com', 'b/b.com', './c.com', 'd.com']}]";
    for (text, expected) in [
        (on("v", "[x.a.com]", "[gw/g]"), vec!["x.a.com: v"]),
        (on("v", "['*']", "[gw/g]"), vec!["*.a.com: v", "d.com: v"]),
        (on("v", "[b.com, c.com]", "[gw/g]"), vec!["*: "]),
        (on("v", "[d.com]", "[g]"), vec!["*: "]),
        (on("v", "[d.com]", "[mesh, gw/g]"), vec!["d.com: v"]),
        (on("v", "[d.com]", "[mesh]"), vec!["*: "]),
        // Two of one host are merged, what matches everything last.
        (
            on("v", "[d.com]", "[gw/g]")
                + &virtual_service(
                    "w",
                    "hosts: [d.com], gateways: [gw/g], http: [{name: w, match: [{uri: {prefix: /w}}], directResponse: {status: 200}}]",
                ),
            vec!["d.com: w, v"],
        ),
        // Conditions on gateways and ports are decided here.
        (
            virtual_service(
                "v",
                "hosts: [d.com], gateways: [mesh, gw/g], http: [{name: x, match: [{gateways: [mesh]}], directResponse: {status: 200}}, {name: yes-it-is, match: [{gateways: [gw/g], port: 80}], directResponse: {status: 200}}]",
            ),
            vec!["d.com: yes-it-is"],
        ),
    ] {
        let bench = bench(&(gateway("g", servers) + &text));
        assert_eq!(bench.hosts("http.8080"), expected, "{text}");
    }
    assert_eq!(bench("").routes("http.8080").virtual_hosts[0].name, "blackhole:8080");
}

#[test]
fn redirects_to_https_also_without_a_virtual_service() {
    let servers = "[{port: {number: 80, name: a, protocol: HTTP}, hosts: [a.com], tls: {httpsRedirect: true}}, {port: {number: 80, name: b, protocol: HTTP}, hosts: [b.com]}]";
    let routed =
        virtual_service("v", "hosts: [a.com, b.com], gateways: [gw/g], http: [{name: v, directResponse: {status: 200}}]");
    assert_eq!(bench(&gateway("g", servers)).hosts("http.8080"), ["a.com (https): "]);
    assert_eq!(bench(&(gateway("g", servers) + &routed)).hosts("http.8080"), ["a.com (https): v", "b.com: v"]);
}

#[test]
fn https_servers_have_chains_and_routes_of_their_own() {
    let servers = "[{port: {number: 443, name: x, protocol: HTTPS}, hosts: [a.com, ns/b.com], tls: {mode: MUTUAL, credentialName: c, minProtocolVersion: TLSV1_3, subjectAltNames: [name]}}, {port: {number: 443, name: second, protocol: HTTPS}, hosts: ['*'], tls: {mode: OPTIONAL_MUTUAL, credentialName: d, caCertCredentialName: e, cipherSuites: [ECDHE-RSA-AES128-GCM-SHA256, nonsense]}}, {port: {number: 8443, name: z, protocol: HTTPS}, hosts: [c.com], tls: {mode: ISTIO_MUTUAL}}]";
    let routed = virtual_service("v", "hosts: [a.com], gateways: [gw/g], http: [{redirect: {uri: /x, port: 443}}]");
    let bench = bench(&(gateway("g", servers) + &routed));
    let listeners = bench.listeners();
    assert_eq!(names(&listeners), ["0.0.0.0_443", "0.0.0.0_8443"]);
    let [mutual, optional] = listeners[0].filter_chains.as_slice() else { panic!("{listeners:?}") };
    assert!(listeners[0].listener_filters.tls_inspector && listeners[0].bind_to_port);
    assert_eq!(mutual.matches.server_names, ["a.com", "b.com"]);
    assert!(optional.matches.server_names.is_empty());
    assert!(cluster(mutual).contains("https.443.x.g.gw"), "{}", cluster(mutual));
    let tls = mutual.tls.as_ref().unwrap();
    assert_eq!((tls.certificate.name.as_str(), tls.certificate.source), ("kubernetes://c", SecretSource::Ads));
    assert_eq!(tls.client_roots.as_ref().unwrap().name, "kubernetes://c-cacert");
    assert!(tls.require_client_certificate && tls.client_sans.len() == 1 && tls.params.min == TlsVersion::V1_3);
    assert_eq!(tls.alpn, ["h2", "http/1.1"]);
    let tls = optional.tls.as_ref().unwrap();
    assert_eq!(tls.client_roots.as_ref().unwrap().name, "kubernetes://e-cacert");
    assert!(!tls.require_client_certificate);
    assert_eq!(tls.params.cipher_suites, ["ECDHE-RSA-AES128-GCM-SHA256"]);
    let tls = listeners[1].filter_chains[0].tls.as_ref().unwrap();
    assert_eq!((tls.certificate.name.as_str(), tls.certificate.source), ("default", SecretSource::Workload));
    assert!(tls.require_client_certificate);
    let routes = bench.routes("https.443.x.g.gw");
    assert_eq!(routes.virtual_hosts[0].domains, ["a.com"]);
    let RouteAction::Redirect(redirect) = &routes.virtual_hosts[0].routes[0].action else { panic!("{routes:?}") };
    assert_eq!(redirect.port, None, "443 is what clients of this port have anyway");
}

#[test]
fn bytes_and_server_names() {
    let servers = "[{port: {number: 9000, name: a, protocol: TCP}, hosts: ['*']}, {port: {number: 9001, name: b, protocol: TCP}, hosts: ['*']}, {port: {number: 443, name: c, protocol: TLS}, hosts: ['*.x.com'], tls: {mode: PASSTHROUGH}}, {port: {number: 8443, name: d, protocol: TLS}, hosts: [y.com], tls: {mode: SIMPLE, credentialName: c}}]";
    let routed = virtual_service(
        "v",
        "hosts: ['*.x.com', y.com], gateways: [gw/g], tcp: [{match: [{port: 9000}], route: [{destination: {host: one, port: {number: 9000}}, weight: 1}, {destination: {host: one, subset: s, port: {number: 9000}}, weight: 3}]}, {match: [{port: 8443}], route: [{destination: {host: one, port: {number: 80}}}]}], tls: [{match: [{sniHosts: [a.x.com, b.x.com]}], route: [{destination: {host: one, port: {number: 443}}}]}, {match: [{sniHosts: ['*.x.com', b.x.com, y.com]}], route: [{destination: {host: two, port: {number: 443}}}]}]",
    );
    let bench = bench(&(gateway("g", servers) + &routed));
    let listeners = bench.listeners();
    // Nothing routes 9001, so it is not opened.
    assert_eq!(names(&listeners), ["0.0.0.0_443", "0.0.0.0_8443", "0.0.0.0_9000"]);
    let shape = |l: &Listener| {
        let chains = l.filter_chains.iter();
        chains.map(|c| format!("{} -> {}", c.matches.server_names.join(" "), cluster(c))).collect::<Vec<_>>()
    };
    assert_eq!(
        shape(&listeners[0]),
        ["a.x.com b.x.com -> outbound|443||one.a.svc.cluster.local", "*.x.com -> outbound|443||two.a.svc.cluster.local"]
    );
    assert_eq!(shape(&listeners[1]), ["y.com -> outbound|80||one.a.svc.cluster.local"]);
    assert!(listeners[1].filter_chains[0].tls.is_some());
    assert_eq!(shape(&listeners[2]), [" -> outbound|9000||one.a.svc.cluster.local=1 outbound|9000|s|one.a.svc.cluster.local=3"]);
}

#[test]
fn server_names_of_the_mesh_pass_by_themselves() {
    let servers = "[{port: {number: 15443, name: a, protocol: TLS}, hosts: ['*.local'], tls: {mode: AUTO_PASSTHROUGH}}]";
    let bench = bench(&gateway("g", servers));
    let listeners = bench.listeners();
    let found: Vec<_> = listeners[0].filter_chains.iter().map(|c| (c.matches.server_names.join(" "), cluster(c))).collect();
    let name = "outbound_.443_._.one.a.svc.cluster.local".to_owned();
    assert!(found.contains(&(name.clone(), name)), "{found:?}");
    assert!(listeners[0].filter_chains.iter().all(|c| c.matches.application_protocols.contains(&"istio".to_owned())));
}

#[test]
fn sidecars_route_bytes_and_server_names_too() {
    let routed = virtual_service(
        "v",
        "hosts: [one], tcp: [{match: [{destinationSubnets: [10.1.0.0/16]}], route: [{destination: {host: other, port: {number: 1}}}]}, {match: [{port: 9000, sourceLabels: {istio: edge}}], route: [{destination: {host: two, port: {number: 2}}}]}], tls: [{match: [{sniHosts: [one], port: 443}], route: [{destination: {host: three, port: {number: 3}}}]}]",
    );
    let bench = bench(
        &routed
            .replace("sniHosts: [one]", "sniHosts: [one.a.svc.cluster.local]")
            .replace("hosts: [one]", "hosts: [one.a.svc.cluster.local]"),
    );
    let proxy = Proxy { role: ProxyRole::Sidecar, ..bench.proxy.clone() };
    let scope = Scope::new(&bench.world, &proxy);
    let outbound = crate::generate::listener::outbound::Outbound { world: &bench.world, scope: &scope, proxy: &proxy };
    let (listeners, _) = crate::generate::listener::outbound::listeners(outbound);
    let shape = |port: u16| {
        let found = listeners.iter().find(|l| l.address.port() == port && !l.bind_to_port).unwrap();
        let chains = found.filter_chains.iter().chain(&found.default_filter_chain);
        chains
            .map(|c| format!("{:?} {:?} {}", c.matches.destination_prefixes, c.matches.server_names, cluster(c)))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        shape(9000),
        ["[10.1.0.0/16] [] outbound|1||other.a.svc.cluster.local", "[] [] outbound|2||two.a.svc.cluster.local"]
    );
    assert_eq!(shape(443), ["[] [\"one.a.svc.cluster.local\"] outbound|3||three.a.svc.cluster.local"]);
}
