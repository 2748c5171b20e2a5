//! A mesh on this machine, run by the real binary: `lateen up`, watched until it is ready, and ended with the guard.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

/// Why a mesh is not there, or did not answer.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A command could not be started, or a file not be written.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// `lateen up` ended before the mesh was ready.
    #[error("lateen up ended with {status}; its output:\n{log}")]
    Ended {
        /// How.
        status: String,
        /// The end of its output.
        log: String,
    },
    /// Not everything became ready in time.
    #[error("the mesh is not ready after {patience:?}; status: {status}; output of lateen up:\n{log}")]
    NotReady {
        /// How long was waited.
        patience: Duration,
        /// The last status, or why there was none.
        status: String,
        /// The end of its output.
        log: String,
    },
    /// A command of the binary failed.
    #[error("lateen {command}: {status}: {stderr}")]
    Command {
        /// Its arguments.
        command: String,
        /// How it ended.
        status: String,
        /// What it complained of.
        stderr: String,
    },
    /// A command's output is not what it should be.
    #[error("lateen {command}: {source}; got {output:?}")]
    Json {
        /// Its arguments.
        command: String,
        /// Where the output goes wrong.
        source: serde_json::Error,
        /// The output.
        output: String,
    },
}

/// `lateen status -o json`.
#[derive(Clone, Debug, Deserialize)]
pub struct MeshStatus {
    /// The control plane.
    pub control: ControlStatus,
    /// All pods.
    pub pods: Vec<PodStatus>,
}

impl MeshStatus {
    /// Whether the control plane and all pods are ready, and all proxies have what they should have.
    pub fn is_ready(&self) -> bool {
        let synced = |pod: &PodStatus| pod.xds.values().all(|state| state == "synced");
        self.control.ready && !self.pods.is_empty() && self.pods.iter().all(|pod| pod.ready && synced(pod))
    }

    /// A pod by namespace and name.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&PodStatus> {
        self.pods.iter().find(|pod| pod.namespace == namespace && pod.name == name)
    }

    /// The pods of a namespace that carry a label.
    pub fn with_label<'a>(&'a self, namespace: &'a str, key: &'a str, value: &'a str) -> impl Iterator<Item = &'a PodStatus> {
        self.pods.iter().filter(move |pod| pod.namespace == namespace && pod.labels.get(key).is_some_and(|v| v == value))
    }
}

/// The control plane in [`MeshStatus`].
#[derive(Clone, Debug, Deserialize)]
pub struct ControlStatus {
    /// Its process; none while it is being restarted.
    pub pid: Option<u32>,
    /// Whether it serves.
    pub ready: bool,
}

/// A pod in [`MeshStatus`].
#[derive(Clone, Debug, Deserialize)]
pub struct PodStatus {
    /// Where it belongs.
    pub namespace: String,
    /// What it is called.
    pub name: String,
    /// Its address.
    pub ip: String,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The account that it runs under.
    #[serde(default)]
    pub service_account: String,
    /// Whether all its readiness probes pass.
    pub ready: bool,
    /// The sidecar's process, if it has one.
    #[serde(default)]
    pub proxy_pid: Option<u32>,
    /// The containers' processes.
    #[serde(default)]
    pub app_pids: Vec<u32>,
    /// By short type name (`CDS`, …): `synced`, `stale` or `nack: REASON`.
    #[serde(default)]
    pub xds: BTreeMap<String, String>,
    /// How its traffic is captured, if it is.
    #[serde(default)]
    pub capture: Option<CaptureStatus>,
}

/// How a pod's traffic is captured.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct CaptureStatus {
    /// `ebpf` or `nftables`.
    pub method: String,
    /// Why it is not eBPF, if it is not.
    #[serde(default)]
    pub reason: String,
}

/// A mesh that runs for as long as this lives. Dropping it sends Ctrl-C, waits, and runs `lateen down` if that was not enough.
#[derive(Debug)]
pub struct LateenUp {
    binary: PathBuf,
    name: String,
    pid: Pid,
    /// Told once, by the thread that waits for the process. Never contended: only who may change the mesh listens.
    ended: Mutex<Receiver<io::Result<ExitStatus>>>,
    has_ended: bool,
    directory: Option<TempDir>,
}

