//! Heads of HTTP/1 messages and trailers, read by strict rules: what two implementations could read in two ways is refused,
//! never repaired (RFC 9112 §11.2).

use super::framing::{Framing, Meta, RequestKind, Seen};
use crate::http::{Head, KnownHeader, Scheme, Span, StreamError, Value, Version, is_authority, is_origin_form};
use std::mem::MaybeUninit;

/// More headers than this are refused whatever the configuration says.
const MAX_HEADERS: usize = 256;

/// How large a head may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a head, from the first of the start line to the empty line; Envoy's `max_request_headers_kb` is 60.
    pub max_head_bytes: usize,
    /// Number of headers, at most 256; Envoy's `max_headers_count` is 100.
    pub max_headers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_head_bytes: 60 * 1024, max_headers: 100 }
    }
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// It breaks the grammar or is ambiguous; the text says how.
    #[error("malformed head: {0}")]
    Malformed(&'static str),
    /// It is larger than [`Limits`] allow.
    #[error("the head is larger than the limit")]
    TooLarge,
    /// A transfer coding other than `chunked`.
    #[error("unsupported transfer coding")]
    UnsupportedCoding,
    /// A version other than 1.0 and 1.1.
    #[error("unsupported HTTP version")]
    UnsupportedVersion,
    /// HTTP/1.0, which the configuration does not accept.
    #[error("HTTP/1.0 is not accepted")]
    Http10NotAccepted,
    /// An HTTP/1.1 request without a `host` header.
    #[error("no host header")]
    NoHost,
    /// A target with a `#`: a fragment is never sent (RFC 9112 §3.2.1).
    #[error("a fragment in the target")]
    Fragment,
}

impl HeadError {
    /// The status that answers such a request; what Envoy answers, where Envoy distinguishes.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Malformed(_) | Self::NoHost | Self::Fragment => 400,
            Self::TooLarge => 431,
            Self::UnsupportedCoding => 501,
            Self::UnsupportedVersion => 505,
            Self::Http10NotAccepted => 426,
        }
    }

    /// The text of the answer, as Envoy gives it: none to a request that could be read and is refused.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Malformed(_) => "Bad Request",
            Self::TooLarge => "Request Header Fields Too Large",
            Self::UnsupportedCoding => "Not Implemented",
            Self::UnsupportedVersion => "HTTP Version Not Supported",
            Self::Http10NotAccepted => "Upgrade Required",
            Self::NoHost | Self::Fragment => "",
        }
    }

    /// `%RESPONSE_CODE_DETAILS%`.
    #[must_use]
    pub const fn details(self) -> &'static str {
        match self {
            Self::NoHost => "missing_host_header",
            Self::Fragment => "path_normalization_failed",
            Self::Http10NotAccepted => "low_version",
            _ => "http1.codec_error",
        }
    }
}

impl From<HeadError> for StreamError {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::Malformed(what) => Self::Malformed(what),
            HeadError::TooLarge => Self::HeadTooLarge,
            HeadError::UnsupportedCoding => Self::Malformed("unsupported transfer coding"),
            HeadError::UnsupportedVersion | HeadError::Http10NotAccepted => Self::Malformed("unsupported HTTP version"),
            HeadError::NoHost => Self::Malformed("no host header"),
            HeadError::Fragment => Self::Malformed("a fragment in the target"),
        }
    }
}

/// A head that was read: how many bytes it took, and what it says about the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Bytes from the start of the buffer to the end of the empty line.
    pub consumed: usize,
    /// Framing and persistence.
    pub meta: Meta,
}

/// Reads a request head from the start of `buffer` into `head`; `None` if it is not complete.
///
/// # Errors
/// If it can be told already that the head is bad. `head` is then undefined.
pub fn parse_request(buffer: &[u8], head: &mut Head, limits: Limits, accept_http10: bool) -> Result<Option<Parsed>, HeadError> {
    if matches!(buffer.first(), Some(b'\r' | b'\n')) {
        return Err(HeadError::Malformed("an empty line in the place of a request line"));
    }
    let mut storage = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    let slots = &mut storage[..limits.max_headers.min(MAX_HEADERS)];
    let consumed = match httparse::ParserConfig::default().parse_request_with_uninit_headers(&mut request, buffer, slots) {
        Ok(httparse::Status::Complete(n)) if n <= limits.max_head_bytes => n,
        Ok(httparse::Status::Partial) if buffer.len() < limits.max_head_bytes => return Ok(None),
        Ok(_) => return Err(HeadError::TooLarge),
        Err(e) => return Err(refusal(e, buffer)),
    };
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Err(HeadError::Malformed("an incomplete request line"));
    };
    // The parser is lenient about white space and line ends; the length of the line tells whether it had to be.
    let line_end = method.len() + 1 + target.len() + 1 + "HTTP/1.1\r\n".len();
    let raw = &buffer[..consumed];
    let seen = load_lines(head, raw, line_end, request.headers)?;
    head.set_method_span(Span::new(0, method.len()));
    head.set_version(if minor == 0 { Version::Http10 } else { Version::Http11 });
    if minor == 0 && !accept_http10 {
        return Err(HeadError::Http10NotAccepted);
    }
    let meta = Meta::of_request(head, seen)?;
    let target = Span::new(method.len() + 1, method.len() + 1 + target.len());
    check_host(head, seen).inspect_err(|_| head.set_target_span(target))?;
    set_target(head, target)?;
    Ok(Some(Parsed { consumed, meta }))
}

