//! Asks a running mesh: for other commands, such as `config` and `demo`.

use std::path::PathBuf;

use crate::state_dir::{MeshName, StateDir};
use crate::status::Status;
use crate::unix_http::{Call, over_unix};

/// A running mesh.
#[derive(Debug, Clone)]
pub struct Client {
    dir: StateDir,
}

impl Client {
    /// The running mesh of a name.
    ///
    /// # Errors
    /// When none of that name is running; the text says which are.
    pub fn connect(name: &MeshName) -> Result<Self, String> {
        let dir = StateDir::of(name);
        dir.running().map_err(|e| e.to_string())?;
        Ok(Self { dir })
    }

    /// Its state.
    ///
    /// # Errors
    /// When it does not answer (it is just starting or ending).
    pub async fn status(&self) -> Result<Status, String> {
        let answer = over_unix(&self.dir.api_socket(), Call::get("/v1/status")).await;
        let answer = answer.map_err(|e| format!("the mesh does not answer yet: {e}"))?;
        serde_json::from_slice(answer.body()).map_err(|e| format!("unexpected answer: {e}"))
    }

    /// A page of the admin interface of a pod's sidecar, such as `config_dump`. `pod` may be the beginning of its name, or a
    /// deployment.
    ///
    /// # Errors
    /// When there is no such pod, it has no sidecar, or the sidecar does not answer with success.
    pub fn admin_page(&self, namespace: &str, pod: &str, page: &str) -> impl Future<Output = Result<Vec<u8>, String>> + use<> {
        // A deployment written with a slash would be another path.
        let pod = pod.strip_prefix("deploy/").or_else(|| pod.strip_prefix("deployment/")).unwrap_or(pod);
        let path = format!("/v1/pods/{namespace}/{pod}/admin/{}", page.trim_start_matches('/'));
        let socket = self.dir.api_socket();
        async move {
            let answer = over_unix(&socket, Call::get(&path)).await.map_err(|e| format!("the mesh does not answer: {e}"))?;
            if answer.status().is_success() {
                return Ok(answer.into_body().to_vec());
            }
            Err(String::from_utf8_lossy(answer.body()).trim().to_owned())
        }
    }

    /// Objects in force with their statuses: of the kinds that a word means, of one namespace and of one name, if these are given.
    ///
    /// # Errors
    /// When the word means no kind, or the mesh does not answer.
    pub async fn resources(
        &self,
        kind: &str,
        namespace: Option<&str>,
        name: Option<&str>,
    ) -> Result<Vec<serde_json::Value>, String> {
        let pairs = [("kind", Some(kind)), ("namespace", namespace), ("name", name)];
        let written = pairs.iter().filter_map(|(key, value)| Some(format!("{key}={}", escape((*value)?))));
        let path = format!("/v1/resources?{}", written.collect::<Vec<_>>().join("&"));
        let answer = over_unix(&self.dir.api_socket(), Call::get(&path)).await;
        let answer = answer.map_err(|e| format!("the mesh does not answer: {e}"))?;
        let unexpected = |e: serde_json::Error| format!("unexpected answer: {e}");
        if answer.status().is_success() {
            return serde_json::from_slice(answer.body()).map_err(unexpected);
        }
        let told = serde_json::from_slice::<serde_json::Value>(answer.body()).ok();
        let reason = told.as_ref().and_then(|t| t.get("error")?.as_str());
        Err(reason.map_or_else(|| String::from_utf8_lossy(answer.body()).trim().to_owned(), str::to_owned))
    }

    /// Where the supervisor's HTTP socket is.
    #[must_use]
    pub fn api_socket(&self) -> PathBuf {
        self.dir.api_socket()
    }
}

/// A value of a query: what is no plain character becomes `%XX`.
fn escape(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let one = |b: u8| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    text.bytes().map(one).collect()
}
