//! The small program between the supervisor and every process that it starts (`lateen __init`).
//!
//! The supervisor has threads, so what must happen between `fork` and `exec` (entering namespaces, mounting, giving up
//! powers) happens here instead, in a fresh, single-threaded process. For a container it also stays, as the first process
//! of the container's process-id namespace: it passes signals on, reaps, and takes everything with it when it ends.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lateen_capture::process::{self, fork_single_threaded, inherited, pid_seen_in, reap_one};
use lateen_capture::sandbox::{self, Powers};
use lateen_capture::terminal;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// Where the descriptors are that the supervisor hands over.
pub(crate) const SPEC_FD: RawFd = 3;
/// Where the process id, or why there is none, is written.
pub(crate) const REPORT_FD: RawFd = 4;
/// `/proc` as mounted outside the mesh.
pub(crate) const OUTER_PROC_FD: RawFd = 5;
/// The network namespace to enter, if [`Spec::network`] says that there is one.
pub(crate) const NETWORK_FD: RawFd = 6;

/// The name of the hidden subcommand.
pub(crate) const SUBCOMMAND: &str = "__init";

/// What to start, and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// Where it runs.
    pub(crate) place: Place,
    /// Whether a network namespace is handed over.
    pub(crate) network: bool,
    /// What it may do.
    pub(crate) role: Role,
    /// The program and its arguments; the program is searched in the `PATH` of `environment`.
    pub(crate) command: Vec<String>,
    /// Its whole environment.
    pub(crate) environment: Vec<(String, String)>,
    /// Its working directory; `/` if absent.
    pub(crate) working_dir: Option<PathBuf>,
    /// Whether its standard input is a terminal that is to be its controlling terminal.
    pub(crate) terminal: bool,
}

/// Why nothing was started.
struct Failure {
    /// The exit status that says so.
    status: u8,
    text: String,
}

/// Exit statuses of a command that did not run: as shells have them, and for anything else.
const NOT_FOUND: u8 = 127;
const CANNOT_RUN: u8 = 126;
pub(crate) const FAILED: u8 = 1;

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self { status: FAILED, text }
    }
}

/// Where a process runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Place {
    /// In mounts of its own.
    Own {
        /// Its host name.
        host_name: String,
        /// What it sees where.
        mounts: Vec<Mount>,
        /// Directories that it sees empty.
        hidden: Vec<PathBuf>,
        /// Whether this program was started as the first process of a process-id namespace, and stays.
        contained: bool,
    },
    /// Beside the process of this id.
    Beside(i32),
}

/// A file or directory shown at another place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mount {
    pub(crate) source: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) read_only: bool,
}

/// What a process may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    Application,
    Proxy,
    Control,
}

impl Role {
    const fn powers(self) -> Powers {
        match self {
            Self::Application => Powers::Application,
            Self::Proxy => Powers::Proxy,
            Self::Control => Powers::Nothing,
        }
    }
}

/// The program. Returns only when it could not start anything.
pub(crate) fn main() -> ExitCode {
    let report = match inherited(REPORT_FD) {
        Ok(fd) => fd,
        Err(_) => {
            let _ = writeln!(std::io::stderr(), "error: `lateen {SUBCOMMAND}` is started by `lateen up` only");
            return ExitCode::FAILURE;
        }
    };
    let mut words = File::from(report);
    let Err(failure) = start(&mut words) else { return ExitCode::SUCCESS };
    tell(&failure, &mut words);
    ExitCode::from(failure.status)
}

/// One line for the supervisor.
fn tell(failure: &Failure, report: &mut File) {
    let _ = writeln!(report, "error {} {}", failure.status, failure.text.replace('\n', " "));
}

fn start(report: &mut File) -> Result<(), Failure> {
    process::die_with_parent(Signal::SIGKILL).map_err(|e| format!("cannot follow the supervisor: {e}"))?;
    let mut text = String::new();
    let spec = inherited(SPEC_FD).map_err(|e| format!("no description of what to start: {e}"))?;
    File::from(spec).read_to_string(&mut text).map_err(|e| format!("cannot read what to start: {e}"))?;
    let spec: Spec = serde_json::from_str(&text).map_err(|e| format!("cannot read what to start: {e}"))?;
    let outer = inherited(OUTER_PROC_FD).map_err(|e| format!("no outer /proc: {e}"))?;
    // A session of its own: the terminal's signals are for `lateen up` alone.
    let _ = nix::unistd::setsid();
    if spec.network {
        let network = inherited(NETWORK_FD).map_err(|e| format!("no network namespace: {e}"))?;
        setns(network, CloneFlags::CLONE_NEWNET).map_err(|e| format!("cannot enter the pod's network: {e}"))?;
    }
    let stays = match &spec.place {
        Place::Own { host_name, mounts, hidden, contained } => {
            arrange(host_name, mounts, hidden, *contained)?;
            *contained
        }
        Place::Beside(pid) => {
            enter(*pid)?;
            true
        }
    };
    if !stays {
        return become_program(&spec, report, &outer);
    }
    SigSet::all().thread_block().map_err(|e| format!("cannot block signals: {e}"))?;
    match fork_single_threaded().map_err(|e| format!("cannot fork: {e}"))? {
        None => {
            let _ = process::die_with_parent(Signal::SIGKILL);
            let Err(failure) = become_program(&spec, report, &outer) else { std::process::exit(i32::from(FAILED)) };
            tell(&failure, report);
            std::process::exit(i32::from(failure.status))
        }
        Some(child) => {
            // No more powers than the program has: then it may look at this process, as at its own. Images' scripts write to
            // `/proc/1/fd/1` to be read in the container's log.
            sandbox::keep_only(spec.role.powers()).map_err(|e| e.to_string())?;
            stay(child, report).map_err(Failure::from)
        }
    }
}