/// Reads a response head from the start of `buffer` into `head`; `None` if it is not complete. Where a body ends depends on
/// the request that is answered.
///
/// # Errors
/// If it can be told already that the head is bad. `head` is then undefined.
pub fn parse_response(buffer: &[u8], head: &mut Head, limits: Limits, request: RequestKind) -> Result<Option<Parsed>, HeadError> {
    if !buffer.iter().zip(b"HTTP/").all(|(a, b)| a == b) {
        return Err(HeadError::Malformed("a response must start with HTTP/"));
    }
    let mut storage = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut []);
    let slots = &mut storage[..limits.max_headers.min(MAX_HEADERS)];
    let consumed = match httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, buffer, slots) {
        Ok(httparse::Status::Complete(n)) if n <= limits.max_head_bytes => n,
        Ok(httparse::Status::Partial) if buffer.len() < limits.max_head_bytes => return Ok(None),
        Ok(_) => return Err(HeadError::TooLarge),
        Err(e) => return Err(refusal(e, buffer)),
    };
    let (Some(status), Some(minor)) = (response.code, response.version) else {
        return Err(HeadError::Malformed("an incomplete status line"));
    };
    let raw = &buffer[..consumed];
    let line_end = memchr::memchr(b'\n', raw).map_or(0, |at| at + 1);
    let seen = load_lines(head, raw, line_end, response.headers)?;
    let reason_start = "HTTP/1.1 200 ".len().min(line_end - 2);
    head.set_status(status).map_err(|_| HeadError::Malformed("a status below 100"))?;
    head.set_reason_span(Span::new(reason_start, line_end - 2));
    head.set_version(if minor == 0 { Version::Http10 } else { Version::Http11 });
    let meta = Meta::of_response(head, request, seen)?;
    Ok(Some(Parsed { consumed, meta }))
}

/// Reads a trailer section, up to and with the empty line, from the start of `buffer`; `None` if it is not complete. Trailers
/// that could change how the message was understood are left out (RFC 9110 §6.5.1).
///
/// # Errors
/// If it can be told already that the section is bad.
pub fn parse_trailers(buffer: &[u8], head: &mut Head, limits: Limits) -> Result<Option<usize>, HeadError> {
    let mut slots = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let slots = &mut slots[..limits.max_headers.min(MAX_HEADERS)];
    match httparse::parse_headers(buffer, slots) {
        Ok(httparse::Status::Complete((n, headers))) if n <= limits.max_head_bytes => {
            load_lines(head, &buffer[..n], 0, headers)?;
            head.remove_if(|name, _| name.known().is_forbidden_in_trailers());
            Ok(Some(n))
        }
        Ok(httparse::Status::Partial) if buffer.len() < limits.max_head_bytes => Ok(None),
        Ok(_) => Err(HeadError::TooLarge),
        Err(e) => Err(refusal(e, b"")),
    }
}

/// Whether the end of a head, strict or not, lies in `buffer` at or after `from`. A head that comes in many pieces is parsed
/// again only when this says so, or its cost would grow with the square of the number of pieces.
pub(super) fn has_head_end(buffer: &[u8], from: usize) -> bool {
    let start = from.saturating_sub(3);
    memchr::memchr_iter(b'\n', &buffer[start..]).any(|at| {
        let rest = &buffer[start + at + 1..];
        rest.starts_with(b"\n") || rest.starts_with(b"\r\n")
    })
}

