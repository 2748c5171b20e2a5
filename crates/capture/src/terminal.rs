//! Pseudo-terminals: for a command that runs inside a pod at somebody's terminal outside.
//!
//! The terminal outside becomes a mere wire ([`raw`]); line editing, Ctrl-C and job control happen at the pseudo-terminal
//! ([`open`]), whose other end is the controlling terminal of the command ([`take`]).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::pty::openpty;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// Both ends of a pseudo-terminal.
#[derive(Debug)]
pub struct Pair {
    /// Where what is typed goes in, and what is shown comes out.
    pub ours: OwnedFd,
    /// The terminal, as programs see it.
    pub theirs: OwnedFd,
}

/// Makes a pseudo-terminal of the size and the settings of the terminal `like`. Both ends are closed on exec.
///
/// # Errors
/// When there are no more pseudo-terminals, or `like` is no terminal.
pub fn open(like: BorrowedFd<'_>) -> io::Result<Pair> {
    let settings = tcgetattr(like)?;
    let pair = openpty(None, &settings)?;
    for end in [&pair.master, &pair.slave] {
        nix::fcntl::fcntl(end, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    }
    let pair = Pair { ours: pair.master, theirs: pair.slave };
    copy_size(like, pair.ours.as_fd())?;
    Ok(pair)
}

/// Gives one terminal the size of another. Programs at the former get `SIGWINCH` if it changed.
///
/// # Errors
/// When one of them is no terminal.
pub fn copy_size(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one `winsize`, which is live.
    if unsafe { libc::ioctl(from.as_raw_fd(), libc::TIOCGWINSZ, std::ptr::from_mut(&mut size)) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: TIOCSWINSZ reads one `winsize`, which is live.
    if unsafe { libc::ioctl(to.as_raw_fd(), libc::TIOCSWINSZ, std::ptr::from_ref(&size)) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A terminal that passes every byte on as it is; it is as before when this is dropped.
#[derive(Debug)]
pub struct Raw<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

/// Makes a terminal pass every byte on as it is.
///
/// # Errors
/// When it is no terminal.
pub fn raw(terminal: BorrowedFd<'_>) -> io::Result<Raw<'_>> {
    let before = tcgetattr(terminal)?;
    let mut settings = before.clone();
    cfmakeraw(&mut settings);
    tcsetattr(terminal, SetArg::TCSADRAIN, &settings)?;
    Ok(Raw { terminal, before })
}

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.terminal, SetArg::TCSADRAIN, &self.before);
    }
}

/// Makes the calling process lead a session of its own, of which `terminal` is the controlling terminal: Ctrl-C there is a
/// signal here.
///
/// # Errors
/// When the process leads a process group already, or the terminal is another session's.
pub fn take(terminal: BorrowedFd<'_>) -> io::Result<()> {
    nix::unistd::setsid()?;
    // SAFETY: a system call on integers.
    if unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};

    #[test]
    fn a_pseudo_terminal_is_like_the_one_that_it_stands_for() {
        let outer = openpty(None, None).unwrap();
        let size = libc::winsize { ws_row: 31, ws_col: 97, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: TIOCSWINSZ reads one `winsize`, which is live.
        assert_eq!(unsafe { libc::ioctl(outer.slave.as_raw_fd(), libc::TIOCSWINSZ, std::ptr::from_ref(&size)) }, 0);
        let inner = open(outer.slave.as_fd()).unwrap();
        let mut seen = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: TIOCGWINSZ writes one `winsize`, which is live.
        assert_eq!(unsafe { libc::ioctl(inner.theirs.as_raw_fd(), libc::TIOCGWINSZ, std::ptr::from_mut(&mut seen)) }, 0);
        assert_eq!((seen.ws_row, seen.ws_col), (31, 97));
        assert!(open(File::open("/dev/null").unwrap().as_fd()).is_err());
    }

    #[test]
    fn a_raw_terminal_passes_ctrl_c_on_and_is_as_before_afterwards() {
        let pair = openpty(None, None).unwrap();
        let before = tcgetattr(&pair.slave).unwrap();
        {
            let _raw = raw(pair.slave.as_fd()).unwrap();
            let mut keyboard = File::from(pair.master.try_clone().unwrap());
            keyboard.write_all(b"\x03").unwrap();
            let mut byte = [0];
            File::from(pair.slave.try_clone().unwrap()).read_exact(&mut byte).unwrap();
            assert_eq!(&byte, b"\x03");
        }
        assert_eq!(tcgetattr(&pair.slave).unwrap().local_flags, before.local_flags);
    }
}
