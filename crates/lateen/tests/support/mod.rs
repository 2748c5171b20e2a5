//! The scenario in a mesh of its own for each test, and the words in which the tests ask it things.

#![allow(dead_code, reason = "each test program uses its part")]

pub(crate) mod wire;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio, id};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use lateen_testkit::lab::{LateenUp, MeshStatus};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const PRODUCTION: &str = "production";
pub(crate) const FRONTEND: &str = "deploy/frontend";

/// The binary under test.
pub(crate) fn lateen() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_lateen"))
}

/// Where the scenario's manifests are: where `LATEEN_SCENARIO` says, else beside the repository, else this crate's own copy.
pub(crate) fn scenario_files() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if let Some(path) = std::env::var_os("LATEEN_SCENARIO") {
        let path = PathBuf::from(path);
        assert!(path.join("workloads.yaml").is_file(), "LATEEN_SCENARIO={}: no workloads.yaml", path.display());
        return path;
    }
    let beside = root.join("../../../shared/scenario");
    if beside.join("workloads.yaml").is_file() { beside } else { root.join("tests/scenario") }
}

/// Waits until `check` gives something; panics with `what` after a minute, which no healthy machine needs.
pub(crate) fn eventually<T>(what: &str, check: impl FnMut() -> Option<T>) -> T {
    within(Duration::from_secs(60), what, check)
}

/// Waits until `check` gives something; panics with `what` if it does not in time.
pub(crate) fn within<T>(patience: Duration, what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(start.elapsed() < patience, "not within {patience:?}: {what}");
        pause();
    }
}

/// Some time between two looks at other processes.
pub(crate) fn pause() {
    #[expect(clippy::disallowed_methods, reason = "polls other processes; there is no worker to block")]
    std::thread::sleep(Duration::from_millis(20));
}

/// An answer to curl.
#[derive(Debug)]
pub(crate) struct Reply {
    /// 0 if there was none.
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
    pub(crate) seconds: f64,
    /// curl's exit status.
    pub(crate) exit: i32,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The values of a header, in order; all in lower case.
    pub(crate) fn header(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.filter(|(key, _)| *key == name).map(|(_, value)| value.trim()).collect()
    }
}

/// The scenario's mesh, on a copy of its manifests.
pub(crate) struct Mesh {
    pub(crate) up: LateenUp,
    files: TempDir,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Mesh {
    /// The scenario as it is.
    pub(crate) fn start() -> Self {
        Self::start_with("", &[])
    }

    /// With further documents, and variables in the environment of `lateen up`.
    pub(crate) fn start_with(more: &str, environment: &[(&str, &str)]) -> Self {
        let files = Self::copy(more);
        let name = format!("e{}-{}", id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let up = LateenUp::start_with(&lateen(), &name, &[files.path()], environment).unwrap_or_else(|e| panic!("{e}"));
        let mesh = Self { up, files };
        mesh.settled();
        mesh
    }

    fn copy(more: &str) -> TempDir {
        let files = TempDir::with_prefix("lateen-scenario-").unwrap();
        for entry in fs::read_dir(scenario_files()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "yaml") {
                fs::copy(&path, files.path().join(path.file_name().unwrap())).unwrap();
            }
        }
        if !more.is_empty() {
            fs::write(files.path().join("more.yaml"), more).unwrap();
        }
        files
    }

    /// Edits one of the manifests as an editor does: a new file takes the name of the old one.
    pub(crate) fn edit(&self, file: &str, edit: impl FnOnce(String) -> String) {
        let path = self.files.path().join(file);
        let before = fs::read_to_string(&path).unwrap();
        let after = edit(before.clone());
        assert_ne!(before, after, "the edit of {file} changes nothing");
        let scratch = self.files.path().join(format!("{file}~"));
        fs::write(&scratch, after).unwrap();
        fs::rename(&scratch, &path).unwrap();
    }

    /// Sends Ctrl-C and waits for the end, which it tells.
    pub(crate) fn stop(self) -> String {
        self.up.stop().unwrap_or_else(|e| panic!("{e}"))
    }

    /// Where the manifests are.
    pub(crate) fn files(&self) -> &Path {
        self.files.path()
    }

    pub(crate) fn status(&self) -> MeshStatus {
        self.up.status().unwrap_or_else(|e| panic!("{e}"))
    }

    /// Waits until the callers know every pod of those that they call.
    pub(crate) fn settled(&self) {
        for (pod, host, count) in
            [(FRONTEND, "order-service", 3), (FRONTEND, "payment-service", 2), ("deploy/order-service-v1", "payment-service", 2)]
        {
            eventually(&format!("{pod} knows {count} pods of {host}"), || {
                (self.endpoints(PRODUCTION, pod, host).len() == count).then_some(())
            });
        }
    }

    /// Names of the pods of a deployment, by the label `app`.
    pub(crate) fn pods(&self, app: &str) -> Vec<String> {
        let status = self.status();
        status.pods.iter().filter(|p| p.labels.get("app").is_some_and(|v| v == app)).map(|p| p.name.clone()).collect()
    }

    /// The namespace of a pod of the scenario.
    fn namespace(pod: &str) -> &'static str {
        if pod.contains("batch") { "legacy" } else { PRODUCTION }
    }

