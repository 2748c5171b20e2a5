//! Automatic scope: a sidecar in a mesh of hundreds of services holds those that its application calls, learns one while the
//! first call waits, forgets what is not used, and treats nothing as unknown that the mesh knows.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fmt::Write as _;
use std::process::Stdio;

use common::{Mesh, eventually};
use lateen_testkit::certificates::TestCa;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Services that nobody calls; more than a sidecar holds without being asked.
const OTHERS: usize = 220;

/// Clients, and servers of HTTP, of HTTP whose port does not say so, of TCP and of TLS; of each pod one of a set without an
/// address of its own.
const PODS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Pod
metadata:
  name: client
  namespace: shop
spec: {containers: [{name: app, command: ["sleep", "1000000"]}]}
---
apiVersion: v1
kind: Pod
metadata:
  name: forgetful
  namespace: shop
  annotations: {proxy.istio.io/config: '{proxyMetadata: {LATEEN_AUTOMATIC_SCOPE: "true", LATEEN_AUTOMATIC_SCOPE_FORGET_AFTER: 2s}}'}
spec: {containers: [{name: app, command: ["sleep", "1000000"]}]}
---
apiVersion: v1
kind: Pod
metadata:
  name: eager
  namespace: shop
  annotations: {proxy.istio.io/config: '{proxyMetadata: {LATEEN_AUTOMATIC_SCOPE: "false"}}'}
spec: {containers: [{name: app, command: ["sleep", "1000000"]}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: set, namespace: shop}
spec:
  serviceName: set
  replicas: 2
  selector: {matchLabels: {app: set}}
  template:
    metadata: {labels: {app: set}}
    spec:
      containers:
      - name: app
        command: ["lateen", "echo", "--port", "8080", "--tcp", "9000"]
        readinessProbe: {httpGet: {path: /healthz, port: 8080}}
      - name: tls
        command: ["openssl", "s_server", "-accept", "8443", "-cert", "DIR/server.pem", "-key", "DIR/server.key", "-www"]
        readinessProbe: {tcpSocket: {port: 8443}}
---
apiVersion: v1
kind: Service
metadata: {name: set, namespace: shop}
spec:
  clusterIP: None
  selector: {app: set}
  ports: [{name: http, port: 8080}, {name: tcp, port: 9000}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: set}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: later, namespace: shop}
