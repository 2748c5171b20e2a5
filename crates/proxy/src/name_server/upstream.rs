//! The pod's own name servers, asked in the application's place: the same question, and the answer as it comes.

use super::framed;
use hickory_proto::op::{Message, MessageType};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How long one server has for an answer (Istio's).
const PATIENCE: Duration = Duration::from_secs(5);
/// The most servers that are asked one after the other.
const MOST_SERVERS: usize = 3;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("/etc/resolv.conf names no server")]
    NoServer,
    #[error("{0} has not answered within {PATIENCE:?}")]
    Timeout(SocketAddr),
    #[error("{0}: {1}")]
    Io(SocketAddr, io::Error),
}

/// Where questions go that are not answered here.
pub(super) struct Upstream {
    mark: Option<u32>,
    /// This server itself, which is never asked.
    own: SocketAddr,
    resolv_conf: PathBuf,
    port: u16,
}

impl Upstream {
    /// The servers of `/etc/resolv.conf`, which is read for each question: a changed one counts at once. `mark` is put on sockets.
    pub(super) fn new(mark: Option<u32>, own: SocketAddr) -> Self {
        Self { mark, own, resolv_conf: "/etc/resolv.conf".into(), port: 53 }
    }

    /// Those of this file, on this port.
    #[cfg(test)]
    pub(super) fn with_file(resolv_conf: PathBuf, port: u16) -> Self {
        Self { mark: None, own: SocketAddr::from(([127, 0, 0, 1], 0)), resolv_conf, port }
    }

    /// Asks one server after the other until one answers. Each question goes as it came: over UDP, or over TCP.
    pub(super) async fn ask(&self, bytes: &[u8], query: &Message, tcp: bool) -> Result<Message, AskError> {
        let text = tokio::fs::read_to_string(&self.resolv_conf).await.unwrap_or_default();
        let mut failure = AskError::NoServer;
        for server in servers(&text, self.port).filter(|s| *s != self.own).take(MOST_SERVERS) {
            let asking = async {
                match tcp {
                    true => self.over_tcp(server, bytes, query).await,
                    false => self.over_udp(server, bytes, query).await,
                }
            };
            match tokio::time::timeout(PATIENCE, asking).await {
                Ok(Ok(reply)) => return Ok(reply),
                Ok(Err(error)) => failure = AskError::Io(server, error),
                Err(_) => failure = AskError::Timeout(server),
            }
        }
        Err(failure)
    }

    async fn over_udp(&self, server: SocketAddr, bytes: &[u8], query: &Message) -> io::Result<Message> {
        let socket = self.socket(server, socket2::Type::DGRAM)?;
        // Connected: the kernel gives each question a port of its own and drops what others send to it.
        socket.connect(&server.into())?;
        let socket = tokio::net::UdpSocket::from_std(socket.into())?;
        socket.send(bytes).await?;
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            let len = socket.recv(&mut buffer).await?;
            if let Some(reply) = Message::from_vec(&buffer[..len]).ok().filter(|reply| answers(reply, query)) {
                return Ok(reply);
            }
        }
    }

    async fn over_tcp(&self, server: SocketAddr, bytes: &[u8], query: &Message) -> io::Result<Message> {
        let socket = self.socket(server, socket2::Type::STREAM)?;
        let mut stream = tokio::net::TcpSocket::from_std_stream(socket.into()).connect(server).await?;
        stream.write_all(&framed(bytes)?).await?;
        let mut reply = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut reply).await?;
        let reply = Message::from_vec(&reply).map_err(io::Error::other)?;
        if answers(&reply, query) { Ok(reply) } else { Err(io::Error::other("the answer is to another question")) }
    }

    fn socket(&self, to: SocketAddr, kind: socket2::Type) -> io::Result<socket2::Socket> {
        let socket = socket2::Socket::new(socket2::Domain::for_address(to), kind, None)?;
        socket.set_nonblocking(true)?;
        if let Some(mark) = self.mark {
            lateen_capture::socket::set_mark(&socket, mark)?;
        }
        Ok(socket)
    }
}

/// The servers that a `resolv.conf` names.
fn servers(text: &str, port: u16) -> impl Iterator<Item = SocketAddr> + '_ {
    let server = move |line: &str| {
        let mut words = line.split(['#', ';']).next().unwrap_or_default().split_whitespace();
        let ip: IpAddr = words.next().filter(|word| *word == "nameserver").and(words.next())?.parse().ok()?;
        Some(SocketAddr::new(ip, port))
    };
    text.lines().filter_map(server)
}

/// Whether a message answers a question: that, and no other.
fn answers(reply: &Message, query: &Message) -> bool {
    let same = reply.queries.iter().zip(&query.queries).all(|(a, b)| a.name() == b.name() && a.query_type() == b.query_type());
    reply.metadata.message_type == MessageType::Response
        && reply.metadata.id == query.metadata.id
        && reply.queries.len() == query.queries.len()
        && same
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_a_file() {
        let text = "# x\nnameserver 10.0.0.1 ; y\nsearch a\nnameserver fd00::1\nnameserver nonsense\n";
        let found: Vec<String> = servers(text, 53).map(|s| s.to_string()).collect();
        assert_eq!(found, ["10.0.0.1:53", "[fd00::1]:53"]);
    }
}
