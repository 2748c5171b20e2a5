//! HTTP/1.x through a pair of sidecars, byte by byte.

use serde_json::Value;

use super::lab::lab;

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: server\r\n\r\n")
}

/// The same for a server that is in the test's hand.
fn get_raw(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: raw\r\n\r\n")
}

/// A header of a head in text, by its name in lower case.
fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
}

#[tokio::test]
async fn requests_are_pipelined_and_answered_in_order_on_one_connection() {
    let lab = lab();
    for (pod, address) in [("client", "server:80"), ("client", "server:82"), ("plain", "server:80"), ("plain", "server:82")] {
        let mut client = lab.http1(pod, address);
        let post = "POST /b HTTP/1.1\r\nHost: server\r\nContent-Length: 5\r\n\r\nhello";
        let chunked = "POST /c HTTP/1.1\r\nHost: server\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        client.send([get("/a").as_str(), post, chunked, &get("/delay/20ms")].concat()).await.unwrap();
        for (path, body) in [("/a", Value::Null), ("/b", "hello".into()), ("/c", "abcde".into()), ("/delay/20ms", Value::Null)] {
            let response = client.read_response(false).await.unwrap();
            assert_eq!(response.status, 200, "{pod} {address}: {response:?}");
            let answer: Value = serde_json::from_slice(&response.body).unwrap();
            assert_eq!((&answer["path"], &answer["body"]), (&path.into(), &body), "{pod} {address}");
        }
        // The connection is kept until somebody asks for its end.
        let response = client.exchange(get("/later")).await.unwrap();
        assert_eq!((response.status, response.header("connection")), (200, None), "{response:?}");
        let response = client.exchange("GET / HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n").await.unwrap();
        assert_eq!((response.status, response.header("connection")), (200, Some("close")), "{response:?}");
        assert!(client.is_closed_by_peer().await, "{pod} {address}");
    }
}

#[tokio::test]
async fn answers_without_a_body_leave_the_connection_in_step() {
    let lab = lab();
    let mut client = lab.http1("client", "server:80");
    for _ in 0..2 {
        let head = client.exchange("HEAD /bytes/1234 HTTP/1.1\r\nHost: server\r\n\r\n").await.unwrap();
        assert_eq!((head.status, head.header("content-length")), (200, Some("1234")), "{head:?}");
        let head = client.exchange("HEAD /stream/5 HTTP/1.1\r\nHost: server\r\n\r\n").await.unwrap();
        assert_eq!((head.status, head.header("content-length")), (200, None), "{head:?}");
        let none = client.exchange(get("/status/204")).await.unwrap();
        assert_eq!((none.status, none.header("content-length"), none.header("transfer-encoding")), (204, None, None), "{none:?}");
        assert_eq!(client.exchange(get("/status/304")).await.unwrap().status, 304);
        let whole = client.exchange(get("/bytes/10")).await.unwrap();
        assert_eq!((whole.status, whole.text().as_str()), (200, "xxxxxxxxxx"));
        // An answer without a length comes in chunks.
        let stream = client.exchange(get("/stream/3?interval=1ms")).await.unwrap();
        assert_eq!(stream.header("transfer-encoding"), Some("chunked"), "{stream:?}");
        assert_eq!(stream.text(), "chunk 0\nchunk 1\nchunk 2\n");
    }
}

#[tokio::test]
async fn framing_and_trailers_pass_as_they_are() {
    let lab = lab();
    let mut server = lab.listen("server", 7001).await;
    let mut client = lab.dial("client", "raw:7001");
    client.send("POST /t HTTP/1.1\r\nHost: raw\r\nTE: trailers\r\nConnection: te\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let head = server.until("\r\n\r\n").await;
    assert_eq!((header(&head, "transfer-encoding"), header(&head, "content-length")), (Some("chunked"), None), "{head}");
    assert_eq!(header(&head, "te"), Some("trailers"), "{head}");
    // The head is there before the body: nothing is collected on the way.
    client.send("5\r\nfirst\r\n").await;
    assert_eq!(server.until("first\r\n").await, "5\r\nfirst\r\n");
    // Envoy drops trailers of HTTP/1.1 unless it is told to pass them, which Istio does not; that loses what applications say.
    client.send("0\r\nX-Sum: 17\r\n\r\n").await;
    let end = server.until("\r\n\r\n").await;
    assert_eq!(end.to_ascii_lowercase(), "0\r\nx-sum: 17\r\n\r\n");

    server.send("HTTP/1.1 200 OK\r\nTrailer: X-Total\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nanswer\r\n").await;
    let head = client.until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && header(&head, "transfer-encoding") == Some("chunked"), "{head}");
    assert_eq!(client.until("answer\r\n").await, "6\r\nanswer\r\n");
    server.send("0\r\nX-Total: 6\r\n\r\n").await;
    assert_eq!(client.until("\r\n\r\n").await.to_ascii_lowercase(), "0\r\nx-total: 6\r\n\r\n");

    // The same connections, a length this time, and a 304 that tells a length without having a body.
    client.send("PUT /l HTTP/1.1\r\nHost: raw\r\nContent-Length: 4\r\n\r\nbody").await;
    let head = server.until("\r\n\r\n").await;
    assert_eq!((header(&head, "content-length"), header(&head, "transfer-encoding")), (Some("4"), None), "{head}");
    server.until("body").await;
    server.send("HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\nETag: \"x\"\r\n\r\n").await;
    let head = client.until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 304 ") && header(&head, "content-length") == Some("99"), "{head}");
    client.send(get_raw("/last")).await;
    assert!(server.until("\r\n\r\n").await.starts_with("GET /last HTTP/1.1\r\n"));
    // Without a length and without chunks the end of the connection is the end of the answer: for the client it comes in chunks.
    server.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end").await;
    server.finish();
    let head = client.until("\r\n\r\n").await;
    assert_eq!(header(&head, "transfer-encoding"), Some("chunked"), "{head}");
    assert_eq!(client.until("0\r\n\r\n").await, "a\r\nto the end\r\n0\r\n\r\n");
}