    /// Runs a shell script in a pod; it must succeed. Returns what it prints.
    pub(crate) fn sh(&self, pod: &str, script: &str) -> String {
        let out = self.up.exec(Self::namespace(pod), pod, &["sh", "-c", script]).unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{pod}: {script}: {}: {text}{}", out.status, String::from_utf8_lossy(&out.stderr));
        text
    }

    /// Runs curl in a pod; see [`curl`].
    pub(crate) fn curl(&self, pod: &str, arguments: &[&str]) -> Reply {
        curl(&self.up, Self::namespace(pod), pod, arguments)
    }

    /// A page of the sidecar's admin interface.
    pub(crate) fn admin(&self, pod: &str, path: &str) -> Value {
        let url = format!("http://127.0.0.1:15000{path}");
        let got = self.up.exec_json(Self::namespace(pod), pod, &["curl", "-sS", "-m", "20", &url]);
        got.unwrap_or_else(|e| panic!("{e}"))
    }

    /// The endpoints of an outbound cluster without a subset, as a sidecar shows them.
    pub(crate) fn endpoints(&self, namespace: &str, pod: &str, service: &str) -> Vec<Value> {
        let name = format!("||{service}.{namespace}.svc.cluster.local");
        let all = self.admin(pod, "/config/endpoints");
        let cluster = all.as_array().unwrap().iter().find(|c| c["name"].as_str().is_some_and(|n| n.ends_with(&name)));
        cluster.map_or_else(Vec::new, |c| c["endpoints"].as_array().unwrap().clone())
    }

    /// The samples of a metric in a sidecar's Prometheus page.
    pub(crate) fn metric(&self, pod: &str, name: &str) -> Vec<(BTreeMap<String, String>, f64)> {
        let page = self.sh(pod, "curl -sS -m 20 http://127.0.0.1:15090/stats/prometheus");
        let families = lateen_testkit::prometheus::read(&page).unwrap_or_else(|error| panic!("{pod}: {error}\n{page}"));
        families.into_iter().flat_map(|f| f.samples).filter(|s| s.name == name).map(|s| (s.labels, s.value)).collect()
    }

    /// Many requests of `lateen echo get`; the report. Further arguments follow the URL.
    pub(crate) fn requests(&self, pod: &str, url: &str, arguments: &[&str]) -> Value {
        requests(&self.up, Self::namespace(pod), pod, &[&[url], arguments].concat())
    }

    /// Starts a constant load, which goes on until it is ended.
    pub(crate) fn load(&self, pod: &str, url: &str, arguments: &[&str]) -> Load {
        Load::start(&self.up, Self::namespace(pod), pod, &[&[url, "--duration", "300s"], arguments].concat())
    }

    /// Makes the test application of a pod misbehave.
    pub(crate) fn order(&self, pod: &str, order: &Value) {
        let body = order.to_string();
        let reply = self.curl(pod, &["http://localhost:8080/control", "-d", &body]);
        assert_eq!(reply.status, 200, "{reply:?}");
    }

