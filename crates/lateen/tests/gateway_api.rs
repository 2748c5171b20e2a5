//! The Kubernetes Gateway API in a running mesh: a Gateway gets proxies and a Service of its own, is reached from this machine, and
//! routes requests, calls and connections by its routes; sidecars follow routes of Services; statuses tell what became of each.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{Mesh, eventually};
use lateen_testkit::certificates::{Leaf, TestCa};
use serde_json::Value;

const PODS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: edge, labels: {team: edge}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web-v1, namespace: shop}
spec:
  selector: {matchLabels: {app: web, version: v1}}
  template:
    metadata: {labels: {app: web, version: v1}}
    spec:
      containers:
      - name: app
        command: ["lateen", "echo", "--port", "8080", "--tcp", "9000"]
        readinessProbe: {httpGet: {path: /healthz, port: 8080}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web-v2, namespace: shop}
spec:
  selector: {matchLabels: {app: web, version: v2}}
  template:
    metadata: {labels: {app: web, version: v2}}
    spec:
      containers:
      - name: app
        command: ["lateen", "echo", "--port", "8080", "--tcp", "9000"]
        readinessProbe: {httpGet: {path: /healthz, port: 8080}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp, port: 9000}]}
---
apiVersion: v1
kind: Service
metadata: {name: web-v1, namespace: shop}
spec: {selector: {app: web, version: v1}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: web-v2, namespace: shop}
spec: {selector: {app: web, version: v2}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, labels: {app: client}}
spec:
  containers:
  - {name: app, command: ["sleep", "1000000"]}
---
"#;

