//! `lateen up --accelerate`: what applications see of a mesh whose kernel hands over what they and their sidecars send each other.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as the tests do")]

mod common;

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use common::{Mesh, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

const SHOP: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, labels: {app: client}}
spec: {containers: [{name: app, command: ["sleep", "1000000"]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec:
  containers:
  - {name: app, command: ["lateen", "echo", "--port", "8080", "--tcp", "9000"]}
  # Counts what a connection brings, after a while in which it reads next to nothing.
  - {name: slow, command: ["sh", "-c", "while :; do nc -l 9001 < /dev/null | (sleep 2; wc -c > DIR/counted); done"]}
  # Sends much, and says when all is gone.
  - {name: much, command: ["sh", "-c", "while :; do (head -c 100000000 /dev/zero; touch DIR/sent) | nc -N -l 9002; done"]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp, port: 9000}, {name: tcp-slow, port: 9001}, {name: tcp-much, port: 9002}]
"#;

/// A mesh, and a directory of its own where its manifest has DIR.
struct Shop {
    mesh: Mesh,
    dir: TempDir,
}

impl Shop {
    fn sh(&self, pod: &str, script: &str) -> (String, i32) {
        self.mesh.sh("shop", pod, &script.replace("DIR", self.dir.path().to_str().unwrap()))
    }
}

/// None where capture is not by eBPF or the kernel is too old; that it is said is held here.
fn shop() -> Option<Shop> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let manifest = SHOP.replace("DIR", dir.path().to_str().unwrap());
    let mut mesh = Mesh::start_with(&manifest, &["--accelerate".to_owned()]);
    let mut refused = String::new();
    eventually("a mesh, or why there is none", || {
        let output = mesh.output();
        refused = output.lines().find(|l| l.contains("--accelerate")).unwrap_or_default().to_owned();
        (!refused.is_empty() || mesh.status().is_some()).then_some(())
    });
    if !refused.is_empty() {
        assert!(refused.contains("needs capture by eBPF: eBPF needs") || refused.contains("needs Linux 6.13"), "{refused}");
        return None;
    }
    let status = mesh.wait("all pods", |pods| pods.len() == 2 && pods.iter().all(|pod| pod["ready"] == true));
    for pod in status["pods"].as_array().unwrap() {
        assert_eq!(pod["capture"]["accelerated"], true, "{pod:#}");
    }
    assert!(String::from_utf8(mesh.run(&["status"]).stdout).unwrap().contains("capture: eBPF, accelerated\n"));
    Some(Shop { mesh, dir })
}

#[test]
fn applications_see_what_they_see_without_it() {
    let Some(shop) = shop() else { return };
    let client = |script: &str| shop.sh("client", script);

    // Many small requests on connections that are kept, and past TCP.
    let (report, _) = client("lateen echo get http://web/ -n 2000 -c 8 -o json");
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["statuses"]["200"], 2000, "{report:#}");

    // Large bodies up and down, whole and in order, to readers fast and slow.
    let (sums, _) = client(
        "head -c 20000000 /dev/urandom > DIR/up
         sum() { sha256sum | cut -c1-64; }
         sum < DIR/up; curl -s --data-binary @DIR/up http://web/mirror | sum
         curl -s http://web/bytes/20000000 | sum; curl -s http://web/bytes/20000000 | (sleep 2; sum)
         curl -s --limit-rate 8M http://web/bytes/20000000 | sum",
    );
    let sums: Vec<&str> = sums.lines().collect();
    assert_eq!(sums.len(), 5, "{sums:?}");
    assert_eq!(sums[0], sums[1], "up and down");
    assert_eq!(sums[2], sums[3], "a reader that rests");
    assert_eq!(sums[2], sums[4], "a slow reader");

    // A server that does not read, and its client's end, which comes as half a close.
    assert_eq!(client("lateen echo tcp web:9001 < DIR/up; echo done").0, "done");
    eventually("all bytes at the server that rested", || (shop.sh("web", "cat DIR/counted").0 == "20000000").then_some(()));

    // A client that does not read, and its server, which has to wait.
    let rest = "sleep 6 | lateen echo tcp web:9002 | (sleep 3; touch DIR/rested; wc -c)";
    let rest = rest.replace("DIR", shop.dir.path().to_str().unwrap());
    let mut rest =
        shop.mesh.command(&["exec", "-n", "shop", "client", "--", "sh", "-c", &rest]).stdout(Stdio::piped()).spawn().unwrap();
    let sent = || shop.sh("web", "cat DIR/sent").1 == 0;
    eventually("the end of the rest", || {
        assert!(!sent(), "more than there is room for");
        (client("cat DIR/rested").1 == 0).then_some(())
    });
    let mut count = String::new();
    rest.stdout.take().unwrap().read_to_string(&mut count).unwrap();
    rest.wait().unwrap();
    assert_eq!(count.trim(), "100000000");
    assert!(sent());
    assert_eq!(client("printf 'one\\ntwo\\n' | lateen echo tcp web:9000").0.lines().count(), 2);
}

#[test]
fn a_sidecar_that_is_killed_comes_back_and_the_application_goes_on() {
    let Some(Shop { mut mesh, dir: _dir }) = shop() else { return };
    for name in ["client", "web"] {
        let load = ["exec", "-n", "shop", "client", "--", "lateen", "echo", "get", "http://web/", "-n", "600", "--rate", "200"];
        let load = mesh.command(&load).args(["-c", "4", "-o", "json"]).stdout(Stdio::piped()).spawn().unwrap();
        let status = mesh.status().unwrap();
        let pod = status["pods"].as_array().unwrap().iter().find(|pod| pod["name"] == name).unwrap().clone();
        kill(Pid::from_raw(i32::try_from(pod["proxy_pid"].as_i64().unwrap()).unwrap()), Signal::SIGKILL).unwrap();
        mesh.wait("another sidecar", |pods| {
            pods.iter().any(|p| p["name"] == name && p["ready"] == true && p["proxy_pid"] != pod["proxy_pid"])
        });
        let report = String::from_utf8(load.wait_with_output().unwrap().stdout).unwrap();
        let report: Value = serde_json::from_str(&report).unwrap();
        // What was in flight at the moment is lost; nothing hangs, and all goes on.
        assert_eq!(report["requests"], 600, "{report:#}");
        assert_eq!(mesh.sh("shop", "client", "lateen echo get http://web/ -n 50 -o json | grep -c '\"200\": *50'").0, "1");
    }
}

#[test]
fn it_is_refused_where_it_cannot_be() {
    let refused = |options: &[&str]| {
        let options: Vec<String> = options.iter().map(|&o| o.to_owned()).collect();
        let mesh = Mesh::start_with(SHOP, &options);
        eventually("a refusal", || mesh.output().lines().find(|l| l.contains("error: ")).map(str::to_owned))
    };
    let by_nftables = refused(&["--accelerate", "--capture", "nftables"]);
    assert!(by_nftables.contains("--accelerate needs capture by eBPF: asked for by `--capture nftables`"), "{by_nftables}");
    let envoy = refused(&["--accelerate", "--sidecar", "envoy=/bin/true"]);
    assert!(envoy.contains("--accelerate is for Lateen's sidecars"), "{envoy}");
}