impl LateenUp {
    /// How long a mesh may take to become ready. The product promises 10 s for the scenario on an idle machine.
    pub const PATIENCE: Duration = Duration::from_secs(60);

    /// How long it may take to end.
    const END_PATIENCE: Duration = Duration::from_secs(30);

    /// Runs `lateen up PATHS… --name NAME` with `binary` and waits until everything is ready.
    ///
    /// # Errors
    /// [`LabError`], with the output of `lateen up`.
    pub fn start<P: AsRef<OsStr>>(binary: &Path, name: &str, paths: &[P]) -> Result<Self, LabError> {
        let mut mesh = Self::spawn(binary, name, paths)?;
        mesh.wait_ready(Self::PATIENCE)?;
        Ok(mesh)
    }

    /// Like [`start`](Self::start), with further variables in the environment of `lateen up`.
    ///
    /// # Errors
    /// [`LabError`], with the output of `lateen up`.
    pub fn start_with<P: AsRef<OsStr>>(
        binary: &Path,
        name: &str,
        paths: &[P],
        environment: &[(&str, &str)],
    ) -> Result<Self, LabError> {
        let mut mesh = Self::spawn_with(binary, name, paths, environment)?;
        mesh.wait_ready(Self::PATIENCE)?;
        Ok(mesh)
    }

    /// Like [`start`](Self::start), without waiting.
    ///
    /// # Errors
    /// [`LabError::Io`].
    pub fn spawn<P: AsRef<OsStr>>(binary: &Path, name: &str, paths: &[P]) -> Result<Self, LabError> {
        Self::spawn_with(binary, name, paths, &[])
    }

