//! Interfaces, addresses, routes and network sysctls, by netlink.
//!
//! The pods' network: each pod has one interface `eth0` with host addresses (/32 and /128) whose only neighbour is the
//! bridge. All traffic between pods is therefore routed by the bridge's namespace, where service addresses are
//! translated and translated back, and where a capture of the bridge sees every packet.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use ipnet::{Ipv4Net, Ipv6Net};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};
use thiserror::Error;

use crate::netns::NetNs;
use crate::socket::INBOUND_SOURCE_V6;

/// Name of the bridge.
pub const BRIDGE: &str = "lateen0";
/// The bridge's hardware address. A bridge without one of its own takes the lowest of its ports', so it would change
/// when a pod comes or goes, and the other pods would send to the old one for half a minute.
const BRIDGE_MAC: [u8; 6] = [0x0a, 0x58, 0x0a, 0xf4, 0x00, 0x01];
/// Name of a pod's interface.
pub const POD_INTERFACE: &str = "eth0";

/// What could not be set up, and why.
#[derive(Debug, Error)]
#[error("{step}: {source}")]
pub struct LinkError {
    step: String,
    source: io::Error,
}

/// The addresses of the bridge, which is the pods' gateway, and the networks of which the pods' addresses are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BridgeAddresses {
    /// IPv4 address and the pods' network.
    pub v4: Ipv4Net,
    /// IPv6 address and the pods' network.
    pub v6: Ipv6Net,
}

/// A pod's addresses. On a machine without IPv6 ([`has_ipv6`]) only the first is given to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodAddresses {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

/// Whether this machine's kernel has IPv6 at all: it may have been built or booted without (`ipv6.disable=1`). IPv6 that is
/// merely switched off by sysctl (`disable_ipv6`) is switched on in the namespaces that are made here.
#[must_use]
pub fn has_ipv6() -> bool {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let opened = socket(AddressFamily::Inet6, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
    !matches!(opened, Err(nix::Error::EAFNOSUPPORT))
}

/// Sets up the calling thread's namespace as the one in the middle: loopback up, the bridge, forwarding.
///
/// # Errors
/// The step that failed.
pub fn set_up_bridge(addresses: BridgeAddresses) -> Result<(), LinkError> {
    let ipv6 = has_ipv6();
    sysctl("net/ipv4/ip_forward", "1")?;
    sysctl("net/ipv6/conf/all/disable_ipv6", "0")?;
    sysctl("net/ipv6/conf/default/disable_ipv6", "0")?;
    sysctl("net/ipv6/conf/all/forwarding", "1")?;
    // Pods are reached through the interface on which their packets came; telling them so would bypass the translation.
    sysctl("net/ipv4/conf/all/send_redirects", "0")?;
    sysctl("net/ipv4/conf/default/send_redirects", "0")?;
    sysctl("net/ipv4/conf/all/rp_filter", "0")?;
    sysctl("net/ipv4/conf/default/rp_filter", "0")?;
    sysctl("net/ipv6/conf/default/accept_dad", "0")?;
    sysctl("net/ipv6/conf/default/accept_ra", "0")?;
    sysctl("net/ipv4/ip_unprivileged_port_start", "0")?;
    // Where br_netfilter is loaded (Docker does), a bridge would translate addresses itself, and a pod that calls itself
    // through a service would be sent back out of the port on which it came, which bridges refuse.
    for name in ["net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"] {
        sysctl(name, "0")?;
    }
    on_netlink(async |netlink| {
        netlink.up("lo").await?;
        netlink
            .step(
                "make the bridge",
                netlink
                    .handle
                    .link()
                    .add(LinkBridge::new(BRIDGE).mcast_snooping(false).address(BRIDGE_MAC.to_vec()).build())
                    .execute(),
            )
            .await?;
        let index = netlink.index(BRIDGE).await?;
        netlink.address(index, IpAddr::V4(addresses.v4.addr()), addresses.v4.prefix_len()).await?;
        if ipv6 {
            netlink.address(index, IpAddr::V6(addresses.v6.addr()), addresses.v6.prefix_len()).await?;
        }
        netlink.up(BRIDGE).await
    })
}

/// Connects a pod's namespace to the bridge of the calling thread's namespace.
///
/// # Errors
/// The step that failed.
pub fn connect_pod(
    pod: &NetNs,
    host_interface: &str,
    addresses: PodAddresses,
    gateway: BridgeAddresses,
) -> Result<(), LinkError> {
    let peer = format!("{host_interface}p");
    on_netlink(async |netlink| {
        netlink
            .step("make the veth pair", netlink.handle.link().add(LinkVeth::new(host_interface, &peer).build()).execute())
            .await?;
        let bridge = netlink.index(BRIDGE).await?;
        let attach = LinkUnspec::new_with_name(host_interface).controller(bridge).up().build();
        netlink.step("attach the pod to the bridge", netlink.handle.link().set(attach).execute()).await?;
        let index = netlink.index(&peer).await?;
        let fd = std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(pod));
        let hand_over = LinkUnspec::new_with_index(index).name(POD_INTERFACE).setns_by_fd(fd).build();
        netlink.step("hand the interface to the pod", netlink.handle.link().set(hand_over).execute()).await
    })?;
    inside(pod, move || configure_pod(addresses, gateway))?;
    if !has_ipv6() {
        return Ok(());
    }
    // With its first port the bridge gets a carrier, and so its IPv6 address.
    on_netlink(async |netlink| netlink.until_local(gateway.v6.addr()).await)
}

