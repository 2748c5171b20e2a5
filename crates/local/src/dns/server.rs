//! DNS over UDP and TCP (RFC 1035).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};

use super::zone::Zone;

/// The largest answer over UDP without EDNS.
const PLAIN_UDP: u16 = 512;
/// TCP connections served at once, and how long one may be idle.
const CONNECTIONS: usize = 256;
const IDLE: Duration = Duration::from_secs(10);

/// Starts to serve the zone on port 53 of an address.
pub(crate) async fn serve(ip: IpAddr, zone: watch::Receiver<Arc<Zone>>) -> io::Result<()> {
    let address = SocketAddr::new(ip, 53);
    let udp = UdpSocket::bind(address).await?;
    let tcp = TcpListener::bind(address).await?;
    tokio::spawn(over_udp(udp, zone.clone()));
    tokio::spawn(over_tcp(tcp, zone));
    Ok(())
}

async fn over_udp(socket: UdpSocket, zone: watch::Receiver<Arc<Zone>>) {
    let mut buffer = vec![0; 4096];
    loop {
        // An error here is a peer's ICMP message about an earlier answer.
        let Ok((len, from)) = socket.recv_from(&mut buffer).await else { continue };
        if let Some((reply, limit)) = reply(&buffer[..len], &zone) {
            let bytes = reply.to_vec().unwrap_or_default();
            let bytes = if bytes.len() > usize::from(limit) { reply.truncate().to_vec().unwrap_or_default() } else { bytes };
            let _ = socket.send_to(&bytes, from).await;
        }
    }
}

async fn over_tcp(listener: TcpListener, zone: watch::Receiver<Arc<Zone>>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let zone = zone.clone();
        tokio::spawn(async move {
            let _ = connection(stream, &zone).await;
            drop(permit);
        });
    }
}

async fn connection(mut stream: TcpStream, zone: &watch::Receiver<Arc<Zone>>) -> io::Result<()> {
    loop {
        let len = tokio::time::timeout(IDLE, stream.read_u16()).await??;
        let mut query = vec![0; usize::from(len)];
        tokio::time::timeout(IDLE, stream.read_exact(&mut query)).await??;
        let Some((reply, _)) = reply(&query, zone) else { return Ok(()) };
        let bytes = reply.to_vec().map_err(io::Error::other)?;
        let len = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        let mut framed = len.to_be_bytes().to_vec();
        framed.extend_from_slice(&bytes);
        stream.write_all(&framed).await?;
    }
}

/// The answer and the largest size that the client takes over UDP; `None` for what deserves no answer.
fn reply(query: &[u8], zone: &watch::Receiver<Arc<Zone>>) -> Option<(Message, u16)> {
    match Message::from_vec(query) {
        // An answer to an answer would go round for ever.
        Ok(query) if query.metadata.message_type == MessageType::Response => None,
        Ok(query) => {
            let limit = query.edns.as_ref().map_or(PLAIN_UDP, |e| e.max_payload().clamp(PLAIN_UDP, 1232));
            let zone = zone.borrow().clone();
            Some((zone.answer(&query), limit))
        }
        Err(_) => {
            let id = u16::from_be_bytes([*query.first()?, *query.get(1)?]);
            Some((Message::error_msg(id, OpCode::Query, ResponseCode::FormErr), PLAIN_UDP))
        }
    }
}
