//! `lateen up` with sidecars: their life, and what happens to traffic when pods, sidecars and the control plane come and go.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as the tests do")]

mod common;

use std::process::{Child, Stdio};

use common::{Mesh, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const SHOP: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: STRICT}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web, version: v1}}
    spec:
      containers:
      - name: app
        command: ["lateen", "echo", "--port", "8080"]
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /healthz, port: http}}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec:
  containers:
  - {name: app, command: ["sleep", "1000000"]}
---
apiVersion: v1
kind: Pod
metadata: {name: plain, namespace: shop, labels: {sidecar.istio.io/inject: "false"}}
spec:
  containers:
  - {name: app, command: ["sleep", "1000000"]}
"#;

fn load(mesh: &Mesh) -> Child {
    mesh.command(&["exec", "-n", "shop", "client", "--", "lateen", "echo", "get", "http://web/", "--fail"])
        .args(["-c", "4", "--rate", "200", "--duration", "60s"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Ends the load and checks that every request was answered, and that there were some.
fn end(load: Child) {
    kill(Pid::from_raw(i32::try_from(load.id()).unwrap()), Signal::SIGINT).unwrap();
    let out = load.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    let answered = text.lines().find_map(|l| l.strip_prefix("status")).unwrap_or_default().trim();
    assert!(out.status.success() && answered.starts_with("200: ") && !answered.contains("  "), "{text}");
}

fn pid_of(status: &Value, pod: &str) -> i32 {
    let pods = status["pods"].as_array().unwrap();
    let pod = pods.iter().find(|p| p["name"].as_str().unwrap().starts_with(pod)).unwrap();
    i32::try_from(pod["proxy_pid"].as_i64().unwrap()).unwrap()
}

#[test]
fn a_pod_scaled_away_or_replaced_under_load_loses_no_request() {
    let mut mesh = Mesh::start(SHOP);
    mesh.wait_ready(4);
    let load = load(&mesh);
    mesh.write(&SHOP.replace("replicas: 2", "replicas: 4"));
    mesh.wait_ready(6);
    mesh.write(&SHOP.replace("replicas: 2", "replicas: 1"));
    mesh.wait_ready(3);
    let v2 = SHOP.replace("replicas: 2", "replicas: 3").replace("version: v1", "version: v2");
    mesh.write(&v2);
    mesh.wait("the new version alone", |pods| {
        let web: Vec<&Value> = pods.iter().filter(|p| p["labels"]["app"] == "web").collect();
        web.len() == 3 && web.iter().all(|p| p["ready"] == true && p["labels"]["version"] == "v2")
    });
    end(load);
    assert_eq!(mesh.stop(), 0);
}

#[test]
fn sidecars_and_the_control_plane_come_back_and_traffic_goes_on() {
    let mut mesh = Mesh::start(SHOP);
    mesh.wait_ready(4);
    let synced = |pods: &[Value]| {
        let injected = |p: &&Value| p["name"] != "plain";
        pods.iter().filter(injected).all(|p| {
            let xds = p["xds"].as_object().unwrap();
            xds.contains_key("CDS") && xds.contains_key("LDS") && xds.values().all(|s| s == "synced")
        })
    };
    let status = mesh.wait("everything is synced", synced);
    let plain = status["pods"].as_array().unwrap().iter().find(|p| p["name"] == "plain").unwrap();
    assert!(plain["proxy_pid"].is_null() && plain["xds"].as_object().unwrap().is_empty());
    let (text, code) = mesh.sh("shop", "plain", "lateen echo get http://web/ --fail");
    assert_ne!(code, 0, "plain text must not get through: {text}");

    let load = load(&mesh);
    let control = i32::try_from(status["control"]["pid"].as_i64().unwrap()).unwrap();
    kill(Pid::from_raw(control), Signal::SIGKILL).unwrap();
    eventually("another control plane", || {
        let status = mesh.status()?;
        let other = status["control"]["ready"] == true && status["control"]["pid"].as_i64() != Some(control.into());
        other.then_some(())
    });
    mesh.wait("sidecars are connected again", synced);
    end(load);

    let victim = pid_of(&status, "web-");
    kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap();
    mesh.wait("another sidecar", |pods| {
        pods.len() == 4 && pods.iter().all(|p| p["ready"] == true && p["proxy_pid"].as_i64() != Some(victim.into()))
    });
    let (text, code) = mesh.sh("shop", "client", "lateen echo get http://web/ --fail -n 20");
    assert_eq!(code, 0, "{text}");
}

#[test]
fn an_application_sees_neither_the_sidecars_credentials_nor_its_files() {
    let mut mesh = Mesh::start(SHOP);
    mesh.wait_ready(4);
    let (text, code) = mesh.sh("shop", "client", "find / -xdev -name istio-token 2>/dev/null; ls -A /.lateen/proxy");
    assert_eq!((text.as_str(), code), ("", 0));
    // Its traffic cannot get round the sidecar: all that it sends is captured.
    let (text, _) = mesh.sh("shop", "client", "lateen echo get http://web/ --fail -o json");
    assert!(text.contains("x-envoy-upstream-service-time") || text.contains("istio-envoy") || text.contains("\"200\""), "{text}");
}
