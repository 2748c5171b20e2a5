//! Where a running mesh keeps its sockets, locks and logs, and how it is known to run.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use thiserror::Error;

/// The name of a mesh on this machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct MeshName(String);

impl MeshName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MeshName {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let fine = !s.is_empty() && s.len() <= 32 && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fine {
            Ok(Self(s.to_owned()))
        } else {
            Err("a name has 1 to 32 characters: lower-case letters, digits and `-`".to_owned())
        }
    }
}

/// Why a state directory cannot be used.
#[derive(Debug, Error)]
pub(crate) enum StateError {
    #[error("cannot use {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{0} belongs to another user; set XDG_RUNTIME_DIR to a directory of your own")]
    NotOurs(PathBuf),
    #[error("a mesh named `{name}` is running already (pid {pid}): stop it with `lateen down{flag}`, or start this one with `--name OTHER`", flag = flag(.name))]
    Running { name: String, pid: String },
    #[error("no mesh named `{name}` is running{others}; start one with `lateen up PATH`")]
    NotRunning { name: String, others: String },
}

/// How the flag that chooses a mesh is written, with the space before it.
pub(crate) fn flag(name: &str) -> String {
    if name == "default" { String::new() } else { format!(" --name {name}") }
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io { path, source }
}

/// The directory under which every mesh of this user keeps its own.
fn base() -> PathBuf {
    let uid = nix::unistd::Uid::effective();
    if uid.is_root() {
        return PathBuf::from("/run/lateen");
    }
    match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|p| p.is_absolute() && p.is_dir()) {
        Some(runtime) => runtime.join("lateen"),
        None => PathBuf::from(format!("/tmp/lateen-{uid}")),
    }
}

/// The paths of one mesh.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(crate) struct StateDir {
    name: MeshName,
    base: PathBuf,
}

impl StateDir {
    pub(crate) fn of(name: &MeshName) -> Self {
        Self { name: name.clone(), base: base() }
    }

    pub(crate) fn name(&self) -> &str {
        self.name.as_str()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.base.join(self.name.as_str())
    }

    /// The directory that holds every mesh of this user.
    pub(crate) fn all(&self) -> &Path {
        &self.base
    }

    fn lock_path(&self) -> PathBuf {
        self.base.join(format!("{}.lock", self.name.as_str()))
    }

    /// The supervisor's HTTP socket.
    pub(crate) fn api_socket(&self) -> PathBuf {
        self.path().join("supervisor.sock")
    }

    /// Where `exec` sends its descriptors.
    pub(crate) fn exec_socket(&self) -> PathBuf {
        self.path().join("exec.sock")
    }

    /// Where the control plane takes the cluster's state.
    pub(crate) fn control_socket(&self) -> PathBuf {
        self.path().join("control.sock")
    }

    /// The public key of the service account tokens.
    pub(crate) fn token_key(&self) -> PathBuf {
        self.path().join("token-key.pem")
    }

    /// Where the control plane keeps its certificate authority.
    pub(crate) fn ca_dir(&self) -> PathBuf {
        self.path().join("ca")
    }

    /// Where the control plane writes the roots of the mesh.
    pub(crate) fn root_cert(&self) -> PathBuf {
        self.path().join("root-cert.pem")
    }

    /// A pod's files.
    pub(crate) fn pod(&self, uid: &str) -> PathBuf {
        self.path().join("pods").join(uid)
    }

