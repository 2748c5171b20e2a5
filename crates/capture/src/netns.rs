//! Network namespaces as values.
//!
//! A network namespace belongs to a thread, so every operation in another one runs on a thread made for it; the rest of
//! the process never changes its namespace. A socket stays in the namespace in which it was made, so
//! [`NetNs::run`] can also hand out sockets that any thread may then use.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace, kept alive by this handle.
#[derive(Debug)]
pub struct NetNs(OwnedFd);

impl NetNs {
    /// Makes a new, empty one (loopback is down).
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_SYS_ADMIN` in the current user namespace.
    pub fn create() -> io::Result<Self> {
        on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Self::open(Path::new("/proc/thread-self/ns/net"))
        })?
    }

    /// The calling thread's.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// The one behind a path such as `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// When the path cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(File::open(path)?.into()))
    }

    /// Runs `work` on a new thread inside the namespace and returns what it returned.
    ///
    /// # Errors
    /// When the namespace cannot be entered (`CAP_SYS_ADMIN` over it is needed), or when `work` panicked.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_a_thread(|| {
            setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        })?
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, work)?;
        thread.join().map_err(|_| io::Error::other("the work in a network namespace panicked"))
    })
}
