//! Heads: tables of good and bad ones, and properties over random ones.

use lateen_proxy::http::{Head, KnownHeader, Name, Scheme, Value, Version};
use lateen_proxy::http1::{
    Framing, HeadError, Limits, Parsed, RequestKind, parse_request, parse_response, parse_trailers, write_request,
};
use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, proptest};

fn request(raw: &[u8]) -> Result<Option<(Head, Parsed)>, HeadError> {
    let mut head = Head::new();
    Ok(parse_request(raw, &mut head, Limits::default(), true)?.map(|parsed| (head, parsed)))
}

fn response(raw: &[u8], kind: RequestKind) -> Result<Option<(Head, Parsed)>, HeadError> {
    let mut head = Head::new();
    Ok(parse_response(raw, &mut head, Limits::default(), kind)?.map(|parsed| (head, parsed)))
}

fn complete(raw: &str) -> (Head, Parsed) {
    match request(raw.as_bytes()) {
        Ok(Some(parsed)) => parsed,
        other => panic!("{raw:?}: {other:?}"),
    }
}

#[test]
fn a_request_is_read_whole() {
    let raw =
        "POST /a/b?c=d HTTP/1.1\r\nHOST: example.com:8080\r\nContent-Length:5 \r\nX-Thing:\t one  two \r\nX-Empty:\r\n\r\nhello";
    let (head, parsed) = complete(raw);
    assert_eq!(parsed.consumed, raw.len() - 5);
    assert_eq!(parsed.meta.framing, Framing::Length(5));
    assert!(parsed.meta.keep_alive);
    assert_eq!((head.method(), head.path_and_query(), head.path(), head.query()), ("POST", "/a/b?c=d", "/a/b", Some("c=d")));
    assert_eq!(head.authority(), Some("example.com:8080"));
    assert_eq!(head.version(), Version::Http11);
    assert_eq!(head.scheme(), None);
    assert_eq!(head.content_length(), Some(5));
    assert_eq!(head.get(Name::new(b"x-thing").unwrap()), Some(&b"one  two"[..]));
    assert_eq!(head.get(Name::new(b"x-empty").unwrap()), Some(&b""[..]));
    assert_eq!(head.len(), 4);
}

#[test]
fn every_prefix_of_a_good_request_is_incomplete_and_no_error() {
    for raw in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\nA: b\r\nC:\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
        "M-SEARCH http://[::1]:80/x?y HTTP/1.0\r\nTransfer: x\r\n\r\n",
    ] {
        for end in 0..raw.len() {
            assert!(matches!(request(&raw.as_bytes()[..end]), Ok(None)), "{:?}", &raw[..end]);
        }
        assert_eq!(complete(raw).1.consumed, raw.len());
    }
}

