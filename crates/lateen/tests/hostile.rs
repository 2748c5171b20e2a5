//! Hostile bytes on every port of the scenario's mesh: a clear error or a clean close, a counter, no crash, no leak, and the
//! next client is served.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use lateen_testkit::certificates::{Leaf, TestCa};
use lateen_testkit::lab::{MeshStatus, PodStatus};
use serde_json::json;
use support::wire::Capture;
use support::{FRONTEND, Mesh, PRODUCTION, assert_all_answered, eventually};

const BATCH: &str = "deploy/batch";
const CONTROL: &str = "istiod.istio-system.svc";
/// No process of the mesh may grow by more than this, whatever it is sent.
const MAX_GROWTH_KIB: u64 = 64 * 1024;

/// What came back to some bytes.
#[derive(Debug)]
struct Echo {
    bytes: Vec<u8>,
    /// Whether the other side ended the connection.
    closed: bool,
}

impl Echo {
    /// The status, if it is HTTP.
    fn status(&self) -> Option<u16> {
        let text = String::from_utf8_lossy(&self.bytes).into_owned();
        text.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()
    }
}

/// Sends bytes from a pod and leaves the connection open; returns when the other side has closed it, or after `patience`.
fn send(mesh: &Mesh, pod: &str, address: &str, bytes: &[u8], patience: Duration) -> Echo {
    let namespace = if pod == BATCH { "legacy" } else { PRODUCTION };
    let mut command = mesh.up.exec_command(namespace, pod, &["lateen", "echo", "tcp", address]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let bytes = bytes.to_vec();
    // An early refusal leaves the rest of the bytes unread.
    let writer = std::thread::spawn(move || input.write_all(&bytes).map(|()| input));
    let (sender, chunks) = channel();
    std::thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(n) = output.read(&mut chunk)
            && n > 0
            && sender.send(chunk[..n].to_vec()).is_ok()
        {}
    });
    let (mut received, deadline) = (Vec::new(), Instant::now() + patience);
    let closed = loop {
        match chunks.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(chunk) => received.extend(chunk),
            Err(end) => break end == RecvTimeoutError::Disconnected,
        }
    };
    // Ended by the other side it is over already; otherwise this drops the connection in the middle.
    let _ = child.kill();
    let _ = child.wait();
    let _ = writer.join();
    Echo { bytes: received, closed }
}

