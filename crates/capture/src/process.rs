//! Starting programs in new namespaces, and what goes with it: user mappings, lifelines, reaping.
//!
//! A process with threads must not run ordinary code between `fork` and `exec`, and `setns` or `unshare` of most
//! namespaces want a single thread. So a program is always started as `clone` + `exec` with nothing but system calls in
//! between ([`launch`]), and whatever else has to happen, happens in the new, single-threaded program.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, pipe2};

/// A program to start.
#[derive(Debug)]
pub struct Launch<'a> {
    /// Path of the program.
    pub program: CString,
    /// Its arguments, the first being its name.
    pub arguments: Vec<CString>,
    /// Its environment, as `NAME=value`.
    pub environment: Vec<CString>,
    /// Descriptors to hand over: (ours, the number it has there). All others are closed.
    pub descriptors: Vec<(BorrowedFd<'a>, RawFd)>,
    /// New namespaces that it starts in. With [`CloneFlags::CLONE_NEWUSER`] its user and group 0 are the caller's.
    pub namespaces: CloneFlags,
}

/// Where starting a program failed.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Before the new process ran: out of processes, or the namespaces are not allowed.
    #[error("cannot make a process: {0}")]
    Clone(#[source] io::Error),
    /// The new user namespace did not get its user mapping.
    #[error("cannot map the user into the new user namespace: {0}")]
    Map(#[source] io::Error),
    /// Its descriptors could not be arranged.
    #[error("cannot hand over file descriptors: {0}")]
    Descriptors(#[source] io::Error),
    /// The program could not be run.
    #[error("cannot run it: {0}")]
    Exec(#[source] io::Error),
}

/// The stages that the child reports, one byte each.
const STAGE_MAP: u8 = 1;
const STAGE_DESCRIPTORS: u8 = 2;
const STAGE_EXEC: u8 = 3;

/// Starts a program; returns its process id as the caller sees it. The caller must wait for it.
///
/// # Errors
/// See [`LaunchError`].
pub fn launch(spec: &Launch<'_>) -> Result<Pid, LaunchError> {
    let (report, report_in_child) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|e| LaunchError::Clone(e.into()))?;
    let prepared = Prepared::new(spec, report_in_child.as_raw_fd());
    let mut old_mask = SigSet::empty();
    // A signal handler of ours must not run in the child: it would speak to the parent's runtime.
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut old_mask)).map_err(|e| LaunchError::Clone(e.into()))?;
    let flags = spec.namespaces.bits() | libc::SIGCHLD;
    // SAFETY: without CLONE_VM and with a null stack this is `fork` with namespaces. The child runs only
    // `Prepared::child`, which makes nothing but system calls on memory that was prepared before, and never returns.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if pid == 0 {
        prepared.child(&old_mask);
    }
    let clone_error = io::Error::last_os_error();
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&old_mask), None);
    drop(report_in_child);
    if pid < 0 {
        return Err(LaunchError::Clone(clone_error));
    }
    let pid = Pid::from_raw(i32::try_from(pid).map_err(|e| LaunchError::Clone(io::Error::other(e)))?);
    let mut words = [0_u8; 5];
    // End of file means that the program runs: the pipe closed on exec.
    if File::from(report).read_exact(&mut words).is_err() {
        return Ok(pid);
    }
    let _ = waitpid(pid, None);
    let error = io::Error::from_raw_os_error(i32::from_ne_bytes([words[1], words[2], words[3], words[4]]));
    Err(match words[0] {
        STAGE_MAP => LaunchError::Map(error),
        STAGE_DESCRIPTORS => LaunchError::Descriptors(error),
        _ => LaunchError::Exec(error),
    })
}

/// Everything that the child needs, allocated before the `clone`.
struct Prepared<'a> {
    program: &'a CStr,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
    descriptors: Vec<(RawFd, RawFd)>,
    uid_map: Option<(CString, CString)>,
    report: RawFd,
}

/// Descriptors are first moved out of the way of every target number.
const ABOVE_TARGETS: RawFd = 64;

impl<'a> Prepared<'a> {
    fn new(spec: &'a Launch<'_>, report: RawFd) -> Self {
        let pointers =
            |strings: &'a [CString]| strings.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect();
        let map = |id: u32| CString::new(format!("0 {id} 1\n")).unwrap_or_default();
        Self {
            program: &spec.program,
            argv: pointers(&spec.arguments),
            envp: pointers(&spec.environment),
            descriptors: spec.descriptors.iter().map(|(fd, target)| (fd.as_raw_fd(), *target)).collect(),
            uid_map: spec
                .namespaces
                .contains(CloneFlags::CLONE_NEWUSER)
                .then(|| (map(Uid::effective().as_raw()), map(Gid::effective().as_raw()))),
            report,
        }
    }

