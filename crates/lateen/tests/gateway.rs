//! Gateways of a running mesh, asked from this machine as people ask them: hosts, certificates by server name, clients'
//! certificates, redirects, bytes, TLS that passes through, and the way out of the mesh.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{Mesh, eventually};
use lateen_testkit::certificates::{Leaf, TestCa};

/// Pods: two gateways at the edge, a service of the mesh, one outside of it with HTTP, bytes and TLS, and a client.
const PODS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: edge}
---
apiVersion: v1
kind: Namespace
metadata: {name: outside}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: ingress, namespace: edge}
spec:
  selector: {matchLabels: {istio: ingress}}
  template:
    metadata:
      labels: {istio: ingress, sidecar.istio.io/inject: "true"}
      annotations: {inject.istio.io/templates: gateway}
    spec:
      containers:
      - {name: istio-proxy, image: auto, ports: [{name: http, containerPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: ingress, namespace: edge}
spec: {selector: {istio: ingress}, ports: [{name: http, port: 80, targetPort: http}, {name: https, port: 443, targetPort: 8443}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: egress, namespace: edge}
spec:
  selector: {matchLabels: {istio: egress}}
  template:
    metadata:
      labels: {istio: egress, sidecar.istio.io/inject: "true"}
      annotations: {inject.istio.io/templates: gateway}
    spec:
      containers:
      - {name: istio-proxy, image: auto}
---
apiVersion: v1
kind: Service
metadata: {name: egress, namespace: edge}
spec: {selector: {istio: egress}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web, version: v1}}
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
kind: Pod
metadata: {name: client, namespace: shop, labels: {app: client}}
spec:
  containers:
  - {name: app, command: ["sleep", "1000000"]}
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
        command: ["lateen", "echo", "--port", "8080"]
        readinessProbe: {httpGet: {path: /healthz, port: 8080}}
      - name: tls
        command: ["openssl", "s_server", "-accept", "8443", "-cert", "DIR/own.pem", "-key", "DIR/own.key", "-www"]
        readinessProbe: {tcpSocket: {port: 8443}}
---
apiVersion: v1
kind: Service
metadata: {name: world, namespace: outside}
spec: {selector: {app: world}, ports: [{name: http, port: 80, targetPort: 8080}, {name: tls, port: 443, targetPort: 8443}]}
---
"#;

const ROUTES: &str = r#"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: main, namespace: edge}
spec:
  selector: {istio: ingress}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ["shop/*.example.com", "./own.example.org"]}
  - port: {number: 80, name: moved, protocol: HTTP}
    hosts: [moved.example.net]
    tls: {httpsRedirect: true}
  - {port: {number: 443, name: https-a, protocol: HTTPS}, hosts: [a.example.com], tls: {mode: SIMPLE, credentialName: a-cert}}
  - port: {number: 443, name: https-b, protocol: HTTPS}
    hosts: ["*.b.example.com"]
    tls: {mode: SIMPLE, credentialName: b-cert, minProtocolVersion: TLSV1_3}
  - {port: {number: 443, name: https-m, protocol: HTTPS}, hosts: [m.example.com], tls: {mode: MUTUAL, credentialName: m-cert}}
  - port: {number: 443, name: https-n, protocol: HTTPS}
    hosts: [n.example.com]
    tls: {mode: MUTUAL, credentialName: m-cert, subjectAltNames: [good.example.com]}
  - port: {number: 443, name: https-o, protocol: HTTPS}
    hosts: [o.example.com]
    tls: {mode: OPTIONAL_MUTUAL, credentialName: m-cert}
  - {port: {number: 443, name: tls, protocol: TLS}, hosts: [own.example.com], tls: {mode: PASSTHROUGH}}
  - {port: {number: 9000, name: tcp, protocol: TCP}, hosts: ["*"]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: shop}
spec:
  hosts: ["*.example.com", own.example.org, moved.example.net]
  gateways: [edge/main]
  http:
  - {match: [{uri: {prefix: /plain}, port: 443}], directResponse: {status: 404}}
  - {route: [{destination: {host: web, port: {number: 80}}}]}
  tcp:
  - {match: [{port: 9000}], route: [{destination: {host: web, port: {number: 9000}}}]}
  tls:
  - match: [{sniHosts: [own.example.com]}]
    route: [{destination: {host: world.outside.svc.cluster.local, port: {number: 443}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: hidden, namespace: shop}
spec:
  hosts: [hidden.example.com]
  gateways: [edge/main]
  exportTo: ["."]
  http: [{directResponse: {status: 299}}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: out, namespace: edge}
spec:
  selector: {istio: egress}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: [world.outside.svc.cluster.local]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: out, namespace: shop}
spec:
  hosts: [world.outside.svc.cluster.local]
  gateways: [mesh, edge/out]
  http:
  - {match: [{gateways: [mesh]}], route: [{destination: {host: egress.edge.svc.cluster.local, port: {number: 80}}}]}
  - {match: [{gateways: [edge/out]}], route: [{destination: {host: world.outside.svc.cluster.local, port: {number: 80}}}]}
---
"#;

fn base64(text: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let letter = |n: u32| char::from(ALPHABET[usize::try_from(n & 63).unwrap()]);
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let n = chunk.iter().fold(0, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        let letters = [letter(n >> 18), letter(n >> 12), letter(n >> 6), letter(n)];
        out.extend(letters.iter().take(chunk.len() + 1));
        out.extend(std::iter::repeat_n('=', 3 - chunk.len()));
    }
    out
}

/// A Secret of the edge, in the keys of the type `kubernetes.io/tls`, or in generic ones.
fn secret(name: &str, leaf: &Leaf, roots: Option<&str>, generic: bool) -> String {
    let (cert, key, ca) = if generic { ("cert", "key", "cacert") } else { ("tls.crt", "tls.key", "ca.crt") };
    let kind = if generic { "Opaque" } else { "kubernetes.io/tls" };
    let roots = roots.map(|r| format!(", {ca}: {}", base64(r))).unwrap_or_default();
    let data = format!("{cert}: {}, {key}: {}{roots}", base64(&leaf.chain_pem), base64(&leaf.key_pem));
    format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: edge}}\ntype: {kind}\ndata: {{{data}}}\n---\n")
}

