//! The scenario's mesh as a guest of this machine: what it tells, what it stands, and that nothing of it stays.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use lateen_testkit::lab::LateenUp;
use serde_json::Value;
use support::{FRONTEND, Mesh, PRODUCTION, assert_all_answered, count, eventually, lateen, scenario_files};

/// The processes of a mesh, and the network and process namespaces that they are in. These are held open, or their numbers
/// could be given to another mesh as soon as they are free.
struct Traces {
    pids: Vec<u32>,
    namespaces: BTreeMap<PathBuf, File>,
}

impl Traces {
    fn of(mesh: &Mesh) -> Self {
        let mut pids = vec![mesh.up.pid()];
        let mut next = 0;
        let all = processes();
        while let Some(parent) = pids.get(next).copied() {
            pids.extend(all.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
            next += 1;
        }
        let own = namespaces_of("self");
        let all = pids.iter().flat_map(|pid| namespaces_of(&pid.to_string()));
        let namespaces = all.filter(|(name, _)| !own.contains_key(name)).collect();
        Self { pids, namespaces }
    }

    /// Waits until no process of them lives, and no process at all is in one of their namespaces.
    fn are_gone(&self) {
        eventually("all processes are gone", || {
            self.pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()).then_some(())
        });
        let left: Vec<PathBuf> = processes()
            .into_iter()
            .flat_map(|(pid, _)| namespaces_of(&pid.to_string()).into_keys())
            .filter(|name| self.namespaces.contains_key(name))
            .collect();
        assert_eq!(left, Vec::<PathBuf>::new(), "somebody is in a namespace of the mesh");
    }
}

/// All processes, with their parents.
fn processes() -> Vec<(u32, u32)> {
    let parent = |pid: u32| -> Option<(u32, u32)> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some((pid, stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?))
    };
    let names = fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
    names.filter_map(parent).collect()
}

fn namespaces_of(process: &str) -> BTreeMap<PathBuf, File> {
    let open = |kind: &str| {
        let path = format!("/proc/{process}/ns/{kind}");
        // The name is of the file that is held, not of what the process may be in by then.
        let file = File::open(path).ok()?;
        let name = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
        Some((name, file))
    };
    ["net", "pid"].into_iter().filter_map(open).collect()
}

/// Interfaces, bridges, mounts and firewall rules of this machine itself.
fn machine() -> [String; 3] {
    let names = |path: &str| {
        let mut names: Vec<String> = fs::read_dir(path).unwrap().filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
        names.sort();
        names.join(" ")
    };
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts = mounts.lines().filter(|l| l.contains("lateen")).collect::<Vec<_>>().join("\n");
    let rules = Command::new("nft").args(["list", "tables"]).output();
    let rules = rules.map_or_else(|_| String::new(), |out| String::from_utf8_lossy(&out.stdout).into_owned());
    [names("/sys/class/net"), mounts, rules]
}

fn state_of(name: &str) -> Vec<PathBuf> {
    let bases = [
        Some(PathBuf::from("/run/lateen")),
        std::env::var_os("XDG_RUNTIME_DIR").map(|d| Path::new(&d).join("lateen")),
        Some(PathBuf::from(format!("/tmp/lateen-{}", nix::unistd::Uid::effective()))),
    ];
    bases.into_iter().flatten().map(|base| base.join(name)).filter(|path| path.exists()).collect()
}

#[test]
fn ctrl_c_leaves_no_process_namespace_rule_or_file() {
    let before = machine();
    let mesh = Mesh::start();
    assert_eq!(mesh.curl(FRONTEND, &["http://order-service/"]).status, 200);
    let (traces, name) = (Traces::of(&mesh), mesh.up.name().to_owned());
    // Launcher, supervisor, control plane, and in each of six pods a sidecar and an application.
    assert!(traces.pids.len() >= 15 && traces.namespaces.len() >= 8, "{:?} {:?}", traces.pids, traces.namespaces.keys());
    assert!(!state_of(&name).is_empty());
    // What it makes, it makes in namespaces of its own.
    assert_eq!(machine(), before);
    let end = mesh.stop();
    assert!(end.contains("exit status: 0"), "{end}");
    traces.are_gone();
    assert_eq!(state_of(&name), Vec::<PathBuf>::new());
    assert_eq!(machine(), before);
}

