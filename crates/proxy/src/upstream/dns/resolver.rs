//! Asks name servers as the system's files say (`/etc/hosts`, `/etc/resolv.conf`), without blocking and from marked sockets.
//!
//! The wire format is hickory's. The system's own resolver would block a thread, say nothing of an answer's life, and be
//! captured. Files are read for each question, which is rare: a changed one counts at once.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use lateen_model::dataplane::DnsFamily;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The largest answer over UDP that is asked for: what crosses every network in one piece.
const UDP_PAYLOAD: u16 = 1232;
/// The most addresses that are taken from an answer.
const MAX_ADDRESSES: usize = 256;
/// The most aliases on the way from a name to its addresses.
const MAX_ALIASES: usize = 16;

/// Why a name could not be resolved. That it has no addresses is no failure.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResolveError {
    #[error("{0:?} is not a DNS name")]
    Name(String),
    #[error("/etc/resolv.conf names no server")]
    NoServer,
    #[error("no server has answered")]
    Timeout,
    #[error("the server {0} answers {1}")]
    Refused(SocketAddr, ResponseCode),
    #[error("{0}: {1}")]
    Io(SocketAddr, io::Error),
}

/// What a name stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// In the order of the answer; IPv4 first where both were asked for.
    pub(super) addresses: Vec<IpAddr>,
    /// For how long it holds; `None` where nobody says.
    pub(super) life: Option<Duration>,
}

/// Asks name servers.
pub(super) struct Resolver {
    mark: Option<u32>,
    resolv_conf: PathBuf,
    hosts: PathBuf,
}

/// What `resolv.conf` says (`resolv.conf(5)`).
#[derive(Debug, PartialEq, Eq)]
struct Configuration {
    servers: Vec<SocketAddr>,
    search: Vec<String>,
    ndots: usize,
    timeout: Duration,
    attempts: usize,
}

impl Configuration {
    fn parse(text: &str) -> Self {
        let mut configuration =
            Self { servers: Vec::new(), search: Vec::new(), ndots: 1, timeout: Duration::from_secs(5), attempts: 2 };
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => configuration.servers.extend(words.next().and_then(server)),
                Some("search") => configuration.search = words.map(str::to_owned).collect(),
                Some("domain") => configuration.search = words.take(1).map(str::to_owned).collect(),
                Some("options") => words.for_each(|option| configuration.option(option)),
                _ => {}
            }
        }
        // The bounds of the C library.
        configuration.servers.truncate(3);
        configuration.search.truncate(6);
        configuration
    }

    fn option(&mut self, option: &str) {
        let Some((name, value)) = option.split_once(':') else { return };
        let Ok(value) = value.parse::<u32>() else { return };
        match name {
            "ndots" => self.ndots = value.min(15) as usize,
            "timeout" => self.timeout = Duration::from_secs(value.clamp(1, 30).into()),
            "attempts" => self.attempts = value.clamp(1, 5) as usize,
            _ => {}
        }
    }

    /// The full names to ask for, in order: with enough dots a name is tried as it is first.
    fn candidates(&self, host: &str) -> Vec<String> {
        if let Some(full) = host.strip_suffix('.') {
            return vec![full.to_owned()];
        }
        let searched = self.search.iter().map(|domain| format!("{host}.{}", domain.trim_end_matches('.')));
        let itself = std::iter::once(host.to_owned());
        match host.matches('.').count() >= self.ndots {
            true => itself.chain(searched).collect(),
            false => searched.chain(itself).collect(),
        }
    }
}

/// `address` or, for IPv6 within a link, `address%interface`, which is not followed.
fn server(text: &str) -> Option<SocketAddr> {
    Some(SocketAddr::new(text.parse().ok()?, 53))
}

/// The addresses of a name in the text of `/etc/hosts`.
fn in_hosts(text: &str, host: &str) -> Vec<IpAddr> {
    let host = host.trim_end_matches('.');
    let of_line = |line: &str| {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let ip: IpAddr = words.next()?.parse().ok()?;
        words.any(|name| name.eq_ignore_ascii_case(host)).then_some(ip)
    };
    text.lines().filter_map(of_line).collect()
}

impl Resolver {
    /// Reads the system's files. `mark` is put on its sockets.
    pub(super) fn new(mark: Option<u32>) -> Self {
        Self { mark, resolv_conf: "/etc/resolv.conf".into(), hosts: "/etc/hosts".into() }
    }

    /// Reads these files instead.
    #[cfg(test)]
    pub(super) fn with_files(resolv_conf: PathBuf, hosts: PathBuf) -> Self {
        Self { mark: None, resolv_conf, hosts }
    }

