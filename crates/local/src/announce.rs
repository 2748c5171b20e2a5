//! What `lateen up` says while it runs: what becomes ready, what to try next, and then what comes and goes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lateen_model::resource::is_subset;

use crate::mesh::Mesh;
use crate::pod::Pod;
use crate::report::Kind;
use crate::state_dir::flag;
use crate::status::{PodStatus, Status, status};

/// Seconds after which to say what is still missing.
const IMPATIENT: f32 = 10.0;

/// Follows the mesh until it stops.
pub(crate) async fn announce(mesh: Arc<Mesh>) {
    let mut said = Said::default();
    let mut control_said = false;
    let mut complained = false;
    let mut changes = mesh.changes();
    loop {
        if !control_said && mesh.control.is_ready().await {
            control_said = true;
            let pid = mesh.control.outer_pid().unwrap_or_default();
            mesh.report.say(Kind::Done, &format!("control plane ready (pid {pid})"));
        }
        let pods = mesh.pods();
        for text in said.news(&pods) {
            mesh.report.say(Kind::Done, &text);
        }
        if control_said && pods.iter().all(|p| p.ready() || p.finished()) {
            break;
        }
        if !complained && mesh.report.elapsed() > IMPATIENT {
            complained = true;
            complain(&mesh, control_said);
        }
        tokio::select! {
            _ = changes.changed() => {}
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
            () = mesh.stopping() => return,
        }
    }
    let now = status(&mesh).await;
    if mesh.report.is_json() {
        return mesh.report.document(&serde_json::to_value(&now).unwrap_or_default());
    }
    mesh.report.say(Kind::Done, &closing_words(&mesh, &now));
    loop {
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = mesh.stopping() => return,
        }
        for text in said.news(&mesh.pods()) {
            mesh.report.say(Kind::Done, &text);
        }
    }
}

/// What was said of each pod, by its unique id: its name, and whether it was ready.
#[derive(Debug, Default)]
struct Said(BTreeMap<String, (String, bool)>);

impl Said {
    /// What is new of the pods that there are now.
    fn news(&mut self, pods: &[Arc<Pod>]) -> Vec<String> {
        let mut news = Vec::new();
        for pod in pods {
            let (uid, ready) = (&pod.identity.fields.uid, pod.ready());
            match (self.0.get(uid), ready) {
                (None, true) => {
                    let sidecar = match (pod.identity.gateway, pod.identity.injected) {
                        (true, _) => "gateway",
                        (false, true) => "with sidecar",
                        (false, false) => "no sidecar",
                    };
                    news.push(format!("pod {} ready ({}, {sidecar})", pod.key(), pod.ip()));
                }
                (Some((_, false)), true) => news.push(format!("pod {} ready again", pod.key())),
                (None, false) => continue,
                (Some(_), _) => {}
            }
            self.0.insert(uid.clone(), (pod.key(), ready));
        }
        self.0.retain(|uid, (key, _)| {
            let there = pods.iter().any(|p| p.identity.fields.uid == *uid);
            if !there {
                news.push(format!("pod {key} gone"));
            }
            there
        });
        news
    }
}

fn complain(mesh: &Mesh, control_ready: bool) {
    let mut waiting: Vec<String> = Vec::new();
    if !control_ready {
        waiting.push(format!("control plane (log: {})", mesh.log_path("control").display()));
    }
    for pod in mesh.pods().iter().filter(|p| !p.ready() && !p.finished()) {
        let phase = pod.phase();
        let state = pod.state();
        let missing: Vec<&str> = if pod.identity.injected && !state.proxy_ready {
            vec!["sidecar"]
        } else {
            state.containers.iter().filter(|c| !c.ready).map(|c| c.name.as_str()).collect()
        };
        waiting.push(format!("pod {} ({phase}; not ready: {})", pod.key(), missing.join(", ")));
    }
    let text = format!("still waiting for:\n  {}\nlogs are in {}", waiting.join("\n  "), mesh.logs.display());
    mesh.report.say(Kind::Note, &text);
}

fn closing_words(mesh: &Mesh, status: &Status) -> String {
    let flag = flag(mesh.dir.name());
    let count = status.pods.len();
    let pods = if count == 1 { "1 pod".to_owned() } else { format!("{count} pods") };
    let mut text = format!("mesh ready after {:.1} s: {pods}; logs in {}\n", mesh.report.elapsed(), mesh.logs.display());
    text.push_str("edit the manifests and they are in force; Ctrl-C stops everything. In another terminal try:\n");
    text.push_str(&format!("  lateen status{flag}\n"));
    let resources = mesh.resources();
    // A deployment's name is shorter than its pods', and stays.
    let workloads: BTreeMap<String, String> = mesh.pods().iter().map(|p| (p.key(), p.identity.workload.name.clone())).collect();
    let short = |pod: &PodStatus| workloads.get(&format!("{}/{}", pod.namespace, pod.name)).unwrap_or(&pod.name).clone();
    let pods = status.pods.iter().filter(|p| p.proxy_pid.is_some()).chain(&status.pods);
    // A pod with an application, which a gateway has not, and a service of its namespace that is not its own.
    let has_application = |pod: &&PodStatus| !pod.app_pids.is_empty();
    let example = pods.clone().filter(has_application).find_map(|pod| {
        let other =
            resources.services().find(|s| s.metadata.namespace == pod.namespace && !is_subset(&s.spec.selector, &pod.labels));
        Some((pod, other?))
    });
    if let Some((pod, service)) = example {
        let port = service.spec.ports.first().map(|p| p.port).filter(|p| *p != 80).map(|p| format!(":{p}")).unwrap_or_default();
        let (ns, pod, service) = (&pod.namespace, short(pod), &service.metadata.name);
        text.push_str(&format!("  lateen exec{flag} -n {ns} {pod} -- lateen echo get http://{service}{port}/\n"));
    }
    if let Some(pod) = pods.into_iter().find(|p| p.proxy_pid.is_some()) {
        text.push_str(&format!("  lateen config routes{flag} -n {} {}\n", pod.namespace, short(pod)));
    }
    text.push_str(&format!("  lateen down{flag}"));
    text
}
