//! The control plane's process, and what the supervisor tells and asks it.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::Method;
use lateen_model::resource::ClusterState;
use nix::sys::signal::Signal;

use crate::container::{self, Backoff, log_file};
use crate::init::{Place, Role, Spec};
use crate::mesh::Mesh;
use crate::report::Kind;
use crate::resources::ManifestPath;
use crate::spawn::{Process, Stdio};
use crate::supervisor::TOKEN_ISSUER;
use crate::unix_http::{Call, over_unix};

/// The control plane, as the supervisor sees it.
#[derive(Debug)]
pub(crate) struct Control {
    socket: PathBuf,
    process: Mutex<Option<Process>>,
}

/// State of one type of resource at one sidecar, as `/debug/syncz` tells it.
pub(crate) type Sync = BTreeMap<String, String>;

impl Control {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket, process: Mutex::new(None) }
    }

    /// The process id, as people outside see it.
    pub(crate) fn outer_pid(&self) -> Option<i32> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Process::outer_pid)
    }

    fn set(&self, process: Option<Process>) {
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = process;
    }

    /// Whether it answers that it is ready.
    pub(crate) async fn is_ready(&self) -> bool {
        self.get("/ready").await.is_ok_and(|(status, _)| status == 200)
    }

    async fn get(&self, path: &str) -> io::Result<(u16, bytes::Bytes)> {
        let call = Call { timeout: Duration::from_secs(5), ..Call::get(path) };
        let response = over_unix(&self.socket, call).await?;
        Ok((response.status().as_u16(), response.into_body()))
    }

    /// Tells it every pod and service address; returns when it has taken them over.
    pub(crate) async fn put(&self, state: &ClusterState) -> io::Result<()> {
        let body = serde_json::to_vec(state)?;
        let call = Call { method: Method::PUT, path: "/v1/cluster", body, timeout: Duration::from_secs(5) };
        let response = over_unix(&self.socket, call).await?;
        if response.status().is_success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(response.body()).into_owned();
        Err(io::Error::other(format!("the control plane answered {}: {text}", response.status())))
    }

    /// Waits until every connected sidecar has acknowledged a generation. Returns at once when that cannot be known.
    pub(crate) async fn propagated(&self, generation: u64) {
        let path = format!("/v1/propagated?generation={generation}");
        let call = Call { timeout: Duration::from_secs(5), ..Call::get(&path) };
        let _ = over_unix(&self.socket, call).await;
    }

    /// What it answers to a request for resources: status and body.
    pub(crate) async fn resources(&self, query: &str) -> io::Result<(u16, bytes::Bytes)> {
        self.get(&format!("/v1/resources?{query}")).await
    }

    /// The state of every sidecar's configuration, by `POD.NAMESPACE`.
    pub(crate) async fn syncz(&self) -> BTreeMap<String, Sync> {
        match self.get("/debug/syncz").await {
            Ok((200, body)) => serde_json::from_slice(&body).map(|v| read_syncz(&v)).unwrap_or_default(),
            _ => BTreeMap::new(),
        }
    }
}

/// Reads `/debug/syncz`: a list of objects with `pod` (`POD.NAMESPACE`) and `types`, each with a `status`. A type that was
/// never sent, for the sidecar did not ask for it, is left out.
fn read_syncz(value: &serde_json::Value) -> BTreeMap<String, Sync> {
    let entries = value.as_array().map(Vec::as_slice).unwrap_or_default();
    entries
        .iter()
        .filter_map(|entry| {
            let pod = entry.get("pod")?.as_str()?.to_owned();
            let types = entry.get("types")?.as_object()?.iter();
            let status = types.filter_map(|(name, t)| Some((name.clone(), t.get("status")?.as_str()?.to_owned())));
            Some((pod, status.filter(|(_, s)| s != "not sent").collect()))
        })
        .collect()
}

