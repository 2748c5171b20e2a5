//! Ports of this machine that lead to gateways.
//!
//! The mesh has a network of its own, which nobody outside reaches. The launcher, which stays outside, opens listening sockets
//! on the loopback address and hands them in; the supervisor, which lives inside, accepts on them and connects to the pod. No
//! root is needed, and with the last of the two the sockets are gone.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use lateen_capture::fdpass::{receive_with_fds, send_with_fds};

/// Where unprivileged ports begin.
const FIRST_UNPRIVILEGED: u16 = 1024;
/// Added to lower ones: 80 is to be had at 8080, 443 at 8443.
const OFFSET: u16 = 8000;

/// The port that is tried first for a gateway's port.
pub(crate) fn preferred(port: u16) -> u16 {
    if port < FIRST_UNPRIVILEGED { port + OFFSET } else { port }
}

/// The launcher's side: opens what is asked for, until the supervisor is gone.
pub(crate) fn serve(mut stream: &UnixStream) {
    let mut port = [0; 2];
    while stream.read_exact(&mut port).is_ok() {
        let sent = match open(u16::from_be_bytes(port)) {
            Ok(listener) => send_with_fds(stream, &[1], &[listener.as_raw_fd()]),
            Err(_) => stream.write_all(&[0]),
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
        (&self.0).write_all(&port.to_be_bytes())?;
        let (_, fds) = receive_with_fds(&self.0, &mut [0])?;
        let socket = fds.into_iter().next().ok_or_else(|| io::Error::other("no port of this machine could be opened"))?;
        Ok(TcpListener::from(socket))
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