fn proxies(status: &MeshStatus) -> Vec<&PodStatus> {
    status.pods.iter().filter(|p| p.proxy_pid.is_some()).collect()
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The processes of the mesh and their memory, to be compared at the end.
struct Before {
    status: MeshStatus,
    memory: Vec<(u32, u64)>,
}

impl Before {
    fn of(mesh: &Mesh) -> Self {
        let status = mesh.status();
        let pids = proxies(&status).iter().filter_map(|p| p.proxy_pid).chain(status.control.pid).collect::<Vec<_>>();
        Self { memory: pids.into_iter().map(|pid| (pid, resident_kib(pid))).collect(), status }
    }

    /// Nothing has crashed, nothing has grown, and clients are served.
    fn is_as_before(&self, mesh: &Mesh) {
        let report = mesh.requests(FRONTEND, "http://order-service/", &["-n", "50"]);
        assert_all_answered(&report, 50);
        let reply = mesh.curl("deploy/order-service-v1", &["-X", "POST", "http://payment-service/v1/payments"]);
        assert_eq!(reply.status, 200, "{reply:?}");
        let now = mesh.status();
        assert_eq!(now.control.pid, self.status.control.pid, "the control plane is another process");
        assert!(now.control.ready);
        for pod in &self.status.pods {
            let same = now.pod(&pod.namespace, &pod.name).unwrap_or_else(|| panic!("{} is gone", pod.name));
            assert_eq!((same.proxy_pid, &same.app_pids), (pod.proxy_pid, &pod.app_pids), "{}: other processes", pod.name);
            assert!(same.ready, "{} is not ready", pod.name);
        }
        for (pid, before) in &self.memory {
            let after = resident_kib(*pid);
            assert!(after < before + MAX_GROWTH_KIB, "process {pid} has grown from {before} to {after} KiB");
        }
    }
}

fn counter(mesh: &Mesh, pod: &str, name: &str) -> f64 {
    mesh.metric(pod, name).iter().map(|(_, value)| value).sum()
}

/// A request to order-service with these further lines of the head.
fn request(lines: &str) -> Vec<u8> {
    format!("POST /hostile HTTP/1.1\r\nHost: order-service\r\n{lines}\r\n").into_bytes()
}

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn ambiguous_and_broken_requests_are_refused_by_the_sidecar_of_the_client() {
    let mesh = Mesh::start();
    let before = Before::of(&mesh);
    for pod in mesh.pods("order-service") {
        mesh.order(&pod, &json!({"fail": 500, "path": "/hostile"}));
    }
    let refused = counter(&mesh, FRONTEND, "lateen_downstream_bad_requests_total");
    let body = "abc";
    let oversized = format!("X-Big: {}\r\n", "x".repeat(200_000));
    let many: String = (0..400).map(|i| format!("X-{i}: 1\r\n")).collect();
    let heads: [(&str, Vec<u8>, u16); 17] = [
        ("length and chunks", request("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"), 400),
        ("two lengths", request("Content-Length: 3\r\nContent-Length: 4\r\n"), 400),
        ("a list of lengths", request("Content-Length: 3, 4\r\n"), 400),
        ("a signed length", request("Content-Length: +3\r\n"), 400),
        ("a negative length", request("Content-Length: -3\r\n"), 400),
        ("a length that is no number", request("Content-Length: 0x3\r\n"), 400),
        ("a length beyond all numbers", request("Content-Length: 99999999999999999999999\r\n"), 400),
        ("chunks not last", request("Transfer-Encoding: chunked, identity\r\n"), 400),
        ("an unknown coding", request("Transfer-Encoding: xchunked\r\n"), 501),
        ("no host", b"GET / HTTP/1.1\r\n\r\n".to_vec(), 400),
        ("two hosts", b"GET / HTTP/1.1\r\nHost: order-service\r\nHost: payment-service\r\n\r\n".to_vec(), 400),
        ("a space in a name", request("Bad Name: 1\r\n"), 400),
        ("a space before the colon", request("Content-Length : 3\r\n"), 400),
        ("a folded line", request("X-A: 1\r\n continued\r\n"), 400),
        ("a NUL in a value", request("X-A: a\0b\r\n"), 400),
        ("an oversized head", request(&oversized), 431),
        ("too many headers", request(&many), 431),
    ];
    let count = heads.len();
    for (what, mut bytes, status) in heads {
        bytes.extend_from_slice(body.as_bytes());
        let echo = send(&mesh, FRONTEND, "order-service:80", &bytes, PATIENCE);
        assert_eq!(echo.status(), Some(status), "{what}: {}", String::from_utf8_lossy(&echo.bytes));
        assert!(echo.closed, "{what}: the connection lives on");
    }
    let after = counter(&mesh, FRONTEND, "lateen_downstream_bad_requests_total");
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let expected = refused + count as f64;
    assert!(after >= expected, "{refused} before {count} bad requests, {after} after");
    let taken: u64 = mesh.pods("order-service").iter().map(|p| mesh.taken(p)).sum();
    assert_eq!(taken, 0, "a broken request has reached an application");

    // Broken in the body, when the head has gone on already: it ends, and never as a success.
    for chunk in ["ZZ\r\nabc\r\n", "-1\r\n", "fffffffffffffffff\r\n", "3\r\nabcd\r\n", "3;\0\r\nabc\r\n", "3\r\nabc"] {
        let mut bytes = request("Transfer-Encoding: chunked\r\n");
        bytes.extend_from_slice(chunk.as_bytes());
        let patience = if chunk.ends_with("abc") { Duration::from_millis(300) } else { PATIENCE };
        let echo = send(&mesh, FRONTEND, "order-service:80", &bytes, patience);
        let unfinished = chunk.ends_with("abc");
        // An application may answer before it has the whole body, and these refuse everything.
        let right = if unfinished { echo.status() != Some(200) } else { echo.status() == Some(400) };
        assert!(right, "{chunk:?}: {}", String::from_utf8_lossy(&echo.bytes));
        assert!(echo.closed || unfinished, "{chunk:?}: the connection lives on");
    }
    before.is_as_before(&mesh);
}

#[test]
fn plain_text_and_garbage_do_not_get_past_a_strict_sidecar() {
    let mesh = Mesh::start();
    let before = Before::of(&mesh);
    let status = mesh.status();
    let victim = status.with_label(PRODUCTION, "app", "payment-service").next().unwrap();
    mesh.order(&victim.name, &json!({"fail": 599}));
    let failed = counter(&mesh, &victim.name, "lateen_downstream_connections_failed_total");
    let hello_cut = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    let hello_lies = [&[0x16, 3, 1, 0, 5, 1, 0xff, 0xff, 0xff, 3][..], &[7; 64]].concat();
    let mut preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    preface.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    let cases: [(&str, &[u8]); 9] = [
        ("a request", b"POST /v1/payments HTTP/1.1\r\nHost: payment-service\r\nContent-Length: 0\r\n\r\n"),
        ("garbage", b"\x00\x01\x02 garbage \xff\xfe\r\n\r\n"),
        ("HTTP/2", &preface),
        ("a proxy header", b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nGET / HTTP/1.1\r\n\r\n"),
        ("a hello that lies about its length", &hello_lies),
        ("a record of no type", &[0x99, 3, 3, 0, 1, 0]),
        ("an alert first", &[0x15, 3, 3, 0, 2, 2, 0]),
        ("an empty record", &[0x16, 3, 1, 0, 0]),
        ("a record that is too long", &[0x16, 3, 1, 0xff, 0xff, 1, 0, 0, 0]),
    ];
    for (what, bytes) in cases {
        for port in [8080, 9999] {
            let echo = send(&mesh, BATCH, &format!("{}:{port}", victim.ip), bytes, PATIENCE);
            assert!(echo.status().is_none(), "{what} on {port}: {}", String::from_utf8_lossy(&echo.bytes));
            assert!(echo.closed, "{what} on {port}: the connection lives on");
        }
    }
    // Half a hello, then nothing: dropped by the client, or by time.
    for bytes in [&hello_cut[..], b"P", b"POST /v1/pay", &[0x16]] {
        let echo = send(&mesh, BATCH, &format!("{}:8080", victim.ip), bytes, Duration::from_millis(100));
        assert!(echo.bytes.is_empty(), "{bytes:?}: {echo:?}");
    }
    assert_eq!(mesh.taken(&victim.name), 0, "something has reached the application");
    mesh.reset(&victim.name);
    let after = counter(&mesh, &victim.name, "lateen_downstream_connections_failed_total");
    assert!(after >= failed + 9.0, "{failed} failed connections before, {after} after");
    before.is_as_before(&mesh);
}

/// Calls a pod's port over TLS with a certificate; curl's exit status and the HTTP status.
fn call_with(mesh: &Mesh, directory: &Path, address: &str, leaf: Option<&Leaf>) -> (i32, u16) {
    let path = |name: &str| directory.join(name).display().to_string();
    let url = format!("https://{address}/v1/payments");
    let mut arguments = vec!["-k", "-X", "POST", "--http1.1", &url];
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    if let Some(leaf) = leaf {
        fs::write(&cert, &leaf.chain_pem).unwrap();
        fs::write(&key, &leaf.key_pem).unwrap();
        arguments.extend(["--cert", &cert, "--key", &key]);
    }
    let reply = mesh.curl(BATCH, &arguments);
    (reply.exit, reply.status)
}

#[test]
fn only_certificates_of_the_mesh_that_are_valid_now_are_accepted() {
    let mesh = Mesh::start();
    let before = Before::of(&mesh);
    let status = mesh.status();
    let victim = status.with_label(PRODUCTION, "app", "payment-service").next().unwrap();
    let address = format!("{}:8080", victim.ip);
    let state = state_dir(mesh.up.name());
    let read = |name: &str| fs::read_to_string(state.join("ca").join(name)).unwrap();
    let own = TestCa::load(&read("ca-cert.pem"), &read("ca-key.pem"));
    let stranger = TestCa::new();
    let directory = tempfile::tempdir().unwrap();
    let order = "spiffe://cluster.local/ns/production/sa/order-service-sa";
    // The same way with a good certificate works: what fails below fails for its certificate alone.
    let good = own.leaf().uri(order).issue();
    assert_eq!(call_with(&mesh, directory.path(), &address, Some(&good)), (0, 200));
    let failed = counter(&mesh, &victim.name, "lateen_downstream_connections_failed_total");
    let leaves = [
        ("of another authority", stranger.leaf().uri(order).issue()),
        ("of a wrong trust domain", own.leaf().uri("spiffe://elsewhere.test/ns/production/sa/order-service-sa").issue()),
        ("expired", own.leaf().uri(order).expired().issue()),
        ("not yet valid", own.leaf().uri(order).not_yet_valid().issue()),
        ("for servers only", own.leaf().uri(order).server_only().issue()),
        ("without an identity", own.leaf().dns("payment-service.production.svc").issue()),
        ("with two identities", own.leaf().uri(order).uri("spiffe://cluster.local/ns/production/sa/frontend-sa").issue()),
    ];
    for (what, leaf) in &leaves {
        let (exit, http) = call_with(&mesh, directory.path(), &address, Some(leaf));
        assert!(exit != 0 && http == 0, "{what}: {exit} {http}");
    }
    let (exit, http) = call_with(&mesh, directory.path(), &address, None);
    assert!(exit != 0 && http == 0, "no certificate: {exit} {http}");
    let after = counter(&mesh, &victim.name, "lateen_downstream_connections_failed_total");
    assert!(after >= failed + 8.0, "{failed} failed connections before, {after} after");
    // Another identity than those allowed is let in and denied.
    let frontend = own.leaf().uri("spiffe://cluster.local/ns/production/sa/frontend-sa").issue();
    assert_eq!(call_with(&mesh, directory.path(), &address, Some(&frontend)), (0, 403));
    before.is_as_before(&mesh);
}

/// Where a mesh keeps its files.
fn state_dir(name: &str) -> std::path::PathBuf {
    if nix::unistd::Uid::effective().is_root() {
        return Path::new("/run/lateen").join(name);
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").expect("XDG_RUNTIME_DIR");
    Path::new(&runtime).join("lateen").join(name)
}

#[test]
fn the_own_ports_of_sidecars_and_control_plane_stand_garbage() {
    let mesh = Mesh::start();
    let before = Before::of(&mesh);
    let victim = mesh.pods("order-service")[0].clone();
    let ip = mesh.status().pod(PRODUCTION, &victim).unwrap().ip.clone();
    let oversized = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Big: {}\r\n\r\n", "x".repeat(2_000_000));
    let hostile: [(&str, &[u8], &[u16]); 5] = [
        ("garbage", b"\x00\xff\x00garbage\r\n\r\n", &[400]),
        ("a signed length", b"GET /ready HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n", &[400]),
        ("bad chunks", b"POST /quitquitquit HTTP/9.9\r\n\r\n", &[400, 505]),
        ("an oversized head", oversized.as_bytes(), &[400, 431]),
        ("TLS", &[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 3, 13, 10, 13, 10], &[400]),
    ];
    let pages: [(&str, String); 5] = [
        (&victim, "127.0.0.1:15000".to_owned()),
        (&victim, "127.0.0.1:15090".to_owned()),
        (BATCH, format!("{ip}:15021")),
        (BATCH, format!("{CONTROL}:15014")),
        (BATCH, format!("{CONTROL}:8080")),
    ];
    for (pod, address) in &pages {
        for (what, bytes, allowed) in hostile {
            let echo = send(&mesh, pod, address, bytes, PATIENCE);
            let fine = echo.status().map_or(echo.bytes.is_empty(), |s| allowed.contains(&s));
            assert!(fine && echo.closed, "{what} to {address}: {}", String::from_utf8_lossy(&echo.bytes));
        }
        send(&mesh, pod, address, b"GET / HT", Duration::from_millis(50));
    }
    // Ports that are for captured connections alone, and those of TLS.
    for (pod, address) in [
        (&*victim, "127.0.0.1:15001"),
        (&victim, "127.0.0.1:15006"),
        (BATCH, &format!("{ip}:15001")),
        (BATCH, &format!("{ip}:15006")),
    ] {
        for bytes in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], b"\x00\xffgarbage", &[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 3]] {
            let echo = send(&mesh, pod, address, bytes, Duration::from_secs(2));
            assert!(echo.status().is_none_or(|s| s >= 400), "{address}: {}", String::from_utf8_lossy(&echo.bytes));
        }
    }
    for bytes in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], b"\x00\xffgarbage", &[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 3]] {
        let echo = send(&mesh, BATCH, &format!("{CONTROL}:15012"), bytes, PATIENCE);
        assert!(echo.status().is_none() && echo.closed, "{bytes:?}: {}", String::from_utf8_lossy(&echo.bytes));
    }
    // Without a token and without a certificate there is nothing to be had over TLS either.
    let url = format!("https://{CONTROL}:15012/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources");
    let reply =
        mesh.curl(BATCH, &["-k", "--http2", "-H", "content-type: application/grpc", "-H", "te: trailers", "-d", "", &url]);
    assert!(reply.head.contains("grpc-status: 16") || reply.body.contains("grpc-status: 16"), "{reply:?}");
    let ready = mesh.curl(BATCH, &[&format!("http://{ip}:15021/healthz/ready")]);
    assert_eq!(ready.status, 200, "{ready:?}");
    before.is_as_before(&mesh);
}

