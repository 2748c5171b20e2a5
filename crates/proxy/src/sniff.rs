//! What a connection speaks, told from its first bytes: TLS (with its SNI and ALPN), HTTP/1, HTTP/2, or something else.
//!
//! Pure and incremental: each call looks at all bytes so far. Nothing here allocates before a whole ClientHello is there.

/// More than this is never needed to decide; a ClientHello that is longer is treated as opaque (RFC 8446 allows 2^24).
pub(crate) const MAX_SNIFFED: usize = 16 * 1024;

/// What the client speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// A TLS ClientHello.
    Tls(ClientHello),
    /// An HTTP/1.0 request line.
    Http10,
    /// An HTTP/1.1 request line.
    Http11,
    /// The HTTP/2 connection preface (prior knowledge).
    H2c,
    /// None of these.
    Opaque,
}

/// What of a ClientHello chooses a filter chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClientHello {
    /// The server name, lower case.
    pub(crate) sni: Option<String>,
    /// The protocols that the client offers.
    pub(crate) alpn: Vec<String>,
}

/// Which protocols are looked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Looking {
    /// TLS ClientHellos.
    pub(crate) tls: bool,
    /// HTTP request lines and prefaces.
    pub(crate) http: bool,
}

/// Decides, or says that more bytes are needed (`None`).
pub(crate) fn inspect(bytes: &[u8], looking: Looking) -> Option<Spoken> {
    if bytes.is_empty() {
        return None;
    }
    if looking.tls && bytes[0] == TLS_HANDSHAKE {
        return match client_hello(bytes) {
            Parsed::Done(hello) => Some(Spoken::Tls(hello)),
            Parsed::More if bytes.len() < MAX_SNIFFED => None,
            Parsed::More | Parsed::Not => Some(Spoken::Opaque),
        };
    }
    if looking.http {
        return match http(bytes) {
            Parsed::Done(spoken) => Some(spoken),
            Parsed::More if bytes.len() < MAX_SNIFFED => None,
            Parsed::More | Parsed::Not => Some(Spoken::Opaque),
        };
    }
    Some(Spoken::Opaque)
}

enum Parsed<T> {
    Done(T),
    More,
    Not,
}

/// What an HTTP/2 connection begins with (RFC 9113, section 3.4).
pub(crate) const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The longest method that is taken for HTTP; the longest registered one has 16 letters (`UPDATEREDIRECTREF` has 17).
const MAX_METHOD: usize = 24;

fn http(bytes: &[u8]) -> Parsed<Spoken> {
    let common = bytes.len().min(H2_PREFACE.len());
    if bytes[..common] == H2_PREFACE[..common] {
        // `PRI` could still be an HTTP/1 method, but no one but HTTP/2 uses it (RFC 9113, section 11.6).
        return if common == H2_PREFACE.len() { Parsed::Done(Spoken::H2c) } else { Parsed::More };
    }
    let is_method_byte = |b: &u8| b.is_ascii_uppercase() || *b == b'-' || *b == b'_';
    let method = bytes.iter().take(MAX_METHOD + 1).take_while(|b| is_method_byte(b)).count();
    if method > MAX_METHOD {
        return Parsed::Not;
    }
    match bytes.get(method) {
        None => return Parsed::More,
        Some(b' ') if method > 0 => {}
        Some(_) => return Parsed::Not,
    }
    let Some(line_end) = memchr::memchr(b'\n', bytes) else {
        let printable = bytes[method..].iter().all(|b| *b >= b' ' || *b == b'\r');
        return if printable { Parsed::More } else { Parsed::Not };
    };
    match bytes[..line_end].strip_suffix(b"\r") {
        Some(line) if line.ends_with(b" HTTP/1.1") => Parsed::Done(Spoken::Http11),
        Some(line) if line.ends_with(b" HTTP/1.0") => Parsed::Done(Spoken::Http10),
        _ => Parsed::Not,
    }
}

const TLS_HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ALPN: u16 = 16;

/// Parses a ClientHello that may be spread over several records (RFC 8446, sections 4.1.2 and 5.1).
fn client_hello(bytes: &[u8]) -> Parsed<ClientHello> {
    let mut handshake = Vec::new();
    let mut rest = bytes;
    loop {
        if rest.first().is_some_and(|t| *t != TLS_HANDSHAKE) || rest.get(1).is_some_and(|v| *v != 3) {
            return Parsed::Not;
        }
        let Some(header) = rest.get(..5) else { return Parsed::More };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length == 0 || length > (1 << 14) + 256 {
            return Parsed::Not;
        }
        let available = rest.len() - 5;
        handshake.extend_from_slice(&rest[5..5 + length.min(available)]);
        match handshake.first() {
            Some(&CLIENT_HELLO) | None => {}
            Some(_) => return Parsed::Not,
        }
        if let Some(header) = handshake.get(1..4) {
            let body = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
            if handshake.len() >= 4 + body {
                return match hello_body(&handshake[4..4 + body]) {
                    Some(hello) => Parsed::Done(hello),
                    None => Parsed::Not,
                };
            }
        }
        if available <= length {
            return Parsed::More;
        }
        rest = &rest[5 + length..];
    }
}