fn configure_pod(addresses: PodAddresses, gateway: BridgeAddresses) -> Result<(), LinkError> {
    let ipv6 = has_ipv6();
    sysctl("net/ipv6/conf/all/disable_ipv6", "0")?;
    sysctl("net/ipv6/conf/default/accept_dad", "0")?;
    sysctl("net/ipv6/conf/all/accept_dad", "0")?;
    sysctl("net/ipv6/conf/all/accept_ra", "0")?;
    // A container of a pod may listen on port 80 without any privilege, as in a cluster.
    sysctl("net/ipv4/ip_unprivileged_port_start", "0")?;
    on_netlink(async |netlink| {
        netlink.up("lo").await?;
        netlink.up(POD_INTERFACE).await?;
        let eth0 = netlink.index(POD_INTERFACE).await?;
        netlink.address(eth0, IpAddr::V4(addresses.v4), 32).await?;
        let via = gateway.v4.addr();
        let route = RouteMessageBuilder::<Ipv4Addr>::new;
        let to_gateway = route().destination_prefix(via, 32).output_interface(eth0).scope(RouteScope::Link).build();
        netlink.step("route to the gateway", netlink.handle.route().add(to_gateway).execute()).await?;
        let default = route().gateway(via).output_interface(eth0).build();
        netlink.step("default route", netlink.handle.route().add(default).execute()).await?;
        if ipv6 { netlink.configure_pod_v6(eth0, addresses.v6, gateway.v6.addr()).await } else { Ok(()) }
    })
}

/// Sets up a namespace that stays alone: loopback up.
///
/// # Errors
/// The step that failed.
pub fn loopback_up() -> Result<(), LinkError> {
    on_netlink(async |netlink| netlink.up("lo").await)
}

/// Adds `::6` to the calling thread's loopback interface, from which a sidecar connects to its application over IPv6.
/// Already having it is no error, nor is a machine without IPv6.
///
/// # Errors
/// The step that failed.
pub fn add_inbound_source_v6() -> Result<(), LinkError> {
    if !has_ipv6() {
        return Ok(());
    }
    on_netlink(async |netlink| {
        let lo = netlink.index("lo").await?;
        netlink.address(lo, IpAddr::V6(INBOUND_SOURCE_V6), 128).await?;
        netlink.until_local(INBOUND_SOURCE_V6).await
    })
}

/// Removes what [`add_inbound_source_v6`] added; not having it is no error.
///
/// # Errors
/// The step that failed.
pub fn remove_inbound_source_v6() -> Result<(), LinkError> {
    if !has_ipv6() {
        return Ok(());
    }
    on_netlink(async |netlink| {
        let lo = netlink.index("lo").await?;
        let mut found = netlink
            .handle
            .address()
            .get()
            .set_link_index_filter(lo)
            .set_prefix_length_filter(128)
            .set_address_filter(IpAddr::V6(INBOUND_SOURCE_V6))
            .execute();
        while let Some(message) = netlink.step("read the loopback's addresses", found.try_next()).await? {
            netlink.step("remove ::6 from loopback", netlink.handle.address().del(message).execute()).await?;
        }
        Ok(())
    })
}

fn inside(ns: &NetNs, work: impl FnOnce() -> Result<(), LinkError> + Send) -> Result<(), LinkError> {
    ns.run(work).map_err(|source| LinkError { step: "enter the pod's network namespace".to_owned(), source })?
}

/// A network sysctl, of the calling thread's namespace.
fn sysctl(name: &str, value: &str) -> Result<(), LinkError> {
    let path = Path::new("/proc/sys").join(name);
    match std::fs::write(&path, value) {
        Ok(()) => Ok(()),
        // Machines booted without IPv6, or without br_netfilter, have no such settings.
        Err(e) if e.kind() == io::ErrorKind::NotFound && !name.starts_with("net/ipv4/") => Ok(()),
        Err(source) => Err(LinkError { step: format!("write {value} to {}", path.display()), source }),
    }
}

struct Netlink {
    handle: Handle,
}

