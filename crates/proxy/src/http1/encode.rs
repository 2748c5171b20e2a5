//! Heads as HTTP/1 sends them.

use super::framing::Framing;
use crate::http::{Head, KnownHeader, Version};

/// Writes a request head. The framing is that of the body which follows.
pub fn write_request(out: &mut Vec<u8>, head: &Head, framing: Framing) {
    out.extend_from_slice(head.method().as_bytes());
    out.push(b' ');
    let target = if head.is_connect() { head.authority().unwrap_or_default() } else { head.path_and_query() };
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    head.write_lines(out, |known| keeps(known, matches!(framing, Framing::Length(_))));
    match framing {
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        // Where a body is usual its absence is said (RFC 9110 §8.6).
        Framing::None if matches!(head.method(), "POST" | "PUT" | "PATCH" | "OPTIONS") => {
            out.extend_from_slice(b"content-length: 0\r\n");
        }
        _ => {}
    }
    match (head.upgrade().is_some(), head.contains(KnownHeader::Te)) {
        (true, true) => out.extend_from_slice(b"connection: upgrade, te\r\n"),
        (true, false) => out.extend_from_slice(b"connection: upgrade\r\n"),
        (false, true) => out.extend_from_slice(b"connection: te\r\n"),
        (false, false) => {}
    }
    out.extend_from_slice(b"\r\n");
}

/// What becomes of a response's `content-length`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LengthHeader {
    /// It is sent: it is the body's length, or what the length would be (`HEAD`, 304).
    Keep,
    /// It is not sent.
    Drop,
    /// It is sent as 0.
    Zero,
}

/// What a response says about its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// It stays, as is the rule in HTTP/1.1.
    Implied,
    /// It stays, said for an HTTP/1.0 client.
    KeepAlive,
    /// It is closed after the response.
    Close,
}

/// How a response is written to this peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseForm {
    /// The version of the request; its response is in the same.
    pub version: Version,
    /// Whether `transfer-encoding: chunked` is to be said.
    pub chunked: bool,
    /// What becomes of `content-length`.
    pub length: LengthHeader,
    /// What is said of the connection.
    pub persistence: Persistence,
}

/// Writes a response head: final, interim or 101.
pub fn write_response(out: &mut Vec<u8>, head: &Head, form: ResponseForm) {
    let status = head.status();
    out.extend_from_slice(if form.version == Version::Http10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
    out.push(b' ');
    if head.reason().is_empty() {
        let known = ::http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason());
        out.extend_from_slice(known.unwrap_or_default().as_bytes());
    } else {
        out.extend_from_slice(head.reason());
    }
    out.extend_from_slice(b"\r\n");
    head.write_lines(out, |known| keeps(known, form.length == LengthHeader::Keep));
    if form.length == LengthHeader::Zero {
        out.extend_from_slice(b"content-length: 0\r\n");
    }
    if form.chunked {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    match form.persistence {
        Persistence::Close => out.extend_from_slice(b"connection: close\r\n"),
        _ if head.upgrade().is_some() => out.extend_from_slice(b"connection: upgrade\r\n"),
        Persistence::KeepAlive => out.extend_from_slice(b"connection: keep-alive\r\n"),
        Persistence::Implied => {}
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether a header of the message is also one on this hop; the codec writes the framing and the connection headers itself.
fn keeps(known: KnownHeader, length: bool) -> bool {
    match known {
        KnownHeader::Connection
        | KnownHeader::TransferEncoding
        | KnownHeader::KeepAlive
        | KnownHeader::ProxyConnection
        | KnownHeader::Http2Settings => false,
        KnownHeader::ContentLength => length,
        _ => true,
    }
}

/// Writes the line that opens a chunk.
pub(super) fn write_chunk_size(out: &mut Vec<u8>, size: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut shift = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1) * 4;
    while shift > 0 {
        shift -= 4;
        out.push(DIGITS[(size >> shift) & 0xf]);
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the last chunk and the trailers.
pub(super) fn write_last_chunk(out: &mut Vec<u8>, trailers: Option<&Head>) {
    out.extend_from_slice(b"0\r\n");
    if let Some(trailers) = trailers {
        trailers.write_lines(out, |known| !known.is_forbidden_in_trailers());
    }
    out.extend_from_slice(b"\r\n");
}
