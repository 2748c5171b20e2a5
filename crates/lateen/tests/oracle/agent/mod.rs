//! The suite's hand in a pod: the test's own binary, run there by `lateen exec`. It does what it is told on standard input, a line of
//! JSON each, and says on standard output what it observed. One process a pod, so that a request costs no process.

mod http1;
mod http2;
mod raw;
mod tls;

pub(crate) use http1::parse;

use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

use crate::op::{Answer, Exchange, Http, Op, Tls, TlsSeen, Version};

/// A connection, with TLS or without.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A connection that was opened.
struct Opened {
    stream: Box<dyn Stream>,
    /// Our side.
    local: String,
    tls: Option<TlsSeen>,
}

/// Why there is no connection.
struct NotOpened {
    error: String,
    /// Our side, if it was TLS that failed.
    local: String,
}

/// How long a name may stay unknown: it may be new.
const RESOLUTION: Duration = Duration::from_secs(5);

/// Serves until the end of standard input.
pub(crate) fn run() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        let answer = match serde_json::from_str(&line) {
            Ok(op) => runtime.block_on(carry_out(op)),
            Err(error) => Answer::Failed(error.to_string()),
        };
        let mut out = std::io::stdout().lock();
        if writeln!(out, "{}", serde_json::to_string(&answer).unwrap()).and_then(|()| out.flush()).is_err() {
            return;
        }
    }
}

async fn carry_out(op: Op) -> Answer {
    match op {
        Op::Resolve(name) => match resolve(&format!("{name}:1")).await {
            Ok(address) => Answer::Resolved(address.ip().to_string()),
            Err(error) => Answer::Failed(error),
        },
        Op::Bytes(all) => {
            let tasks: Vec<_> = all.into_iter().map(|bytes| tokio::spawn(async move { raw::exchange(&bytes).await })).collect();
            let mut exchanges = Vec::new();
            for task in tasks {
                exchanges.push(task.await.unwrap());
            }
            Answer::Exchanges(exchanges)
        }
        Op::KeepAlive(port) => match std::fs::read_to_string("/proc/net/tcp") {
            Ok(table) => Answer::Exchanges(vec![Exchange { body: probes(&table, port).into_bytes(), ..Exchange::default() }]),
            Err(error) => Answer::Failed(error.to_string()),
        },
        Op::Http(http) => Answer::Exchanges(requests(*http).await),
    }
}

/// The times until probes (proc(5), `/proc/net/tcp`: timer 2), in seconds, rounded up to tens.
fn probes(table: &str, port: u16) -> String {
    let to_port = format!(":{port:04X}");
    let wait = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let (remote, timer) = (columns.get(2)?, columns.get(5)?);
        let hundredths = u64::from_str_radix(timer.strip_prefix("02:")?, 16).ok()?;
        remote.ends_with(&to_port).then(|| hundredths.div_ceil(1000) * 10)
    };
    let waits: BTreeSet<u64> = table.lines().filter_map(wait).collect();
    waits.iter().map(|seconds| format!("within {seconds} s")).collect::<Vec<_>>().join(" | ")
}

async fn requests(http: Http) -> Vec<Exchange> {
    let http = Arc::new(http);
    let mut workers = Vec::new();
    let count = http.parallel.max(1);
    for worker in 0..count {
        // The first ones take what does not divide evenly.
        let share = http.times / count + u32::from(worker < http.times % count);
        let http = Arc::clone(&http);
        workers.push(tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(http.stagger * u64::from(worker))).await;
            match http.version {
                Version::Http2 => http2::requests(&http, share).await,
                Version::Http10 | Version::Http11 => http1::requests(&http, share).await,
            }
        }));
    }
    let mut exchanges = Vec::new();
    for worker in workers {
        exchanges.extend(worker.await.unwrap());
    }
    exchanges
}

async fn resolve(address: &str) -> Result<SocketAddr, String> {
    let deadline = Instant::now() + RESOLUTION;
    loop {
        match tokio::net::lookup_host(address).await {
            Ok(mut found) => {
                if let Some(found) = found.find(SocketAddr::is_ipv4) {
                    return Ok(found);
                }
            }
            Err(_) if Instant::now() < deadline => {}
            Err(error) => return Err(format!("{address}: {error}")),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn connect(address: &str, tls: Option<&Tls>) -> Result<Opened, NotOpened> {
    connect_for(address, tls, false).await
}

/// As [`connect`]; `reset` says that the connection is to be reset in the end.
async fn connect_for(address: &str, tls: Option<&Tls>, reset: bool) -> Result<Opened, NotOpened> {
    let (stream, local) = connect_plainly(address).await.map_err(|error| NotOpened { error, local: String::new() })?;
    if reset && let Err(error) = stream.set_zero_linger() {
        return Err(NotOpened { error: error.to_string(), local });
    }
    let Some(tls) = tls else { return Ok(Opened { stream: Box::new(stream), local, tls: None }) };
    match timeout(Duration::from_secs(10), tls::connect(stream, tls)).await {
        Ok(Ok((stream, seen))) => Ok(Opened { stream, local, tls: Some(seen) }),
        Ok(Err(error)) => Err(NotOpened { error, local }),
        Err(_) => Err(NotOpened { error: "no TLS in time".to_owned(), local }),
    }
}

async fn connect_plainly(address: &str) -> Result<(TcpStream, String), String> {
    let address = resolve(address).await?;
    let stream = match timeout(Duration::from_secs(10), from_a_new_port(address)).await {
        Ok(connected) => connected.map_err(|error| name(&error).to_owned())?,
        Err(_) => return Err("no connection in time".to_owned()),
    };
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let local = stream.local_addr().map_err(|e| e.to_string())?.to_string();
    Ok((stream, local))
}

/// Connects from a port that no connection had before: access logs are read by it, and where two connections to different
/// addresses share one, redirection changes that of the second.
async fn from_a_new_port(address: SocketAddr) -> std::io::Result<TcpStream> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Below those that the kernel gives away, above the proxies' own.
    const PORTS: Range<u16> = 16_000..32_000;
    loop {
        let port = PORTS.start + NEXT.fetch_add(1, Ordering::Relaxed) % (PORTS.end - PORTS.start);
        let socket = TcpSocket::new_v4()?;
        match socket.bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))) {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
            bound => return bound.map(|()| socket.connect(address))?.await,
        }
    }
}

/// An error in words that do not depend on the machine.
fn name(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "refused",
        std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe => "reset",
        std::io::ErrorKind::UnexpectedEof => "closed",
        std::io::ErrorKind::TimedOut => "timed out",
        _ => "failed",
    }
}

/// An error of a connection that was open: of TLS, what the other side said.
fn describe(error: std::io::Error) -> String {
    let plain = name(&error).to_owned();
    tls::late(error).unwrap_or(plain)
}

/// Milliseconds since 1970.
fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