    /// An empty directory that is covered by mounts inside.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.path().join("root")
    }

    /// Logs, unless another directory is asked for.
    pub(crate) fn logs(&self) -> PathBuf {
        self.path().join("logs")
    }

    /// Removes what meshes left that were killed, whatever their names were. Their processes, and with these their
    /// namespaces, have gone with them; what is left are files.
    pub(crate) fn sweep(&self) {
        for name in self.names() {
            let dir = Self { name, base: self.base.clone() };
            let Ok(lock) = File::open(dir.lock_path()).or_else(|_| dir.open_lock()) else { continue };
            if lock.try_lock().is_ok() && is_file(&lock, &dir.lock_path()) {
                drop(Claim { dir, lock });
            }
        }
    }

    /// The names of meshes that run, or that have left something.
    fn names(&self) -> BTreeSet<MeshName> {
        let entries = fs::read_dir(&self.base).into_iter().flatten().flatten();
        entries.filter_map(|e| e.file_name().to_str().and_then(|n| n.strip_suffix(".lock").unwrap_or(n).parse().ok())).collect()
    }

    fn open_lock(&self) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(self.lock_path())
    }

    /// Takes the name: afterwards this process alone has it, and what an earlier mesh of the name left is gone.
    pub(crate) fn claim(&self) -> Result<Claim, StateError> {
        private_dir(&self.base)?;
        let lock_path = self.lock_path();
        let start = Instant::now();
        let lock = loop {
            let mut file = match self.open_lock() {
                // Another mesh that ended has just taken the empty directory with it.
                Err(e) if e.kind() == io::ErrorKind::NotFound && start.elapsed() < SWEEPING => {
                    private_dir(&self.base)?;
                    continue;
                }
                other => other.map_err(io_at(&lock_path))?,
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let mut pid = String::new();
                    let _ = file.read_to_string(&mut pid);
                    let pid = pid.trim().to_owned();
                    // The name of a process that is gone: somebody is sweeping up, or the last one of it is just ending.
                    if !is_process(&pid) && start.elapsed() < SWEEPING {
                        let _ = nix::poll::poll(&mut [], 10_u16);
                        continue;
                    }
                    return Err(StateError::Running { name: self.name().to_owned(), pid });
                }
                Err(TryLockError::Error(e)) => return Err(io_at(&lock_path)(e)),
            }
            // The mesh that had it before may have removed the file between our open and our lock.
            if is_file(&file, &lock_path) {
                file.set_len(0).map_err(io_at(&lock_path))?;
                writeln!(file, "{}", std::process::id()).map_err(io_at(&lock_path))?;
                break file;
            }
        };
        let path = self.path();
        remove_tree(&path);
        private_dir(&path)?;
        for dir in [self.scratch(), self.logs(), self.ca_dir(), path.join("pods")] {
            private_dir(&dir)?;
        }
        Ok(Claim { dir: self.clone(), lock })
    }

    /// The process id of the launcher of the running mesh.
    pub(crate) fn running(&self) -> Result<i32, StateError> {
        self.holder().ok_or_else(|| StateError::NotRunning { name: self.name().to_owned(), others: self.others() })
    }

    /// Who holds the lock, if anybody does.
    fn holder(&self) -> Option<i32> {
        let mut file = File::open(self.lock_path()).ok()?;
        // A lock that can be had is a leftover.
        matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)).then_some(())?;
        let mut pid = String::new();
        file.read_to_string(&mut pid).ok()?;
        pid.trim().parse().ok()
    }

    /// Names of meshes that do run, for the message.
    fn others(&self) -> String {
        let names: Vec<String> = self
            .names()
            .into_iter()
            .filter(|name| *name != self.name && Self { name: name.clone(), base: self.base.clone() }.holder().is_some())
            .map(|name| format!("`{}`", name.as_str()))
            .collect();
        match names.as_slice() {
            [] => String::new(),
            [one] => format!(" ({one} is; choose with --name)"),
            several => format!(" ({} are; choose with --name)", several.join(", ")),
        }
    }
}

/// How long to wait for another process that removes what a killed mesh of the name has left.
const SWEEPING: Duration = Duration::from_secs(5);

/// Whether there is a process of an id.
fn is_process(pid: &str) -> bool {
    pid.parse::<u32>().is_ok_and(|pid| Path::new(&format!("/proc/{pid}/stat")).exists())
}

/// Whether an open file is still the one of a path.
fn is_file(file: &File, path: &Path) -> bool {
    fs::metadata(path).ok().zip(file.metadata().ok()).is_some_and(|(a, b)| a.ino() == b.ino())
}

/// Removes a directory and all that is in it, as far as that can be. Directories that a container has made read-only are
/// made writable first: an ordinary user cannot remove anything from them otherwise.
fn remove_tree(path: &Path) {
    if fs::remove_dir_all(path).is_ok() || !path.exists() {
        return;
    }
    make_writable(path);
    let _ = fs::remove_dir_all(path);
}

fn make_writable(dir: &Path) {
    let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            make_writable(&entry.path());
        }
    }
}

