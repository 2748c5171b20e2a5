//! How services find their endpoints, from manifests to what proxies are sent: headless services, endpoints that somebody gives,
//! aliases, ports by name.

use super::fixture::{pod, proxy, world};
use super::proxy::ProxyRole;
use super::{MergedRule, Scope, cluster, endpoint, listener, route};
use crate::generate::route::{RouteContext, Via};
use crate::world::{World, WorldEvent};
use lateen_model::dataplane::{Discovery, LbPolicy, TlsMode};
use lateen_model::resource::{ClusterState, Kind as ResourceKind, PodRecord, ResourceKey};
use std::sync::Arc;
use tokio::time::Instant;

fn service(namespace: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n---\n")
}

fn slice(name: &str, of: &str, rest: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, namespace: a, labels: {{kubernetes.io/service-name: {of}}}}}\naddressType: IPv4\n{rest}\n---\n"
    )
}

/// A client, two pods of a set with both families, and a stranger of another namespace.
fn pods() -> Vec<PodRecord> {
    let set = |n: u8| {
        let mut set = pod("a", &format!("set-{n}"), [10, 0, 0, 10 + n], &[("app", "set")]);
        set.ips.push(format!("fd00::{n}").parse().expect("an address"));
        (set.hostname, set.subdomain) = (format!("set-{n}"), "set".to_owned());
        set
    };
    let mut client = pod("a", "client-0", [10, 0, 0, 1], &[("app", "client")]);
    client.ips.push("fd00::99".parse().expect("an address"));
    vec![client, set(0), set(1), pod("b", "stranger-0", [10, 0, 0, 20], &[("app", "stranger")])]
}

fn seen(manifests: &str) -> (World, Scope) {
    let world = world(manifests, &pods());
    let scope = Scope::new(&world, &proxy(&world, "a", "client-0"));
    (world, scope)
}

fn listeners(manifests: &str) -> Vec<String> {
    let (world, scope) = seen(manifests);
    let proxy = proxy(&world, "a", "client-0");
    let (all, _) = listener::outbound::listeners(listener::outbound::Outbound { world: &world, scope: &scope, proxy: &proxy });
    let text = |l: &lateen_model::dataplane::Listener| {
        let more: Vec<String> = l.additional_addresses.iter().map(ToString::to_string).collect();
        format!("{} {}", l.name, more.join(" ")).trim_end().to_owned()
    };
    all.iter().filter(|l| l.name != "virtualOutbound").map(text).collect()
}

/// `ADDRESS[ mtls]` of each endpoint of a cluster, and whether it is known who it is.
fn endpoints(world: &World, name: &str) -> Vec<String> {
    let scope = Scope::new(world, &proxy(world, "a", "client-0"));
    let host = name.rsplit('|').next().expect("a host");
    let service = scope.service_or_visible(world, host);
    let rule = service.map(|s| MergedRule::lookup(world, "a", s)).unwrap_or_default();
    let assignment = endpoint::of_cluster(world, (&proxy(world, "a", "client-0"), &rule), service.map(|s| &**s), name);
    let one = |e: &lateen_model::dataplane::Endpoint| {
        let mutual = if e.tls_mode == TlsMode::Istio { " mtls" } else { "" };
        let known = e.workload.as_ref().map(|w| format!(" {}", w.workload)).unwrap_or_default();
        format!("{}{mutual}{known}", e.address)
    };
    let mut all: Vec<String> = assignment.localities.iter().flat_map(|l| &l.endpoints).map(one).collect();
    all.sort();
    all
}

#[test]
fn each_pod_of_a_headless_service_has_a_listener_for_bytes() {
    let headless = |more: &str| {
        let spec = format!(
            "{{clusterIP: None, {more}selector: {{app: set}}, ports: [{{name: tcp, port: 9000}}, {{name: http, port: 80}}]}}"
        );
        listeners(&service("a", "set", &spec))
    };
    assert_eq!(headless(""), ["0.0.0.0_80 [::]:80", "10.0.0.10_9000", "10.0.0.11_9000"]);
    assert_eq!(
        headless("ipFamilyPolicy: PreferDualStack, "),
        ["0.0.0.0_80 [::]:80", "10.0.0.10_9000 [fd00::]:9000", "10.0.0.11_9000 [fd00::1]:9000"]
    );
    assert_eq!(headless("ipFamilies: [IPv6], "), ["0.0.0.0_80 [::]:80", "fd00::1_9000", "fd00::_9000"]);
    let nobody = service("a", "set", "{clusterIP: None, selector: {app: nobody}, ports: [{name: tcp, port: 9000}]}");
    assert!(listeners(&nobody).is_empty());
}

