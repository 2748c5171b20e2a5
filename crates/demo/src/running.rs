//! The process that runs the mesh: this program again, as `lateen up`.
//!
//! It is in a process group of its own, so that Ctrl-C reaches the demonstration alone, which then stops the mesh in order.
//! The kernel tells it when the demonstration dies, so that nothing is left even after SIGKILL.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use lateen_local::MeshName;
use lateen_local::cli::Up;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::manifests::remove_above;

/// A machine that needs longer for ten pods has another problem.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// Longer than the mesh gives its pods.
const STOPPED_WITHIN: Duration = Duration::from_secs(60);

/// The running mesh.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    started: Instant,
}

impl Running {
    /// Starts it; its progress goes to standard error.
    pub(crate) fn start(name: &MeshName, manifests: PathBuf, logs: &Path) -> Result<Self, String> {
        let started = Instant::now();
        let program = std::env::current_exe().map_err(|e| format!("cannot find this program: {e}"))?;
        let mut command = Command::new(program);
        command.args(["demo", "--name", name.as_str(), "--mesh-for", &std::process::id().to_string(), "--manifests"]);
        command.arg(manifests).arg("--log-dir").arg(logs);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
        let child = command.spawn().map_err(|e| format!("cannot start the mesh: {e}"))?;
        Ok(Self { child, started })
    }

    /// Waits until every pod is ready; returns how long that took, in seconds.
    pub(crate) async fn until_ready(&mut self) -> Result<f32, String> {
        let stdout = self.child.stdout.take().ok_or("the mesh was waited for before")?;
        let mut line = String::new();
        // `lateen up -o json` says one thing on standard output: its status, when it is ready.
        match timeout(READY_WITHIN, BufReader::new(stdout).read_line(&mut line)).await {
            Ok(Ok(length)) if length > 0 => Ok(self.started.elapsed().as_secs_f32()),
            Ok(_) => Err(self.ended().await),
            Err(_) => Err(format!("the mesh is not ready after {} s", READY_WITHIN.as_secs())),
        }
    }

    /// Waits until it ends by itself; returns what to say about that.
    pub(crate) async fn ended(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => format!("the mesh ended ({status})"),
            Err(e) => format!("the mesh cannot be waited for: {e}"),
        }
    }

    /// Whether it has ended, and has been waited for.
    pub(crate) fn has_ended(&self) -> bool {
        self.child.id().is_none()
    }

    /// Stops it and waits until nothing of it is left.
    pub(crate) async fn stop(&mut self) -> Result<(), String> {
        // Absent if it has ended by itself.
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        match timeout(STOPPED_WITHIN, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            // It takes SIGTERM in hand before it makes anything.
            Ok(Ok(status)) if status.signal() == Some(Signal::SIGTERM as i32) => Ok(()),
            Ok(Ok(status)) => Err(format!("the mesh did not stop in order ({status})")),
            Ok(Err(e)) => Err(e.to_string()),
            Err(_) => {
                let _ = self.child.kill().await;
                Err(format!("the mesh did not stop within {} s and was killed", STOPPED_WITHIN.as_secs()))
            }
        }
    }
}

/// `lateen up`, as people would type it.
#[derive(Parser)]
struct Typed {
    #[command(flatten)]
    up: Up,
}

/// What the child does: runs the mesh until it is told to end, or until its parent has died.
pub(crate) fn be_the_mesh(parent: i32, name: &MeshName, manifests: &Path, logs: &Path) -> Result<ExitCode, String> {
    prctl::set_pdeathsig(Signal::SIGTERM).map_err(|e| format!("cannot ask for word of the parent's end: {e}"))?;
    let orphaned = || getppid() != Pid::from_raw(parent);
    if orphaned() {
        return Err("the demonstration has ended already".to_owned());
    }
    let typed = ["lateen up", "-o", "json", "--name", name.as_str(), "--log-dir"].map(Into::into);
    let typed = typed.into_iter().chain([logs.as_os_str().to_owned(), manifests.as_os_str().to_owned()]);
    let up = Typed::try_parse_from(typed).map_err(|e| e.to_string())?.up;
    let code = up.run();
    if orphaned() {
        remove_above(manifests);
    }
    Ok(code)
}
