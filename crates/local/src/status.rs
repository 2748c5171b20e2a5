//! The state of the mesh for people and programs, and the words at the start.

use std::sync::Arc;
use std::time::Duration;

use lateen_model::resource::is_subset;

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

use crate::mesh::Mesh;
use crate::pod::Pod;
use crate::report::Kind;
use crate::state_dir::flag;

/// `lateen status -o json`.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Status {
    /// The control plane.
    pub control: ControlStatus,
    /// Every pod, by namespace and name.
    pub pods: Vec<PodStatus>,
}

/// The control plane's process.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct ControlStatus {
    /// Its process id outside the mesh; absent while it does not run.
    pub pid: Option<i32>,
    /// Whether it says that it is ready.
    pub ready: bool,
}

/// One pod.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct PodStatus {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its primary address.
    pub ip: String,
    /// Its labels, those that injection adds included.
    pub labels: BTreeMap<String, String>,
    /// Its service account.
    pub service_account: String,
    /// Whether it takes traffic.
    pub ready: bool,
    /// Whether it is being stopped.
    pub terminating: bool,
    /// The sidecar's process id outside the mesh; absent without a sidecar.
    pub proxy_pid: Option<i32>,
    /// The containers' process ids outside the mesh.
    pub app_pids: Vec<i32>,
    /// How often its containers were started again.
    pub restarts: u32,
    /// What the sidecar has of each type of configuration: `synced`, `stale` or `nack: REASON`. Empty without a sidecar.
    pub xds: BTreeMap<String, String>,
}

/// The present state.
pub(crate) async fn status(mesh: &Mesh) -> Status {
    let (ready, syncz) = tokio::join!(mesh.control.is_ready(), mesh.control.syncz());
    let pods = mesh.pods().iter().map(|pod| pod_status(pod, &syncz)).collect();
    Status { control: ControlStatus { pid: mesh.control.outer_pid(), ready }, pods }
}

fn pod_status(pod: &Pod, syncz: &BTreeMap<String, BTreeMap<String, String>>) -> PodStatus {
    let f = &pod.identity.fields;
    let ready = pod.ready();
    let state = pod.state();
    PodStatus {
        namespace: f.namespace.clone(),
        name: f.name.clone(),
        ip: pod.ip().to_string(),
        labels: f.labels.clone(),
        service_account: f.service_account.clone(),
        ready,
        terminating: state.terminating,
        proxy_pid: state.proxy.as_ref().map(crate::spawn::Process::outer_pid),
        app_pids: state.containers.iter().filter_map(|c| Some(c.process.as_ref()?.outer_pid())).collect(),
        restarts: state.containers.iter().map(|c| c.restarts).sum(),
        xds: syncz.get(&format!("{}.{}", f.name, f.namespace)).cloned().unwrap_or_default(),
    }
}