/// Reads big-endian fields off a slice; `None` when it is too short.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    fn u8(&mut self) -> Option<usize> {
        Some(usize::from(self.take(1)?[0]))
    }

    fn u16(&mut self) -> Option<u16> {
        let b = self.take(2)?;
        Some(u16::from_be_bytes([b[0], b[1]]))
    }

    /// A vector with a one-byte length.
    fn vec8(&mut self) -> Option<&'a [u8]> {
        let n = self.u8()?;
        self.take(n)
    }

    /// A vector with a two-byte length.
    fn vec16(&mut self) -> Option<Fields<'a>> {
        let n = usize::from(self.u16()?);
        self.take(n).map(Fields)
    }
}

fn hello_body(body: &[u8]) -> Option<ClientHello> {
    let mut fields = Fields(body);
    fields.take(2 + 32)?;
    fields.vec8()?;
    fields.vec16()?;
    fields.vec8()?;
    let mut hello = ClientHello::default();
    if fields.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = fields.vec16()?;
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let mut data = extensions.vec16()?;
        match kind {
            EXTENSION_SERVER_NAME => hello.sni = server_name(&mut data)?,
            EXTENSION_ALPN => {
                let mut names = data.vec16()?;
                while !names.0.is_empty() {
                    hello.alpn.push(std::str::from_utf8(names.vec8()?).ok()?.to_owned());
                }
            }
            _ => {}
        }
    }
    Some(hello)
}

/// RFC 6066, section 3: a list with one host name (type 0).
fn server_name(data: &mut Fields<'_>) -> Option<Option<String>> {
    let mut list = data.vec16()?;
    while !list.0.is_empty() {
        let kind = list.u8()?;
        let name = list.vec16()?;
        if kind == 0 {
            let name = std::str::from_utf8(name.0).ok()?;
            return Some(name.is_ascii().then(|| name.to_ascii_lowercase()));
        }
    }
    Some(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Looking = Looking { tls: true, http: true };

    fn hello(sni: &str, alpn: &[&str]) -> Vec<u8> {
        let vec16 = |b: Vec<u8>| [&u16::try_from(b.len()).unwrap().to_be_bytes()[..], &b].concat();
        let vec8 = |b: &[u8]| [&[u8::try_from(b.len()).unwrap()][..], b].concat();
        let name = vec16([vec![0], vec16(sni.as_bytes().to_vec())].concat());
        let protocols = vec16(alpn.iter().flat_map(|p| vec8(p.as_bytes())).collect());
        let extensions = [vec![0, 0], vec16(name), vec![0, 16], vec16(protocols)].concat();
        let body = [vec![3, 3], vec![7; 32], vec8(&[]), vec16(vec![0x13, 1]), vec8(&[0]), vec16(extensions)].concat();
        let n = body.len();
        [vec![1, 0, u8::try_from(n >> 8).unwrap(), u8::try_from(n & 255).unwrap()], body].concat()
    }

    fn records(handshake: &[u8], size: usize) -> Vec<u8> {
        let record = |c: &[u8]| [&[22, 3, 1][..], &u16::try_from(c.len()).unwrap().to_be_bytes(), c].concat();
        handshake.chunks(size).flat_map(record).collect()
    }

    #[test]
    fn client_hello_in_one_record_or_many_at_every_length() {
        let expected = Spoken::Tls(ClientHello { sni: Some("a.b".into()), alpn: vec!["istio".into(), "h2".into()] });
        for size in [1, 3, 40, 4000] {
            let bytes = records(&hello("A.b", &["istio", "h2"]), size);
            for n in 0..bytes.len() {
                assert_eq!(inspect(&bytes[..n], BOTH), None, "{size} {n}");
            }
            assert_eq!(inspect(&bytes, BOTH), Some(expected.clone()), "{size}");
        }
    }

    #[test]
    fn http_and_what_is_not() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], Some(Spoken::Http11)),
            (b"GET / HTTP/1.0\r\nHost: a", Some(Spoken::Http10)),
            (b"M-SEARCH * HTTP/1.1\r\n", Some(Spoken::Http11)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Spoken::H2c)),
            (b"PRI * HTTP/2.0\r\n", None),
            (b"P", None),
            (b"GET /aaa", None),
            (b"GET / HTTP/1.1\n", Some(Spoken::Opaque)),
            (b"GET / FTP/1.1\r\n", Some(Spoken::Opaque)),
            (b" GET", Some(Spoken::Opaque)),
            (b"\x00\x01", Some(Spoken::Opaque)),
            (b"SSH-2.0-OpenSSH\r\n", Some(Spoken::Opaque)),
            (b"EHLO x\r\n", Some(Spoken::Opaque)),
            (b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", Some(Spoken::Opaque)),
            (b"\x16\x02", Some(Spoken::Opaque)),
            (b"\x16\x03\x01\x00\x00", Some(Spoken::Opaque)),
            (b"", None),
        ] {
            assert_eq!(inspect(bytes, BOTH), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn nothing_makes_it_panic_or_wait_for_ever() {
        let valid = records(&hello("a.b", &["h2"]), 4000);
        for i in 0..valid.len() {
            for v in [0, 1, 0x7f, 0xff] {
                let mut bytes = valid.clone();
                bytes[i] = v;
                let _ = inspect(&bytes, BOTH);
                bytes.resize(MAX_SNIFFED, v);
                assert!(inspect(&bytes, BOTH).is_some());
            }
        }
    }
}