#[test]
fn gateways_choose_among_the_pods_of_headless_services() {
    let spec = "{clusterIP: None, selector: {app: set}, ports: [{name: http, port: 80}]}";
    let (world, scope) = seen(&service("a", "set", spec));
    let scoped = scope.service("set.a.svc.cluster.local").expect("known");
    let sidecar = proxy(&world, "a", "client-0");
    let router = super::Proxy { role: ProxyRole::Router, ..sidecar.clone() };
    let made = |proxy| cluster::of_service(&world, proxy, scoped, &MergedRule::default()).remove(0);
    assert_eq!(made(&sidecar).discovery, Discovery::OriginalDst { port_override: None });
    assert_eq!(made(&sidecar).lb_policy, LbPolicy::ClusterProvided);
    assert_eq!(made(&router).discovery, Discovery::Eds { service_name: "outbound|80||set.a.svc.cluster.local".to_owned() });
    assert_eq!(made(&router).lb_policy, LbPolicy::LeastRequest);
}

fn domains(world: &World, scope: &Scope, host: &str) -> Vec<String> {
    let proxy = proxy(world, "a", "client-0");
    let routes = route::of_name(RouteContext { world, scope, proxy: &proxy, via: Via::Mesh }, "80");
    let found = routes.virtual_hosts.iter().find(|v| v.name == format!("{host}:80"));
    found.unwrap_or_else(|| panic!("{host}: {:?}", routes.virtual_hosts)).domains.clone()
}

#[test]
fn aliases_are_names_of_what_they_stand_for() {
    let alias = |name: &str, of: &str| service("a", name, &format!("{{type: ExternalName, externalName: {of}}}"));
    let one = service("a", "one", "{selector: {app: set}, ports: [{name: http, port: 80}]}");
    let text = [
        one,
        alias("first", "one.a.svc.cluster.local"),
        alias("second", "first.a.svc.cluster.local."),
        alias("round", "trip.a.svc.cluster.local"),
        alias("trip", "round.a.svc.cluster.local"),
        alias("out", "nowhere.example.com"),
    ]
    .concat();
    let (world, scope) = seen(&text);
    let domains = domains(&world, &scope, "one.a.svc.cluster.local");
    for name in ["one", "first", "second.a", "second.a.svc", "first.a.svc.cluster.local", "second.a.svc.cluster.local."] {
        assert!(domains.iter().any(|d| d == name), "{name}: {domains:?}");
    }
    assert!(!domains.iter().any(|d| d.starts_with("out") || d.starts_with("round")), "{domains:?}");
    // They have nothing of their own.
    assert_eq!(listeners(&text), ["0.0.0.0_80 [::]:80"]);
    for host in ["first", "out", "round"] {
        let scoped = scope.service(&format!("{host}.a.svc.cluster.local")).expect("known");
        assert!(cluster::of_service(&world, &proxy(&world, "a", "client-0"), scoped, &MergedRule::default()).is_empty());
    }
    // A destination that is an alias of an alias.
    let destination = lateen_model::resource::Destination { host: "second".to_owned(), ..Default::default() };
    assert_eq!(super::scope::destination_host(&world, &destination, "a"), "one.a.svc.cluster.local");
}

const PORTS: &str = "ports: [{name: http, port: 8080}]";

#[test]
fn endpoints_that_are_given() {
    let given = service("a", "given", "{ports: [{name: http, port: 80}, {name: tcp, port: 90}]}");
    let cluster = "outbound|80||given.a.svc.cluster.local";
    for (what, slices, expected) in [
        ("none", String::new(), vec![]),
        (
            "a pod by its address",
            slice("s", "given", &format!("endpoints: [{{addresses: [10.0.0.10]}}]\n{PORTS}")),
            vec!["10.0.0.10:8080 mtls set"],
        ),
        (
            "a pod by its name",
            slice(
                "s",
                "given",
                &format!("endpoints: [{{addresses: [192.0.2.5], targetRef: {{kind: Pod, name: set-1}}}}]\n{PORTS}"),
            ),
            vec!["192.0.2.5:8080 mtls set"],
        ),
        (
            "a pod that is not there yet",
            slice(
                "s",
                "given",
                &format!("endpoints: [{{addresses: [10.0.0.10], targetRef: {{kind: Pod, name: set-7}}}}]\n{PORTS}"),
            ),
            vec![],
        ),
        (
            "another namespace's pod is a stranger",
            slice("s", "given", &format!("endpoints: [{{addresses: [10.0.0.20]}}]\n{PORTS}")),
            vec!["10.0.0.20:8080"],
        ),
        (
            "those that are ready",
            slice(
                "s",
                "given",
                &format!(
                    "endpoints: [{{addresses: [192.0.2.1], conditions: {{ready: true}}}}, {{addresses: [192.0.2.2], conditions: {{ready: false, serving: true}}}}, {{addresses: [192.0.2.3], conditions: {{}}}}]\n{PORTS}"
                ),
            ),
            vec!["192.0.2.1:8080", "192.0.2.3:8080"],
        ),
        (
            "two slices, of which one has the port",
            [
                slice("s", "given", &format!("endpoints: [{{addresses: [192.0.2.1, 192.0.2.4]}}]\n{PORTS}")),
                slice("t", "given", "endpoints: [{addresses: [192.0.2.2]}]\nports: [{name: tcp, port: 9}]"),
                slice("u", "other", &format!("endpoints: [{{addresses: [192.0.2.3]}}]\n{PORTS}")),
            ]
            .concat(),
            vec!["192.0.2.1:8080", "192.0.2.4:8080"],
        ),
        (
            "Endpoints",
            format!(
                "apiVersion: v1\nkind: Endpoints\nmetadata: {{name: given, namespace: a}}\nsubsets: [{{addresses: [{{ip: 192.0.2.1}}], notReadyAddresses: [{{ip: 192.0.2.2}}], {PORTS}}}]\n---\n"
            ),
            vec!["192.0.2.1:8080"],
        ),
    ] {
        let world = world(&format!("{given}{slices}"), &pods());
        assert_eq!(endpoints(&world, cluster), expected, "{what}");
    }
}

