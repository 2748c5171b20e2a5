//! HTTP/1 connections in both roles, byte by byte, on a paused clock.

use crate::support::{Outcome, collect, config, feed, forward, respond, run, settle};
use bytes::Bytes;
use lateen_proxy::http::{BodyReader, ClientExchange, Frame, Head, KnownHeader, PeerGone, Pump, StreamError, Value};
use lateen_proxy::http1::{ClientConnection, HeadError, Limits, RequestError, ServerConfig, ServerConnection};
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::time::Instant;

fn server() -> (DuplexStream, ServerConnection<DuplexStream>) {
    let (near, far) = duplex(64 * 1024);
    (near, ServerConnection::new(far, config()))
}

fn client() -> (ClientConnection<DuplexStream>, DuplexStream) {
    let (near, far) = duplex(64 * 1024);
    (ClientConnection::new(near, Limits::default()), far)
}

/// What has arrived so far.
async fn arrived(stream: &mut DuplexStream) -> String {
    settle().await;
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(Ok(n)) = tokio::time::timeout(Duration::ZERO, stream.read(&mut buffer)).await {
        if n == 0 {
            all.extend_from_slice(b"<EOF>");
            break;
        }
        all.extend_from_slice(&buffer[..n]);
    }
    String::from_utf8(all).unwrap()
}

fn get() -> Head {
    Head::request("GET", "a", "/").unwrap()
}

fn post(length: Option<u64>) -> Head {
    let mut head = Head::request("POST", "a", "/").unwrap();
    if let Some(length) = length {
        head.append_number(KnownHeader::ContentLength, length);
    }
    head
}

fn data(text: &'static str) -> Frame {
    Frame::Data(Bytes::from_static(text.as_bytes()))
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    run(async {
        let (mut peer, mut connection) = server();
        let two = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /4";
        feed(&mut peer, two).await;
        for path in ["/1", "/2", "/3"] {
            let exchange = connection.next_request().await.unwrap().unwrap();
            assert_eq!(exchange.head.path(), path);
            respond(exchange, 200, path.as_bytes()).await;
        }
        assert!(connection.next_request().await.unwrap().is_none(), "nothing after connection: close");
        assert_eq!(
            arrived(&mut peer).await,
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n/1HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n/2HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n/3"
        );
    });
}