    fn child(mut self, mask: &SigSet) -> ! {
        let (stage, errno) = self.arrange(mask);
        let mut words = [stage, 0, 0, 0, 0];
        words[1..].copy_from_slice(&errno.to_ne_bytes());
        // SAFETY: system calls on a live buffer; `_exit` runs no destructor of the parent's copy.
        unsafe {
            libc::write(self.report, words.as_ptr().cast(), words.len());
            libc::_exit(127)
        }
    }

    /// Returns only on failure: the stage and the error number.
    fn arrange(&mut self, mask: &SigSet) -> (u8, i32) {
        if let Some((uid, gid)) = &self.uid_map {
            let writes = [
                (c"/proc/self/setgroups", c"deny"),
                (c"/proc/self/uid_map", uid.as_c_str()),
                (c"/proc/self/gid_map", gid.as_c_str()),
            ];
            for (path, text) in writes {
                if let Err(errno) = write_file(path, text.to_bytes()) {
                    return (STAGE_MAP, errno);
                }
            }
        }
        match self.move_descriptors() {
            Ok(()) => {}
            Err(errno) => return (STAGE_DESCRIPTORS, errno),
        }
        // SAFETY: system calls only; the pointers were made from live C strings and end in null.
        unsafe {
            libc::sigprocmask(libc::SIG_SETMASK, mask.as_ref(), std::ptr::null_mut());
            libc::execve(self.program.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr());
        }
        (STAGE_EXEC, Errno::last_raw())
    }

    fn move_descriptors(&mut self) -> Result<(), i32> {
        for (fd, _) in &mut self.descriptors {
            *fd = duplicate_above(*fd)?;
        }
        self.report = duplicate_above(self.report)?;
        let mut highest = 2;
        for (fd, target) in &self.descriptors {
            highest = highest.max(*target);
            // SAFETY: a system call on integers; the descriptors are this process's own copies.
            if unsafe { libc::dup2(*fd, *target) } < 0 {
                return Err(Errno::last_raw());
            }
        }
        // SAFETY: as above. Marks everything else to be closed by exec, so that nothing of ours leaks into the program;
        // before Linux 5.11 this fails, and what Rust opened is marked anyway.
        unsafe {
            libc::syscall(libc::SYS_close_range, highest + 1, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
        }
        Ok(())
    }
}

fn duplicate_above(fd: RawFd) -> Result<RawFd, i32> {
    // SAFETY: a system call on integers.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, ABOVE_TARGETS) };
    if copy < 0 { Err(Errno::last_raw()) } else { Ok(copy) }
}

/// Writes a small file with system calls only, for use between `clone` and `exec`.
fn write_file(path: &CStr, bytes: &[u8]) -> Result<(), i32> {
    // SAFETY: the path is a C string, the buffer is live, and the descriptor is closed before anything else can use it.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return Err(Errno::last_raw());
        }
        let written = libc::write(fd, bytes.as_ptr().cast(), bytes.len());
        let errno = Errno::last_raw();
        libc::close(fd);
        if written < 0 { Err(errno) } else { Ok(()) }
    }
}

/// Forks a process that has a single thread.
///
/// # Errors
/// `WouldBlock` when out of processes; `Other` when the process has more than one thread, in whose child most of the
/// standard library may not be used.
pub fn fork_single_threaded() -> io::Result<Option<Pid>> {
    let threads = std::fs::read_dir("/proc/self/task").map(Iterator::count).unwrap_or(1);
    if threads != 1 {
        return Err(io::Error::other("refusing to fork a process that has threads"));
    }
    // SAFETY: this is the only thread, so no lock can be held by a thread that the child does not have.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(Some(child)),
        nix::unistd::ForkResult::Child => Ok(None),
    }
}

/// Takes over a descriptor that the parent handed over under a number ([`Launch::descriptors`]).
///
/// # Errors
/// When no descriptor has that number. The caller must take each number once.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: a system call on an integer.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor exists (checked above) and was handed over to this program, which takes it once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Asks the kernel to send this process a signal when its parent ends.
///
/// # Errors
/// Whatever `prctl` says.
pub fn die_with_parent(signal: Signal) -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Some(signal)).map_err(io::Error::from)
}

