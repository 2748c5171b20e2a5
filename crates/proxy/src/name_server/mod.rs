//! The sidecar's DNS server (Istio's DNS proxy): names that the control plane's table has are answered, the rest is asked of the
//! pod's own servers.
//!
//! Capture leads the application's questions here. Those of the proxy itself carry its mark and go past.

mod table;
mod upstream;

pub(crate) use table::Table;

use crate::on_demand::OnDemand;
use arc_swap::ArcSwap;
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use lateen_capture::rules::DNS_PROXY_PORT;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use upstream::Upstream;

/// The largest answer over UDP without EDNS, and with it.
const PLAIN_UDP: u16 = 512;
const EDNS_UDP: u16 = 4096;
/// Questions that wait for other servers at once; further ones are refused, for they are asked again.
const QUESTIONS: usize = 1024;
/// TCP connections served at once, and how long one may be idle.
const CONNECTIONS: usize = 256;
const IDLE: Duration = Duration::from_secs(10);
/// The pause before a socket that could not be opened is tried again.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// Where the server listens that knows no table: for a proxy whose own questions capture cannot tell from the application's.
pub(crate) const FORWARDER_PORT: u16 = DNS_PROXY_PORT + 1;

/// The names in force, replaced whole, and what was asked.
#[derive(Default)]
pub(crate) struct Names {
    pub(crate) table: ArcSwap<Table>,
    /// Learns names that the mesh has and the table has not.
    pub(crate) on_demand: Arc<OnDemand>,
    pub(crate) stats: Stats,
}

/// How often what happened (Istio's `dns_*` metrics).
#[derive(Default)]
pub(crate) struct Stats {
    pub(crate) requests: AtomicU64,
    pub(crate) upstream_requests: AtomicU64,
    pub(crate) upstream_failures: AtomicU64,
}

/// Serves on both loopback addresses, within the current `LocalSet`, for as long as the process lives.
pub(crate) fn serve(names: &Arc<Names>, mark: Option<u32>) {
    for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        start(SocketAddr::new(ip, DNS_PROXY_PORT), names.clone(), mark);
    }
}

/// Serves questions of the proxy itself, which are all passed on.
pub(crate) fn serve_forwarder(mark: Option<u32>) {
    start(SocketAddr::from((Ipv4Addr::LOCALHOST, FORWARDER_PORT)), Arc::default(), mark);
}

fn start(address: SocketAddr, names: Arc<Names>, mark: Option<u32>) {
    let server = Rc::new(Server { names, upstream: Upstream::new(mark, address), waiting: Semaphore::new(QUESTIONS) });
    tokio::task::spawn_local(async move {
        loop {
            match (udp_socket(address, mark), TcpListener::bind(address).await) {
                (Ok(udp), Ok(tcp)) => {
                    tokio::join!(over_udp(Rc::new(udp), server.clone()), over_tcp(tcp, server.clone()));
                }
                (Err(error), _) | (_, Err(error)) => {
                    // A machine without IPv6 has no such address, and nobody asks there.
                    if address.is_ipv6() && error.kind() == io::ErrorKind::AddrNotAvailable {
                        return;
                    }
                    tracing::error!(%address, %error, "cannot serve DNS; trying again in {LISTEN_AGAIN:?}");
                    tokio::time::sleep(LISTEN_AGAIN).await;
                }
            }
        }
    });
}

/// The socket's mark puts answers into the conntrack zone of the captured questions, so that they come from the server that was asked.
fn udp_socket(address: SocketAddr, mark: Option<u32>) -> io::Result<UdpSocket> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    if let Some(mark) = mark {
        lateen_capture::socket::set_mark(&socket, mark)?;
    }
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

struct Server {
    names: Arc<Names>,
    upstream: Upstream,
    waiting: Semaphore,
}

impl Server {
    /// The answer; `None` for what deserves none.
    async fn answer(&self, bytes: &[u8], tcp: bool) -> Option<(Message, u16)> {
        let query = match Message::from_vec(bytes) {
            // An answer to an answer would go round for ever.
            Ok(query) if query.metadata.message_type == MessageType::Response => return None,
            Ok(query) => query,
            Err(_) => {
                let id = u16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]);
                return Some((Message::error_msg(id, OpCode::Query, ResponseCode::FormErr), PLAIN_UDP));
            }
        };
        let stats = &self.names.stats;
        stats.requests.fetch_add(1, Ordering::Relaxed);
        let limit = query.edns.as_ref().map_or(PLAIN_UDP, |e| e.max_payload().clamp(PLAIN_UDP, EDNS_UDP));
        let mut table = self.names.table.load_full();
        if let Some(reply) = table.answer(&query) {
            return Some((reply, limit));
        }
        let failed = || {
            let mut reply = table::reply_to(&query);
            reply.metadata.response_code = ResponseCode::ServFail;
            reply
        };
        let on_demand = &self.names.on_demand;
        let open = table::asked_name(&query).map(|name| on_demand.open_questions_of_name(&name)).unwrap_or_default();
        if !open.is_empty() {
            if on_demand.learn(open).await.is_err() {
                return Some((failed(), limit));
            }
            table = self.names.table.load_full();
            if let Some(reply) = table.answer(&query) {
                return Some((reply, limit));
            }
        }
        let Ok(_permit) = self.waiting.try_acquire() else { return Some((failed(), limit)) };
        stats.upstream_requests.fetch_add(1, Ordering::Relaxed);
        match self.upstream.ask(bytes, &query, tcp).await {
            Ok(mut reply) => {
                table.complete(&mut reply);
                Some((reply, limit))
            }
            Err(error) => {
                stats.upstream_failures.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%error, "DNS");
                Some((failed(), limit))
            }
        }
    }
}

async fn over_udp(socket: Rc<UdpSocket>, server: Rc<Server>) {
    let mut buffer = vec![0; usize::from(EDNS_UDP)];
    loop {
        // An error here is a peer's ICMP message about an earlier answer.
        let Ok((len, from)) = socket.recv_from(&mut buffer).await else { continue };
        let (query, socket, server) = (buffer[..len].to_vec(), socket.clone(), server.clone());
        tokio::task::spawn_local(async move {
            if let Some((reply, limit)) = server.answer(&query, false).await {
                let bytes = reply.to_vec().unwrap_or_default();
                let bytes = if bytes.len() > usize::from(limit) { reply.truncate().to_vec().unwrap_or_default() } else { bytes };
                let _ = socket.send_to(&bytes, from).await;
            }
        });
    }
}

async fn over_tcp(listener: TcpListener, server: Rc<Server>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let server = server.clone();
        tokio::task::spawn_local(async move {
            let _ = connection(stream, &server).await;
            drop(permit);
        });
    }
}

async fn connection(mut stream: TcpStream, server: &Server) -> io::Result<()> {
    loop {
        let len = tokio::time::timeout(IDLE, stream.read_u16()).await??;
        let mut query = vec![0; usize::from(len)];
        tokio::time::timeout(IDLE, stream.read_exact(&mut query)).await??;
        let Some((reply, _)) = server.answer(&query, true).await else { return Ok(()) };
        let bytes = reply.to_vec().map_err(io::Error::other)?;
        stream.write_all(&framed(&bytes)?).await?;
    }
}

/// A message as TCP carries it (RFC 1035, section 4.2.2).
fn framed(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let len = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    Ok([&len.to_be_bytes()[..], bytes].concat())
}

#[cfg(test)]
mod tests;
