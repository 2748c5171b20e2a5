//! Settings of the mesh as a whole that no scenario of the comparison can have, because it has settings of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Mesh, eventually};

const MESH: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    inboundTrafficPolicy: {mode: LOCALHOST}
    discoverySelectors: [{matchLabels: {mesh: member}}]
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled, mesh: member}}
---
apiVersion: v1
kind: Namespace
metadata: {name: elsewhere, labels: {mesh: MEMBERSHIP}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
# It listens on loopback alone.
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec:
  containers:
  - {name: app, command: [lateen, echo, --host, 127.0.0.1, --port, "8080"]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec:
  containers:
  - {name: app, command: [sleep, "1000000"]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: far, namespace: elsewhere}
spec: {hosts: [far.example.com], resolution: STATIC, ports: [{number: 80, name: http}], endpoints: [{address: 10.9.9.9}]}
"#;

/// The sidecar resolves the names that its control plane knows.
fn knows_far(mesh: &Mesh) -> bool {
    mesh.sh("shop", "client", "getent ahostsv4 far.example.com").1 == 0
}

#[test]
fn loopback_applications_and_selected_namespaces() {
    let mut mesh = Mesh::start(&MESH.replace("MEMBERSHIP", "none"));
    mesh.wait_ready(2);
    eventually("an answer of the application", || {
        let (text, code) = mesh.sh("shop", "client", "lateen echo get http://web/ -n 1 --fail");
        (code == 0).then_some(text)
    });
    assert!(!knows_far(&mesh));
    mesh.write(&MESH.replace("MEMBERSHIP", "member"));
    eventually("the namespace is known", || knows_far(&mesh).then_some(()));
    mesh.write(&MESH.replace("MEMBERSHIP", "none"));
    eventually("the namespace is no longer known", || (!knows_far(&mesh)).then_some(()));
    assert_eq!(mesh.stop(), 0);
}