/// Copies the raw head into `head` and enters its header lines, after seeing to it that every line ends in CR LF.
fn load_lines(head: &mut Head, raw: &[u8], lines_start: usize, headers: &[httparse::Header<'_>]) -> Result<Seen, HeadError> {
    const BAD_LINE_END: HeadError = HeadError::Malformed("a line that does not end in CR LF");
    let base = raw.as_ptr() as usize;
    let end = raw.len().checked_sub(2).ok_or(BAD_LINE_END)?;
    let first = headers.first().map_or(end, |h| h.name.as_ptr() as usize - base);
    let start_line_ok = first == lines_start && (first == 0 || raw[..first].ends_with(b"\r\n"));
    if !start_line_ok || &raw[end..] != b"\r\n" {
        return Err(BAD_LINE_END);
    }
    head.load(raw);
    let mut seen = Seen::default();
    for (i, header) in headers.iter().enumerate() {
        let start = header.name.as_ptr() as usize - base;
        let line_end = headers.get(i + 1).map_or(end, |next| next.name.as_ptr() as usize - base);
        let name_end = start + header.name.len();
        if line_end < name_end + 3 || raw[name_end] != b':' || &raw[line_end - 2..line_end] != b"\r\n" {
            return Err(BAD_LINE_END);
        }
        let (mut value_start, mut value_end) = (name_end + 1, line_end - 2);
        while value_start < value_end && matches!(raw[value_start], b' ' | b'\t') {
            value_start += 1;
        }
        while value_start < value_end && matches!(raw[value_end - 1], b' ' | b'\t') {
            value_end -= 1;
        }
        seen.add(head.push_loaded(Span::new(start, name_end), Span::new(value_start, value_end), line_end));
    }
    Ok(seen)
}

fn refusal(error: httparse::Error, buffer: &[u8]) -> HeadError {
    match error {
        httparse::Error::TooManyHeaders => HeadError::TooLarge,
        httparse::Error::HeaderName => HeadError::Malformed("an invalid header name, or white space around it"),
        httparse::Error::HeaderValue => HeadError::Malformed("a control character in a header value"),
        httparse::Error::NewLine => HeadError::Malformed("a line that does not end in CR LF"),
        httparse::Error::Status => HeadError::Malformed("an invalid status line"),
        httparse::Error::Token => HeadError::Malformed("an invalid start line"),
        httparse::Error::Version if names_a_version(buffer) => HeadError::UnsupportedVersion,
        httparse::Error::Version => HeadError::Malformed("an invalid version"),
    }
}

/// Whether the start line is well formed but for naming a version by the grammar `HTTP/DIGIT.DIGIT` that is not ours.
fn names_a_version(buffer: &[u8]) -> bool {
    let line = buffer.split(|&b| b == b'\r' || b == b'\n').next().unwrap_or_default();
    let is_other = |bytes: &[u8]| match bytes {
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] => {
            major.is_ascii_digit() && minor.is_ascii_digit() && !matches!((major, minor), (b'1', b'0' | b'1'))
        }
        _ => false,
    };
    let mut words = line.split(|&b| b == b' ');
    words.next().is_some_and(is_other) || (words.next().is_some() && words.next().is_some_and(is_other) && words.next().is_none())
}

/// One `host`, valid; HTTP/1.0 may lack it (RFC 9112 §3.2).
fn check_host(head: &Head, seen: Seen) -> Result<(), HeadError> {
    if seen.repeats(KnownHeader::Host) {
        return Err(HeadError::Malformed("more than one host header"));
    }
    match head.get(KnownHeader::Host) {
        None if head.version() == Version::Http10 => Ok(()),
        None => Err(HeadError::NoHost),
        Some(host) if is_authority(host) => Ok(()),
        Some(_) => Err(HeadError::Malformed("an invalid host header")),
    }
}

/// Sorts out the four forms of a target (RFC 9112 §3.2). An authority in it takes the place of `host`.
fn set_target(head: &mut Head, span: Span) -> Result<(), HeadError> {
    let target = head.span(span);
    if head.is_connect() {
        let has_port = memchr::memrchr(b':', target).is_some_and(|at| at + 1 < target.len() && !target[at..].contains(&b']'));
        if !has_port || !is_authority(target) {
            return Err(HeadError::Malformed("the target of CONNECT must be host:port"));
        }
        let authority: smallvec::SmallVec<[u8; 64]> = target.into();
        head.set(KnownHeader::Host, Value::from_checked(&authority));
        return Ok(());
    }
    if is_origin_form(target) || (target == b"*" && head.method() == "OPTIONS") {
        head.set_target_span(span);
        return Ok(());
    }
    if target.starts_with(b"/") && target.contains(&b'#') && is_origin_form(&without_fragments(target)) {
        head.set_target_span(span);
        return Err(HeadError::Fragment);
    }
    set_absolute_target(head, span)
}

/// The target as it would be if `#` were a character as any other.
fn without_fragments(target: &[u8]) -> Vec<u8> {
    target.iter().copied().filter(|b| *b != b'#').collect()
}

fn set_absolute_target(head: &mut Head, span: Span) -> Result<(), HeadError> {
    const BAD: HeadError = HeadError::Malformed("an invalid target");
    let target: smallvec::SmallVec<[u8; 256]> = head.span(span).into();
    let colon = memchr::memchr(b':', &target).ok_or(BAD)?;
    let scheme = Scheme::parse(&target[..colon]).ok_or(BAD)?;
    let rest = target[colon..].strip_prefix(b"://").ok_or(BAD)?;
    let authority_end = rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(authority_end);
    if !is_authority(authority) {
        return Err(BAD);
    }
    let mut path_text = String::with_capacity(path.len() + 1);
    if path.is_empty() && head.method() == "OPTIONS" {
        path_text.push('*');
    } else {
        if !path.starts_with(b"/") {
            path_text.push('/');
        }
        path_text.push_str(std::str::from_utf8(path).map_err(|_| BAD)?);
    }
    head.set_path_and_query(&path_text).map_err(|_| BAD)?;
    head.set(KnownHeader::Host, Value::from_checked(authority));
    head.set_scheme(Some(scheme));
    Ok(())
}

impl Parsed {
    /// Whether nothing follows the head in the same message.
    #[must_use]
    pub fn has_no_body(&self) -> bool {
        matches!(self.meta.framing, Framing::None | Framing::Length(0))
    }
}