#[test]
fn a_body_goes_up_while_the_response_comes_down() {
    run(async {
        let (mut peer, mut connection) = server();
        feed(&mut peer, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        let exchange = connection.next_request().await.unwrap().unwrap();
        let writer = exchange.responder.send_response(&Head::response(200).unwrap(), false).unwrap();
        let echo = tokio::task::spawn_local(async move { Pump::new(exchange.body, writer).run().await });
        assert_eq!(arrived(&mut peer).await, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        feed(&mut peer, b"3\r\nabc\r\n").await;
        assert_eq!(arrived(&mut peer).await, "3\r\nabc\r\n", "each piece comes back before the next is sent");
        feed(&mut peer, b"2\r\nd").await;
        assert_eq!(arrived(&mut peer).await, "2\r\nd", "half a chunk too");
        feed(&mut peer, b"e\r\n0\r\nx-t: 1\r\nhost: evil\r\n\r\n").await;
        assert_eq!(arrived(&mut peer).await, "e\r\n0\r\nx-t: 1\r\n\r\n");
        echo.await.unwrap().unwrap();
        feed(&mut peer, b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(connection.next_request().await.unwrap().unwrap().head.path(), "/next");
    });
}

#[test]
fn a_response_before_the_end_of_the_request() {
    run(async {
        let (mut peer, mut connection) = server();
        feed(&mut peer, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc").await;
        let exchange = connection.next_request().await.unwrap().unwrap();
        respond(exchange, 413, b"").await;
        assert_eq!(arrived(&mut peer).await, "HTTP/1.1 413 Payload Too Large\r\ncontent-length: 0\r\n\r\n");
        feed(&mut peer, b"defGET /next HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let next = connection.next_request().await.unwrap().unwrap();
        assert_eq!(next.head.path(), "/next", "a short rest is thrown away");
        respond(next, 200, b"").await;

        feed(&mut peer, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n").await;
        let exchange = connection.next_request().await.unwrap().unwrap();
        respond(exchange, 413, b"").await;
        let endless = tokio::task::spawn_local(async move {
            let block = [0; 8192];
            while peer.write_all(&block).await.is_ok() {}
        });
        assert!(connection.next_request().await.unwrap().is_none(), "a long one ends the connection");
        drop(connection);
        endless.await.unwrap();
    });
}

#[test]
fn continue_is_the_caller_s_to_send() {
    run(async {
        let (mut peer, mut connection) = server();
        let head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 3\r\n\r\n";
        feed(&mut peer, head).await;
        let mut exchange = connection.next_request().await.unwrap().unwrap();
        assert!(exchange.head.expects_continue());
        assert_eq!(arrived(&mut peer).await, "");
        exchange.responder.send_interim(&Head::response(100).unwrap()).await.unwrap();
        let mut hints = Head::response(103).unwrap();
        hints.append(lateen_proxy::http::Name::new(b"link").unwrap(), Value::from_static("</a>"));
        exchange.responder.send_interim(&hints).await.unwrap();
        assert_eq!(arrived(&mut peer).await, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
        feed(&mut peer, b"abc").await;
        assert_eq!(collect(&mut exchange.body).await.unwrap().0, b"abc");
        respond(exchange, 200, b"").await;
        assert_eq!(arrived(&mut peer).await, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");

        feed(&mut peer, head).await;
        let exchange = connection.next_request().await.unwrap().unwrap();
        respond(exchange, 417, b"").await;
        assert_eq!(
            arrived(&mut peer).await,
            "HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            "nobody can tell whether the body comes"
        );
        assert!(connection.next_request().await.unwrap().is_none());
    });
}

const UPGRADE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

fn switching() -> Head {
    let mut head = Head::response(101).unwrap();
    head.append(KnownHeader::Upgrade, Value::from_static("websocket"));
    head
}

#[test]
fn a_tunnel_opens_with_the_response_and_closes_by_halves() {
    run(async {
        let (mut peer, mut connection) = server();
        feed(&mut peer, &[UPGRADE, b"early"].concat()).await;
        let mut exchange = connection.next_request().await.unwrap().unwrap();
        assert_eq!(exchange.head.upgrade(), Some(&b"websocket"[..]));
        assert!(!exchange.body.is_end());
        assert!(tokio::time::timeout(Duration::from_secs(1), exchange.body.next()).await.is_err(), "early bytes wait");
        let body = exchange.body;
        let reading = tokio::task::spawn_local(async move {
            let mut body = body;
            let first = body.next().await;
            (first, body)
        });
        settle().await;
        let mut writer = exchange.responder.send_response(&switching(), false).unwrap();
        writer.flush().await.unwrap();
        assert_eq!(
            arrived(&mut peer).await,
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"
        );
        let (first, mut body) = reading.await.unwrap();
        assert!(matches!(first, Ok(Some(Frame::Data(d))) if d == "early"), "opening wakes a reader that waits");
        writer.write(data("down")).await.unwrap();
        writer.finish().await.unwrap();
        assert_eq!(arrived(&mut peer).await, "down<EOF>");
        feed(&mut peer, b"up").await;
        assert!(matches!(body.next().await, Ok(Some(Frame::Data(d))) if d == "up"), "the other half is still open");
        peer.shutdown().await.unwrap();
        assert!(body.next().await.unwrap().is_none());
        drop((body, writer));
        assert!(connection.next_request().await.unwrap().is_none());
    });
}

#[test]
fn bytes_after_a_refused_tunnel_are_no_request() {
    run(async {
        for request in [UPGRADE, b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"] {
            let (mut peer, mut connection) = server();
            feed(&mut peer, &[request, b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"].concat()).await;
            let mut exchange = connection.next_request().await.unwrap().unwrap();
            let body = std::mem::replace(&mut exchange.body, BodyReader::Empty);
            respond(exchange, 403, b"").await;
            let mut body = body;
            assert!(body.next().await.unwrap().is_none());
            assert!(connection.next_request().await.unwrap().is_none());
            assert_eq!(arrived(&mut peer).await, "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
}

#[test]
fn connect_opens_a_tunnel_and_101_does_not_without_an_upgrade() {
    run(async {
        let (mut peer, mut connection) = server();
        feed(&mut peer, b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\nup").await;
        let mut exchange = connection.next_request().await.unwrap().unwrap();
        let mut head = Head::response(200).unwrap();
        head.append_number(KnownHeader::ContentLength, 5);
        let mut writer = exchange.responder.send_response(&head, false).unwrap();
        writer.write(data("down")).await.unwrap();
        writer.flush().await.unwrap();
        assert_eq!(arrived(&mut peer).await, "HTTP/1.1 200 OK\r\n\r\ndown");
        assert!(matches!(exchange.body.next().await, Ok(Some(Frame::Data(d))) if d == "up"));

        let (mut peer, mut connection) = server();
        feed(&mut peer, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let exchange = connection.next_request().await.unwrap().unwrap();
        assert!(matches!(exchange.responder.send_response(&switching(), false), Err(StreamError::Malformed(_))));
    });
}

#[test]
fn a_client_that_leaves_is_noticed() {
    run(async {
        let (mut peer, mut connection) = server();
        feed(&mut peer, b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /2").await;
        let mut exchange = connection.next_request().await.unwrap().unwrap();
        let waited = tokio::time::timeout(Duration::from_secs(1), exchange.responder.peer_gone()).await;
        assert!(waited.is_err(), "a pipelined request is no farewell");
        peer.shutdown().await.unwrap();
        assert_eq!(exchange.responder.peer_gone().await, PeerGone::Closed);
        let mut writer = exchange.responder.send_response(&Head::response(200).unwrap(), false).unwrap();
        let gone = std::future::poll_fn(|cx| writer.poll_peer_gone(cx)).await;
        assert_eq!(gone, PeerGone::Closed, "also during the response");
    });
}

#[test]
fn a_client_that_leaves_within_a_body_is_an_error_of_the_body() {
    run(async {
        for request in [
            &b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc"[..],
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
        ] {
            let (mut peer, mut connection) = server();
            feed(&mut peer, request).await;
            let mut exchange = connection.next_request().await.unwrap().unwrap();
            drop(peer);
            assert_eq!(collect(&mut exchange.body).await.unwrap_err(), StreamError::Closed);
            drop(exchange);
            assert!(connection.next_request().await.unwrap().is_none());
        }
    });
}

#[test]
fn waiting_has_its_limits() {
    run(async {
        let (near, far) = duplex(1024);
        let limited =
            ServerConfig { idle_timeout: Some(Duration::from_secs(30)), head_timeout: Some(Duration::from_secs(5)), ..config() };
        let (mut peer, mut connection) = (near, ServerConnection::new(far, limited));
        for path in ["/1", "/2"] {
            tokio::time::sleep(Duration::from_secs(20)).await;
            peer.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
            let exchange = connection.next_request().await.unwrap().unwrap();
            tokio::time::sleep(Duration::from_secs(50)).await;
            respond(exchange, 200, b"").await;
        }
        let start = Instant::now();
        assert!(connection.next_request().await.unwrap().is_none());
        assert_eq!(start.elapsed().as_secs(), 30, "idle time counts from the end of the last exchange");

        let (mut peer, far) = duplex(1024);
        let mut connection = ServerConnection::new(far, limited);
        let start = Instant::now();
        let slow = tokio::task::spawn_local(async move {
            tokio::time::sleep(Duration::from_secs(10)).await;
            for byte in b"GET / HTTP/1.1\r\n" {
                peer.write_all(&[*byte]).await.unwrap();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            peer
        });
        let error = connection.next_request().await.unwrap_err();
        assert_eq!((error, error.status()), (RequestError::Timeout, Some(408)));
        assert_eq!(start.elapsed().as_secs(), 15, "a head has five seconds from its first byte");
        connection.reject(error, |_| {}, Duration::from_secs(1)).await;
        slow.abort();
    });
}

#[test]
fn a_head_in_single_bytes_is_read_and_a_long_one_refused() {
    run(async {
        let (mut peer, mut connection) = server();
        let feeding = tokio::task::spawn_local(async move {
            for byte in b"\r\n\r\nGET /a HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n" {
                feed(&mut peer, &[*byte]).await;
            }
            peer
        });
        let exchange = connection.next_request().await.unwrap().unwrap();
        assert_eq!(exchange.head.path(), "/a");
        respond(exchange, 200, b"").await;
        let mut peer = feeding.await.unwrap();
        arrived(&mut peer).await;
        let long = tokio::task::spawn_local(async move {
            peer.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n").await.unwrap();
            while peer.write_all(&[b'x'; 100]).await.is_ok() {}
        });
        let error = connection.next_request().await.unwrap_err();
        assert_eq!(error, RequestError::Head(HeadError::TooLarge));
        drop(connection);
        long.await.unwrap();
    });
}

#[test]
fn a_bad_request_is_answered_and_the_client_can_read_it() {
    run(async {
        for (raw, answer, text) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], "400 Bad Request", ""),
            (b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", "400 Bad Request", ""),
            (b"\n\n\n", "400 Bad Request", "Bad Request"),
            (b"\r\n\r\n\r\n\r\n\r\n\r\n", "400 Bad Request", "Bad Request"),
            (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03", "400 Bad Request", "Bad Request"),
            (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", "501 Not Implemented", "Not Implemented"),
            (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", "505 HTTP Version Not Supported", "HTTP Version Not Supported"),
        ] {
            let (mut peer, mut connection) = server();
            feed(&mut peer, raw).await;
            let error = connection.next_request().await.unwrap_err();
            let could_be_read = connection.refused().map(|head| head.path_and_query().to_owned());
            assert_eq!(could_be_read.is_some(), text.is_empty(), "{could_be_read:?}");
            let dress = |head: &mut Head| head.append(KnownHeader::Server, Value::from_static("s"));
            let rejecting = tokio::task::spawn_local(connection.reject(error, dress, Duration::from_secs(1)));
            feed(&mut peer, &[b'x'; 1000]).await;
            let plain = if text.is_empty() { "" } else { "content-type: text/plain\r\n" };
            let length = text.len();
            assert_eq!(
                arrived(&mut peer).await,
                format!(
                    "HTTP/1.1 {answer}\r\ncontent-length: {length}\r\n{plain}server: s\r\nconnection: close\r\n\r\n{text}<EOF>"
                )
            );
            drop(peer);
            rejecting.await.unwrap();
        }
    });
}

#[test]
fn a_client_that_reads_nothing_does_not_hold_a_rejection() {
    run(async {
        let (mut peer, far) = duplex(16);
        let mut connection = ServerConnection::new(far, config());
        let flooding = tokio::task::spawn_local(async move { while peer.write_all(b"BAD\r\n").await.is_ok() {} });
        let error = connection.next_request().await.unwrap_err();
        let start = Instant::now();
        connection.reject(error, |_| {}, Duration::from_secs(2)).await;
        assert!(start.elapsed() <= Duration::from_secs(2));
        flooding.await.unwrap();
    });
}

#[test]
fn half_a_head_is_an_error_and_none_is_not() {
    run(async {
        let (mut peer, mut connection) = server();
        feed(&mut peer, b"GET / HT").await;
        drop(peer);
        assert_eq!(connection.next_request().await.unwrap_err(), RequestError::Connection(StreamError::Closed));
        let (peer, mut connection) = server();
        drop(peer);
        assert!(connection.next_request().await.unwrap().is_none());
    });
}

#[test]
fn responses_without_a_body_have_none() {
    run(async {
        let (mut peer, mut connection) = server();
        for (method, status, expected) in [
            ("HEAD", 200, "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"),
            ("GET", 304, "HTTP/1.1 304 Not Modified\r\ncontent-length: 4\r\n\r\n"),
            ("GET", 204, "HTTP/1.1 204 No Content\r\n\r\n"),
        ] {
            feed(&mut peer, format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await;
            let exchange = connection.next_request().await.unwrap().unwrap();
            respond(exchange, status, b"body").await;
            assert_eq!(arrived(&mut peer).await, expected);
        }
    });
}

#[test]
fn http10_clients_get_what_they_understand() {
    run(async {
        let (mut peer, mut connection) = server();
        feed(&mut peer, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\nExpect: 100-continue\r\n\r\n").await;
        let mut exchange = connection.next_request().await.unwrap().unwrap();
        exchange.responder.send_interim(&Head::response(100).unwrap()).await.unwrap();
        respond(exchange, 200, b"ok").await;
        assert_eq!(arrived(&mut peer).await, "HTTP/1.0 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nok");
        feed(&mut peer, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
        let exchange = connection.next_request().await.unwrap().unwrap();
        let mut writer = exchange.responder.send_response(&Head::response(200).unwrap(), false).unwrap();
        writer.write(data("stream")).await.unwrap();
        writer.finish().await.unwrap();
        assert_eq!(arrived(&mut peer).await, "HTTP/1.0 200 OK\r\nconnection: close\r\n\r\nstream<EOF>");
        assert!(connection.next_request().await.unwrap().is_none());
    });
}

#[test]
fn a_body_must_be_as_long_as_announced() {
    run(async {
        let (mut peer, mut connection) = server();
        feed(&mut peer, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let exchange = connection.next_request().await.unwrap().unwrap();
        let mut head = Head::response(200).unwrap();
        head.append_number(KnownHeader::ContentLength, 3);
        let mut writer = exchange.responder.send_response(&head, false).unwrap();
        assert_eq!(writer.write(data("four")).await, Err(StreamError::Length));
        writer.write(data("ab")).await.unwrap();
        assert_eq!(writer.finish().await, Err(StreamError::Length));
        drop(writer);
        assert!(connection.next_request().await.unwrap().is_none(), "the client must not take what follows for the rest");
        drop(connection);
        assert!(arrived(&mut peer).await.ends_with("<EOF>"));
    });
}

#[test]
fn an_exchange_that_is_dropped_ends_the_connection() {
    run(async {
        let (mut peer, mut connection) = server();
        feed(&mut peer, b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        drop(connection.next_request().await.unwrap().unwrap());
        assert!(connection.next_request().await.unwrap().is_none());

        let (mut peer, mut connection) = server();
        feed(&mut peer, b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let exchange = connection.next_request().await.unwrap().unwrap();
        let mut writer = exchange.responder.send_response(&Head::response(200).unwrap(), false).unwrap();
        writer.write(data("x")).await.unwrap();
        drop(writer);
        assert!(connection.next_request().await.unwrap().is_none());
    });
}

#[test]
fn draining_makes_the_response_say_close() {
    run(async {
        let (mut peer, mut connection) = server();
        feed(&mut peer, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(connection.is_idle());
        let exchange = connection.next_request().await.unwrap().unwrap();
        assert!(!connection.is_idle());
        connection.drain();
        respond(exchange, 200, b"").await;
        assert!(arrived(&mut peer).await.contains("connection: close\r\n"));
        assert!(connection.next_request().await.unwrap().is_none());
    });
}

/// Records each write, and never has anything to read.
struct Recorder(Rc<RefCell<Vec<Vec<u8>>>>);

impl AsyncRead for Recorder {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Recorder {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().push(buf.to_vec());
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, _: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let all = bufs.iter().flat_map(|b| b.iter().copied()).collect::<Vec<u8>>();
        let n = all.len();
        self.0.borrow_mut().push(all);
        Poll::Ready(Ok(n))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn head_and_body_leave_in_one_write() {
    run(async {
        for size in [10, 100_000] {
            let writes = Rc::new(RefCell::new(Vec::new()));
            let mut connection = ClientConnection::new(Recorder(writes.clone()), Limits::default());
            let exchange = connection.send_request(&post(None), false).unwrap();
            let mut writer = exchange.writer;
            writer.write(Frame::Data(vec![b'x'; size].into())).await.unwrap();
            assert!(writes.borrow().is_empty(), "nothing leaves before it must");
            writer.finish().await.unwrap();
            assert_eq!(writes.borrow().len(), 1, "a body of {size}");
            let body = format!("{size:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(size));
            assert!(writes.borrow()[0].ends_with(body.as_bytes()));
        }
        let writes = Rc::new(RefCell::new(Vec::new()));
        let mut connection = ClientConnection::new(Recorder(writes.clone()), Limits::default());
        let mut exchange = connection.send_request(&get(), true).unwrap();
        let _ = tokio::time::timeout(Duration::ZERO, exchange.response.head()).await;
        assert_eq!(*writes.borrow(), [b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"], "waiting for the response sends the request");
    });
}

#[test]
fn a_peer_that_does_not_read_stops_the_writer() {
    run(async {
        let (mut peer, far) = duplex(1000);
        let mut connection = ServerConnection::new(far, config());
        peer.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let exchange = connection.next_request().await.unwrap().unwrap();
        let mut writer = exchange.responder.send_response(&Head::response(200).unwrap(), false).unwrap();
        let mut accepted = 0_usize;
        while let Ok(result) = tokio::time::timeout(Duration::ZERO, writer.write(Frame::Data(vec![0; 8192].into()))).await {
            result.unwrap();
            accepted += 1;
            assert!(accepted < 4, "what is not read must not pile up");
        }
        assert!(accepted >= 1);
    });
}

#[test]
fn a_client_connection_is_used_again() {
    run(async {
        let (mut connection, mut peer) = client();
        for i in 0..3 {
            assert!(connection.is_reusable());
            let ClientExchange { mut writer, mut response } = connection.send_request(&post(Some(2)), false).unwrap();
            assert!(!connection.is_reusable());
            writer.write(data("hi")).await.unwrap();
            writer.finish().await.unwrap();
            assert!(arrived(&mut peer).await.ends_with("content-length: 2\r\n\r\nhi"));
            feed(&mut peer, b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab").await;
            assert!(!response.has_begun());
            assert_eq!(response.head().await.unwrap().status(), 103);
            assert!(response.has_begun());
            assert_eq!(response.head().await.unwrap().status(), 200);
            let mut body = response.into_body().unwrap();
            assert!(!connection.is_reusable());
            feed(&mut peer, b"c").await;
            assert_eq!(collect(&mut body).await.unwrap().0, b"abc");
            assert_eq!(connection.requests(), i + 1);
        }
        feed(&mut peer, b"HTTP/1.1 408 Timeout\r\n\r\n").await;
        assert!(!connection.is_reusable(), "what nobody asked for");
        assert_eq!(connection.send_request(&get(), true).unwrap_err(), StreamError::Closed);

        let (connection, peer) = client();
        drop(peer);
        settle().await;
        assert!(!connection.is_reusable(), "the upstream has closed it");
    });
}

#[test]
fn an_idle_client_connection_notices_its_end() {
    run(async {
        let (mut connection, peer) = client();
        let mut idle = std::pin::pin!(std::future::poll_fn(|cx| connection.poll_idle(cx)));
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut idle).await.is_err());
        drop(peer);
        idle.await;
    });
}

#[test]
fn what_makes_a_client_connection_unusable() {
    run(async {
        let get = get();
        for (response, reusable) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true),
            ("HTTP/1.1 204 No\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", true),
            ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nX", false),
            ("HTTP/1.1 204 No\r\nContent-Length: 3\r\n\r\nabc", false),
        ] {
            let (mut connection, mut peer) = client();
            let ClientExchange { writer, response: mut reader } = connection.send_request(&get, true).unwrap();
            feed(&mut peer, response.as_bytes()).await;
            reader.head().await.unwrap();
            collect(&mut reader.into_body().unwrap()).await.unwrap();
            drop(writer);
            assert_eq!(connection.is_reusable(), reusable, "{response}");
        }
        // The response is complete, the request is not.
        let (mut connection, mut peer) = client();
        let mut exchange = connection.send_request(&post(Some(10)), false).unwrap();
        feed(&mut peer, b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(exchange.response.head().await.unwrap().status(), 413);
        drop(exchange);
        assert!(!connection.is_reusable());
        // The body was not read.
        let (mut connection, mut peer) = client();
        let mut exchange = connection.send_request(&get, true).unwrap();
        feed(&mut peer, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc").await;
        exchange.response.head().await.unwrap();
        drop(exchange);
        assert!(!connection.is_reusable());
        // The response was not waited for.
        let (mut connection, _peer) = client();
        drop(connection.send_request(&get, true).unwrap());
        assert!(!connection.is_reusable());
    });
}

#[test]
fn responses_that_break_the_protocol_are_errors() {
    run(async {
        for raw in [
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            "garbage garbage\r\n\r\n",
        ] {
            let (mut connection, mut peer) = client();
            let mut exchange = connection.send_request(&get(), true).unwrap();
            feed(&mut peer, raw.as_bytes()).await;
            assert!(matches!(exchange.response.head().await, Err(StreamError::Malformed(_))), "{raw}");
            assert!(!connection.is_reusable());
        }
        let (mut connection, mut peer) = client();
        let mut exchange = connection.send_request(&get(), true).unwrap();
        feed(&mut peer, "HTTP/1.1 103 Hint\r\n\r\n".repeat(40).as_bytes()).await;
        let mut heads = 0;
        let error = loop {
            match exchange.response.head().await {
                Ok(_) => heads += 1,
                Err(e) => break e,
            }
        };
        assert!(matches!(error, StreamError::Malformed(_)) && heads == 32);
    });
}

#[test]
fn an_upstream_that_leaves_is_an_error_where_the_message_is_not_whole() {
    run(async {
        for (raw, body) in [
            ("", None),
            ("HTTP/1.1 200 OK\r\nCont", None),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", Some(Err(StreamError::Closed))),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", Some(Err(StreamError::Closed))),
            ("HTTP/1.1 200 OK\r\n\r\nab", Some(Ok(b"ab".to_vec()))),
        ] {
            let (mut connection, mut peer) = client();
            let mut exchange = connection.send_request(&get(), true).unwrap();
            feed(&mut peer, raw.as_bytes()).await;
            drop(peer);
            match body {
                None => {
                    assert_eq!(exchange.response.head().await.unwrap_err(), StreamError::Closed);
                    assert_eq!(exchange.response.has_begun(), !raw.is_empty());
                }
                Some(expected) => {
                    exchange.response.head().await.unwrap();
                    let mut body = exchange.response.into_body().unwrap();
                    assert_eq!(collect(&mut body).await.map(|(b, _)| b), expected, "{raw}");
                }
            }
            assert!(!connection.is_reusable());
        }
    });
}

#[test]
fn an_early_answer_is_read_although_the_request_cannot_be_sent() {
    run(async {
        let (near, mut peer) = duplex(100);
        let mut connection = ClientConnection::new(near, Limits::default());
        let mut exchange = connection.send_request(&post(Some(100_000)), false).unwrap();
        peer.write_all(b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        drop(peer);
        exchange.writer.write(Frame::Data(vec![0; 50_000].into())).await.unwrap();
        assert!(exchange.writer.flush().await.is_err());
        assert_eq!(exchange.response.head().await.unwrap().status(), 413);
    });
}

#[test]
fn a_websocket_goes_through_the_proxy() {
    run(async {
        let (mut user, mut downstream) = server();
        let (mut upstream, mut app) = client();
        let proxy = tokio::task::spawn_local(async move {
            let exchange = downstream.next_request().await.unwrap().unwrap();
            let outcome = forward(exchange, async |head, end| upstream.send_request(head, end)).await;
            (outcome, upstream.is_reusable(), downstream.next_request().await.unwrap().is_none())
        });
        feed(&mut user, &[UPGRADE, b"early"].concat()).await;
        assert_eq!(
            arrived(&mut app).await,
            "GET /ws HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
            "the bytes after it stay queued"
        );
        feed(&mut app, b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello").await;
        assert_eq!(arrived(&mut app).await, "early");
        assert!(arrived(&mut user).await.ends_with("upgrade: websocket\r\nconnection: upgrade\r\n\r\nhello"));
        feed(&mut user, b"ping").await;
        assert_eq!(arrived(&mut app).await, "ping");
        feed(&mut app, b"pong").await;
        assert_eq!(arrived(&mut user).await, "pong");
        app.shutdown().await.unwrap();
        assert_eq!(arrived(&mut user).await, "<EOF>");
        assert_eq!(proxy.await.unwrap(), (Outcome::Done, false, true));
    });
}

#[test]
fn a_refused_websocket_is_an_ordinary_response() {
    run(async {
        let (mut user, mut downstream) = server();
        let (mut upstream, mut app) = client();
        let proxy = tokio::task::spawn_local(async move {
            let exchange = downstream.next_request().await.unwrap().unwrap();
            forward(exchange, async |head, end| upstream.send_request(head, end)).await
        });
        feed(&mut user, &[UPGRADE, b"GET /smuggled HTTP/1.1\r\n\r\n"].concat()).await;
        arrived(&mut app).await;
        feed(&mut app, b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
        assert_eq!(arrived(&mut user).await, "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno<EOF>");
        assert!(!arrived(&mut app).await.contains("smuggled"));
        assert_eq!(proxy.await.unwrap(), Outcome::Done);
    });
}

#[test]
fn a_client_that_leaves_takes_the_upstream_request_with_it() {
    run(async {
        let (mut user, mut downstream) = server();
        let (mut upstream, mut app) = client();
        let proxy = tokio::task::spawn_local(async move {
            let exchange = downstream.next_request().await.unwrap().unwrap();
            forward(exchange, async |head, end| upstream.send_request(head, end)).await
        });
        feed(&mut user, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        arrived(&mut app).await;
        drop(user);
        assert_eq!(proxy.await.unwrap(), Outcome::ClientGone);
        assert_eq!(arrived(&mut app).await, "<EOF>");
    });
}

#[test]
fn a_handle_of_an_earlier_message_can_do_nothing() {
    run(async {
        let (mut peer, mut connection) = server();
        feed(
            &mut peer,
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nxPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\ny",
        )
        .await;
        let mut first = connection.next_request().await.unwrap().unwrap();
        let stolen = std::mem::replace(&mut first.body, BodyReader::Empty);
        respond(first, 200, b"").await;
        let mut second = connection.next_request().await.unwrap().unwrap();
        let mut stolen = stolen;
        assert_eq!(stolen.next().await.unwrap_err(), StreamError::Closed);
        assert_eq!(collect(&mut second.body).await.unwrap().0, b"y");
    });
}
