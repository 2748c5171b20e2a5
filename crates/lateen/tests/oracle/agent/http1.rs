//! HTTP/1 as the bytes are: nothing is added that the script does not say, and nothing that comes is repaired.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::{Opened, connect, describe, millis, now};
use crate::op::{Body, End, Exchange, Http, Version};

/// How long a connection that is watched may take to end. Envoy waits a second for its client to close first.
const END: Duration = Duration::from_secs(3);

/// Sends so many requests one after the other.
pub(super) async fn requests(http: &Http, count: u32) -> Vec<Exchange> {
    let mut kept: Option<Connection> = None;
    let mut exchanges = Vec::new();
    let mut jar: BTreeMap<String, String> = BTreeMap::new();
    for index in 0..count {
        let http = &filled(http, index, &jar);
        let (start, began) = (Instant::now(), now());
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => match connect(&http.address, http.tls.as_ref()).await {
                Ok(opened) => Connection { opened, buffer: Vec::new() },
                Err(failed) => {
                    let (error, local) = (Some(failed.error), failed.local);
                    exchanges.push(Exchange { error, local, began, millis: millis(start), ..Exchange::default() });
                    continue;
                }
            },
        };
        let (local, tls) = (connection.opened.local.clone(), connection.opened.tls.clone());
        let mut exchange = Exchange { local, tls, began, ..Exchange::default() };
        let limit = Duration::from_millis(http.patience);
        match timeout(limit, connection.exchange(http, &mut exchange)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => exchange.error = Some(error),
            Err(_) => exchange.error = Some("no answer in time".to_owned()),
        }
        exchange.millis = millis(start);
        if http.watch_end && index + 1 == count {
            exchange.end = Some(connection.end().await);
        }
        if http.cookies {
            jar.extend(
                exchange.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case("set-cookie")).filter_map(|(_, v)| cookie(v)),
            );
        }
        if exchange.error.is_none() && !http.anew && !closes(&exchange) {
            kept = Some(connection);
        }
        exchanges.push(exchange);
    }
    exchanges
}

/// A request's number in the place of `%N%`, and what answers before it asked to be told.
fn filled(http: &Http, index: u32, jar: &BTreeMap<String, String>) -> Http {
    let mut http = http.clone();
    if http.keys > 0 {
        let key = (index % http.keys).to_string();
        http.target = http.target.replace("%N%", &key);
        http.headers.iter_mut().for_each(|(_, value)| *value = value.replace("%N%", &key));
    }
    if !jar.is_empty() {
        let pairs: Vec<String> = jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
        http.headers.push(("cookie".to_owned(), pairs.join("; ")));
    }
    http
}

/// The name and value of a `set-cookie`.
fn cookie(header: &str) -> Option<(String, String)> {
    let (name, value) = header.split(';').next()?.split_once('=')?;
    Some((name.trim().to_owned(), value.trim().to_owned()))
}

fn closes(exchange: &Exchange) -> bool {
    exchange.version == "HTTP/1.0"
        || exchange.headers.iter().any(|(n, v)| n.eq_ignore_ascii_case("connection") && v.contains("close"))
}

struct Connection {
    opened: Opened,
    /// Read, and not yet used.
    buffer: Vec<u8>,
}

