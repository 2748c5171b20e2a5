//! How long the HTTP/1 codec takes for a typical request: `cargo run --release -p lateen-proxy --example http1_codec`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement that cannot go on stops, and prints")]

use lateen_proxy::http::{Head, KnownHeader, Value};
use lateen_proxy::http1::{Framing, Limits, RequestKind, parse_request, parse_response, write_request};
use std::hint::black_box;
use std::time::Instant;

const REQUEST: &[u8] = b"GET /api/v1/products/42/reviews?page=2&sort=newest HTTP/1.1\r\n\
Host: reviews.default.svc.cluster.local:9080\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
Accept: application/json, text/plain, */*\r\n\
Accept-Encoding: gzip, deflate, br\r\n\
Authorization: Bearer eyJhbGciOiJSUzI1NiIsImtpZCI6ImRlZmF1bHQifQ.eyJzdWIiOiJ1c2VyIn0.c2lnbmF0dXJl\r\n\
X-Request-Id: 5b0d1d3e-3f0b-9f5c-8a5e-0c2f6a1f7b11\r\n\
Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\
X-Forwarded-Proto: http\r\n\
Cookie: session=0123456789abcdef; theme=dark\r\n\
Connection: keep-alive\r\n\
\r\n";

const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1024\r\nDate: Sun, 22 Nov 2026 18:00:00 GMT\r\n\
Server: app\r\nCache-Control: no-cache\r\nX-Request-Id: 5b0d1d3e-3f0b-9f5c-8a5e-0c2f6a1f7b11\r\nVary: Accept-Encoding\r\n\r\n";

const ROUNDS: u32 = 500_000;

fn measure(what: &str, mut round: impl FnMut()) {
    let mut best = f64::INFINITY;
    for _ in 0..7 {
        let start = Instant::now();
        for _ in 0..ROUNDS {
            round();
        }
        best = best.min(start.elapsed().as_nanos() as f64 / f64::from(ROUNDS));
    }
    println!("{what:<58} {best:>7.0} ns");
}

fn main() {
    let limits = Limits::default();
    measure("parse a request with 10 headers", || {
        let mut head = Head::new();
        black_box(parse_request(black_box(REQUEST), &mut head, limits, false).unwrap());
    });
    let mut head = Head::new();
    parse_request(REQUEST, &mut head, limits, false).unwrap();
    let mut out = Vec::with_capacity(4096);
    measure("write it", || {
        out.clear();
        write_request(&mut out, black_box(&head), Framing::None);
    });
    measure("parse it, remove 2 headers, set 1, append 3, write it", || {
        let mut head = Head::new();
        parse_request(black_box(REQUEST), &mut head, limits, false).unwrap();
        head.remove(KnownHeader::XEnvoyDecoratorOperation);
        head.remove(KnownHeader::XForwardedProto);
        head.set(KnownHeader::XRequestId, Value::from_static("00000000-3f0b-9f5c-8a5e-0c2f6a1f7b11"));
        head.append(
            KnownHeader::XEnvoyPeerMetadataId,
            Value::from_static("sidecar~10.0.0.1~a.default~default.svc.cluster.local"),
        );
        head.append(KnownHeader::XForwardedFor, Value::from_static("10.0.0.1"));
        head.append_number(KnownHeader::XEnvoyAttemptCount, 1);
        out.clear();
        write_request(&mut out, &head, Framing::None);
        black_box(&out);
    });
    measure("parse a response with 7 headers", || {
        let mut head = Head::new();
        black_box(parse_response(black_box(RESPONSE), &mut head, limits, RequestKind::Ordinary).unwrap());
    });
    measure("httparse alone on the same request", || {
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut request = httparse::Request::new(&mut headers);
        black_box(request.parse(black_box(REQUEST)).unwrap());
    });
}
