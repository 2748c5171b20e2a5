//! File descriptors over Unix sockets (`SCM_RIGHTS`).

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// How many descriptors one message may carry here.
const MAX_FDS: usize = 8;

/// Sends bytes and descriptors in one message.
///
/// # Errors
/// Whatever `sendmsg` says; `WriteZero` if not all bytes went.
pub fn send_with_fds<S: AsFd>(socket: &S, bytes: &[u8], fds: &[RawFd]) -> io::Result<()> {
    let control = [ControlMessage::ScmRights(fds)];
    let sent = sendmsg::<()>(socket.as_fd().as_raw_fd(), &[IoSlice::new(bytes)], &control, MsgFlags::MSG_NOSIGNAL, None)?;
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives bytes and the descriptors that came with them, closed on exec.
///
/// # Errors
/// Whatever `recvmsg` says.
pub fn receive_with_fds<S: AsFd>(socket: &S, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = nix::cmsg_space!([RawFd; MAX_FDS]);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(socket.as_fd().as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = part {
            // SAFETY: the kernel has just installed these descriptors for this message alone; nothing else owns them.
            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok((message.bytes, fds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_descriptor_arrives_and_works() {
        let (a, b) = UnixStream::pair().unwrap();
        let (mut passed, mut kept) = UnixStream::pair().unwrap();
        passed.write_all(b"x").unwrap();
        send_with_fds(&a, b"hello", &[kept.as_raw_fd()]).unwrap();
        let mut buffer = [0; 16];
        let (len, mut fds) = receive_with_fds(&b, &mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"hello");
        let mut received = UnixStream::from(fds.pop().unwrap());
        let mut one = [0];
        received.read_exact(&mut one).unwrap();
        assert_eq!(&one, b"x");
        kept.flush().unwrap();
    }
}