/// A mesh with gateways, and the certificates of its clients.
struct Edge {
    mesh: Mesh,
    files: tempfile::TempDir,
    manifest: String,
}

impl Edge {
    fn start() -> Self {
        let ca = TestCa::new();
        let files = tempfile::tempdir().unwrap();
        let server = |name: &str| ca.leaf().dns(name).issue();
        let put = |name: &str, text: &str| fs::write(files.path().join(name), text).unwrap();
        put("ca.pem", ca.root_pem());
        for (name, leaf) in [
            ("own", server("own.example.com")),
            ("good", ca.leaf().dns("good.example.com").issue()),
            ("other", ca.leaf().dns("other.example.com").issue()),
            ("strange", TestCa::new().leaf().dns("good.example.com").issue()),
            ("old", ca.leaf().dns("good.example.com").expired().issue()),
        ] {
            put(&format!("{name}.pem"), &leaf.chain_pem);
            put(&format!("{name}.key"), &leaf.key_pem);
        }
        let mutual = ca.leaf().dns("m.example.com").dns("n.example.com").dns("o.example.com").issue();
        let secrets = [
            secret("a-cert", &server("a.example.com"), None, false),
            secret("b-cert", &server("*.b.example.com"), None, true),
            secret("m-cert", &mutual, Some(ca.root_pem()), false),
        ];
        let manifest = PODS.replace("DIR", &files.path().display().to_string()) + ROUTES + &secrets.concat();
        open_to_all(files.path());
        let mut mesh = Mesh::start(&manifest);
        mesh.wait_ready(5);
        let edge = Self { mesh, files, manifest };
        eventually("all ports are open", || (edge.ports().len() == 4).then_some(()));
        edge
    }

    fn ports(&self) -> Vec<serde_json::Value> {
        self.mesh.status().map(|s| s["gateway_ports"].as_array().unwrap().clone()).unwrap_or_default()
    }

    /// Where a port of a gateway is reached.
    fn address(&self, workload: &str, port: u16) -> SocketAddr {
        let all = self.ports();
        let found = all.iter().find(|p| p["workload"] == workload && p["port"] == port);
        let url = found.unwrap_or_else(|| panic!("{all:?}"))["url"].as_str().unwrap().to_owned();
        assert!(self.mesh.output().contains(&format!("{url} → gateway edge/{workload}:{port}")), "{}", self.mesh.output());
        url.rsplit('/').next().unwrap().parse().unwrap()
    }

    /// `curl` on this machine; the status (0 without an answer), and all that it printed.
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
        self.curl(&format!("http://{}{path}", self.address("ingress", 80)), &["-H", &format!("host: {host}")])
    }

    fn https(&self, host: &str, path: &str, arguments: &[&str]) -> (u16, String) {
        let port = self.address("ingress", 443).port();
        let resolve = format!("{host}:{port}:127.0.0.1");
        let own = ["--cacert", "ca.pem", "--resolve", &resolve];
        self.curl(&format!("https://{host}:{port}{path}"), &[&own, arguments].concat())
    }
}

fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    for entry in fs::read_dir(path).unwrap() {
        fs::set_permissions(entry.unwrap().path(), fs::Permissions::from_mode(0o644)).unwrap();
    }
}

