//! PeerAuthentication in all its modes, at every level, seen from the mesh and from outside; and a switch under traffic.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use super::lab::Lab;
use super::stream::Wire;
use super::support::{Load, assert_all_answered, eventually};

/// A mode of mutual TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Strict,
    Permissive,
    Disable,
}
use Mode::{Disable, Permissive, Strict};

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Strict => "STRICT",
            Permissive => "PERMISSIVE",
            Disable => "DISABLE",
        }
    }
}

/// What a port of every server is declared as, its number at the service and at the application.
const PORTS: [(&str, u16, u16); 3] = [("http", 80, 8080), ("web", 81, 8081), ("tcp", 9000, 9000)];

/// A server and the policy that selects it.
struct Server {
    namespace: &'static str,
    name: &'static str,
    /// Of the workload's own policy; none inherits.
    mode: Option<Mode>,
    /// By the application's port.
    ports: &'static [(u16, Mode)],
}

const SERVERS: [Server; 8] = [
    Server { namespace: "free", name: "bare", mode: None, ports: &[] },
    Server { namespace: "free", name: "hard", mode: Some(Strict), ports: &[(8080, Permissive), (8081, Disable)] },
    Server { namespace: "strict", name: "bare", mode: None, ports: &[] },
    Server { namespace: "strict", name: "open", mode: Some(Disable), ports: &[] },
    Server { namespace: "strict", name: "soft", mode: Some(Permissive), ports: &[(9000, Strict)] },
    Server { namespace: "strict", name: "unset", mode: None, ports: &[(8081, Disable), (9000, Permissive)] },
    Server { namespace: "clear", name: "bare", mode: None, ports: &[] },
    Server { namespace: "clear", name: "hard", mode: Some(Strict), ports: &[] },
];

/// The mode of a namespace's own policy.
fn of_namespace(namespace: &str) -> Option<Mode> {
    match namespace {
        "strict" => Some(Strict),
        "clear" => Some(Disable),
        _ => None,
    }
}

/// What a client sees of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// Nothing: cut off, or refused by the client's own sidecar in the server's place.
    Nothing,
    Plain,
    Mutual,
}

impl Server {
    fn effective(&self, mesh: Option<Mode>, port: u16) -> Mode {
        let of_port = self.ports.iter().find(|(p, _)| *p == port).map(|(_, mode)| *mode);
        of_port.or(self.mode).or(of_namespace(self.namespace)).or(mesh).unwrap_or(Permissive)
    }

    fn expected(&self, mesh: Option<Mode>, port: u16, in_mesh: bool) -> Seen {
        let effective = self.effective(mesh, port);
        // Clients infer from the namespace's and the mesh's policies whether to offer TLS at all, and see of a workload's own
        // only where it is disabled.
        let inferred = of_namespace(self.namespace).or(mesh).unwrap_or(Permissive);
        let mutual = in_mesh && inferred != Disable && effective != Disable;
        match effective {
            _ if mutual => Seen::Mutual,
            Strict => Seen::Nothing,
            Permissive | Disable => Seen::Plain,
        }
    }
}

const CLIENTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec: {containers: [{name: app, command: [sleep, "1000000"]}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: legacy}
---
apiVersion: v1
kind: Pod
metadata: {name: plain, namespace: legacy}
spec: {containers: [{name: app, command: [sleep, "1000000"]}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: istio-system}
"#;

fn policy(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{{spec}}}\n"
    )
}

fn namespace(name: &str) -> String {
    let mut text =
        format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{istio-injection: enabled}}}}\n");
    if let Some(mode) = of_namespace(name) {
        text += &policy(name, "default", &format!("mtls: {{mode: {}}}", mode.name()));
    }
    text
}

