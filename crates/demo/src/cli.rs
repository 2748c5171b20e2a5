//! `lateen demo`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use lateen_local::MeshName;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::manifests::Manifests;
use crate::mesh::Mesh;
use crate::running::{self, Running};
use crate::tour;

/// Run a mesh with services in it, and show feature by feature what it does
///
/// Starts `lateen up` on manifests that are part of this program, sends real traffic, and says what was expected and what was
/// observed. Then the mesh stays up to play with, until Ctrl-C.
#[derive(Debug, Args)]
pub struct Demo {
    /// Take the tour once, then stop; the exit status is 1 if an expectation is not met
    #[arg(long)]
    check: bool,
    /// The mesh's name
    #[arg(long, default_value = "demo")]
    name: MeshName,
    /// Keep the logs of all processes in this directory (otherwise they go with the mesh)
    #[arg(long, value_name = "DIR")]
    log_dir: Option<PathBuf>,
    /// Internal: be the process that runs the mesh, for the demo with this process id.
    #[arg(long, hide = true, value_name = "PID", requires = "log_dir")]
    mesh_for: Option<i32>,
    /// Internal: its manifests.
    #[arg(long, hide = true, value_name = "DIR", requires = "mesh_for")]
    manifests: Option<PathBuf>,
}

impl Demo {
    /// Runs the demonstration; the exit status says whether every expectation was met.
    ///
    /// # Errors
    /// When the mesh cannot be started or does not become ready.
    pub fn run(self) -> Result<ExitCode, String> {
        if let (Some(parent), Some(manifests), Some(logs)) = (self.mesh_for, &self.manifests, &self.log_dir) {
            return running::be_the_mesh(parent, &self.name, manifests, logs);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|e| format!("cannot start: {e}"))?.block_on(self.show())
    }

    async fn show(self) -> Result<ExitCode, String> {
        let mut stop = Stop::new()?;
        let manifests = Manifests::write()?;
        let logs = self.log_dir.clone().unwrap_or_else(|| manifests.logs());
        let mut running = Running::start(&self.name, manifests.path(), &logs)?;
        let result = self.tour(&mut running, &manifests, logs, &mut stop).await;
        if running.has_ended() {
            return result.map(|_| ExitCode::FAILURE);
        }
        say("\nstopping the mesh…\n");
        let ended = running.stop().await;
        let met = result?;
        ended?;
        say("nothing is left of it\n");
        Ok(if met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Whether every expectation was met, or the demonstration was ended before all were looked at.
    async fn tour(&self, running: &mut Running, manifests: &Manifests, logs: PathBuf, stop: &mut Stop) -> Result<bool, String> {
        let seconds = tokio::select! {
            ready = running.until_ready() => ready?,
            () = stop.asked() => return Ok(!self.check),
        };
        say(&format!("the mesh is ready after {seconds:.1} s\n\n{}", tour::introduction(manifests)));
        let mesh = Mesh::new(&self.name, logs)?;
        let summary = tokio::select! {
            summary = tour::take(&mesh, manifests, lateen_local::coloured(&std::io::stdout())) => summary,
            () = stop.asked() => return Ok(!self.check),
        };
        say(&format!("\n{summary}\n"));
        if !self.check {
            say(&tour::invitation(&self.name, manifests));
            tokio::select! {
                () = stop.asked() => {}
                ended = running.ended() => return Err(ended),
            }
            return Ok(true);
        }
        Ok(summary.all_met())
    }
}

/// Ctrl-C, or a request to end.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn new() -> Result<Self, String> {
        let on = |kind| signal(kind).map_err(|e| format!("cannot listen for signals: {e}"));
        Ok(Self { interrupt: on(SignalKind::interrupt())?, terminate: on(SignalKind::terminate())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Prints on standard output; a reader that has gone does not end the demonstration.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