#[test]
fn sigkill_of_the_launcher_ends_all_and_the_next_start_cleans() {
    let before = machine();
    let mut mesh = Mesh::start();
    let (traces, name) = (Traces::of(&mesh), mesh.up.name().to_owned());
    mesh.up.sigkill().unwrap();
    traces.are_gone();
    assert_eq!(machine(), before);
    let again = LateenUp::start(&lateen(), &name, &[mesh.files()]).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(again.status().unwrap().pods.len(), 7);
    again.stop().unwrap();
    assert_eq!(state_of(&name), Vec::<PathBuf>::new());
}

#[test]
fn two_meshes_of_the_same_manifests_do_not_see_each_other() {
    let (one, two) = (Mesh::start(), Mesh::start());
    one.edit("traffic-rules.yaml", |text| text.replace("weight: 95", "weight: 0").replace("weight: 5\n", "weight: 100\n"));
    eventually("the edit is in force in the first", || {
        let report = one.requests(FRONTEND, "http://order-service/", &["-n", "50"]);
        (count(&report, "/versions/v2") == 50).then_some(())
    });
    let report = two.requests(FRONTEND, "http://order-service/", &["-n", "100"]);
    assert_all_answered(&report, 100);
    assert!(count(&report, "/versions/v1") > 50, "{report:#}");
    // Roots of their own: what one vouches for is nothing to the other.
    let root = |mesh: &Mesh| mesh.admin(FRONTEND, "/config/secrets").as_array().unwrap()[1]["pem"].clone();
    assert_ne!(root(&one), root(&two));
    one.up.stop().unwrap();
    let report = two.requests(FRONTEND, "http://order-service/", &["-n", "50"]);
    assert_all_answered(&report, 50);
}

/// A file of five documents: the second, third and fourth are wrong, each in its own way.
const BAD: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: good, namespace: production}
spec:
  hosts: [batch.legacy.svc.cluster.local]
  http:
  - headers: {response: {set: {x-edited: 'yes'}}}
    route: [{destination: {host: batch.legacy.svc.cluster.local}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: weights, namespace: production}
spec:
  hosts: [payment-service]
  http:
  - route:
    - {destination: {host: payment-service}, weihgt: 100}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: mode, namespace: production}
spec:
  mtls: {mode: SOMETIMES}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: twice, namespace: production}
spec:
  host: frontend
  trafficPolicy: {connectionPool: {tcp: {maxConnections: -1}}}
";

#[test]
fn bad_manifests_are_refused_alone_with_their_place_and_the_last_good_ones_stay() {
    let mesh = Mesh::start();
    fs::write(mesh.files().join("more.yaml"), BAD).unwrap();
    let said = |what: &[&str]| {
        eventually(&format!("the log says {what:?}"), || {
            let log = mesh.up.log();
            log.lines().any(|line| what.iter().all(|w| line.contains(w))).then_some(())
        });
    };
    said(&["more.yaml:17", "weihgt", "weight"]);
    said(&["more.yaml:23", "SOMETIMES", "STRICT"]);
    said(&["more.yaml:30", "maxConnections", "-1"]);
    eventually("the good document of the same file is in force", || {
        let reply = mesh.curl(FRONTEND, &["http://batch.legacy/"]);
        (reply.status == 200 && reply.head.contains("x-edited: yes")).then_some(())
    });
    // A good document turns bad: what was in force stays, here and for all others.
    mesh.edit("traffic-rules.yaml", |text| text.replace("exact: \"true\"", "exakt: \"true\""));
    said(&["traffic-rules.yaml:", "exakt", "exact"]);
    let report = mesh.requests(FRONTEND, "http://order-service/", &["-n", "100", "-H", "x-canary-test:true"]);
    assert_all_answered(&report, 100);
    assert_eq!(count(&report, "/versions/v2"), 100, "{report:#}");
    // No YAML at all: the file's documents stay.
    mesh.edit("security-policies.yaml", |text| format!("{text}\n---\nkind: [unclosed\n"));
    said(&["security-policies.yaml:"]);
    let reply = mesh.curl(FRONTEND, &["-X", "POST", "http://payment-service/v1/payments"]);
    assert_eq!((reply.status, reply.body.as_str()), (403, "RBAC: access denied"), "{reply:?}");
    // Mended, it is taken.
    mesh.edit("traffic-rules.yaml", |text| text.replace("exakt: \"true\"", "exact: \"sure\""));
    eventually("the mended rule", || {
        let report = mesh.requests(FRONTEND, "http://order-service/", &["-n", "50", "-H", "x-canary-test:sure"]);
        (count(&report, "/versions/v2") == 50).then_some(())
    });
}