fn manifest(server: &Server) -> String {
    let Server { namespace, name, mode, ports } = server;
    let mut text = format!(
        r#"---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}
spec:
  containers:
  - name: app
    command: [lateen, echo, --port, "8080", --tcp, "9000"]
    readinessProbe: {{httpGet: {{path: /healthz, port: 8080}}}}
  - name: undeclared
    command: [lateen, echo, --port, "8081"]
    readinessProbe: {{httpGet: {{path: /healthz, port: 8081}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  selector: {{app: {name}}}
  ports:
"#
    );
    for (port_name, port, target) in PORTS {
        writeln!(text, "  - {{name: {port_name}, port: {port}, targetPort: {target}}}").unwrap();
    }
    if mode.is_some() || !ports.is_empty() {
        let mut spec = format!("selector: {{matchLabels: {{app: {name}}}}}");
        if let Some(mode) = mode {
            write!(spec, ", mtls: {{mode: {}}}", mode.name()).unwrap();
        }
        if !ports.is_empty() {
            let ports: Vec<String> = ports.iter().map(|(port, mode)| format!("{port}: {{mode: {}}}", mode.name())).collect();
            write!(spec, ", portLevelMtls: {{{}}}", ports.join(", ")).unwrap();
        }
        text += &policy(namespace, name, &spec);
    }
    text
}

/// Writes the policy of the whole mesh as an editor does; none takes it away.
fn set_mesh_policy(files: &Path, mode: Option<Mode>) {
    let text = mode.map_or_else(String::new, |m| policy("istio-system", "default", &format!("mtls: {{mode: {}}}", m.name())));
    fs::write(files.join("mesh.yaml~"), text).unwrap();
    fs::rename(files.join("mesh.yaml~"), files.join("mesh.yaml")).unwrap();
}

fn start(servers: &[Server]) -> (Lab, TempDir) {
    let files = tempfile::tempdir().unwrap();
    let mut text = CLIENTS.to_owned();
    for name in ["free", "strict", "clear"] {
        if servers.iter().any(|s| s.namespace == name) {
            text += &namespace(name);
        }
    }
    servers.iter().for_each(|server| text += &manifest(server));
    fs::write(files.path().join("all.yaml"), text).unwrap();
    (Lab::start(&[files.path().to_owned()]), files)
}

/// What an HTTP client sees.
fn over_http(lab: &Lab, pod: &str, url: &str) -> Seen {
    let text = lab.sh(pod, &format!("curl -s -m 20 --fail {url} || echo null"));
    let answer: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    match answer.pointer("/headers/x-forwarded-client-cert").and_then(Value::as_str) {
        _ if answer.is_null() => Seen::Nothing,
        None => Seen::Plain,
        Some(peer) => {
            assert!(peer.contains("URI=spiffe://cluster.local/ns/shop/sa/default"), "{peer}");
            Seen::Mutual
        }
    }
}

/// What a client of lines sees; whether TLS is under it, only the sidecars know.
async fn over_tcp(lab: &Lab, pod: &str, address: &str) -> bool {
    let mut wire = lab.dial(pod, address);
    wire.send("line\n").await;
    wire.finish();
    match wire.try_rest().await {
        lines if lines == b"line\n" => true,
        other => {
            assert_eq!(other, b"", "{pod} {address}");
            false
        }
    }
}

/// How many connections the server's sidecar has seen, with mutual TLS and without.
fn connections(lab: &Lab, pod: &str) -> (f64, f64) {
    let count = |security: &str| {
        let wanted = [("reporter", "destination"), ("connection_security_policy", security)];
        lab.metric(pod, "istio_tcp_connections_closed_total", &wanted).iter().map(|(_, n)| n).sum::<f64>()
    };
    (count("mutual_tls"), count("none"))
}

#[tokio::test]
async fn every_mode_at_every_level_for_clients_inside_and_outside() {
    let (lab, files) = start(&SERVERS);
    for mesh in [None, Some(Strict), Some(Disable), Some(Permissive)] {
        set_mesh_policy(files.path(), mesh);
        for server in &SERVERS {
            let host = format!("{}.{}", server.name, server.namespace);
            let pod = format!("{}/{}", server.namespace, server.name);
            for (client, in_mesh) in [("shop/client", true), ("legacy/plain", false)] {
                for (name, port, target) in PORTS {
                    let expected = server.expected(mesh, target, in_mesh);
                    let what = format!("mesh {mesh:?}: {client} sees {expected:?} of {host}:{port} ({name})");
                    if name == "tcp" {
                        check_tcp(&lab, client, &pod, &format!("{host}:{port}"), expected, &what).await;
                    } else {
                        let mut seen = Seen::Nothing;
                        let url = format!("http://{host}:{port}/");
                        let held = eventually_bool(|| {
                            seen = over_http(&lab, client, &url);
                            seen == expected
                        });
                        assert!(held, "{what}, but saw {seen:?}");
                    }
                }
            }
        }
    }
}

/// Whether it comes true within the time that a change of configuration may take on a busy machine.
fn eventually_bool(mut check: impl FnMut() -> bool) -> bool {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !check() {
        if std::time::Instant::now() > end {
            return false;
        }
        super::support::pause();
    }
    true
}

async fn check_tcp(lab: &Lab, client: &str, pod: &str, address: &str, expected: Seen, what: &str) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let before = connections(lab, pod);
        let answered = over_tcp(lab, client, address).await;
        let seen = match answered {
            false => Seen::Nothing,
            true => {
                let mut now = before;
                eventually("the server's sidecar counts a connection", || {
                    now = connections(lab, pod);
                    (now != before).then_some(())
                });
                if now.0 > before.0 { Seen::Mutual } else { Seen::Plain }
            }
        };
        if seen == expected {
            return;
        }
        assert!(std::time::Instant::now() < end, "{what}, but saw {seen:?}");
        super::support::pause();
    }
}

#[tokio::test]
async fn a_switch_to_strict_and_back_costs_no_request_of_the_mesh() {
    let (lab, files) = start(&SERVERS[..1]);
    let plain = |port: u16| over_http(&lab, "legacy/plain", &format!("http://bare.free:{port}/"));
    for port in [80, 81] {
        let url = format!("http://bare.free:{port}/");
        eventually("the client knows its server", || (over_http(&lab, "shop/client", &url) == Seen::Mutual).then_some(()));
    }
    // Connections that stay and connections that are made anew, on a declared port and on another.
    let loads: Vec<Load> = [
        &["http://bare.free/", "-c", "16", "--rate", "80"][..],
        &["http://bare.free/", "-c", "16", "--rate", "40", "--new-connections"],
        &["http://bare.free:81/", "-c", "16", "--rate", "40"],
        &["http://bare.free:81/", "-c", "16", "--rate", "40", "--http2"],
    ]
    .iter()
    .map(|arguments| Load::start(&lab.up, "shop", "client", &[*arguments, &["--duration", "300s"]].concat()))
    .collect();
    let mut line: Wire = lab.dial("shop/client", "bare.free:9000");
    let mut said = 0;
    let mut talk = async |line: &mut Wire| {
        said += 1;
        line.send(format!("line {said}\n")).await;
        assert_eq!(line.until("\n").await, format!("line {said}\n"));
    };
    talk(&mut line).await;
    for (mode, seen) in [(Strict, Seen::Nothing), (Permissive, Seen::Plain), (Strict, Seen::Nothing), (Permissive, Seen::Plain)] {
        set_mesh_policy(files.path(), Some(mode));
        for port in [80, 81] {
            eventually(&format!("{mode:?} is in force on port {port}"), || (plain(port) == seen).then_some(()));
        }
        talk(&mut line).await;
    }
    line.finish();
    assert_eq!(line.rest().await, b"");
    for load in loads {
        assert_all_answered(&load.end(), 5);
    }
}
