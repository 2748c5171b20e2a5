//! Pods on a bridge, servers in them that tell what they see, and clients.

#![allow(dead_code, reason = "each test program uses its part")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use lateen_capture::link::{BridgeAddresses, PodAddresses, connect_pod, loopback_up, set_up_bridge};
use lateen_capture::netns::NetNs;
use lateen_capture::rules::{CaptureConfig, ProxyTraffic};
use lateen_capture::socket;

pub(crate) fn rust_ns() -> NetNs {
    let ns = NetNs::create().unwrap();
    ns.run(|| loopback_up().unwrap()).unwrap();
    ns
}

pub(crate) const GATEWAY: &str = "10.244.0.1/16";
pub(crate) const GATEWAY_V6: &str = "fd00:6c61::1/64";

/// A middle namespace with a bridge, and pods on it.
pub(crate) struct Lab {
    pub(crate) middle: NetNs,
    pub(crate) pods: Vec<NetNs>,
}

pub(crate) fn pod_v4(n: usize) -> IpAddr {
    format!("10.244.0.{}", n + 2).parse().unwrap()
}

pub(crate) fn pod_v6(n: usize) -> IpAddr {
    format!("fd00:6c61::{}", n + 2).parse().unwrap()
}

pub(crate) fn lab(count: usize) -> Lab {
    let bridge = BridgeAddresses { v4: GATEWAY.parse().unwrap(), v6: GATEWAY_V6.parse().unwrap() };
    let middle = NetNs::create().unwrap();
    middle.run(|| set_up_bridge(bridge).unwrap()).unwrap();
    let pods = (0..count)
        .map(|n| {
            let pod = NetNs::create().unwrap();
            let (IpAddr::V4(v4), IpAddr::V6(v6)) = (pod_v4(n), pod_v6(n)) else { unreachable!() };
            middle.run(|| connect_pod(&pod, &format!("veth{n}"), PodAddresses { v4, v6 }, bridge).unwrap()).unwrap();
            pod
        })
        .collect();
    Lab { middle, pods }
}

pub(crate) fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(stream)
}

/// Serves in the calling thread's namespace: answers each connection with its port's number, what the client wanted, and
/// who the client is.
pub(crate) fn serve(bind: &str) {
    let listener = TcpListener::bind(bind).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let wanted = socket::original_dst(&stream)
                .map(|d| d.address().to_string())
                .unwrap_or_else(|_| stream.local_addr().unwrap().to_string());
            let peer = stream.peer_addr().unwrap();
            write!(stream, "{port} {wanted} {}", peer.ip()).unwrap();
        }
    });
}

pub(crate) fn ask(to: &str) -> String {
    let mut text = String::new();
    connect(to.parse().unwrap()).unwrap().read_to_string(&mut text).unwrap();
    text
}

pub(crate) fn ask_marked(to: &str) -> String {
    let to: SocketAddr = to.parse().unwrap();
    let s = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None).unwrap();
    socket::set_mark(&s, 1337).unwrap();
    s.connect_timeout(&to.into(), Duration::from_secs(5)).unwrap();
    let mut text = String::new();
    TcpStream::from(s).read_to_string(&mut text).unwrap();
    text
}

pub(crate) fn by_mark() -> CaptureConfig {
    CaptureConfig { proxy: ProxyTraffic::Mark(1337), ..CaptureConfig::default() }
}

pub(crate) fn serve_v6(bind: &str) {
    let s = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
    s.set_only_v6(true).unwrap();
    s.bind(&bind.parse::<SocketAddr>().unwrap().into()).unwrap();
    s.listen(16).unwrap();
    let listener = TcpListener::from(s);
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let wanted = socket::original_dst(&stream)
                .map(|d| d.address().to_string())
                .unwrap_or_else(|_| stream.local_addr().unwrap().to_string());
            let peer = stream.peer_addr().unwrap();
            write!(stream, "{port} {wanted} {}", peer.ip()).unwrap();
        }
    });
}
