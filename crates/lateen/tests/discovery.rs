//! How services find their endpoints: pods with names of their own, endpoints that somebody gives, aliases, ports by name, both
//! families of addresses; and how names are answered. Everything is asked for by real programs in real pods, with both engines.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;

use common::{Mesh, eventually};
use lateen_testkit::envoy::EnvoyBinary;

/// Pods of the mesh accept mutual TLS alone: whoever is answered is known to be of the mesh.
const PODS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: legacy}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: STRICT}}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, labels: {app: client}}
spec: {containers: [{name: app, command: [sleep, "1000000"]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: outsider, namespace: legacy, labels: {app: outsider}}
spec:
  containers:
  - {name: app, command: [lateen, echo, --port, "8080", --tcp, "9000"], readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: None
  ipFamilyPolicy: PreferDualStack
  selector: {app: web}
  ports: [{name: http, port: 8080}, {name: tcp, port: 9000}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web, namespace: shop}
spec:
  serviceName: web
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: app
        command: [lateen, echo, --port, "8080", --tcp, "9000"]
        ports: [{name: web, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
---
"#;

/// What needs the addresses of pods.
const MORE: &str = r#"
# Two pods with the same port under different numbers.
apiVersion: v1
kind: Pod
metadata: {name: named-a, namespace: shop, labels: {app: named}}
spec:
  containers:
  - name: app
    command: [lateen, echo, --port, "8080"]
    ports: [{name: web, containerPort: 8080}]
    readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: named-b, namespace: shop, labels: {app: named}}
spec:
  containers:
  - name: app
    command: [lateen, echo, --port, "8181"]
    ports: [{name: web, containerPort: 8181}]
    readinessProbe: {httpGet: {path: /healthz, port: 8181}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: named, namespace: shop}
spec: {selector: {app: named}, ports: [{name: http, port: 80, targetPort: web}]}
---
# Endpoints that somebody gives: a pod of the mesh, and one that the mesh knows nothing of.
apiVersion: v1
kind: Service
metadata: {name: given, namespace: shop}
spec: {ports: [{name: http, port: 80}, {name: tcp, port: 9000}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: given-1, namespace: shop, labels: {kubernetes.io/service-name: given}}
addressType: IPv4
endpoints: [{addresses: [WEB], targetRef: {kind: Pod, name: web-0, namespace: shop}}]
ports: [{name: http, port: 8080}, {name: tcp, port: 9000}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: given-2, namespace: shop, labels: {kubernetes.io/service-name: given}}
addressType: IPv4
endpoints: [{addresses: [OUTSIDER], conditions: {ready: true}}, {addresses: [192.0.2.1], conditions: {ready: false}}]
ports: [{name: http, port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: old, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: old, namespace: shop}
subsets: [{addresses: [{ip: OUTSIDER}], notReadyAddresses: [{ip: 192.0.2.1}], ports: [{name: http, port: 8080}]}]
---
# Aliases: of a service, of an alias, and of a name of the world outside.
apiVersion: v1
kind: Service
metadata: {name: alias, namespace: shop}
spec: {type: ExternalName, externalName: named.shop.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: again, namespace: shop}
spec: {type: ExternalName, externalName: alias.shop.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: abroad, namespace: shop}
spec: {type: ExternalName, externalName: api.example.com}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api, namespace: shop}
spec:
  hosts: [api.example.com]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}, {number: 9000, name: tcp, protocol: TCP}]
  endpoints: [{address: OUTSIDER}]
---
# The same TCP port of another host: told apart by the address that each is given.
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: dead, namespace: shop}
spec:
  hosts: [dead.example.com]
  resolution: STATIC
  ports: [{number: 9000, name: tcp, protocol: TCP}]
  endpoints: [{address: 192.0.2.1}]
---
# Known to nobody in this namespace.
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: private, namespace: legacy}
spec:
  hosts: [private.example.com]
  exportTo: ["."]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: OUTSIDER}]
