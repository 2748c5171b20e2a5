//! What comes along with what a proxy asks for, and that it is what the proxy would hold if it held everything.

use super::fixture::{pod, proxy, world};
use super::listener::outbound::{Outbound, listeners};
use super::route::{self, RouteContext, Via};
use super::{Proxy, Scope};
use crate::world::World;
use lateen_model::dataplane::{Listener, VirtualHost};
use lateen_xds::on_demand::Question;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const MESH: &str = "
apiVersion: v1
kind: Service
metadata: {name: one, namespace: a}
spec: {clusterIP: 10.96.1.1, selector: {app: one}, ports: [{name: http, port: 80}, {name: tcp-db, port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: two, namespace: a}
spec: {clusterIP: 10.96.1.2, selector: {app: one}, ports: [{name: http, port: 80}, {name: unnamed, port: 9999}]}
---
apiVersion: v1
kind: Service
metadata: {name: three, namespace: b}
spec: {clusterIP: 10.96.1.3, selector: {app: one}, ports: [{name: grpc, port: 7070}]}
---
apiVersion: v1
kind: Service
metadata: {name: four, namespace: b}
spec: {clusterIP: 10.96.1.4, selector: {app: one}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: set, namespace: a}
spec: {clusterIP: None, selector: {app: set}, ports: [{name: http, port: 80}, {name: tcp, port: 6379}]}
---
apiVersion: v1
kind: Service
metadata: {name: alias, namespace: a}
spec: {type: ExternalName, externalName: one.a.svc.cluster.local}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: two, namespace: a}
spec:
  hosts: [two, shop.example.com]
  http:
  - match: [{uri: {prefix: /four}}]
    route: [{destination: {host: four.b.svc.cluster.local}}]
    mirror: {host: three.b.svc.cluster.local, port: {number: 7070}}
  - route: [{destination: {host: two}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wild, namespace: a}
spec: {hosts: ['*.wild.com'], resolution: NONE, ports: [{number: 80, name: http, protocol: HTTP}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: tame, namespace: a}
spec: {hosts: [tame.wild.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: tls, namespace: a}
spec: {hosts: ['*.tls.com'], resolution: NONE, ports: [{number: 443, name: tls, protocol: TLS}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: block, namespace: a}
spec: {hosts: [block.com], addresses: [172.16.0.0/12], resolution: NONE, ports: [{number: 9000, name: tcp, protocol: TCP}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: left, namespace: a}
spec: {hosts: [left.com], addresses: [10.7.7.7], resolution: DNS, ports: [{number: 3306, name: tcp, protocol: TCP}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: right, namespace: a}
spec: {hosts: [right.com], addresses: [10.7.7.7], resolution: DNS, ports: [{number: 3306, name: tcp, protocol: TCP}]}
";

struct Bench {
    world: World,
    proxy: Proxy,
    whole: Arc<Scope>,
}

impl Bench {
    fn new() -> Self {
        let mut set = pod("a", "set-0", [10, 0, 0, 7], &[("app", "set")]);
        (set.hostname, set.subdomain) = ("set-0".to_owned(), "set".to_owned());
        let world = world(MESH, &[pod("a", "one-0", [10, 0, 0, 1], &[("app", "one")]), set]);
        let proxy = proxy(&world, "a", "one-0");
        let whole = Arc::new(Scope::new(&world, &proxy));
        Self { world, proxy, whole }
    }

    fn learn(&self, asked: &[&str]) -> Scope {
        let questions: BTreeSet<Question> = asked.iter().map(|text| Question::of_host(text)).collect();
        Scope::learn(&self.world, &self.whole, &Arc::new(questions))
    }

    /// The hosts that the application knows.
    fn hosts(&self, asked: &[&str]) -> Vec<String> {
        let scope = self.learn(asked);
        let mut hosts: Vec<String> =
            scope.services.iter().filter(|s| !s.cluster_only).map(|s| s.service.host.to_string()).collect();
        hosts.sort();
        let short = |host: String| host.replace(".svc.cluster.local", "");
        // These are always there.
        hosts.into_iter().filter(|h| !["*.tls.com", "block.com"].contains(&h.as_str())).map(short).collect()
    }

    fn listeners(&self, scope: &Scope) -> BTreeMap<String, Listener> {
        let (all, _) = listeners(Outbound { world: &self.world, scope, proxy: &self.proxy });
        all.into_iter().map(|l| (l.name.clone(), l)).collect()
    }

    fn virtual_hosts(&self, scope: &Scope, name: &str) -> BTreeMap<String, VirtualHost> {
        let context = RouteContext { world: &self.world, scope, proxy: &self.proxy, via: Via::Mesh };
        route::of_name(context, name).virtual_hosts.into_iter().map(|v| (v.name.clone(), v)).collect()
    }
}

#[test]
fn what_comes_along() {
    let bench = Bench::new();
    for (asked, expected) in [
        (&[][..], &[][..]),
        (&["one.a.svc.cluster.local"], &["one.a"]),
        (&["one"], &["one.a"]),
        (&["three.b"], &["three.b"]),
        (&["10.96.1.3"], &["three.b"]),
        (&["nobody.example.com"], &[]),
        // A route's destinations are clusters only, and its own host comes whole.
        (&["two"], &["two.a"]),
        (&["shop.example.com"], &["two.a"]),
        (&["alias"], &["alias.a", "one.a"]),
        // By its address a pod tells its service.
        (&["10.0.0.7"], &["set.a"]),
        (&["set-0.set"], &["set.a"]),
        // What is more specific comes with the wildcard, and the wildcard with a name under it.
        (&["x.wild.com"], &["*.wild.com", "tame.wild.com"]),
        (&["*.wild.com"], &["*.wild.com", "tame.wild.com"]),
        // Who has the address is decided among all who have it.
        (&["right.com"], &["left.com", "right.com"]),
        (&["10.7.7.7"], &["left.com", "right.com"]),
    ] {
        assert_eq!(bench.hosts(asked), expected, "{asked:?}");
    }
    let led_to: Vec<String> =
        bench.learn(&["two"]).services.iter().filter(|s| s.cluster_only).map(|s| s.service.host.to_string()).collect();
    assert_eq!(led_to, ["three.b.svc.cluster.local", "four.b.svc.cluster.local"]);
}

#[test]
fn what_was_learnt_is_what_would_be_held_anyway() {
    let bench = Bench::new();
    let asked =
        ["one", "two", "three.b", "four.b", "set-0.set", "alias", "x.wild.com", "tame.wild.com", "right.com", "shop.example.com"];
    let everything = bench.listeners(&bench.whole);
    let routes = ["80", "7070", "two.a.svc.cluster.local:9999"];
    for first in asked {
        for second in asked {
            let scope = bench.learn(&[first, second]);
            for (name, listener) in bench.listeners(&scope) {
                assert_eq!(Some(&listener), everything.get(&name), "{name} of {first}, {second}");
            }
            for route in routes {
                let whole = bench.virtual_hosts(&bench.whole, route);
                for (name, host) in bench.virtual_hosts(&scope, route) {
                    let expected = &whole[&name];
                    assert_eq!(host.routes, expected.routes, "{name} of {first}, {second}");
                    // Names that stand for a service come when they are asked for.
                    let within = host.domains.iter().all(|d| expected.domains.contains(d));
                    assert!(within && (first != "alias" || host.domains == expected.domains), "{name} of {first}, {second}");
                }
            }
        }
    }
    let all = bench.learn(&asked);
    assert_eq!(bench.listeners(&all), everything, "who has asked for all has all");
}

#[test]
fn every_port_with_http_has_its_listener_from_the_start() {
    let bench = Bench::new();
    let names: Vec<String> = bench.listeners(&bench.learn(&[])).into_keys().collect();
    // And so have those that can be told by no name and no address.
    assert_eq!(names, ["0.0.0.0_443", "0.0.0.0_7070", "0.0.0.0_80", "0.0.0.0_9000", "virtualOutbound"]);
    let hosts: Vec<String> = bench.virtual_hosts(&bench.learn(&[]), "80").into_keys().collect();
    assert_eq!(hosts, ["allow_any"]);
}

#[test]
fn answers_name_what_serves_them() {
    let bench = Bench::new();
    let answer = |text: &str| bench.whole.answer(&bench.world, &Question::of_host(text));
    let hosts = answer("two").expect("known").iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(hosts, ["two.a.svc.cluster.local", "three.b.svc.cluster.local", "four.b.svc.cluster.local"]);
    assert_eq!(answer("nobody.example.com"), None);
    assert_eq!(answer("192.0.2.1"), None);
}

#[test]
fn the_index_knows_all_that_can_be_asked_for() {
    let bench = Bench::new();
    let hosts: Vec<String> = bench.whole.known_hosts().collect();
    for host in
        ["one.a.svc.cluster.local", "*.set.a.svc.cluster.local", "shop.example.com", "*.wild.com", "alias.a.svc.cluster.local"]
    {
        assert!(hosts.iter().any(|h| h == host), "{host} in {hosts:?}");
    }
    let addresses = bench.whole.known_addresses(&bench.world);
    for ip in ["10.96.1.3", "10.0.0.7", "10.7.7.7"] {
        assert!(addresses.contains(&ip.parse().expect("an address")), "{ip} in {addresses:?}");
    }
    assert!(!addresses.contains(&"10.0.0.1".parse().expect("an address")), "a pod behind an address");
}