/// One way of a client with a certificate.
fn with<'a>(certificate: &'a str, key: &'a str) -> [&'a str; 4] {
    ["--cert", certificate, "--key", key]
}

#[test]
fn requests_from_outside() {
    let edge = Edge::start();
    plain_requests_go_by_host(&edge);
    headers_from_strangers_are_not_believed(&edge);
    redirects_to_https(&edge);
    certificates_go_by_server_name(&edge);
    clients_show_certificates(&edge);
    certificates_are_replaced_while_it_runs(&edge);
}

#[test]
fn bytes_tls_and_the_way_out() {
    let edge = Edge::start();
    bytes_are_passed_on(&edge);
    tls_passes_through(&edge);
    traffic_leaves_through_the_egress_gateway(&edge);
    a_policy_holds_at_the_gateway(&edge);
    a_bad_gateway_is_refused_alone(&edge);
}

fn plain_requests_go_by_host(edge: &Edge) {
    for (host, status) in [
        ("a.example.com", 200),
        ("any.thing.example.com", 200),
        ("A.EXAMPLE.COM:1234", 200),
        // The Gateway lets only its own namespace attach.
        ("own.example.org", 404),
        ("example.com", 404),
        ("other.org", 404),
        // Exported to its own namespace only, and the gateway is of another one: the wildcard serves it.
        ("hidden.example.com", 200),
    ] {
        let (got, text) = edge.http(host, "/plain");
        assert_eq!(got, status, "{host}: {text}");
    }
    let (_, text) = edge.http("a.example.com", "/");
    assert!(text.contains("server: istio-envoy"), "{text}");
    assert!(text.contains("\"authority\": \"a.example.com\""), "{text}");
}

fn headers_from_strangers_are_not_believed(edge: &Edge) {
    let url = format!("http://{}/", edge.address("ingress", 80));
    let forged = [
        "x-forwarded-proto: https",
        "x-envoy-upstream-rq-timeout-ms: 1",
        "x-forwarded-client-cert: By=me;URI=spiffe://cluster.local/ns/shop/sa/admin",
    ];
    let mut arguments = vec!["-H", "host: a.example.com"];
    arguments.extend(forged.iter().flat_map(|h| ["-H", h]));
    let (status, text) = edge.curl(&url, &arguments);
    assert_eq!(status, 200, "{text}");
    assert!(text.contains("\"x-forwarded-proto\": \"http\""), "{text}");
    assert!(!text.contains("ns/shop/sa/admin") && !text.contains("rq-timeout-ms"), "{text}");
    // The service's sidecar has verified the gateway.
    assert!(text.contains("URI=spiffe://cluster.local/ns/edge/sa/default"), "{text}");
}

fn redirects_to_https(edge: &Edge) {
    let (status, text) = edge.http("moved.example.net", "/a/b?c=d");
    assert_eq!(status, 301, "{text}");
    assert!(text.contains("location: https://moved.example.net/a/b?c=d"), "{text}");
}

fn certificates_go_by_server_name(edge: &Edge) {
    for (host, arguments, status) in [
        ("a.example.com", &[][..], 200),
        ("x.b.example.com", &[], 200),
        ("a.example.com", &["--tls-max", "1.2"], 200),
        // Its server wants TLS 1.3.
        ("x.b.example.com", &["--tls-max", "1.2"], 0),
        // No server has this name.
        ("c.example.com", &[], 0),
        ("a.example.com", &["--http1.1"], 200),
    ] {
        let (got, text) = edge.https(host, "/", arguments);
        assert_eq!(got, status, "{host} {arguments:?}: {text}");
    }
    let (_, text) = edge.https("a.example.com", "/", &[]);
    assert!(text.contains("HTTP/2 200"), "{text}");
    assert!(text.contains("\"x-forwarded-proto\": \"https\""), "{text}");
    // Each server has routes of its own: this host is not this certificate's.
    let (got, text) = edge.https("a.example.com", "/", &["-H", "host: x.b.example.com"]);
    assert_eq!(got, 404, "{text}");
    // `match.port` is the port that clients know.
    let (got, text) = edge.https("a.example.com", "/plain", &[]);
    assert_eq!(got, 404, "{text}");
}