const EXPECTING: &str = "POST /upload HTTP/1.1\r\nHost: raw\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";

#[tokio::test]
async fn the_server_accepts_a_body_by_100_continue() {
    let lab = lab();
    let mut server = lab.listen("server", 7002).await;
    let mut client = lab.dial("client", "raw:7002");
    client.send(EXPECTING).await;
    // The body has not been sent: it is the server that is asked.
    let head = server.until("\r\n\r\n").await;
    assert_eq!(header(&head, "expect"), Some("100-continue"), "{head}");
    server.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(client.until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("body").await;
    server.until("body").await;
    server.send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await;
    assert!(client.until("\r\n\r\n").await.starts_with("HTTP/1.1 201 Created\r\n"));
    // The connection goes on.
    client.send(get_raw("/next")).await;
    assert!(server.until("\r\n\r\n").await.starts_with("GET /next "));
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert!(client.until("ok").await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn the_server_refuses_a_body_before_it_is_sent() {
    let lab = lab();
    let mut server = lab.listen("server", 7003).await;
    let mut client = lab.dial("client", "raw:7003");
    client.send(EXPECTING).await;
    server.until("\r\n\r\n").await;
    server.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 7\r\n\r\ntoo big").await;
    let answer = client.until("too big").await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "the client was asked for the body: {answer}");
    // What a client sends now may be the body or a request: the connection is over, on both sides.
    assert!(client.is_cut().await);
    assert!(server.is_cut().await, "the server got a body that it had refused");
}

#[tokio::test]
async fn a_server_that_knows_no_100_gets_the_body_when_the_client_sends_it() {
    let lab = lab();
    // Over HTTP/2 to the server, which then sends no 100; in one write, as clients do that do not wait.
    let mut client = lab.http1("client", "server:81");
    let response = client.exchange(format!("{EXPECTING}body")).await.unwrap();
    let response = if response.status == 100 { client.read_response(false).await.unwrap() } else { response };
    let answer: Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!((&answer["protocol"], &answer["body"]), (&"HTTP/2".into(), &"body".into()), "{answer}");
}

#[tokio::test]
async fn http_1_0_is_refused_on_http_ports_and_opaque_on_others() {
    let lab = lab();
    for pod in ["client", "plain"] {
        let mut client = lab.http1(pod, "server:80");
        let response = client.exchange("GET / HTTP/1.0\r\nHost: server\r\n\r\n").await.unwrap();
        assert_eq!((response.status, client.is_closed_by_peer().await), (426, true), "{pod}: {response:?}");
    }
    // As Istio without PILOT_HTTP10: on a port of no declared protocol the bytes pass untouched.
    let mut server = lab.listen("server", 7301).await;
    let mut client = lab.dial("client", "raw:7301");
    client.send("GET /old HTTP/1.0\r\nX-Case: Kept\r\n\r\n").await;
    assert_eq!(server.until("\r\n\r\n").await, "GET /old HTTP/1.0\r\nX-Case: Kept\r\n\r\n");
    server.send("HTTP/1.0 200 fine\r\n\r\nold").await;
    server.finish();
    assert_eq!(client.rest().await, b"HTTP/1.0 200 fine\r\n\r\nold");
    assert!(client.over().await.success());
    assert!(server.over().await.success());
}

#[tokio::test]
async fn an_early_hint_passes_before_the_answer() {
    let lab = lab();
    let mut server = lab.listen("server", 7004).await;
    let mut client = lab.dial("client", "raw:7004");
    client.send(get_raw("/hints")).await;
    server.until("\r\n\r\n").await;
    server.send("HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n").await;
    let hint = client.until("\r\n\r\n").await;
    assert!(hint.starts_with("HTTP/1.1 103 ") && header(&hint, "link") == Some("</style.css>"), "{hint}");
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert!(client.until("ok").await.starts_with("HTTP/1.1 200 OK\r\n"));
}
