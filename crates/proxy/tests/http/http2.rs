//! HTTP/2: what is translated, refused and reset, against the `h2` crate and frames made by hand.

use crate::support::{Outcome, collect, forward, respond, run, settle};
use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use lateen_model::dataplane::Http2KeepAlive;
use lateen_proxy::http::{
    ClientExchange, Frame, Head, KnownHeader, PeerGone, Pump, ResetReason, Scheme, StreamError, Value, Version,
};
use lateen_proxy::http1::{self, Limits};
use lateen_proxy::http2::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::spawn_local;
use tokio::time::Instant;

/// Our server and the crate's client.
async fn server(config: ServerConfig) -> (ServerConnection<DuplexStream>, h2::client::SendRequest<Bytes>) {
    let (near, far) = duplex(256 * 1024);
    let client = async {
        let (send, connection) = h2::client::handshake(near).await.unwrap();
        spawn_local(async move {
            let _ = connection.await;
        });
        send.ready().await.unwrap()
    };
    let (server, send) = tokio::join!(ServerConnection::handshake(far, config), client);
    (server.unwrap(), send)
}

/// Our client and the crate's server.
async fn client(builder: h2::server::Builder) -> (ClientConnection, h2::server::Connection<DuplexStream, Bytes>) {
    let (near, far) = duplex(256 * 1024);
    let serve = async { builder.handshake::<_, Bytes>(far).await.unwrap() };
    let config = ClientConfig { scheme: Scheme::Https, ..ClientConfig::default() };
    let (connected, server) = tokio::join!(ClientConnection::handshake(near, config), serve);
    let (connection, driver) = connected.unwrap();
    spawn_local(driver);
    (connection, server)
}

/// Whether nothing but the end follows; it may come in an empty frame.
async fn is_end(body: &mut h2::RecvStream) -> bool {
    while let Some(data) = body.data().await {
        if !data.is_ok_and(|d| d.is_empty()) {
            return false;
        }
    }
    true
}

fn get(path: &str) -> Request<()> {
    Request::get(format!("http://a.example:80{path}")).body(()).unwrap()
}

#[test]
fn a_request_is_translated() {
    run(async {
        let (mut server, mut send) = server(ServerConfig::default()).await;
        let mut request = Request::post("https://a.example:80/p?q").body(()).unwrap();
        let headers = request.headers_mut();
        headers.append("cookie", HeaderValue::from_static("a=1"));
        headers.append("x-one", HeaderValue::from_static("1"));
        headers.append("cookie", HeaderValue::from_static("b=2"));
        headers.append("te", HeaderValue::from_static("trailers"));
        headers.append("x-one", HeaderValue::from_static("2"));
        headers.append("host", HeaderValue::from_static("other"));
        headers.append("content-length", HeaderValue::from_static("3"));
        let (_response, mut body) = send.send_request(request, false).unwrap();
        body.send_data(Bytes::from_static(b"abc"), true).unwrap();
        let mut exchange = server.next_request().await.unwrap().unwrap();
        let head = &exchange.head;
        assert_eq!((head.method(), head.path_and_query(), head.version()), ("POST", "/p?q", Version::Http2));
        assert_eq!((head.authority(), head.scheme()), (Some("a.example:80"), Some(Scheme::Https)));
        assert_eq!(head.get_all(KnownHeader::Host).count(), 1, ":authority is the host");
        assert_eq!(head.get(KnownHeader::Cookie), Some(&b"a=1; b=2"[..]));
        assert_eq!(head.get(KnownHeader::Te), Some(&b"trailers"[..]));
        assert_eq!(head.content_length(), Some(3));
        assert_eq!(head.iter().filter(|(n, _)| n.as_str() == "x-one").count(), 2);
        let (next, read) = tokio::join!(
            async { tokio::time::timeout(Duration::from_secs(1), server.next_request()).await.is_err() },
            collect(&mut exchange.body)
        );
        assert!(next);
        assert_eq!(read.unwrap().0, b"abc");
        let mut out = Vec::new();
        http1::write_request(&mut out, &exchange.head, http1::Framing::Length(3));
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.starts_with("POST /p?q HTTP/1.1\r\nhost: a.example:80\r\n") && text.contains("connection: te\r\n"),
            "{text}"
        );
    });
}

