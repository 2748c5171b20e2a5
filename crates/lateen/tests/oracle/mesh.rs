//! A mesh with one engine as every sidecar, and the suite's agents in its pods.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use lateen_testkit::lab::{LateenUp, MeshStatus, PodStatus};
use serde_json::Value;
use tempfile::TempDir;

use crate::accounts::Ledger;
use crate::counters::{self, Counters};
use crate::credentials;
use crate::op::{Answer, Exchange, Op};
use crate::run::keep;
use crate::script::{Order, Step};
use crate::yaml;

/// How long anything may take to be in force.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a pod has for one operation: more than any step asks for.
const OPERATION: Duration = Duration::from_secs(60);

/// How long lines of a log may take to be written.
const SETTLING: Duration = Duration::from_secs(5);

/// What runs as sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Lateen,
    /// With this binary.
    Envoy(PathBuf),
}

impl Engine {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Lateen => "lateen",
            Self::Envoy(_) => "envoy",
        }
    }
}

/// A running mesh.
pub(crate) struct Mesh {
    pub(crate) engine: Engine,
    up: LateenUp,
    manifests: TempDir,
    logs: TempDir,
    agents: BTreeMap<String, Agent>,
    pub(crate) pods: Vec<PodStatus>,
    /// How many pods the manifests that always stand ask for.
    base_pods: usize,
    generation: u32,
    /// What the access logs of sidecars say so far.
    ledgers: BTreeMap<String, Ledger>,
}

/// The marker that tells which generation of manifests a sidecar follows: a host that answers with its number.
fn marker(generation: u32) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: marker, namespace: shop}}\n\
         spec: {{hosts: [marker], gateways: [mesh, edge/marker], exportTo: ['*'], http: [{{directResponse: {{status: 200, body: {{string: 'generation {generation}'}}}}}}]}}\n"
    )
}

impl Mesh {
    /// Starts one with the manifests that always stand.
    pub(crate) fn start(engine: Engine, binary: &Path, base: &str) -> Result<Self, String> {
        let directory = || TempDir::with_prefix("lateen-oracle-").map_err(|e| e.to_string());
        let (manifests, logs) = (directory()?, directory()?);
        let base = &credentials::fill(base)?;
        fs::write(manifests.path().join("base.yaml"), base).map_err(|e| e.to_string())?;
        fs::write(manifests.path().join("scenario.yaml"), marker(0)).map_err(|e| e.to_string())?;
        let mut arguments: Vec<OsString> = vec![manifests.path().into(), "--log-dir".into(), logs.path().into()];
        if let Engine::Envoy(envoy) = &engine {
            let mut value = OsString::from("envoy=");
            value.push(envoy);
            arguments.extend([OsStr::new("--sidecar").to_owned(), value]);
        }
        let name = format!("oracle-{}-{}", engine.name(), std::process::id());
        let up = LateenUp::start(binary, &name, &arguments).map_err(|e| e.to_string())?;
        let base_pods = pods_in(&yaml::documents(base)?);
        let (agents, pods) = (BTreeMap::new(), Vec::new());
        let mut mesh = Self { engine, up, manifests, logs, agents, pods, base_pods, generation: 0, ledgers: BTreeMap::new() };
        mesh.settle(0)?;
        Ok(mesh)
    }

    /// Puts these manifests in the place of those before, and returns when they are in force everywhere.
    pub(crate) fn apply(&mut self, manifests: &str) -> Result<(), String> {
        self.generation += 1;
        let manifests = &self.addresses(manifests);
        let path = self.manifests.path().join("scenario.yaml");
        let scratch = self.manifests.path().join("scenario.yaml~");
        fs::write(&scratch, format!("{manifests}\n---\n{}", marker(self.generation))).map_err(|e| e.to_string())?;
        fs::rename(&scratch, &path).map_err(|e| e.to_string())?;
        self.settle(pods_in(&yaml::documents(manifests)?))
    }

    /// Puts addresses in the place of `%ip:POD%`: of pods that always stand.
    fn addresses(&self, manifests: &str) -> String {
        let fill = |text: String, pod: &PodStatus| text.replace(&format!("%ip:{}%", base_name(pod)), &pod.ip);
        self.pods.iter().fold(manifests.to_owned(), fill)
    }