    /// The addresses of a name.
    pub(super) async fn lookup(&self, host: &str, family: DnsFamily) -> Result<Answer, ResolveError> {
        let hosts = tokio::fs::read_to_string(&self.hosts).await.unwrap_or_default();
        let known = in_hosts(&hosts, host);
        if !known.is_empty() {
            let (v4, v6) = known.into_iter().partition(|ip: &IpAddr| ip.is_ipv4());
            return Ok(choose(family, answer(v4), answer(v6)));
        }
        let text = tokio::fs::read_to_string(&self.resolv_conf).await.unwrap_or_default();
        let configuration = Configuration::parse(&text);
        if configuration.servers.is_empty() {
            return Err(ResolveError::NoServer);
        }
        let mut failure = None;
        for candidate in configuration.candidates(host) {
            let name = Name::from_ascii(format!("{candidate}.")).map_err(|_| ResolveError::Name(candidate.clone()))?;
            match self.both(&configuration, &name, family).await {
                Ok(found) if !found.addresses.is_empty() => return Ok(found),
                Ok(_) => {}
                Err(error) => failure = Some(error),
            }
        }
        // Where one form of the name could not be asked for, it is not known that there is no address.
        failure.map_or_else(|| Ok(Answer::default()), Err)
    }

    async fn both(&self, configuration: &Configuration, name: &Name, family: DnsFamily) -> Result<Answer, ResolveError> {
        let ask = |kind| self.ask(configuration, name, kind);
        Ok(match family {
            DnsFamily::V4Only => ask(RecordType::A).await?,
            DnsFamily::V6Only => ask(RecordType::AAAA).await?,
            DnsFamily::All | DnsFamily::Auto | DnsFamily::V4Preferred => {
                let (v4, v6) = tokio::join!(ask(RecordType::A), ask(RecordType::AAAA));
                match (v4, v6) {
                    (Ok(v4), Ok(v6)) => choose(family, v4, v6),
                    // One family alone is better than nothing, but says nothing if it has nothing.
                    (Ok(one), Err(error)) | (Err(error), Ok(one)) => match one.addresses.is_empty() {
                        true => return Err(error),
                        false => one,
                    },
                    (Err(error), Err(_)) => return Err(error),
                }
            }
        })
    }

    async fn ask(&self, configuration: &Configuration, name: &Name, kind: RecordType) -> Result<Answer, ResolveError> {
        let mut failure = ResolveError::Timeout;
        for _ in 0..configuration.attempts {
            for server in &configuration.servers {
                let asking = self.ask_server(*server, name, kind);
                match tokio::time::timeout(configuration.timeout, asking).await {
                    Ok(Ok(reply)) => match reply.metadata.response_code {
                        ResponseCode::NoError => return Ok(read(&reply, name, kind)),
                        ResponseCode::NXDomain => return Ok(Answer::default()),
                        code => failure = ResolveError::Refused(*server, code),
                    },
                    Ok(Err(error)) => failure = ResolveError::Io(*server, error),
                    Err(_) => {}
                }
            }
        }
        Err(failure)
    }

    /// One question to one server: over UDP, and over TCP if the answer does not fit.
    async fn ask_server(&self, server: SocketAddr, name: &Name, kind: RecordType) -> io::Result<Message> {
        let mut query = Message::new(rand::random(), MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = true;
        query.add_query(Query::query(name.clone(), kind));
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_PAYLOAD);
        query.edns = Some(edns);
        let bytes = query.to_vec().map_err(io::Error::other)?;
        let reply = self.over_udp(server, &query, &bytes).await?;
        if !reply.metadata.truncation {
            return Ok(reply);
        }
        self.over_tcp(server, &query, &bytes).await
    }

    async fn over_udp(&self, server: SocketAddr, query: &Message, bytes: &[u8]) -> io::Result<Message> {
        let socket = self.socket(server, socket2::Type::DGRAM)?;
        // Connected: the kernel gives each question a port of its own and drops what others send to it.
        socket.connect(&server.into())?;
        let socket = tokio::net::UdpSocket::from_std(socket.into())?;
        socket.send(bytes).await?;
        let mut buffer = vec![0; 4096];
        loop {
            let len = socket.recv(&mut buffer).await?;
            if let Some(reply) = Message::from_vec(&buffer[..len]).ok().filter(|reply| answers(reply, query)) {
                return Ok(reply);
            }
        }
    }

