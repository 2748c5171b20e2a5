//! TCP, WebSocket, gRPC and the trace collector.

mod common;

use common::{LIMIT, config, request, start};
use futures_util::{SinkExt, StreamExt};
use lateen_echo::Config;
use lateen_observe::otlp::KeyValue;
use lateen_observe::trace::{ExportConfig, Sampler, Span, SpanKind, TraceIds, grpc_transport, span_channel};
use prost::Message;
use serde_json::json;
use std::time::SystemTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

#[tokio::test]
async fn tcp_lines_come_back_and_halves_close_apart() {
    let echo = start(Config { tcp: Some(0), tcp_banner: Some("220 ready".into()), ..config() }).await;
    let mut stream = TcpStream::connect(echo.at.tcp.expect("a port")).await.expect("connects");
    let mut banner = [0; 10];
    timeout(LIMIT, stream.read_exact(&mut banner)).await.expect("in time").expect("the banner comes first");
    assert_eq!(&banner, b"220 ready\n");
    stream.write_all(b"one\ntw").await.expect("sent");
    let mut line = [0; 4];
    timeout(LIMIT, stream.read_exact(&mut line)).await.expect("in time").expect("the first line");
    assert_eq!(&line, b"one\n");
    stream.write_all(b"o\nthree").await.expect("sent");
    stream.shutdown().await.expect("half closed");
    let mut rest = String::new();
    timeout(LIMIT, stream.read_to_string(&mut rest)).await.expect("in time").expect("the rest");
    assert_eq!(rest, "two\nthree");
    echo.stop().await;
}

#[tokio::test]
async fn websocket_messages_come_back() {
    let echo = start(config()).await;
    let stream = TcpStream::connect(echo.at.http).await.expect("connects");
    let (mut socket, response) = tokio_tungstenite::client_async("ws://echo.test/ws", stream).await.expect("a handshake");
    assert_eq!(response.status().as_u16(), 101);
    let large = "x".repeat(200_000);
    for text in ["hello", "", large.as_str()] {
        socket.send(tungstenite::Message::text(text)).await.expect("sent");
        let back = timeout(LIMIT, socket.next()).await.expect("in time").expect("a message").expect("well formed");
        assert_eq!(back.into_text().expect("text").as_str(), text);
    }
    socket.send(tungstenite::Message::binary(vec![0, 255])).await.expect("sent");
    let back = timeout(LIMIT, socket.next()).await.expect("in time").expect("a message").expect("well formed");
    assert_eq!(back, tungstenite::Message::binary(vec![0, 255]));
    // A server that stops says so, and waits for the closing handshake.
    let ended = echo.begin_stop();
    let close = timeout(LIMIT, socket.next()).await.expect("in time").expect("a message").expect("well formed");
    assert!(matches!(&close, tungstenite::Message::Close(Some(frame)) if u16::from(frame.code) == 1001), "{close:?}");
    assert!(timeout(LIMIT, socket.next()).await.expect("in time").is_none());
    timeout(LIMIT, ended).await.expect("ends in time").expect("no panic");
}

#[tokio::test]
async fn a_plain_request_to_the_websocket_is_told_what_is_wanted() {
    let echo = start(config()).await;
    let response = echo.ask(request("GET", "/ws", "")).await.expect("an answer");
    assert_eq!((response.status().as_u16(), response.headers()["upgrade"].as_bytes()), (426, &b"websocket"[..]));
    echo.stop().await;
}

/// The messages of `proto/echo.proto`, as a client generated from it has them.
#[derive(Clone, PartialEq, Message)]
struct EchoRequest {
    #[prost(string, tag = "1")]
    message: String,
    #[prost(uint32, tag = "2")]
    count: u32,
    #[prost(uint32, tag = "3")]
    interval_ms: u32,
    #[prost(uint32, tag = "4")]
    status: u32,
    #[prost(uint32, tag = "5")]
    delay_ms: u32,
}