    /// Waits until every sidecar follows the present generation whole.
    fn settle(&mut self, more_pods: usize) -> Result<(), String> {
        let start = Instant::now();
        let mut state = "there is no status".to_owned();
        loop {
            if start.elapsed() > PATIENCE {
                return Err(format!("{}: not in force after {PATIENCE:?}: {state}", self.engine.name()));
            }
            match self.is_settled(more_pods) {
                Ok(()) => return Ok(()),
                Err(Unsettled::Refused(reason)) => return Err(format!("{}: {reason}", self.engine.name())),
                Err(Unsettled::NotYet(reason)) => state = reason,
            }
            pause();
        }
    }

    fn is_settled(&mut self, more_pods: usize) -> Result<(), Unsettled> {
        let status = self.up.status().map_err(|e| Unsettled::NotYet(e.to_string()))?;
        let refused = status.pods.iter().flat_map(|pod| pod.xds.iter().map(move |(kind, state)| (pod, kind, state)));
        if let Some((pod, kind, state)) = refused.into_iter().find(|(.., state)| state.starts_with("nack")) {
            return Err(Unsettled::Refused(format!("the sidecar of {} refuses {kind}: {state}", pod.name)));
        }
        let known = |pods: &[PodStatus]| pods.len() == self.base_pods + more_pods;
        if !known(&status.pods) || !status.is_ready() {
            return Err(Unsettled::NotYet(format!("pods are not ready: {status:?}")));
        }
        self.attend(&status).map_err(Unsettled::NotYet)?;
        for pod in status.pods.iter().filter(|pod| pod.proxy_pid.is_some()) {
            let wanted = format!("generation {}", self.generation);
            let got = self.marked(pod, "/").map_err(Unsettled::NotYet)?;
            if got != wanted {
                return Err(Unsettled::NotYet(format!("{} has {got:?} and not yet {wanted}", pod.name)));
            }
            if let Some(warming) = self.warming(&pod.name).map_err(Unsettled::NotYet)? {
                return Err(Unsettled::NotYet(format!("{} warms {warming}", pod.name)));
            }
        }
        // The marker comes with the last type of a push: what the proxies have been sent until now they must have acknowledged.
        let status = self.up.status().map_err(|e| Unsettled::NotYet(e.to_string()))?;
        if status.is_ready() { Ok(()) } else { Err(Unsettled::NotYet(format!("not all is acknowledged: {status:?}"))) }
    }

    /// What a sidecar has and does not use yet.
    fn warming(&mut self, pod: &str) -> Result<Option<String>, String> {
        match self.engine {
            Engine::Envoy(_) => {
                let filter = "%5E(cluster_manager.warming_clusters%7Clistener_manager.total_listeners_warming)%24";
                let page = self.page(pod, &format!("http://127.0.0.1:15000/stats?filter={filter}"))?;
                Ok(page.lines().any(|line| !line.ends_with(": 0")).then_some(page))
            }
            Engine::Lateen => {
                let page = self.page(pod, "http://127.0.0.1:15000/server_info")?;
                let page: Value = serde_json::from_str(&page).map_err(|e| e.to_string())?;
                let counts = page["warming"].as_object().ok_or("no warming in /server_info")?;
                Ok(counts.values().any(|count| *count != 0).then(|| page["warming"].to_string()))
            }
        }
    }

    /// Starts agents in new pods, and lets go of those that are gone.
    fn attend(&mut self, status: &MeshStatus) -> Result<(), String> {
        self.agents.retain(|name, _| status.pods.iter().any(|pod| pod.name == *name));
        for pod in &status.pods {
            if !self.agents.contains_key(&pod.name) {
                let agent = Agent::start(&self.up, pod)?;
                self.agents.insert(pod.name.clone(), agent);
            }
        }
        self.pods.clone_from(&status.pods);
        Ok(())
    }

    /// Has a pod do something.
    pub(crate) fn ask(&mut self, pod: &str, op: &Op) -> Result<Answer, String> {
        let agent = self.agents.get_mut(pod).ok_or_else(|| format!("there is no pod {pod}"))?;
        agent.ask(op).map_err(|e| format!("{}: {pod}: {e}", self.engine.name()))
    }

    /// The same for requests.
    pub(crate) fn exchanges(&mut self, pod: &str, op: &Op) -> Result<Vec<Exchange>, String> {
        match self.ask(pod, op)? {
            Answer::Exchanges(exchanges) => Ok(exchanges),
            other => Err(format!("{pod}: {other:?}")),
        }
    }