spec: {selector: {app: set}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: sniffed, namespace: shop}
spec: {selector: {app: set}, ports: [{name: any, port: 7000, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {selector: {app: set}, ports: [{name: tcp, port: 9000}]}
---
apiVersion: v1
kind: Service
metadata: {name: secure, namespace: shop}
spec: {selector: {app: set}, ports: [{name: tls, port: 443, targetPort: 8443}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: led, namespace: shop}
spec:
  hosts: [led.example.com]
  http: [{route: [{destination: {host: web.shop.svc.cluster.local}}]}]
---
"#;

fn manifest(dir: &str, others: usize) -> String {
    let mut text = PODS.replace("DIR", dir);
    for number in 0..others {
        let port = 80 + number % 3;
        write!(
            text,
            "apiVersion: v1\nkind: Service\nmetadata: {{name: other-{number}, namespace: shop}}\n\
             spec: {{selector: {{app: set}}, ports: [{{name: http, port: {port}, targetPort: 8080}}]}}\n---\n"
        )
        .unwrap();
    }
    text
}

struct Shop {
    mesh: Mesh,
    manifest: String,
    certificates: tempfile::TempDir,
}

impl Shop {
    fn start() -> Self {
        Self::with(OTHERS)
    }

    /// A mesh of so many other services.
    fn with(others: usize) -> Self {
        let files = tempfile::tempdir().unwrap();
        let server = TestCa::new().leaf().dns("secure.shop.svc.cluster.local").issue();
        std::fs::write(files.path().join("server.pem"), server.chain_pem).unwrap();
        std::fs::write(files.path().join("server.key"), server.key_pem).unwrap();
        let manifest = manifest(files.path().to_str().unwrap(), others);
        let mut mesh = Mesh::start(&manifest);
        mesh.wait_ready(5);
        Self { mesh, manifest, certificates: files }
    }

    fn sh(&self, pod: &str, script: &str) -> String {
        self.mesh.sh("shop", pod, script).0
    }

    /// The status of one request, which is made once.
    fn get(&self, pod: &str, url: &str) -> String {
        self.sh(pod, &format!("curl -s -m 20 -o /dev/null -w '%{{http_code}}' {url}"))
    }

    fn page(&self, pod: &str, page: &str) -> Value {
        let text = self.sh(pod, &format!("curl -s 127.0.0.1:15000{page}"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{page}: {error}: {text}"))
    }

    /// The hosts whose clusters a sidecar holds.
    fn held(&self, pod: &str) -> Vec<String> {
        let clusters = self.page(pod, "/config/clusters");
        let names = clusters.as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap().to_owned());
        let hosts = names.filter_map(|name| name.strip_prefix("outbound|").and_then(|n| n.rsplit('|').next()).map(str::to_owned));
        let mut hosts: Vec<String> = hosts.map(|host| host.replace(".shop.svc.cluster.local", "")).collect();
        hosts.sort();
        hosts.dedup();
        hosts
    }

    fn metric(&self, pod: &str, name: &str) -> f64 {
        let page = self.sh(pod, "curl -s 127.0.0.1:15000/stats/prometheus");
        let line =
            page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or_else(|| panic!("no {name}"));
        line.trim().parse().unwrap()
    }

    fn control(&self) -> Pid {
        let status = self.mesh.status().unwrap();
        Pid::from_raw(i32::try_from(status["control"]["pid"].as_i64().unwrap()).unwrap())
    }
}

#[test]
fn the_first_call_of_every_kind_succeeds_and_what_is_not_called_is_not_held() {
    let shop = Shop::start();
    assert_eq!(shop.held("client"), Vec::<String>::new());
    assert!(shop.held("eager").len() > OTHERS);

    // Each is the first of its kind, and there is no second try.
    assert_eq!(shop.get("client", "http://web/"), "200");
    assert_eq!(shop.held("client"), ["web"]);
    assert_eq!(shop.get("client", "http://sniffed:7000/"), "200");
    let line = shop.sh("client", "echo ahoy | lateen echo tcp db:9000");
    assert!(line.contains("ahoy"), "{line}");
    let name = "secure.shop.svc.cluster.local";
    let page = shop.sh("client", &format!("curl -sk -m 20 https://{name}/"));
    assert!(page.contains("TLSv1.3"), "{page}");
    let body = shop.sh("client", "curl -s -m 20 http://set-1.set:8080/");
    assert!(body.contains("\"set-1\""), "{body}");
    let line = shop.sh("client", "echo ahoy | lateen echo tcp set-0.set:9000");
    assert!(line.contains("ahoy"), "{line}");
    assert_eq!(shop.held("client"), ["db", "secure", "set", "sniffed", "web"]);

    // By an address that no name has told, and by a host that the address does not tell: routes lead elsewhere.
    let ip = shop.sh("eager", "getent ahostsv4 other-7 | head -n 1 | cut -d ' ' -f 1");
    assert_eq!(shop.get("client", &format!("http://{ip}:81/")), "200");
    assert_eq!(shop.get("client", &format!("-H 'Host: led.example.com' http://{ip}:80/")), "200");
    let held = shop.held("client");
    assert!(held.contains(&"other-7".to_owned()) && held.len() == 6, "{held:?}");

    // What the mesh does not have costs no question.
    let asked = shop.metric("client", "lateen_on_demand_lookups_total");
    assert_ne!(shop.get("client", "http://nobody.example.invalid/"), "200");
    assert_eq!(shop.get("client", &format!("-H 'Host: nobody.example.invalid' http://{ip}:81/")), "200", "on to the address");
    assert_eq!(shop.metric("client", "lateen_on_demand_lookups_total"), asked);
    assert_eq!(shop.metric("client", "lateen_on_demand_lookups_failed_total"), 0.0);
}

#[test]
fn only_what_is_held_is_pushed_and_what_is_unused_is_forgotten() {
    let shop = Shop::start();
    assert_eq!(shop.get("client", "http://web/"), "200");
    assert_eq!(shop.get("forgetful", "http://web/"), "200");
    let updates = |pod: &str, ty: &str| shop.metric(pod, &format!("lateen_xds_updates_total{{type=\"{ty}\"}}"));
    let before: Vec<f64> = ["CDS", "LDS", "RDS", "NDS"].map(|ty| updates("client", ty)).into();
    let eager = updates("eager", "CDS");

    // An edit of a service that only the eager one holds, and then of one that both do.
    let edited = shop.manifest.replace(
        "name: other-9, namespace: shop}\nspec: {selector: {app: set}",
        "name: other-9, namespace: shop}\nspec: {selector: {app: gone}",
    );
    assert_ne!(edited, shop.manifest);
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: other, namespace: shop}\n\
        spec: {host: other-9, trafficPolicy: {connectionPool: {tcp: {connectTimeout: 7s}}}}\n---\n";
    shop.mesh.write(&format!("{edited}{rule}"));
    eventually("the eager one has it", || (updates("eager", "CDS") > eager).then_some(()));
    let after: Vec<f64> = ["CDS", "LDS", "RDS", "NDS"].map(|ty| updates("client", ty)).into();
    assert_eq!(before, after, "nothing was sent");
    shop.mesh.write(&format!("{edited}{}", rule.replace("other-9", "web")));
    eventually("the one that holds it has it", || (updates("client", "CDS") > before[0]).then_some(()));

    eventually("it is forgotten", || shop.held("forgetful").is_empty().then_some(()));
    assert!(shop.metric("forgetful", "lateen_on_demand_forgotten_total") >= 1.0);
    assert_eq!(shop.get("forgetful", "http://web/"), "200");
    assert_eq!(shop.held("client"), ["web"]);

    // A Sidecar says what is held: nothing is left to be asked.
    let sidecar = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: default, namespace: shop}\n\
        spec: {egress: [{hosts: [./web.shop.svc.cluster.local, ./other-1.shop.svc.cluster.local]}]}\n---\n";
    shop.mesh.write(&format!("{}{sidecar}", shop.manifest));
    eventually("it holds what the Sidecar says", || (shop.held("client") == ["other-1", "web"]).then_some(()));
    assert_eq!(shop.get("client", "http://other-1:81/"), "200");
}

#[test]
fn without_the_control_plane_what_is_known_works_and_what_the_mesh_knows_is_not_mistaken() {
    let shop = Shop::start();
    assert_eq!(shop.get("client", "http://web/"), "200");
    let ip = shop.sh("eager", "getent ahostsv4 later | head -n 1 | cut -d ' ' -f 1");
    let control = shop.control();
    kill(control, Signal::SIGSTOP).unwrap();
    assert_eq!(shop.get("client", "http://web/"), "200");
    let refused = shop.get("client", "-H 'Host: later' http://web/");
    assert_eq!(refused, "503", "the mesh knows it: it is not sent past its policies");
    let (_, code) = shop.mesh.sh("shop", "client", &format!("curl -s -m 20 http://{ip}/"));
    assert_ne!(code, 0, "nor by its address");
    assert!(shop.metric("client", "lateen_on_demand_lookups_failed_total") >= 2.0);
    // What the mesh does not know goes where the policy says, at once.
    let world = shop.sh("eager", "getent ahostsv4 web | head -n 1 | cut -d ' ' -f 1");
    assert_eq!(shop.get("client", &format!("-H 'Host: nobody.example.invalid' http://{world}/")), "200");

    // It comes back, as itself and then as another: what was known stays known, and the next call learns.
    kill(control, Signal::SIGCONT).unwrap();
    eventually("learnt", || (shop.get("client", "http://later/") == "200").then_some(()));
    kill(control, Signal::SIGKILL).unwrap();
    assert_eq!(shop.get("client", "http://web/"), "200");
    eventually("another control plane", || {
        let status = shop.mesh.status()?;
        let other = status["control"]["pid"].as_i64() != Some(control.as_raw().into());
        (status["control"]["ready"] == true && other).then_some(())
    });
    eventually("learnt from it", || (shop.get("client", "http://other-3/") == "200").then_some(()));
    assert_eq!(shop.held("client"), ["later", "other-3", "web"]);
}

#[test]
fn a_small_mesh_is_held_from_the_start_also_when_it_grows() {
    let shop = Shop::with(3);
    assert_eq!(shop.held("client"), shop.held("eager"));
    assert!(shop.held("client").len() > 3);
    // Only who wants to learn in any mesh does.
    assert_eq!(shop.held("forgetful"), Vec::<String>::new());

    shop.mesh.write(&manifest(shop.certificates.path().to_str().unwrap(), OTHERS));
    eventually("the services that are new", || (shop.held("client").len() > OTHERS).then_some(()));
    assert_eq!(shop.metric("client", "lateen_on_demand_lookups_total"), 0.0);

    // One that comes to the mesh as it is now learns. What it held goes, and nothing fails that is called meanwhile.
    let load = ["exec", "-n", "shop", "client", "--", "lateen", "echo", "get", "http://web/", "-n", "800", "--rate", "100"];
    let load =
        shop.mesh.command(&load).args(["-c", "4", "--timeout", "20s", "-o", "json"]).stdout(Stdio::piped()).spawn().unwrap();
    eventually("a request of the load", || (shop.metric("client", "lateen_requests_active") > 0.0).then_some(()));
    kill(shop.control(), Signal::SIGKILL).unwrap();
    eventually("the new control plane's answer", || (shop.held("client").len() < OTHERS).then_some(()));
    let report: Value = serde_json::from_slice(&load.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!((&report["requests"], &report["statuses"]["200"]), (&800.into(), &800.into()), "{report:#}");
    assert_eq!(shop.held("client"), ["web"]);
}
