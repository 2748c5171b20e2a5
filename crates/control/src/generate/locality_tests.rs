//! Which endpoints are preferred, as tables; and that rules and the mesh are read with their precedence.

use super::fixture::{self, pod, proxy};
use super::locality::{Client, Placed, Preference};
use super::{MergedRule, Proxy, cluster, endpoint};
use crate::world::{World, place};
use lateen_model::dataplane::{ClusterLoadAssignment, Locality, LocalityEndpoints};
use lateen_model::resource::{LocalityLbSetting, StringMap, ZoneAwareLbSetting};

/// A pod of each place, which is also its name.
const PLACES: [&str; 6] = ["eu/a/1", "eu/a/2", "eu/b/1", "us/a/1", "asia/a/1", "asia/b/1"];

fn labels(text: &str) -> StringMap {
    text.split_whitespace().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// Endpoints `PLACE[ LABEL=VALUE]…`, each with the weight 1 or that of the label `weight`.
fn arranged(preference: &Preference<'_>, client: &Client, endpoints: &[&str]) -> Vec<String> {
    let all: Vec<(Locality, StringMap)> =
        endpoints.iter().map(|e| (place::of_text(e.split(' ').next().unwrap_or_default()), labels(e))).collect();
    let placed = all.iter().zip(endpoints).map(|((locality, labels), endpoint)| Placed {
        locality: locality.clone(),
        labels,
        weight: labels.get("weight").map_or(1, |w| w.parse().expect("a number")),
        endpoint: *endpoint,
    });
    let text = |g: super::locality::Group<&str>| match g.weight {
        Some(weight) => format!("{weight}%: {}", g.endpoints.join(", ")),
        None => format!("{}: {}", g.priority, g.endpoints.join(", ")),
    };
    preference.arrange(client, placed.collect()).into_iter().map(text).collect()
}

fn setting(text: &str) -> LocalityLbSetting {
    let manifest = format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: x, namespace: a}}\nspec: {{host: one, trafficPolicy: {{outlierDetection: {{}}, loadBalancer: {{localityLbSetting: {{{text}}}}}}}}}\n"
    );
    let world = fixture::world(&manifest, &[]);
    let rules = &world.namespace("a").expect("the namespace").destination_rules;
    let rule = &rules.iter().next().expect("the rule").resource.spec;
    let policy = rule.traffic_policy.as_ref().and_then(|p| p.load_balancer.as_ref());
    policy.and_then(|l| l.locality_lb_setting.clone()).expect("the setting")
}

fn client(place: &str, text: &str) -> Client {
    Client::new(place::of_text(place), labels(text))
}

#[test]
fn places_stand_in_for_each_other() {
    for (failover, from, expected) in [
        ("", "eu/a/1", &["0: eu/a/1", "1: eu/a/2", "2: eu/b/1", "3: asia/a/1", "3: asia/b/1", "3: us/a/1"][..]),
        ("", "us/b/1", &["0: us/a/1", "1: asia/a/1", "1: asia/b/1", "1: eu/a/1", "1: eu/a/2", "1: eu/b/1"]),
        ("", "", &["0: asia/a/1", "0: asia/b/1", "0: eu/a/1", "0: eu/a/2", "0: eu/b/1", "0: us/a/1"]),
        (
            "failover: [{from: eu, to: us}, {from: eu, to: asia}]",
            "eu/b/1",
            &["0: eu/b/1", "1: eu/a/1", "1: eu/a/2", "2: us/a/1", "3: asia/a/1", "3: asia/b/1"],
        ),
        (
            "failover: [{from: us, to: eu}]",
            "asia/b/9",
            &["0: asia/b/1", "1: asia/a/1", "2: eu/a/1", "2: eu/a/2", "2: eu/b/1", "2: us/a/1"],
        ),
    ] {
        let setting = setting(failover);
        let preference = Preference::Failover { labels: &[], regions: Some(&setting.failover) };
        assert_eq!(arranged(&preference, &client(from, ""), &PLACES), expected, "{failover} from {from:?}");
    }
}

