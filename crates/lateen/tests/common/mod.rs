//! A mesh of its own for each test: the real binary in real namespaces.

#![allow(dead_code, reason = "each test program uses its part")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// The binary under test.
pub(crate) fn lateen() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_lateen"))
}

/// Waits until `check` gives something; panics with `what` after a minute, which no healthy machine needs.
pub(crate) fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        #[expect(clippy::disallowed_methods, reason = "polls other processes; there is no worker to block")]
        std::thread::sleep(Duration::from_millis(25));
    }
}

/// A running `lateen up`, stopped and checked for leftovers when dropped.
pub(crate) struct Mesh {
    pub(crate) name: String,
    pub(crate) dir: tempfile::TempDir,
    child: Child,
    as_user: Option<u32>,
    options: Vec<String>,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Mesh {
    /// Starts `lateen up` on a directory with one manifest.
    pub(crate) fn start(manifest: &str) -> Self {
        Self::start_as(manifest, None)
    }

    /// Starts it with further options.
    pub(crate) fn start_with(manifest: &str, options: &[String]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), manifest, None, options.to_vec())
    }

    /// Starts it as another user.
    pub(crate) fn start_as(manifest: &str, as_user: Option<u32>) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), manifest, as_user, Vec::new())
    }

    /// Starts it with the runtime directory of another mesh.
    pub(crate) fn start_beside(other: &Self, manifest: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(other.dir.path().join("runtime"), dir.path().join("runtime")).unwrap();
        Self::start_in(dir, manifest, other.as_user, Vec::new())
    }

    fn start_in(dir: tempfile::TempDir, manifest: &str, as_user: Option<u32>, options: Vec<String>) -> Self {
        let name = format!("t{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let manifests = dir.path().join("manifests");
        fs::create_dir(&manifests).unwrap();
        fs::write(manifests.join("all.yaml"), manifest).unwrap();
        open_to_all(dir.path());
        open_to_all(&manifests);
        let child = Self::spawn(&name, dir.path(), as_user, &options);
        Self { name, dir, child, as_user, options }
    }

    fn spawn(name: &str, dir: &Path, as_user: Option<u32>, options: &[String]) -> Child {
        let out = fs::File::create(dir.join("up.out")).unwrap();
        let mut command = command(as_user, dir);
        command.arg("up").args(options).arg("--name").arg(name).arg(dir.join("manifests"));
        command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out).spawn().unwrap()
    }

    /// Starts it again after [`Self::kill`].
    pub(crate) fn start_again(&mut self) {
        self.child = Self::spawn(&self.name, self.dir.path(), self.as_user, &self.options);
    }

    /// What `lateen up` has printed.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(self.dir.path().join("up.out")).unwrap()
    }

    /// Replaces the manifest, as an editor would.
    pub(crate) fn write(&self, manifest: &str) {
        let path = self.dir.path().join("manifests/all.yaml");
        fs::write(path.with_extension("new"), manifest).unwrap();
        fs::rename(path.with_extension("new"), path).unwrap();
    }

    /// `lateen ARGS… --name NAME`.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = command(self.as_user, self.dir.path());
        command.arg(args[0]).args(["--name", &self.name]).args(&args[1..]);
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a shell script inside a pod; returns its output and exit status.
    pub(crate) fn sh(&self, namespace: &str, pod: &str, script: &str) -> (String, i32) {
        let out = self.run(&["exec", "-n", namespace, pod, "--", "sh", "-c", script]);
        let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        (text.trim().to_owned(), out.status.code().unwrap_or(-1))
    }

    /// The status, if the mesh answers.
    pub(crate) fn status(&self) -> Option<Value> {
        serde_json::from_slice(&self.run(&["status", "-o", "json"]).stdout).ok()
    }

    /// Waits until the status is as wanted.
    pub(crate) fn wait(&mut self, what: &str, mut check: impl FnMut(&[Value]) -> bool) -> Value {
        let start = Instant::now();
        loop {
            if let Some(status) = self.status()
                && check(status["pods"].as_array().unwrap())
            {
                return status;
            }
            let ended = self.child.try_wait().unwrap();
            let late = start.elapsed() > Duration::from_secs(60);
            assert!(ended.is_none() && !late, "{what}: up ended: {ended:?}; it printed:\n{}", self.output());
            #[expect(clippy::disallowed_methods, reason = "polls another process; there is no worker to block")]
            std::thread::sleep(Duration::from_millis(25));
        }
    }

    /// Waits until there are `count` pods and all are ready.
    pub(crate) fn wait_ready(&mut self, count: usize) -> Value {
        self.wait(&format!("{count} ready pods"), |pods| pods.len() == count && pods.iter().all(|p| p["ready"] == true))
    }

    /// The process id of `lateen up`.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// Every process below `lateen up`, as this test sees them.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let all: Vec<(i32, i32)> = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|e| {
                let pid: i32 = e.ok()?.file_name().to_str()?.parse().ok()?;
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
                let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
                Some((pid, parent))
            })
            .collect();
        let mut found = vec![self.pid().as_raw()];
        let mut next = 0;
        while let Some(parent) = found.get(next).copied() {
            found.extend(all.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
            next += 1;
        }
        found
    }

    /// Kills one process of the mesh without warning, and waits until `pids` are all gone.
    pub(crate) fn kill(&mut self, victim: Pid, pids: &[i32]) {
        kill(victim, Signal::SIGKILL).unwrap();
        let _ = self.child.wait();
        eventually("all processes are gone", || pids.iter().all(|p| !alive(*p)).then_some(()));
    }

    /// Stops the mesh with SIGINT and checks that nothing of it is left; returns its exit status.
    pub(crate) fn stop(&mut self) -> i32 {
        let pids = self.processes();
        let _ = kill(self.pid(), Signal::SIGINT);
        let code = self.child.wait().unwrap().code().unwrap_or(-1);
        for pid in pids {
            assert!(!alive(pid), "process {pid} is left");
        }
        let state = self.state_dir();
        assert!(!state.exists(), "{} is left", state.display());
        code
    }

    /// Where the mesh keeps its files.
    pub(crate) fn state_dir(&self) -> PathBuf {
        match self.as_user {
            None if nix::unistd::Uid::effective().is_root() => PathBuf::from("/run/lateen").join(&self.name),
            Some(_) => self.dir.path().join("runtime/lateen").join(&self.name),
            None => self.dir.path().join("runtime/lateen").join(&self.name),
        }
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = kill(self.pid(), Signal::SIGTERM);
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "lateen up printed:\n{}", self.output());
        }
    }
}

/// Whether a process exists and is no zombie.
pub(crate) fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
}

/// The binary, with a runtime directory of the test's own; as another user, a copy that this user can reach.
fn command(as_user: Option<u32>, dir: &Path) -> Command {
    let runtime = dir.join("runtime");
    if !runtime.exists() {
        fs::create_dir(&runtime).unwrap();
        open_to_all(&runtime);
    }
    // Also where whoever runs the tests ignores SIGINT (a shell's job in the background), Ctrl-C is to have its effect.
    let mut command = Command::new("env");
    command.arg("--default-signal=INT");
    match as_user {
        None => command.arg(lateen()),
        Some(uid) => {
            use std::os::unix::process::CommandExt;
            let copy = dir.join("lateen");
            if !copy.exists() {
                fs::copy(lateen(), &copy).unwrap();
            }
            command.arg(copy).uid(uid).gid(uid)
        }
    };
    command.env("XDG_RUNTIME_DIR", runtime);
    command
}