/// A table for people.
pub(crate) fn table(status: &Status) -> String {
    let control = match (status.control.pid, status.control.ready) {
        (Some(pid), true) => format!("ready (pid {pid})"),
        (Some(pid), false) => format!("not ready (pid {pid})"),
        (None, _) => "not running".to_owned(),
    };
    let mut rows = vec![["NAMESPACE", "POD", "READY", "IP", "SIDECAR", "RESTARTS", "XDS"].map(str::to_owned)];
    for pod in &status.pods {
        let ready = if pod.terminating {
            "stopping"
        } else if pod.ready {
            "yes"
        } else {
            "no"
        };
        rows.push([
            pod.namespace.clone(),
            pod.name.clone(),
            ready.to_owned(),
            pod.ip.clone(),
            pod.proxy_pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            pod.restarts.to_string(),
            summary(&pod.xds),
        ]);
    }
    let mut widths = [0; 7];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = format!("control plane: {control}\n");
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// `synced` if all is; else what is not.
fn summary(xds: &BTreeMap<String, String>) -> String {
    let off: Vec<String> = xds.iter().filter(|(_, s)| *s != "synced").map(|(t, s)| format!("{t} {s}")).collect();
    match (xds.is_empty(), off.is_empty()) {
        (true, _) => "-".to_owned(),
        (false, true) => "synced".to_owned(),
        (false, false) => off.join(", "),
    }
}

/// Says what becomes ready, and at the end what to try next.
pub(crate) async fn announce(mesh: Arc<Mesh>) {
    /// When to say what is still missing.
    const IMPATIENT: f32 = 10.0;
    let mut said = BTreeSet::new();
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
        for pod in pods.iter().filter(|p| p.ready()) {
            if said.insert(pod.key()) {
                let sidecar = if pod.identity.injected { "with sidecar" } else { "no sidecar" };
                mesh.report.say(Kind::Done, &format!("pod {} ready ({}, {sidecar})", pod.key(), pod.ip()));
            }
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
}

fn complain(mesh: &Mesh, control_ready: bool) {
    let mut waiting: Vec<String> = Vec::new();
    if !control_ready {
        waiting.push(format!("control plane (log: {})", mesh.log_path("control").display()));
    }
    for pod in mesh.pods().iter().filter(|p| !p.ready() && !p.finished()) {
        let state = pod.state();
        let missing: Vec<&str> = if pod.identity.injected && !state.proxy_ready {
            vec!["sidecar"]
        } else {
            state.containers.iter().filter(|c| !c.ready).map(|c| c.name.as_str()).collect()
        };
        waiting.push(format!("pod {} ({})", pod.key(), missing.join(", ")));
    }
    let text = format!("still waiting for:\n  {}\nlogs are in {}", waiting.join("\n  "), mesh.logs.display());
    mesh.report.say(Kind::Note, &text);
}

fn closing_words(mesh: &Mesh, status: &Status) -> String {
    let flag = flag(mesh.dir.name());
    let mut text =
        format!("mesh ready after {:.1} s: {} pods; logs in {}\n", mesh.report.elapsed(), status.pods.len(), mesh.logs.display());
    text.push_str("edit the manifests and they are in force; Ctrl-C stops everything. In another terminal try:\n");
    text.push_str(&format!("  lateen status{flag}\n"));
    let resources = mesh.resources();
    let pods = status.pods.iter().filter(|p| p.proxy_pid.is_some()).chain(&status.pods);
    // A pod, and a service of its namespace that is not its own.
    let example = pods.clone().find_map(|pod| {
        let other =
            resources.services().find(|s| s.metadata.namespace == pod.namespace && !is_subset(&s.spec.selector, &pod.labels));
        Some((pod, other?))
    });
    if let Some((pod, service)) = example {
        let port = service.spec.ports.first().map(|p| p.port).filter(|p| *p != 80).map(|p| format!(":{p}")).unwrap_or_default();
        let (ns, pod, service) = (&pod.namespace, &pod.name, &service.metadata.name);
        text.push_str(&format!("  lateen exec{flag} -n {ns} {pod} -- lateen echo get http://{service}{port}/\n"));
    }
    if let Some(pod) = pods.into_iter().find(|p| p.proxy_pid.is_some()) {
        text.push_str(&format!("  lateen config routes{flag} -n {} {}\n", pod.namespace, pod.name));
    }
    text.push_str(&format!("  lateen down{flag}"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_has_the_promised_shape() {
        let status = Status {
            control: ControlStatus { pid: Some(7), ready: true },
            pods: vec![PodStatus {
                namespace: "n".to_owned(),
                name: "p".to_owned(),
                ip: "10.244.0.2".to_owned(),
                labels: BTreeMap::from([("app".to_owned(), "a".to_owned())]),
                service_account: "default".to_owned(),
                ready: true,
                terminating: false,
                proxy_pid: Some(8),
                app_pids: vec![9],
                restarts: 0,
                xds: BTreeMap::from([("CDS".to_owned(), "synced".to_owned()), ("LDS".to_owned(), "stale".to_owned())]),
            }],
        };
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(json["control"], serde_json::json!({"pid": 7, "ready": true}));
        assert_eq!(json["pods"][0]["xds"]["CDS"], "synced");
        assert_eq!(json["pods"][0]["app_pids"], serde_json::json!([9]));
        let text = table(&status);
        assert!(text.contains("control plane: ready (pid 7)") && text.contains("LDS stale"), "{text}");
    }
}