#[test]
fn labels_come_before_places() {
    let endpoints = ["eu/a/1 v=1 net=x", "eu/a/1 v=2 net=x", "us/a/1 v=1 net=y", "us/a/1 v=2 net=y", "us/a/1"];
    for (labels, from, expected) in [
        (
            "[net, v]",
            "net=x v=1",
            &["0: eu/a/1 v=1 net=x", "1: eu/a/1 v=2 net=x", "2: us/a/1 v=1 net=y, us/a/1 v=2 net=y, us/a/1"][..],
        ),
        (
            "[net=y, v]",
            "v=2",
            &["0: us/a/1 v=2 net=y", "1: us/a/1 v=1 net=y", "2: eu/a/1 v=1 net=x, eu/a/1 v=2 net=x", "2: us/a/1"],
        ),
        ("[v]", "", &["0: us/a/1", "1: eu/a/1 v=1 net=x, eu/a/1 v=2 net=x", "1: us/a/1 v=1 net=y, us/a/1 v=2 net=y"]),
        (
            "[topology.kubernetes.io/region]",
            "",
            &["0: eu/a/1 v=1 net=x, eu/a/1 v=2 net=x", "1: us/a/1 v=1 net=y, us/a/1 v=2 net=y, us/a/1"],
        ),
        (
            "[v], failover: [{from: eu, to: us}]",
            "v=1",
            &["0: eu/a/1 v=1 net=x", "1: us/a/1 v=1 net=y", "2: eu/a/1 v=2 net=x", "3: us/a/1 v=2 net=y, us/a/1"],
        ),
    ] {
        let setting = setting(&format!("failoverPriority: {labels}"));
        let regions = (!setting.failover.is_empty()).then_some(&*setting.failover);
        let preference = Preference::Failover { labels: &setting.failover_priority, regions };
        assert_eq!(arranged(&preference, &client("eu/a/1", from), &endpoints), expected, "{labels} from {from:?}");
    }
}

#[test]
fn places_have_shares() {
    let endpoints = ["eu/a/1 weight=3", "eu/a/1 weight=1", "eu/b/1", "us/a/1 weight=2", "asia/a/1"];
    for (rules, from, expected) in [
        (
            "{from: eu/*, to: {us: 80, eu: 20}}",
            "eu/a/1",
            &["16%: eu/a/1 weight=3, eu/a/1 weight=1", "4%: eu/b/1", "80%: us/a/1 weight=2"][..],
        ),
        ("{from: eu/a/*, to: {eu/b/*: 100}}, {from: eu/b/*, to: {us: 100}}", "eu/b/1", &["100%: us/a/1 weight=2"]),
        ("{from: us, to: {nowhere: 40, 'us/*': 60}}", "us/x", &["60%: us/a/1 weight=2"]),
        ("{from: us, to: {nowhere: 100}}", "us", &[]),
        // Nothing is said for this client.
        (
            "{from: us, to: {us: 100}}",
            "eu",
            &["1%: asia/a/1", "4%: eu/a/1 weight=3, eu/a/1 weight=1", "1%: eu/b/1", "2%: us/a/1 weight=2"],
        ),
    ] {
        let setting = setting(&format!("distribute: [{rules}]"));
        let preference = Preference::Distribute(&setting.distribute);
        assert_eq!(arranged(&preference, &client(from, ""), &endpoints), expected, "{rules} from {from:?}");
    }
}

fn zone_aware(text: &str) -> ZoneAwareLbSetting {
    serde_json::from_str(text).expect("the setting")
}

