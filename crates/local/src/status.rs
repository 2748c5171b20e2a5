//! The state of the mesh, for people and for programs.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::capturing::CaptureStatus;
use crate::gateways::GatewayPort;
use crate::mesh::Mesh;
use crate::pod::Pod;

/// `lateen status -o json`.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Status {
    /// The control plane.
    pub control: ControlStatus,
    /// Every pod, by namespace and name.
    pub pods: Vec<PodStatus>,
    /// Ports of gateways, as they are reached from this machine.
    #[serde(default)]
    pub gateway_ports: Vec<GatewayPort>,
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
    /// Where it is in its life, in the words of `kubectl get pods`: `Running`, `CrashLoopBackOff`, ….
    pub phase: String,
    /// What it waits for, or what went wrong last; empty when it is ready.
    pub message: String,
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
    /// How its traffic is captured; absent if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture: Option<CaptureStatus>,
}

/// The present state.
pub(crate) async fn status(mesh: &Mesh) -> Status {
    let (ready, syncz) = tokio::join!(mesh.control.is_ready(), mesh.control.syncz());
    let pods = mesh.pods().iter().map(|pod| pod_status(pod, &syncz)).collect();
    let control = ControlStatus { pid: mesh.control.outer_pid(), ready };
    Status { control, pods, gateway_ports: mesh.gateway_ports.shown() }
}

fn pod_status(pod: &Pod, syncz: &BTreeMap<String, BTreeMap<String, String>>) -> PodStatus {
    let f = &pod.identity.fields;
    let (ready, phase) = (pod.ready(), pod.phase());
    let state = pod.state();
    PodStatus {
        namespace: f.namespace.clone(),
        name: f.name.clone(),
        ip: pod.ip().to_string(),
        labels: f.labels.clone(),
        service_account: f.service_account.clone(),
        ready,
        phase,
        message: state.message.clone(),
        terminating: state.terminating,
        proxy_pid: state.proxy.as_ref().map(crate::spawn::Process::outer_pid),
        app_pids: state.containers.iter().filter_map(|c| Some(c.process.as_ref()?.outer_pid())).collect(),
        restarts: state.containers.iter().map(|c| c.restarts).sum(),
        xds: syncz.get(&format!("{}.{}", f.name, f.namespace)).cloned().unwrap_or_default(),
        capture: state.capture.clone(),
    }
}

/// A table for people.
pub(crate) fn table(status: &Status) -> String {
    let control = match (status.control.pid, status.control.ready) {
        (Some(pid), true) => format!("ready (pid {pid})"),
        (Some(pid), false) => format!("not ready (pid {pid})"),
        (None, _) => "not running".to_owned(),
    };
    let mut rows = vec![["NAMESPACE", "POD", "READY", "STATUS", "IP", "SIDECAR", "RESTARTS", "XDS"].map(str::to_owned)];
    for pod in &status.pods {
        rows.push([
            pod.namespace.clone(),
            pod.name.clone(),
            if pod.ready { "yes" } else { "no" }.to_owned(),
            pod.phase.clone(),
            pod.ip.clone(),
            pod.proxy_pid.map_or_else(|| "-".to_owned(), |pid| format!("pid {pid}")),
            pod.restarts.to_string(),
            summary(&pod.xds),
        ]);
    }
    let mut widths = [0; 8];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = format!("control plane: {control}\n");
    let ways: BTreeSet<&CaptureStatus> = status.pods.iter().filter_map(|pod| pod.capture.as_ref()).collect();
    for way in &ways {
        let names = status
            .pods
            .iter()
            .filter(|pod| pod.capture.as_ref() == Some(way))
            .map(|pod| format!("{}/{}", pod.namespace, pod.name));
        let of = if ways.len() == 1 { String::new() } else { format!(" of {}", names.collect::<Vec<_>>().join(", ")) };
        out.push_str(&format!("capture{of}: {way}\n"));
    }
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    if !status.gateway_ports.is_empty() {
        out.push('\n');
    }
    for port in &status.gateway_ports {
        out.push_str(&format!("{port}\n"));
    }
    for pod in &status.pods {
        let refused = pod.xds.iter().filter_map(|(kind, state)| Some(format!("the sidecar refused {kind}: {}", nack(state)?)));
        let message = Some(&pod.message).filter(|m| !m.is_empty() && !pod.terminating).cloned();
        for text in message.into_iter().chain(refused) {
            out.push_str(&format!("\n{}/{}: {}\n", pod.namespace, pod.name, text.trim_end()));
        }
    }
    out
}

