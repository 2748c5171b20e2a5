//! Both ways of capture give applications the same: what is asked of one is asked of the other. Where this
//! process may not load eBPF programs, `lateen up` has to say so and use nftables.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::process::id;

use lateen_testkit::lab::{LateenUp, MeshStatus};
use support::{assert_all_answered, curl, eventually, lateen, requests};

const MANIFESTS: &str = r#"
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
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: tcp, port: 9000, targetPort: 9000}
---
apiVersion: v1
kind: Pod
metadata:
  name: web
  namespace: shop
  labels: {app: web}
  annotations: {traffic.sidecar.istio.io/excludeInboundPorts: "8081"}
spec:
  containers:
  - name: app
    command: [lateen, echo, --port, "8080", --tcp, "9000"]
    readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
  - name: open
    command: [lateen, echo, --port, "8081"]
    readinessProbe: {httpGet: {path: /healthz, port: 8081}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec:
  containers:
  - {name: app, command: [sleep, "1000000"]}
---
apiVersion: v1
kind: Pod
metadata:
  name: evading
  namespace: shop
  annotations: {traffic.sidecar.istio.io/excludeOutboundPorts: "8080"}
spec:
  containers:
  - {name: app, command: [sleep, "1000000"]}
---
apiVersion: v1
kind: Pod
metadata:
  name: by-interface
  namespace: shop
  annotations: {traffic.sidecar.istio.io/excludeInterfaces: "eth7"}
spec:
  containers:
  - {name: app, command: [sleep, "1000000"]}
---
apiVersion: v1
kind: Pod
metadata: {name: plain, namespace: shop, labels: {sidecar.istio.io/inject: "false"}}
spec:
  containers:
  - {name: app, command: [sleep, "1000000"]}
"#;

/// A mesh with a way of capture.
struct Mesh {
    up: LateenUp,
    status: MeshStatus,
    _files: tempfile::TempDir,
}

impl Mesh {
    fn start(way: &str, environment: &[(&str, &str)]) -> Self {
        let files = tempfile::TempDir::with_prefix("lateen-capture-").unwrap();
        fs::write(files.path().join("all.yaml"), MANIFESTS).unwrap();
        let name = format!("c{}-{way}", id());
        let up = LateenUp::start_with(&lateen(), &name, &[files.path()], environment).unwrap_or_else(|e| panic!("{e}"));
        let status = up.status().unwrap();
        Self { up, status, _files: files }
    }

    fn sh(&self, pod: &str, script: &str) -> String {
        let out = self.up.exec("shop", pod, &["sh", "-c", script]).unwrap();
        assert!(out.status.success(), "{pod}: {script}: {out:?}");
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }

    fn ip(&self, pod: &str) -> &str {
        &self.status.pod("shop", pod).unwrap().ip
    }

    /// Asks everything.
    fn check(&self) {
        self.requests_and_names();
        self.bytes();
        self.policies();
        self.restart();
    }

    fn requests_and_names(&self) {
        eventually("the client reaches the server", || {
            (curl(&self.up, "shop", "client", &["http://web/"]).status == 200).then_some(())
        });
        assert_all_answered(&requests(&self.up, "shop", "client", &["http://web/", "-n", "300", "-c", "8"]), 300);
        let anew = ["http://web/", "-n", "300", "-c", "8", "--new-connections"];
        assert_all_answered(&requests(&self.up, "shop", "client", &anew), 300);
        // A pod reaches itself, by its service (the sidecar then calls its own pod) and by the loopback.
        let own = curl(&self.up, "shop", "web", &["http://web.shop/"]);
        assert_eq!(own.status, 200, "{own:?}");
        assert_eq!(curl(&self.up, "shop", "web", &["http://127.0.0.1:8080/"]).status, 200);
        // The application sees the address that it asked for, and its own.
        let seen = self.sh("client", "curl -s -o /dev/null -w '%{remote_ip}:%{remote_port} %{local_ip}' http://web/");
        let service = self.sh("client", "getent hosts web | cut -d' ' -f1");
        assert_eq!(seen, format!("{service}:80 {}", self.ip("client")));
        // The sidecar sees whose request it is.
        let page = self.sh("client", "curl -s http://127.0.0.1:15090/stats/prometheus");
        assert!(page.contains("destination_service=\"web.shop.svc.cluster.local\""), "{page}");
    }

    fn bytes(&self) {
        // More than all buffers on the way hold, echoed; the end of one direction goes before the other's.
        let lines = "seq 1 900000";
        let sent = self.sh("client", &format!("{lines} | cksum"));
        let got = self.sh("client", &format!("{lines} | lateen echo tcp web:9000 | cksum"));
        assert_eq!(got, sent);
        // A body that is larger than they, up, and an answer to it.
        let script =
            "head -c 20000000 /dev/zero | curl -s -o /dev/null -w '%{http_code} %{size_upload}' --data-binary @- http://web/";
        assert_eq!(self.sh("client", script), "200 20000000");
        // Nobody listens, and nobody is there.
        let refused = curl(&self.up, "shop", "client", &["http://web:81/"]);
        assert_ne!(refused.status, 200, "{refused:?}");
    }

    fn policies(&self) {
        let of_web = |port: u16| format!("http://{}:{port}/", self.ip("web"));
        // Strict mTLS: nobody without a sidecar, nobody past it; but the port that is left out is open.
        for pod in ["plain", "evading"] {
            assert_eq!(curl(&self.up, "shop", pod, &[&of_web(8080)]).status, 0, "{pod} got through");
            assert_eq!(curl(&self.up, "shop", pod, &[&of_web(8081)]).status, 200, "{pod}");
        }
        assert_eq!(curl(&self.up, "shop", "evading", &["http://web/"]).status, 200);
        assert_eq!(curl(&self.up, "shop", "by-interface", &["http://web/"]).status, 200);
    }

    /// A sidecar that is killed comes back and captures again; meanwhile nothing goes past it.
    fn restart(&self) {
        for pod in ["web", "client"] {
            let before = self.up.status().unwrap().pod("shop", pod).unwrap().proxy_pid.unwrap();
            let pid = nix::unistd::Pid::from_raw(i32::try_from(before).unwrap());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
            eventually("another sidecar that serves", || {
                let plain = curl(&self.up, "shop", "plain", &[&format!("http://{}:8080/", self.ip("web"))]);
                assert_eq!(plain.status, 0, "plain text got through");
                let other = self.up.status().ok()?.pod("shop", pod)?.proxy_pid?;
                (other != before && curl(&self.up, "shop", "client", &["http://web/"]).status == 200).then_some(())
            });
        }
        assert_all_answered(&requests(&self.up, "shop", "client", &["http://web/", "-n", "100"]), 100);
    }

    fn capture(&self, pod: &str) -> (String, String) {
        let capture = self.status.pod("shop", pod).unwrap().capture.clone().unwrap();
        (capture.method, capture.reason)
    }
}

#[test]
fn by_nftables() {
    let mesh = Mesh::start("nft", &[("LATEEN_CAPTURE", "nftables")]);
    assert_eq!(mesh.capture("client"), ("nftables".to_owned(), "asked for by `--capture nftables`".to_owned()));
    assert_eq!(mesh.status.pod("shop", "plain").unwrap().capture, None);
    mesh.check();
}

/// Whether eBPF is used where it is left to choice; else the reason has been checked.
fn has_ebpf(mesh: &Mesh) -> bool {
    let (method, reason) = mesh.capture("client");
    let why = ["eBPF needs root", "eBPF needs a cgroup2"];
    assert!(method == "ebpf" || why.iter().any(|w| reason.starts_with(w)), "{method}: {reason}");
    method == "ebpf"
}

#[test]
fn by_ebpf_where_it_is_allowed() {
    let mesh = Mesh::start("ebpf", &[]);
    if has_ebpf(&mesh) {
        assert_eq!(mesh.capture("web"), ("ebpf".to_owned(), String::new()));
        // What eBPF does not do, nftables does, for that pod alone.
        let by_interface = mesh.capture("by-interface");
        assert_eq!(by_interface, ("nftables".to_owned(), "rules for interfaces need nftables".to_owned()));
    }
    mesh.check();
}