#[test]
fn regions_stand_in_for_each_other_where_proxies_balance_by_zones() {
    for (written, from, expected) in [
        ("{}", "eu/a/1", &["0: eu/a/1", "0: eu/a/2", "0: eu/b/1", "1: asia/a/1", "1: asia/b/1", "1: us/a/1"][..]),
        (
            r#"{"failover": [{"from": "eu", "to": "asia"}]}"#,
            "eu/x",
            &["0: eu/a/1", "0: eu/a/2", "0: eu/b/1", "1: asia/a/1", "1: asia/b/1", "2: us/a/1"],
        ),
        // Of a client elsewhere all are in other regions.
        ("{}", "africa", &["0: asia/a/1", "0: asia/b/1", "0: eu/a/1", "0: eu/a/2", "0: eu/b/1", "0: us/a/1"]),
    ] {
        let setting = zone_aware(written);
        assert_eq!(arranged(&Preference::ZoneAware(&setting), &client(from, ""), &PLACES), expected, "{written} from {from}");
    }
    // Labels come before regions.
    let setting = zone_aware(r#"{"failoverPriority": ["v"]}"#);
    let endpoints = ["eu/a v=2", "us/a v=1", "eu/b v=1", "us/b"];
    assert_eq!(
        arranged(&Preference::ZoneAware(&setting), &client("eu/a", "v=1"), &endpoints),
        ["0: eu/b v=1", "1: us/a v=1", "2: eu/a v=2", "3: us/b"]
    );
}

#[test]
fn who_balances_by_zones() {
    const OFF: &str = ", loadBalancer: {zoneAwareLbSetting: {enabled: false}}";
    let zones = |mesh: &str, policy: &str, discovering: bool| {
        let world = world_of(mesh, "", policy);
        let find = if discovering { fixture::discovering } else { proxy };
        let proxy = find(&world, "a", "one-0");
        let scope = fixture::scope(&world, &proxy);
        let scoped = scope.services.iter().find(|s| &*s.service.name == "one").expect("the service");
        let rule = MergedRule::lookup_for(&world, &proxy, &scoped.service);
        let cluster = cluster::of_service(&world, &proxy, scoped, &rule).remove(0);
        let assignment = endpoint::of_cluster(&world, (&proxy, &rule), Some(&scoped.service), &cluster.name);
        let priorities: Vec<u32> = assignment.localities.iter().map(|l| l.priority).collect();
        (cluster.zone_aware.map(|z| (z.routing_percent, z.min_cluster_size)), priorities)
    };
    let on = ", loadBalancer: {zoneAwareLbSetting: {minClusterSize: 2}}";
    for (mesh, policy, discovering, expected, priorities) in [
        ("", on, true, Some((100, 2)), [0, 1]),
        ("", ", loadBalancer: {zoneAwareLbSetting: {}}", true, Some((100, 6)), [0, 1]),
        // Regions count for every proxy, zones for those only that know their own workload's.
        ("", on, false, None, [0, 1]),
        ("", "", false, None, [0, 0]),
        ("", "", true, Some((0, 6)), [0, 0]),
        ("zoneAwareLbSetting: {enabled: true}", "", true, Some((100, 6)), [0, 1]),
        ("zoneAwareLbSetting: {enabled: true}", OFF, true, Some((0, 6)), [0, 0]),
        ("zoneAwareLbSetting: {enabled: false}", "", true, Some((0, 6)), [0, 0]),
        ("zoneAwareLbSetting: {}", ", loadBalancer: {localityLbSetting: {enabled: false}}", true, Some((0, 6)), [0, 0]),
        // Weighted places decide alone.
        ("", ", loadBalancer: {localityLbSetting: {distribute: [{from: eu, to: {eu: 50, us: 50}}]}}", true, None, [0, 0]),
    ] {
        assert_eq!(
            zones(mesh, policy, discovering),
            (expected, priorities.to_vec()),
            "mesh {mesh:?}, rule {policy:?}, {discovering}"
        );
    }
}

#[test]
fn the_proxies_of_a_workload() {
    let manifest = "
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm, namespace: a}
spec: {address: 10.0.0.9, locality: eu/b, labels: {service.istio.io/workload-name: one}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: one-0, namespace: b}
spec: {address: 10.0.0.8, locality: eu/b}
";
    let pods = [("one-0", "eu", 1), ("two-0", "us", 2)]
        .map(|(name, place, ip)| pod("a", name, [10, 0, 0, ip], &[("app", "one"), (place::REGION, place), (place::ZONE, "a")]));
    let world = fixture::world(manifest, &pods);
    let text = |assignment: ClusterLoadAssignment| {
        let group = |l: &LocalityEndpoints| {
            let addresses: Vec<String> = l.endpoints.iter().map(|e| e.address.ip().to_string()).collect();
            format!("{}/{}: {}", l.locality.region, l.locality.zone, addresses.join(" "))
        };
        assignment.localities.iter().map(group).collect::<Vec<_>>()
    };
    let of = |proxy: Proxy| text(endpoint::local_cluster(&world, &proxy));
    assert_eq!(of(fixture::discovering(&world, "a", "one-0")), ["eu/a: 10.0.0.1", "eu/b: 10.0.0.9"]);
    assert_eq!(of(fixture::discovering(&world, "a", "two-0")), ["us/a: 10.0.0.2"]);
    assert_eq!(of(proxy(&world, "a", "one-0")), [""; 0], "who does not want to know is not told");
}

