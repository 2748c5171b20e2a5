//! What the tour asks of the running mesh.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use lateen_local::{Client, MeshName, PodStatus, Status};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::load::Load;

/// The namespace of the services.
pub(crate) const PRODUCTION: &str = "production";
/// What has to come true in a while is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A pod to start from: its namespace, and its name or deployment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pod<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

/// What customers see.
pub(crate) const FRONTEND: Pod<'_> = Pod { namespace: PRODUCTION, name: "deploy/frontend" };
/// The old program without a sidecar.
pub(crate) const BATCH: Pod<'_> = Pod { namespace: "legacy", name: "deploy/batch" };
/// Where spans go.
pub(crate) const COLLECTOR: Pod<'_> = Pod { namespace: "istio-system", name: "deploy/collector" };

impl<'a> From<&'a PodStatus> for Pod<'a> {
    fn from(pod: &'a PodStatus) -> Self {
        Self { namespace: &pod.namespace, name: &pod.name }
    }
}

/// The running mesh.
#[derive(Debug)]
pub(crate) struct Mesh {
    name: String,
    client: Client,
    program: PathBuf,
    logs: PathBuf,
}

impl Mesh {
    /// The mesh of a name, with its logs.
    pub(crate) fn new(name: &MeshName, logs: PathBuf) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|e| format!("cannot find this program: {e}"))?;
        Ok(Self { name: name.as_str().to_owned(), client: Client::connect(name)?, program, logs })
    }

    /// Where its logs are.
    pub(crate) fn logs(&self) -> &Path {
        &self.logs
    }

    /// Its state.
    pub(crate) async fn status(&self) -> Result<Status, String> {
        self.client.status().await
    }

    /// The pods that are ready and whose label `app` (and `version`, if given) is this, by name.
    pub(crate) async fn pods(&self, app: &str, version: Option<&str>) -> Result<Vec<PodStatus>, String> {
        let is = |pod: &PodStatus, label: &str, value: &str| pod.labels.get(label).is_some_and(|v| v == value);
        let mut pods = self.status().await?.pods;
        pods.retain(|p| p.ready && !p.terminating && is(p, "app", app) && version.is_none_or(|v| is(p, "version", v)));
        if pods.is_empty() { Err(format!("no pod of {app} is ready")) } else { Ok(pods) }
    }

    /// A page of a sidecar's admin interface.
    pub(crate) async fn page(&self, pod: Pod<'_>, page: &str) -> Result<String, String> {
        let bytes = self.client.admin_page(pod.namespace, pod.name, page).await?;
        String::from_utf8(bytes).map_err(|e| format!("{page}: {e}"))
    }

    /// What a sidecar has in force of one kind, as `lateen config KIND -o json` prints it.
    pub(crate) async fn config(&self, pod: Pod<'_>, kind: &str) -> Result<Vec<Value>, String> {
        serde_json::from_str(&self.page(pod, &format!("config/{kind}")).await?).map_err(|e| format!("config {kind}: {e}"))
    }

    /// Sends requests from inside a pod: `lateen exec POD -- lateen echo get ARGS…`. Answers that are failures are no error.
    pub(crate) async fn get(&self, from: Pod<'_>, arguments: &[&str]) -> Result<Load, String> {
        let mut command = Command::new(&self.program);
        command.args(["exec", "--name", &self.name, "-n", from.namespace, from.name, "--", "lateen", "echo", "get"]);
        command.args(arguments).args(["-o", "json"]).stdin(Stdio::null()).kill_on_drop(true);
        let output = command.output().await.map_err(|e| format!("lateen exec: {e}"))?;
        serde_json::from_slice(&output.stdout).map_err(|_| {
            let reason = String::from_utf8_lossy(&output.stderr);
            format!("`lateen exec {} -- lateen echo get {}`: {}", from.name, arguments.join(" "), reason.trim())
        })
    }

    /// Makes the application of a pod misbehave: the body of its `POST /control`.
    pub(crate) async fn misbehave(&self, pod: &PodStatus, order: &str) -> Result<(), String> {
        self.control(pod, &["-d", order]).await
    }

    /// Ends all misbehaviour.
    pub(crate) async fn behave(&self, pods: &[PodStatus]) -> Result<(), String> {
        for pod in pods {
            self.control(pod, &["-X", "DELETE"]).await?;
        }
        Ok(())
    }

    async fn control(&self, pod: &PodStatus, order: &[&str]) -> Result<(), String> {
        // From inside the pod: the sidecar leaves a pod's talk to itself alone.
        let load = self.get(pod.into(), &[&["http://127.0.0.1:8080/control"], order].concat()).await?;
        if load.all_ok() { Ok(()) } else { Err(format!("{} does not take orders: {load}", pod.name)) }
    }
}

/// Looks until something is there, at most for so long; then what was there last.
pub(crate) async fn until<T, F: Future<Output = Result<T, String>>>(
    limit: Duration,
    mut look: impl FnMut() -> F,
    done: impl Fn(&T) -> bool,
) -> Result<T, String> {
    let start = Instant::now();
    loop {
        let seen = look().await?;
        if done(&seen) || start.elapsed() > limit {
            return Ok(seen);
        }
        sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test]
    async fn waiting_ends_with_success_or_with_the_last_look() {
        let looks = Cell::new(0);
        let look = || async {
            looks.set(looks.get() + 1);
            Ok(looks.get())
        };
        assert_eq!(until(Duration::from_secs(60), look, |n| *n == 3).await, Ok(3));
        assert!(until(Duration::ZERO, look, |_| false).await.unwrap() > 3);
        assert!(until(Duration::from_secs(60), || async { Err::<(), _>("no".to_owned()) }, |()| true).await.is_err());
    }
}