---
# A pod that is never ready, published all the same.
apiVersion: v1
kind: Pod
metadata: {name: late, namespace: legacy, labels: {app: late}}
spec:
  containers:
  - {name: app, command: [lateen, echo, --port, "8080"], readinessProbe: {exec: {command: ["false"]}}}
---
apiVersion: v1
kind: Service
metadata: {name: late, namespace: legacy}
spec: {selector: {app: late}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: early, namespace: legacy}
spec: {publishNotReadyAddresses: true, selector: {app: late}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
# Both families.
apiVersion: v1
kind: Service
metadata: {name: dual, namespace: shop}
spec: {ipFamilyPolicy: PreferDualStack, selector: {app: named}, ports: [{name: http, port: 80, targetPort: web}]}
---
"#;

struct World {
    mesh: Mesh,
    manifests: String,
}

impl World {
    fn start(options: &[String]) -> Self {
        let mut mesh = Mesh::start_with(PODS, options);
        let status = mesh.wait_ready(5);
        let ip = |name: &str| {
            let pod = status["pods"].as_array().unwrap().iter().find(|p| p["name"] == name).unwrap();
            pod["ip"].as_str().unwrap().to_owned()
        };
        let manifests = format!("{PODS}{}", MORE.replace("WEB", &ip("web-0")).replace("OUTSIDER", &ip("outsider")));
        mesh.write(&manifests);
        mesh.wait("seven ready pods and one that is not", |pods| {
            pods.len() == 8 && pods.iter().all(|p| (p["ready"] == true) != (p["name"] == "late"))
        });
        Self { mesh, manifests }
    }

    /// Runs curl in the client's pod; status and body.
    fn get(&self, arguments: &str) -> (u16, String) {
        let (text, _) = self.mesh.sh("shop", "client", &format!("curl -s -m 10 -w '\\n%{{http_code}}' {arguments}"));
        let (body, status) = text.rsplit_once('\n').unwrap_or(("", &text));
        (status.trim().parse().unwrap_or(0), body.to_owned())
    }

    /// The pod that answers.
    fn who(&self, arguments: &str) -> Option<String> {
        let (status, body) = self.get(arguments);
        let answer: serde_json::Value = serde_json::from_str(&body).ok().filter(|_| status == 200)?;
        Some(answer["pod"].as_str().unwrap_or_else(|| panic!("{answer:#}")).to_owned())
    }

    /// Waits until every one of these pods, and no other, has answered.
    fn answered_by(&self, arguments: &str, pods: &[&str]) {
        let mut seen = BTreeSet::new();
        eventually(&format!("{arguments} is answered by {pods:?}"), || {
            seen.extend(self.who(arguments));
            assert!(seen.iter().all(|pod| pods.contains(&pod.as_str())), "{arguments}: {seen:?}");
            (seen.len() == pods.len()).then_some(())
        });
    }

    fn refused(&self, arguments: &str) {
        eventually(&format!("{arguments} is refused"), || self.who(arguments).is_none().then_some(()));
    }

    /// What a TCP server sends back.
    fn tcp(&self, address: &str) -> String {
        self.mesh.sh("shop", "client", &format!("echo ahoy | timeout 10 lateen echo tcp {address}")).0
    }

    fn resolve(&self, namespace: &str, pod: &str, database: &str, name: &str) -> BTreeSet<String> {
        let (text, _) = self.mesh.sh(namespace, pod, &format!("getent {database} {name}"));
        text.lines().filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
    }
}

#[test]
fn services_find_their_endpoints() {
    discovered(&World::start(&[]));
}

#[test]
fn a_real_envoy_finds_the_same() {
    let envoy = EnvoyBinary::locate().unwrap();
    discovered(&World::start(&[format!("--sidecar=envoy={}", envoy.path().display())]));
}

fn discovered(world: &World) {
    pods_with_names(world);
    given(world);
    aliases(world);
    ports_and_readiness(world);
    names(world);
    if std::path::Path::new("/proc/sys/net/ipv6").exists() {
        both_families(world);
    }
}

fn pods_with_names(world: &World) {
    for name in ["web-1.web", "web-1.web.shop", "web-1.web.shop.svc.cluster.local"] {
        world.answered_by(&format!("http://{name}:8080/"), &["web-1"]);
    }
    world.answered_by("-4 http://web:8080/", &["web-0", "web-1", "web-2"]);
    for name in ["web-2.web", "web", "web-0.web.shop.svc.cluster.local"] {
        assert!(world.tcp(&format!("{name}:9000")).contains("ahoy"), "{name}");
    }
    // A client outside of the mesh finds the pods, which do not talk to it.
    assert_eq!(world.resolve("legacy", "outsider", "ahostsv4", "web.shop.svc.cluster.local").len(), 3);
    let (_, code) = world.mesh.sh("legacy", "outsider", "curl -s -m 5 http://web-0.web.shop:8080/");
    assert_ne!(code, 0);
    let (name, _) = world.mesh.sh("shop", "web-2", "hostname; grep -c web-2.web.shop.svc.cluster.local /etc/hosts");
    assert!(name.starts_with("web-2\n") && !name.ends_with('0'), "{name}");
}

fn given(world: &World) {
    world.answered_by("http://given/", &["web-0", "outsider"]);
    // Only one of the slices has this port.
    assert!(world.tcp("given:9000").contains("ahoy"));
    world.answered_by("http://old/", &["outsider"]);
    let (text, code) = world.mesh.sh("legacy", "outsider", "curl -s -m 5 http://old.shop/");
    assert!(code == 0 && text.contains("outsider"), "{code} {text}");
    // Who is not ready any more gets nothing.
    world.mesh.write(&world.manifests.replace("conditions: {ready: true}", "conditions: {ready: false}"));
    eventually("the outsider has left", || (0..8).all(|_| world.who("http://given/").as_deref() == Some("web-0")).then_some(()));
    world.mesh.write(&world.manifests);
    world.answered_by("http://given/", &["web-0", "outsider"]);
}

fn aliases(world: &World) {
    for name in ["alias", "again", "alias.shop.svc.cluster.local"] {
        world.answered_by(&format!("http://{name}/"), &["named-a", "named-b"]);
    }
    world.answered_by("http://abroad/", &["outsider"]);
    assert!(world.tcp("abroad:9000").contains("ahoy"));
}

fn ports_and_readiness(world: &World) {
    world.answered_by("http://named/", &["named-a", "named-b"]);
    world.answered_by("http://early.legacy/", &["late"]);
    world.refused("http://late.legacy/");
}

fn names(world: &World) {
    // By UDP, and by TCP.
    let given = world.resolve("shop", "client", "ahostsv4", "api.example.com");
    assert!(given.len() == 1 && given.first().unwrap().starts_with("240.240."), "{given:?}");
    let (text, _) = world.mesh.sh("shop", "client", "RES_OPTIONS=use-vc getent ahostsv4 api.example.com");
    assert!(text.starts_with(given.first().unwrap()), "{text}");
    // The first name that programs try is answered at once, as an alias.
    let (text, _) = world.mesh.sh("shop", "client", "getent ahostsv4 api.example.com");
    assert!(text.lines().next().unwrap().ends_with("api.example.com"), "{text}");
    // Each host of the world outside has an address of its own, by which bytes are told apart.
    assert!(world.tcp("api.example.com:9000").contains("ahoy"));
    assert!(!world.tcp("dead.example.com:9000").contains("ahoy"));
    // What the sidecar may not know has no name, and pods without one know no such names at all.
    for (namespace, pod, name) in
        [("shop", "client", "private.example.com"), ("shop", "client", "nobody.shop"), ("legacy", "outsider", "api.example.com")]
    {
        assert_eq!(world.resolve(namespace, pod, "ahosts", name), BTreeSet::new(), "{name}");
    }
}

fn both_families(world: &World) {
    for service in ["http://dual/", "http://dual.shop.svc.cluster.local/"] {
        for family in ["-4", "-6"] {
            world.answered_by(&format!("{family} {service}"), &["named-a", "named-b"]);
        }
    }
    let v4 = world.resolve("shop", "client", "ahostsv4", "web");
    let v6 = world.resolve("shop", "client", "ahostsv6", "web");
    let v6: Vec<&String> = v6.iter().filter(|ip| !ip.starts_with("::ffff:")).collect();
    assert_eq!((v4.len(), v6.len()), (3, 3), "{v4:?} {v6:?}");
    // Each by itself: which one programs take first is the system's choice.
    for ips in [v4.iter().cloned().collect::<Vec<_>>(), v6.iter().map(|ip| format!("[{ip}]")).collect()] {
        let mut seen = BTreeSet::new();
        for ip in ips {
            let what = format!("--resolve web:8080:{ip} http://web:8080/");
            seen.insert(eventually(&what, || world.who(&what)));
        }
        assert_eq!(seen, ["web-0", "web-1", "web-2"].map(str::to_owned).into());
    }
    // Bytes, to a pod's own IPv6 address, in mutual TLS.
    assert!(world.tcp(&format!("[{}]:9000", v6[0])).contains("ahoy"));
}

/// The order in which the lines appear that begin with a beginning and name one of these pods.
fn order(output: &str, pods: &[&str], end: &str) -> Vec<String> {
    let named = |line: &str| pods.iter().find(|pod| line.contains(&format!("pod shop/{pod} {end}"))).map(|pod| (*pod).to_owned());
    output.lines().filter_map(named).collect()
}

#[test]
fn pods_of_a_set_come_go_and_change_in_order() {
    let mut mesh = Mesh::start(PODS);
    mesh.wait_ready(5);
    let pods = ["web-0", "web-1", "web-2"];
    assert_eq!(order(&mesh.output(), &pods, "ready"), pods);
    let names = |pods: &[serde_json::Value]| -> BTreeSet<String> {
        pods.iter().filter(|p| p["labels"]["app"] == "web").map(|p| p["name"].as_str().unwrap().to_owned()).collect()
    };

    let before = mesh.output().len();
    let changed = PODS.replace("metadata: {labels: {app: web}}", "metadata: {labels: {app: web, turn: second}}");
    mesh.write(&changed);
    mesh.wait("all are of the second turn", |all| {
        let away = all.iter().filter(|p| p["labels"]["app"] == "web" && p["ready"] == true && p["terminating"] == false).count();
        assert!(away >= 2, "more than one pod is away: {all:#?}");
        let second = |p: &&serde_json::Value| p["labels"]["turn"] == "second" && p["ready"] == true;
        names(all).len() == 3 && all.iter().filter(second).count() == 3
    });
    eventually("all were told", || (order(&mesh.output()[before..], &pods, "ready").len() == 3).then_some(()));
    let output = mesh.output()[before..].to_owned();
    assert_eq!(order(&output, &pods, "gone"), ["web-2", "web-1", "web-0"], "{output}");
    assert_eq!(order(&output, &pods, "ready"), ["web-2", "web-1", "web-0"], "{output}");

    let before = mesh.output().len();
    mesh.write(&changed.replace("replicas: 3", "replicas: 1"));
    mesh.wait("one is left", |all| names(all) == BTreeSet::from(["web-0".to_owned()]));
    eventually("both have gone", || (order(&mesh.output()[before..], &pods, "gone").len() == 2).then_some(()));
    assert_eq!(order(&mesh.output()[before..], &pods, "gone"), ["web-2", "web-1"]);

    // A name under the service that nobody has any more is no name.
    let (_, code) = mesh.sh("shop", "client", "getent ahosts web-2.web");
    assert_ne!(code, 0);
    let refused = changed.replace("  replicas: 3\n", "  replicas: 3\n  volumeClaimTemplates: [{metadata: {name: data}}]\n");
    mesh.write(&refused);
    eventually("the refusal is told", || mesh.output().contains("spec.volumeClaimTemplates: are not supported").then_some(()));
}