#[test]
fn targets_of_every_form() {
    let (head, _) = complete("GET http://User.example:81/p?q HTTP/1.1\r\nHost: other\r\n\r\n");
    assert_eq!(head.authority(), Some("User.example:81"), "the target's authority takes the place of host");
    assert_eq!(head.get_all(KnownHeader::Host).count(), 1);
    assert_eq!((head.path_and_query(), head.scheme()), ("/p?q", Some(Scheme::Http)));

    let (head, _) = complete("GET HTTPS://a HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((head.path_and_query(), head.scheme()), ("/", Some(Scheme::Https)), "a scheme has no case");
    let (head, _) = complete("GET http://a?q HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(head.path_and_query(), "/?q");
    let (head, _) = complete("OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(head.path_and_query(), "*");
    let (head, _) = complete("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(head.path_and_query(), "*");
    let (head, parsed) = complete("CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\nContent-Length: 0\r\n\r\n");
    assert!(head.is_connect() && head.asks_for_tunnel());
    assert_eq!((head.authority(), head.path_and_query()), (Some("example.com:443"), ""));
    assert_eq!(parsed.meta.framing, Framing::Tunnel);
    let (head, _) = complete("CONNECT [::1]:443 HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(head.authority(), Some("[::1]:443"));
}

#[test]
fn bad_requests_are_refused_with_their_status() {
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "a: b\r\n".repeat(100));
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(61 * 1024));
    let endless = format!("GET / HTTP/1.1\r\nHost: a\r\nx: {}", "a".repeat(61 * 1024));
    let named = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: {}\r\n\r\n", "x,".repeat(1000));
    let table: &[(&str, u16, &str)] = &[
        // Framing that two readers could see differently.
        (
            "content-length and transfer-encoding",
            400,
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        (
            "transfer-encoding and content-length",
            400,
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n",
        ),
        ("two lengths", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n"),
        ("the same length twice", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n"),
        ("a list of lengths", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\n"),
        ("a signed length", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\n"),
        ("a negative length", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n\r\n"),
        ("a hexadecimal length", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\n"),
        ("a length with a space in it", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3 3\r\n\r\n"),
        ("no length in the header", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n"),
        ("a length of more than 64 bits", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n"),
        ("a length of many digits", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 000000000000000000000003\r\n\r\n"),
        (
            "two codings chunked",
            400,
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        ("a list of chunked", 400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n"),
        ("chunked not last", 400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n"),
        ("chunked with a control character", 400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n"),
        ("chunked in quotes", 400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n"),
        ("an empty coding", 400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n"),
        ("chunked and an empty element", 400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n"),
        ("a coding over HTTP/1.0", 400, "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("gzip, chunked", 501, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
        ("an unknown coding", 501, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n"),
        ("identity", 501, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n"),
        // Lines.
        ("white space before the colon", 400, "GET / HTTP/1.1\r\nHost: a\r\nContent-Length : 3\r\n\r\n"),
        ("a tab before the colon", 400, "GET / HTTP/1.1\r\nHost: a\r\nA\t: 3\r\n\r\n"),
        ("white space before a name", 400, "GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
        ("a folded line", 400, "GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n"),
        ("a line folded with a tab", 400, "GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n\tc\r\n\r\n"),
        ("no colon", 400, "GET / HTTP/1.1\r\nHost: a\r\nbroken\r\n\r\n"),
        ("no name", 400, "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n"),
        ("a NUL in a value", 400, "GET / HTTP/1.1\r\nHost: a\r\nA: b\0c\r\n\r\n"),
        ("a CR in a value", 400, "GET / HTTP/1.1\r\nHost: a\r\nA: b\rc\r\n\r\n"),
        ("a DEL in a value", 400, "GET / HTTP/1.1\r\nHost: a\r\nA: b\x7fc\r\n\r\n"),
        ("a NUL in a name", 400, "GET / HTTP/1.1\r\nHost: a\r\nA\0: b\r\n\r\n"),
        ("bare LF after the request line", 400, "GET / HTTP/1.1\nHost: a\r\n\r\n"),
        ("bare LF after a header", 400, "GET / HTTP/1.1\r\nHost: a\nA: b\r\n\r\n"),
        ("bare LF after the last header", 400, "GET / HTTP/1.1\r\nHost: a\n\r\n"),
        ("bare LF at the end", 400, "GET / HTTP/1.1\r\nHost: a\r\n\n"),
        ("bare LF everywhere", 400, "GET / HTTP/1.1\nHost: a\n\n"),
        ("bare LF and no headers", 400, "GET / HTTP/1.0\n\r\n"),
        ("CR CR LF", 400, "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n"),
        ("an empty line first", 400, "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        // Request lines.
        ("two spaces", 400, "GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("two spaces before the version", 400, "GET /  HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a space after the version", 400, "GET / HTTP/1.1 \r\nHost: a\r\n\r\n"),
        ("a tab for a space", 400, "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("HTTP/0.9", 400, "GET /\r\n\r\n"),
        ("lower case in the version", 400, "GET / http/1.1\r\nHost: a\r\n\r\n"),
        ("no version number", 400, "GET / HTTP/\r\nHost: a\r\n\r\n"),
        ("version 1.2", 505, "GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
        ("version 2.0", 505, "GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
        ("version 1.10", 400, "GET / HTTP/1.10\r\nHost: a\r\n\r\n"),
        ("no method", 400, " / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a method that is no token", 400, "G(T / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("TLS", 400, "\x16\x03\x01\x02\0\x01\0\x01"),
        ("a fragment", 400, "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a fragment after a query", 400, "GET /a?b#c HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a fragment in an absolute target", 400, "GET http://a#b HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a byte above 127", 400, "GET /é HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a control character in the target", 400, "GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a target without a slash", 400, "GET a HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("an asterisk for GET", 400, "GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("an authority for GET", 400, "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a path for CONNECT", 400, "CONNECT /a HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("no port for CONNECT", 400, "CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("an empty port for CONNECT", 400, "CONNECT a: HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("an IPv6 address without a port for CONNECT", 400, "CONNECT [::1] HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("user information for CONNECT", 400, "CONNECT u@a:1 HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a body for CONNECT", 400, "CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"),
        ("user information", 400, "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("another scheme", 400, "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("no authority", 400, "GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a bad port", 400, "GET http://a:99999/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        // Host.
        ("no host", 400, "GET / HTTP/1.1\r\n\r\n"),
        ("no host with an absolute target", 400, "GET http://a/ HTTP/1.1\r\n\r\n"),
        ("two hosts", 400, "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
        ("two hosts over HTTP/1.0", 400, "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"),
        ("an empty host", 400, "GET / HTTP/1.1\r\nHost:\r\n\r\n"),
        ("a host with a space", 400, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
        ("a host with a path", 400, "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
        ("a host with user information", 400, "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"),
        ("a host with a bad port", 400, "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n"),
        ("a list of hosts", 400, "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
        ("a connection header with many names", 400, &named),
        // Whoever obeyed these would read another message than who does not.
        ("a connection header that names the host", 400, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, Host\r\n\r\n"),
        (
            "a connection header that names the length",
            400,
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: content-length\r\nContent-Length: 3\r\n\r\n",
        ),
        (
            "a connection header that names the coding",
            400,
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        (
            "a second connection header that names the host",
            400,
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nConnection: x, host\r\n\r\n",
        ),
        ("a connection header that names a pseudo-header", 400, "GET / HTTP/1.1\r\nHost: a\r\nConnection: :path\r\n\r\n"),
        // A fragment stays with the client.
        ("a fragment", 400, "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"),
        // Size.
        ("too many headers", 431, &many),
        ("a long target", 431, &long),
        ("a header without an end", 431, &endless),
    ];
    for (what, status, raw) in table {
        match request(raw.as_bytes()) {
            Err(e) => assert_eq!(e.status(), *status, "{what}: {e}"),
            Ok(parsed) => panic!("{what} was accepted: {parsed:?}"),
        }
    }
}

#[test]
fn http10_is_refused_unless_it_is_wanted() {
    let raw = b"GET / HTTP/1.0\r\n\r\n";
    assert_eq!(parse_request(raw, &mut Head::new(), Limits::default(), false), Err(HeadError::Http10NotAccepted));
    assert_eq!(HeadError::Http10NotAccepted.status(), 426);
    let (head, parsed) = complete("GET / HTTP/1.0\r\n\r\n");
    assert_eq!((head.authority(), parsed.meta.keep_alive), (None, false));
    assert!(complete("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").1.meta.keep_alive);
    // CVE-2026-2835: without a length an HTTP/1.0 request has no body, it does not end with the connection.
    assert_eq!(complete("POST / HTTP/1.0\r\n\r\nbody").1.meta.framing, Framing::None);
}

#[test]
fn the_limit_of_headers_and_bytes_is_exact() {
    let limits = Limits { max_head_bytes: 40, max_headers: 2 };
    let exact = format!("GET / HTTP/1.1\r\nHost: a\r\nb: {}\r\n\r\n", "c".repeat(8));
    assert_eq!(exact.len(), 40);
    assert!(parse_request(exact.as_bytes(), &mut Head::new(), limits, false).unwrap().is_some());
    let longer = exact.replace("b: ", "b: c");
    assert_eq!(parse_request(longer.as_bytes(), &mut Head::new(), limits, false), Err(HeadError::TooLarge));
    let three = "GET / HTTP/1.1\r\nHost: a\r\nb:\r\nc:\r\n\r\n";
    assert_eq!(parse_request(three.as_bytes(), &mut Head::new(), limits, false), Err(HeadError::TooLarge));
}

#[test]
fn headers_of_the_hop_are_taken_away() {
    let (head, parsed) = complete(concat!(
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Hop, Authorization, Content-Type\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n",
        "Proxy-Connection: x\r\nTransfer-Encoding: Chunked\r\nTE: gzip, trailers\r\nAuthorization: secret\r\nContent-Type: t\r\n",
        "Upgrade: websocket\r\nX-Keep: 2\r\n\r\n"
    ));
    assert_eq!(parsed.meta.framing, Framing::Chunked);
    assert!(!parsed.meta.keep_alive);
    let names: Vec<&str> = head.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["host", "te", "authorization", "content-type", "x-keep"], "known end-to-end headers cannot be named away");
    assert_eq!(head.get(KnownHeader::Te), Some(&b"trailers"[..]));
}

#[test]
fn only_a_well_formed_upgrade_is_one() {
    let upgrade = |headers: &str| {
        let (head, parsed) = complete(&format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n"));
        assert_eq!(parsed.meta.framing == Framing::Tunnel, head.upgrade().is_some());
        assert!(!head.contains(KnownHeader::Http2Settings));
        head.upgrade().map(<[u8]>::to_vec)
    };
    assert_eq!(upgrade("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"), Some(b"websocket".to_vec()));
    assert_eq!(upgrade("Upgrade: websocket\r\n"), None, "not named by connection");
    assert_eq!(upgrade("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n"), None);
    assert_eq!(upgrade("Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n"), None);
    assert_eq!(upgrade("Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: x\r\n"), None);
    let (head, parsed) =
        complete("POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\n");
    assert_eq!((head.upgrade(), parsed.meta.framing), (None, Framing::Length(2)), "not after a body");
    let (head, _) = complete("GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(head.upgrade(), None, "not in HTTP/1.0");
}

#[test]
fn responses_are_framed_by_their_request() {
    let cases: &[(&str, RequestKind, Framing, bool)] = &[
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", RequestKind::Ordinary, Framing::Length(3), true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", RequestKind::Head, Framing::None, true),
        ("HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n", RequestKind::Ordinary, Framing::Chunked, true),
        ("HTTP/1.1 200 OK\r\n\r\n", RequestKind::Ordinary, Framing::UntilClose, false),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n", RequestKind::Ordinary, Framing::None, true),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", RequestKind::Ordinary, Framing::None, true),
        ("HTTP/1.1 100 Continue\r\n\r\n", RequestKind::Ordinary, Framing::None, true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", RequestKind::Connect, Framing::Tunnel, true),
        ("HTTP/1.1 403 No\r\nContent-Length: 3\r\n\r\n", RequestKind::Connect, Framing::Length(3), true),
        (
            "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            RequestKind::Upgrade,
            Framing::Tunnel,
            true,
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n", RequestKind::Upgrade, Framing::Length(3), false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", RequestKind::Ordinary, Framing::Length(3), false),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\n",
            RequestKind::Ordinary,
            Framing::Length(3),
            true,
        ),
    ];
    for (raw, kind, framing, keep_alive) in cases {
        let (head, parsed) = response(raw.as_bytes(), *kind).unwrap().unwrap();
        assert_eq!((parsed.meta.framing, parsed.meta.keep_alive), (*framing, *keep_alive), "{raw}");
        assert_eq!(parsed.consumed, raw.len());
        assert!(!head.contains(KnownHeader::TransferEncoding) && !head.contains(KnownHeader::Connection));
    }
    let (head, _) = response(b"HTTP/1.1 299 Very  odd\r\n\r\n", RequestKind::Ordinary).unwrap().unwrap();
    assert_eq!((head.status(), head.reason()), (299, &b"Very  odd"[..]));
    let (head, _) = response(b"HTTP/1.1 200\r\n\r\n", RequestKind::Ordinary).unwrap().unwrap();
    assert_eq!(head.reason(), b"");
}

#[test]
fn bad_responses_are_refused() {
    for raw in [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3,3\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        "HTTP/1.1 200 OK\nA: b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 099 Low\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "SSH-2.0-x",
        "220 smtp\r\n",
    ] {
        assert!(response(raw.as_bytes(), RequestKind::Ordinary).is_err(), "{raw:?}");
    }
    let no_upgrade = b"HTTP/1.1 101 Switching\r\n\r\n";
    assert!(response(no_upgrade, RequestKind::Upgrade).is_err());
}

#[test]
fn trailers_lose_what_must_not_be_one() {
    let mut head = Head::new();
    let raw = b"Grpc-Status: 0\r\nContent-Length: 5\r\nHost: evil\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\nrest";
    assert_eq!(parse_trailers(raw, &mut head, Limits::default()), Ok(Some(raw.len() - 4)));
    let names: Vec<&str> = head.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["grpc-status", "x-a"]);
    for bad in [&b"A: b\n\r\n"[..], b"A: b\r\n c\r\n\r\n", b"A : b\r\n\r\n", b" A: b\r\n\r\n", b"A\r\n\r\n"] {
        assert!(parse_trailers(bad, &mut head, Limits::default()).is_err(), "{bad:?}");
    }
}

#[test]
fn heads_are_edited_and_written() {
    let (mut head, _) = complete("GET /a HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nX-B:2\r\nX-A: 3\r\nCookie: c\r\n\r\n");
    let (a, b, new) = (Name::new(b"x-a").unwrap(), Name::new(b"x-b").unwrap(), Name::new(b"x-new").unwrap());
    assert_eq!(head.get_all(a).collect::<Vec<_>>(), [b"1", b"3"]);
    head.set(a, Value::new(b"one").unwrap());
    assert!(head.remove(b) && !head.remove(b));
    head.append(new, Value::from_static("n"));
    head.append_number(KnownHeader::XEnvoyAttemptCount, 2);
    head.set_path_and_query("/b?c").unwrap();
    head.set_authority("b:1").unwrap();
    let mut out = Vec::new();
    write_request(&mut out, &head, Framing::None);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "GET /b?c HTTP/1.1\r\nhost: b:1\r\nx-a: one\r\ncookie: c\r\nx-new: n\r\nx-envoy-attempt-count: 2\r\n\r\n"
    );
    assert_eq!(head.byte_size(), "host: b:1\r\nx-a: one\r\ncookie: c\r\nx-new: n\r\nx-envoy-attempt-count: 2\r\n".len());
    assert!(head.set_path_and_query("/a b").is_err() && head.set_path_and_query("x").is_err());
    assert!(head.set_authority("a b").is_err() && head.set_method("G T").is_err() && head.set_status(42).is_err());
}

#[test]
fn a_copy_is_independent() {
    let (head, _) = complete("GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut copy = head.clone();
    copy.set_authority("b").unwrap();
    drop(head);
    let (other, _) = complete("GET /zzzzzzzz HTTP/1.1\r\nHost: other\r\n\r\n");
    assert_eq!((copy.path_and_query(), copy.authority()), ("/a", Some("b")));
    assert_eq!(other.authority(), Some("other"));
}

/// Pieces that are likely to hit an edge when put together at random.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let fixed = prop::sample::select(vec![
        "GET ",
        "POST ",
        "CONNECT ",
        "OPTIONS ",
        "/",
        "/a",
        "*",
        "a:1",
        "http://a/",
        " HTTP/1.1",
        " HTTP/1.0",
        " HTTP/2.0",
        "\r\n",
        "\n",
        "\r",
        "Host: a\r\n",
        "Host:",
        "Content-Length: 1\r\n",
        "Content-Length: 0\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: x\r\n",
        "Connection: upgrade\r\n",
        "Upgrade: websocket\r\n",
        "A: b\r\n",
        ": ",
        ":",
        " ",
        "\t",
        "\0",
        "#",
        "\r\n\r\n",
        "HTTP/1.1 200 OK\r\n",
        "TE: trailers\r\n",
    ]);
    let piece = fixed.prop_map(|s| s.as_bytes().to_vec()).boxed().prop_union(prop::collection::vec(any::<u8>(), 0..4).boxed());
    prop::collection::vec(piece, 0..16).prop_map(|v| v.concat())
}

/// A request that is valid more often than not.
fn plausible() -> impl Strategy<Value = Vec<u8>> {
    let line = prop::sample::select(vec![
        "GET /a?b HTTP/1.1",
        "POST http://x:1/y HTTP/1.1",
        "CONNECT h:1 HTTP/1.1",
        "OPTIONS * HTTP/1.1",
    ]);
    let header = prop::sample::select(vec![
        "content-length: 3",
        "transfer-encoding: chunked",
        "connection: close",
        "connection: upgrade, x-a",
        "upgrade: websocket",
        "x-a:1",
        "x-b:  two ",
        "te: trailers",
        "keep-alive: 1",
        "x-c:",
        "cookie: a=b",
    ]);
    (line, prop::collection::vec(header, 0..6)).prop_map(|(line, headers)| {
        format!("{line}\r\nhost: h\r\n{}\r\n", headers.iter().map(|h| format!("{h}\r\n")).collect::<String>()).into_bytes()
    })
}

proptest! {
    #[test]
    fn no_bytes_make_a_parser_panic_or_accept_a_bare_line_end(raw in pieces()) {
        if let Ok(Some((head, parsed))) = request(&raw) {
            let consumed = &raw[..parsed.consumed];
            prop_assert!(consumed.ends_with(b"\r\n\r\n"));
            prop_assert!(consumed.iter().enumerate().all(|(i, &b)| b != b'\n' || consumed[i - 1] == b'\r'));
            prop_assert!(!head.contains(KnownHeader::TransferEncoding));
            prop_assert!(head.get_all(KnownHeader::Host).count() <= 1);
        }
        for kind in [RequestKind::Ordinary, RequestKind::Head, RequestKind::Connect, RequestKind::Upgrade] {
            if let Ok(Some((_, parsed))) = response(&raw, kind) {
                prop_assert!(raw[..parsed.consumed].ends_with(b"\r\n\r\n"));
            }
        }
        let _ = parse_trailers(&raw, &mut Head::new(), Limits::default());
    }

    #[test]
    fn what_is_accepted_is_written_so_that_it_reads_the_same(raw in plausible()) {
        if let Ok(Some((head, parsed))) = request(&raw) {
            let mut out = Vec::new();
            let framing = parsed.meta.framing;
            write_request(&mut out, &head, framing);
            let (again, parsed_again) = request(&out).unwrap().unwrap();
            prop_assert_eq!(parsed_again.consumed, out.len());
            prop_assert_eq!(parsed_again.meta.framing, framing);
            prop_assert_eq!(again.method(), head.method());
            prop_assert_eq!(again.path_and_query(), head.path_and_query());
            prop_assert_eq!(again.authority(), head.authority());
            // An absent body may be written as one of length 0.
            let pairs = |h: &Head| h.iter().filter(|(_, v)| *v != b"0").map(|(n, v)| (n.as_str().to_owned(), v.to_vec())).collect::<Vec<_>>();
            prop_assert_eq!(pairs(&again), pairs(&head));
        }
    }
}
