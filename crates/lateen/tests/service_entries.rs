//! Services that the platform does not know: a pod without a sidecar plays the world outside, and what a pod of the mesh asks
//! for goes there by address, by name, in TLS, or nowhere.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::path::Path;

use common::{Mesh, eventually};
use lateen_testkit::certificates::TestCa;
use lateen_testkit::envoy::EnvoyBinary;

/// The mesh's own pods, and the world: HTTP on 8080, TCP on 9000, TLS on 8443, TLS that wants a certificate on 8444.
const PODS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: outside}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, labels: {app: client}}
spec:
  containers:
  - {name: app, command: ["sleep", "1000000"]}
---
apiVersion: v1
kind: Pod
metadata: {name: vm, namespace: outside, labels: {app: vm}}
spec:
  containers:
  - {name: app, command: ["lateen", "echo", "--port", "8080"], readinessProbe: {httpGet: {path: /healthz, port: 8080}}}
---
apiVersion: v1
kind: Service
metadata: {name: world, namespace: outside}
spec: {clusterIP: None, selector: {app: world}, ports: [{name: http, port: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: world, namespace: outside}
spec:
  selector: {matchLabels: {app: world}}
  template:
    metadata: {labels: {app: world}}
    spec:
      containers:
      - name: http
        command: ["lateen", "echo", "--port", "8080", "--tcp", "9000"]
        readinessProbe: {httpGet: {path: /healthz, port: 8080}}
      - name: tls
        command: ["openssl", "s_server", "-accept", "8443", "-cert", "DIR/server.pem", "-key", "DIR/server.key", "-www"]
        readinessProbe: {tcpSocket: {port: 8443}}
      - name: mutual
        command: ["openssl", "s_server", "-accept", "8444", "-cert", "DIR/server.pem", "-key", "DIR/server.key", "-www",
          "-Verify", "2", "-verify_return_error", "-CAfile", "DIR/ca.pem"]
        readinessProbe: {tcpSocket: {port: 8444}}
---
"#;

/// What the tests add once the addresses are known.
const ENTRIES: &str = r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: static, namespace: shop}
spec:
  hosts: [static.example.com]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
  endpoints: [{address: WORLD}]
---
apiVersion: networking.istio.io/v1beta1
kind: ServiceEntry
metadata: {name: dns, namespace: shop}
spec:
  hosts: [dns.example.com]
  resolution: DNS
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 9000, name: tcp, protocol: TCP}]
  endpoints: [{address: world.outside.svc.cluster.local, ports: {http: 8080}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wild, namespace: shop}
spec:
  hosts: ["*.wild.example.org"]
  resolution: NONE
  ports: [{number: 8080, name: http, protocol: HTTP}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: secure, namespace: shop}
spec:
  hosts: [secure.example.com, other.example.com, public.example.com, mutual.example.com]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8443}, {number: 81, name: http-mutual, protocol: HTTP, targetPort: 8444}]
  endpoints: [{address: WORLD}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: secure, namespace: shop}
spec: {host: secure.example.com, trafficPolicy: {tls: {mode: SIMPLE, caCertificates: DIR/ca.pem}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: other, namespace: shop}
spec: {host: other.example.com, trafficPolicy: {tls: {mode: SIMPLE, caCertificates: DIR/ca.pem}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: public, namespace: shop}
spec: {host: public.example.com, trafficPolicy: {tls: {mode: SIMPLE}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: mutual, namespace: shop}
spec:
  host: mutual.example.com
  trafficPolicy:
    tls:
      mode: MUTUAL
      caCertificates: DIR/ca.pem
      clientCertificate: DIR/client.pem
      privateKey: DIR/client.key
      sni: secure.example.com
      subjectAltNames: [secure.example.com]
---
apiVersion: v1
kind: Service
metadata: {name: vm, namespace: shop}
spec: {selector: {app: vm}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm, namespace: shop}
spec: {address: VM, labels: {app: vm}}
---
"#;

const CLOSED: &str = r#"
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: shop}
spec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}
---
"#;

/// Certificates for `secure.example.com` and for a client, where the pods find them.
fn certificates(dir: &Path) {
    let ca = TestCa::new();
    let server = ca.leaf().dns("secure.example.com").issue();
    let client = ca.leaf().dns("client.example.com").common_name("the client").client_only().issue();
    for (file, text) in [
        ("ca.pem", ca.root_pem().to_owned()),
        ("server.pem", server.chain_pem),
        ("server.key", server.key_pem),
        ("client.pem", client.chain_pem),
        ("client.key", client.key_pem),
    ] {
        fs::write(dir.join(file), text).unwrap();
    }
}

struct World {
    mesh: Mesh,
    manifests: String,
    _certificates: tempfile::TempDir,
}

impl World {
    fn start(options: &[String]) -> Self {
        let files = tempfile::tempdir().unwrap();
        certificates(files.path());
        let dir = files.path().to_str().unwrap().to_owned();
        let pods = PODS.replace("DIR", &dir);
        let mut mesh = Mesh::start_with(&pods, options);
        let status = mesh.wait_ready(3);
        let all = status["pods"].as_array().unwrap().clone();
        let ip = |app: &str| {
            let pod = all.iter().find(|p| p["labels"]["app"] == app).unwrap_or_else(|| panic!("{status:#}"));
            pod["ip"].as_str().unwrap().to_owned()
        };
        let entries = ENTRIES.replace("DIR", &dir).replace("WORLD", &ip("world")).replace("VM", &ip("vm"));
        let manifests = format!("{pods}{entries}");
        mesh.write(&manifests);
        Self { mesh, manifests, _certificates: files }
    }

    /// Runs curl in the client's pod; status and body.
    fn get(&self, arguments: &str) -> (u16, String) {
        let (text, _) = self.mesh.sh("shop", "client", &format!("curl -s -m 10 -w '\\n%{{http_code}}' {arguments}"));
        let (body, status) = text.rsplit_once('\n').unwrap_or(("", &text));
        (status.trim().parse().unwrap_or(0), body.to_owned())
    }

    /// Waits until a request is answered so.
    fn until(&self, arguments: &str, status: u16) -> String {
        eventually(&format!("{arguments}: {status}"), || {
            let (got, body) = self.get(arguments);
            (got == status).then_some(body)
        })
    }

    fn world(&self) -> String {
        let status = self.mesh.status().unwrap();
        let pods = status["pods"].as_array().unwrap();
        pods.iter().find(|p| p["labels"]["app"] == "world").unwrap()["ip"].as_str().unwrap().to_owned()
    }
}

/// A pod whose application listens on loopback only, behind a Sidecar that says so.
const INGRESS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: shy, namespace: shop, labels: {app: shy}}
spec:
  containers:
  - {name: app, command: ["lateen", "echo", "--port", "9090", "--host", "127.0.0.1"]}