/// Runs netlink work to its end on a runtime of its own, in the calling thread's namespace.
fn on_netlink(work: impl AsyncFnOnce(Netlink) -> Result<(), LinkError> + Send) -> Result<(), LinkError> {
    let failed = |step: &str| {
        let step = step.to_owned();
        move |source| LinkError { step, source }
    };
    // The socket belongs to the namespace of the thread that opens it, and a runtime cannot start inside another one:
    // a fresh thread inherits the former and is free of the latter.
    let ns = NetNs::current().map_err(failed("open the network namespace"))?;
    ns.run(move || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed("start a runtime for netlink"))?;
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().map_err(failed("open a netlink socket"))?;
            let driver = tokio::spawn(connection);
            let result = work(Netlink { handle }).await;
            driver.abort();
            result
        })
    })
    .map_err(failed("enter the network namespace"))?
}

impl Netlink {
    async fn step<T>(&self, step: &str, request: impl Future<Output = Result<T, rtnetlink::Error>>) -> Result<T, LinkError> {
        request.await.map_err(|error| LinkError { step: step.to_owned(), source: to_io(error) })
    }

    async fn index(&self, name: &str) -> Result<u32, LinkError> {
        let mut found = self.handle.link().get().match_name(name).execute();
        let message = self.step(&format!("find interface {name}"), found.try_next()).await?;
        message.map(|m| m.header.index).ok_or_else(|| LinkError {
            step: format!("find interface {name}"),
            source: io::Error::from_raw_os_error(libc::ENODEV),
        })
    }

    async fn up(&self, name: &str) -> Result<(), LinkError> {
        let message = LinkUnspec::new_with_name(name).up().build();
        self.step(&format!("bring {name} up"), self.handle.link().set(message).execute()).await
    }

    /// A pod's IPv6 address and its way out, and the address from which its sidecar connects to the application.
    async fn configure_pod_v6(&self, eth0: u32, address: Ipv6Addr, via: Ipv6Addr) -> Result<(), LinkError> {
        let lo = self.index("lo").await?;
        self.address(lo, IpAddr::V6(INBOUND_SOURCE_V6), 128).await?;
        self.address(eth0, IpAddr::V6(address), 128).await?;
        let route = RouteMessageBuilder::<Ipv6Addr>::new;
        let to_gateway = route().destination_prefix(via, 128).output_interface(eth0).build();
        self.step("IPv6 route to the gateway", self.handle.route().add(to_gateway).execute()).await?;
        let default = route().gateway(via).output_interface(eth0).build();
        self.step("IPv6 default route", self.handle.route().add(default).execute()).await?;
        self.until_local(INBOUND_SOURCE_V6).await?;
        self.until_local(address).await
    }

    /// Waits until an IPv6 address of this machine can be used. The kernel takes it into the routing table a little after
    /// it was added, in a worker, and only when its interface has a carrier, which it notices in another one.
    async fn until_local(&self, ip: Ipv6Addr) -> Result<(), LinkError> {
        const PATIENCE: Duration = Duration::from_secs(10);
        let step = format!("wait until {ip} can be used");
        let start = Instant::now();
        loop {
            match is_local(ip) {
                Ok(true) => return Ok(()),
                Ok(false) if start.elapsed() < PATIENCE => tokio::time::sleep(Duration::from_millis(1)).await,
                Ok(false) => return Err(LinkError { step, source: io::ErrorKind::TimedOut.into() }),
                Err(source) => return Err(LinkError { step, source }),
            }
        }
    }

    /// Adds an address, without delay (no duplicate address detection). An address that is there already is no error.
    async fn address(&self, index: u32, ip: IpAddr, prefix: u8) -> Result<(), LinkError> {
        let mut request = self.handle.address().add(index, ip, prefix);
        if ip.is_ipv6() {
            request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        match self.step(&format!("add address {ip}/{prefix}"), request.execute()).await {
            Err(e) if e.source.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            other => other,
        }
    }
}

/// Whether the routing table of the calling thread's namespace takes packets for an address in.
fn is_local(ip: Ipv6Addr) -> io::Result<bool> {
    /// `RTF_LOCAL` of linux/ipv6_route.h.
    const LOCAL: u32 = 0x8000_0000;
    let table = std::fs::read_to_string("/proc/thread-self/net/ipv6_route")?;
    let wanted = format!("{:032x}", u128::from(ip));
    Ok(table.lines().any(|line| {
        let mut fields = line.split_whitespace();
        let flags = fields.clone().nth(8).and_then(|f| u32::from_str_radix(f, 16).ok());
        fields.next() == Some(wanted.as_str()) && fields.next() == Some("80") && flags.is_some_and(|f| f & LOCAL != 0)
    }))
}

fn to_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}