/// `PRIORITY[/WEIGHT] NAME` of each group of the service's endpoints, as its pod in `eu` is sent them, and whether the cluster
/// shares by place.
fn sent(mesh: &str, service: &str, policy: &str) -> (Vec<String>, bool) {
    sent_in(&world_of(mesh, service, policy))
}

fn sent_in(world: &World) -> (Vec<String>, bool) {
    let proxy = proxy(world, "a", "one-0");
    let scope = fixture::scope(world, &proxy);
    let scoped = scope.services.iter().find(|s| &*s.service.name == "one").expect("the service");
    let rule = MergedRule::lookup_for(world, &proxy, &scoped.service);
    let clusters = cluster::of_service(world, &proxy, scoped, &rule);
    let assignment = endpoint::of_cluster(world, (&proxy, &rule), Some(&scoped.service), &clusters[0].name);
    let text = |l: &LocalityEndpoints| {
        let weight = l.weight.map(|w| format!("/{w}")).unwrap_or_default();
        format!("{}{weight} {}", l.priority, l.locality.region)
    };
    (assignment.localities.iter().map(text).collect(), clusters[0].weighted_localities.is_some())
}

/// A service with a pod in `eu` and one in `us`.
fn world_of(mesh: &str, service: &str, policy: &str) -> World {
    let manifests = format!(
        "
apiVersion: v1
kind: ConfigMap
metadata: {{name: istio, namespace: istio-system}}
data: {{mesh: '{mesh}'}}
---
apiVersion: v1
kind: Service
metadata: {{name: one, namespace: a}}
spec: {{selector: {{app: one}}, ports: [{{name: http, port: 80, targetPort: 8080}}] {service}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: one, namespace: a}}
spec: {{host: one, trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: 9}}}} {policy}}}}}
"
    );
    let pods = [("one-0", "eu", 1), ("one-1", "us", 2)]
        .map(|(name, place, ip)| pod("a", name, [10, 0, 0, ip], &[("app", "one"), (place::REGION, place)]));
    fixture::world(&manifests, &pods)
}

#[test]
fn the_rule_comes_before_the_mesh() {
    const OUTLIER: &str = ", outlierDetection: {}";
    let rule = |text: &str| format!(", loadBalancer: {{localityLbSetting: {{{text}}}}}");
    let alike = (vec!["0 eu".to_owned(), "0 us".to_owned()], false);
    let near_first = (vec!["0 eu".to_owned(), "1 us".to_owned()], false);
    let shared = |weights: [u32; 2]| (vec![format!("0/{} eu", weights[0]), format!("0/{} us", weights[1])], true);
    let to = |eu: u32, us: u32| format!("distribute: [{{from: eu, to: {{eu: {eu}, us: {us}}}}}]");
    for (mesh, policy, expected) in [
        ("", String::new(), &alike),
        ("", OUTLIER.to_owned(), &near_first),
        ("localityLbSetting: {enabled: false}", OUTLIER.to_owned(), &alike),
        ("localityLbSetting: {enabled: false}", OUTLIER.to_owned() + &rule(""), &near_first),
        ("", OUTLIER.to_owned() + &rule("enabled: false"), &alike),
        ("", rule("failover: [{from: eu, to: us}]"), &alike),
        ("", OUTLIER.to_owned() + &rule("failoverPriority: [app]"), &alike),
        (&format!("localityLbSetting: {{{}}}", to(70, 30)), String::new(), &shared([70, 30])),
        (&format!("localityLbSetting: {{{}}}", to(70, 30)), rule(&to(10, 90)), &shared([10, 90])),
        (&format!("localityLbSetting: {{{}}}", to(70, 30)), OUTLIER.to_owned() + &rule(""), &near_first),
        (&format!("localityLbSetting: {{{}}}", to(70, 30)), rule("enabled: false"), &alike),
    ] {
        assert_eq!(&sent(mesh, "", &policy), expected, "mesh {mesh:?}, rule {policy:?}");
    }
}

