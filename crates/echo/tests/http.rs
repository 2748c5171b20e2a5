//! What each path answers.

mod common;

use bytes::Bytes;
use common::{LIMIT, config, request, start, whole};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, timeout};

#[tokio::test]
async fn an_answer_tells_who_and_what() {
    let echo = start(config()).await;
    let mut sent = request("POST", "/v1/payments?x=1", "hello");
    sent.headers_mut().append("x-a", http::HeaderValue::from_static("1"));
    sent.headers_mut().append("x-a", http::HeaderValue::from_static("2"));
    let response = echo.ask(sent).await.expect("an answer");
    assert_eq!(
        (response.headers()["x-echo-pod"].as_bytes(), response.headers()["x-echo-version"].as_bytes()),
        (&b"web-0"[..], &b"v2"[..])
    );
    let answer: serde_json::Value = serde_json::from_slice(&whole(response).await).expect("JSON");
    for (key, wanted) in [
        ("pod", "web-0"),
        ("namespace", "shop"),
        ("version", "v2"),
        ("service_account", "web-sa"),
        ("method", "POST"),
        ("path", "/v1/payments"),
        ("query", "x=1"),
        ("authority", "echo.test"),
        ("protocol", "HTTP/1.1"),
        ("body", "hello"),
    ] {
        assert_eq!(answer[key], wanted, "{key}");
    }
    assert_eq!((&answer["headers"]["x-a"], &answer["body_length"]), (&json!("1, 2"), &json!(5)));
    assert!(answer["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{answer}");
    echo.stop().await;
}

#[tokio::test]
async fn a_large_body_is_counted_and_cut() {
    let echo = start(config()).await;
    let (_, answer) = echo.json("PUT", "/", &"x".repeat(100_000)).await;
    assert_eq!((&answer["body_length"], &answer["body_truncated"]), (&json!(100_000), &json!(true)));
    assert_eq!(answer["body"].as_str().map(str::len), Some(65_536));
    let binary = Request::builder().method("POST").uri("/").header("host", "e").body(Full::new(Bytes::from_static(b"\xff\x00")));
    let response = echo.ask(binary.expect("a request")).await.expect("an answer");
    let answer: serde_json::Value = serde_json::from_slice(&whole(response).await).expect("JSON");
    assert_eq!((&answer["body_base64"], &answer["body"]), (&json!("/wA="), &serde_json::Value::Null));
    echo.stop().await;
}

#[tokio::test]
async fn statuses_delays_and_sizes() {
    let echo = start(config()).await;
    for status in [200, 204, 304, 418, 503, 599] {
        assert_eq!(echo.status(&format!("/status/{status}")).await, status);
    }
    for wrong in
        ["/status/199", "/status/600", "/status/x", "/delay/5", "/delay/11m", "/bytes/-1", "/stream/x", "/stream/2?interval=x"]
    {
        assert_eq!(echo.status(wrong).await, 400, "{wrong}");
    }
    let begun = Instant::now();
    assert_eq!(echo.status("/delay/80ms").await, 200);
    assert!(begun.elapsed() >= Duration::from_millis(80));
    let response = echo.ask(request("GET", "/bytes/200000", "")).await.expect("an answer");
    assert_eq!(response.headers()["content-length"], "200000");
    assert_eq!(whole(response).await.len(), 200_000);
    let response = echo.ask(request("GET", "/stream/3?interval=1ms", "")).await.expect("an answer");
    assert!(!response.headers().contains_key("content-length"));
    assert_eq!(whole(response).await, "chunk 0\nchunk 1\nchunk 2\n");
    echo.stop().await;
}

#[tokio::test]
async fn http2_by_prior_knowledge_on_the_same_port() {
    let echo = start(config()).await;
    let stream = TcpStream::connect(echo.at.http).await.expect("connects");
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.expect("a handshake");
    tokio::spawn(connection);
    let sent = Request::get("http://echo.test/x").body(Full::new(Bytes::new())).expect("a request");
    let response = sender.send_request(sent).await.expect("an answer");
    let answer: serde_json::Value = serde_json::from_slice(&whole(response).await).expect("JSON");
    assert_eq!((&answer["protocol"], &answer["authority"]), (&json!("HTTP/2"), &json!("echo.test")));
    echo.stop().await;
}

#[tokio::test]
async fn keep_alive_and_100_continue() {
    let echo = start(config()).await;
    let mut stream = TcpStream::connect(echo.at.http).await.expect("connects");
    let read = async |stream: &mut TcpStream, until: &str| {
        let mut text = Vec::new();
        while !String::from_utf8_lossy(&text).contains(until) {
            assert_ne!(timeout(LIMIT, stream.read_buf(&mut text)).await.expect("in time").expect("bytes"), 0);
        }
        String::from_utf8(text).expect("text")
    };
    for _ in 0..2 {
        stream.write_all(b"GET /status/200 HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("sent");
        let answer = read(&mut stream, "\"body_length\": 0\n}").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n";
    stream.write_all(head).await.expect("sent");
    assert!(read(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 100 Continue\r\n"));
    stream.write_all(b"hi").await.expect("sent");
    assert!(read(&mut stream, "\"body\": \"hi\"").await.starts_with("HTTP/1.1 200 OK\r\n"));
    echo.stop().await;
}

#[tokio::test]
async fn a_body_and_its_trailers_are_mirrored_as_they_come() {
    let echo = start(config()).await;
    let mut stream = TcpStream::connect(echo.at.http).await.expect("connects");
    let head = "POST /mirror HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te, close\r\ntrailer: x-sum\r\n\
                transfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n";
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    // The first part is back before the rest is sent.
    while !answer.windows(5).any(|w| w == b"first") {
        assert_ne!(timeout(LIMIT, stream.read_buf(&mut answer)).await.expect("in time").expect("bytes"), 0);
    }
    stream.write_all(b"4\r\nlast\r\n0\r\nx-sum: 9\r\n\r\n").await.expect("sent");
    timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("in time").expect("bytes");
    let answer = String::from_utf8(answer).expect("text");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("4\r\nlast\r\n0\r\nx-sum: 9\r\n\r\n"), "{answer}");
    echo.stop().await;
}

#[tokio::test]
async fn faults_on_order() {
    let echo = start(config()).await;
    echo.order(r#"{"fail":503,"next":2,"path":"/v1/"}"#).await;
    assert_eq!(echo.status("/other").await, 200);
    assert_eq!([echo.status("/v1/a").await, echo.status("/v1/b").await, echo.status("/v1/c").await], [503, 503, 200]);
    echo.order(r#"{"close":"before_response","next":1}"#).await;
    assert!(echo.ask(request("GET", "/", "")).await.is_err());
    echo.order(r#"{"close":"mid_response","next":1}"#).await;
    let response = echo.ask(request("GET", "/", "")).await.expect("a head");
    assert_eq!((response.status().as_u16(), &response.headers()["content-length"]), (200, &http::HeaderValue::from_static("30")));
    assert!(response.into_body().collect().await.is_err(), "the body breaks off");
    echo.order(r#"{"delay":"60ms","next":1}"#).await;
    let begun = Instant::now();
    assert_eq!(echo.status("/").await, 200);
    assert!(begun.elapsed() >= Duration::from_millis(60));
    echo.order(r#"{"hang":true,"next":1}"#).await;
    let mut hung = echo.connect().await;
    assert!(timeout(Duration::from_millis(100), hung.send_request(request("GET", "/", ""))).await.is_err());
    assert_eq!(echo.status("/").await, 200);
    let (_, state) = echo.json("GET", "/control", "").await;
    assert_eq!((&state["faults"][0]["left"], &state["faults"][0]["taken"]), (&json!(0), &json!(1)));
    let (status, refusal) = echo.json("POST", "/control", r#"{"fial":503}"#).await;
    assert!(status == 400 && refusal["error"].as_str().is_some_and(|error| error.contains("fial")), "{refusal}");
    let (_, state) = echo.json("DELETE", "/control", "").await;
    assert_eq!((&state["faults"], &state["ready"]), (&json!([]), &json!(true)));
    drop(hung);
    echo.stop().await;
}

#[tokio::test]
async fn readiness_turns_and_faults_leave_it_alone() {
    let echo = start(config()).await;
    echo.order(r#"{"fail":500}"#).await;
    assert_eq!(echo.status("/healthz").await, 200);
    echo.order(r#"{"ready":false}"#).await;
    assert_eq!(echo.status("/healthz").await, 503);
    echo.order(r#"{"ready":true}"#).await;
    assert_eq!(echo.status("/healthz").await, 200);
    echo.stop().await;
}

#[tokio::test]
async fn calls_on_with_the_trace() {
    let (frontend, backend) = (start(config()).await, start(config()).await);
    let inner = format!("http://{}/v1/payments", backend.at.http);
    let query: String = form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("url", inner.as_str()), ("method", "POST"), ("body", "pay"), ("header", "x-canary-test: true")])
        .finish();
    let mut sent = request("GET", &format!("/call?{query}"), "");
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for (name, value) in [("traceparent", trace), ("x-request-id", "42"), ("cookie", "private")] {
        sent.headers_mut().insert(name, http::HeaderValue::from_static(value));
    }
    let response = frontend.ask(sent).await.expect("an answer");
    let answer: serde_json::Value = serde_json::from_slice(&whole(response).await).expect("JSON");
    assert_eq!((&answer["status"], &answer["headers"]["x-echo-pod"]), (&json!(200), &json!("web-0")));
    let got = &answer["body"];
    assert_eq!((&got["method"], &got["path"], &got["body"]), (&json!("POST"), &json!("/v1/payments"), &json!("pay")));
    let headers = &got["headers"];
    assert_eq!((&headers["traceparent"], &headers["x-request-id"]), (&json!(trace), &json!("42")));
    assert_eq!((&headers["x-canary-test"], headers.get("cookie")), (&json!("true"), None));
    assert!(answer["ms"].as_f64().is_some_and(|ms| ms > 0.0));
    let gone = backend.at.http;
    backend.stop().await;
    let (status, answer) = frontend.json("GET", &format!("/call?url=http://{gone}/"), "").await;
    assert!(status == 502 && answer["error"].as_str().is_some_and(|error| error.contains("refused")), "{answer}");
    assert_eq!(frontend.status("/call").await, 400);
    frontend.stop().await;
}

#[tokio::test]
async fn requests_in_flight_are_finished_before_the_end() {
    let echo = start(config()).await;
    let address = echo.at.http;
    let mut sender = echo.connect().await;
    let asked = tokio::spawn(async move { sender.send_request(request("GET", "/delay/300ms", "")).await });
    // The request is on its way once the server has counted it.
    while echo.json("GET", "/control", "").await.1["requests"] == 0 {
        tokio::task::yield_now().await;
    }
    let ended = echo.begin_stop();
    let response = asked.await.expect("no panic").expect("the answer still comes");
    assert_eq!(response.headers()["connection"], "close");
    assert_eq!(response.status().as_u16(), 200);
    whole(response).await;
    timeout(LIMIT, ended).await.expect("ends in time").expect("no panic");
    assert!(TcpStream::connect(address).await.is_err(), "nothing listens any more");
}

#[tokio::test]
async fn what_is_never_finished_is_dropped_after_the_drain() {
    let echo = start(lateen_echo::Config { drain: Duration::from_millis(50), ..config() }).await;
    let mut sender = echo.connect().await;
    let hung = tokio::spawn(async move { sender.send_request(request("GET", "/delay/9m", "")).await });
    while echo.json("GET", "/control", "").await.1["requests"] == 0 {
        tokio::task::yield_now().await;
    }
    echo.stop().await;
    hung.abort();
}