    /// What the marker says to a pod: a gateway asks itself.
    fn marked(&mut self, pod: &PodStatus, path: &str) -> Result<String, String> {
        if pod.labels.get("istio").is_some_and(|role| role == "gateway") {
            let url = format!("http://marker.shop.svc.cluster.local{path}");
            return self.request(&pod.name, &serde_json::json!({"http": {"url": url, "to": "127.0.0.1:8099"}}));
        }
        self.page(&pod.name, &format!("http://marker.shop{path}"))
    }

    fn page(&mut self, pod: &str, url: &str) -> Result<String, String> {
        self.request(pod, &serde_json::json!({"get": url}))
    }

    fn request(&mut self, pod: &str, step: &Value) -> Result<String, String> {
        let step: Step = serde_json::from_value(step.clone()).map_err(|e| e.to_string())?;
        let mut got = self.exchanges(pod, &step.op()?)?;
        let got = got.pop().ok_or("no answer")?;
        match got.error {
            Some(error) => Err(format!("{pod}: {}: {error}", step.title())),
            None => Ok(String::from_utf8_lossy(&got.body).into_owned()),
        }
    }

    /// The pods that a name of a script means: a pod's own, or those of a deployment.
    pub(crate) fn named(&self, name: &str) -> Vec<String> {
        let own = |pod: &&PodStatus| pod.name == name || base_name(pod) == name;
        self.pods.iter().filter(own).map(|pod| pod.name.clone()).collect()
    }

    /// Gives the test applications their orders.
    pub(crate) fn order(&mut self, orders: &[Order]) -> Result<(), String> {
        for order in orders {
            let pods = self.named(&order.at);
            if pods.is_empty() {
                return Err(format!("an order for {}, which is not there", order.at));
            }
            for pod in pods {
                let body = Value::Object(order.order.clone()).to_string();
                let got = self.request(&pod, &serde_json::json!({"http": {"url": CONTROL, "body": body}}))?;
                if !got.contains("faults") {
                    return Err(format!("{pod}: {body}: {got}"));
                }
            }
        }
        Ok(())
    }

    /// Takes them back.
    pub(crate) fn reset(&mut self, orders: &[Order]) -> Result<(), String> {
        for order in orders {
            for pod in self.named(&order.at) {
                self.request(&pod, &serde_json::json!({"http": {"url": CONTROL, "method": "DELETE"}}))?;
            }
        }
        Ok(())
    }

    /// How many requests the test application of each deployment has had.
    pub(crate) fn counts(&mut self) -> Result<BTreeMap<String, u64>, String> {
        let mut counts = BTreeMap::new();
        let servers: Vec<_> = self.pods.iter().filter(|p| p.labels.get("app").is_some_and(|app| app == "web")).cloned().collect();
        for pod in servers {
            let page: Value = serde_json::from_str(&self.page(&pod.name, CONTROL)?).map_err(|e| e.to_string())?;
            *counts.entry(base_name(&pod)).or_default() += page["requests"].as_u64().unwrap_or_default();
        }
        Ok(counts)
    }

    fn injected(&self) -> Vec<PodStatus> {
        self.pods.iter().filter(|pod| pod.proxy_pid.is_some()).cloned().collect()
    }

    fn log_of(&self, pod: &PodStatus) -> PathBuf {
        self.logs.path().join(format!("{}_{}_istio-proxy.log", pod.namespace, pod.name))
    }

    /// The sidecars' counters.
    pub(crate) fn counters(&mut self) -> Result<Counters, String> {
        let injected = self.injected();
        let page = |pod: PodStatus| {
            let url = format!("http://127.0.0.1:15000/stats?usedonly&filter={}", counters::FILTER);
            Ok((pod.name.clone(), counters::read(&self.page(&pod.name, &url)?)))
        };
        injected.into_iter().map(page).collect()
    }

    /// The same as soon as they stay as they are: what a request has caused may go on after its answer.
    pub(crate) fn steady_counters(&mut self) -> Result<Counters, String> {
        let start = Instant::now();
        let mut last = self.counters()?;
        loop {
            pause();
            let now = self.counters()?;
            if now == last || start.elapsed() > PATIENCE {
                return Ok(now);
            }
            last = now;
        }
    }

