//! The PROXY protocol, as a server takes it (HAProxy's proxy-protocol.txt): who is really at the other end.

use serde::Serialize;
use std::io::{Error, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest line of version 1.
const MAX_LINE: usize = 107;
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// What a connection said first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Header {
    version: &'static str,
    /// The connection's ends; none for a connection that is nobody else's.
    #[serde(flatten)]
    ends: Option<Ends>,
}

/// Whose connection it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Ends {
    source: IpAddr,
    source_port: u16,
    destination: IpAddr,
    destination_port: u16,
}

impl std::fmt::Display for Header {
    /// As a line of version 1, with the version.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PROXY {}", self.version)?;
        match &self.ends {
            Some(Ends { source, source_port, destination, destination_port }) => {
                write!(f, " {source} {destination} {source_port} {destination_port}")
            }
            None => f.write_str(" LOCAL"),
        }
    }
}

/// Takes the header off the front of a connection, and nothing behind it.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Header, Error> {
    let mut start = [0; 12];
    stream.read_exact(&mut start).await?;
    if start == SIGNATURE {
        return binary(stream).await;
    }
    let mut line = start.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() >= MAX_LINE || !line.starts_with(b"PROXY ") {
            return Err(wrong("the connection does not begin with the PROXY protocol"));
        }
        line.push(stream.read_u8().await?);
    }
    let line = std::str::from_utf8(&line).map_err(|_| wrong("the line is no text"))?;
    text(line.trim_end()).ok_or_else(|| wrong("the line is not as version 1 has it"))
}

fn wrong(reason: &'static str) -> Error {
    Error::new(ErrorKind::InvalidData, reason)
}

fn text(line: &str) -> Option<Header> {
    let fields: Vec<&str> = line.split(' ').collect();
    let ends = match fields.as_slice() {
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", "TCP4" | "TCP6", source, destination, source_port, destination_port] => Some(Ends {
            source: source.parse().ok()?,
            source_port: source_port.parse().ok()?,
            destination: destination.parse().ok()?,
            destination_port: destination_port.parse().ok()?,
        }),
        _ => return None,
    };
    Some(Header { version: "V1", ends })
}

async fn binary(stream: &mut (impl AsyncRead + Unpin)) -> Result<Header, Error> {
    let (command, family, length) = (stream.read_u8().await?, stream.read_u8().await?, stream.read_u16().await?);
    let mut body = vec![0; length.into()];
    stream.read_exact(&mut body).await?;
    let ends = match (command, family) {
        (0x20, _) => None,
        (0x21, 0x11) => Some(ends::<4, Ipv4Addr>(&body)),
        (0x21, 0x21) => Some(ends::<16, Ipv6Addr>(&body)),
        _ => return Err(wrong("a version, command or family of the PROXY protocol that is not known")),
    };
    let ends = ends.map(|ends| ends.ok_or_else(|| wrong("the addresses are cut"))).transpose()?;
    Ok(Header { version: "V2", ends })
}

fn ends<const N: usize, A: From<[u8; N]> + Into<IpAddr>>(body: &[u8]) -> Option<Ends> {
    let (source, rest) = body.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let (source_port, rest) = rest.split_first_chunk::<2>()?;
    Some(Ends {
        source: A::from(*source).into(),
        source_port: u16::from_be_bytes(*source_port),
        destination: A::from(*destination).into(),
        destination_port: u16::from_be_bytes(*rest.first_chunk::<2>()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shown(bytes: &[u8]) -> Result<String, String> {
        let mut rest = bytes;
        let header = read(&mut rest).await.map_err(|e| e.to_string())?;
        Ok(format!("{header}|{}", String::from_utf8_lossy(rest)))
    }

    #[tokio::test]
    async fn both_versions_are_read_and_nothing_behind_them() {
        let v2 = |rest: &[u8]| [SIGNATURE.as_slice(), rest, b"GET"].concat();
        let read = [
            shown(b"PROXY TCP4 10.0.0.1 10.0.0.2 4 80\r\nGET").await,
            shown(b"PROXY TCP6 fd00::1 fd00::2 4 80\r\nGET").await,
            shown(b"PROXY UNKNOWN\r\nGET").await,
            shown(&v2(&[0x21, 0x11, 0, 13, 10, 0, 0, 1, 10, 0, 0, 2, 0, 4, 0, 80, 99])).await,
            shown(&v2(&[0x20, 0, 0, 0])).await,
        ];
        let expected = [
            "PROXY V1 10.0.0.1 10.0.0.2 4 80|GET",
            "PROXY V1 fd00::1 fd00::2 4 80|GET",
            "PROXY V1 LOCAL|GET",
            "PROXY V2 10.0.0.1 10.0.0.2 4 80|GET",
            "PROXY V2 LOCAL|GET",
        ];
        assert_eq!(read.map(Result::unwrap), expected);
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let wrong = [
            b"GET / HTTP/1.1\r\n\r\n".as_slice(),
            b"PROXY TCP4 10.0.0.1 10.0.0.2 4\r\n",
            b"PROXY TCP4 10.0.0.1",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04\x0a\0\0\x01",
            b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0",
        ];
        for bytes in wrong {
            assert!(shown(bytes).await.is_err(), "{bytes:?}");
        }
    }
}