    async fn over_tcp(&self, server: SocketAddr, query: &Message, bytes: &[u8]) -> io::Result<Message> {
        let socket = self.socket(server, socket2::Type::STREAM)?;
        let mut stream = tokio::net::TcpSocket::from_std_stream(socket.into()).connect(server).await?;
        let len = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        stream.write_all(&[&len.to_be_bytes()[..], bytes].concat()).await?;
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

/// Whether a message answers a question: that, and no other.
fn answers(reply: &Message, query: &Message) -> bool {
    let same = |a: &Query, b: &Query| a.name() == b.name() && a.query_type() == b.query_type();
    reply.metadata.message_type == MessageType::Response
        && reply.metadata.id == query.metadata.id
        && reply.queries.len() == query.queries.len()
        && reply.queries.iter().zip(&query.queries).all(|(a, b)| same(a, b))
}

/// The addresses of a name in an answer, along its aliases. The shortest life on the way is that of the whole.
fn read(reply: &Message, name: &Name, kind: RecordType) -> Answer {
    let mut name = name.clone();
    let mut life: Option<u32> = None;
    let shortest = |life: Option<u32>, ttl: u32| Some(life.map_or(ttl, |l| l.min(ttl)));
    for _ in 0..MAX_ALIASES {
        let alias = reply.answers.iter().find_map(|record| match &record.data {
            RData::CNAME(to) if record.name == name => Some((to.0.clone(), record.ttl)),
            _ => None,
        });
        let Some((to, ttl)) = alias else { break };
        life = shortest(life, ttl);
        name = to;
    }
    let mut addresses: Vec<IpAddr> = Vec::new();
    for record in reply.answers.iter().filter(|r| r.name == name).take(MAX_ADDRESSES) {
        let ip: IpAddr = match (&record.data, kind) {
            (RData::A(ip), RecordType::A) => ip.0.into(),
            (RData::AAAA(ip), RecordType::AAAA) => ip.0.into(),
            _ => continue,
        };
        if !addresses.contains(&ip) {
            addresses.push(ip);
            life = shortest(life, record.ttl);
        }
    }
    Answer { life: life.filter(|_| !addresses.is_empty()).map(|ttl| Duration::from_secs(ttl.into())), addresses }
}

fn answer(addresses: Vec<IpAddr>) -> Answer {
    Answer { addresses, life: None }
}

/// What of two families' answers is used.
fn choose(family: DnsFamily, v4: Answer, v6: Answer) -> Answer {
    let (first, second) = match family {
        DnsFamily::V4Only => return v4,
        DnsFamily::V6Only => return v6,
        DnsFamily::V4Preferred => (v4, v6),
        DnsFamily::Auto => (v6, v4),
        DnsFamily::All => {
            let life = [v4.life, v6.life].into_iter().flatten().min();
            return Answer { addresses: [v4.addresses, v6.addresses].concat(), life };
        }
    };
    if first.addresses.is_empty() { second } else { first }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_is_read() {
        let text = "# comment\nnameserver 10.0.0.1\nnameserver fd00::1 ; more\nnameserver fe80::1%eth0\nsearch a.b c.\noptions ndots:5 timeout:1 rotate attempts:9\n";
        let read = Configuration::parse(text);
        assert_eq!(read.servers, ["10.0.0.1:53".parse().unwrap(), "[fd00::1]:53".parse().unwrap()]);
        assert_eq!((read.ndots, read.timeout, read.attempts), (5, Duration::from_secs(1), 5));
        assert_eq!(read.candidates("x.y"), ["x.y.a.b", "x.y.c", "x.y"]);
        assert_eq!(read.candidates("x.y."), ["x.y"]);
        assert_eq!(Configuration::parse("search a").candidates("x.y"), ["x.y", "x.y.a"]);
    }

    #[test]
    fn hosts_are_read() {
        let text = "127.0.0.1 localhost\n10.0.0.7\tdb.example  DB # not.this\n::1 localhost\n";
        assert_eq!(in_hosts(text, "db"), ["10.0.0.7".parse::<IpAddr>().unwrap()]);
        assert_eq!(in_hosts(text, "db.example."), ["10.0.0.7".parse::<IpAddr>().unwrap()]);
        assert_eq!(in_hosts(text, "localhost").len(), 2);
        assert!(in_hosts(text, "not.this").is_empty());
    }

    #[test]
    fn families_are_chosen_as_the_cluster_says() {
        let (v4, v6) = (|| answer(vec!["10.0.0.1".parse().unwrap()]), || answer(vec!["fd00::1".parse().unwrap()]));
        for (family, expected) in [
            (DnsFamily::V4Only, vec!["10.0.0.1"]),
            (DnsFamily::V6Only, vec!["fd00::1"]),
            (DnsFamily::V4Preferred, vec!["10.0.0.1"]),
            (DnsFamily::Auto, vec!["fd00::1"]),
            (DnsFamily::All, vec!["10.0.0.1", "fd00::1"]),
        ] {
            let chosen = choose(family, v4(), v6());
            assert_eq!(chosen.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), expected, "{family:?}");
        }
        assert_eq!(choose(DnsFamily::V4Preferred, Answer::default(), v6()), v6());
        assert_eq!(choose(DnsFamily::Auto, v4(), Answer::default()), v4());
    }
}