    /// Whether the metrics of the sidecars say what their access logs say: complaints. Envoy alone has no such metrics.
    pub(crate) fn check_accounts(&mut self) -> Result<Vec<String>, String> {
        if self.engine != Engine::Lateen {
            return Ok(Vec::new());
        }
        let mut complaints = Vec::new();
        for pod in self.injected() {
            if self.ledgers.get(&pod.name).is_some_and(|ledger| ledger.has_complained) {
                continue;
            }
            let start = Instant::now();
            let complaint = loop {
                let page = self.page(&pod.name, "http://127.0.0.1:15090/stats/prometheus")?;
                let path = self.log_of(&pod);
                let ledger = self.ledgers.entry(pod.name.clone()).or_default();
                ledger.read_on(&path)?;
                let complaint = ledger.disagreement(&page, &pod, &self.pods);
                // Lines are written a little later than they are made.
                if complaint.is_none() || start.elapsed() > SETTLING {
                    ledger.has_complained = complaint.is_some();
                    break complaint;
                }
                pause();
            };
            complaints.extend(complaint.map(|c| format!("{}: metrics and access log: {c}", pod.name)));
        }
        Ok(complaints)
    }

    /// The access log of each sidecar, when it has all that was until now.
    pub(crate) fn access_logs(&mut self) -> Result<BTreeMap<String, Vec<Value>>, String> {
        let last = format!("/last-{}", self.generation);
        let injected = self.injected();
        for pod in &injected {
            self.marked(pod, &last)?;
        }
        let start = Instant::now();
        let mut logs = BTreeMap::new();
        for pod in &injected {
            let path = self.log_of(pod);
            loop {
                let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
                let entries: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
                if entries.iter().any(|entry| entry["path"] == last.as_str()) {
                    keep(&format!("{}-{}.log", self.engine.name(), pod.name), &text)?;
                    logs.insert(pod.name.clone(), entries);
                    break;
                }
                if start.elapsed() > PATIENCE {
                    return Err(format!("{}: the access log of {} does not go on", self.engine.name(), pod.name));
                }
                pause();
            }
        }
        Ok(logs)
    }

    /// Ends it.
    pub(crate) fn stop(self) -> Result<(), String> {
        let Self { up, agents, .. } = self;
        drop(agents);
        up.stop().map(|_| ()).map_err(|e| e.to_string())
    }
}

const CONTROL: &str = "http://127.0.0.1:8080/control";

enum Unsettled {
    NotYet(String),
    Refused(String),
}

/// The deployment of a pod, or its own name.
pub(crate) fn base_name(pod: &PodStatus) -> String {
    match pod.labels.get("pod-template-hash") {
        Some(hash) => pod.name.split_once(&format!("-{hash}")).map_or(pod.name.clone(), |(base, _)| base.to_owned()),
        None => pod.name.clone(),
    }
}

/// Pods that documents bring; a Gateway of the Kubernetes Gateway API brings a proxy unless it names the address of another.
fn pods_in(documents: &[Value]) -> usize {
    let of = |document: &Value| match document["kind"].as_str() {
        Some("Pod") => 1,
        Some("Deployment" | "StatefulSet") => document["spec"]["replicas"].as_u64().unwrap_or(1),
        Some("Gateway") if !document["spec"]["gatewayClassName"].is_null() => u64::from(document["spec"]["addresses"].is_null()),
        _ => 0,
    };
    usize::try_from(documents.iter().map(of).sum::<u64>()).unwrap_or(usize::MAX)
}

fn pause() {
    #[expect(clippy::disallowed_methods, reason = "polls other processes; there is no worker to block")]
    std::thread::sleep(Duration::from_millis(15));
}

/// The suite's process in a pod.
struct Agent {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Agent {
    fn start(up: &LateenUp, pod: &PodStatus) -> Result<Self, String> {
        let myself = std::env::current_exe().map_err(|e| e.to_string())?;
        let mut command = up.exec_command(&pod.namespace, &pod.name, &[&myself.to_string_lossy(), "agent"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(|e| e.to_string())?;
        let (input, output) = (child.stdin.take().ok_or("no input")?, child.stdout.take().ok_or("no output")?);
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, input, lines })
    }

    fn ask(&mut self, op: &Op) -> Result<Answer, String> {
        let line = serde_json::to_string(op).map_err(|e| e.to_string())?;
        writeln!(self.input, "{line}").and_then(|()| self.input.flush()).map_err(|e| format!("the agent has ended: {e}"))?;
        let answer = self.lines.recv_timeout(OPERATION).map_err(|e| format!("no answer of the agent to {line}: {e}"))?;
        serde_json::from_str(&answer).map_err(|e| format!("{e}: {answer}"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