/// The reason of a refusal.
fn nack(state: &str) -> Option<&str> {
    state.strip_prefix("nack: ")
}

/// `synced` if all is; else what is not. Reasons are told below the table.
fn summary(xds: &BTreeMap<String, String>) -> String {
    let word = |state: &str| if nack(state).is_some() { "nack".to_owned() } else { state.to_owned() };
    let off: Vec<String> = xds.iter().filter(|(_, s)| *s != "synced").map(|(t, s)| format!("{t} {}", word(s))).collect();
    match (xds.is_empty(), off.is_empty()) {
        (true, _) => "-".to_owned(),
        (false, true) => "synced".to_owned(),
        (false, false) => off.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capturing::Method;

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
                phase: "Running".to_owned(),
                message: String::new(),
                terminating: false,
                proxy_pid: Some(8),
                app_pids: vec![9],
                restarts: 0,
                xds: BTreeMap::from([("CDS".to_owned(), "synced".to_owned()), ("LDS".to_owned(), "stale".to_owned())]),
                capture: Some(CaptureStatus { method: Method::Nftables, reason: "no root".to_owned(), accelerated: false }),
            }],
            gateway_ports: vec![GatewayPort {
                namespace: "edge".to_owned(),
                workload: "in".to_owned(),
                port: 80,
                url: "http://127.0.0.1:8080".to_owned(),
            }],
        };
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(json["control"], serde_json::json!({"pid": 7, "ready": true}));
        assert_eq!(json["pods"][0]["xds"]["CDS"], "synced");
        assert_eq!(json["pods"][0]["app_pids"], serde_json::json!([9]));
        assert_eq!(json["pods"][0]["capture"]["method"], "nftables");
        assert_eq!(json["pods"][0]["capture"]["reason"], "no root");
        assert_eq!(json["gateway_ports"][0]["url"], "http://127.0.0.1:8080");
        let text = table(&status);
        assert!(text.ends_with("\n\nhttp://127.0.0.1:8080 → gateway edge/in:80\n"), "{text}");
        assert!(text.contains("\ncapture: nftables (no root)\n"), "{text}");
        assert!(text.contains("control plane: ready (pid 7)") && text.contains("LDS stale"), "{text}");
    }

    #[test]
    fn what_is_wrong_stands_below_the_table() {
        let pod = PodStatus {
            namespace: "n".to_owned(),
            name: "p".to_owned(),
            ip: "10.244.0.2".to_owned(),
            labels: BTreeMap::new(),
            service_account: "default".to_owned(),
            ready: false,
            phase: "CrashLoopBackOff".to_owned(),
            message: "container app ended with status 3".to_owned(),
            terminating: false,
            proxy_pid: Some(8),
            app_pids: vec![],
            restarts: 2,
            xds: BTreeMap::from([("LDS".to_owned(), "nack: listener x: no".to_owned())]),
            capture: None,
        };
        let text = table(&Status { control: ControlStatus { pid: None, ready: false }, pods: vec![pod], gateway_ports: vec![] });
        assert_eq!(
            text,
            "control plane: not running\n\
             NAMESPACE  POD  READY  STATUS            IP          SIDECAR  RESTARTS  XDS\n\
             n          p    no     CrashLoopBackOff  10.244.0.2  pid 8    2         LDS nack\n\
             \nn/p: container app ended with status 3\n\
             \nn/p: the sidecar refused LDS: listener x: no\n"
        );
    }
}