const GATEWAY: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: front, namespace: edge}
spec:
  gatewayClassName: istio
  tls:
    frontend:
      default: {}
      perPort:
      - {port: 8443, tls: {validation: {caCertificateRefs: [{group: "", kind: ConfigMap, name: roots}]}}}
  listeners:
  - name: http
    port: 80
    protocol: HTTP
    allowedRoutes: {namespaces: {from: All}}
  - name: https
    port: 443
    protocol: HTTPS
    hostname: "*.example.com"
    tls: {certificateRefs: [{name: cert}]}
    allowedRoutes: {namespaces: {from: All}}
  - name: mutual
    port: 8443
    protocol: HTTPS
    hostname: "*.example.com"
    tls: {certificateRefs: [{name: cert}]}
    allowedRoutes: {namespaces: {from: All}}
  - name: bytes
    port: 9000
    protocol: TCP
    allowedRoutes: {namespaces: {from: All}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{name: front, namespace: edge}]
  hostnames: [web.example.com]
  rules:
  - matches: [{path: {value: /v1}}]
    filters:
    - {type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-by, value: gateway}]}}
    backendRefs: [{name: web-v1, port: 80}]
  - matches: [{path: {value: /v2}}]
    backendRefs: [{name: web-v2, port: 80}]
  - matches: [{path: {value: /old}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
  - matches: [{path: {value: /none}}]
    backendRefs: [{name: missing, port: 80}]
  - matches: [{path: {value: /half}}]
    backendRefs: [{name: web-v1, port: 80}, {name: missing, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: bytes, namespace: shop}
spec:
  parentRefs: [{name: front, namespace: edge, sectionName: bytes}]
  rules: [{backendRefs: [{name: web, port: 9000}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: inside, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - matches: [{headers: [{name: color, value: blue}]}]
    backendRefs: [{name: web-v2, port: 80}]
  - matches: [{path: {value: /split}}]
    backendRefs: [{name: web-v1, port: 80, weight: 3}, {name: web-v2, port: 80}]
  - matches: [{path: {value: /only}}]
    backendRefs: [{name: web-v1, port: 80}]
---
"#;

/// A backend that speaks TLS, calls, and another namespace's Gateway in front of both.
const SECURE: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: plain}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, labels: {app: client}}
spec:
  containers:
  - {name: app, command: ["sleep", "1000000"]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: secure, namespace: plain}
spec:
  selector: {matchLabels: {app: secure}}
  template:
    metadata: {labels: {app: secure}}
    spec:
      containers:
      - name: app
        command: ["lateen", "echo", "--port", "8080", "--grpc", "7000", "--tls", "8443", "--tls-cert", "DIR/secure.pem", "--tls-key", "DIR/secure.key"]
        readinessProbe: {httpGet: {path: /healthz, port: 8080}}
---
apiVersion: v1
kind: Service
metadata: {name: secure, namespace: plain}
spec: {selector: {app: secure}, ports: [{name: https, port: 443, targetPort: 8443}, {name: grpc, port: 7000}, {name: tls, port: 8443}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: front, namespace: edge}
spec:
  gatewayClassName: istio
  listeners:
  - {name: http, port: 80, protocol: HTTP, hostname: secure.example.com}
  - {name: calls, port: 7070, protocol: HTTP, allowedRoutes: {kinds: [{kind: GRPCRoute}]}}
  - {name: pass, port: 6443, protocol: TLS, hostname: "*.internal", tls: {mode: Passthrough}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: secure, namespace: edge}
spec:
  parentRefs: [{name: front, sectionName: http}]
  rules: [{backendRefs: [{name: secure, namespace: plain, port: 443}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: calls, namespace: edge}
spec:
  parentRefs: [{name: front, sectionName: calls}]
  rules:
  - matches: [{method: {service: lateen.echo.v1.Echo, method: Unary}}]
    backendRefs: [{name: secure, namespace: plain, port: 7000}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: pass, namespace: edge}
spec:
  parentRefs: [{name: front, sectionName: pass}]
  hostnames: [secure.internal]
  rules: [{backendRefs: [{name: secure, namespace: plain, port: 8443}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: edge, namespace: plain}
spec:
  from:
  - {group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: edge}
  - {group: gateway.networking.k8s.io, kind: GRPCRoute, namespace: edge}
  - {group: gateway.networking.k8s.io, kind: TLSRoute, namespace: edge}
  to: [{group: "", kind: Service, name: secure}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: secure, namespace: plain}
spec:
  targetRefs: [{group: "", kind: Service, name: secure, sectionName: https}]
  validation:
    hostname: secure.internal
    caCertificateRefs: [{group: "", kind: ConfigMap, name: roots}]
---
"#;

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

/// A ConfigMap with roots of trust.
fn roots(namespace: &str, pem: &str) -> String {
    let head = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: roots, namespace: {namespace}}}\n");
    format!("{head}data:\n  ca.crt: |\n{}---\n", indented(pem))
}

fn secret(name: &str, leaf: &Leaf) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: edge}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}---\n",
        indented(&leaf.chain_pem),
        indented(&leaf.key_pem)
    )
}

struct Edge {
    mesh: Mesh,
    files: tempfile::TempDir,
    manifest: String,
}

impl Edge {
    fn start() -> Self {
        let ca = TestCa::new();
        let files = tempfile::tempdir().unwrap();
        let client = ca.leaf().dns("client.example.com").issue();
        for (name, text) in [("ca.pem", ca.root_pem()), ("client.pem", &client.chain_pem), ("client.key", &client.key_pem)] {
            fs::write(files.path().join(name), text).unwrap();
        }
        let secret = secret("cert", &ca.leaf().dns("*.example.com").issue());
        Self::of(PODS.to_owned() + GATEWAY + &secret + &roots("edge", ca.root_pem()), files, (4, 4))
    }

    /// A Gateway `front` in a mesh of so many pods, with so many ports.
    fn of(manifest: String, files: tempfile::TempDir, (pods, ports): (usize, usize)) -> Self {
        let mut mesh = Mesh::start(&manifest);
        mesh.wait_ready(pods);
        let edge = Self { mesh, files, manifest };
        eventually("all ports are open", || (edge.ports().len() == ports).then_some(()));
        eventually("the Gateway is programmed", || {
            let gateway = edge.get("gateways.gateway.networking.k8s.io", "front")?;
            (condition(&gateway["status"], "Programmed").0 == "True").then_some(())
        });
        edge
    }

    fn ports(&self) -> Vec<Value> {
        self.mesh.status().map(|s| s["gateway_ports"].as_array().unwrap().clone()).unwrap_or_default()
    }

    fn address(&self, port: u16) -> SocketAddr {
        let all = self.ports();
        let found = all.iter().find(|p| p["workload"] == "front-istio" && p["port"] == port);
        let url = found.unwrap_or_else(|| panic!("{all:?}"))["url"].as_str().unwrap().to_owned();
        url.rsplit('/').next().unwrap().parse().unwrap()
    }

    fn curl(&self, url: &str, arguments: &[&str]) -> (u16, String) {
        let out = Command::new("curl")
            .current_dir(self.files.path())
            .args(["-sS", "-i", "-m", "10", "-w", "\n%{http_code}", "--noproxy", "*", url])
            .args(arguments)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        let status = String::from_utf8_lossy(&out.stdout).lines().last().and_then(|s| s.parse().ok()).unwrap_or(0);
        (status, text)
    }

    fn http(&self, host: &str, path: &str) -> (u16, String) {
        self.curl(&format!("http://{}{path}", self.address(80)), &["-H", &format!("host: {host}")])
    }

    fn https(&self, port: u16, (host, path): (&str, &str), arguments: &[&str]) -> (u16, String) {
        let port = self.address(port).port();
        let resolve = format!("{host}:{port}:127.0.0.1");
        let own = ["--cacert", "ca.pem", "--resolve", &resolve];
        self.curl(&format!("https://{host}:{port}{path}"), &[&own, arguments].concat())
    }

    /// One object, as `lateen get` shows it to programs.
    fn get(&self, kind: &str, name: &str) -> Option<Value> {
        let out = self.mesh.run(&["get", kind, name, "-o", "json"]);
        out.status.success().then(|| serde_json::from_slice(&out.stdout).unwrap())
    }

    /// Which versions answer requests of the client inside, and how often.
    fn inside(&self, path: &str, header: &str, requests: u32) -> BTreeMap<String, u32> {
        let mut out = BTreeMap::new();
        for _ in 0..requests {
            let script = format!("curl -sS -m 10 -w '\\n%{{http_code}}' -H '{header}' http://web{path}");
            let (got, _) = self.mesh.sh("shop", "client", &script);
            *out.entry(version(&got)).or_insert(0) += 1;
        }
        out
    }
}

fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    for entry in fs::read_dir(path).unwrap() {
        fs::set_permissions(entry.unwrap().path(), fs::Permissions::from_mode(0o644)).unwrap();
    }
}

/// `v1`, `v2`, or the status of an answer that is nobody's.
fn version(answer: &str) -> String {
    for version in ["v1", "v2"] {
        if answer.contains(&format!("web-{version}-")) {
            return version.to_owned();
        }
    }
    answer.lines().last().unwrap_or_default().to_owned()
}

/// Status and reason of a condition.
fn condition(holder: &Value, type_: &str) -> (String, String) {
    let all = holder["conditions"].as_array().unwrap_or_else(|| panic!("{holder}"));
    let found = all.iter().find(|c| c["type"] == type_).unwrap_or_else(|| panic!("{holder}"));
    assert!(found["observedGeneration"].as_i64().unwrap() >= 1, "{found}");
    let text = |key: &str| found[key].as_str().unwrap().to_owned();
    (text("status"), text("reason"))
}

#[test]
fn requests_from_outside_and_inside() {
    let edge = Edge::start();
    requests_go_by_path(&edge);
    https_has_the_certificate_of_the_listener(&edge);
    bytes_are_passed_on(&edge);
    sidecars_follow_the_routes_of_a_service(&edge);
    statuses_tell_what_became_of_objects(&edge);
    an_edit_is_followed(&edge);
}

fn requests_go_by_path(edge: &Edge) {
    for (host, path, status, who) in [
        ("web.example.com", "/v1/x", 200, "v1"),
        ("web.example.com", "/v1", 200, "v1"),
        ("web.example.com", "/v2", 200, "v2"),
        // Not an element of its own.
        ("web.example.com", "/v2x", 404, "404"),
        ("web.example.com", "/", 404, "404"),
        ("other.example.com", "/v1", 404, "404"),
        ("web.example.com", "/none", 500, "500"),
    ] {
        let (got, text) = edge.http(host, path);
        assert_eq!((got, version(&text).as_str()), (status, who), "{host}{path}: {text}");
    }
    let (_, text) = edge.http("web.example.com", "/v1/x?q=1");
    assert!(text.contains("\"path\": \"/x?q=1\"") || text.contains("/x?q=1"), "{text}");
    assert!(text.contains("x-by: gateway"), "{text}");
    let (_, text) = edge.http("web.example.com", "/v1");
    assert!(text.contains("\"path\": \"/\""), "{text}");
    let (got, text) = edge.http("web.example.com", "/old/a?b=c");
    assert_eq!(got, 302, "{text}");
    assert!(text.contains("location: https://web.example.com/a?b=c"), "{text}");
    // The backend that there is not has half of the requests.
    let answers: Vec<u16> = (0..40).map(|_| edge.http("web.example.com", "/half").0).collect();
    let failed = answers.iter().filter(|s| **s == 500).count();
    assert!(answers.iter().all(|s| matches!(s, 200 | 500)) && (6..35).contains(&failed), "{answers:?}");
}

fn https_has_the_certificate_of_the_listener(edge: &Edge) {
    let (got, text) = edge.https(443, ("web.example.com", "/v2"), &[]);
    assert_eq!((got, version(&text).as_str()), (200, "v2"), "{text}");
    assert!(text.contains("\"x-forwarded-proto\": \"https\""), "{text}");
    assert_eq!(edge.https(443, ("web.example.org", "/v2"), &[]).0, 0, "no listener has this name");
    // On the other port clients show who they are.
    let own = ["--cert", "client.pem", "--key", "client.key"];
    assert_eq!(edge.https(8443, ("web.example.com", "/v2"), &own).0, 200);
    assert_eq!(edge.https(8443, ("web.example.com", "/v2"), &[]).0, 0);
}

fn bytes_are_passed_on(edge: &Edge) {
    let mut stream = TcpStream::connect(edge.address(9000)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(b"hello\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.contains("hello"), "{text:?}");
}

fn sidecars_follow_the_routes_of_a_service(edge: &Edge) {
    let only = |version: &str, count| BTreeMap::from([(version.to_owned(), count)]);
    assert_eq!(edge.inside("/any", "color: blue", 6), only("v2", 6));
    assert_eq!(edge.inside("/only/this", "a: b", 6), only("v1", 6));
    assert_eq!(edge.inside("/any", "a: b", 2), only("404", 2), "no rule matches");
    let split = edge.inside("/split", "a: b", 40);
    assert_eq!(split.values().sum::<u32>(), 40);
    assert!(split["v1"] > split["v2"] && split.len() == 2, "{split:?}");
    // The Gateway has a Service, which those inside can ask too.
    let ask = "curl -sS -m 10 -H 'host: web.example.com' http://front-istio.edge/v2";
    assert_eq!(version(&edge.mesh.sh("shop", "client", ask).0), "v2");
}

fn statuses_tell_what_became_of_objects(edge: &Edge) {
    let gateway = edge.get("gateways.gateway.networking.k8s.io", "front").unwrap();
    let status = &gateway["status"];
    assert_eq!(condition(status, "Accepted"), ("True".to_owned(), "Accepted".to_owned()));
    assert_eq!(status["addresses"][0]["value"], "front-istio.edge.svc.cluster.local");
    let attached: Vec<_> =
        status["listeners"].as_array().unwrap().iter().map(|l| l["attachedRoutes"].as_u64().unwrap()).collect();
    assert_eq!(attached, [1, 1, 1, 1]);
    let route = edge.get("httproute", "web").unwrap();
    let parent = &route["status"]["parents"][0];
    assert_eq!(parent["controllerName"], "istio.io/gateway-controller");
    assert_eq!(parent["parentRef"]["name"], "front");
    assert_eq!(condition(parent, "Accepted").0, "True");
    assert_eq!(condition(parent, "ResolvedRefs"), ("False".to_owned(), "BackendNotFound".to_owned()));
    let inside = edge.get("httproute", "inside").unwrap();
    assert_eq!(condition(&inside["status"]["parents"][0], "ResolvedRefs").0, "True");
    let class = edge.get("gatewayclass", "istio").unwrap();
    assert_eq!(condition(&class["status"], "Accepted").0, "True");
    assert!(edge.get("deployment", "front-istio").is_some() && edge.get("service", "front-istio").is_some());
    // For people.
    let yaml = String::from_utf8(edge.mesh.run(&["get", "httproute", "web", "-n", "shop", "-o", "yaml"]).stdout).unwrap();
    for line in [
        "kind: HTTPRoute",
        "  name: web",
        "status:",
        "      reason: BackendNotFound",
        "    controllerName: istio.io/gateway-controller",
    ] {
        assert!(yaml.lines().any(|l| l == line), "{line:?}\n{yaml}");
    }
    let table = String::from_utf8(edge.mesh.run(&["get", "httproutes"]).stdout).unwrap();
    assert!(table.contains("front: BackendNotFound (there is no Service shop/missing)"), "{table}");
    assert!(table.lines().any(|l| l.contains("inside") && l.ends_with("Accepted, ResolvedRefs")), "{table}");
    let nobody = edge.mesh.run(&["get", "httproute", "nobody"]);
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("there is no httproute nobody"), "{nobody:?}");
    let unknown = edge.mesh.run(&["get", "strange"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("\"strange\" is no kind"), "{unknown:?}");
}

fn an_edit_is_followed(edge: &Edge) {
    // Another port for the listener, and a route that nobody lets in any more.
    let edited = edge
        .manifest
        .replace("port: 80\n    protocol: HTTP\n    allowedRoutes: {namespaces: {from: All}}", "port: 8081\n    protocol: HTTP");
    edge.mesh.write(&edited);
    let opened = |port: u16| edge.ports().iter().any(|p| p["port"] == port);
    eventually("the other port is open", || (opened(8081) && !opened(80)).then_some(()));
    eventually("the status says that routes of other namespaces are not let in", || {
        let gateway = edge.get("gateways.gateway.networking.k8s.io", "front")?;
        let (status, listener) = (&gateway["status"], &gateway["status"]["listeners"][0]);
        (gateway["metadata"]["generation"] == 2
            && listener["attachedRoutes"] == 0
            && status["listeners"][1]["attachedRoutes"] == 1
            && condition(status, "Programmed").0 == "True")
            .then_some(())
    });
    eventually("the port answers 404", || {
        let url = format!("http://{}/v1", edge.address(8081));
        (edge.curl(&url, &["-H", "host: web.example.com"]).0 == 404).then_some(())
    });
}

#[test]
fn backends_with_tls_and_calls() {
    let (ca, files) = (TestCa::new(), tempfile::tempdir().unwrap());
    let leaf = ca.leaf().dns("secure.internal").issue();
    for (name, text) in [("ca.pem", ca.root_pem()), ("secure.pem", &leaf.chain_pem), ("secure.key", &leaf.key_pem)] {
        fs::write(files.path().join(name), text).unwrap();
    }
    open_to_all(files.path());
    let base = SECURE.replace("DIR", &files.path().display().to_string());
    let edge = Edge::of(base.clone() + &roots("plain", TestCa::new().root_pem()), files, (3, 3));

    // By other roots the backend is not believed.
    let (got, text) = edge.http("secure.example.com", "/");
    assert_eq!(got, 503, "{text}");
    edge.mesh.write(&(base + &roots("plain", ca.root_pem())));
    eventually("the backend is believed", || (edge.http("secure.example.com", "/").0 == 200).then_some(()));

    // Plain HTTP outside, TLS to the backend, which proves to be whom the policy names.
    let (got, text) = edge.http("secure.example.com", "/");
    assert_eq!(got, 200, "{text}");
    assert!(text.contains("secure-"), "{text}");
    // A sidecar does the same for its application.
    let ask = "curl -sS -m 10 -o /dev/null -w '%{http_code}' http://secure.plain:443/";
    eventually("a sidecar believes it too", || (edge.mesh.sh("shop", "client", ask).0 == "200").then_some(()));
    let policy = edge.get("backendtlspolicy", "secure").unwrap();
    let ancestor = &policy["status"]["ancestors"][0];
    assert_eq!((ancestor["ancestorRef"]["name"].as_str(), condition(ancestor, "Accepted").0.as_str()), (Some("front"), "True"));

    // Calls, by their method.
    let call = edge.mesh.command(&["status"]).get_program().to_owned();
    let url = format!("grpc://{}", edge.address(7070));
    let out = Command::new(call).args(["echo", "get", &url, "-d", "hello", "--fail"]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(text.contains("hello"), "{text}");

    // TLS that passes through to the backend's own certificate, by its name.
    let port = edge.address(6443).port();
    for (host, status) in [("secure.internal", 200), ("other.internal", 0)] {
        let (url, resolve) = (format!("https://{host}:{port}/"), format!("{host}:{port}:127.0.0.1"));
        let (got, text) = edge.curl(&url, &["--cacert", "ca.pem", "--resolve", &resolve]);
        assert_eq!(got, status, "{host}: {text}");
    }
}
