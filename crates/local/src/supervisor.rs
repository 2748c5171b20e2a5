//! The first process of a mesh's own process-id namespace (`lateen __supervisor`): when it ends, however it ends, the
//! kernel ends every process of the mesh and removes every namespace, interface and rule.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use lateen_capture::process::{self, inherited};
use lateen_capture::{link, sandbox, services};
use lateen_tls::TokenIssuer;
use nix::sys::signal::{SigSet, Signal};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::announce::announce;
use crate::capturing::{Capturing, Choice};
use crate::container::{BIN_DIR, PROXY_DIR};
use crate::controller::{Controller, follow_manifests, say_new};
use crate::dns::{self, Zone};
use crate::engine::Engine;
use crate::host_ports::HostPorts;
use crate::ipam::Network;
use crate::mesh::{Mesh, Parts};
use crate::report::{Kind, Report};
use crate::resources::{Findings, ManifestPath, Resources, Watch};
use crate::spawn::Spawner;
use crate::state_dir::StateDir;
use crate::{api, control, exec, gateways, publisher};

/// The name of the hidden subcommand.
pub(crate) const SUBCOMMAND: &str = "__supervisor";
/// Where the launcher's descriptors are.
pub(crate) const SPEC_FD: RawFd = 3;
/// Held until the supervisor ends, so that the mesh's name is free only then.
pub(crate) const LOCK_FD: RawFd = 4;
/// Ends when the launcher does.
pub(crate) const LIFELINE_FD: RawFd = 5;

/// Where listening sockets of this machine are asked for.
pub(crate) const HOST_PORTS_FD: RawFd = 6;

/// The issuer of service account tokens, as in a cluster.
pub(crate) const TOKEN_ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// What the launcher tells.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) dir: StateDir,
    pub(crate) logs: PathBuf,
    pub(crate) manifests: Vec<ManifestPath>,
    pub(crate) json: bool,
    /// What runs as sidecar.
    pub(crate) engine: Engine,
    /// How traffic is captured.
    pub(crate) capture: Choice,
    /// Whether it is accelerated.
    #[serde(default)]
    pub(crate) accelerate: bool,
    /// Variables for every process.
    pub(crate) base_environment: Vec<(String, String)>,
    /// Variables for sidecars.
    pub(crate) proxy_environment: Vec<(String, String)>,
    /// Variables for the control plane.
    pub(crate) control_environment: Vec<(String, String)>,
}

