//! Socket options that a transparent proxy needs and that the usual crates leave out.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname, getsockopt, setsockopt, sockopt};

/// The source address from which a sidecar connects to its own application over IPv4 (Istio's inbound passthrough
/// address); the capture rules let it pass, so that the connection is not captured again.
pub const INBOUND_SOURCE_V4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
/// The IPv6 twin of [`INBOUND_SOURCE_V4`]. It must be an address of the loopback interface
/// (see [`crate::link::add_inbound_source_v6`]).
pub const INBOUND_SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// Where a client meant to connect to, before a `redirect` rule changed it: the address of the *server*, not of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OriginalDestination(SocketAddr);

impl OriginalDestination {
    /// Wraps an address that is known to be a connection's original destination.
    #[must_use]
    pub const fn new(addr: SocketAddr) -> Self {
        Self(addr)
    }

    /// The address and port.
    #[must_use]
    pub const fn address(self) -> SocketAddr {
        self.0
    }

    /// The IP address.
    #[must_use]
    pub const fn ip(self) -> IpAddr {
        self.0.ip()
    }

    /// The port.
    #[must_use]
    pub const fn port(self) -> u16 {
        self.0.port()
    }
}

/// The original destination of an accepted, redirected TCP connection.
///
/// Reads connection tracking (`SO_ORIGINAL_DST`, `IP6T_SO_ORIGINAL_DST`). The listener must be IPv4 or IPv6-only: the
/// kernel does not answer for an IPv4 connection on a dual-stack socket.
///
/// # Errors
/// `NotFound` when the connection is not tracked (it was not redirected and nothing in the namespace uses connection
/// tracking), `InvalidInput` for a socket that is neither IPv4 nor IPv6 or is IPv4 on a dual-stack listener.
pub fn original_dst<S: AsFd>(socket: &S) -> io::Result<OriginalDestination> {
    let local: SockaddrStorage = getsockname(socket.as_fd().as_raw_fd())?;
    let addr = match local.family() {
        Some(AddressFamily::Inet) => {
            let raw = getsockopt(socket, sockopt::OriginalDst)?;
            SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::from(u32::from_be(raw.sin_addr.s_addr)), u16::from_be(raw.sin_port)))
        }
        Some(AddressFamily::Inet6) => {
            if local.as_sockaddr_in6().is_some_and(|a| a.ip().to_ipv4_mapped().is_some()) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "an IPv4 connection on a dual-stack listener has no readable original destination: listen on 0.0.0.0 too and make the IPv6 listener v6-only",
                ));
            }
            let raw = getsockopt(socket, sockopt::Ip6tOriginalDst)?;
            SocketAddr::V6(SocketAddrV6::new(
                Ipv6Addr::from(raw.sin6_addr.s6_addr),
                u16::from_be(raw.sin6_port),
                0,
                raw.sin6_scope_id,
            ))
        }
        _ => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "original destinations exist for IPv4 and IPv6 sockets only",
            ));
        }
    };
    Ok(OriginalDestination(addr))
}

/// Marks the packets of a socket (`SO_MARK`), by which the capture rules know the proxy's own traffic.
///
/// # Errors
/// `PermissionDenied` without `CAP_NET_ADMIN` or `CAP_NET_RAW` over the socket's network namespace.
pub fn set_mark<S: AsFd>(socket: &S, mark: u32) -> io::Result<()> {
    setsockopt(socket, sockopt::Mark, &mark).map_err(io::Error::from)
}

/// Binds a client socket to [`INBOUND_SOURCE_V4`] or [`INBOUND_SOURCE_V6`], by the family of `destination`, leaving the
/// choice of the port to `connect`.
///
/// # Errors
/// Whatever `bind` says; for IPv6 `AddrNotAvailable` when `::6` is not an address of the loopback interface.
pub fn bind_source(socket: &socket2::Socket, destination: IpAddr) -> io::Result<()> {
    let source = match destination {
        IpAddr::V4(_) => IpAddr::V4(INBOUND_SOURCE_V4),
        IpAddr::V6(_) => IpAddr::V6(INBOUND_SOURCE_V6),
    };
    set_bind_address_no_port(socket)?;
    socket.bind(&SocketAddr::new(source, 0).into())
}