/// Sends one request and says how our server answered: the status, or the reason of the reset.
async fn outcome(request: Request<()>) -> Result<StatusCode, Option<Reason>> {
    let (mut server, mut send) = server(ServerConfig::default()).await;
    let serving = spawn_local(async move {
        while let Ok(Some(exchange)) = server.next_request().await {
            respond(exchange, 200, b"").await;
        }
    });
    let (response, _) = send.send_request(request, true).unwrap();
    let result = response.await.map(|r| r.status()).map_err(|e| e.reason());
    serving.abort();
    result
}

#[test]
fn requests_that_http1_could_not_carry_are_reset() {
    run(async {
        assert_eq!(outcome(get("/")).await, Ok(StatusCode::OK));
        let many = (0..101).fold(get("/"), |mut r, i| {
            r.headers_mut().insert(http::HeaderName::try_from(format!("x-{i}")).unwrap(), HeaderValue::from_static("1"));
            r
        });
        assert_eq!(outcome(many).await, Ok(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
        let large = (0..70).fold(get("/"), |mut r, _| {
            r.headers_mut().append("cookie", HeaderValue::from_str(&"c".repeat(1000)).unwrap());
            r
        });
        assert_eq!(outcome(large).await, Ok(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE), "crumbs count decoded");

        let user_info = Request::get("http://u@a.example/").body(()).unwrap();
        assert_eq!(outcome(user_info).await, Err(Some(Reason::PROTOCOL_ERROR)));
        let mut length = get("/");
        length.headers_mut().insert("content-length", HeaderValue::from_static("+3"));
        assert_eq!(outcome(length).await, Err(Some(Reason::PROTOCOL_ERROR)));
        let mut unmet = get("/");
        unmet.headers_mut().insert("content-length", HeaderValue::from_static("3"));
        assert_eq!(outcome(unmet).await, Err(Some(Reason::PROTOCOL_ERROR)), "END_STREAM with a length");
        let connect = Request::builder().method(Method::CONNECT).uri("a.example:80").body(()).unwrap();
        assert_eq!(outcome(connect).await, Ok(StatusCode::OK));
    });
}

/// A HEADERS frame with literal fields, END_STREAM and END_HEADERS.
fn headers(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        block.push(u8::try_from(name.len()).unwrap());
        block.extend_from_slice(name.as_bytes());
        block.push(u8::try_from(value.len()).unwrap());
        block.extend_from_slice(value.as_bytes());
    }
    let mut frame = u32::try_from(block.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[1, 5, 0, 0, 0, 1]);
    frame.extend_from_slice(&block);
    frame
}

#[test]
fn header_fields_that_are_not_http2_never_become_http1() {
    run(async {
        let good = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
        for bad in [
            ("connection", "close"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("keep-alive", "1"),
            ("proxy-connection", "x"),
            ("te", "gzip"),
            ("X-Upper", "1"),
            ("x y", "1"),
            ("x", "a\r\nhost: b"),
            ("x", "a\0"),
            ("x\r\ny", "1"),
            (":path", "/two"),
            (":unknown", "1"),
            ("", "1"),
        ] {
            let (mut peer, far) = duplex(64 * 1024);
            peer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
            peer.write_all(&headers(&[&good[..], &[bad]].concat())).await.unwrap();
            let mut server = ServerConnection::handshake(far, ServerConfig::default()).await.unwrap();
            let next = tokio::time::timeout(Duration::from_secs(1), server.next_request()).await;
            assert!(!matches!(next, Ok(Ok(Some(_)))), "{bad:?} came through: {next:?}");
        }
        for (path, authority) in [("/a b", "a"), ("/\x7f", "a"), ("a", "a"), ("*", "a"), ("/", "a b"), ("/", "a/b")] {
            let (mut peer, far) = duplex(64 * 1024);
            peer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
            let request = [(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", authority)];
            peer.write_all(&headers(&request)).await.unwrap();
            let mut server = ServerConnection::handshake(far, ServerConfig::default()).await.unwrap();
            let next = tokio::time::timeout(Duration::from_secs(1), server.next_request()).await;
            assert!(!matches!(next, Ok(Ok(Some(_)))), "{path} at {authority} came through: {next:?}");
        }
    });
}

#[test]
fn a_flood_of_resets_ends_the_connection() {
    run(async {
        let (mut peer, far) = duplex(1024 * 1024);
        peer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        for id in (1_u32..4001).step_by(2) {
            let mut open = headers(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")]);
            open[5..9].copy_from_slice(&id.to_be_bytes());
            peer.write_all(&open).await.unwrap();
            let mut reset = vec![0, 0, 4, 3, 0];
            reset.extend_from_slice(&id.to_be_bytes());
            reset.extend_from_slice(&[0, 0, 0, 8]);
            peer.write_all(&reset).await.unwrap();
        }
        let mut server = ServerConnection::handshake(far, ServerConfig::default()).await.unwrap();
        let mut served = 0;
        let end = loop {
            match server.next_request().await {
                Ok(Some(exchange)) => {
                    served += 1;
                    drop(exchange);
                }
                end => break end,
            }
        };
        assert!(end.is_err() && served < 100, "{end:?} after {served}");
    });
}

#[test]
fn a_slow_reader_of_the_response_stops_the_writer() {
    run(async {
        let (mut server, mut send) = server(ServerConfig::default()).await;
        let (response, _) = send.send_request(get("/"), true).unwrap();
        let exchange = server.next_request().await.unwrap().unwrap();
        spawn_local(async move { while let Ok(Some(_)) = server.next_request().await {} });
        let mut writer = exchange.responder.send_response(&Head::response(200).unwrap(), false).unwrap();
        let mut body = response.await.unwrap().into_body();
        let mut written = 0;
        while let Ok(result) =
            tokio::time::timeout(Duration::from_secs(1), writer.write(Frame::Data(vec![0; 10_000].into()))).await
        {
            result.unwrap();
            written += 10_000;
            assert!(written < 200_000, "the window is 65,535");
        }
        assert!(written >= 60_000);
        // As the client takes the bytes, the writer goes on.
        let reading = spawn_local(async move {
            let mut n = 0;
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                n += data.len();
                body.flow_control().release_capacity(data.len()).unwrap();
            }
            n
        });
        writer.finish().await.unwrap();
        assert_eq!(reading.await.unwrap(), written);
    });
}

#[test]
fn the_sender_of_a_request_waits_for_us() {
    run(async {
        let config = ServerConfig { stream_window: 65_535, ..ServerConfig::default() };
        let (mut server, mut send) = server(config).await;
        let (_response, mut upload) = send.send_request(Request::post("http://a/").body(()).unwrap(), false).unwrap();
        upload.send_data(vec![0; 200_000].into(), true).unwrap();
        let mut exchange = server.next_request().await.unwrap().unwrap();
        spawn_local(async move { while let Ok(Some(_)) = server.next_request().await {} });
        settle().await;
        let mut total = 0;
        while let Some(Frame::Data(data)) = exchange.body.next().await.unwrap() {
            total += data.len();
        }
        assert_eq!(total, 200_000, "what was passed on is given back to the window");
    });
}

/// What a client can make us hold that nobody reads yet, with as many streams as it may open.
async fn held(config: ServerConfig) -> usize {
    let (near, far) = duplex(4 * 1024 * 1024);
    let client = async {
        let (send, connection) = h2::client::Builder::new().handshake::<_, Bytes>(near).await.unwrap();
        spawn_local(async move {
            let _ = connection.await;
        });
        send.ready().await.unwrap()
    };
    let (server, mut send) = tokio::join!(ServerConnection::handshake(far, config), client);
    let mut server = server.unwrap();
    spawn_local(async move {
        let mut unread = Vec::new();
        while let Ok(Some(exchange)) = server.next_request().await {
            unread.push(exchange);
        }
    });
    let mut uploads = Vec::new();
    let mut total = 0;
    while let Ok(Ok(next)) = tokio::time::timeout(Duration::from_secs(1), send.ready()).await {
        send = next;
        let (_, mut upload) = send.send_request(Request::post("http://a/").body(()).unwrap(), false).unwrap();
        upload.reserve_capacity(1024 * 1024);
        let granted = std::pin::pin!(std::future::poll_fn(|cx| upload.poll_capacity(cx)));
        if let Ok(Some(Ok(n))) = tokio::time::timeout(Duration::from_millis(10), granted).await {
            upload.send_data(vec![0; n].into(), false).unwrap();
            total += n;
        }
        uploads.push(upload);
        if uploads.len() > 300 {
            break;
        }
    }
    total
}

#[test]
fn what_a_connection_can_make_us_hold_is_bounded() {
    run(async {
        let config = ServerConfig::default();
        assert_eq!(config.connection_window, config.max_concurrent_streams * config.stream_window, "no stream holds others up");
        assert_eq!(config.connection_window, 16 * 1024 * 1024);
        let few = ServerConfig { max_concurrent_streams: 4, connection_window: 4 * config.stream_window, ..config };
        let all = held(few).await;
        assert!((200_000..=4 * 64 * 1024).contains(&all), "{all}");
        let strangers = held(ServerConfig::edge()).await;
        assert!((900_000..=1024 * 1024).contains(&strangers), "{strangers}");
    });
}

#[test]
fn resets_go_both_ways() {
    run(async {
        let (mut server, mut send) = server(ServerConfig::default()).await;
        let (response, mut upload) = send.send_request(Request::post("http://a/").body(()).unwrap(), false).unwrap();
        let mut exchange = server.next_request().await.unwrap().unwrap();
        let serving = spawn_local(async move {
            let mut refused = false;
            while let Ok(Some(exchange)) = server.next_request().await {
                assert!(!refused);
                refused = true;
                exchange.responder.reset(ResetReason::RefusedStream);
            }
        });
        upload.send_reset(Reason::CANCEL);
        assert_eq!(exchange.responder.peer_gone().await, PeerGone::Reset(ResetReason::Cancel));
        assert_eq!(exchange.body.next().await.unwrap_err(), StreamError::Reset(ResetReason::Cancel));
        assert!(response.await.is_err());
        let (response, _) = send.send_request(get("/"), true).unwrap();
        assert_eq!(response.await.unwrap_err().reason(), Some(Reason::REFUSED_STREAM));
        serving.abort();
    });
}

#[test]
fn a_truncated_response_is_a_reset_not_an_end() {
    run(async {
        let (mut server, mut send) = server(ServerConfig::default()).await;
        let (response, _) = send.send_request(get("/"), true).unwrap();
        let exchange = server.next_request().await.unwrap().unwrap();
        spawn_local(async move { while let Ok(Some(_)) = server.next_request().await {} });
        let mut writer = exchange.responder.send_response(&Head::response(200).unwrap(), false).unwrap();
        writer.write(Frame::Data(Bytes::from_static(b"part"))).await.unwrap();
        writer.flush().await.unwrap();
        let mut body = response.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "part");
        drop(writer);
        drop(exchange.body);
        assert!(body.data().await.unwrap().unwrap_err().is_reset());
    });
}

#[test]
fn draining_lets_streams_end() {
    run(async {
        let (mut server, mut send) = server(ServerConfig::default()).await;
        let (response, _) = send.send_request(get("/"), true).unwrap();
        let exchange = server.next_request().await.unwrap().unwrap();
        assert!(server.has_streams());
        server.graceful_shutdown();
        let draining = spawn_local(async move { server.next_request().await.unwrap().is_none() });
        settle().await;
        assert!(!draining.is_finished());
        respond(exchange, 200, b"late").await;
        assert_eq!(response.await.unwrap().status(), 200);
        assert!(draining.await.unwrap());
        assert!(send.clone().ready().await.is_err());
    });
}

#[test]
fn a_request_is_sent_and_its_response_read() {
    run(async {
        let (mut connection, mut upstream) = client(h2::server::Builder::new()).await;
        let serving = spawn_local(async move {
            let (request, mut respond) = upstream.accept().await.unwrap().unwrap();
            let (parts, _) = request.into_parts();
            respond.send_informational(Response::builder().status(103).header("link", "x").body(()).unwrap()).unwrap();
            let response = Response::builder().status(299).header("x-a", "1").header("x-a", "2").body(()).unwrap();
            let mut stream = respond.send_response(response, false).unwrap();
            stream.send_data(Bytes::from_static(b"data"), false).unwrap();
            let trailers = HeaderMap::from_iter([
                (http::header::HOST, HeaderValue::from_static("evil")),
                (http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0")),
            ]);
            stream.send_trailers(trailers).unwrap();
            while upstream.accept().await.is_some() {}
            parts
        });
        let mut head = Head::request("GET", "a.example:1", "/p?q").unwrap();
        head.append(KnownHeader::Te, Value::from_static("trailers"));
        head.append(KnownHeader::Connection, Value::from_static("close"));
        connection.ready().await.unwrap();
        let ClientExchange::<DuplexStream> { writer, mut response } = connection.send_request(&head, true).unwrap();
        assert!(writer.is_finished());
        let hint = response.head().await.unwrap();
        assert_eq!((hint.status(), hint.is_interim()), (103, true));
        let head = response.head().await.unwrap();
        assert_eq!(head.status(), 299);
        let mut body = response.into_body().unwrap();
        let (data, trailers) = collect(&mut body).await.unwrap();
        assert_eq!(data, b"data");
        let trailers = trailers.unwrap();
        assert_eq!((trailers.len(), trailers.get(KnownHeader::GrpcStatus)), (1, Some(&b"0"[..])));
        drop((connection, body, writer));
        let parts = serving.await.unwrap();
        assert_eq!(parts.uri, "https://a.example:1/p?q");
        assert_eq!(parts.headers["te"], "trailers");
        assert!(parts.headers.get("host").is_none() && parts.headers.get("connection").is_none());
    });
}

#[test]
fn refusals_by_the_upstream_are_told_from_failures() {
    run(async {
        for (reason, expected) in [
            (Reason::REFUSED_STREAM, ResetReason::RefusedStream),
            (Reason::INTERNAL_ERROR, ResetReason::Internal),
            (Reason::ENHANCE_YOUR_CALM, ResetReason::EnhanceYourCalm),
        ] {
            let (mut connection, mut upstream) = client(h2::server::Builder::new()).await;
            spawn_local(async move {
                while let Some(Ok((_, mut respond))) = upstream.accept().await {
                    respond.send_reset(reason);
                }
            });
            connection.ready().await.unwrap();
            let head = Head::request("GET", "a", "/").unwrap();
            let mut exchange: ClientExchange<DuplexStream> = connection.send_request(&head, true).unwrap();
            assert_eq!(exchange.response.head().await.unwrap_err(), StreamError::Reset(expected));
            assert!(!exchange.response.has_begun());
        }
        // A GOAWAY that leaves the stream out is a refusal too; a lost connection is not.
        let (near, mut far) = duplex(64 * 1024);
        let (mut connection, driver) = ClientConnection::handshake(near, ClientConfig::default()).await.unwrap();
        spawn_local(driver);
        let head = Head::request("GET", "a", "/").unwrap();
        connection.ready().await.unwrap();
        let mut exchange: ClientExchange<DuplexStream> = connection.send_request(&head, true).unwrap();
        far.write_all(b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0").await.unwrap();
        assert_eq!(exchange.response.head().await.unwrap_err(), StreamError::Reset(ResetReason::RefusedStream));
        assert!(connection.ready().await.is_err());

        let (near, mut far) = duplex(64 * 1024);
        let (mut connection, driver) = ClientConnection::handshake(near, ClientConfig::default()).await.unwrap();
        spawn_local(driver);
        connection.ready().await.unwrap();
        let mut exchange: ClientExchange<DuplexStream> = connection.send_request(&head, true).unwrap();
        far.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
        settle().await;
        drop(far);
        let error = exchange.response.head().await.unwrap_err();
        assert!(matches!(error, StreamError::Io(_) | StreamError::Closed), "{error:?}");
    });
}

/// A request whose upstream is the far end of a stream of bytes, with PINGs after a second and two seconds for an answer.
async fn pinged() -> (ClientExchange<DuplexStream>, DuplexStream) {
    let (near, far) = duplex(64 * 1024);
    let keep_alive = Http2KeepAlive { interval: Duration::from_secs(1), timeout: Duration::from_secs(2) };
    let config = ClientConfig { keep_alive: Some(keep_alive), ..ClientConfig::default() };
    let (mut connection, driver) = ClientConnection::handshake(near, config).await.unwrap();
    spawn_local(driver);
    connection.ready().await.unwrap();
    (connection.send_request(&Head::request("GET", "a", "/").unwrap(), true).unwrap(), far)
}

#[test]
fn an_upstream_that_is_gone_is_noticed_by_pings() {
    run(async {
        let start = Instant::now();
        let (mut exchange, _far) = pinged().await;
        let error = exchange.response.head().await.unwrap_err();
        assert!(matches!(error, StreamError::Io(_) | StreamError::Closed), "{error:?}");
        let passed = start.elapsed().as_secs_f64();
        assert!((3.0..3.2).contains(&passed), "given up after {passed} s");
    });
}

#[test]
fn an_upstream_that_says_something_is_there() {
    run(async {
        let start = Instant::now();
        let (mut exchange, mut far) = pinged().await;
        // Settings, then credit for the connection once a second; no PING is answered.
        far.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let talk = async {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_secs(1)).await;
                far.write_all(b"\0\0\x04\x08\0\0\0\0\0\0\0\0\x01").await.unwrap();
            }
        };
        let (error, ()) = tokio::join!(exchange.response.head(), talk);
        assert!(error.is_err());
        let passed = start.elapsed().as_secs_f64();
        assert!((12.0..12.1).contains(&passed), "given up after {passed} s");
    });
}

#[test]
fn an_upstream_that_answers_pings_is_kept() {
    run(async {
        let start = Instant::now();
        let (mut exchange, far) = pinged().await;
        let mut upstream = h2::server::handshake(far).await.unwrap();
        let serve = async {
            let (_, mut respond) = upstream.accept().await.unwrap().unwrap();
            spawn_local(async move { while upstream.accept().await.is_some() {} });
            tokio::time::sleep(Duration::from_secs(60)).await;
            let _ = respond.send_response(Response::new(()), true).unwrap();
        };
        let (head, ()) = tokio::join!(exchange.response.head(), serve);
        assert_eq!(head.unwrap().status(), 200);
        assert!(start.elapsed() >= Duration::from_secs(60));
    });
}

#[test]
fn dropping_the_exchange_cancels_the_stream() {
    run(async {
        let (mut connection, mut upstream) = client(h2::server::Builder::new()).await;
        connection.ready().await.unwrap();
        let head = Head::request("GET", "a", "/").unwrap();
        let exchange: ClientExchange<DuplexStream> = connection.send_request(&head, true).unwrap();
        let (_, mut respond) = upstream.accept().await.unwrap().unwrap();
        spawn_local(async move { while upstream.accept().await.is_some() {} });
        drop(exchange);
        let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
        assert_eq!(reason, Reason::CANCEL);
    });
}

#[test]
fn what_http2_cannot_carry_is_refused_before_it_is_sent() {
    run(async {
        let (mut connection, _upstream) = client(h2::server::Builder::new()).await;
        connection.ready().await.unwrap();
        let mut head = Head::new();
        head.set_method("GET").unwrap();
        head.set_path_and_query("/").unwrap();
        assert!(matches!(connection.send_request::<DuplexStream>(&head, true), Err(StreamError::Malformed(_))), "no authority");
        let mut upgrade = Head::request("GET", "a", "/").unwrap();
        upgrade.append(KnownHeader::Upgrade, Value::from_static("websocket"));
        assert!(!connection.accepts_upgrades());
        assert!(matches!(connection.send_request::<DuplexStream>(&upgrade, false), Err(StreamError::Malformed(_))));
    });
}

#[test]
fn a_websocket_over_http2_reaches_an_http1_application() {
    run(async {
        let (mut server, mut send) = server(ServerConfig::default()).await;
        let (near, mut app) = duplex(64 * 1024);
        let mut upstream = http1::ClientConnection::new(near, Limits::default());
        settle().await;
        assert!(send.is_extended_connect_protocol_enabled());
        let mut request = Request::builder().method(Method::CONNECT).uri("http://a.example/ws").body(()).unwrap();
        request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
        request.headers_mut().insert("sec-websocket-version", HeaderValue::from_static("13"));
        let (response, mut upload) = send.send_request(request, false).unwrap();
        upload.send_data(Bytes::from_static(b"early"), false).unwrap();
        let exchange = server.next_request().await.unwrap().unwrap();
        spawn_local(async move { while let Ok(Some(_)) = server.next_request().await {} });
        let proxy = spawn_local(forward(exchange, async move |head: &Head, end: bool| upstream.send_request(head, end)));
        let mut buffer = vec![0; 4096];
        settle().await;
        let n = app.read(&mut buffer).await.unwrap();
        let text = String::from_utf8(buffer[..n].to_vec()).unwrap();
        assert!(text.starts_with("GET /ws HTTP/1.1\r\nhost: a.example\r\nsec-websocket-version: 13\r\n"), "{text}");
        assert!(text.contains("\r\nsec-websocket-key: "));
        assert!(text.contains("connection: upgrade\r\n") && text.ends_with("\r\n\r\n"), "the early bytes wait: {text}");
        app.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nhello")
            .await
            .unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(response.headers().get("sec-websocket-accept").is_none() && response.headers().get("upgrade").is_none());
        let mut body = response.into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "hello");
        let n = app.read(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..n], b"early");
        upload.send_data(Bytes::from_static(b"up"), true).unwrap();
        let n = app.read(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..n], b"up");
        assert_eq!(app.read(&mut buffer).await.unwrap(), 0, "the end of one half goes through");
        app.write_all(b"down").await.unwrap();
        app.shutdown().await.unwrap();
        assert_eq!(body.data().await.unwrap().unwrap(), "down");
        assert!(is_end(&mut body).await);
        assert_eq!(proxy.await.unwrap(), Outcome::Done);
    });
}