#[derive(Clone, PartialEq, Message)]
struct EchoReply {
    #[prost(string, tag = "1")]
    message: String,
    #[prost(string, tag = "2")]
    pod: String,
    #[prost(string, tag = "4")]
    version: String,
    #[prost(map = "string, string", tag = "6")]
    headers: std::collections::HashMap<String, String>,
    #[prost(uint32, tag = "8")]
    index: u32,
}

/// `grpc.health.v1.HealthCheckRequest` and, with another field, its response.
#[derive(Clone, PartialEq, Message)]
struct Health {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct HealthStatus {
    #[prost(int32, tag = "1")]
    status: i32,
}

fn message(text: &str) -> EchoRequest {
    EchoRequest { message: text.into(), ..EchoRequest::default() }
}

async fn client(address: std::net::SocketAddr) -> Grpc<Channel> {
    let channel = Endpoint::from_shared(format!("http://{address}")).expect("a URI").connect().await.expect("connects");
    let mut client = Grpc::new(channel);
    client.ready().await.expect("ready");
    client
}

fn path(method: &'static str) -> http::uri::PathAndQuery {
    http::uri::PathAndQuery::from_static(method)
}

type Codec = ProstCodec<EchoRequest, EchoReply>;

#[tokio::test]
async fn grpc_unary_with_status_in_trailers() {
    let echo = start(Config { grpc: Some(0), ..config() }).await;
    // gRPC is served on the HTTP port too.
    for address in [echo.at.grpc.expect("a port"), echo.at.http] {
        let mut client = client(address).await;
        let mut sent = Request::new(message("hi"));
        sent.metadata_mut().insert("x-a", "1".parse().expect("ASCII"));
        let reply = client.unary(sent, path("/lateen.echo.v1.Echo/Unary"), Codec::default()).await.expect("OK");
        let reply = reply.into_inner();
        assert_eq!((reply.message.as_str(), reply.pod.as_str(), reply.version.as_str()), ("hi", "web-0", "v2"));
        assert_eq!(reply.headers["x-a"], "1");
        let sent = Request::new(EchoRequest { status: 14, ..message("no") });
        client.ready().await.expect("ready");
        let status = client.unary(sent, path("/lateen.echo.v1.Echo/Unary"), Codec::default()).await.expect_err("as asked");
        assert_eq!(status.code(), Code::Unavailable);
        client.ready().await.expect("ready");
        let status = client.unary(Request::new(message("")), path("/no.Such/Method"), Codec::default()).await;
        assert_eq!(status.expect_err("unknown").code(), Code::Unimplemented);
    }
    echo.stop().await;
}

#[tokio::test]
async fn grpc_streams() {
    let echo = start(Config { grpc: Some(0), ..config() }).await;
    let mut client = client(echo.at.grpc.expect("a port")).await;
    let sent = Request::new(EchoRequest { count: 3, status: 8, ..message("many") });
    let replies = client.server_streaming(sent, path("/lateen.echo.v1.Echo/ServerStream"), Codec::default()).await;
    let replies: Vec<_> = replies.expect("a stream").into_inner().collect().await;
    let indexes: Vec<_> = replies.iter().filter_map(|reply| Some(reply.as_ref().ok()?.index)).collect();
    assert_eq!(indexes, [0, 1, 2]);
    assert_eq!(replies[3].as_ref().expect_err("the status comes last").code(), Code::ResourceExhausted);
    client.ready().await.expect("ready");
    let sent = Request::new(futures_util::stream::iter([message("a"), message("b")]));
    let reply = client.client_streaming(sent, path("/lateen.echo.v1.Echo/ClientStream"), Codec::default()).await;
    let reply = reply.expect("OK").into_inner();
    assert_eq!((reply.message.as_str(), reply.index), ("b", 2));
    // Each message is answered before the next one is sent.
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let sent = Request::new(tokio_stream::wrappers::ReceiverStream::new(receiver));
    client.ready().await.expect("ready");
    sender.send(message("first")).await.expect("queued");
    let replies = client.streaming(sent, path("/lateen.echo.v1.Echo/BidiStream"), Codec::default()).await;
    let mut replies = replies.expect("a stream").into_inner();
    for (index, text) in ["first", "second", "third"].into_iter().enumerate() {
        let reply = timeout(LIMIT, replies.message()).await.expect("in time").expect("OK").expect("a reply");
        assert_eq!((reply.message.as_str(), reply.index as usize), (text, index));
        if let Some(next) = ["second", "third"].get(index) {
            sender.send(message(next)).await.expect("queued");
        }
    }
    drop(sender);
    assert!(timeout(LIMIT, replies.message()).await.expect("in time").expect("OK").is_none());
    echo.stop().await;
}

#[tokio::test]
async fn grpc_health_follows_readiness() {
    let echo = start(Config { grpc: Some(0), ..config() }).await;
    let mut client = client(echo.at.grpc.expect("a port")).await;
    let mut check = async |service: &str| {
        client.ready().await.expect("ready");
        let sent = Request::new(Health { service: service.into() });
        let codec = ProstCodec::<Health, HealthStatus>::default();
        client.unary(sent, path("/grpc.health.v1.Health/Check"), codec).await.map(|reply| reply.into_inner().status)
    };
    assert_eq!(check("").await.expect("OK"), 1);
    echo.order(r#"{"ready":false}"#).await;
    assert_eq!(check("lateen.echo.v1.Echo").await.expect("OK"), 2);
    assert_eq!(check("other").await.expect_err("unknown").code(), Code::NotFound);
    echo.stop().await;
}

#[tokio::test]
async fn exported_spans_are_shown() {
    let echo = start(Config { otlp: Some(0), kept_spans: 3, ..config() }).await;
    let collector = format!("http://{}", echo.at.otlp.expect("a port")).parse().expect("a URI");
    let resource = vec![KeyValue::text("service.name", "web.shop")];
    let (sender, exporter) = span_channel(ExportConfig::default(), resource, "1");
    let mut ids = TraceIds::new();
    let root = ids.continue_or_start(None, Some(true), Sampler::DEFAULT, None);
    let child = ids.continue_or_start(Some(&root), None, Sampler::DEFAULT, None);
    let mut span = Span::new(&child, Some(&root), SpanKind::Server, "web:80/*".into(), SystemTime::UNIX_EPOCH);
    span.attributes.push(KeyValue::text("http.method", "GET"));
    sender.send(Span::new(&root, None, SpanKind::Client, "out".into(), SystemTime::now()));
    sender.send(span);
    let stats = sender.clone();
    drop(sender);
    let exporting = tokio::spawn(exporter.run(grpc_transport(collector).expect("a URI")));
    let exported = || stats.stats().exported.load(std::sync::atomic::Ordering::Relaxed);
    timeout(LIMIT, async {
        while exported() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("exported in time");
    let (status, trace) = echo.json("GET", &format!("/traces/{}", root.trace_id), "").await;
    assert_eq!((status, trace["spans"].as_array().map(Vec::len)), (200, Some(2)));
    let shown = &trace["spans"][1];
    assert_eq!(shown["parent_span_id"], root.span_id.to_string());
    for (key, wanted) in [("service", json!("web.shop")), ("kind", json!("server")), ("name", json!("web:80/*"))] {
        assert_eq!(shown[key], wanted, "{key}");
    }
    assert_eq!(shown["attributes"]["http.method"], "GET");
    let (_, list) = echo.json("GET", "/traces", "").await;
    assert_eq!(list["traces"], json!([{"trace_id": root.trace_id.to_string(), "spans": 2, "services": ["web.shop"]}]));
    for _ in 0..2 {
        let other = ids.continue_or_start(None, Some(true), Sampler::DEFAULT, None);
        stats.send(Span::new(&other, None, SpanKind::Client, "out".into(), SystemTime::now()));
    }
    drop(stats);
    exporting.await.expect("no panic");
    let (_, list) = echo.json("GET", "/traces", "").await;
    let counts: Vec<_> = list["traces"].as_array().into_iter().flatten().map(|trace| trace["spans"].as_u64()).collect();
    assert_eq!(counts, [Some(1); 3], "the oldest span has made room");
    assert_eq!(echo.json("GET", "/traces/none", "").await.0, 404);
    echo.stop().await;
}
