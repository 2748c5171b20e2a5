//! Bytes from one socket to another without a copy through this process (`splice(2)`).

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;

/// How much is moved at a time, in bytes; the kernel may give a pipe less.
const CAPACITY: usize = 512 * 1024;

/// A pipe through which bytes go from one non-blocking socket to another.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
}

impl Pipe {
    /// An empty pipe.
    ///
    /// # Errors
    /// When there are no file descriptors left.
    pub fn new() -> io::Result<Self> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // A user's pipes may not be large beyond a sum; smaller ones do, too.
        let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(i32::try_from(CAPACITY).map_err(io::Error::other)?));
        Ok(Self { read, write, held: 0 })
    }

    /// Bytes that are in it.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }

    /// Takes what a socket has, into an empty pipe; how much, or zero at the socket's end.
    ///
    /// # Errors
    /// `WouldBlock` when the socket has nothing; otherwise what reading from it says.
    pub fn fill<S: AsFd>(&mut self, from: &S) -> io::Result<usize> {
        // Of a pipe that is full the kernel would say the same as of a socket that is empty.
        debug_assert_eq!(self.held, 0);
        let moved = splice(from, None, &self.write, None, CAPACITY, flags())?;
        self.held += moved;
        Ok(moved)
    }

    /// Gives a socket what it takes.
    ///
    /// # Errors
    /// `WouldBlock` when the socket takes nothing; otherwise what writing to it says.
    pub fn drain<S: AsFd>(&mut self, to: &S) -> io::Result<usize> {
        let moved = splice(&self.read, None, to, None, self.held, flags())?;
        self.held -= moved;
        Ok(moved)
    }
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK
}