#[test]
fn a_service_says_what_its_clients_prefer() {
    const CLOSE: &str = ", trafficDistribution: PreferClose";
    let priorities = |mesh: &str, service: &str, policy: &str| sent(mesh, service, policy).0.join(", ");
    let off = ", loadBalancer: {localityLbSetting: {enabled: false}}";
    for (mesh, service, policy, expected) in [
        ("", CLOSE, "", "0 eu, 1 us"),
        ("", ", trafficDistribution: PreferSameNode", "", "0 eu, 1 us"),
        ("localityLbSetting: {enabled: false}", CLOSE, "", "0 eu, 1 us"),
        ("", CLOSE, off, "0 eu, 0 us"),
        ("localityLbSetting: {distribute: [{from: eu, to: {us: 100}}]}", CLOSE, "", "0 eu, 1 us"),
        ("", CLOSE, ", loadBalancer: {localityLbSetting: {distribute: [{from: eu, to: {us: 100}}]}}", "0/100 us"),
    ] {
        assert_eq!(priorities(mesh, service, policy), expected, "mesh {mesh:?}, service {service:?}, rule {policy:?}");
    }
}

#[test]
fn a_namespace_says_what_the_clients_of_its_services_prefer() {
    let say = |annotation: &str, service: &str| {
        let namespace = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: a, annotations: {{networking.istio.io/traffic-distribution: {annotation}}}}}\n"
        );
        let world = world_of("", service, "");
        let (world, changes) = world.apply(fixture::events(&namespace), tokio::time::Instant::now());
        assert_eq!(changes.touches(crate::world::Kind::Service), annotation != "nonsense", "{annotation}");
        sent_in(&world).0.join(", ")
    };
    assert_eq!(say("PreferClose", ""), "0 eu, 1 us");
    assert_eq!(say("nonsense", ""), "0 eu, 0 us");
}

/// A client without the label is of the mesh's own network.
#[test]
fn endpoints_of_the_own_network_first() {
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: e, namespace: a, annotations: {networking.istio.io/traffic-distribution: PreferClose}}\nspec:\n  hosts: [e.example]\n  resolution: STATIC\n  ports: [{number: 80, name: http}]\n  endpoints: [{address: 10.9.0.1}, {address: 10.9.0.2, network: far}]\n";
    for (network, expected) in [(None, ["10.9.0.1:80", "10.9.0.2:80"]), (Some("far"), ["10.9.0.2:80", "10.9.0.1:80"])] {
        let labels: Vec<(&str, &str)> = network.map(|n| ("topology.istio.io/network", n)).into_iter().collect();
        let world = fixture::world(entry, &[pod("a", "one-0", [10, 0, 0, 1], &labels)]);
        let proxy = proxy(&world, "a", "one-0");
        let service = world.service("e.example").expect("the service");
        let rule = MergedRule::lookup_for(&world, &proxy, service);
        let mut found = endpoint::of_cluster(&world, (&proxy, &rule), Some(service), "outbound|80||e.example").localities;
        found.sort_by_key(|l| l.priority);
        let addresses: Vec<String> = found.iter().map(|l| l.endpoints[0].address.to_string()).collect();
        assert_eq!(addresses, expected, "{network:?}");
    }
}