    /// How many requests the faults of a pod have taken.
    pub(crate) fn taken(&self, pod: &str) -> u64 {
        let state = self.curl(pod, &["http://localhost:8080/control"]).json();
        state["faults"].as_array().unwrap_or_else(|| panic!("{state}")).iter().map(|f| f["taken"].as_u64().unwrap()).sum()
    }

    /// Makes it behave again.
    pub(crate) fn reset(&self, pod: &str) {
        let reply = self.curl(pod, &["http://localhost:8080/control", "-X", "DELETE"]);
        assert_eq!(reply.status, 200, "{reply:?}");
    }
}

/// A load that runs; killed if the test fails.
pub(crate) struct Load(Option<Child>);

impl Load {
    /// Starts `lateen echo get` with these arguments.
    pub(crate) fn start(up: &LateenUp, namespace: &str, pod: &str, arguments: &[&str]) -> Self {
        let command = [&["lateen", "echo", "get", "-o", "json"], arguments].concat();
        let mut started = up.exec_command(namespace, pod, &command);
        let child = started.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self(Some(child))
    }

    /// Waits for its own end; the report.
    pub(crate) fn finish(mut self) -> Value {
        let out = self.0.take().unwrap().wait_with_output().unwrap();
        report(&out.stdout, &out.stderr)
    }

    /// Ends it as Ctrl-C does; the report.
    pub(crate) fn end(mut self) -> Value {
        let child = self.0.take().unwrap();
        // The child has not been waited for, so the number is its own.
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
        let out = child.wait_with_output().unwrap();
        report(&out.stdout, &out.stderr)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs curl in a pod, with at most 20 s for the exchange.
pub(crate) fn curl(up: &LateenUp, namespace: &str, pod: &str, arguments: &[&str]) -> Reply {
    const FORMAT: &str = "\n%{http_code} %{time_total}";
    let fixed = ["curl", "-s", "-i", "-m", "20", "--path-as-is", "-w", FORMAT];
    let out = up.exec(namespace, pod, &[&fixed, arguments].concat()).unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let (rest, figures) = text.rsplit_once('\n').unwrap_or_else(|| panic!("curl: {out:?}"));
    let (status, seconds) = figures.split_once(' ').unwrap();
    let (head, body) = rest.split_once("\r\n\r\n").unwrap_or((rest, ""));
    Reply {
        status: status.parse().unwrap(),
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
        seconds: seconds.parse().unwrap(),
        exit: out.status.code().unwrap_or(-1),
    }
}

/// Many requests of `lateen echo get` with these arguments; the report.
pub(crate) fn requests(up: &LateenUp, namespace: &str, pod: &str, arguments: &[&str]) -> Value {
    let out = up.exec(namespace, pod, &[&["lateen", "echo", "get", "-o", "json"], arguments].concat()).unwrap();
    report(&out.stdout, &out.stderr)
}

fn report(stdout: &[u8], stderr: &[u8]) -> Value {
    let complaint = || format!("{}{}", String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr));
    serde_json::from_slice(stdout).unwrap_or_else(|e| panic!("{e}: {}", complaint()))
}

/// A number of a report, 0 if absent.
pub(crate) fn count(report: &Value, pointer: &str) -> u64 {
    report.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

/// Panics unless `count` of `trials` is what chance allows where each goes one way with the probability `share`.
pub(crate) fn assert_share(count: u64, trials: u64, share: f64) {
    let allowed = lateen_demo::chance::allowed(trials, share);
    assert!(allowed.contains(&count), "{count} of {trials}, where {share} of them allows {allowed:?}");
}

/// Panics unless every request of a report was answered 200, and there were at least so many.
pub(crate) fn assert_all_answered(report: &Value, at_least: u64) {
    let (requests, good) = (count(report, "/requests"), count(report, "/statuses/200"));
    assert!(requests == good && report["errors"] == json!({}) && requests >= at_least, "failed requests, or too few: {report:#}");
}
