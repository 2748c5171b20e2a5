//! Ports of this machine that lead to gateways.
//!
//! The mesh has a network of its own, which nobody outside reaches. The launcher, which stays outside, opens listening sockets
//! on the loopback address and hands them in; the supervisor, which lives inside, accepts on them and connects to the pod. No
//! root is needed, and with the last of the two the sockets are gone.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use lateen_capture::process::inherited;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// Where unprivileged ports begin.
const FIRST_UNPRIVILEGED: u16 = 1024;
/// Added to lower ones: 80 is to be had at 8080, 443 at 8443.
const OFFSET: u16 = 8000;

/// The port that is tried first for a gateway's port.
pub(crate) fn preferred(port: u16) -> u16 {
    if port < FIRST_UNPRIVILEGED { port + OFFSET } else { port }
}

/// The launcher's side: opens what is asked for, until the supervisor is gone.
pub(crate) fn serve(stream: &UnixStream) {
    while let Ok(port) = read_port(stream) {
        let opened = open(port);
        let sent = match &opened {
            Ok(listener) => send(stream, Some(listener.as_raw_fd())),
            Err(_) => send(stream, None),
        };
        if sent.is_err() {
            return;
        }
    }
}

/// The wanted port if it is free, else any.
fn open(port: u16) -> io::Result<TcpListener> {
    let bind = |port| TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    bind(port).or_else(|_| bind(0))
}

fn read_port(mut stream: &UnixStream) -> io::Result<u16> {
    let mut bytes = [0; 2];
    io::Read::read_exact(&mut stream, &mut bytes)?;
    Ok(u16::from_be_bytes(bytes))
}

fn send(stream: &UnixStream, fd: Option<RawFd>) -> io::Result<()> {
    let said = [u8::from(fd.is_some())];
    let fds: Vec<RawFd> = fd.into_iter().collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(&said)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// The supervisor's side.
#[derive(Debug)]
pub(crate) struct HostPorts(UnixStream);

impl HostPorts {
    /// From the descriptor that the launcher has handed over.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self(UnixStream::from(fd))
    }

    /// Asks for a socket that listens on this port or, if it is taken, on another.
    ///
    /// # Errors
    /// If the launcher could not open any, or is gone.
    pub(crate) fn open(&self, port: u16) -> io::Result<TcpListener> {
        io::Write::write_all(&mut &self.0, &port.to_be_bytes())?;
        let mut said = [0];
        let mut space = nix::cmsg_space!(RawFd);
        let mut buffers = [IoSliceMut::new(&mut said)];
        let message = recvmsg::<()>(self.0.as_raw_fd(), &mut buffers, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
        let rights = message.cmsgs()?.find_map(|c| match c {
            ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
            _ => None,
        });
        let Some(fd) = rights else { return Err(io::Error::other("no port of this machine could be opened")) };
        Ok(TcpListener::from(inherited(fd)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn sockets_are_handed_over_and_a_taken_port_is_replaced() {
        let (launcher, supervisor) = UnixStream::pair().unwrap();
        let serving = std::thread::spawn(move || serve(&launcher));
        let ports = HostPorts(supervisor);
        let first = ports.open(0).unwrap();
        let taken = first.local_addr().unwrap();
        let second = ports.open(taken.port()).unwrap();
        assert_ne!(second.local_addr().unwrap(), taken);
        for listener in [&first, &second] {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            assert_eq!(accepted.peer_addr().unwrap(), client.local_addr().unwrap());
        }
        drop(ports);
        serving.join().unwrap();
    }

    #[test]
    fn low_ports_need_no_privilege() {
        assert_eq!([80, 443, 1023, 1024, 15443].map(preferred), [8080, 8443, 9023, 1024, 15443]);
    }
}