#[test]
fn connections_dropped_at_every_phase_leave_nothing() {
    let mesh = Mesh::start();
    let status = mesh.status();
    let victim = status.with_label(PRODUCTION, "app", "payment-service").next().unwrap();
    // The client's side of a real mutual TLS connection, to be cut off anywhere.
    let capture = Capture::start(victim.app_pids[0]);
    let report =
        mesh.requests("deploy/order-service-v1", "http://payment-service/v1/payments", &["-X", "POST", "-n", "20", "-c", "4"]);
    assert_all_answered(&report, 20);
    let address: SocketAddr = format!("{}:8080", victim.ip).parse().unwrap();
    let flows = capture.stop();
    let (_, sent) = flows.iter().find(|(flow, _)| flow.to == address).expect("a connection to payment-service");
    let directory = tempfile::tempdir().unwrap();
    let before = Before::of(&mesh);
    let files = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    // A shell in the pod cuts at many places: a prefix, then the end of the half, as `head` gives it.
    let cut = |pod: &str, file: &str, length: usize, to: &str| {
        let step = (length / 24).max(1);
        let script = format!(
            "for n in $(seq 1 {step} {length}); do head -c $n {file} | timeout 2 lateen echo tcp {to} >/dev/null 2>&1; done; true"
        );
        mesh.sh(pod, &script);
    };
    let hello = files("tls", sent);
    cut(BATCH, &hello, sent.len().min(4000), &address.to_string());
    let plain = request("Content-Length: 40\r\nX-Filler: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n");
    let http = files("http", &[&plain[..], &[b'x'; 40]].concat());
    cut(FRONTEND, &http, plain.len() + 39, "order-service:80");
    // Clients that leave in the middle of an answer.
    mesh.sh(FRONTEND, "for n in $(seq 20); do curl -s -m 0.05 -o /dev/null http://order-service/bytes/50000000; done; true");
    // Applications that leave before an answer, and in the middle of one.
    let pods = mesh.pods("order-service");
    for pod in &pods {
        mesh.order(pod, &json!({"close": "before_response", "path": "/gone"}));
        mesh.order(pod, &json!({"close": "mid_response", "path": "/half"}));
    }
    let gone = mesh.curl(FRONTEND, &["http://order-service/gone"]);
    assert_eq!(gone.status, 503, "{gone:?}");
    let half = mesh.curl(FRONTEND, &["http://order-service/half"]);
    assert_ne!(half.exit, 0, "half an answer looks like a whole one: {half:?}");
    for pod in &pods {
        mesh.reset(pod);
    }
    before.is_as_before(&mesh);
    for pod in pods.iter().map(String::as_str).chain([FRONTEND]) {
        eventually(&format!("no request is left open at {pod}"), || {
            let stats = mesh.sh(pod, "curl -s -m 20 http://127.0.0.1:15000/stats");
            stats.lines().any(|l| l == "server.requests_active: 0").then_some(())
        });
    }
}

#[test]
fn slow_heads_are_waited_for_and_hurt_nobody_else() {
    let mesh = Mesh::start();
    let before = Before::of(&mesh);
    let head = request("Content-Length: 0\r\n");
    let namespace = PRODUCTION;
    let mut slow: Vec<_> = (0..40)
        .map(|_| {
            let mut command = mesh.up.exec_command(namespace, FRONTEND, &["lateen", "echo", "tcp", "order-service:80"]);
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
            child.stdin.as_mut().unwrap().write_all(&head[..20]).unwrap();
            child
        })
        .collect();
    // While forty wait with half a head, others are served.
    let report = mesh.requests(FRONTEND, "http://order-service/", &["-n", "100", "-c", "4"]);
    assert_all_answered(&report, 100);
    for child in &mut slow[..5] {
        child.stdin.as_mut().unwrap().write_all(&head[20..]).unwrap();
        let mut start = [0; 12];
        child.stdout.as_mut().unwrap().read_exact(&mut start).unwrap();
        assert_eq!(&start, b"HTTP/1.1 200", "a head that comes at last is answered");
    }
    for mut child in slow {
        let _ = child.kill();
        let _ = child.wait();
    }
    before.is_as_before(&mesh);
}