/// Unblocks every signal and gives each its default action: `SIGPIPE`, which Rust's runtime ignores, and what the mesh was
/// started with (a shell's `&` ignores `SIGINT`, `nohup` `SIGHUP`). Call it right before `exec`, so that the new program
/// starts like any other.
///
/// # Errors
/// Whatever `sigprocmask` says.
pub fn restore_signals() -> io::Result<()> {
    for signal in Signal::iterator().filter(|s| !matches!(s, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: sets the default action, which is no handler of ours.
        unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigDfl) }?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).map_err(io::Error::from)
}

/// This process's id as seen by the process that mounted `proc`, a directory descriptor of a `/proc` outside.
///
/// # Errors
/// When this process is not visible there.
pub fn pid_seen_in(proc: BorrowedFd<'_>) -> io::Result<i32> {
    let link = nix::fcntl::readlinkat(proc, "self")?;
    link.to_str().and_then(|s| s.parse().ok()).ok_or_else(|| io::Error::other("/proc/self is not a number"))
}

/// How a process ended, as a shell counts it: its exit status, or 128 and the signal's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitCode(i32);

impl ExitCode {
    /// An exit status.
    #[must_use]
    pub const fn new(code: i32) -> Self {
        Self(code)
    }

    /// The number, 0 to 255.
    #[must_use]
    pub const fn code(self) -> i32 {
        self.0
    }
}

/// Takes one ended child, if there is one: its process id and how it ended.
///
/// # Errors
/// Whatever `waitpid` says, except that there are no children.
pub fn reap_one() -> io::Result<Option<(Pid, ExitCode)>> {
    match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Exited(pid, code)) => Ok(Some((pid, ExitCode(code)))),
        Ok(WaitStatus::Signaled(pid, signal, _)) => Ok(Some((pid, ExitCode(128 + signal as i32)))),
        Ok(_) | Err(Errno::ECHILD) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Which setting forbids user namespaces on this machine, as advice for its owner; `None` if none seems to.
#[must_use]
pub fn user_namespace_advice() -> Option<String> {
    let setting = |name: &str| std::fs::read_to_string(format!("/proc/sys/{name}")).ok().map(|s| s.trim().to_owned());
    if setting("kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        return Some(
            "unprivileged user namespaces are off; `sudo sysctl kernel.unprivileged_userns_clone=1` allows them".to_owned(),
        );
    }
    if setting("user/max_user_namespaces").as_deref() == Some("0") {
        return Some("no user namespaces are allowed; `sudo sysctl user.max_user_namespaces=10000` allows some".to_owned());
    }
    if setting("kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
        return Some(
            "AppArmor restricts unprivileged user namespaces; `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0` allows them"
                .to_owned(),
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn shell(script: &str) -> Launch<'static> {
        Launch {
            program: c"/bin/sh".to_owned(),
            arguments: vec![c"sh".to_owned(), c"-c".to_owned(), CString::new(script).unwrap()],
            environment: vec![c"GREETING=hello".to_owned()],
            descriptors: Vec::new(),
            namespaces: CloneFlags::empty(),
        }
    }

    #[test]
    fn a_program_gets_its_environment_and_its_descriptors_under_their_numbers() {
        let (read, write) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let mut spec = shell("printf $GREETING >&7; ls /proc/self/fd | wc -l >&7");
        spec.descriptors.push((write.as_fd(), 7));
        let pid = launch(&spec).unwrap();
        drop(write);
        let mut text = String::new();
        File::from(read).read_to_string(&mut text).unwrap();
        waitpid(pid, None).unwrap();
        assert!(text.starts_with("hello"), "{text}");
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error_and_no_process() {
        let spec = Launch { program: c"/does/not/exist".to_owned(), ..shell("") };
        assert!(matches!(launch(&spec), Err(LaunchError::Exec(e)) if e.kind() == io::ErrorKind::NotFound));
    }

    #[test]
    fn in_a_user_namespace_of_its_own_it_is_root_and_the_first_process() {
        let (read, write) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let mut spec = shell("echo $(id -u) $$ >&7");
        spec.descriptors.push((write.as_fd(), 7));
        spec.namespaces = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID;
        spec.environment.push(c"PATH=/usr/bin:/bin".to_owned());
        let pid = match launch(&spec) {
            Ok(pid) => pid,
            // Where the system forbids it, the error says so and the advice names a setting.
            Err(LaunchError::Clone(_) | LaunchError::Map(_)) => return assert!(user_namespace_advice().is_some()),
            Err(other) => panic!("{other}"),
        };
        drop(write);
        let mut text = String::new();
        File::from(read).read_to_string(&mut text).unwrap();
        waitpid(pid, None).unwrap();
        assert_eq!(text.trim(), "0 1");
    }
}