fn clients_show_certificates(edge: &Edge) {
    let (good, other) = (with("good.pem", "good.key"), with("other.pem", "other.key"));
    let (strange, old) = (with("strange.pem", "strange.key"), with("old.pem", "old.key"));
    for (host, certificate, status) in [
        ("m.example.com", &good[..], 200),
        ("m.example.com", &other, 200),
        ("m.example.com", &strange, 0),
        ("m.example.com", &old, 0),
        ("m.example.com", &[], 0),
        // Only one name is allowed here.
        ("n.example.com", &good, 200),
        ("n.example.com", &other, 0),
        // A certificate is welcome, a wrong one is not.
        ("o.example.com", &good, 200),
        ("o.example.com", &[], 200),
        ("o.example.com", &strange, 0),
    ] {
        let (got, text) = edge.https(host, "/", certificate);
        assert_eq!(got, status, "{host} {certificate:?}: {text}");
    }
    let (_, text) = edge.https("m.example.com", "/", &good);
    assert!(text.contains("DNS=good.example.com"), "{text}");
    let (_, text) = edge.https("o.example.com", "/", &["-H", "x-forwarded-client-cert: DNS=good.example.com"]);
    assert!(!text.contains("good.example.com"), "{text}");
}

fn certificates_are_replaced_while_it_runs(edge: &Edge) {
    let next = TestCa::new();
    fs::write(edge.files.path().join("next.pem"), next.root_pem()).unwrap();
    let fresh = secret("a-cert", &next.leaf().dns("a.example.com").issue(), None, false);
    let before = edge.manifest.find("metadata: {name: a-cert").unwrap();
    let start = edge.manifest[..before].rfind("---\n").unwrap() + 4;
    let end = before + edge.manifest[before..].find("---\n").unwrap() + 4;
    edge.mesh.write(&format!("{}{fresh}{}", &edge.manifest[..start], &edge.manifest[end..]));
    eventually("the new certificate is shown", || {
        // Whichever it has, the port stays open. (Of two roots of one name, OpenSSL tries one.)
        let (status, text) = edge.https("a.example.com", "/", &["--insecure"]);
        assert_eq!(status, 200, "{text}");
        (edge.https("a.example.com", "/", &["--cacert", "next.pem"]).0 == 200).then_some(())
    });
    let pod = edge.mesh.status().unwrap()["pods"].as_array().unwrap().iter().find_map(|p| {
        let name = p["name"].as_str()?;
        name.starts_with("ingress-").then(|| name.to_owned())
    });
    let (dump, _) = edge.mesh.sh("edge", &pod.unwrap(), "curl -sS http://127.0.0.1:15000/config_dump");
    assert!(dump.contains("kubernetes://a-cert") && !dump.contains("PRIVATE KEY"), "{dump}");
    edge.mesh.write(&edge.manifest);
}

fn bytes_are_passed_on(edge: &Edge) {
    let mut stream = TcpStream::connect(edge.address("ingress", 9000)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(b"hello\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut got = String::new();
    stream.read_to_string(&mut got).unwrap();
    assert!(got.contains("hello"), "{got:?}");
}

fn tls_passes_through(edge: &Edge) {
    // The certificate is that of the server behind, which the gateway does not have.
    let (status, text) = edge.https("own.example.com", "/", &["--http1.1"]);
    assert_eq!(status, 200, "{text}");
    assert!(text.contains("s_server"), "{text}");
}

fn traffic_leaves_through_the_egress_gateway(edge: &Edge) {
    let (text, code) = edge.mesh.sh("shop", "client", "curl -sS -i -m 10 http://world.outside.svc.cluster.local/");
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("\"pod\": \"world-"), "{text}");
    // Only a gateway says who asked it.
    let ip = edge.mesh.status().unwrap()["pods"]
        .as_array()
        .unwrap()
        .iter()
        .find_map(|p| (p["name"] == "client").then(|| p["ip"].as_str().unwrap().to_owned()));
    assert!(text.contains(&format!("\"x-forwarded-for\": \"{}\"", ip.unwrap())), "{text}");
}

fn a_policy_holds_at_the_gateway(edge: &Edge) {
    let policy = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed, namespace: edge}
spec:
  selector: {matchLabels: {istio: ingress}}
  action: DENY
  rules: [{to: [{operation: {paths: [/closed]}}]}]
---
"#;
    edge.mesh.write(&(edge.manifest.clone() + policy));
    eventually("the policy is in force", || (edge.http("a.example.com", "/closed").0 == 403).then_some(()));
    assert_eq!(edge.http("a.example.com", "/open").0, 200);
    edge.mesh.write(&edge.manifest);
}

fn a_bad_gateway_is_refused_alone(edge: &Edge) {
    let bad = r#"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: bad, namespace: edge}
spec:
  selector: {istio: ingress}
  servers:
  - {port: {number: 444, name: https, protocol: HTTPS}, hosts: [bad.example.com]}
---
"#;
    edge.mesh.write(&(edge.manifest.clone() + bad));
    eventually("the refusal is told", || {
        edge.mesh.output().contains("spec.servers[0].tls: is required for the protocols HTTPS and TLS").then_some(())
    });
    assert_eq!(edge.http("a.example.com", "/").0, 200);
    assert_eq!(edge.ports().len(), 4);
}