/// The program.
pub(crate) fn main() -> ExitCode {
    let report = Report::new(false);
    match start() {
        Ok(code) => code,
        Err(error) => {
            report.say(Kind::Problem, &format!("error: {error}"));
            if let Some(advice) = process::user_namespace_advice() {
                report.say(Kind::Problem, &advice);
            }
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<ExitCode, String> {
    let mut text = String::new();
    let spec = inherited(SPEC_FD).map_err(|_| format!("`lateen {SUBCOMMAND}` is started by `lateen up` only"))?;
    File::from(spec).read_to_string(&mut text).map_err(|e| e.to_string())?;
    let spec: Spec = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let _lock = inherited(LOCK_FD).map_err(|e| format!("no lock: {e}"))?;
    let lifeline = inherited(LIFELINE_FD).map_err(|e| format!("no launcher: {e}"))?;
    let host_ports = HostPorts::new(inherited(HOST_PORTS_FD).map_err(|e| format!("no launcher: {e}"))?);
    process::die_with_parent(Signal::SIGKILL).map_err(|e| e.to_string())?;
    // A session of its own: Ctrl-C is for the launcher, which passes it on.
    let _ = nix::unistd::setsid();
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let outer_proc = OwnedFd::from(File::open("/proc").map_err(|e| format!("/proc: {e}"))?);
    let network = Network::of_this_machine();
    arrange(&spec, network)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(run(spec, network, outer_proc, (lifeline, host_ports)))
}

/// Mounts and network of the mesh, before anything else runs.
fn arrange(spec: &Spec, network: Network) -> Result<(), String> {
    let failed = |e: sandbox::SandboxError| e.to_string();
    let binary = std::env::current_exe().map_err(|e| format!("this program's own path: {e}"))?;
    sandbox::private_mounts().map_err(failed)?;
    sandbox::rebuild_root(&spec.dir.scratch()).map_err(failed)?;
    sandbox::mount_proc().map_err(failed)?;
    // Mount points that every pod needs, made once: containers inherit them.
    for (path, is_dir) in [
        (BIN_DIR, true),
        (PROXY_DIR, true),
        ("/etc/podinfo", true),
        ("/etc/istio/pod", true),
        ("/etc/resolv.conf", false),
        ("/etc/hosts", false),
        ("/etc/nsswitch.conf", false),
    ] {
        sandbox::make_mount_point(Path::new(path), is_dir).map_err(failed)?;
    }
    // Also when the file is replaced meanwhile (by a new build), pods that start later run the same program.
    sandbox::bind_creating(&binary, &Path::new(BIN_DIR).join("lateen"), true).map_err(failed)?;
    link::set_up_bridge(network.bridge).map_err(|e| format!("network of the mesh: {e}"))?;
    services::apply(&[], &network.service_ranges()).map_err(|e| e.to_string())
}

async fn run(
    spec: Spec,
    network: Network,
    outer_proc: OwnedFd,
    (lifeline, host_ports): (OwnedFd, HostPorts),
) -> Result<ExitCode, String> {
    let spawner = Spawner::new(outer_proc).map_err(|e| e.to_string())?;
    let tokens = TokenIssuer::generate(TOKEN_ISSUER).map_err(|e| e.to_string())?;
    let key = spec.dir.token_key();
    fs::write(&key, tokens.public_key_pem()).map_err(|e| format!("{}: {e}", key.display()))?;
    let capturing = Capturing::prepare(spec.capture, spec.accelerate)?;
    let mesh = Mesh::new(Parts {
        dir: spec.dir,
        logs: spec.logs,
        network,
        spawner: spawner.clone(),
        tokens,
        report: Report::new(spec.json),
        engine: spec.engine,
        capturing,
        base_environment: spec.base_environment,
        proxy_environment: spec.proxy_environment,
    });
    let mut children = signal(SignalKind::child()).map_err(|e| e.to_string())?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
    // The launcher has blocked them, so that a Ctrl-C of the first moments is kept and not lost: the first process of a
    // process-id namespace gets no signal for which it has no handler.
    SigSet::all().thread_unblock().map_err(|e| e.to_string())?;
    tokio::spawn(async move {
        while children.recv().await.is_some() {
            spawner.reap();
        }
    });
    // Before the first reading, so that no edit falls between.
    let watch = Watch::new(&spec.manifests).map_err(|e| format!("cannot watch the manifests: {e}"))?;
    let (resources, findings) = Resources::default().reread(&spec.manifests);
    if !mesh.network.ipv6 {
        mesh.report.say(Kind::Note, "this machine has no IPv6: pods have IPv4 addresses only");
    }
    say_new(&mesh, &findings, &Findings::default());
    if resources.len() == 0 {
        let why = if findings.errors.is_empty() { "the manifests are empty" } else { "no manifest is valid" };
        return Err(format!("{why}: nothing to run"));
    }
    mesh.set_resources(resources);
    let (zone, zone_reader) = watch::channel(Arc::new(Zone::default()));
    dns::serve(mesh.network.node_ip(), zone_reader).await.map_err(|e| format!("DNS server: {e}"))?;
    api::serve(mesh.clone()).map_err(|e| format!("{}: {e}", mesh.dir.api_socket().display()))?;
    exec::serve(mesh.clone()).map_err(|e| format!("{}: {e}", mesh.dir.exec_socket().display()))?;
    tokio::spawn(publisher::publish(mesh.clone(), zone));
    let control = tokio::spawn(control::keep(mesh.clone(), spec.manifests.clone(), spec.control_environment));
    tokio::spawn(follow_manifests(mesh.clone(), spec.manifests, watch, findings));
    let controller = tokio::spawn(Controller::new(mesh.clone()).run());
    tokio::spawn(announce(mesh.clone()));
    tokio::spawn(gateways::follow(mesh.clone(), host_ports));
    let mut lifeline = pipe::Receiver::from_owned_fd(lifeline).map_err(|e| e.to_string())?;
    let mut nothing = [0];
    tokio::select! {
        _ = terminate.recv() => {}
        () = mesh.stopping() => {}
        // The launcher was killed: its terminal is gone, and so are we.
        _ = lifeline.read(&mut nothing) => return Ok(ExitCode::FAILURE),
    }
    mesh.report.say(Kind::Note, "stopping");
    mesh.stop();
    let orderly = async {
        let _ = controller.await;
        // A pod that the controller was just making is asked to stop as well.
        for pod in mesh.pods() {
            pod.stop();
        }
        let _ = control.await;
    };
    /// A little more than the grace period of containers at the end.
    const PATIENCE: Duration = Duration::from_secs(10);
    if tokio::time::timeout(PATIENCE, orderly).await.is_err() {
        mesh.report.say(Kind::Problem, "some processes did not end in time; they are killed");
    }
    mesh.report.say(Kind::Done, "stopped");
    Ok(ExitCode::SUCCESS)
}