#[test]
fn a_websocket_over_http1_reaches_an_http2_application() {
    run(async {
        let mut builder = h2::server::Builder::new();
        builder.enable_connect_protocol();
        let (mut connection, mut upstream) = client(builder).await;
        let (mut user, far) = duplex(64 * 1024);
        let mut downstream = http1::ServerConnection::new(far, http1::ServerConfig::default());
        user.write_all(
            b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .await
        .unwrap();
        let exchange = downstream.next_request().await.unwrap().unwrap();
        let app = spawn_local(async move {
            let (request, mut respond) = upstream.accept().await.unwrap().unwrap();
            spawn_local(async move { while upstream.accept().await.is_some() {} });
            assert_eq!(request.method(), Method::CONNECT);
            assert_eq!(request.extensions().get::<h2::ext::Protocol>().unwrap().as_str(), "websocket");
            assert!(request.headers().get("sec-websocket-key").is_none());
            let mut down = respond.send_response(Response::new(()), false).unwrap();
            let mut up = request.into_body();
            while let Some(data) = up.data().await {
                down.send_data(data.unwrap(), false).unwrap();
            }
            down.send_data(Bytes::new(), true).unwrap();
        });
        settle().await;
        connection.ready().await.unwrap();
        assert!(connection.accepts_upgrades());
        let proxy = spawn_local(forward(exchange, async move |head: &Head, end: bool| connection.send_request(head, end)));
        let mut buffer = vec![0; 4096];
        let n = user.read(&mut buffer).await.unwrap();
        let text = String::from_utf8(buffer[..n].to_vec()).unwrap();
        assert!(text.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{text}");
        assert!(
            text.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n") && text.contains("upgrade: websocket\r\n")
        );
        user.write_all(b"ping").await.unwrap();
        let n = user.read(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..n], b"ping");
        user.shutdown().await.unwrap();
        assert_eq!(user.read(&mut buffer).await.unwrap(), 0);
        app.await.unwrap();
        assert_eq!(proxy.await.unwrap(), Outcome::Done);
    });
}

#[test]
fn trailers_survive_from_http2_to_http1_and_back() {
    run(async {
        let (near, far) = duplex(64 * 1024);
        let mut down = http1::ServerConnection::new(far, http1::ServerConfig::default());
        let mut user = near;
        user.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nx-up: 1\r\n\r\n")
            .await
            .unwrap();
        let exchange = down.next_request().await.unwrap().unwrap();
        let (mut connection, mut upstream) = client(h2::server::Builder::new()).await;
        let app = spawn_local(async move {
            let (request, mut respond) = upstream.accept().await.unwrap().unwrap();
            spawn_local(async move { while upstream.accept().await.is_some() {} });
            let mut body = request.into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), "x");
            let trailers = body.trailers().await.unwrap().unwrap();
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from_static(b"y"), false).unwrap();
            stream.send_trailers(trailers).unwrap();
        });
        connection.ready().await.unwrap();
        let outcome = forward(exchange, async |head, end| connection.send_request(head, end)).await;
        assert_eq!(outcome, Outcome::Done);
        app.await.unwrap();
        let mut buffer = vec![0; 4096];
        let n = user.read(&mut buffer).await.unwrap();
        let text = String::from_utf8(buffer[..n].to_vec()).unwrap();
        assert!(text.ends_with("1\r\ny\r\n0\r\nx-up: 1\r\n\r\n"), "{text}");
    });
}

#[test]
fn an_empty_pump_ends_both_ways() {
    run(async {
        let (mut server, mut send) = server(ServerConfig::default()).await;
        let (response, mut upload) = send.send_request(Request::post("http://a/").body(()).unwrap(), false).unwrap();
        let exchange = server.next_request().await.unwrap().unwrap();
        spawn_local(async move { while let Ok(Some(_)) = server.next_request().await {} });
        let writer = exchange.responder.send_response(&Head::response(200).unwrap(), false).unwrap();
        let mut pump = Pump::new(exchange.body, writer);
        upload.send_data(Bytes::new(), true).unwrap();
        pump.run().await.unwrap();
        assert_eq!(pump.bytes(), 0);
        assert!(is_end(response.await.unwrap().body_mut()).await);
    });
}
