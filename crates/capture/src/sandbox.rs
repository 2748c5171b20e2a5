//! What a contained process sees and may do: its file system, its host name, its capabilities.
//!
//! Containers here are host processes on the host's files. To show a file of the pod's at a path that the host does not
//! have, the root is rebuilt in memory: every entry of the host's root is mounted there again, and a directory that
//! needs an additional entry is *mirrored*, which is a directory in memory whose entries are the original's.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Component, Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::pivot_root;
use thiserror::Error;

/// What could not be mounted or set, and why.
#[derive(Debug, Error)]
#[error("{step}: {source}")]
pub struct SandboxError {
    step: String,
    source: io::Error,
}

fn at(step: impl Into<String>) -> impl FnOnce(io::Error) -> SandboxError {
    let step = step.into();
    move |source| SandboxError { step, source }
}

fn errno_at(step: impl Into<String>) -> impl FnOnce(nix::Error) -> SandboxError {
    let step = step.into();
    move |e| SandboxError { step, source: e.into() }
}

const NONE: Option<&Path> = None;

/// Cuts the calling process's mounts off from the rest of the machine: nothing mounted here is seen outside.
///
/// # Errors
/// The step that failed.
pub fn private_mounts() -> Result<(), SandboxError> {
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).map_err(errno_at("make mounts private"))
}

/// Puts the calling process (alone in its mount namespace) on a root in memory that holds every entry of the current
/// root, so that further entries can be added. `scratch` is an existing directory that is covered meanwhile.
///
/// # Errors
/// The step that failed.
pub fn rebuild_root(scratch: &Path) -> Result<(), SandboxError> {
    tmpfs(scratch)?;
    let put_old = scratch.join(".old");
    for entry in fs::read_dir("/").map_err(at("read /"))? {
        let entry = entry.map_err(at("read /"))?;
        expose(&entry.path(), &scratch.join(entry.file_name()))?;
    }
    make_dir(&put_old)?;
    pivot_root(scratch, &put_old).map_err(errno_at("pivot to the rebuilt root"))?;
    std::env::set_current_dir("/").map_err(at("enter the rebuilt root"))?;
    umount2("/.old", MntFlags::MNT_DETACH).map_err(errno_at("leave the old root"))?;
    fs::remove_dir("/.old").map_err(at("remove /.old"))
}

/// Mounts a fresh `/proc` of the calling process's process-id namespace. Where the system forbids it (as in many
/// containers), the outer `/proc` stays, which works but shows the processes outside.
///
/// # Errors
/// Never for the forbidden mount; reserved for a missing `/proc` directory.
pub fn mount_proc() -> Result<(), SandboxError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    match mount(Some("proc"), "/proc", Some("proc"), flags, NONE) {
        Ok(()) | Err(nix::Error::EPERM | nix::Error::EACCES) => Ok(()),
        Err(e) => Err(errno_at("mount /proc")(e)),
    }
}

/// Covers a directory with an empty one in memory.
///
/// # Errors
/// The step that failed.
pub fn tmpfs(path: &Path) -> Result<(), SandboxError> {
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0755"))
        .map_err(errno_at(format!("mount a directory in memory on {}", path.display())))
}

/// Shows `source` at `target`, which exists.
///
/// # Errors
/// The step that failed.
pub fn bind(source: &Path, target: &Path, read_only: bool) -> Result<(), SandboxError> {
    let step = format!("show {} at {}", source.display(), target.display());
    mount(Some(source), target, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE).map_err(errno_at(step.clone()))?;
    if read_only {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | locked_flags(target);
        mount(NONE, target, NONE, flags, NONE).map_err(errno_at(format!("{step}, read-only")))?;
    }
    Ok(())
}

