//! The mesh that the tests share, and the words in which they ask it things.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output, id};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use lateen_testkit::lab::{LateenUp, PodStatus};
use lateen_testkit::raw_http::RawConnection;
use serde_json::Value;

use super::stream::{Stream, Wire};
use super::support::{eventually, lateen};

pub(crate) const LAB: &str = "lab";

/// Cluster names of the services of the laboratory that a sidecar knows, one a port.
const PORTS: usize = 7 + 16 + 2 + 1 + 3;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A mesh. A pod is named as `NAMESPACE/POD`, or as `POD` in the namespace of the laboratory.
pub(crate) struct Lab {
    pub(crate) up: LateenUp,
}

/// The laboratory: one mesh for all tests that run at the same time. The last one ends it.
pub(crate) fn lab() -> Arc<Lab> {
    static SHARED: Mutex<Weak<Lab>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/protocols");
        let lab = Arc::new(Lab::start(&[directory.join("lab.yaml")]));
        for pod in ["client", "slow"] {
            eventually(&format!("{pod} knows all ports"), || (lab.known_ports(pod) == PORTS).then_some(()));
        }
        *shared = Arc::downgrade(&lab);
        lab
    })
}

fn place(pod: &str) -> (&str, &str) {
    pod.split_once('/').unwrap_or((LAB, pod))
}

impl Lab {
    fn exec(&self, pod: &str, command: &[&str]) -> Output {
        let (namespace, pod) = place(pod);
        self.up.exec(namespace, pod, command).unwrap()
    }

    fn exec_json(&self, pod: &str, command: &[&str]) -> Value {
        let (namespace, name) = place(pod);
        self.up.exec_json(namespace, name, command).unwrap_or_else(|e| panic!("{pod}: {e}"))
    }

    /// A command in a pod, for the caller to start.
    pub(crate) fn command(&self, pod: &str, command: &[&str]) -> Command {
        let (namespace, pod) = place(pod);
        self.up.exec_command(namespace, pod, command)
    }

    /// A mesh of its own.
    pub(crate) fn start(paths: &[PathBuf]) -> Self {
        let name = format!("p{}-{}", id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self { up: LateenUp::start(&lateen(), &name, paths).unwrap_or_else(|e| panic!("{e}")) }
    }

    /// How many outbound clusters of the laboratory have endpoints.
    fn known_ports(&self, pod: &str) -> usize {
        let all = self.admin(pod, "/config/endpoints");
        let names = all.as_array().unwrap().iter().filter_map(|c| c["name"].as_str());
        names.filter(|n| n.starts_with("outbound|") && n.ends_with(".lab.svc.cluster.local")).count()
    }

    /// A page of a sidecar's admin interface.
    pub(crate) fn admin(&self, pod: &str, path: &str) -> Value {
        let url = format!("http://127.0.0.1:15000{path}");
        self.exec_json(pod, &["curl", "-sS", "-m", "20", &url])
    }

    /// What is known of a pod.
    pub(crate) fn pod(&self, name: &str) -> PodStatus {
        let status = self.up.status().unwrap_or_else(|e| panic!("{e}"));
        status.pods.iter().find(|p| p.name == name).unwrap_or_else(|| panic!("no pod {name}")).clone()
    }

    /// Runs a shell script in a pod; it must succeed. Returns what it prints.
    pub(crate) fn sh(&self, pod: &str, script: &str) -> String {
        let out = self.exec(pod, &["sh", "-c", script]);
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{pod}: {script}: {}: {text}{}", out.status, String::from_utf8_lossy(&out.stderr));
        text
    }

    /// The JSON that the test application answers to curl.
    pub(crate) fn curl(&self, pod: &str, arguments: &[&str]) -> Value {
        self.exec_json(pod, &[&["curl", "-sS", "-m", "20", "--fail-with-body"], arguments].concat())
    }

    /// The samples of a metric of a pod's sidecar that have all of these labels.
    pub(crate) fn metric(&self, pod: &str, name: &str, wanted: &[(&str, &str)]) -> Vec<(BTreeMap<String, String>, f64)> {
        let page = self.sh(pod, "curl -sS -m 20 http://127.0.0.1:15090/stats/prometheus");
        let has = |labels: &BTreeMap<String, String>| wanted.iter().all(|(k, v)| labels.get(*k).is_some_and(|l| l == v));
        page.lines().filter_map(|line| sample(line, name)).filter(|(labels, _)| has(labels)).collect()
    }

    /// A TCP connection from a pod, each direction of which ends by itself.
    pub(crate) fn dial(&self, pod: &str, address: &str) -> Wire {
        Wire::start(self.command(pod, &["lateen", "echo", "tcp", "--both", address]), address)
    }

    /// One connection to a port of a pod, once it comes. Returns when it can.
    pub(crate) async fn listen(&self, pod: &str, port: u16) -> Wire {
        let address = format!("0.0.0.0:{port}");
        let command = self.command(pod, &["lateen", "echo", "tcp", "--both", "--listen", &address]);
        let mut wire = Wire::start(command, &address);
        wire.listening().await;
        wire
    }

    /// A TCP connection from a pod, for a library.
    pub(crate) fn stream(&self, pod: &str, address: &str) -> Stream {
        Stream::start(self.command(pod, &["lateen", "echo", "tcp", address]))
    }

    /// A TCP connection from a pod, for HTTP/1.1 by hand.
    pub(crate) fn http1(&self, pod: &str, address: &str) -> RawConnection<Stream> {
        RawConnection::over(self.stream(pod, address))
    }
}

/// A sample line of the named metric: `name{label="value",…} number`. No value of the laboratory holds a quotation mark.
fn sample(line: &str, name: &str) -> Option<(BTreeMap<String, String>, f64)> {
    let (labels, number) = line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once("} ")?;
    let pairs = labels.split_terminator("\",").filter_map(|pair| {
        let (key, value) = pair.split_once("=\"")?;
        Some((key.to_owned(), value.trim_end_matches('"').to_owned()))
    });
    Some((pairs.collect(), number.trim().parse().ok()?))
}
