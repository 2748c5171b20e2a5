//! TCP: connections a second, bytes a second, and connections that only stay.

use crate::stats::summary;
use crate::{Failure, Load, print_line};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A connection's first byte: every byte is to come back.
const ECHO: u8 = b'E';
/// A connection's first byte: bytes are to be counted, and when no more come the count be told (big endian, 64 bits).
const SINK: u8 = b'S';
const CHUNK: usize = 256 * 1024;
/// How long one exchange may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Serves until it is killed.
pub(crate) async fn serve(port: u16) -> Result<(), Failure> {
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    loop {
        // Only lack of descriptors fails here; connections that end make room.
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::task::spawn_local(answer(stream))),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    match stream.read_u8().await? {
        SINK => sink(stream).await,
        _ => echo(stream).await,
    }
}

async fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    // Small: ten thousand of these wait at the same time.
    let mut buffer = [0; 64];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            length => stream.write_all(&buffer[..length]).await?,
        }
    }
}

async fn sink(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut total = 0_u64;
    loop {
        match stream.read(&mut buffer).await? {
            0 => break,
            length => total += length as u64,
        }
    }
    stream.write_u64(total).await
}

/// A connection that has carried one byte to the server and back, or a request to this host and the head of its answer.
async fn exchange(address: &str, http: Option<&str>) -> std::io::Result<TcpStream> {
    let whole = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        match http {
            None => stream.write_all(&[ECHO, b'x']).await?,
            Some(host) => stream.write_all(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).await?,
        }
        let expected: &[u8] = if http.is_some() { b"HTTP/1.1 200" } else { b"x" };
        let mut got = vec![0; expected.len()];
        stream.read_exact(&mut got).await?;
        let other = || std::io::Error::other(format!("expected {expected:?}, got {got:?}"));
        if got == expected { Ok(stream) } else { Err(other()) }
    };
    tokio::time::timeout(PATIENCE, whole).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

/// New connections for a while.
pub(crate) async fn connect(load: &Load) -> Result<Value, Failure> {
    let start = Instant::now();
    let workers = (0..load.concurrency).map(|_| async {
        let (mut times, mut errors) = (Vec::new(), Vec::new());
        while start.elapsed() < load.duration() {
            let begun = Instant::now();
            match exchange(&load.address, None).await {
                Ok(_) => times.push(begun.elapsed()),
                Err(error) => errors.push(error.to_string()),
            }
        }
        (times, errors)
    });
    let (times, errors): (Vec<_>, Vec<_>) = join_all(workers).await.into_iter().unzip();
    let (mut times, errors) = (times.concat(), errors.concat());
    Ok(json!({
        "connections": times.len(), "seconds": start.elapsed().as_secs_f64(), "latency": summary(&mut times),
        "failed": errors.len(), "error": errors.first(),
    }))
}

/// Bytes for a while.
pub(crate) async fn send(load: &Load) -> Result<Value, Failure> {
    let start = Instant::now();
    let sent = join_all((0..load.concurrency).map(|_| send_one(load, start))).await;
    let total = sent.into_iter().sum::<std::io::Result<u64>>()?;
    Ok(json!({ "bytes": total, "seconds": start.elapsed().as_secs_f64() }))
}

async fn send_one(load: &Load, start: Instant) -> std::io::Result<u64> {
    let chunk = vec![b'x'; CHUNK];
    let mut stream = TcpStream::connect(&load.address).await?;
    stream.write_u8(SINK).await?;
    while start.elapsed() < load.duration() {
        stream.write_all(&chunk).await?;
    }
    stream.shutdown().await?;
    stream.read_u64().await
}

/// Opens connections and holds them until standard input ends.
pub(crate) async fn hold(address: &str, count: usize, http: Option<&str>) -> Result<(), Failure> {
    const AT_ONCE: usize = 50;
    let mut held = Vec::with_capacity(count);
    while held.len() < count {
        let more = join_all((0..AT_ONCE.min(count - held.len())).map(|_| exchange(address, http))).await;
        for stream in more {
            held.push(stream.map_err(|error| format!("connection {} of {count} to {address}: {error}", held.len() + 1))?);
        }
    }
    print_line(&json!({ "held": held.len() }).to_string());
    tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{answer, connect, exchange, send};
    use crate::Load;
    use tokio::net::TcpListener;

    async fn load(address: std::net::SocketAddr) -> (serde_json::Value, serde_json::Value) {
        let load = Load { address: address.to_string(), concurrency: 2, seconds: 0.05 };
        (connect(&load).await.expect("connects"), send(&load).await.expect("sends"))
    }

    #[tokio::test]
    async fn what_is_counted_went_to_the_server() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("has an address");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream));
            }
        });
        let (connections, bytes) = load(address).await;
        assert!(connections["connections"].as_u64() > Some(0), "{connections}");
        assert_eq!(connections["failed"], 0, "{connections}");
        assert!(bytes["bytes"].as_u64().is_some_and(|bytes| bytes > 0 && bytes % super::CHUNK as u64 == 0), "{bytes}");
    }

    #[tokio::test]
    async fn a_server_that_answers_something_else_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("has an address").to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accepts");
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP").await;
            let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut Vec::new()).await;
        });
        assert!(exchange(&address, None).await.expect_err("not an echo").to_string().contains("got [72]"));
    }
}