#[test]
fn given_beside_selected() {
    let both = service("a", "both", "{selector: {app: set}, ports: [{name: http, port: 80, targetPort: 8080}]}");
    let slices = slice("s", "both", &format!("endpoints: [{{addresses: [10.0.0.10, 192.0.2.1]}}]\n{PORTS}"));
    let legacy = format!(
        "apiVersion: v1\nkind: Endpoints\nmetadata: {{name: both, namespace: a}}\nsubsets: [{{addresses: [{{ip: 192.0.2.9}}], {PORTS}}}]\n---\n"
    );
    let world = world(&[both, slices, legacy].concat(), &pods());
    assert_eq!(
        endpoints(&world, "outbound|80||both.a.svc.cluster.local"),
        ["10.0.0.10:8080 mtls set", "10.0.0.11:8080 mtls set", "192.0.2.1:8080"],
        "an endpoint that is both is one; Endpoints of a service with a selector are not the user's"
    );
}

#[test]
fn what_is_given_follows_its_objects_and_its_pods() {
    let given = service("a", "given", "{ports: [{name: http, port: 80}]}");
    let text = |ip: &str, of: &str| slice("s", of, &format!("endpoints: [{{addresses: [{ip}]}}]\n{PORTS}"));
    let cluster = "outbound|80||given.a.svc.cluster.local";
    let first = world(&format!("{given}{}", text("10.0.0.10", "given")), &pods());
    let put = |world: &World, manifests: &str| {
        let (world, changes) = world.apply(super::fixture::events(manifests), Instant::now());
        let keys: Vec<String> = changes.keys().map(|k| format!("{} {}", k.kind.as_str(), k.name)).collect();
        (world, keys)
    };
    let (same, keys) = put(&first, &text("10.0.0.10", "given"));
    assert!(keys.is_empty() && endpoints(&same, cluster).len() == 1, "{keys:?}");
    let (moved, keys) = put(&first, &text("192.0.2.1", "given"));
    // The pod's account is no longer one that clients may find there.
    assert_eq!(keys, ["Service given", "Endpoints given"]);
    assert_eq!(endpoints(&moved, cluster), ["192.0.2.1:8080"]);
    let (elsewhere, keys) = put(&moved, &text("192.0.2.1", "other"));
    assert_eq!(keys, ["Endpoints given"]);
    assert!(endpoints(&elsewhere, cluster).is_empty());
    let key = ResourceKey { kind: ResourceKind::EndpointSlice, namespace: "a".to_owned(), name: "s".to_owned() };
    let (gone, changes) = moved.apply([WorldEvent::Remove(key)], Instant::now());
    assert!(endpoints(&gone, cluster).is_empty() && !changes.is_empty());
    // The pod leaves: its address is a stranger's.
    let mut left = pods();
    left.retain(|p| p.name != "set-0");
    let state = ClusterState { pods: left, cluster_ips: Default::default(), generation: 9 };
    let (without, _) = first.apply([WorldEvent::Cluster(Arc::new(state))], Instant::now());
    assert_eq!(endpoints(&without, cluster), ["10.0.0.10:8080"]);
    // A pod that is being stopped takes no new traffic, whatever a slice says.
    let mut leaving = pods();
    leaving[1].terminating = true;
    let state = ClusterState { pods: leaving, cluster_ips: Default::default(), generation: 9 };
    let (without, _) = first.apply([WorldEvent::Cluster(Arc::new(state))], Instant::now());
    assert!(endpoints(&without, cluster).is_empty());
}

#[test]
fn a_port_by_name_has_another_number_in_each_pod() {
    let named = service("a", "named", "{selector: {app: set}, ports: [{name: http, port: 80, targetPort: http}]}");
    let mut pods = pods();
    pods[2].ports[0].port = 8181;
    let world_of_two = world(&named, &pods);
    let cluster = "outbound|80||named.a.svc.cluster.local";
    assert_eq!(endpoints(&world_of_two, cluster), ["10.0.0.10:8080 mtls set", "10.0.0.11:8181 mtls set"]);
    pods[2].ports.clear();
    assert_eq!(endpoints(&world(&named, &pods), cluster), ["10.0.0.10:8080 mtls set"]);
}
