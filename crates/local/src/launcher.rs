//! The process that people start and see (`lateen up`): it makes the mesh's namespaces, starts the supervisor in them,
//! passes Ctrl-C on, and removes the mesh's files when all is over.

use std::env;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use lateen_capture::process::{Launch, LaunchError, launch, reap_one, user_namespace_advice};
use lateen_capture::sandbox::is_privileged;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, pipe2};

use crate::capturing::Choice;
use crate::engine::Engine;
use crate::host_ports;
use crate::resources::{ManifestPath, any_file};
use crate::state_dir::{Claim, MeshName, StateDir};
use crate::supervisor::{self, HOST_PORTS_FD, LIFELINE_FD, LOCK_FD, SPEC_FD, Spec};

/// What to run, and how.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) name: MeshName,
    pub(crate) log_dir: Option<PathBuf>,
    pub(crate) engine: Engine,
    pub(crate) capture: Choice,
    pub(crate) accelerate: bool,
    pub(crate) json: bool,
}

/// Variables that every process of the mesh gets from the environment of `lateen up`.
const PASSED_TO_ALL: [&str; 12] =
    ["PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "TERM", "PYENV_ROOT", "VIRTUAL_ENV", "LD_LIBRARY_PATH"];
/// Prefixes of variables that sidecars get, and names.
const PASSED_TO_PROXIES: [&str; 4] = ["SECRET_TTL", "SECRET_GRACE_PERIOD_RATIO", "LATEEN_LOG", "ISTIO_META_"];
/// Prefixes of variables that the control plane gets.
const PASSED_TO_CONTROL: [&str; 6] =
    ["PILOT_", "CITADEL_", "DEFAULT_WORKLOAD_CERT_TTL", "MAX_WORKLOAD_CERT_TTL", "ENABLE_", "LATEEN_LOG"];

/// Runs a mesh until it ends; returns the exit status.
pub(crate) fn up(options: &Options) -> Result<i32, String> {
    let manifests = manifests(&options.paths)?;
    let engine = options.engine.clone().resolved()?;
    if options.accelerate && engine != Engine::Lateen {
        return Err("--accelerate is for Lateen's sidecars: with another one, an application that is slow to read would lose its connection".to_owned());
    }
    let dir = StateDir::of(&options.name);
    // From here on there is something to clean up, so no signal may end this process just like that.
    let signals = block_signals()?;
    dir.sweep();
    let claim = dir.claim().map_err(|e| e.to_string())?;
    let logs = match &options.log_dir {
        None => dir.logs(),
        Some(path) => {
            fs::create_dir_all(path).map_err(|e| format!("--log-dir {}: {e}", path.display()))?;
            path.canonicalize().map_err(|e| format!("--log-dir {}: {e}", path.display()))?
        }
    };
    let spec = Spec {
        dir,
        logs,
        manifests,
        json: options.json,
        engine,
        capture: options.capture,
        accelerate: options.accelerate,
        base_environment: environment(&PASSED_TO_ALL, false),
        proxy_environment: environment(&PASSED_TO_PROXIES, true),
        control_environment: environment(&PASSED_TO_CONTROL, true),
    };
    // The write end stays open as long as this process lives, which is what the supervisor watches.
    let (lifeline, _alive) = pipe2(OFlag::O_CLOEXEC).map_err(|e| e.to_string())?;
    let (outside, inside) = UnixStream::pair().map_err(|e| e.to_string())?;
    let supervisor = start(&spec, &claim, &lifeline, &inside)?;
    drop((lifeline, inside));
    // Only now: a process with threads must not be the one that makes namespaces. Signals are blocked in the thread, too.
    std::thread::spawn(move || host_ports::serve(&outside));
    wait(supervisor, &signals)
}

/// The paths as given and as they are found from anywhere.
fn manifests(paths: &[PathBuf]) -> Result<Vec<ManifestPath>, String> {
    let manifests: Vec<ManifestPath> = paths
        .iter()
        .map(|written| {
            let path = written.canonicalize().map_err(|e| format!("{}: {e}", written.display()))?;
            Ok(ManifestPath { path, written: written.clone() })
        })
        .collect::<Result<_, String>>()?;
    if any_file(&manifests) {
        return Ok(manifests);
    }
    let shown: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
    Err(format!("no manifest (*.yaml, *.yml, *.json) in {}", shown.join(", ")))
}

fn environment(names: &[&str], prefixes: bool) -> Vec<(String, String)> {
    env::vars().filter(|(name, _)| names.iter().any(|n| if prefixes { name.starts_with(n) } else { name == n })).collect()
}

fn start(spec: &Spec, claim: &Claim, lifeline: &impl AsFd, host_ports: &impl AsFd) -> Result<Pid, String> {
    let failed = |e: std::io::Error| e.to_string();
    let mut description = File::from(memfd_create(c"lateen-mesh", MFdFlags::MFD_CLOEXEC).map_err(|e| e.to_string())?);
    serde_json::to_writer(&description, spec).map_err(|e| e.to_string())?;
    description.flush().map_err(failed)?;
    description.rewind().map_err(failed)?;
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let mut namespaces = CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    if !is_privileged() {
        namespaces |= CloneFlags::CLONE_NEWUSER;
    }
    let environment = env::vars_os().filter_map(|(k, v)| {
        let mut pair = k.into_encoded_bytes();
        pair.push(b'=');
        pair.extend(v.into_encoded_bytes());
        CString::new(pair).ok()
    });
    let program = Launch {
        program: c"/proc/self/exe".to_owned(),
        arguments: vec![c"lateen".to_owned(), CString::new(supervisor::SUBCOMMAND).unwrap_or_default()],
        environment: environment.collect(),
        descriptors: vec![
            (stdin.as_fd(), 0),
            (stdout.as_fd(), 1),
            (stderr.as_fd(), 2),
            (description.as_fd(), SPEC_FD),
            (claim.lock().as_fd(), LOCK_FD),
            (lifeline.as_fd(), LIFELINE_FD),
            (host_ports.as_fd(), HOST_PORTS_FD),
        ],
        namespaces,
    };
    launch(&program).map_err(|e| explain(&e))
}

fn explain(error: &LaunchError) -> String {
    let forbidden = matches!(error, LaunchError::Clone(_) | LaunchError::Map(_));
    if !forbidden || is_privileged() {
        return format!("cannot start the mesh: {error}");
    }
    let advice = user_namespace_advice().unwrap_or_else(|| match nix::unistd::Uid::effective().is_root() {
        true => "this looks like a container without the privileges for it; with Docker, `--privileged` gives them".to_owned(),
        false => "this system does not let you make user namespaces (a container's security profile may forbid it); \
                  run as root instead"
            .to_owned(),
    });
    format!("cannot make namespaces for the mesh: {advice} ({error})")
}

/// Blocks the signals that [`wait`] waits for, here and in the supervisor, which unblocks them when it can take them.
fn block_signals() -> Result<SigSet, String> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGCHLD] {
        signals.add(signal);
    }
    // Started by `nohup`, the mesh outlives its terminal.
    if !ignores_hangup() {
        signals.add(Signal::SIGHUP);
    }
    signals.thread_block().map_err(|e| format!("cannot block signals: {e}"))?;
    Ok(signals)
}

