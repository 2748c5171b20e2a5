//! Sockets that accept: every worker accepts on each, and gives a connection to the worker that has the fewest, so that a
//! few long-lived connections are spread evenly (hashing by `SO_REUSEPORT` would leave all of them on one worker).

use crate::connection;
use crate::worker::{ConnectionGuard, Job, Worker};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 1024;

/// A listening socket, shared by the workers.
pub(crate) struct Socket {
    /// The listener's name.
    pub(crate) name: Arc<str>,
    /// What it is bound to.
    pub(crate) address: SocketAddr,
    /// Non-blocking.
    pub(crate) socket: std::net::TcpListener,
}

impl Socket {
    /// Opens a socket. IPv6 sockets take IPv6 only: original destinations are not to be had on dual-stack sockets.
    pub(crate) fn bind(name: Arc<str>, address: SocketAddr) -> io::Result<Self> {
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(Self { name, address, socket: socket.into() })
    }

    /// The same socket for another worker.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { name: self.name.clone(), address: self.address, socket: self.socket.try_clone()? })
    }
}

/// A connection that has just been accepted.
pub(crate) struct Accepted {
    /// The listener's name.
    pub(crate) listener: Arc<str>,
    /// The connection.
    pub(crate) stream: std::net::TcpStream,
    /// The other end.
    pub(crate) remote: SocketAddr,
    /// Counts it for the worker that serves it, from the moment that worker is chosen.
    pub(crate) guard: ConnectionGuard,
}

/// Accepts until the task is aborted.
pub(crate) async fn accept(worker: Rc<Worker>, socket: Socket) {
    let listener = match TcpListener::from_std(socket.socket) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(listener = %socket.name, %error, "cannot accept");
            return;
        }
    };
    loop {
        match listener.accept().await.and_then(|(stream, remote)| Ok((stream.into_std()?, remote))) {
            Ok((stream, remote)) => hand_over(&worker, &socket.name, stream, remote),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // Out of descriptors or memory: waiting gives connections time to end, and does not spin.
                worker.telemetry.process().accept_errors.add(1);
                tracing::warn!(listener = %socket.name, %error, "cannot accept; trying again in 50 ms");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Errors of the connection that was about to be accepted, not of the listener (accept(2)).
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, HostUnreachable, Interrupted, NetworkDown, NetworkUnreachable};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | HostUnreachable | Interrupted | NetworkDown | NetworkUnreachable)
}

/// Serves a connection on the worker that has the fewest, this one if it is among them.
fn hand_over(worker: &Rc<Worker>, name: &Arc<str>, stream: std::net::TcpStream, remote: SocketAddr) {
    let workers = worker.shared.workers();
    let own = workers[worker.index].connections();
    let fewest = workers.iter().enumerate().min_by_key(|(_, w)| w.connections()).filter(|(_, w)| w.connections() < own);
    let target = fewest.map_or(worker.index, |(index, _)| index);
    let accepted = Accepted { listener: name.clone(), stream, remote, guard: workers[target].connection_guard() };
    if target == worker.index {
        spawn_connection(worker, accepted);
    } else {
        workers[target].send(Job::Serve(accepted));
    }
}

/// Serves a connection on this worker.
pub(crate) fn spawn_connection(worker: &Rc<Worker>, accepted: Accepted) {
    tokio::task::spawn_local(connection::serve(worker.clone(), accepted));
}
