//! Where a running mesh keeps its sockets, locks and logs, and how it is known to run.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use thiserror::Error;

/// The name of a mesh on this machine.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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

    /// Takes the name: afterwards this process alone has it, and what an earlier mesh of the name left is gone.
    pub(crate) fn claim(&self) -> Result<Claim, StateError> {
        private_dir(&self.base)?;
        let lock_path = self.lock_path();
        let lock = loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&lock_path)
                .map_err(io_at(&lock_path))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let mut pid = String::new();
                    let _ = file.read_to_string(&mut pid);
                    return Err(StateError::Running { name: self.name().to_owned(), pid: pid.trim().to_owned() });
                }
                Err(TryLockError::Error(e)) => return Err(io_at(&lock_path)(e)),
            }
            // The mesh that had it before may have removed the file between our open and our lock.
            let same = fs::metadata(&lock_path).ok().zip(file.metadata().ok()).is_some_and(|(a, b)| a.ino() == b.ino());
            if same {
                file.set_len(0).map_err(io_at(&lock_path))?;
                writeln!(file, "{}", std::process::id()).map_err(io_at(&lock_path))?;
                break file;
            }
        };
        let path = self.path();
        let _ = fs::remove_dir_all(&path);
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
        let names: Vec<String> = fs::read_dir(&self.base)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".lock")?.parse::<MeshName>().ok())
            .filter(|name| *name != self.name && Self { name: name.clone(), base: self.base.clone() }.holder().is_some())
            .map(|name| format!("`{}`", name.as_str()))
            .collect();
        if names.is_empty() { String::new() } else { format!(" ({} is; choose with --name)", names.join(", ")) }
    }
}

/// Makes a directory that only its owner can enter, or checks that an existing one is ours.
fn private_dir(path: &Path) -> Result<(), StateError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let meta = fs::symlink_metadata(path).map_err(io_at(path))?;
            let ours = meta.is_dir() && meta.uid() == nix::unistd::Uid::effective().as_raw();
            if ours { Ok(()) } else { Err(StateError::NotOurs(path.to_owned())) }
        }
        Err(e) => Err(io_at(path)(e)),
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
        let _ = fs::remove_dir_all(self.dir.path());
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
    fn names_are_checked() {
        for bad in ["", "A", "a/b", "..", "a b", &"x".repeat(33)] {
            assert!(bad.parse::<MeshName>().is_err(), "{bad}");
        }
    }
}