    /// Like [`start_with`](Self::start_with), without waiting.
    ///
    /// # Errors
    /// [`LabError::Io`].
    pub fn spawn_with<P: AsRef<OsStr>>(
        binary: &Path,
        name: &str,
        paths: &[P],
        environment: &[(&str, &str)],
    ) -> Result<Self, LabError> {
        let io_error = |what: &str| {
            let what = what.to_owned();
            move |source| LabError::Io { what, source }
        };
        let directory = TempDir::with_prefix("lateen-lab-").map_err(io_error("temporary directory"))?;
        let log = fs::File::create(directory.path().join("up.log")).map_err(io_error("up.log"))?;
        let child = Command::new(binary)
            .arg("up")
            .args(paths)
            .args(["--name", name])
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(io_error("up.log"))?)
            .stderr(log)
            .spawn()
            .map_err(io_error(&binary.display().to_string()))?;
        let (pid, ended) = watch(child);
        let binary = binary.to_owned();
        Ok(Self { binary, name: name.to_owned(), pid, ended: Mutex::new(ended), has_ended: false, directory: Some(directory) })
    }

    /// Waits until everything is ready.
    ///
    /// # Errors
    /// [`LabError::Ended`] or [`LabError::NotReady`].
    pub fn wait_ready(&mut self, patience: Duration) -> Result<MeshStatus, LabError> {
        self.wait_until(patience, MeshStatus::is_ready)
    }

    /// Waits until the status satisfies a condition.
    ///
    /// # Errors
    /// [`LabError::Ended`] or [`LabError::NotReady`].
    pub fn wait_until(&mut self, patience: Duration, condition: impl Fn(&MeshStatus) -> bool) -> Result<MeshStatus, LabError> {
        let deadline = Instant::now() + patience;
        loop {
            let status = self.status();
            if let Ok(status) = &status
                && condition(status)
            {
                return Ok(status.clone());
            }
            if let Some(status) = self.wait_for_end(Duration::from_millis(100)) {
                return Err(LabError::Ended { status, log: self.log_end() });
            }
            if Instant::now() >= deadline {
                let status = status.map_or_else(|e| e.to_string(), |s| format!("{s:?}"));
                return Err(LabError::NotReady { patience, status, log: self.log_end() });
            }
        }
    }

    /// `lateen status`.
    ///
    /// # Errors
    /// [`LabError`].
    pub fn status(&self) -> Result<MeshStatus, LabError> {
        self.json(&["status"])
    }

    /// `lateen exec -n NAMESPACE POD -- COMMAND…`, whatever its exit status.
    ///
    /// # Errors
    /// [`LabError::Io`].
    pub fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<Output, LabError> {
        self.run(&[&["exec", "--name", &self.name, "-n", namespace, pod, "--"], command].concat())
    }

    /// The same as a command to be started by the caller, who decides about its input and output.
    pub fn exec_command(&self, namespace: &str, pod: &str, command: &[&str]) -> Command {
        let mut started = Command::new(&self.binary);
        started.args(["exec", "--name", &self.name, "-n", namespace, pod, "--"]).args(command);
        started
    }

    /// What it is called: the argument of `--name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Like [`exec`](Self::exec) for a command that must succeed and prints JSON.
    ///
    /// # Errors
    /// [`LabError`].
    pub fn exec_json(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<Value, LabError> {
        let output = self.exec(namespace, pod, command)?;
        parse(&format!("exec {namespace}/{pod} {}", command.join(" ")), &output)
    }

    /// `lateen config KIND -n NAMESPACE POD -o json`; kinds are `listeners`, `routes`, `clusters`, `endpoints`, `secrets`.
    ///
    /// # Errors
    /// [`LabError`].
    pub fn config(&self, kind: &str, namespace: &str, pod: &str) -> Result<Value, LabError> {
        self.json(&["config", kind, "-n", namespace, pod])
    }

    /// The process of `lateen up`.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// What `lateen up` has printed.
    pub fn log(&self) -> String {
        let path = self.directory.as_ref().map(|d| d.path().join("up.log"));
        path.and_then(|p| fs::read(p).ok()).map_or_else(String::new, |bytes| String::from_utf8_lossy(&bytes).into())
    }

    /// Sends Ctrl-C and waits for the end.
    ///
    /// # Errors
    /// [`LabError::NotReady`] if it does not end in time.
    pub fn stop(mut self) -> Result<String, LabError> {
        self.interrupt(Signal::SIGINT)
    }

    /// Sends SIGKILL to `lateen up` and waits for its end: what the mesh leaves behind then is what the next start must clean.
    ///
    /// # Errors
    /// [`LabError::NotReady`] if it does not end in time.
    pub fn sigkill(&mut self) -> Result<String, LabError> {
        self.interrupt(Signal::SIGKILL)
    }

    fn interrupt(&mut self, signal: Signal) -> Result<String, LabError> {
        if !self.has_ended {
            // The process is our child and has not been waited for, so the number is still its own.
            let _ = kill(self.pid, signal);
        }
        let (status, log) = (self.wait_for_end(Self::END_PATIENCE), self.log_end());
        status.ok_or_else(|| LabError::NotReady { patience: Self::END_PATIENCE, status: format!("{signal} sent"), log })
    }

    /// How `lateen up` ended, if it does so within `patience`.
    fn wait_for_end(&mut self, patience: Duration) -> Option<String> {
        if self.has_ended {
            return Some("ended before".into());
        }
        let status = match self.ended.get_mut().unwrap_or_else(PoisonError::into_inner).recv_timeout(patience) {
            Err(RecvTimeoutError::Timeout) => return None,
            Err(RecvTimeoutError::Disconnected) => "unknown status".into(),
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(e)) => e.to_string(),
        };
        self.has_ended = true;
        Some(status)
    }

    fn json<T: for<'de> Deserialize<'de>>(&self, arguments: &[&str]) -> Result<T, LabError> {
        let output = self.run(&[arguments, &["--name", &self.name, "-o", "json"]].concat())?;
        parse(&arguments.join(" "), &output)
    }

    fn run(&self, arguments: &[&str]) -> Result<Output, LabError> {
        let output = Command::new(&self.binary).args(arguments).stdin(Stdio::null()).output();
        output.map_err(|source| LabError::Io { what: format!("lateen {}", arguments.join(" ")), source })
    }

    fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for LateenUp {
    fn drop(&mut self) {
        if !self.has_ended && self.interrupt(Signal::SIGINT).is_err() {
            let _ = self.run(&["down", "--name", &self.name]);
            let _ = self.interrupt(Signal::SIGKILL);
        }
        if thread::panicking()
            && let Some(directory) = self.directory.take()
        {
            eprintln!("output of lateen up kept in {}", directory.keep().display());
        }
    }
}