#[test]
fn status_and_config_keep_their_word_to_programs() {
    let mesh = Mesh::start();
    let run = |arguments: &[&str]| -> Value {
        let out = Command::new(lateen()).args(arguments).args(["--name", mesh.up.name(), "-o", "json"]).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {text}"))
    };
    let status = run(&["status"]);
    assert!(status["control"]["pid"].as_u64().is_some() && status["control"]["ready"] == true, "{status:#}");
    let pods = status["pods"].as_array().unwrap();
    let names = |app: &str| pods.iter().filter(|p| p["labels"]["app"] == app).count();
    assert_eq!([names("frontend"), names("order-service"), names("payment-service"), names("batch")], [1, 3, 2, 1]);
    for pod in pods {
        let injected = pod["namespace"] == "production";
        assert!(pod["ip"].as_str().is_some_and(|ip| ip.parse::<std::net::IpAddr>().is_ok()), "{pod:#}");
        assert_eq!(pod["ready"], true, "{pod:#}");
        assert_eq!(pod["proxy_pid"].is_u64(), injected, "{pod:#}");
        assert_eq!(pod["app_pids"].as_array().map(Vec::len), Some(1), "{pod:#}");
        let account = if injected { format!("{}-sa", pod["labels"]["app"].as_str().unwrap()) } else { "default".to_owned() };
        assert_eq!(pod["service_account"], account.as_str());
        let xds = pod["xds"].as_object().unwrap();
        assert!(xds.values().all(|s| s == "synced"), "{pod:#}");
        for kind in ["CDS", "EDS", "LDS", "RDS"] {
            assert_eq!(xds.contains_key(kind), injected, "{kind}: {pod:#}");
        }
    }
    for (kind, wanted) in [
        ("listeners", "virtualInbound"),
        ("routes", "80"),
        ("clusters", "outbound|80|v1|order-service.production.svc.cluster.local"),
        ("endpoints", "outbound|80||payment-service.production.svc.cluster.local"),
        ("secrets", "default"),
    ] {
        let list = run(&["config", kind, "-n", PRODUCTION, FRONTEND]);
        let names: Vec<&str> = list.as_array().unwrap().iter().filter_map(|o| o["name"].as_str()).collect();
        assert!(names.contains(&wanted), "{kind}: {names:?}");
        assert_eq!(names.len(), list.as_array().unwrap().len(), "{kind}: every object has a name");
        let text =
            Command::new(lateen()).args(["config", kind, "--name", mesh.up.name(), "-n", PRODUCTION, FRONTEND]).output().unwrap();
        assert!(text.status.success() && !text.stdout.is_empty(), "{kind}: {text:?}");
        assert!(!String::from_utf8_lossy(&text.stdout).contains("PRIVATE KEY"));
    }
}

#[test]
fn the_scenario_is_ready_in_under_ten_seconds_and_says_how_it_goes() {
    let name = format!("ready-{}", std::process::id());
    let began = std::time::Instant::now();
    let up = LateenUp::start(&lateen(), &name, &[scenario_files()]).unwrap_or_else(|e| panic!("{e}"));
    assert!(began.elapsed().as_secs() < 10, "ready after {:?}", began.elapsed());
    eventually("the last word", || up.log().contains("mesh ready").then_some(()));
    let log = up.log();
    assert!(log.contains("control plane ready"), "{log}");
    for pod in up.status().unwrap().pods {
        assert!(log.contains(&format!("pod {}/{} ready", pod.namespace, pod.name)), "{log}");
    }
}