/// Lets `bind` to port 0 fix the address only (`IP_BIND_ADDRESS_NO_PORT`), so that one source address serves more than
/// 28,000 connections to different destinations. The option is IPPROTO_IP's for both families.
///
/// # Errors
/// Whatever `setsockopt` says.
pub fn set_bind_address_no_port<S: AsFd>(socket: &S) -> io::Result<()> {
    set_int(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

/// Lets a socket accept for, and connect from, addresses that are not the machine's (`IP_TRANSPARENT`).
///
/// # Errors
/// `PermissionDenied` without `CAP_NET_ADMIN` or `CAP_NET_RAW` over the socket's network namespace.
pub fn set_transparent<S: AsFd>(socket: &S, family: IpFamily) -> io::Result<()> {
    match family {
        IpFamily::V4 => set_int(socket, libc::SOL_IP, libc::IP_TRANSPARENT, 1),
        IpFamily::V6 => set_int(socket, libc::SOL_IPV6, libc::IPV6_TRANSPARENT, 1),
    }
}

/// TCP keepalive as Envoy's and Istio's `tcpKeepalive` name its parts; an absent part keeps the system's setting.
///
/// # Errors
/// Whatever `setsockopt` says.
pub fn set_keepalive(
    socket: &socket2::Socket,
    time: Option<Duration>,
    interval: Option<Duration>,
    probes: Option<u32>,
) -> io::Result<()> {
    let mut keepalive = socket2::TcpKeepalive::new();
    if let Some(time) = time {
        keepalive = keepalive.with_time(time);
    }
    if let Some(interval) = interval {
        keepalive = keepalive.with_interval(interval);
    }
    if let Some(probes) = probes {
        keepalive = keepalive.with_retries(probes);
    }
    socket.set_tcp_keepalive(&keepalive)
}

/// Level and name of the option that `bpf/accelerate.bpf.c` answers.
const UNREAD: (libc::c_int, libc::c_int) = (0x6c61, 1);

/// How many bytes the application has not read of those that were sent to it through a connection of its sidecar that is
/// accelerated ([`crate::ebpf::Accelerator`]).
///
/// # Errors
/// Where nobody knows: the connection is not accelerated any more.
pub fn unread_by_application<S: AsFd>(socket: &S) -> io::Result<usize> {
    let unread = get_int(socket, UNREAD.0, UNREAD.1)?;
    usize::try_from(unread).map_err(io::Error::other)
}

/// An IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpFamily {
    /// The version of an address.
    #[must_use]
    pub const fn of(ip: &IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

pub(crate) fn set_int<S: AsFd>(socket: &S, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open for the length of the call, and the pointer and length describe `value`, which
    // lives until the call returns; the kernel only reads it.
    let rc = unsafe {
        libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, std::ptr::from_ref(&value).cast::<libc::c_void>(), size)
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn get_int<S: AsFd>(socket: &S, level: libc::c_int, name: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut size = libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open for the length of the call; the pointer and the length describe `value`, which lives
    // until the call returns, and the kernel writes at most `size` bytes.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            std::ptr::from_mut(&mut value).cast::<libc::c_void>(),
            &raw mut size,
        )
    };
    if rc == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Socket, Type};

    #[test]
    fn the_inbound_source_is_bound_and_the_port_is_left_to_connect() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        bind_source(&client, IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap();
        client.connect(&listener.local_addr().unwrap().into()).unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), IpAddr::V4(INBOUND_SOURCE_V4));
    }

    #[test]
    fn a_unix_socket_has_no_original_destination() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(original_dst(&a).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