/// Flags that a remount in a user namespace must repeat, because the outer mount has them.
fn locked_flags(path: &Path) -> MsFlags {
    let mut flags = MsFlags::empty();
    if let Ok(stat) = nix::sys::statvfs::statvfs(path) {
        use nix::sys::statvfs::FsFlags;
        let pairs = [
            (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
            (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
            (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
            (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
            (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
            (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
        ];
        for (has, flag) in pairs {
            if stat.flags().contains(has) {
                flags |= flag;
            }
        }
    }
    flags
}

/// Shows `source` at `target`, making `target` (and the directories on the way) if it is not there, without touching the
/// host's files. The root must have been rebuilt ([`rebuild_root`]).
///
/// # Errors
/// The step that failed; a `target` that is not absolute or has `..` in it.
pub fn bind_creating(source: &Path, target: &Path, read_only: bool) -> Result<(), SandboxError> {
    let is_dir = fs::metadata(source).map_err(at(format!("read {}", source.display())))?.is_dir();
    let target = make_mount_point(target, is_dir)?;
    bind(source, &target, read_only)
}

/// Makes sure that `target` exists as a directory or a file; returns its path with symbolic links resolved.
///
/// # Errors
/// The step that failed.
pub fn make_mount_point(target: &Path, is_dir: bool) -> Result<PathBuf, SandboxError> {
    let invalid = || SandboxError {
        step: format!("mount at `{}`", target.display()),
        source: io::Error::new(io::ErrorKind::InvalidInput, "the path must be absolute and without `..`"),
    };
    let mut parts = target.components();
    if parts.next() != Some(Component::RootDir) {
        return Err(invalid());
    }
    let names: Vec<_> = parts
        .map(|part| match part {
            Component::Normal(name) => Ok(name),
            _ => Err(invalid()),
        })
        .collect::<Result<_, _>>()?;
    let mut here = PathBuf::from("/");
    for (i, name) in names.iter().enumerate() {
        let next = here.join(name);
        let step = || at(format!("make {}", next.display()));
        match next.canonicalize() {
            Ok(real) => here = real,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let dir = is_dir || i + 1 < names.len();
                mirror_unless_ours(&here)?;
                // A dangling link of the host's gives way; it is removed from the mirror only.
                let _ = fs::remove_file(&next);
                if dir {
                    make_dir(&next)?;
                } else {
                    File::create(&next).map_err(step())?;
                }
                here = next;
            }
            Err(e) => return Err(step()(e)),
        }
    }
    Ok(here)
}

/// Makes a directory extensible: afterwards it is in memory and holds the same entries.
fn mirror_unless_ours(dir: &Path) -> Result<(), SandboxError> {
    let marker = dir.join(MIRROR_MARKER);
    if dir == Path::new("/") || marker.exists() {
        return Ok(());
    }
    // Below a mirrored directory that was made here, everything is in memory already. What is covered is reached through a
    // descriptor opened before.
    let covered = File::open(dir).map_err(at(format!("open {}", dir.display())))?;
    let covered_path = PathBuf::from(format!("/proc/self/fd/{}", covered.as_raw_fd()));
    tmpfs(dir)?;
    for entry in fs::read_dir(&covered_path).map_err(at(format!("read {}", dir.display())))? {
        let entry = entry.map_err(at(format!("read {}", dir.display())))?;
        expose(&entry.path(), &dir.join(entry.file_name()))?;
    }
    File::create(&marker).map(drop).map_err(at(format!("mark {}", dir.display())))
}

/// Tells a mirrored directory from an ordinary one.
const MIRROR_MARKER: &str = ".lateen-mirror";

/// Shows one entry of a directory at a new place: links are copied, the rest is mounted. An entry that cannot be shown
/// (it vanished, or it may not be read) is left out.
fn expose(source: &Path, target: &Path) -> Result<(), SandboxError> {
    let Ok(meta) = fs::symlink_metadata(source) else { return Ok(()) };
    if meta.is_symlink() {
        let to = fs::read_link(source).map_err(at(format!("read {}", source.display())))?;
        return symlink(to, target).map_err(at(format!("link {}", target.display())));
    }
    if meta.is_dir() {
        make_dir(target)?;
    } else {
        File::create(target).map_err(at(format!("make {}", target.display())))?;
    }
    match bind(source, target, false) {
        Ok(()) => Ok(()),
        Err(e) if matches!(e.source.raw_os_error(), Some(libc::EACCES | libc::ENOENT)) => Ok(()),
        Err(e) => Err(e),
    }
}

fn make_dir(path: &Path) -> Result<(), SandboxError> {
    match DirBuilder::new().mode(0o755).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(at(format!("make {}", path.display()))),
    }
}

/// What a process may keep of root's powers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Powers {
    /// An application's: what containers usually have, without raw sockets; so it can neither mark its sockets nor change
    /// the rules that capture its traffic.
    Application,
    /// A sidecar's: marks and transparent sockets.
    Proxy,
    /// None.
    Nothing,
}

// Numbers of linux/capability.h.
const CHOWN: u32 = 0;
const DAC_OVERRIDE: u32 = 1;
const FOWNER: u32 = 3;
const FSETID: u32 = 4;
const KILL: u32 = 5;
const SETGID: u32 = 6;
const SETUID: u32 = 7;
const SETPCAP: u32 = 8;
const NET_BIND_SERVICE: u32 = 10;
const NET_ADMIN: u32 = 12;
const SYS_CHROOT: u32 = 18;
const AUDIT_WRITE: u32 = 29;
const SETFCAP: u32 = 31;
/// More than any kernel has.
const LAST: u32 = 63;

impl Powers {
    const fn kept(self) -> &'static [u32] {
        match self {
            Self::Application => &[
                CHOWN,
                DAC_OVERRIDE,
                FOWNER,
                FSETID,
                KILL,
                SETGID,
                SETUID,
                SETPCAP,
                NET_BIND_SERVICE,
                SYS_CHROOT,
                AUDIT_WRITE,
                SETFCAP,
            ],
            Self::Proxy => &[NET_BIND_SERVICE, NET_ADMIN],
            Self::Nothing => &[],
        }
    }
}

/// Gives up every capability but those of `powers`, for this thread and whatever it executes. Call it in a
/// single-threaded process, right before `exec`.
///
/// # Errors
/// The step that failed.
pub fn keep_only(powers: Powers) -> Result<(), SandboxError> {
    let kept = powers.kept();
    let last = || at("drop capabilities")(io::Error::last_os_error());
    for capability in (0..=LAST).filter(|c| !kept.contains(c)) {
        // SAFETY: a system call on integers.
        let rc = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) };
        // EINVAL: the kernel has no capability of that number.
        if rc != 0 && io::Error::last_os_error().raw_os_error() != Some(libc::EINVAL) {
            return Err(last());
        }
    }
    // SAFETY: a system call on integers.
    let rc = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    if rc != 0 {
        return Err(last());
    }
    let wanted = kept.iter().fold(0_u64, |set, c| set | 1 << c);
    let low = u32::try_from(wanted & u64::from(u32::MAX)).unwrap_or_default();
    let header = CapHeader { version: 0x2008_0522, pid: 0 };
    // Nothing is inheritable: what root executes gets the bounding set by itself.
    let data = [CapData { effective: low, permitted: low, inheritable: 0 }, CapData::default()];
    // SAFETY: version 3 of the interface reads one header and two data blocks, both of the kernel's layout and live.
    let rc = unsafe { libc::syscall(libc::SYS_capset, std::ptr::from_ref(&header), data.as_ptr()) };
    if rc == 0 { Ok(()) } else { Err(last()) }
}

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct CapHeader {
    version: u32,
    pid: libc::c_int,
}

/// `struct __user_cap_data_struct`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Whether this process may make namespaces without a user namespace of its own: it holds `CAP_SYS_ADMIN` and
/// `CAP_NET_ADMIN`.
#[must_use]
pub fn is_privileged() -> bool {
    const SYS_ADMIN: u32 = 21;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:")).and_then(|v| u64::from_str_radix(v.trim(), 16).ok());
    let needed = 1 << SYS_ADMIN | 1 << NET_ADMIN;
    effective.unwrap_or_default() & needed == needed
}

/// Sets the host name of the calling process's UTS namespace.
///
/// # Errors
/// The step that failed.
pub fn set_host_name(name: &str) -> Result<(), SandboxError> {
    nix::unistd::sethostname(name).map_err(errno_at(format!("set the host name {name}")))
}