---
apiVersion: v1
kind: Service
metadata: {name: shy, namespace: shop}
spec: {selector: {app: shy}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: shy, namespace: shop}
spec:
  workloadSelector: {labels: {app: shy}}
  ingress: [{port: {number: 8080, protocol: HTTP, name: http}, defaultEndpoint: "127.0.0.1:9090"}]
---
"#;

#[test]
fn names_are_followed_and_applications_found_where_sidecars_say() {
    let world = World::start(&[]);
    world.mesh.write(&format!("{}{INGRESS}", world.manifests));
    let body = world.until("http://shy/", 200);
    assert!(body.contains("\"shy\""), "{body}");

    let first = world.until("http://dns.example.com/", 200);
    let name = |body: &str| body.split('"').find(|word| word.starts_with("world-")).unwrap_or_default().to_owned();
    // Another template makes another pod, with another address; the name's answer lives for seconds.
    let moved = world.manifests.replace("labels: {app: world}}\n    spec:", "labels: {app: world, moved: again}}\n    spec:");
    assert_ne!(moved, world.manifests);
    world.mesh.write(&moved);
    eventually("the new pod answers", || {
        let (status, body) = world.get("http://dns.example.com/");
        (status == 200 && name(&body) != name(&first)).then_some(())
    });
}

#[test]
fn the_world_outside_is_reached_as_entries_say_and_no_other_way() {
    reached(&World::start(&[]));
}

#[test]
fn a_real_envoy_reaches_the_same() {
    let envoy = EnvoyBinary::locate().unwrap();
    reached(&World::start(&[format!("--sidecar=envoy={}", envoy.path().display())]));
}

fn reached(world: &World) {
    // An address that the host was given, which the sidecar knows too.
    let body = world.until("http://static.example.com/", 200);
    assert!(body.contains("\"world-"), "{body}");
    let (resolved, _) = world.mesh.sh("shop", "client", "getent ahostsv4 static.example.com");
    assert!(resolved.starts_with("240.240."), "{resolved}");

    // Names that the sidecar resolves, over HTTP and, by the given address alone, over TCP.
    let body = world.until("http://dns.example.com/", 200);
    assert!(body.contains("\"world-"), "{body}");
    let (line, _) = world.mesh.sh("shop", "client", "echo ahoy | lateen echo tcp dns.example.com:9000");
    assert!(line.contains("ahoy"), "{line}");

    // A workload that the platform does not run, behind a service of the platform.
    let body = world.until("http://vm/", 200);
    assert!(body.contains("\"vm\""), "{body}");

    tls(world);
    registry_only(world);
}

/// The application speaks HTTP, the world TLS.
fn tls(world: &World) {
    let body = world.until("http://secure.example.com/", 200);
    assert!(body.contains("TLSv1.3"), "{body}");
    // The same server, whose certificate is for another name; and one whose issuer the system does not know.
    for host in ["other.example.com", "public.example.com"] {
        let body = world.until(&format!("http://{host}/"), 503);
        assert!(body.contains("remote connection failure"), "{host}: {body}");
    }
    let body = world.until("http://mutual.example.com:81/", 200);
    assert!(body.contains("the client"), "{body}");
    // Without a certificate the server refuses.
    world.until("http://secure.example.com:81/", 503);
}

/// What is not known is not reached, what a wildcard covers is.
fn registry_only(world: &World) {
    let ip = world.world();
    let (to_unknown, to_wild) = (
        format!("--resolve unknown.example.net:8080:{ip} http://unknown.example.net:8080/"),
        format!("--resolve a.wild.example.org:8080:{ip} http://a.wild.example.org:8080/"),
    );
    world.until(&to_unknown, 200);
    world.until(&to_wild, 200);
    world.mesh.write(&format!("{}{CLOSED}", world.manifests));
    world.until(&to_unknown, 502);
    let body = world.until(&to_wild, 200);
    assert!(body.contains("\"world-"), "{body}");
    world.until("http://static.example.com/", 200);
    // TCP to an address that nobody knows ends at once.
    let (text, code) = world.mesh.sh("shop", "client", &format!("curl -sS -m 5 -k https://{ip}:8443/"));
    assert!(matches!(code, 35 | 52 | 56), "{code}: {text}");
}
