//! The subcommands `up`, `down`, `status`, `exec` and `capture`.

mod capture;
mod exec;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

pub use capture::Capture;
pub use exec::Exec;

use crate::capturing::Choice;
use crate::client::Client;
use crate::engine::Engine;
use crate::launcher::{self, Options};
use crate::state_dir::MeshName;
use crate::status::table;

/// How a command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Run a mesh on this machine from Kubernetes and Istio manifests, until Ctrl-C
///
/// Every pod is a network namespace with an address of its own, every container a host process (`command`, `args`; the image
/// is not used), and the sidecar is injected by the same rules as in a cluster. No root is needed. Editing a manifest is
/// applying it; a document that is wrong is refused alone, and what was in force stays.
///
/// Service names resolve under all their short names; there is no way out of the mesh, so no other names do. Probes are
/// checked every 100 ms until their first success, and as they say afterwards.
#[derive(Debug, Args)]
pub struct Up {
    /// Files, or directories with *.yaml, *.yml and *.json
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The mesh's name, to run several side by side
    #[arg(long, default_value = "default")]
    name: MeshName,
    /// Keep the logs of all processes in this directory (otherwise they go with the mesh)
    #[arg(long, value_name = "DIR")]
    log_dir: Option<PathBuf>,
    /// What runs as sidecar: `lateen`, or `envoy=PATH` for a real Envoy, to compare the two
    ///
    /// With Envoy there are no Istio metrics: the filters that make them are in Istio's own build alone.
    #[arg(long, value_name = "ENGINE", default_value = "lateen")]
    sidecar: Engine,
    /// How pods' traffic reaches their sidecars; `lateen status` tells what each pod has, and why
    #[arg(long, env = "LATEEN_CAPTURE", value_enum, default_value = "auto", value_name = "METHOD")]
    capture: Choice,
    /// Hand over what applications and their sidecars send each other in the kernel, past TCP: faster, not quite like TCP
    ///
    /// A blocking read may end with EAGAIN, SO_RCVLOWAT and MSG_WAITALL do not hold, splice from the socket finds nothing, closing
    /// with unread data does not reset the connection, and the counters of TCP_INFO stand still. Needs capture by eBPF and
    /// Linux 6.13.
    #[arg(long, env = "LATEEN_ACCELERATE")]
    accelerate: bool,
    /// `json`: print the status as JSON when the mesh is ready, and everything else on standard error
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

impl Up {
    /// Runs the mesh until it ends.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let json = self.output == Output::Json;
        let options = Options {
            paths: self.paths,
            name: self.name,
            log_dir: self.log_dir,
            engine: self.sidecar,
            capture: self.capture,
            accelerate: self.accelerate,
            json,
        };
        match launcher::up(&options) {
            Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
            Err(e) => fail(&e),
        }
    }
}

/// Stop a mesh that `lateen up` runs, and wait until nothing of it is left
#[derive(Debug, Args)]
pub struct Down {
    /// The mesh's name
    #[arg(long, default_value = "default")]
    name: MeshName,
}

impl Down {
    /// Stops the mesh.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match launcher::down(&self.name) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => fail(&e),
        }
    }
}

/// Show the control plane and the pods of a running mesh
///
/// The JSON has `control` (`pid`, `ready`) and `pods`, each with `namespace`, `name`, `ip`, `labels`, `service_account`,
/// `ready`, `proxy_pid`, `app_pids`, `capture` (`method`, `reason`, `accelerated`) and `xds`, where each type of configuration is `synced`, `stale` or `nack: REASON`.
/// Process ids are as seen outside the mesh.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The mesh's name
    #[arg(long, default_value = "default")]
    name: MeshName,
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

impl StatusArgs {
    /// Prints the status.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let result = Client::connect(&self.name).and_then(|mesh| runtime()?.block_on(mesh.status()));
        let status = match result {
            Ok(status) => status,
            Err(e) => return fail(&e),
        };
        let text = match self.output {
            Output::Table => table(&status),
            Output::Json => format!("{}\n", serde_json::to_string_pretty(&status).unwrap_or_default()),
        };
        print(&text)
    }
}

/// Internal: the first process of a mesh.
#[derive(Debug, Args)]
pub struct Supervisor {}

impl Supervisor {
    /// The hidden subcommand's name.
    pub const NAME: &str = crate::supervisor::SUBCOMMAND;

    /// Runs it.
    #[must_use]
    pub fn run(self) -> ExitCode {
        crate::supervisor::main()
    }
}

/// Internal: what stands between the supervisor and a process.
#[derive(Debug, Args)]
pub struct Init {}

impl Init {
    /// The hidden subcommand's name.
    pub const NAME: &str = crate::init::SUBCOMMAND;

    /// Runs it.
    #[must_use]
    pub fn run(self) -> ExitCode {
        crate::init::main()
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| format!("cannot start: {e}"))
}

/// Prints on standard output; a reader that has gone is no failure.
fn print(text: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => fail(&e.to_string()),
        _ => ExitCode::SUCCESS,
    }
}

fn fail(message: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "error: {message}");
    ExitCode::FAILURE
}
