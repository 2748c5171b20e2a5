//! Starts processes through [`crate::init`] and learns how they end.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use lateen_capture::netns::NetNs;
use lateen_capture::process::{ExitCode, Launch, LaunchError, launch, reap_one};
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::watch;

use crate::init::{self, NETWORK_FD, OUTER_PROC_FD, Place, REPORT_FD, SPEC_FD, Spec};

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpawnError {
    #[error("cannot start a process: {0}")]
    Launch(#[from] LaunchError),
    #[error("cannot prepare a process: {0}")]
    Prepare(#[from] std::io::Error),
    /// In the words of the program between, and with the exit status that says so.
    #[error("{1}")]
    Start(u8, String),
}

impl SpawnError {
    /// The exit status of a command that did not run.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Start(status, _) => *status,
            Self::Launch(_) | Self::Prepare(_) => init::FAILED,
        }
    }
}

impl From<nix::Error> for SpawnError {
    fn from(e: nix::Error) -> Self {
        Self::Prepare(e.into())
    }
}

/// Standard input, output and error of a process.
#[derive(Clone, Copy)]
pub(crate) enum Stdio<'a> {
    /// Nothing, and a log.
    Log(&'a File),
    /// Given descriptors.
    Given([BorrowedFd<'a>; 3]),
}

/// Starts processes. All of this process's children are started here, so that one place reaps them.
pub(crate) struct Spawner {
    outer_proc: OwnedFd,
    null: File,
    running: Mutex<HashMap<i32, watch::Sender<Option<ExitCode>>>>,
}

/// A started process.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pid: Pid,
    outer_pid: i32,
    exit: watch::Receiver<Option<ExitCode>>,
}

impl Spawner {
    /// `outer_proc`: `/proc` as mounted outside.
    pub(crate) fn new(outer_proc: OwnedFd) -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self { outer_proc, null: File::open("/dev/null")?, running: Mutex::default() }))
    }

    /// Starts a process; returns when its program runs, or with why it does not.
    pub(crate) async fn spawn(&self, spec: &Spec, network: Option<&NetNs>, stdio: Stdio<'_>) -> Result<Process, SpawnError> {
        let (pid, exit, report) = self.start(spec, network, stdio)?;
        let mut words = String::new();
        pipe::Receiver::from_owned_fd(report)?.read_to_string(&mut words).await?;
        if let Some((status, error)) = words.lines().find_map(|l| l.strip_prefix("error ")?.split_once(' ')) {
            return Err(SpawnError::Start(status.parse().unwrap_or(init::FAILED), error.to_owned()));
        }
        let outer_pid = words.lines().find_map(|l| l.strip_prefix("pid ")?.parse().ok());
        let outer_pid = outer_pid.ok_or_else(|| SpawnError::Start(init::FAILED, "it was killed before it ran".to_owned()))?;
        Ok(Process { pid, outer_pid, exit })
    }

    fn start(
        &self,
        spec: &Spec,
        network: Option<&NetNs>,
        stdio: Stdio<'_>,
    ) -> Result<(Pid, watch::Receiver<Option<ExitCode>>, OwnedFd), SpawnError> {
        let mut description = File::from(memfd_create(c"lateen-spec", MFdFlags::MFD_CLOEXEC)?);
        serde_json::to_writer(&description, spec).map_err(std::io::Error::from)?;
        description.flush()?;
        description.rewind()?;
        let (report, report_there) = pipe2(OFlag::O_CLOEXEC)?;
        let [stdin, stdout, stderr] = match stdio {
            Stdio::Log(log) => [self.null.as_fd(), log.as_fd(), log.as_fd()],
            Stdio::Given(fds) => fds,
        };
        let mut descriptors = vec![
            (stdin, 0),
            (stdout, 1),
            (stderr, 2),
            (description.as_fd(), SPEC_FD),
            (report_there.as_fd(), REPORT_FD),
            (self.outer_proc.as_fd(), OUTER_PROC_FD),
        ];
        descriptors.extend(network.map(|ns| (ns.as_fd(), NETWORK_FD)));
        let contained = matches!(spec.place, Place::Own { contained: true, .. });
        let program = Launch {
            program: c"/proc/self/exe".to_owned(),
            arguments: vec![c"lateen".to_owned(), CString::new(init::SUBCOMMAND).unwrap_or_default()],
            environment: Vec::new(),
            descriptors,
            namespaces: if contained { CloneFlags::CLONE_NEWPID } else { CloneFlags::empty() },
        };
        // The reaper takes the same lock, so it cannot meet a child that is not in the table yet.
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = launch(&program)?;
        let (ended, exit) = watch::channel(None);
        running.insert(pid.as_raw(), ended);
        Ok((pid, exit, report))
    }

    /// Takes every child that has ended, and tells who waits for it. Called on `SIGCHLD`. Orphans that became ours are
    /// just taken.
    pub(crate) fn reap(&self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        while let Ok(Some((pid, code))) = reap_one() {
            if let Some(ended) = running.remove(&pid.as_raw()) {
                ended.send_replace(Some(code));
            }
        }
    }
}

impl Process {
    /// The process id, as the supervisor sees it.
    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// The program's process id, as people outside see it.
    pub(crate) fn outer_pid(&self) -> i32 {
        self.outer_pid
    }

    /// Sends a signal, unless it has ended.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.exit.borrow().is_none() {
            let _ = kill(self.pid, signal);
        }
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(&self) -> ExitCode {
        let mut exit = self.exit.clone();
        let code = exit.wait_for(Option::is_some).await.ok().and_then(|code| *code);
        // The sender is dropped only with the supervisor itself.
        code.unwrap_or(ExitCode::new(255))
    }

    /// Asks it to end, and makes it end when it has not after `grace`.
    pub(crate) async fn stop(&self, signal: Signal, grace: std::time::Duration) -> ExitCode {
        self.signal(signal);
        match tokio::time::timeout(grace, self.ended()).await {
            Ok(code) => code,
            Err(_) => {
                self.signal(Signal::SIGKILL);
                self.ended().await
            }
        }
    }
}