/// Makes a directory that only its owner can enter, or checks that an existing one is ours.
fn private_dir(path: &Path) -> Result<(), StateError> {
    let start = Instant::now();
    loop {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => match fs::symlink_metadata(path) {
                Ok(meta) if meta.is_dir() && meta.uid() == nix::unistd::Uid::effective().as_raw() => return Ok(()),
                Ok(_) => return Err(StateError::NotOurs(path.to_owned())),
                // The last mesh in it has just ended, and taken the empty directory with it.
                Err(e) if e.kind() == io::ErrorKind::NotFound && start.elapsed() < SWEEPING => {}
                Err(e) => return Err(io_at(path)(e)),
            },
            other => return other.map_err(io_at(path)),
        }
    }
}

/// The taken name. Dropping it removes every file of the mesh.
#[derive(Debug)]
pub(crate) struct Claim {
    dir: StateDir,
    lock: File,
}

impl Claim {
    /// The lock, to be held by the supervisor too: the name is free when both have ended.
    pub(crate) fn lock(&self) -> &File {
        &self.lock
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        remove_tree(&self.dir.path());
        let _ = fs::remove_file(self.dir.lock_path());
        // Gone too unless another mesh uses it.
        let _ = fs::remove_dir(&self.dir.base);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(base: &Path, name: &str) -> StateDir {
        StateDir { name: name.parse().unwrap(), base: base.to_owned() }
    }

    #[test]
    fn a_name_is_taken_once_and_free_again_afterwards() {
        let base = tempfile::tempdir().unwrap();
        let a = dir(&base.path().join("lateen"), "a");
        let claim = a.claim().unwrap();
        assert_eq!(a.running().unwrap(), i32::try_from(std::process::id()).unwrap());
        assert!(matches!(a.claim(), Err(StateError::Running { .. })));
        let other = dir(&base.path().join("lateen"), "b").running().unwrap_err().to_string();
        assert!(other.contains("`a`"), "{other}");
        drop(claim);
        assert!(a.running().is_err());
        assert!(!base.path().join("lateen").exists());
        drop(a.claim().unwrap());
    }

    #[test]
    fn leftovers_are_no_running_meshes() {
        let base = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            fs::write(base.path().join(format!("{name}.lock")), "1\n").unwrap();
        }
        let error = dir(base.path(), "a").running().unwrap_err().to_string();
        assert!(error.starts_with("no mesh named `a` is running; start one"), "{error}");
    }

    #[test]
    fn what_a_killed_mesh_left_is_cleaned_by_the_next_of_its_name() {
        let base = tempfile::tempdir().unwrap();
        let a = dir(&base.path().join("lateen"), "a");
        let claim = a.claim().unwrap();
        fs::write(a.path().join("leftover"), "x").unwrap();
        // As after SIGKILL: the lock is gone with the process, the files are not.
        let Claim { ref lock, .. } = claim;
        lock.unlock().unwrap();
        std::mem::forget(claim);
        let _again = a.claim().unwrap();
        assert!(!a.path().join("leftover").exists());
    }

    #[test]
    fn a_sweep_removes_what_killed_meshes_left_and_nothing_of_those_that_run() {
        let parent = tempfile::tempdir().unwrap();
        let base = parent.path().join("lateen");
        let running = dir(&base, "running").claim().unwrap();
        for name in ["killed", "without-lock"] {
            let claim = dir(&base, name).claim().unwrap();
            let inside = dir(&base, name).path().join("pods/readonly");
            fs::create_dir(&inside).unwrap();
            fs::write(inside.join("file"), "x").unwrap();
            fs::set_permissions(&inside, fs::Permissions::from_mode(0o500)).unwrap();
            claim.lock.unlock().unwrap();
            std::mem::forget(claim);
        }
        fs::remove_file(base.join("without-lock.lock")).unwrap();
        fs::write(base.join("only-lock.lock"), "").unwrap();
        fs::write(base.join("Not A Mesh"), "").unwrap();
        dir(&base, "next").sweep();
        let mut left: Vec<_> = fs::read_dir(&base).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, ["Not A Mesh", "running", "running.lock"]);
        assert!(dir(&base, "running").path().join("pods").exists());
        drop(running);
    }

    #[test]
    fn a_directory_can_be_made_while_others_remove_it() {
        let parent = tempfile::tempdir().unwrap();
        let base = parent.path().join("lateen");
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    for _ in 0..8_000 {
                        private_dir(&base).unwrap();
                        let _ = fs::remove_dir(&base);
                    }
                });
            }
        });
    }

    #[test]
    fn names_are_checked() {
        for bad in ["", "A", "a/b", "..", "a b", &"x".repeat(33)] {
            assert!(bad.parse::<MeshName>().is_err(), "{bad}");
        }
    }
}