/// Keeps the control plane running until the mesh ends.
pub(crate) async fn keep(mesh: Arc<Mesh>, manifests: Vec<ManifestPath>, environment: Vec<(String, String)>) {
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(5));
    while !mesh.is_stopping() {
        let start = Instant::now();
        match spawn(&mesh, &manifests, &environment).await {
            Ok(process) => {
                mesh.control.set(Some(process.clone()));
                let (told, task_mesh) = (mesh.clone(), mesh.clone());
                // It has forgotten the pods with its memory.
                let tell = tokio::spawn(async move {
                    while !task_mesh.control.socket.exists() || !task_mesh.control.is_ready().await {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    told.touch();
                });
                let code = tokio::select! {
                    code = process.ended() => Some(code),
                    () = mesh.stopping() => None,
                };
                tell.abort();
                let Some(code) = code else {
                    until_pods_are_gone(&mesh).await;
                    process.stop(Signal::SIGTERM, Duration::from_secs(1)).await;
                    mesh.control.set(None);
                    return;
                };
                mesh.control.set(None);
                let _ = std::fs::remove_file(&mesh.control.socket);
                let path = mesh.log_path("control");
                let text = format!(
                    "the control plane ended with status {} ({}), starting it again; its last lines:\n{}",
                    code.code(),
                    path.display(),
                    container::tail(&path, 0, 5)
                );
                mesh.report.say(Kind::Problem, &text);
            }
            Err(e) => mesh.report.say(Kind::Problem, &format!("the control plane cannot be started: {e}")),
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.after(start.elapsed())) => {}
            () = mesh.stopping() => {}
        }
    }
}

async fn until_pods_are_gone(mesh: &Mesh) {
    let mut changes = mesh.changes();
    while !mesh.pods().is_empty() {
        if changes.changed().await.is_err() {
            return;
        }
    }
}

async fn spawn(mesh: &Mesh, manifests: &[ManifestPath], environment: &[(String, String)]) -> Result<Process, String> {
    let mut vars = container::base_variables(mesh);
    for (name, value) in environment {
        vars.set(name, value);
    }
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let mut command = ["lateen", "control"].map(str::to_owned).to_vec();
    command.extend(manifests.iter().map(|m| text(m.path.clone())));
    let at = |port: u16| SocketAddr::new(mesh.network.node_ip(), port).to_string();
    for (flag, value) in [
        ("--state-socket", text(mesh.dir.control_socket())),
        ("--token-key", text(mesh.dir.token_key())),
        ("--token-issuer", TOKEN_ISSUER.to_owned()),
        ("--ca-dir", text(mesh.dir.ca_dir())),
        ("--root-cert-file", text(mesh.dir.root_cert())),
        ("--secure-grpc-addr", at(15012)),
        ("--http-addr", at(8080)),
        ("--monitoring-addr", at(15014)),
    ] {
        command.extend([flag.to_owned(), value]);
    }
    let spec = Spec {
        place: Place::Own { host_name: "istiod".to_owned(), mounts: Vec::new(), hidden: Vec::new(), contained: false },
        network: false,
        role: Role::Control,
        command,
        environment: vars.into_pairs(),
        working_dir: None,
        terminal: false,
    };
    let log = log_file(mesh, "control").map_err(|e| format!("log: {e}"))?;
    mesh.spawner.spawn(&spec, None, Stdio::Log(&log)).await.map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syncz_is_read_by_pod() {
        let value = serde_json::json!([
            {"pod": "web-1.shop", "types": {
                "CDS": {"status": "synced"}, "LDS": {"status": "nack: listener x: no"}, "NDS": {"status": "not sent"},
            }},
            {"other": true},
        ]);
        let sync = read_syncz(&value);
        assert_eq!(sync.len(), 1);
        assert_eq!(sync["web-1.shop"].len(), 2);
        assert_eq!(sync["web-1.shop"]["LDS"], "nack: listener x: no");
    }
}