/// Waits for the supervisor; the first Ctrl-C or SIGTERM asks it to stop, a second one kills it.
fn wait(supervisor: Pid, signals: &SigSet) -> Result<i32, String> {
    let mut asked = false;
    loop {
        // Also before the first wait: it may have ended before the signals were blocked.
        while let Ok(Some((pid, code))) = reap_one() {
            if pid != supervisor {
                continue;
            }
            return match code.code() {
                signal @ 129.. if !asked => {
                    Err(format!("the mesh's supervisor was ended by signal {}, and the whole mesh with it", signal - 128))
                }
                code => Ok(code),
            };
        }
        match signals.wait() {
            Ok(Signal::SIGCHLD) | Err(_) => {}
            Ok(_) => {
                let _ = kill(supervisor, if asked { Signal::SIGKILL } else { Signal::SIGTERM });
                asked = true;
            }
        }
    }
}

/// Whether this process was started with SIGHUP ignored.
fn ignores_hangup() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|l| l.strip_prefix("SigIgn:")).and_then(|v| u64::from_str_radix(v.trim(), 16).ok());
    // Bit 0 is signal 1.
    ignored.is_some_and(|set| set & 1 != 0)
}

/// Asks the mesh of a name to stop and waits until its name is free.
pub(crate) fn down(name: &MeshName) -> Result<(), String> {
    let dir = StateDir::of(name);
    let pid = Pid::from_raw(dir.running().map_err(|e| e.to_string())?);
    kill(pid, Signal::SIGTERM).map_err(|e| format!("cannot stop the mesh (pid {pid}): {e}"))?;
    /// As long as an orderly stop may take, and a little more.
    const PATIENCE: u32 = 150;
    for _ in 0..PATIENCE {
        if dir.running().is_err() {
            return Ok(());
        }
        // A command with nothing else to do; there is no runtime here whose worker it could block.
        let _ = nix::poll::poll(&mut [], 100_u16);
    }
    kill(pid, Signal::SIGKILL).map_err(|e| format!("cannot kill the mesh (pid {pid}): {e}"))?;
    Err(format!("the mesh did not stop in time and was killed (pid {pid})"))
}