impl Connection {
    async fn exchange(&mut self, http: &Http, into: &mut Exchange) -> Result<(), String> {
        let (head, rest) = request(http);
        self.send(&head).await?;
        let mut rest = Some(rest);
        if !matches!(http.body, Body::Expect(_)) {
            self.send(&rest.take().unwrap_or_default()).await?;
        }
        loop {
            let head = self.head().await?;
            let (status, version, headers) = parse(&head)?;
            if (100..200).contains(&status) && status != 101 {
                into.interim.push(status);
                if status == 100
                    && let Some(rest) = rest.take()
                {
                    self.send(&rest).await?;
                }
                continue;
            }
            (into.status, into.version, into.headers) = (status, version, headers);
            return self.body(http, into).await;
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.opened.stream.write_all(bytes).await.map_err(|e| format!("{} while sending", describe(e)))
    }

    /// Some more bytes; `false` at the end.
    async fn fill(&mut self) -> Result<bool, String> {
        match self.opened.stream.read_buf(&mut self.buffer).await {
            Ok(read) => Ok(read > 0),
            Err(error) => Err(describe(error)),
        }
    }

    async fn need(&mut self, what: &str) -> Result<(), String> {
        if self.fill().await? { Ok(()) } else { Err(format!("closed {what}")) }
    }

    async fn head(&mut self) -> Result<String, String> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                return Ok(String::from_utf8_lossy(&head[..end]).into_owned());
            }
            let state = if self.buffer.is_empty() { "before an answer" } else { "in the head" };
            self.need(state).await?;
        }
    }

    async fn body(&mut self, http: &Http, into: &mut Exchange) -> Result<(), String> {
        let find = |name: &str| into.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.clone());
        let none = http.method == "HEAD" || matches!(into.status, 101 | 204 | 304);
        if none || (http.method == "CONNECT" && into.status == 200) {
            return Ok(());
        }
        if find("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            return self.chunks(into).await;
        }
        match find("content-length").map(|v| v.parse::<usize>()) {
            Some(Err(e)) => Err(format!("content-length: {e}")),
            Some(Ok(length)) => self.take(length, into).await,
            None => {
                while self.fill().await? {}
                into.body.append(&mut self.buffer);
                Ok(())
            }
        }
    }

    /// Moves `length` bytes into the body, or as many as come.
    async fn take(&mut self, length: usize, into: &mut Exchange) -> Result<(), String> {
        let mut filled = Ok(());
        while self.buffer.len() < length && filled.is_ok() {
            filled = self.need("in the body").await;
        }
        into.body.extend(self.buffer.drain(..length.min(self.buffer.len())));
        filled
    }

    async fn line(&mut self) -> Result<String, String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.need("in the body").await?;
        }
    }

    async fn chunks(&mut self, into: &mut Exchange) -> Result<(), String> {
        loop {
            let line = self.line().await?;
            let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16)
                .map_err(|e| format!("chunk size {line:?}: {e}"))?;
            if size > 0 {
                self.take(size, into).await?;
                self.line().await?;
                continue;
            }
            loop {
                let line = self.line().await?;
                match line.split_once(':') {
                    Some((name, value)) => into.trailers.push((name.to_owned(), value.trim().to_owned())),
                    None => return Ok(()),
                }
            }
        }
    }

    async fn end(&mut self) -> End {
        match timeout(END, self.fill()).await {
            Err(_) | Ok(Ok(true)) => End::Open,
            Ok(Ok(false)) => End::Closed,
            Ok(Err(_)) => End::Reset,
        }
    }
}

/// The head, and what follows it.
fn request(http: &Http) -> (Vec<u8>, Vec<u8>) {
    let version = if http.version == Version::Http10 { "HTTP/1.0" } else { "HTTP/1.1" };
    let mut head = format!("{} {} {version}\r\n", http.method, http.target);
    let mut line = |name: &str, value: &str| head.push_str(&format!("{name}: {value}\r\n"));
    if let Some(authority) = &http.authority {
        line("Host", authority);
    }
    for (name, value) in &http.headers {
        line(name, value);
    }
    let rest = match &http.body {
        Body::None => Vec::new(),
        Body::Text(text) => {
            line("Content-Length", &text.len().to_string());
            text.clone().into_bytes()
        }
        Body::Expect(text) => {
            line("Content-Length", &text.len().to_string());
            line("Expect", "100-continue");
            text.clone().into_bytes()
        }
        Body::Chunked(parts) => {
            line("Transfer-Encoding", "chunked");
            let mut rest: String = parts.iter().map(|p| format!("{:x}\r\n{p}\r\n", p.len())).collect();
            rest.push_str("0\r\n");
            http.trailers.iter().for_each(|(n, v)| rest.push_str(&format!("{n}: {v}\r\n")));
            rest.push_str("\r\n");
            rest.into_bytes()
        }
        Body::Grpc(message) => message.clone(),
    };
    head.push_str("\r\n");
    (head.into_bytes(), rest)
}

type Head = (u16, String, Vec<(String, String)>);

/// The status, version and fields of an answer's head.
pub(crate) fn parse(head: &str) -> Result<Head, String> {
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let mut words = first.splitn(3, ' ');
    let (version, status) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let status = status.parse().map_err(|_| format!("not an answer: {first:?}"))?;
    let headers = lines.filter_map(|line| line.split_once(':')).map(|(n, v)| (n.to_owned(), v.trim().to_owned()));
    Ok((status, version.to_owned(), headers.collect()))
}