/// Waits for a child in a thread of its own, so that waiting can have a limit.
fn watch(mut child: Child) -> (Pid, Receiver<io::Result<ExitStatus>>) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("Linux process numbers fit in 22 bits"));
    let (sender, ended) = channel();
    thread::spawn(move || {
        // Nobody listens any more if the guard is gone.
        let _ = sender.send(child.wait());
    });
    (pid, ended)
}

fn parse<T: for<'de> Deserialize<'de>>(command: &str, output: &Output) -> Result<T, LabError> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(LabError::Command { command: command.into(), status: output.status.to_string(), stderr });
    }
    serde_json::from_str(&text).map_err(|source| LabError::Json { command: command.into(), source, output: text })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A program that speaks the commands this module uses: ready at the third look, ended by SIGINT, also where whoever runs the
    /// tests ignores that signal (a shell's job in the background), which a shell script could not undo.
    const FAKE: &str = r#"#!/usr/bin/env -S --default-signal=INT sh
here=$(dirname "$0")
case "$1" in
up) echo "up $*"; [ "$2" = broken ] && { echo "no such directory"; exit 3; }
    trap 'echo interrupted; exit 0' INT
    while :; do sleep 0.02; done ;;
status) echo x >> "$here/looks"
    if [ "$(wc -l < "$here/looks")" -ge 3 ]; then ready=true; else ready=false; fi
    printf '{"control":{"pid":7,"ready":true},"pods":[{"namespace":"a","name":"b","ip":"10.0.0.1","labels":{"app":"x"},
      "service_account":"s","ready":%s,"proxy_pid":8,"app_pids":[9],"xds":{"CDS":"synced"}}]}' "$ready" ;;
exec) shift 6; shift; "$@" ;;
config) echo '[{"name":"outbound|80||x"}]' ;;
esac
"#;

    fn fake() -> (TempDir, PathBuf) {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("lateen");
        fs::write(&path, FAKE).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        (directory, path)
    }

    #[test]
    fn a_mesh_from_start_to_stop() {
        let (_directory, binary) = fake();
        let mesh = LateenUp::start(&binary, "test", &["dir"]).unwrap();
        let status = mesh.status().unwrap();
        assert!(status.is_ready());
        assert_eq!(status.with_label("a", "app", "x").count(), 1);
        assert_eq!(status.pod("a", "b").unwrap().proxy_pid, Some(8));
        assert_eq!(mesh.exec_json("a", "b", &["echo", "[1]"]).unwrap(), serde_json::json!([1]));
        assert_eq!(mesh.exec("a", "b", &["sh", "-c", "exit 5"]).unwrap().status.code(), Some(5));
        assert!(matches!(mesh.exec_json("a", "b", &["false"]), Err(LabError::Command { .. })));
        assert_eq!(mesh.config("clusters", "a", "b").unwrap()[0]["name"], "outbound|80||x");
        assert!(mesh.log().contains("up dir --name test"));
        assert!(mesh.stop().unwrap().contains("exit status: 0"));
    }

    #[test]
    fn a_mesh_that_does_not_start_is_told_with_its_output() {
        let (_directory, binary) = fake();
        let error = LateenUp::start(&binary, "test", &["broken"]).unwrap_err();
        assert!(matches!(&error, LabError::Ended { log, .. } if log.contains("no such directory")), "{error}");
    }
}