fn arrange(host_name: &str, mounts: &[Mount], hidden: &[PathBuf], contained: bool) -> Result<(), String> {
    let failed = |e: sandbox::SandboxError| e.to_string();
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS).map_err(|e| format!("cannot make namespaces: {e}"))?;
    sandbox::private_mounts().map_err(failed)?;
    sandbox::set_host_name(host_name).map_err(failed)?;
    for mount in mounts {
        sandbox::bind_creating(&mount.source, &mount.target, mount.read_only).map_err(failed)?;
    }
    for path in hidden {
        sandbox::tmpfs(path).map_err(failed)?;
    }
    if contained {
        sandbox::mount_proc().map_err(failed)?;
    }
    Ok(())
}

fn enter(pid: i32) -> Result<(), String> {
    let open = |name: &str| -> Result<OwnedFd, String> {
        let path = format!("/proc/{pid}/ns/{name}");
        File::open(&path).map(OwnedFd::from).map_err(|e| format!("the container has just ended ({path}: {e})"))
    };
    let spaces = [
        (open("net")?, CloneFlags::CLONE_NEWNET),
        (open("uts")?, CloneFlags::CLONE_NEWUTS),
        (open("pid")?, CloneFlags::CLONE_NEWPID),
        (open("mnt")?, CloneFlags::CLONE_NEWNS),
    ];
    for (fd, kind) in spaces {
        setns(fd, kind).map_err(|e| format!("cannot enter the container ({kind:?}): {e}"))?;
    }
    Ok(())
}

/// Turns into the program; returns only on failure.
fn become_program(spec: &Spec, report: &mut File, outer: &OwnedFd) -> Result<(), Failure> {
    if spec.terminal {
        terminal::take(std::io::stdin().as_fd()).map_err(|e| format!("cannot use the terminal: {e}"))?;
    }
    let dir = spec.working_dir.as_deref().unwrap_or(Path::new("/"));
    std::env::set_current_dir(dir).map_err(|e| format!("workingDir {}: {e}", dir.display()))?;
    let program = find(spec)?;
    let text = |s: String| CString::new(s).map_err(|_| "a NUL byte in the command or its environment".to_owned());
    let arguments: Vec<CString> = spec.command.iter().cloned().map(text).collect::<Result<_, _>>()?;
    let environment: Vec<CString> = spec.environment.iter().map(|(k, v)| text(format!("{k}={v}"))).collect::<Result<_, _>>()?;
    let pid = pid_seen_in(outer.as_fd()).map_err(|e| format!("cannot tell the process id: {e}"))?;
    sandbox::keep_only(spec.role.powers()).map_err(|e| e.to_string())?;
    process::restore_signals().map_err(|e| format!("cannot restore signals: {e}"))?;
    writeln!(report, "pid {pid}").map_err(|e| format!("cannot report: {e}"))?;
    let path = text(program.to_string_lossy().into_owned())?;
    let Err(errno) = nix::unistd::execve(&path, &arguments, &environment);
    let status = if errno == nix::Error::ENOENT { NOT_FOUND } else { CANNOT_RUN };
    Err(Failure { status, text: format!("cannot run `{}`: {}", program.display(), errno.desc()) })
}

/// The program's path, by `PATH` unless it has a slash.
fn find(spec: &Spec) -> Result<PathBuf, Failure> {
    let name = spec.command.first().filter(|n| !n.is_empty()).ok_or_else(|| "there is no command to run".to_owned())?;
    if name.contains('/') {
        return Ok(PathBuf::from(name));
    }
    let path = spec.environment.iter().rev().find(|(k, _)| k == "PATH").map_or("/usr/bin:/bin", |(_, v)| v.as_str());
    path.split(':')
        .map(|dir| Path::new(dir).join(name))
        .find(|p| nix::unistd::access(p, nix::unistd::AccessFlags::X_OK).is_ok() && p.is_file())
        .ok_or_else(|| Failure { status: NOT_FOUND, text: format!("cannot run `{name}`: not found in PATH ({path})") })
}

/// Passes signals on to `child` until it ends, and ends as it did.
fn stay(child: Pid, report: &mut File) -> Result<(), String> {
    // The report ends when the program runs, so this copy must not stay open.
    drop(std::mem::replace(report, File::open("/dev/null").map_err(|e| format!("/dev/null: {e}"))?));
    loop {
        match SigSet::all().wait() {
            Ok(Signal::SIGCHLD) => {
                while let Ok(Some((pid, code))) = reap_one() {
                    if pid == child {
                        std::process::exit(code.code());
                    }
                }
            }
            Ok(signal) => {
                let _ = kill(child, signal);
            }
            Err(_) => {}
        }
    }
}
